"""Phase space: states `(phi, p)` of a scalar field and its momentum, with the target and the prior on them.

A state is one tensor `(batch, 2, *lattice)`. `PhaseSpace` splits and joins states, `ExtendedAction` turns an
action of the field into a target of both, and `PhaseSpacePrior` is where an `ExtendedFlow` starts. For
mechanics in `oscillators.py`, the sites are degrees of freedom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.runtime.randomness import check_draw, own_rows
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.space import Space
from equiflow.theories.base.symmetry import SymmetryGroup, symmetry_on
from equiflow.theories.scalar.priors import FreeField, StandardNormal


@dataclass(frozen=True)
class PhaseSpace(Space):
    """States of a scalar field and its momentum, `(batch, 2, *lattice)`.

    Args:
        lattice: where field and momentum live.

    >>> space = PhaseSpace(Lattice((4, 6)))
    >>> space.shape
    (2, 4, 6)
    >>> phi, momentum = space.split(torch.zeros(8, 2, 4, 6))
    >>> phi.shape
    torch.Size([8, 4, 6])
    """

    kind: ClassVar[str] = "phase space"

    lattice: Lattice

    def __post_init__(self) -> None:
        check_type(self.lattice, Lattice, "lattice", "Write Lattice((16, 16)).")

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> PhaseSpace:
        """See `Space.of_shape`."""
        return cls(Lattice(tuple(shape[1:])))

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of one state, `(2, *lattice)`."""
        return (2, *self.lattice.shape)

    @property
    def sites(self) -> Lattice:
        """The lattice of field and momentum."""
        return self.lattice

    def on(self, lattice: Lattice) -> PhaseSpace:
        """See `Space.on`."""
        return PhaseSpace(lattice)

    def check(self, phi: Tensor, name: str = "state") -> Tensor:
        """See `Space.check`, with a remedy of its own for the shape."""
        if isinstance(phi, Tensor) and tuple(phi.shape[1:]) != self.shape:
            expected = ", ".join(map(str, ("batch", *self.shape)))
            raise ValueError(
                f"{name} has shape {tuple(phi.shape)}; expected ({expected}): the field and its momentum. "
                "Join them by torch.stack([phi, momentum], 1)."
            )
        return super().check(phi, name)

    def split(self, state: Tensor, name: str = "state") -> tuple[Tensor, Tensor]:
        """Return the field and the momentum of states.

        Args:
            state: `(batch, 2, *lattice)`.
            name: of the states in error messages.

        Returns:
            Field and momentum, `(batch, *lattice)` each.

        Raises:
            TypeError: if `state` is not a float32 or float64 tensor.
            ValueError: if `state` has another shape.
        """
        phi, momentum = self.check(state, name).unbind(1)
        return phi, momentum

    def join(self, phi: Tensor, momentum: Tensor) -> Tensor:
        """Return states `(batch, 2, *lattice)`.

        Args:
            phi: the field, `(batch, *lattice)`.
            momentum: its momentum, `(batch, *lattice)`.

        Returns:
            The states, `(batch, 2, *lattice)`.
        """
        return torch.stack([phi, momentum], 1)


