"""Gaussian priors of real fields: white noise and the free field."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_flag, check_type
from equiflow.runtime.constants import RoundedConstants
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import kind_of
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.momentum_functions import SmoothFunctions
from equiflow.theories.base.prior import LOG_2PI, Prior
from equiflow.theories.base.resizing import momenta_on, space_on
from equiflow.theories.base.space import Space
from equiflow.theories.base.symmetry import spatial_part


class StandardNormal(Prior):
    """Independent unit Gaussians on every site, `q(z) = prod_x exp(-z_x^2 / 2) / sqrt(2 pi)`.

    Args:
        space: any space of real numbers.
        group: symmetry of the density; by default the largest one of the space.

    Raises:
        TypeError: if the configurations are angles, or an argument has the wrong type.
        ValueError: if the group acts on another space.
    """

    def __init__(self, space: Space, *, group: Group | None = None) -> None:
        super().__init__(space, group=group)
        _refuse_windings(space)

    def colour(self, noise: Tensor) -> Tensor:
        """Return the noise itself, which is already a sample."""
        return noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Return `-1/2 sum_x (z_x^2 + log 2 pi)`, `(batch,)`."""
        self.space.check(z, "z")
        return -0.5 * (z.square() + LOG_2PI).sum(self.space.event_axes)

    def score(self, z: Tensor) -> Tensor:
        """Return `-z`."""
        self.space.check(z, "z")
        return -z

    def resized(self, lattice: Lattice) -> StandardNormal:
        """Return the same density per site on another lattice."""
        space = space_on(self.space, lattice)
        prior = StandardNormal(space, group=self.group.on(space))
        return prior.to(self.device, self.dtype)


class _FieldOfModes(Prior):
    """Independent Gaussian modes; a subclass says what `log_sigma` is made of.

    `q(z) = prod_k (2 pi sigma_k^2)^{-1/2} exp(-|z_k|^2 / (2 V sigma_k^2))`

    Args:
        space: a lattice, or a multiplet on one.
        m2: mass squared of the initial spectrum, > 0.
        group: ties the spectrum.
        learnable: whether the spectrum is trained.
    """

    #: `log sigma_k` of each orbit of momenta, `(orbit,)`
    log_sigma: Tensor

    def __init__(self, space: Space, *, m2: float, group: Group | None, learnable: bool) -> None:
        super().__init__(space, group=group)
        _refuse_windings(space)
        check_type(m2, (float, int), "m2")
        if not m2 > 0 or not math.isfinite(m2):
            raise ValueError(f"The spectrum needs a positive, finite m2; got {m2}.")
        self.m2 = float(m2)
        self._record(m2=self.m2)
        self.learnable = check_flag(learnable, "learnable")
        orbits = spatial_part(self.group).momentum_orbits()
        self.register_buffer("_orbit", self.lattice.half(orbits.index).contiguous(), False)
        self.register_buffer("_multiplicity", orbits.multiplicity.clone(), False)
        half = self.lattice.half_multiplicity().to(orbits.multiplicity)
        self.register_buffer("_half_multiplicity", half, False)

    _orbit: Tensor
    _multiplicity: Tensor
    _half_multiplicity: Tensor

    def _free_log_sigma(self) -> Tensor:
        """Return `log sigma_k` of the free field of mass squared `m2` on all momenta, `(*lattice)`."""
        return -0.5 * (2 * (self.lattice.squared_momenta() + self.m2)).log()

    def mode_variance(self) -> Tensor:
        """Return `sigma_k^2 = <|z_k|^2> / V` on the momenta of `Lattice.fft`, `(*half_shape)`."""
        return (2 * self.log_sigma).exp()[self._orbit]

    def colour(self, noise: Tensor) -> Tensor:
        """Return the field with the modes `z_k = sigma_k noise_k`, shaped like `noise`."""
        return self.lattice.ifft(self.lattice.fft(noise) * self.log_sigma.exp()[self._orbit])

    @full_precision
    def log_prob(self, z: Tensor) -> Tensor:
        """Return `sum_k [-|z_k|^2 / (2 V sigma_k^2) - log sigma_k - 1/2 log 2 pi]`, `(batch,)`."""
        self.space.check(z, "z")
        # One transform; sites would need a second one.
        parts = torch.view_as_real(self.lattice.fft(z)).flatten(-self.lattice.dim - 1)
        weight = self._half_multiplicity * (-2 * self.log_sigma).exp()[self._orbit]
        weight = weight.flatten().repeat_interleave(2) / (2 * self.lattice.volume)
        quadratic = -(parts.square() @ weight.to(parts)).reshape(len(z), self.space.values_per_site).sum(1)
        log_det = self.space.values_per_site * (self._multiplicity * self.log_sigma).sum()
        return quadratic - log_det - 0.5 * self.space.size * LOG_2PI

    def score(self, z: Tensor) -> Tensor:
        """Return the field with the modes `-z_k / sigma_k^2`, shaped like `z`."""
        self.space.check(z, "z")
        return -self.lattice.ifft(self.lattice.fft(z) * (-2 * self.log_sigma).exp()[self._orbit])

    @torch.no_grad()
    def _score_of_orbits(self, z: Tensor) -> Tensor:
        """Return `d log q(z) / d log_sigma = sum_{k in orbit} (|z_k|^2 / (V sigma_k^2) - 1)`."""
        power = self.lattice.fft(z).abs().square().reshape(len(z), -1, self._orbit.numel()).sum(1)
        power = power * self._half_multiplicity.flatten() / self.lattice.volume
        total = z.new_zeros(len(z), len(self._multiplicity)).index_add_(1, self._orbit.flatten(), power)
        return total * (-2 * self.log_sigma).exp() - self.space.values_per_site * self._multiplicity


