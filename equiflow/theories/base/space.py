"""The abstract space: what the configurations of a theory are.

`Space` is the base of `Lattice`, `Multiplet`, `Angles`, `Links` and `Particles`. A theory of your own
starts by deriving from it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from equiflow.runtime.autograd import all_finite
from equiflow.runtime.precision import FIELD_DTYPES
from equiflow.runtime.randomness import check_draw


class Space:
    """Configurations of numbers in one shape, shared by a flow, its prior and its action.

    Subclasses are frozen dataclasses; two spaces are the same if they compare equal. A subclass sets `kind`,
    `shape` and `of_shape`. It overrides the other members where the defaults are wrong:

    - `sites` and `on` if the configurations live on a lattice;
    - `initial` if chains cannot start from weak noise, `probes` if normal numbers are no configurations;
    - `windings` and `nearest` if different numbers stand for one configuration, as angles do;
    - `move` and `tangent_shape` if configurations do not form a flat space, as matrices of a group do not.

    Attributes:
        kind: name of this class of spaces in files and messages. Saved files contain it, so it never changes.
        shape: shape of one configuration; a batch has the shape `(batch, *shape)`.
    """

    kind: ClassVar[str] = "space"
    shape: tuple[int, ...]

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Space:
        """Return the space of configurations of this shape. A saved flow is loaded by `kind` and shape."""
        raise NotImplementedError(f"{cls.__name__} does not say how it is built from a shape.")

    @property
    def size(self) -> int:
        """Number of real numbers in a configuration."""
        return math.prod(self.shape)

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Types that configurations may have, single precision first."""
        return FIELD_DTYPES

    @property
    def is_flat(self) -> bool:
        """Whether `move` adds the velocity, so that configurations move along straight lines."""
        return True

    @property
    def tangent_shape(self) -> tuple[int, ...]:
        """Shape of the velocity of one configuration; velocities, momenta and gradients are always real."""
        return self.shape

    @property
    def event_axes(self) -> tuple[int, ...]:
        """Tensor axes of a configuration, counted from the end."""
        return tuple(range(-len(self.shape), 0))

    @property
    def sites(self) -> Space | None:
        """The lattice on whose sites the configurations live; None without one. See `lattice_of`."""
        return None

    def on(self, lattice: Any) -> Space:
        """Return the space of the same fields on another lattice.

        Raises:
            TypeError: if the configurations do not live on a lattice.
        """
        raise TypeError(f"{self} has no lattice that could be replaced by {lattice}.")

    @property
    def component_axes(self) -> tuple[int, ...]:
        """Tensor axes that are not directions of a lattice, counted from the end; `()` for a scalar field."""
        n_directions = 0 if self.sites is None else len(self.sites.shape)
        return self.event_axes[: len(self.shape) - n_directions]

    @property
    def values_per_site(self) -> int:
        """Number of real numbers at each site; without a lattice, in a whole configuration."""
        return math.prod(self.shape[axis] for axis in self.component_axes)

    def windings(self) -> dict[str, Any]:
        """Return named maps that change the numbers of a configuration, but not the configuration.

        An example is a full turn of one angle. By default there are none.
        """
        return {}

    @property
    def has_windings(self) -> bool:
        """Whether different numbers can stand for one configuration, see `windings`."""
        return bool(self.windings())

    @property
    def is_real_field(self) -> bool:
        """Whether configurations are real fields on a lattice, whose observables `measure` knows."""
        return self.sites is not None and self.is_flat and not self.has_windings

    def nearest(self, phi: Tensor, to: Tensor | float = 0.0) -> Tensor:
        """Return the same configurations by the numbers that are nearest to `to`.

        Only a space with windings has a choice; here the result is `phi` itself.

        Args:
            phi: configurations, `(batch, *shape)`.
            to: other configurations, `(batch, *shape)`, or one number for all.

        Returns:
            The configurations `phi`, `(batch, *shape)`.
        """
        return phi

    def move(self, phi: Tensor, velocity: Tensor) -> Tensor:
        """Move configurations with a constant velocity for one unit of time.

        Here the result is `phi + velocity`; for elements of a group it is `exp(velocity) phi`. Moves along
        multiples of one velocity are reversed by its negative, and keep the volume.

        Args:
            phi: configurations, `(batch, *shape)`.
            velocity: `(batch, *tangent_shape)`.

        Returns:
            Configurations, `(batch, *shape)`.
        """
        return phi + velocity

    def bracket(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the commutator of two velocities, `[v, w]`; zero unless configurations form a group.

        Args:
            one: v, `(batch, *tangent_shape)`.
            other: w, `(batch, *tangent_shape)`.

        Returns:
            `(batch, *tangent_shape)`.
        """
        return torch.zeros_like(one)

    def displacement(self, phi: Tensor) -> Tensor:
        """Return a velocity whose derivative in anything is the velocity of `phi` as that changes.

        Its value means nothing. Gradients with respect to configurations are multiplied by it, in objectives
        that know these gradients in closed form.

        Args:
            phi: configurations, `(batch, *shape)`.

        Returns:
            `(batch, *tangent_shape)`; here `phi` itself.
        """
        return phi

    def bracket_bound(self, velocity: Tensor) -> Tensor:
        """Return bounds of the eigenvalues of `[v, .]`; zero unless configurations form a group.

        Args:
            velocity: v, `(batch, *tangent_shape)`.

        Returns:
            Numbers, of which the largest bounds all.
        """
        return velocity.new_zeros(len(velocity))

    def probes(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw configurations on which laws are tested; here standard normal numbers.

        Args:
            n: number of configurations.
            generator: source of randomness, on the CPU; the global one by default.

        Returns:
            `(n, *shape)` in double precision on the CPU.

        Raises:
            TypeError: if `generator` is no generator.
        """
        check_draw(generator)
        return torch.randn((n, *self.shape), generator=generator, dtype=torch.float64, device="cpu")

    def initial(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Draw configurations from which Markov chains can start; here Gaussian noise of width 0.1.

        The noise is weak, because strong fluctuations of a phi^4 field are too stiff for any sensible step
        size. Override it where weak noise has no density, as for particles that repel each other.

        Args:
            n: number of configurations.
            generator: source of randomness, on the device of the configurations; the global one by default.
            device: of the configurations.
            dtype: of the configurations.

        Returns:
            `(n, *shape)`.

        Raises:
            TypeError: if `generator` is no generator, or `dtype` neither float32 nor float64.
        """
        check_draw(generator, dtype)
        return 0.1 * torch.randn((n, *self.shape), generator=generator, device=device, dtype=dtype)

    def check(self, phi: Tensor, name: str = "phi") -> Tensor:
        """Return `phi` if it is a batch of configurations, else raise.

        Args:
            phi: expected to be a tensor `(batch, *shape)` of one of `dtypes`.
            name: what messages call it.

        Returns:
            `phi` itself.

        Raises:
            TypeError: if it is not a tensor of one of `dtypes`, float32 or float64 for real numbers.
            ValueError: if its shape is not `(batch, *shape)`, or it is on the meta device.
        """
        if not isinstance(phi, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(phi).__name__}.")
        if phi.dtype not in self.dtypes:
            single, double = self.dtypes
            how = "Convert it with .float() or .double()." if not double.is_complex else "Give matrices."
            raise TypeError(f"{name} has dtype {phi.dtype}; expected {single} or {double}. {how}")
        if phi.is_meta:
            raise ValueError(f"{name} lives on the meta device and has no values; expected cpu or cuda.")
        if phi.dim() != len(self.shape) + 1 or tuple(phi.shape[1:]) != self.shape:
            expected = ", ".join(map(str, ("batch", *self.shape)))
            raise ValueError(
                f"{name} has shape {tuple(phi.shape)}; expected ({expected}). "
                "Put the batch axis first; a single configuration is phi[None]."
            )
        return phi

    def check_finite(self, phi: Tensor, name: str = "phi") -> Tensor:
        """Return `phi` if it passes `check` and all its values are finite, else raise.

        Args:
            phi: expected to be a tensor `(batch, *shape)` of one of `dtypes`.
            name: what messages call it.

        Returns:
            `phi` itself.

        Raises:
            TypeError: see `check`.
            ValueError: see `check`, and if a value is NaN or infinite.
        """
        self.check(phi, name)
        if not all_finite(phi):
            bad = int((~phi.isfinite().flatten(1).all(1)).sum())
            raise ValueError(
                f"{name} has NaN or infinite values in {bad} of {len(phi)} configurations; "
                "expected finite fields. Drop them or look at where they come from."
            )
        return phi
