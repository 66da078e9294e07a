"""Mechanics in thermal equilibrium: the target `exp(-beta H)`, and the oscillators that a flow starts from.

The sites of a lattice are degrees of freedom. States are `(batch, 2, *lattice)`, see `PhaseSpace`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from equiflow.flows.phase_space import PhaseSpace
from equiflow.runtime.checks import check_positive, check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior


class Hamiltonian(Action):
    r"""`beta H(q, p)` with `H = V(q) + sum_k p_k^2 / 2`, the target of a `CanonicalFlow`.

    All masses are one. For other masses m take `sqrt(m) q` and `p / sqrt(m)`, a canonical change of units.
    The positions have the density `exp(-beta V)`.

    Args:
        potential: V, any action of a scalar field, such as `HarmonicChain(Lattice((32,)))`.
        beta: inverse temperature.

    Raises:
        TypeError: if the potential is not an action of a scalar field, or beta no number.
        ValueError: if beta is not positive and finite.
    """

    space: PhaseSpace

    def __init__(self, potential: Action, *, beta: float = 1.0) -> None:
        check_type(potential, Action, "potential")
        check_type(potential.space, Lattice, "potential.space", "Momenta are for scalar fields.")
        super().__init__(PhaseSpace(potential.lattice))
        self.potential = potential
        self.beta = check_positive(beta, "beta")

    def forward(self, state: Tensor) -> Tensor:
        """Return `beta H` of each state `(batch, 2, *lattice)`, shape `(batch,)`."""
        q, p = self.space.split(state)
        value: Tensor = self.potential(q) + 0.5 * p.square().sum(self.lattice.axes)
        return self.beta * value

    def grad(self, state: Tensor) -> Tensor:
        """Return `beta (dV/dq, p)`, shaped like the state."""
        q, p = self.space.split(state)
        return self.beta * self.space.join(self.potential.grad(q), p)

    def initial(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """See `Action.initial`; the positions are those of the potential, the momenta thermal."""
        q = self.potential.initial(n, generator, device=device, dtype=dtype)
        p = torch.randn(q.shape, generator=generator, device=q.device, dtype=q.dtype)
        return self.space.join(q, p / math.sqrt(self.beta))

    def extra_repr(self) -> str:
        """Return the temperature, for `repr`."""
        return f"beta={self.beta}"


class Oscillators(Prior):
    r"""Independent oscillators in equilibrium, with the energy `K = sum_k (P_k^2 + omega_k^2 Q_k^2) / 2`.

    `r(Q, P) = prod_k (beta omega_k / 2 pi) exp(-beta K)`.

    The frequencies are learned. They start evenly spread on a logarithmic scale: among equal ones no
    direction would be distinguished, and training could not begin to tell modes apart.

    Args:
        lattice: its sites are the oscillators.
        beta: inverse temperature, that of the target.
        slowest: initial frequency of the first oscillator.
        fastest: initial frequency of the last one.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a number is not positive and finite.
    """

    space: PhaseSpace

    def __init__(
        self, lattice: Lattice, *, beta: float = 1.0, slowest: float = 0.3, fastest: float = 2.0
    ) -> None:
        space = PhaseSpace(lattice)
        super().__init__(space, group=NoSymmetry(space))
        self.beta = check_positive(beta, "beta")
        low, high = (math.log(check_positive(w, n)) for w, n in ((slowest, "slowest"), (fastest, "fastest")))
        start = torch.linspace(low, high, lattice.volume).reshape(lattice.shape)
        self.log_frequency = nn.Parameter(start.to(torch.get_default_dtype()))

    def frequencies(self) -> Tensor:
        """Return omega of each oscillator, `(*lattice)`."""
        return self.log_frequency.exp()

    def oscillators(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions and momenta of states `(batch, 2, *lattice)`, `(batch, *lattice)` each."""
        return self.space.split(z, "z")

    def colour(self, noise: Tensor) -> Tensor:
        """Return `(n_Q / omega, n_P) / sqrt(beta)`, shaped like the noise."""
        q, p = self.space.split(noise, "noise")
        return self.space.join(q / self.frequencies(), p) / math.sqrt(self.beta)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return `sum_k log(beta omega_k / 2 pi) - beta (P_k^2 + omega_k^2 Q_k^2) / 2`, `(batch,)`."""
        quadratic = 0.5 * (z * self.score(z)).sum(self.space.event_axes)
        return (
            quadratic
            + self.log_frequency.sum()
            + self.space.lattice.volume * math.log(self.beta / (2 * math.pi))
        )

    def score(self, z: Tensor) -> Tensor:
        """Return `-beta (omega^2 Q, P)`, shaped like `z`."""
        q, p = self.space.split(z, "z")
        return -self.beta * self.space.join(self.frequencies().square() * q, p)


@dataclass(frozen=True)
class NoSymmetry(Group):
    """The group of nothing but the identity.

    Args:
        states: where it acts.
    """

    states: PhaseSpace

    @property
    def space(self) -> PhaseSpace:
        """The phase space."""
        return self.states

    def generators(self) -> dict[str, Element]:
        """Return none."""
        return {}

    def random_element(self, generator: torch.Generator | None = None) -> Element:
        """Return the identity."""
        return Identity()

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {}

    def __str__(self) -> str:
        return "no symmetry"


@dataclass(frozen=True)
class Identity:
    """The element of every group that changes nothing."""

    def __call__(self, phi: Tensor) -> Tensor:
        """Return the configurations themselves."""
        return phi

    def __str__(self) -> str:
        return "identity"
