"""Freed memory stays with the process, as the number of page faults shows."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a rule of glibc")

GROWING = """
import resource, torch
torch.set_num_threads(1)
{first}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(40):
    torch.ones(2**19 + 1024 * i)  # larger than all before: mapped and unmapped by default
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
SAMPLING = """
import resource, torch
from equiflow import HMC, Lattice, Phi4
torch.set_num_threads(1)
hmc = HMC(Phi4(Lattice((16, 16)), m2=-4.0, lam=5.0), trajectory_length=0.2, step_size=0.1)
def faults(thin):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    hmc.sample(1, n_chains=1024, n_thermalisation=0, thin=thin)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(2)
print(faults(8))  # one sample is kept whatever the number of trajectories
"""
#: a threshold that is given does not grow
THRESHOLD_OF_GLIBC = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def printed(code: str, **environment: str) -> int:
    environment = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return int(done.stdout)


@cache
def page_faults(first: str) -> int:
    return printed(GROWING.format(first=first))


def test_temporaries_are_not_faulted_in_again():
    without = page_faults("")
    assert without > 10_000
    assert page_faults("import equiflow") < 0.3 * without


# Whatever is imported from the package, its root is imported first.
@pytest.mark.parametrize("part", ["samplers", "runtime.memory"])
def test_every_part_of_the_package_teaches_it(part):
    assert page_faults(f"import equiflow.{part}") < 0.3 * page_faults("")


def test_hybrid_monte_carlo_without_a_flow_faults_nothing_in_again():
    without = printed(SAMPLING, EQUIFLOW_FUSED="0", **THRESHOLD_OF_GLIBC)
    assert without > 50_000
    assert printed(SAMPLING, EQUIFLOW_FUSED="0") < 0.2 * without
