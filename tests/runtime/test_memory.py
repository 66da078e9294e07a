"""Freed memory stays with the process, as the number of page faults shows."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

GROWING = """
import resource, torch
from equiflow import CouplingFlow, EquivariantCNF, Lattice
torch.set_num_threads(1)
{first}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(40):
    torch.ones(2**19 + 1024 * i)  # larger than all before: mapped and unmapped by default
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(first: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", GROWING.format(first=first)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a rule of glibc")
def test_temporaries_are_not_faulted_in_again():
    keep = "from equiflow.runtime.memory import keep_freed_memory; keep_freed_memory()"
    without = page_faults("")
    assert without > 10_000
    assert page_faults(keep) < 0.3 * without


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a rule of glibc")
@pytest.mark.parametrize("flow", ["EquivariantCNF", "CouplingFlow"])
def test_a_flow_that_samples_teaches_it_and_one_that_is_only_built_does_not(flow):
    built = page_faults(f"{flow}(Lattice((2, 2)))")
    assert built > 10_000
    assert page_faults(f"{flow}(Lattice((2, 2))).sample(1)") < 0.3 * built
