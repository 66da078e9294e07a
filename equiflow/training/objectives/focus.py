"""Where couplings are drawn while a conditional flow trains: more of them where log w varies most."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiflow.theories.base.coupling_ranges import ActionFamily

#: candidates for each coupling that is drawn
CANDIDATES = 64
#: factor on the weight of what was measured one check before
MEMORY = 0.8
#: keeps the fit finite before much is measured
RIDGE = 1e-2


class Focus:
    r"""A density of couplings, `p(c) ~ var(c)^power`, where `var` is the variance of log w at c.

    The logarithm of the variance is a polynomial of degree 2 in the couplings, fitted to measurements on the
    way, of which earlier ones are forgotten little by little. Before the first one the density is constant.

    Args:
        power: 0 for a constant density; 1 draws as many couplings as there is variance.
    """

    def __init__(self, power: float) -> None:
        self.power = power
        self._products: Tensor | None = None
        self._values: Tensor | None = None

    def learn(self, family: ActionFamily, points: list[dict[str, float]], variance: Tensor) -> None:
        """Take in measurements.

        Args:
            family: whose couplings these are.
            points: the couplings.
            variance: of log w at each of them, `(coupling,)`; those that are not finite are left out.
        """
        is_sound = variance.isfinite() & (variance > 0)
        basis = _polynomials(family, points)[is_sound]
        values = basis.T @ variance[is_sound].double().log()
        products = basis.T @ basis
        if self._products is not None and self._values is not None:
            products, values = products + MEMORY * self._products, values + MEMORY * self._values
        self._products, self._values = products, values

    def log_variance(self, family: ActionFamily, points: list[dict[str, float]]) -> Tensor:
        """Return the logarithm of the variance of log w at couplings, `(coupling,)`.

        Args:
            family: whose couplings these are.
            points: the couplings.

        Returns:
            The values of the fit; 0 before anything was measured.
        """
        basis = _polynomials(family, points)
        if self._products is None or self._values is None:
            return basis.new_zeros(len(points))
        ridge = RIDGE * torch.eye(basis.shape[1], dtype=torch.float64)
        return basis @ torch.linalg.solve(self._products + ridge, self._values)

    def draw(
        self, family: ActionFamily, n_points: int, generator: torch.Generator | None
    ) -> list[dict[str, float]]:
        """Draw couplings with this density, by systematic resampling of candidates that fill the ranges.

        Args:
            family: whose couplings are drawn.
            n_points: how many.
            generator: source of randomness.

        Returns:
            The couplings at each point.
        """
        if not self.power:
            return family.draw(n_points, generator)
        pool = family.draw(CANDIDATES * n_points, generator)
        density = (self.power * self.log_variance(family, pool)).softmax(0)
        device = "cpu" if generator is None else generator.device
        shift = torch.rand(1, generator=generator, dtype=torch.float64, device=device).cpu()
        levels = (shift + torch.arange(n_points)) / n_points
        chosen = torch.searchsorted(density.cumsum(0), levels).clamp(max=len(pool) - 1)
        return [pool[index] for index in chosen.tolist()]

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"products": self._products, "values": self._values}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._products, self._values = state["products"], state["values"]


def _polynomials(family: ActionFamily, points: list[dict[str, float]]) -> Tensor:
    """Return the products of at most two scaled couplings at each point, `(coupling, k)`."""
    x = torch.tensor([family.couplings.normalised(point) for point in points], dtype=torch.float64)
    squares = [x[:, i] * x[:, j] for i in range(x.shape[1]) for j in range(i + 1)]
    return torch.stack([torch.ones_like(x[:, 0]), *x.T, *squares], 1)
