"""The action of classical charges in a harmonic trap."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.runtime.checks import check_positive, check_type
from equiflow.theories.base.action import Action
from equiflow.theories.particles.space import Particles


class CoulombGas(Action):
    r"""Classical charges in a trap, `S = beta H` with `H = sum_{i<j} 1 / |x_i - x_j| + sum_i x_i^2 / 2`.

    `Z = int d^{Nd}x exp(-beta H)` counts particles as distinguishable and has no momenta. The centre of
    mass X decouples: it is Gaussian with variance `1 / (beta N)` along each axis. `d log Z / d beta = -<H>`.

    Args:
        particles: `Particles(N, dim)`.
        beta: inverse temperature, > 0.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if beta is not positive and finite.

    >>> gas = CoulombGas(Particles(2, 3), beta=2.0)
    >>> gas(torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]]))
    tensor([3.])
    """

    space: Particles

    def __init__(self, particles: Particles, *, beta: float) -> None:
        check_type(particles, Particles, "particles", "Write Particles(6, dim=2).")
        super().__init__(particles)
        self.beta = check_positive(beta, "beta")

    def forward(self, x: Tensor) -> Tensor:
        """Return `beta H`, `(batch,)`; infinite where two particles meet."""
        return self.beta * self.hamiltonian(x)

    def hamiltonian(self, x: Tensor) -> Tensor:
        """Return the energy `H` of positions `(batch, particle, dim)`, `(batch,)`."""
        self.space.check(x, "x")
        i, j = self._pairs(x)
        repulsion: Tensor = 1 / (x[:, i] - x[:, j]).norm(dim=-1)
        return repulsion.sum(-1) + 0.5 * x.square().sum((-2, -1))

    def grad(self, x: Tensor) -> Tensor:
        """Return `beta (x_i - sum_j (x_i - x_j) / |x_i - x_j|^3)`, shaped like `x`."""
        self.space.check(x, "x")
        i, j = self._pairs(x)
        difference = x[:, i] - x[:, j]
        push = difference / difference.norm(dim=-1, keepdim=True) ** 3
        return self.beta * x.index_add(1, i, -push).index_add(1, j, push)

    def coupling_grad(self, x: Tensor, name: str) -> Tensor:
        """See `Action.coupling_grad`: `dS/dbeta = H`."""
        if name != "beta":
            raise ValueError(f"{type(self).__name__} has the coupling beta, not {name!r}.")
        return self.hamiltonian(x)

    def extra_repr(self) -> str:
        """Return shape and coupling, for `repr`."""
        return f"shape={self.space.shape}, beta={self.beta}"

    def _pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels `i < j` of all pairs of particles."""
        i, j = torch.triu_indices(self.space.number, self.space.number, 1, device=x.device)
        return i, j
