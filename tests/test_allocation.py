"""Freed memory stays with the process: counted in page faults, not in seconds."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

EVALUATIONS = """
import resource, torch
from equiflow import EquivariantCNF, Lattice, OrbitConvField
torch.set_num_threads(1)
{first}
field, phi = OrbitConvField(Lattice((64, 64))), torch.randn(8, 64, 64)

@torch.no_grad()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        field.velocity_and_divergence(phi, 0.3)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def page_faults(first: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", EVALUATIONS.format(first=first)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about the C library's own rule")
def test_temporaries_are_not_faulted_in_again():
    without = page_faults("")
    lesson = "from equiflow.allocation import keep_freed_memory; keep_freed_memory()"
    if without < 1000:
        pytest.skip("this C library keeps freed memory anyway")
    assert page_faults(lesson) < 0.1 * without
    assert page_faults(f"{lesson}; keep_freed_memory()") < 0.1 * without


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about the C library's own rule")
def test_a_flow_teaches_it():
    assert page_faults("EquivariantCNF(Lattice((2, 2)))") < 1000
