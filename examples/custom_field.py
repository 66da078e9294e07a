"""A vector field of your own: write one method, let the harness find the mistakes, train it.

The field mixes each site with its neighbours by the lattice Laplacian,
`v = a(t) phi + b(t) Laplacian(phi) + c(t) tanh(phi)`. Its divergence is a sum over sites. The second version
has two planted mistakes: the divergence lacks the diagonal of the Laplacian, and one of the four neighbours
is missing.
"""

import argparse

import torch

from equiflow import EquivariantCNF, Lattice, Phi4, SymmetryGroup, VectorField, fit, importance_sample
from equiflow.testing import check_flow, check_vector_field, randomise


class DiffusionField(VectorField):
    """`v = a phi + b Laplacian(phi) + c tanh(phi)`, with a, b, c linear in flow time."""

    def __init__(self, lattice: Lattice) -> None:
        super().__init__(SymmetryGroup(lattice))
        self.weight = torch.nn.Parameter(torch.zeros(3, 2))

    def laplacian(self, phi: torch.Tensor) -> torch.Tensor:
        axes = self.lattice.axes
        return sum(phi.roll(1, mu) + phi.roll(-1, mu) - 2 * phi for mu in axes)

    def velocity_and_divergence(self, phi: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
        a, b, c = self.weight[:, 0] + self.weight[:, 1] * t
        velocity = a * phi + b * self.laplacian(phi) + c * phi.tanh()
        diagonal = a - 2 * self.lattice.dim * b + c * (1 - phi.tanh().square())
        return velocity, diagonal.sum(self.lattice.axes)


class MistakenField(DiffusionField):
    """The same field without one neighbour, and without the Laplacian in the divergence."""

    def laplacian(self, phi: torch.Tensor) -> torch.Tensor:
        return super().laplacian(phi) - phi.roll(1, -1)

    def velocity_and_divergence(self, phi: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
        velocity, divergence = super().velocity_and_divergence(phi, t)
        b = self.weight[1, 0] + self.weight[1, 1] * t
        return velocity, divergence + 2 * self.lattice.dim * self.lattice.volume * b


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps")
    steps = parser.parse_args().steps

    lattice = Lattice((4, 4))
    for kind in (DiffusionField, MistakenField):
        field = kind(lattice).double()
        randomise(field)  # zero weights obey every law
        print(check_vector_field(field, lattice), end="\n\n")

    flow = EquivariantCNF(lattice, vector_field=DiffusionField(lattice))
    action = Phi4(lattice, m2=-4.0, lam=8.0)
    fit(flow, action, steps=steps)
    print(check_flow(flow), end="\n\n")
    print("reverse ESS", importance_sample(flow, action, 4096).effective_sample_size())


if __name__ == "__main__":
    main()
