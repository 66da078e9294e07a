"""The standard observables of a field on a lattice, scalar or with several components.

`LatticeFields` says what is averaged over configurations and which quantities are computed from the averages;
`measure` estimates them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from equiflow.analysis.averages import Average, Observable
from equiflow.analysis.correlators import effective_mass, low_momentum, second_moment_length
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar import observables


@dataclass(frozen=True)
class LatticeFields:
    """Averages of fields `(batch, *lattice)` or `(batch, component, *lattice)`, and what follows from them.

    All methods that take phi compute in float64. Products of several components are scalar products. See
    `Measurements` for the definitions of `C(t)` and `G(x)`.

    Attributes:
        lattice: where the fields live.
        action: of the action density; None sets that to 0.
    """

    lattice: Lattice
    action: Action | None = None

    def moments(self, phi: Tensor) -> Tensor:
        """Return `|M|, M_1, |M|^2, |M|^2 M_1, |M|^4` with `M = mean_x phi_x`, `(batch, 5)`."""
        phi = self._with_components(phi)
        m = observables.magnetisation(phi.flatten(0, 1)).view(phi.shape[:2])
        length, first = torch.linalg.vector_norm(m, dim=1), m[:, 0]
        return torch.stack([length, first, length**2, length**2 * first, length**4], 1)

    def phi_squared(self, phi: Tensor) -> Tensor:
        """Return `mean_x |phi_x|^2`, `(batch,)`."""
        return self._summed(observables.phi_squared, phi)

    def phi_fourth(self, phi: Tensor) -> Tensor:
        """Return `mean_x |phi_x|^4`, `(batch,)`."""
        return self._with_components(phi).square().sum(1).square().flatten(1).mean(1)

    def nearest_neighbour(self, phi: Tensor) -> Tensor:
        """Return the mean over x and mu of `phi_x . phi_{x+mu}`, `(batch,)`."""
        return self._summed(observables.nearest_neighbour, phi)

    def action_density(self, phi: Tensor) -> Tensor:
        """Return `S[phi] / V`, `(batch,)`, in the dtype of phi; 0 without an action."""
        # Zeros instead of no column: not a bit of the other results depends on whether there is an action.
        if self.action is None:
            return phi.new_zeros(len(phi))
        return observables.action_density(phi, self.action)

    def correlator(self, phi: Tensor) -> Tensor:
        """Return `C(t)`, `(batch, side)`, averaged over the axes as long as the first."""
        return self._over_axes(observables.zero_momentum_correlator, phi)

    def two_point(self, phi: Tensor) -> Tensor:
        """Return `G(t, 0, ...)`, `(batch, side)`, averaged over the axes as long as the first."""
        return self._over_axes(observables.axis_two_point, phi)

    def averages(self) -> list[Average]:
        """Return all functions to average."""
        local = [self.moments, self.phi_squared, self.phi_fourth, self.nearest_neighbour, self.action_density]
        return [*local, self.correlator, self.two_point]

    def observables(self, mass: Callable[[Tensor], Tensor]) -> list[Observable]:
        """Return all quantities, named like the attributes of `Measurements`.

        Args:
            mass: the pole mass, 0-d, as a differentiable function of `C(t)`, `(side,)`.

        Returns:
            Observables of the functions in `averages`.
        """
        volume, side = self.lattice.volume, self.lattice.shape[0]
        moments, correlator = self.moments, self.correlator
        return [
            Observable("abs_magnetisation", moments, lambda m: m[0]),
            Observable("susceptibility", moments, lambda m: volume * m[2]),
            Observable("connected_susceptibility", moments, lambda m: volume * (m[2] - m[0].square())),
            Observable("phi_squared", self.phi_squared),
            Observable("phi_fourth", self.phi_fourth),
            Observable("nearest_neighbour", self.nearest_neighbour),
            Observable("action_density", self.action_density),
            Observable("binder", moments, lambda m: 1 - m[4] / (3 * m[2].square()), heavy_tails=True),
            Observable("structure_factor", correlator, low_momentum),
            Observable("correlation_length", correlator, second_moment_length),
            Observable("pole_mass", correlator, mass),
            Observable("mass_times_length", correlator, lambda c: side * mass(c)),
            Observable("moments", moments, lambda m: m[1:]),
            Observable("correlator", correlator),
            Observable(
                "connected_correlator",
                (correlator, moments),
                lambda c, m: c - volume / side * m[0].square(),
            ),
            Observable("two_point", self.two_point),
            Observable("effective_mass", correlator, effective_mass),
        ]

    def _with_components(self, phi: Tensor) -> Tensor:
        """Return phi as `(batch, component, *lattice)` in float64."""
        return phi.double().reshape(len(phi), -1, *self.lattice.shape)

    def _summed(self, observable: Callable[[Tensor], Tensor], phi: Tensor) -> Tensor:
        """Sum an observable of a scalar field over the components."""
        phi = self._with_components(phi)
        return observable(phi.flatten(0, 1)).unflatten(0, phi.shape[:2]).sum(1)

    def _over_axes(self, observable: Callable[..., Tensor], phi: Tensor) -> Tensor:
        """Average an observable along an axis over all axes as long as the first, summed over components."""
        shape = self.lattice.shape
        equal = [axis for axis, side in enumerate(shape) if side == shape[0]]
        return torch.stack([self._summed(partial(observable, axis=axis), phi) for axis in equal]).mean(0)
