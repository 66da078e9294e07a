"""Rational-quadratic splines from zuko, which is imported only here and only when a spline is evaluated."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from equiflow.nn.couplings.site_maps import SiteMap
from equiflow.runtime.checks import check_count, check_type

#: Keeps bins and slopes at knots within a factor 10 of each other, for any output of the network. With zuko's
#: own default (1e-3, once 1e-4) a spline gets as flat as 1e-8: inverses to 1e-8 in float64, NaN in float32.
MIN_SLOPE = 0.1


class SplineMap(SiteMap):
    """Monotonic rational-quadratic spline on `[-bound, bound]`, the identity outside (arXiv:1906.04032).

    `x -> -x` reverses the order of bins and knots. Even parameters therefore enter symmetrically and odd ones
    antisymmetrically, which makes the spline commute with the sign.

    Args:
        n_bins: number of bins, >= 2.
        bound: where the spline turns into the identity, with a continuous slope.

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
        """Return zuko's spline for the given parameters."""
        from zuko.transforms import MonotonicRQSTransform

        evens = even.movedim(1, -1).split([(n + 1) // 2 for n in self._knots], -1)
        odds = odd.movedim(1, -1).split([n // 2 for n in self._knots], -1)
        return MonotonicRQSTransform(*map(_unfolded, evens, odds), bound=self.bound, slope=MIN_SLOPE)


def _unfolded(symmetric: Tensor, antisymmetric: Tensor) -> Tensor:
    """Return `(..., n)` values from `(n + 1) // 2` symmetric and `n // 2` antisymmetric parts."""
    half = antisymmetric.shape[-1]
    left, middle = symmetric[..., :half], symmetric[..., half:]
    return torch.cat([left + antisymmetric, middle, (left - antisymmetric).flip(-1)], -1)
