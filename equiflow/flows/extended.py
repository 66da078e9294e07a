"""Flows on field and momentum whose log-density is exact for the discrete map, to rounding.

There is no solver and no tolerance: layers move the momentum by the field and the field by the momentum in
turn. Every layer commutes with translations x point group x Z2 acting on both, and its inverse is known in
closed form. Train them on an `ExtendedAction`.
"""

from __future__ import annotations

import math
from abc import ABC
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from equiflow.flows.base import Flow
from equiflow.flows.descriptions import describe
from equiflow.flows.parts import rebuild
from equiflow.flows.phase_space import PhaseSpace, PhaseSpacePrior
from equiflow.flows.slow_modes import SlowModes, slow_modes_of, sorted_frequencies
from equiflow.nn.couplings.phase_space import AffineLayer, PhaseSpaceLayer, ShearLayer
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior, known_priors
from equiflow.theories.base.symmetry import SymmetryGroup

E = TypeVar("E", bound="ExtendedFlow")


class ExtendedFlow(Flow, ABC):
    """Kicks of the momentum by the field and drifts of the field by the momentum, in turn.

    A new flow is `n_steps` leapfrog steps of harmonic motion, `phi_k'' = -phi_k`, through `angle`. They mix
    field and momentum equally at every momentum k, whatever the step size (Fourier acceleration).

    Args:
        lattice: where the field lives; states are `(batch, 2, *lattice)`.
        group: symmetry to build in; by default translations x the full point group x Z2.
        n_steps: number of drifts; there is one kick more.
        angle: angle of the harmonic motion of a new flow, in radians.
        n_channels: number of kernels by which each layer reads the field that drives it.
        n_frequencies: number of sine features per channel.
        max_frequency: largest frequency of the features at the start.
        position: prior of the field; by default a `FreeField` with a learnable spectrum.
        momentum: prior of the momentum; by default white noise whose spectrum can be learned.

    Raises:
        ValueError: for options out of range, or parts on different lattices.
    """

    #: class of the layers
    layer: ClassVar[type[PhaseSpaceLayer]]
    renamed: ClassVar = {"couplings": "layers"}

    space: PhaseSpace
    prior: PhaseSpacePrior

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        n_steps: int = 3,
        angle: float = math.pi / 2,
        n_channels: int = 2,
        n_frequencies: int = 6,
        max_frequency: float = 6.0,
        position: Prior | None = None,
        momentum: Prior | None = None,
    ) -> None:
        if n_steps < 1:
            raise ValueError(f"A flow needs at least one step, got n_steps={n_steps}.")
        prior = PhaseSpacePrior(lattice, position=position, momentum=momentum, group=group)
        super().__init__(prior.space, prior)
        options: dict[str, Any] = {
            "n_channels": n_channels,
            "n_frequencies": n_frequencies,
            "max_frequency": max_frequency,
        }
        self._config = {"n_steps": n_steps, "angle": angle, **options}
        starts = _harmonic_motion(lattice, n_steps, angle)
        self.layers = nn.ModuleList(self.layer(self.group, linear=start, **options) for start in starts)

    @property
    def group(self) -> SymmetryGroup:
        """The symmetry of every layer."""
        return self.prior.group

    @full_precision
    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.transform_and_log_det`; states are `(batch, 2, *lattice)`."""
        driver, moved = self.space.split(self._check_input(z, "z"))
        log_det = z.new_zeros(len(z))
        for layer in self.layers:
            moved, change = layer(moved, driver)
            log_det = log_det + change
            driver, moved = moved, driver
        # There is one kick more than drifts, so that after the last exchange the momentum is the driver.
        return self.space.join(moved, driver), log_det

    @full_precision
    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.inverse_and_log_det`; states are `(batch, 2, *lattice)`."""
        driver, moved = self.space.split(self._check_input(phi, "phi"))
        log_det = phi.new_zeros(len(phi))
        for layer in reversed(self.layers):
            assert isinstance(layer, PhaseSpaceLayer)
            moved, change = layer.inverse(moved, driver)
            log_det = log_det + change
            driver, moved = moved, driver
        return self.space.join(moved, driver), log_det

    def recipe(self) -> dict[str, Any]:
        """See `Flow.recipe`."""
        return {
            "flow": type(self).__name__,
            "lattice": list(self.lattice.shape),
            "group": self.group.config(),
            "config": dict(self._config),
            "position": describe(self.prior.position, known_priors(), self.lattice),
            "momentum": describe(self.prior.momentum, known_priors(), self.lattice),
        }

    @classmethod
    def from_recipe(
        cls: type[E], recipe: dict[str, Any], *, position: Prior | None = None, momentum: Prior | None = None
    ) -> E:
        """See `Flow.from_recipe`.

        Args:
            recipe: what `recipe` returned.
            position: an instance, for a prior of your own of the field.
            momentum: the same for the momentum.
        """
        lattice = Lattice(tuple(recipe["lattice"]))
        group = SymmetryGroup(lattice, **recipe["group"])
        position = rebuild(recipe["position"], known_priors(), lattice, given=position, option="position")
        momentum = rebuild(recipe["momentum"], known_priors(), lattice, given=momentum, option="momentum")
        return cls(lattice, group=group, position=position, momentum=momentum, **recipe["config"])

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the modules."""
        return f"lattice={self.lattice.shape}, group={self.group}"


