"""The space of lattice gauge theory: an element of a group on every link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equiflow.runtime.autograd import holds
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import COMPLEX_DTYPES, FIELD_DTYPES
from equiflow.runtime.randomness import check_draw
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space
from equiflow.theories.gauge.groups import lie_group
from equiflow.theories.gauge.lie_group import LieGroup

#: distance from the group that rounding explains, by the precision of the configurations
ROUNDING = {torch.complex64: 1e-4, torch.complex128: 1e-10}


@dataclass(frozen=True)
class Links(Space):
    r"""An element `U_mu(x)` of a group on every link of a lattice, from x to `x + mu`.

    Configurations are `(batch, direction, *lattice)`, angles, for U(1), and `(batch, direction, *lattice, N,
    N)`, complex, for SU(N). Velocities are the real coefficients c of `dU/dt = sum_a c_a T_a U`, shaped
    `(batch, direction, *lattice)` for U(1) and `(batch, direction, generator, *lattice)` for SU(N), see
    `LieGroup`. Densities are with respect to the Haar measure of total weight one.

    Angles that differ by multiples of 2 pi are the same; samples lie in [-pi, pi).

    Args:
        lattice: with two dimensions or more.
        group: `"U(1)"`, `"SU(2)"`, `"SU(3)"`, or `"SU(N)"` with any larger number.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the lattice has one dimension, or there is no such group.

    >>> Links(Lattice((4, 6)), "SU(3)").shape
    (2, 4, 6, 3, 3)
    >>> Links(Lattice((4, 6)), "SU(3)").tangent_shape
    (2, 8, 4, 6)
    """

    kind: ClassVar[str] = "links"
    lattice: Lattice
    group: str

    def __post_init__(self) -> None:
        check_type(self.lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
        lie_group(self.group)  # raises if there is none of this name
        if self.lattice.dim < 2:
            raise ValueError(
                f"Links need a lattice of two dimensions or more, got {self.lattice.shape}; there are no "
                "plaquettes in one."
            )

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Links:
        """See `Space.of_shape`; the first side is the number of dimensions, so the shape tells the group."""
        dim = shape[0]
        group = "U(1)" if len(shape) == dim + 1 else f"SU({shape[-1]})"
        space = cls(Lattice(tuple(shape[1 : dim + 1])), group)
        if space.shape != tuple(shape):
            raise ValueError(f"{tuple(shape)} is no shape of links; expected (direction, *lattice[, N, N]).")
        return space

    @property
    def lie(self) -> LieGroup:
        """The arithmetic of the group."""
        return lie_group(self.group)

    @property
    def is_flat(self) -> bool:
        """Whether links are angles, which move along straight lines."""
        return self.lie.is_abelian

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of one configuration, `(direction, *lattice)` or `(direction, *lattice, N, N)`."""
        return (self.lattice.dim, *self.lattice.shape, *self.lie.element_shape)

    @property
    def tangent_shape(self) -> tuple[int, ...]:
        """Shape of one velocity, `(direction, *lattice)` or `(direction, generator, *lattice)`."""
        generators = () if self.is_flat else (self.lie.n_generators,)
        return (self.lattice.dim, *generators, *self.lattice.shape)

    @property
    def size(self) -> int:
        """Number of coordinates of a configuration, `d V` times the dimension of the group."""
        return self.lattice.dim * self.lattice.volume * self.lie.n_generators

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Types of configurations: real for U(1), complex for SU(N)."""
        return FIELD_DTYPES if self.is_flat else COMPLEX_DTYPES

    @property
    def sites(self) -> Lattice:
        """The lattice of the links."""
        return self.lattice

    @property
    def component_axes(self) -> tuple[int, ...]:
        """Tensor axes that are not directions of the lattice: of the direction of a link, and of matrices."""
        first, *others = self.event_axes
        return (first, *others[self.lattice.dim :])

    @property
    def values_per_site(self) -> int:
        """Number of coordinates at each site."""
        return self.size // self.lattice.volume

    def on(self, lattice: Lattice) -> Links:
        """See `Space.on`."""
        return Links(lattice, self.group)

    def windings(self) -> dict[str, Any]:
        """Return a full turn of each angle alone, see `Space.windings`; there are none for SU(N)."""
        return {f"winding of link {x}": Winding(x) for x in range(self.size)} if self.is_flat else {}

    @property
    def has_windings(self) -> bool:
        """Whether links are angles."""
        return self.is_flat

    def nearest(self, phi: Tensor, to: Tensor | float = 0.0) -> Tensor:
        """Return the same links without rounding: angles within half a turn of `to`, or unitary matrices.

        Args:
            phi: links, `(batch, *shape)`.
            to: other links, or one number for all; it matters for angles only.

        Returns:
            Links, `(batch, *shape)`.
        """
        return self.lie.nearest(phi - to) + to if self.is_flat else self.lie.nearest(phi)

    def move(self, phi: Tensor, velocity: Tensor) -> Tensor:
        """See `Space.move`; the result is `exp(velocity) U` on every link."""
        if self.is_flat:
            return phi + velocity
        lie = self.lie
        return lie.elements(lie.product(lie.exp(velocity.movedim(2, 0)), lie.planes(phi)))

    def bracket(self, one: Tensor, other: Tensor) -> Tensor:
        """See `Space.bracket`; the commutator on every link."""
        if self.is_flat:
            return torch.zeros_like(one)
        return self.lie.bracket(one.movedim(2, 0), other.movedim(2, 0)).movedim(0, 2)

    def displacement(self, phi: Tensor) -> Tensor:
        """See `Space.displacement`; the projection of `dU U^-1` to the algebra."""
        if self.is_flat:
            return phi
        lie = self.lie
        turned = lie.product(lie.planes(phi), lie.dagger(lie.planes(phi.detach())))
        return (2 * lie.n * lie.slope(turned)).movedim(0, 2)

    def bracket_bound(self, velocity: Tensor) -> Tensor:
        """See `Space.bracket_bound`; on each link the norm of the coefficients."""
        # The eigenvalues i x_k of v have sum_k x_k^2 = |c|^2 / 2, and |x_j - x_k| is at most |c|.
        return velocity.new_zeros(len(velocity)) if self.is_flat else velocity.norm(dim=2)

    def planes(self, phi: Tensor) -> tuple[Tensor, ...]:
        """Return the links of each direction as planes `(..., batch, *lattice)`, see `LieGroup`."""
        return tuple(self.lie.planes(links) for links in phi.unbind(1))

    def from_planes(self, planes: tuple[Tensor, ...]) -> Tensor:
        """Return links `(batch, *shape)` from planes of each direction, the inverse of `planes`."""
        return torch.stack([self.lie.elements(links) for links in planes], 1)

    def vectors(self, velocity: Tensor) -> tuple[Tensor, ...]:
        """Return the coefficients of each direction, `(generator, batch, *lattice)`, of a velocity."""
        parts = velocity.unbind(1)
        return tuple(part[None] for part in parts) if self.is_flat else tuple(p.movedim(1, 0) for p in parts)

    def from_vectors(self, vectors: tuple[Tensor, ...]) -> Tensor:
        """Return a velocity `(batch, *tangent_shape)` from coefficients, the inverse of `vectors`."""
        return torch.stack([c[0] if self.is_flat else c.movedim(0, 1) for c in vectors], 1)

    def probes(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """See `Space.probes`; links are drawn from the Haar measure."""
        return self.lie.random((n, *self.shape[: self.lattice.dim + 1]), generator)

    def initial(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """See `Space.initial`; angles near zero, or matrices of the Haar measure.

        Angles begin without topological charge, which would hardly change afterwards. Matrices near one would
        let a chain of HMC move only by steps far below those that suit it later: where it has not left before
        the step grows, it never leaves. `dtype` is that of the real parts.
        """
        check_draw(generator, dtype)
        size = (n, self.lattice.dim, *self.lattice.shape, *(() if self.is_flat else self.lie.noise_shape))
        noise = torch.randn(size, generator=generator, device=device, dtype=dtype)
        return 0.1 * noise if self.is_flat else self.lie.from_noise(noise)

    def check_finite(self, phi: Tensor, name: str = "phi") -> Tensor:
        """See `Space.check_finite`; matrices that are not of the group are refused, too."""
        super().check_finite(phi, name)
        if not self.is_flat and len(phi):
            defect = self.lie.defect(phi).amax()
            if not holds(defect <= ROUNDING[phi.dtype]):
                raise ValueError(
                    f"{name} has links that differ from matrices of {self.group} by {float(defect):.1e}; "
                    "expected unitary matrices of determinant one. links.nearest(phi) removes rounding."
                )
        return phi


@dataclass(frozen=True)
class Winding:
    """A turn of the angle of one link by 2 pi."""

    link: int

    def __call__(self, phi: Tensor) -> Tensor:
        """Transform angles `(batch, direction, *lattice)`."""
        turned = phi.flatten(1).clone()
        turned[:, self.link] += 2 * torch.pi
        return turned.view_as(phi)

    def linear(self, velocity: Tensor) -> Tensor:
        """Return velocities as they are: a full turn does not change them."""
        return velocity