class FreeField(_FieldOfModes):
    r"""A free field with one learnable variance per momentum orbit.

    `q(z) = prod_k (2 pi sigma_k^2)^{-1/2} exp(-|z_k|^2 / (2 V sigma_k^2))`, with one `sigma_k` for each orbit
    of the momenta under the point group. It absorbs everything linear that a flow would otherwise have to
    learn. At the start `sigma_k^2 = 1 / (2 (k^2 + m2))`, the propagator of `FreeScalar`.

    Args:
        space: a lattice, or a multiplet on one, whose components are independent and alike.
        m2: mass squared of the initial spectrum, > 0.
        group: ties the spectrum; by default the full point group of the lattice.
        learnable: whether the spectrum is trained.

    Raises:
        TypeError: if the configurations are angles or have no lattice, or an argument has the wrong type.
        ValueError: if `m2` is not positive or the group belongs to another lattice.
    """

    def __init__(
        self,
        space: Space,
        *,
        m2: float = 1.0,
        group: Group | None = None,
        learnable: bool = True,
    ) -> None:
        super().__init__(space, m2=m2, group=group, learnable=learnable)
        log_sigma = spatial_part(self.group).momentum_orbits().mean(self._free_log_sigma())
        self.log_sigma = nn.Parameter(log_sigma.to(torch.get_default_dtype()), requires_grad=self.learnable)

    def parameter_score(self, z: Tensor) -> Tensor:
        """See `Prior.parameter_score`; in closed form."""
        return self._score_of_orbits(z) if self.log_sigma.requires_grad else z.new_zeros(len(z), 0)

    @torch.no_grad()
    def resized(self, lattice: Lattice) -> FreeField:
        """Return a free field whose spectrum is carried over as a function of momentum.

        The ratio of the spectrum to the free one is interpolated, see `momenta_on`.
        """
        space = space_on(self.space, lattice)
        prior = FreeField(space, group=self.group.on(space), m2=self.m2, learnable=self.learnable)
        prior.to(self.device, self.dtype)
        own = self.log_sigma.double().cpu()[spatial_part(self.group).momentum_orbits().index]
        ratio = momenta_on(own - self._free_log_sigma(), self.lattice, prior.lattice)
        log_sigma = spatial_part(prior.group).momentum_orbits().mean(ratio + prior._free_log_sigma())
        prior.log_sigma.copy_(log_sigma)
        return prior


class SmoothFreeField(_FieldOfModes):
    r"""A free field whose spectrum is a smooth function of momentum, the same on lattices of all sizes.

    `q(z) = prod_k (2 pi sigma_k^2)^{-1/2} exp(-|z_k|^2 / (2 V sigma_k^2))` as in `FreeField`, but with
    `log sigma_k = -1/2 log(2 (k^2 + m2)) + sum_j w_j f_j(k)` and the few functions of `SmoothFunctions`. The
    number of weights does not depend on the size of the lattice. It is the default prior of a
    `PotentialField` with `kernels="smooth"`.

    Args:
        space: a lattice, or a multiplet on one, whose components are independent and alike.
        m2: mass squared of the initial spectrum, > 0.
        group: symmetry of the density; by default the largest one. The spectrum has all symmetries of the
            lattice.
        learnable: whether the spectrum is trained.

    Raises:
        TypeError: if the configurations are angles or have no lattice, or an argument has the wrong type.
        ValueError: if `m2` is not positive or the group belongs to another lattice.

    >>> prior = SmoothFreeField(Lattice((16, 16)))
    >>> prior.weight.shape == prior.resized(Lattice((128, 128))).weight.shape
    True
    """

    def __init__(
        self,
        space: Space,
        *,
        m2: float = 1.0,
        group: Group | None = None,
        learnable: bool = True,
    ) -> None:
        super().__init__(space, m2=m2, group=group, learnable=learnable)
        self._functions = RoundedConstants()
        size = len(SmoothFunctions(self.lattice))
        self.weight = nn.Parameter(torch.zeros(size), requires_grad=self.learnable)

    @property
    def log_sigma(self) -> Tensor:  # type: ignore[override]
        """`log sigma_k` of each orbit of momenta, `(orbit,)`."""
        free, functions = self._functions.like(self.weight, self._free_and_functions)
        return free + self.weight @ functions

    def _free_and_functions(self) -> list[Tensor]:
        """Return the initial `log sigma_k` and the functions of `SmoothFunctions` on each orbit."""
        mean = spatial_part(self.group).momentum_orbits().mean
        return [mean(self._free_log_sigma()), mean(SmoothFunctions(self.lattice).values)]

    def parameter_score(self, z: Tensor) -> Tensor:
        """See `Prior.parameter_score`; in closed form."""
        if not self.weight.requires_grad:
            return z.new_zeros(len(z), 0)
        _, functions = self._functions.like(self.weight, self._free_and_functions)
        return self._score_of_orbits(z) @ functions.mT

    @torch.no_grad()
    def resized(self, lattice: Lattice) -> SmoothFreeField:
        """Return the field with the same spectrum as a function of momentum, exactly."""
        space = space_on(self.space, lattice)
        prior = SmoothFreeField(space, group=self.group.on(space), m2=self.m2, learnable=self.learnable)
        prior.to(self.device, self.dtype)
        carried = SmoothFunctions(self.lattice).carry(self.weight.double(), prior.lattice)
        prior.weight.copy_(carried)
        return prior


def _refuse_windings(space: Space) -> None:
    """Raise a TypeError where different numbers stand for one configuration, as for angles."""
    if space.has_windings or not space.is_flat:
        priors = ", ".join(prior.__name__ for prior in kind_of(space).priors)
        raise TypeError(f"A Gaussian is no density on {space.kind} {space.shape}; use {priors}.")