class SymplecticFlow(ExtendedFlow):
    r"""Leapfrog steps of a learned, time-dependent Hamiltonian `H_t = U_t(phi) + T_t(p)`.

    `p <- p + grad U_t(phi)`, `phi <- phi + grad T_t(p)`. The map is symplectic, hence it preserves the volume
    and `log_det = 0` (arXiv:1909.13789, 1910.00024). Both potentials are invariant, see `ShearLayer`.

    Its latent variables are oscillators, one for each Fourier mode, and the widths of the prior are their
    learned frequencies. For systems without a lattice symmetry, and for layers of other kinds, see
    `CanonicalFlow`.

    >>> flow = SymplecticFlow(Lattice((4, 4)))
    >>> state, log_q = flow.sample_and_log_prob(8)
    >>> state.shape, log_q.shape
    (torch.Size([8, 2, 4, 4]), torch.Size([8]))
    """

    layer = ShearLayer

    def latent_frequencies(self) -> Tensor:
        """Return the frequencies of the latent oscillators, ascending, `(V,)`.

        Raises:
            TypeError: if a prior of the flow is neither a `FreeField` nor a `StandardNormal`.
        """
        return sorted_frequencies(self.prior)

    def slow_modes(self, data: Tensor, n: int) -> SlowModes:
        """Return the slowest oscillators behind given states, see `SlowModes`.

        Args:
            data: states, `(batch, 2, *lattice)`.
            n: number of modes.

        Returns:
            The modes, slowest first.

        Raises:
            TypeError: if the states are no tensor of the flow's dtype, n is no integer, or see
                `latent_frequencies`.
            ValueError: if the states have another shape, or there are fewer than n oscillators.
        """
        return slow_modes_of(self, data, n)


class AugmentedFlow(ExtendedFlow):
    r"""Affine layers between field and momentum, `phi <- C * (exp(s(p)) phi) + b(p)` and vice versa.

    The momentum takes the place of a mask (arXiv:2002.07101). No site is singled out, so the lattice
    symmetries stay exact; `log_det = sum_x s_x + sum_k log C_k`. See `AffineLayer`.

    >>> flow = AugmentedFlow(Lattice((4, 4)))
    >>> state, log_q = flow.sample_and_log_prob(8)
    >>> state.shape, log_q.shape
    (torch.Size([8, 2, 4, 4]), torch.Size([8]))
    """

    layer = AffineLayer


def _harmonic_motion(lattice: Lattice, n_steps: int, angle: float) -> list[Tensor]:
    """Return kernels `(*lattice)` of the kicks and drifts of leapfrog, on all momenta.

    The motion is `phi' = sigma p`, `p' = -phi / sigma`.
    """
    sigma = (2 * (lattice.squared_momenta() + 1)).rsqrt()  # of the free field at m2 = 1
    step = angle / n_steps
    drift, kick, half_kick = step * sigma, -step / sigma, -0.5 * step / sigma
    return [half_kick, *[drift, kick] * (n_steps - 1), drift, half_kick]
