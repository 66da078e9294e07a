"""The extended space of a field and its momentum: states `(batch, 2, *lattice)`, target, prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.symmetry import SymmetryGroup, symmetry_on
from equiflow.theories.scalar.priors import FreeField


def split_state(lattice: Lattice, state: Tensor, name: str = "state") -> tuple[Tensor, Tensor]:
    """Field and momentum, `(batch, *lattice)` each, of a state `(batch, 2, *lattice)`.

    Raises:
        ValueError: if the state has another shape.
    """
    if not isinstance(state, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(state).__name__}.")
    if state.dim() != lattice.dim + 2 or tuple(state.shape[1:]) != (2, *lattice.shape):
        expected = ", ".join(map(str, ("batch", 2, *lattice.shape)))
        raise ValueError(
            f"{name} has shape {tuple(state.shape)}; expected ({expected}): the field and its momentum. "
            "Join them by torch.stack([phi, momentum], 1)."
        )
    phi, momentum = state.unbind(1)
    return phi, momentum


class ExtendedAction(Action):
    """`H(phi, p) = S[phi] + sum_x p_x^2 / 2`, whose marginal in phi is `exp(-S) / Z`.

    Averages of observables of phi are those of S; `log Z_H = log Z_S + log_z_shift`.

    Args:
        action: S, any action of a scalar field.
    """

    def __init__(self, action: Action) -> None:
        check_type(action.space, Lattice, "The space of the action", "Momenta are for scalar fields.")
        super().__init__(action.lattice)
        self.action = action

    @property
    def log_z_shift(self) -> float:
        """`V/2 log 2 pi`, what the momenta add to `log Z`."""
        return 0.5 * self.lattice.volume * math.log(2 * math.pi)

    def forward(self, state: Tensor) -> Tensor:
        """`H` of each state `(batch, 2, *lattice)`, shape `(batch,)`."""
        phi, momentum = split_state(self.lattice, state)
        return self.action(phi) + 0.5 * momentum.square().sum(self.lattice.axes)

    def grad(self, state: Tensor) -> Tensor:
        """`(dS/dphi, p)`, shaped like the state."""
        phi, momentum = split_state(self.lattice, state)
        return torch.stack([self.action.grad(phi), momentum], 1)


class PhaseSpacePrior(Prior):
    """Independent priors for field and momentum, `q(phi, p) = q_1(phi) q_2(p)`.

    Args:
        position: prior of the field; by default a `FreeField` with a learnable spectrum.
        momentum: prior of the momentum; by default white noise whose spectrum can be learned.
        group: ties the default spectra.
    """

    group: SymmetryGroup

    def __init__(
        self,
        lattice: Lattice,
        *,
        position: Prior | None = None,
        momentum: Prior | None = None,
        group: SymmetryGroup | None = None,
    ) -> None:
        super().__init__(lattice, group=symmetry_on(lattice, group, "prior"))
        self.position = FreeField(lattice, group=self.group) if position is None else position
        self.momentum = _white(self.group) if momentum is None else momentum
        if not self.position.lattice == self.momentum.lattice == lattice:
            raise ValueError(
                f"The priors live on lattices {self.position.lattice.shape} and "
                f"{self.momentum.lattice.shape}, the states on {lattice.shape}. Build all from one Lattice."
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one state, `(2, *lattice)`."""
        return (2, *self.lattice.shape)

    def colour(self, noise: Tensor) -> Tensor:
        """See `Prior.colour`, on states `(batch, 2, *lattice)`."""
        phi, momentum = split_state(self.lattice, noise, "noise")
        return torch.stack([self.position.colour(phi), self.momentum.colour(momentum)], 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """`log q_1(phi) + log q_2(p)`, absolute, `(batch,)`."""
        phi, momentum = split_state(self.lattice, z, "z")
        return self.position.log_prob(phi) + self.momentum.log_prob(momentum)

    def score(self, z: Tensor) -> Tensor:
        """`d log q / dz`, shaped like `z`."""
        phi, momentum = split_state(self.lattice, z, "z")
        return torch.stack([self.position.score(phi), self.momentum.score(momentum)], 1)


def _white(group: SymmetryGroup) -> FreeField:
    prior = FreeField(group.lattice, group=group)
    torch.nn.init.zeros_(prior.log_sigma)
    return prior
