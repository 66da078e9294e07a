"""The Hamiltonian of electrons in a harmonic trap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.particles.space import Particles


@dataclass(frozen=True)
class TrappedElectrons:
    r"""Spin-polarised electrons in a trap, `H = sum_i (-lap_i / 2 + x_i^2 / 2) + sum_{i<j} Z / |x_i - x_j|`.

    Lengths are in units of the oscillator length and energies in units of the trap's quantum. The centre of
    mass moves as a free particle in the trap, whatever Z is. (arXiv:2105.08644)

    Args:
        particles: `Particles(N, dim)`.
        Z: strength of the repulsion, >= 0; 0 leaves ideal fermions.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if Z is negative or not finite.

    >>> electrons = TrappedElectrons(Particles(2, 2), Z=2.0)
    >>> electrons.potential(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]))
    tensor([2.])
    """

    particles: Particles
    Z: float

    def __post_init__(self) -> None:
        check_type(self.particles, Particles, "particles", "Write Particles(6, dim=2).")
        check_type(self.Z, (float, int), "Z")
        if not 0 <= self.Z < math.inf:
            raise ValueError(f"Z must be finite and >= 0, got {self.Z}; the electrons repel each other.")
        object.__setattr__(self, "Z", float(self.Z))

    def trap_energy(self, x: Tensor) -> Tensor:
        """Return `sum_i x_i^2 / 2` of positions `(batch, particle, dim)`, `(batch,)`."""
        self.particles.check(x, "x")
        return 0.5 * x.square().sum((1, 2))

    def repulsion(self, x: Tensor) -> Tensor:
        """Return `sum_{i<j} Z / |x_i - x_j|` of positions `(batch, particle, dim)`, `(batch,)`."""
        self.particles.check(x, "x")
        if not self.Z:
            return x.new_zeros(len(x))
        number = self.particles.number
        i, j = torch.triu_indices(number, number, 1, device=x.device)
        distance: Tensor = (x[:, i] - x[:, j]).norm(dim=-1)
        return self.Z * distance.reciprocal().sum(-1)

    def potential(self, x: Tensor) -> Tensor:
        """Return the potential energy V of positions `(batch, particle, dim)`, `(batch,)`."""
        return self.trap_energy(x) + self.repulsion(x)

    def local_energy(self, x: Tensor, score: Tensor, laplacian: Tensor) -> Tensor:
        r"""Return `H Psi / Psi = -1/4 lap log q - 1/8 |grad log q|^2 + V` of a real state, `q = Psi^2`.

        It is constant where Psi is an eigenstate.

        Args:
            x: positions, `(batch, particle, dim)`.
            score: `grad log q`, shaped like `x`.
            laplacian: `lap log q`, `(batch,)`.

        Returns:
            The local energies, `(batch,)`.
        """
        return -0.25 * laplacian - 0.125 * score.square().sum((1, 2)) + self.potential(x)
