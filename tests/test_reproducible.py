"""Random numbers of a test follow from its name alone: the suite gives the same answer in any order."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import seed_all


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
