"""Rational-quadratic splines, by way of zuko. The only import of zuko, when a spline is made."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from equiflow.nn.couplings.affine import SiteMap
from equiflow.runtime.checks import check_count, check_type

#: Bounds bins and knot slopes to a factor 10, whatever the network says. zuko's own default (1e-3, once 1e-4)
#: lets a spline get as flat as 1e-8: inverses to 1e-8 in float64, NaN in float32.
MIN_SLOPE = 0.1


class SplineMap(SiteMap):
    """Monotonic rational-quadratic spline on `[-bound, bound]`, the identity outside (arXiv:1906.04032).

    `x -> -x` reverses the order of bins and knots. So what is even enters them symmetrically, what is
    odd antisymmetrically, and with such parameters the spline commutes with the sign.

    Args:
        n_bins: number of bins, >= 2.
        bound: where the spline goes over into the identity, with a continuous slope.

    Raises:
        ImportError: if zuko is not installed.
        ValueError: if there are fewer than two bins or the bound is not positive and finite.
    """

    def __init__(self, *, n_bins: int = 8, bound: float = 5.0) -> None:
        if find_spec("zuko") is None:
            raise ImportError("SplineMap needs zuko; install it by pip install '.[splines]'.")
        self.n_bins = check_count(n_bins, "n_bins", minimum=2)
        check_type(bound, (float, int), "bound")
        if not (bound > 0 and math.isfinite(bound)):
            raise ValueError(f"A spline needs a positive, finite bound; got {bound}. Use 5.0.")
        self.bound = float(bound)
        self._knots = (n_bins, n_bins, n_bins - 1)  # widths, heights, slopes at the inner knots
        self.n_even = sum((n + 1) // 2 for n in self._knots)
        self.n_odd = sum(n // 2 for n in self._knots)

    def forward(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """See `SiteMap.forward`."""
        return self._spline(even, odd).call_and_ladj(x)

    def inverse(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """See `SiteMap.inverse`."""
        spline = self._spline(even, odd)
        before = spline.inv(x)
        return before, -spline.call_and_ladj(before)[1]

    def config(self) -> dict[str, object]:
        """See `SiteMap.config`."""
        return {"n_bins": self.n_bins, "bound": self.bound}

    def _spline(self, even: Tensor, odd: Tensor) -> Any:
        from zuko.transforms import MonotonicRQSTransform

        evens = even.movedim(1, -1).split([(n + 1) // 2 for n in self._knots], -1)
        odds = odd.movedim(1, -1).split([n // 2 for n in self._knots], -1)
        return MonotonicRQSTransform(*map(_unfolded, evens, odds), bound=self.bound, slope=MIN_SLOPE)


def _unfolded(symmetric: Tensor, antisymmetric: Tensor) -> Tensor:
    """`(..., n)` values from their `(n + 1) // 2` symmetric and `n // 2` antisymmetric parts."""
    half = antisymmetric.shape[-1]
    left, middle = symmetric[..., :half], symmetric[..., half:]
    return torch.cat([left + antisymmetric, middle, (left - antisymmetric).flip(-1)], -1)
