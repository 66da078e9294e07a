"""What holds for every test: float64, one thread, and random numbers that follow from the test's name."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings

# The lattices are tiny: one thread a process, and a process a core, is fastest.
torch.set_num_threads(1)

settings.register_profile(
    "laws",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20,
    print_blob=False,
    # No shrinking: the lattices are tiny anyway, and solving flows again and again takes minutes.
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile("laws")

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def seed_all(name: str) -> None:
    """Seed every global generator from a name, which gives the same numbers in any order of the tests."""
    seed = zlib.crc32(name.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Iterator[None]:
    """Seed shared fixtures too: they are made by whichever test comes first."""
    if fixturedef.scope != "function":
        seed_all(f"{fixturedef.baseid}::{fixturedef.argname}[{request.param_index}]")
    return (yield)


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """Seed the global generators from the test's name."""
    seed_all(request.node.nodeid)


@pytest.fixture(autouse=True, scope="module")
def _float64() -> Iterator[None]:
    """Laws are tested in float64; the user's default dtype is given back."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)
