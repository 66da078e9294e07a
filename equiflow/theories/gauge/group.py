"""The symmetry group of links: local gauge transformations, lattice symmetries, charge conjugation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.runtime.checks import check_flag, check_type
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.symmetry import SymmetryGroup, Transformation
from equiflow.theories.gauge.links import Links


@dataclass(frozen=True)
class GaugeGroup(Group):
    """Local gauge transformations x translations x point group x (optionally) charge conjugation.

    A gauge transformation has an element g of the group at every site: `U_mu(x) -> g(x) U_mu(x) g(x+mu)^-1`.
    A rotation or reflection R turns the links, too: the link from x to y becomes the one from R x to R y. If
    that is a link against its direction, the inverse goes along it. Charge conjugation is `U -> U*`.

    Args:
        links: where the group acts.
        point: name of the point group, see `point_group`.
        conjugation: whether charge conjugation belongs to the group.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the lattice does not have the point group.

    >>> from equiflow import Lattice
    >>> str(GaugeGroup(Links(Lattice((4, 4)), "SU(3)")))
    'local SU(3) x translations x D4 x C'
    """

    links: Links
    point: str = "full"
    conjugation: bool = True

    def __post_init__(self) -> None:
        check_type(self.links, Links, "links", 'Write Links(Lattice((16, 16)), "U(1)").')
        object.__setattr__(self, "conjugation", check_flag(self.conjugation, "conjugation"))
        SymmetryGroup(self.links.lattice, self.point)  # raises if the lattice lacks the point group

    @property
    def space(self) -> Links:
        """The links."""
        return self.links

    @property
    def spatial(self) -> SymmetryGroup:
        """What the group does to sites."""
        return SymmetryGroup(self.links.lattice, self.point, z2=False)

    def generators(self) -> dict[str, Element]:
        """Return lattice symmetries, charge conjugation, and gauge transformations at one site.

        Together with translations, the gauge transformations at one site generate those at all sites.
        """
        named: dict[str, Element] = {}
        for name, moved in self.spatial.generators().items():
            assert isinstance(moved, Transformation)
            named[name] = LinkTransformation(self.links, moved)
        still, lie = self.spatial.identity, self.links.lie
        if self.conjugation:
            named["conjugation U -> U*"] = LinkTransformation(self.links, still, conjugated=True)
        # One radian is not a rational part of a turn: its powers come close to every angle.
        one_radian = torch.eye(lie.n_generators, dtype=torch.float64, device="cpu")
        unit = lie.identity(self.links.lattice.shape, one_radian)
        origin: Any = (..., *(0,) * self.links.lattice.dim)
        for a in range(lie.n_generators):
            gauge = unit.clone()
            gauge[origin] = lie.exp(one_radian[:, a])
            named[f"gauge transformation {a} at one site"] = LinkTransformation(
                self.links, still, gauge=gauge
            )
        return named

    def random_element(self, generator: torch.Generator | None = None) -> Element:
        """Draw an element uniformly, with another gauge transformation at every site."""
        moved = self.spatial.random_element(generator)
        conjugated = self.conjugation and bool(torch.randint(2, (), generator=generator))
        lie = self.links.lie
        gauge = lie.planes(lie.random(self.links.lattice.shape, generator))
        return LinkTransformation(self.links, moved, conjugated, gauge)

    def subgroups(self) -> Sequence[GaugeGroup]:
        """See `Group.subgroups`; those with charge conjugation come first."""
        choices = (True, False) if self.conjugation else (False,)
        points = [spatial.point for spatial in self.spatial.subgroups()]
        return [GaugeGroup(self.links, point, conjugation) for conjugation in choices for point in points]

    def config(self) -> dict[str, Any]:
        """See `Group.config`."""
        return {"point": self.point, "conjugation": self.conjugation}

    def __le__(self, other: object) -> bool:
        """Return whether another group on the same links contains all elements of this one."""
        return (
            isinstance(other, GaugeGroup)
            and self.links == other.links
            and self.spatial <= other.spatial
            and self.conjugation <= other.conjugation
        )

    def __str__(self) -> str:
        return f"local {self.links.group} x {self.spatial}{' x C' if self.conjugation else ''}"


@dataclass(frozen=True, eq=False)
class LinkTransformation:
    """A transformation of the sites, then charge conjugation, then a gauge transformation.

    Args:
        links: where it acts.
        spatial: the transformation of the sites.
        conjugated: whether links are replaced by their complex conjugates.
        gauge: an element for each site, planes of `(*lattice)`; None for none.
    """

    links: Links
    spatial: Transformation
    conjugated: bool = False
    gauge: Tensor | None = None

    def __call__(self, phi: Tensor) -> Tensor:
        """Transform links `(batch, *shape)`."""
        moved = self._moved(self.links.planes(phi))
        if self.conjugated:
            moved = [self.links.lie.conjugate(u) for u in moved]
        if self.gauge is not None:
            lie, gauge = self.links.lie, self._gauge_like(moved[0])
            for mu, (axis, u) in enumerate(zip(self.links.lattice.axes, moved, strict=True)):
                moved[mu] = lie.product(lie.product(gauge, u), lie.dagger(gauge.roll(-1, axis)))
        return self.links.from_planes(tuple(moved))

    def push(self, velocity: Tensor, phi: Tensor) -> Tensor:
        """Transform velocities at a configuration: `d/ds g(exp(s v) U)` as a velocity at g U.

        Args:
            velocity: v, `(batch, *tangent_shape)`.
            phi: U, `(batch, *shape)`.

        Returns:
            `(batch, *tangent_shape)`.
        """
        lie, points = self.links.lie, self.spatial.point
        vectors, planes = self.links.vectors(velocity), self.links.planes(phi)
        moved = []
        for mu, (k, sign) in enumerate(zip(points.permutation, points.signs, strict=True)):
            v = vectors[k]
            if sign < 0:  # (exp(v) U)^-1 = U^-1 exp(-v) = exp(-U^-1 v U) U^-1
                v = -lie.adjoint(lie.dagger(planes[k]), v)
            moved.append(self._to_place(v, mu))
        if self.conjugated:
            moved = [lie.conjugate_vector(v) for v in moved]
        if self.gauge is not None:
            gauge = self._gauge_like(planes[0])
            moved = [lie.adjoint(gauge, v) for v in moved]
        return self.links.from_vectors(tuple(moved))

    def _moved(self, planes: Sequence[Tensor]) -> list[Tensor]:
        """Return the links of each direction after the transformation of the sites."""
        point, dagger = self.spatial.point, self.links.lie.dagger
        return [
            self._to_place(planes[k] if sign > 0 else dagger(planes[k]), mu)
            for mu, (k, sign) in enumerate(zip(point.permutation, point.signs, strict=True))
        ]

    def _to_place(self, values: Tensor, mu: int) -> Tensor:
        """Move values of links, which become links along mu, to the sites where those begin."""
        moved = self.spatial(values)
        # A reversed link from x to x + k goes from R x - mu to R x: it begins one site before R x.
        return moved if self.spatial.point.signs[mu] > 0 else moved.roll(-1, self.links.lattice.axes[mu])

    def _gauge_like(self, planes: Tensor) -> Tensor:
        """Return the gauge transformation with an axis for the batch, in the precision of some planes."""
        assert self.gauge is not None
        return self.gauge.to(planes).unsqueeze(self.links.lie.n_plane_axes)

    def __str__(self) -> str:
        parts = [str(self.spatial).replace("phi", "U")]
        parts += ["conjugated"] if self.conjugated else []
        parts += ["transformed locally"] if self.gauge is not None else []
        return ", ".join(parts)