class ExtendedAction(Action):
    """`H(phi, p) = S[phi] + sum_x p_x^2 / 2`, whose marginal density of phi is `exp(-S) / Z`.

    Averages of observables of phi are those under S, and `log Z_H = log Z_S + log_z_shift`.

    Args:
        action: S, any action of a scalar field.

    Raises:
        TypeError: if the action is not one of a scalar field.
    """

    space: PhaseSpace

    def __init__(self, action: Action) -> None:
        check_type(action, Action, "action")
        check_type(action.space, Lattice, "action.space", "Momenta are for scalar fields.")
        super().__init__(PhaseSpace(action.lattice))
        self.action = action

    @property
    def log_z_shift(self) -> float:
        """`V/2 log 2 pi`, the contribution of the momenta to `log Z`."""
        return 0.5 * self.lattice.volume * math.log(2 * math.pi)

    def forward(self, state: Tensor) -> Tensor:
        """Return `H` of each state `(batch, 2, *lattice)`, shape `(batch,)`."""
        phi, momentum = self.space.split(state)
        value: Tensor = self.action(phi) + 0.5 * momentum.square().sum(self.lattice.axes)
        return value

    def grad(self, state: Tensor) -> Tensor:
        """Return `(dS/dphi, p)`, shaped like the state."""
        phi, momentum = self.space.split(state)
        return self.space.join(self.action.grad(phi), momentum)

    def coupling_grad(self, state: Tensor, name: str) -> Tensor:
        """See `Action.coupling_grad`; the couplings are those of S."""
        return self.action.coupling_grad(self.space.split(state)[0], name)

    def initial(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """See `Action.initial`; the fields are those of S, the momenta unit Gaussians."""
        phi = self.action.initial(n, generator, device=device, dtype=dtype)
        momentum = torch.randn(phi.shape, generator=generator, device=phi.device, dtype=phi.dtype)
        return self.space.join(phi, momentum)

    def with_momenta(self, phi: Tensor, generator: torch.Generator | None, *, batch_size: int) -> Tensor:
        """Return states of fields with momenta from the target: unit Gaussians, independent of the field.

        Args:
            phi: the fields, `(batch, *lattice)`.
            generator: source of randomness, on the device of `phi`.
            batch_size: number of momenta drawn by all processes together; `phi` are the rows of this
                process, see `own_rows`.

        Returns:
            The states, `(batch, 2, *lattice)`.

        Raises:
            TypeError: if `generator` is no generator.
        """
        check_draw(generator)
        shape = (batch_size, *self.lattice.shape)
        momentum = torch.randn(shape, generator=generator, device=phi.device, dtype=phi.dtype)
        return self.space.join(phi, own_rows(momentum, generator))


class PhaseSpacePrior(Prior):
    """Independent priors of field and momentum, `r(phi, p) = r_1(phi) r_2(p)`.

    Args:
        lattice: where field and momentum live.
        position: prior of the field; by default a `FreeField` with a learnable spectrum.
        momentum: prior of the momentum; by default white noise whose spectrum can be learned.
        group: ties the default spectra; by default translations x the full point group x Z2.

    Raises:
        ValueError: if the priors live on other lattices.
    """

    space: PhaseSpace
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
        self.space = PhaseSpace(lattice)  # The group is one of the lattice: it moves both fields alike.
        self.position = FreeField(lattice, group=self.group) if position is None else position
        self.momentum = _white(self.group) if momentum is None else momentum
        # Parts with options of their own, which are no plain values.
        self._record(position=self.position, momentum=self.momentum)
        if not self.position.lattice == self.momentum.lattice == lattice:
            raise ValueError(
                f"The priors live on lattices {self.position.lattice.shape} and "
                f"{self.momentum.lattice.shape}, the states on {lattice.shape}. Build all from one Lattice."
            )

    def colour(self, noise: Tensor) -> Tensor:
        """See `Prior.colour`, on states `(batch, 2, *lattice)`."""
        phi, momentum = self.space.split(noise, "noise")
        return self.space.join(self.position.colour(phi), self.momentum.colour(momentum))

    def whiten(self, z: Tensor) -> Tensor:
        """See `Prior.whiten`; each part knows its own noise."""
        phi, momentum = self.space.split(z, "z")
        return self.space.join(self.position.whiten(phi), self.momentum.whiten(momentum))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return `log r_1(phi) + log r_2(p)`, normalised, `(batch,)`."""
        phi, momentum = self.space.split(z, "z")
        return self.position.log_prob(phi) + self.momentum.log_prob(momentum)

    def score(self, z: Tensor) -> Tensor:
        """Return `d log r / dz`, shaped like `z`."""
        phi, momentum = self.space.split(z, "z")
        return self.space.join(self.position.score(phi), self.momentum.score(momentum))

    def frequencies(self) -> Tensor:
        """Return `omega = 1 / (sigma_q sigma_p)` of each real Fourier mode, `(*lattice)`.

        The product of the widths is what canonical maps keep. For other priors than white noise and free
        fields, whose modes are not known, a TypeError is raised.
        """
        return 1 / (_widths(self.position) * _widths(self.momentum))

    def oscillators(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions and momenta of the real Fourier modes, with momenta of unit variance.

        Args:
            z: samples of the prior, `(batch, 2, *lattice)`.

        Returns:
            Positions and momenta, `(batch, *lattice)` each, in the order of `frequencies`.
        """
        phi, momentum = (self._modes(part) for part in self.space.split(z, "z"))
        width = _widths(self.momentum)
        return phi * width, momentum / width

    def _modes(self, field: Tensor) -> Tensor:
        """Return the coefficients of `cos(kx) + sin(kx)`, an orthonormal and real basis of plane waves."""
        if field.numel() == 0:  # MKL refuses an empty transform
            return field
        modes: Tensor = torch.fft.fftn(field, dim=self.space.lattice.axes, norm="ortho")
        return modes.real - modes.imag


def _widths(prior: Prior) -> Tensor:
    """Return the standard deviation of each Fourier mode of a Gaussian prior, `(*lattice)`."""
    if isinstance(prior, FreeField):
        orbits = prior.group.momentum_orbits()  # type: ignore[attr-defined]
        return prior.log_sigma.exp()[orbits.index.to(prior.device)]
    check_type(prior, StandardNormal, "prior", "Modes are known of a FreeField and of a StandardNormal.")
    return torch.ones(prior.lattice.shape, dtype=prior.dtype, device=prior.device)


def _white(group: SymmetryGroup) -> FreeField:
    """Return white noise with a spectrum that can be learned."""
    prior = FreeField(group.lattice, group=group)
    torch.nn.init.zeros_(prior.log_sigma)
    return prior
