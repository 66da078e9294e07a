from __future__ import annotations

from collections.abc import Iterator

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
    # No shrinking: the lattices are tiny as it is, and solving flows again and again takes minutes.
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile("laws")

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


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
