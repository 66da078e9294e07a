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

from equiflow.analysis.averages import Observable, Quantity
from equiflow.analysis.columns import Average
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
        z2: whether `<phi> = 0` by symmetry. If not, `<M>` is subtracted, see `Measurements.z2`.
    """

    lattice: Lattice
    action: Action | None = None
    z2: bool = True

    def magnetisation(self, phi: Tensor) -> Tensor:
        """Return every component of `M = mean_x phi_x`, `(batch, n_components)`."""
        phi = self._with_components(phi)
        return observables.magnetisation(phi.flatten(0, 1)).view(phi.shape[:2])

    def products(self, phi: Tensor) -> Tensor:
        """Return `|M|^2 M_a` and `M_a M_b` of n components, `(batch, n + n^2)`."""
        m = self.magnetisation(phi)
        pairs = (m[:, :, None] * m[:, None, :]).flatten(1)
        return torch.cat([m.square().sum(1, keepdim=True) * m, pairs], 1)

    def moments(self, phi: Tensor) -> Tensor:
        """Return `|M|, M_1, |M|^2, |M|^2 M_1, |M|^4`, `(batch, 5)`."""
        m = self.magnetisation(phi)
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
        local: list[Average] = [
            self.moments,
            self.phi_squared,
            self.phi_fourth,
            self.nearest_neighbour,
            self.action_density,
        ]
        found = [*local, self.correlator, self.two_point, self.magnetisation]
        return found if self.z2 else [*found, self.products]

    def of_states(self, name: str, derived: Callable[[Tensor], Quantity]) -> Observable:
        """Return an observable of the correlator whose decay gives masses and lengths.

        Args:
            name: of the observable.
            derived: function of `C(t)`, `(side,)`, or of `C(t) - V / L |<M>|^2` without `z2`.

        Returns:
            The observable.
        """
        if self.z2:
            return Observable(name, self.correlator, derived)
        factor = self.lattice.volume / self.lattice.shape[0]
        return Observable(
            name,
            (self.correlator, self.magnetisation),
            lambda c, m: derived(c - factor * m.square().sum()),
        )

    def _of_fluctuations(self) -> list[Observable]:
        """Return what depends on whether `<M>` or, where that is 0 by symmetry, `<|M|>` is subtracted."""
        volume, moments = self.lattice.volume, self.moments
        if not self.z2:
            averages = (self.magnetisation, moments)
            return [
                Observable("connected_susceptibility", averages, lambda m, of_m: volume * _variance(m, of_m)),
                Observable("binder", (*averages, self.products), _central_cumulant, heavy_tails=True),
                self.of_states("connected_correlator", lambda c: c),
            ]
        factor = volume / self.lattice.shape[0]
        return [
            Observable("connected_susceptibility", moments, lambda m: volume * (m[2] - m[0].square())),
            Observable("binder", moments, lambda m: 1 - m[4] / (3 * m[2].square()), heavy_tails=True),
            Observable(
                "connected_correlator", (self.correlator, moments), lambda c, m: c - factor * m[0].square()
            ),
        ]

    def observables(self, mass: Callable[[Tensor], Tensor]) -> list[Observable]:
        """Return all quantities, named like the attributes of `Measurements`.

        Args:
            mass: the pole mass, 0-d, as a differentiable function of the correlator, see `of_states`.

        Returns:
            Observables of the functions in `averages`.
        """
        volume, side = self.lattice.volume, self.lattice.shape[0]
        moments, correlator = self.moments, self.correlator
        return [
            Observable("magnetisation", moments, lambda m: m[1]),
            Observable("abs_magnetisation", moments, lambda m: m[0]),
            Observable("susceptibility", moments, lambda m: volume * m[2]),
            *self._of_fluctuations(),
            Observable("phi_squared", self.phi_squared),
            Observable("phi_fourth", self.phi_fourth),
            Observable("nearest_neighbour", self.nearest_neighbour),
            Observable("action_density", self.action_density),
            Observable("structure_factor", correlator, low_momentum),
            self.of_states("correlation_length", second_moment_length),
            self.of_states("pole_mass", mass),
            self.of_states("mass_times_length", lambda c: side * mass(c)),
            self.of_states("effective_mass", effective_mass),
            Observable("moments", moments, lambda m: m[1:]),
            Observable("correlator", correlator),
            Observable("two_point", self.two_point),
            Observable("component_means", self.magnetisation),
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


def _variance(m: Tensor, of_m: Tensor) -> Tensor:
    """Return `<|M|^2> - |<M>|^2` from `<M_a>`, `(n,)`, and the averages of `LatticeFields.moments`."""
    return of_m[2] - m.square().sum()


def _central_cumulant(m: Tensor, of_m: Tensor, products: Tensor) -> Tensor:
    """Return `1 - <|d|^4> / (3 <|d|^2>^2)` with `d = M - <M>`, 0-d.

    With `m = <M>`, `<|d|^4> = <|M|^4> - 4 m.<|M|^2 M> + 4 m.<M M>.m + 2 |m|^2 <|M|^2> - 3 |m|^4`.
    """
    cubic, pairs, square = products[: len(m)], products[len(m) :].view(len(m), len(m)), m.square().sum()
    fourth = of_m[4] - 4 * (m @ cubic) + 4 * (m @ pairs @ m) + 2 * square * of_m[2] - 3 * square.square()
    return 1 - fourth / (3 * _variance(m, of_m).square())
