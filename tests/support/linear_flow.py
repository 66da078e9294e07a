"""The linear field `v = c phi`, for which Euler steps have every number in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equiflow import Action, EquivariantCNF, Lattice, Solver, StandardNormal, SymmetryGroup, VectorField

LATTICE = Lattice((2, 3))
V = 6


class Linear(VectorField):
    """`v = c phi`, with a divergence that can be wrong by a constant.

    Args:
        rate: c, the only weight.
        excess: added to the true divergence `c V`.
    """

    def __init__(self, rate: float, *, excess: float = 0.0) -> None:
        super().__init__(SymmetryGroup(LATTICE))
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))
        self.excess = excess

    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        divergence = self.rate * V + self.excess
        return self.rate * phi, divergence.expand(len(phi))


class Gaussian(Action):
    """`S = sum_x phi^2 / 2`, with `log Z = V/2 log 2 pi`."""

    def __init__(self) -> None:
        super().__init__(LATTICE)

    def forward(self, phi: Tensor) -> Tensor:
        return 0.5 * phi.square().sum((1, 2))


def linear_flow(rate: float, steps: int, *, excess: float = 0.0) -> EquivariantCNF:
    """Return the flow of `v = c phi` by Euler steps from white noise, in float64.

    It stretches: `phi = (1 + c/N)^N z` and `log_det = c V`.
    """
    field = Linear(rate, excess=excess)
    solver = Solver("euler", steps=steps)
    return EquivariantCNF(LATTICE, vector_field=field, prior=StandardNormal(LATTICE), solver=solver).double()
