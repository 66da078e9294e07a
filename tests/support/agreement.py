"""Results with fused kernels beside those without."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor

from equiflow import fused

Results = TypeVar("Results")


def both(call: Callable[[], Results]) -> tuple[Results, Results]:
    """Return the results of a call with kernels and without."""
    with fused.switched(True):
        one = call()
    with fused.switched(False):
        return one, call()


def assert_close(one: Iterable[Tensor], other: Iterable[Tensor], tolerance: float = 1e-12) -> None:
    """Assert that tensors agree in shape, dtype and, relative to the largest value, in all values."""
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        scale = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
        assert float((a - b).detach().abs().max() if b.numel() else 0) < tolerance * scale
