"""Random numbers of a test follow from its name alone, and results from their seeds alone, in any order."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import seed_all
from tests.support.seeded_results import RESULTS, digest, digests

ROOT = Path(__file__).parents[1]


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.fixture(scope="module")
def shared() -> float:
    return float(torch.rand(()))


def test_a_test_starts_from_the_seed_of_its_name(request):
    found = drawn()
    torch.rand(7)  # whatever a test draws changes nothing for the next one
    seed_all(request.node.nodeid)
    assert drawn() == found


def test_another_test_gets_other_numbers(request):
    found = drawn()
    seed_all(request.node.nodeid + "'")
    assert drawn() != found


def test_a_shared_fixture_does_not_depend_on_who_asks_first(shared, request):
    seed_all("tests/test_reproducible.py::shared[0]")
    assert shared == float(torch.rand(()))


@given(st.integers(0, 1))
def test_laws_are_seeded_as_well(bit):
    assert len({bit, *drawn()}) == 4


def in_a_process(names: list[str], seed: int) -> dict[str, str]:
    """Return the digests of results that another process computes in this order."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.seeded_results", str(seed), *names]
    # The order of sets, and with it of whatever is built from one, differs between the processes.
    environment = os.environ | {"PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.filterwarnings("ignore")  # tiny samples have large errors, and say so
def test_results_are_the_same_numbers_in_any_order():
    names = [name for name in RESULTS if name not in ("fit, default", "tuned solver")]  # the dearest
    here = digests(names)
    torch.rand(11)  # global randomness goes on, which no result may notice
    assert digests(names[::-2]).items() <= here.items()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_results_are_the_same_numbers_in_any_order_and_in_any_process():
    names = list(RESULTS)
    shuffled = random.Random(3).sample(names, len(names))
    here = digests(names)
    torch.rand(11)  # global randomness goes on, which no result may notice
    assert digests(shuffled[: len(names) // 2]).items() <= here.items()
    elsewhere = in_a_process(shuffled[::-1], seed=4)
    assert [name for name in names if here[name] != elsewhere[name]] == []
    assert len(set(here.values())) == len(names)


def test_a_digest_sees_every_bit():
    one = {"a": [torch.tensor([1.0]), 0.5, "x"]}
    assert digest(one) == digest({"a": (torch.tensor([1.0]), 0.5, "x")})
    for other in (
        {"a": [torch.tensor([1.0]).nextafter(torch.tensor(2.0)), 0.5, "x"]},
        {"a": [torch.tensor([1.0], dtype=torch.float32), 0.5, "x"]},
        {"a": [torch.tensor([1.0]), np.nextafter(0.5, 1.0).item(), "x"]},
        {"b": [torch.tensor([1.0]), 0.5, "x"]},
    ):
        assert digest(other) != digest(one)
