"""Vector fields of SU(N) links: functions of Wilson loops and ladders of links, with closed divergence.

Start at `SUNField`, the default on links in SU(N).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from equiflow.nn.time import ChebyshevBasis
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_on
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.resizing import space_on
from equiflow.theories.base.space import Space
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.loops import Step, add_loop_gradient, loop_rate, rectangle, transporter
from equiflow.vector_fields.base import VectorField
from equiflow.vector_fields.gauge_functions import LoopFunctions, powers_up_to
from equiflow.vector_fields.gauge_ladder_terms import LadderTerms
from equiflow.vector_fields.gauge_ladders import Ladders
from equiflow.vector_fields.gauge_strips import SHORTEST, StripTerms

#: sides of the rectangles that have a name
_RECTANGLES = {"plaquette": ((1, 1),), "rectangle": ((1, 2), (2, 1)), "square": ((2, 2),)}
#: the loops whose functions a potential can contain
SHAPES = (*_RECTANGLES, "chair")


class SUNField(VectorField):
    r"""`v = grad Phi + ladders + strips`: a gradient of functions of Wilson loops, and what is sent further.

    With `w + i z = tr(loop) / N` for the loops of each shape s,

        Phi = sum_s sum_(loops of shape s) F_s(w, z; t),
        F_s = sum_jk a_sjk(t) w^j z^2k,    1 <= j + 2k <= degree.

    Loops see no gauge transformation, and even powers of z no charge conjugation. `w^2 + z^2` and `w^2 - z^2`
    are `|tr P|^2` and, for N = 2 and 3, `Re tr P^2` but for lower powers. For SU(2), `z = 0`.

    With `sum_a T_a T_a = -C` and `C = (N^2 - 1) / (2N)`, each of the l links of a loop contributes alike to
    the divergence of the first term, which is the Laplacian of Phi:

        div grad Phi = sum_s l_s sum_loops [ -C (F_w w + F_z z) + F_ww |dw|^2 + 2 F_wz dw . dz + F_zz |dz|^2 ]

    with the derivatives dw and dz by one link. The term w of plaquettes contains the gradient flow of the
    Wilson action, a trivialising map to first order in beta.

    A gradient moves neighbours of a plaquette along with it. In two dimensions, where plaquettes are nearly
    independent, that is what limits such flows. The second term, if `reach` is not 0, lets a plaquette move
    alone: it turns all links of a ladder in parallel, see `Ladders` and `LadderTerms`. The product of the
    plaquettes of a ladder is fixed while its rungs turn, and the weaker the coupling, the farther that
    correlates them. The third term, if `strips` is not 0, lets strips of plaquettes turn the rungs at their
    ends, see `StripTerms`.

    All divergences are closed. The terms cost O(V), O(V reach) and O(V strips). The velocity is linear in all
    weights. An untrained field stands still.

    Args:
        links: `Links(lattice, "SU(N)")`.
        group: by default the whole symmetry group of the links.
        shapes: names of the loops, of "plaquette", "rectangle" (1 x 2), "square" (2 x 2) and, from three
            dimensions on, "chair" (a bent rectangle).
        degree: largest degree of the polynomials F.
        reach: largest distance of ladders, at most half of a side, 0 for none; they suit two dimensions and
            `fit_by_continuity`, and half of the shortest side stays half of it on other lattices.
        strips: number of plaquettes of the longest strips, 0 for none, less than a side; they suit large beta
            beside ladders, and take several hundred weights.
        n_time_modes: number of polynomials in flow time of the weights.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the links are not in SU(N), the group acts on other links, a shape is unknown, a side
            of the lattice is so short that a loop meets itself or a ladder, or a number is out of range.

    References:
        arXiv:2212.08469 (gradients of Wilson loops as flows), arXiv:0907.5491 (trivialising maps).

    >>> field = SUNField(Links(Lattice((4, 4)), "SU(2)"))
    >>> links = field.space.probes(3).to(torch.complex64)
    >>> velocity, divergence = field.velocity_and_divergence(links, 0.5)
    >>> velocity.shape, divergence.shape
    (torch.Size([3, 2, 3, 4, 4]), torch.Size([3]))
    """

    space: Links
    wants_least_squares = True

    def __init__(
        self,
        links: Links,
        *,
        group: Group | None = None,
        shapes: tuple[str, ...] = ("plaquette", "rectangle"),
        degree: int = 3,
        reach: int = 0,
        strips: int = 0,
        n_time_modes: int = 4,
    ) -> None:
        check_type(links, Links, "links", 'Write Links(Lattice((8, 8)), "SU(3)").')
        if links.is_flat:
            raise ValueError(f"SUNField moves links in SU(N), got {links.group}; use U1Field.")
        super().__init__(group_on(links, group, "field"))
        self.shapes, farthest = tuple(shapes), min(links.lattice.shape) // 2
        self.reach = check_count(reach, "reach", minimum=0)
        if self.reach > farthest:
            raise ValueError(f"reach must be at most half a side, {farthest}, got {self.reach}.")
        self._record(shapes=self.shapes)
        self.strips = check_count(strips, "strips", minimum=0)
        longest = min(links.lattice.shape) - 1
        if self.strips and not SHORTEST <= self.strips <= longest:
            raise ValueError(
                f"strips must be 0 or from {SHORTEST} to a side less one, {longest}, got {self.strips}."
            )
        self.loops = [_loops(links.lattice, shape) for shape in self.shapes]
        if not self.shapes:
            raise ValueError(f"Expected at least one shape of {', '.join(SHAPES)}, got none.")
        self.powers = powers_up_to(check_count(degree, "degree"), with_imaginary=links.lie.n > 2)
        self.time_basis = ChebyshevBasis(n_time_modes)
        self.amplitude = nn.Parameter(torch.zeros(n_time_modes, len(self.shapes), len(self.powers)))
        self.ladder: nn.Parameter | None = None
        if self.reach:
            n_features = LadderTerms.n_features()
            self.ladder = nn.Parameter(torch.zeros(n_time_modes, n_features, len(self.powers)))
        self.strip: nn.Parameter | None = None
        if self.strips:
            counts = (*StripTerms.shape(self.strips), len(self.powers))
            self.strip = nn.Parameter(torch.zeros(n_time_modes, *counts))

    @classmethod
    def suits(cls, space: Space) -> bool:
        """See `VectorField.suits`; links in SU(N)."""
        return isinstance(space, Links) and not space.is_flat

    @property
    def learning_rate(self) -> float:
        """See `VectorField.learning_rate`."""
        return 2e-2

    @property
    def training_batch_size(self) -> int:
        """See `VectorField.training_batch_size`."""
        return 64

    @property
    def linear_parameters(self) -> tuple[nn.Parameter, ...]:
        """See `VectorField.linear_parameters`; all weights."""
        return tuple(p for p in (self.amplitude, self.ladder, self.strip) if p is not None)

    @full_precision
    def potential(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """Return `Phi(U, t)`, whose gradient is the velocity without ladders and strips.

        Args:
            phi: links, `(batch, *shape)`.
            t: float or 0-d tensor in [0, 1].

        Returns:
            `(batch,)`.
        """
        planes, total = self.space.planes(self.space.check(phi)), phi.real.new_zeros(len(phi))
        for paths, weights in zip(self.loops, self._at(t, self.amplitude), strict=True):
            for path in paths:
                total = total + self._seen(planes, path).value(weights).flatten(1).sum(1)
        return total

    @full_precision
    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""
        return self._velocity_and_divergence(phi, t, alone=True)[0]

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        return self._velocity_and_divergence(phi, t, alone=False)

    def _velocity_and_divergence(
        self, phi: Tensor, t: Tensor | float, *, alone: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity, and the divergence if the velocity is not asked for alone."""
        lie, planes = self.space.lie, self.space.planes(self.space.check(phi))
        gradient: list[Any] = [0.0] * len(planes)
        divergence = phi.real.new_zeros(len(phi))
        for paths, weights in zip(self.loops, self._at(t, self.amplitude), strict=True):
            for path in paths:
                seen = self._seen(planes, path)
                add_loop_gradient(lie, planes, path, seen.gradient(weights), gradient)
                if not alone:
                    divergence = divergence + len(path) * seen.bend(weights).flatten(1).sum(1)
        for parameter, sent in self._sent(planes):
            weights = self._at(t, parameter)
            for rung, terms in sent:
                moved, its_divergence = terms.velocity(weights, alone=alone)
                gradient[rung] = gradient[rung] + moved
                divergence = divergence + its_divergence
        return self.space.from_vectors(tuple(gradient)), divergence

    @torch.no_grad()
    def parameter_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> Tensor:
        """See `VectorField.parameter_rates`; in closed form."""
        if not all(p.requires_grad for p in self.parameters()):
            return super().parameter_rates(phi, t, score)
        lie, planes = self.space.lie, self.space.planes(self.space.check(phi))
        vectors, rates = self.space.vectors(score), []
        for paths in self.loops:
            of_shape = []
            for path in paths:
                seen, turn = self._seen(planes, path), loop_rate(lie, planes, path, vectors)
                overlaps = [(vector * turn).sum(0) for vector in seen.vectors]
                of_shape.append(torch.stack(seen.rates(overlaps, float(len(path))), 1))
            rates.append(torch.stack(of_shape).sum(0))
        every = [torch.stack(rates, 1)]
        for _, sent in self._sent(planes):
            every.append(torch.stack([terms.rates(vectors[rung]) for rung, terms in sent]).sum(0))
        time = self.time_basis(t)
        return torch.cat([torch.einsum("j,bq->bjq", time, part.flatten(1)).flatten(1) for part in every], 1)

    @property
    def is_rough_when_resized(self) -> bool:
        """See `VectorField.is_rough_when_resized`; fields with ladders are."""
        return self.reach > 0

    def resized(self, lattice: Lattice) -> SUNField:
        """See `VectorField.resized`; the coefficients are the same on every lattice.

        Ladders that reach half of the shortest side do so on the new lattice, too. What a plaquette sends to
        the rungs beside it stays the same, and what it sends further is stretched. Strips keep their lengths,
        and those that do not fit are left out.

        Ladders carry over only roughly: rungs look at means over a row of L plaquettes, one of which is that
        which sends, and its share 1/L changes how far it moves itself. On every plaquette alike, that adds up
        with the volume. A sweep of `fit_by_continuity` on the new lattice mends it.
        """
        whole = self.reach == min(self.lattice.shape) // 2
        reach = min(lattice.shape) // 2 if whole else self.reach
        strips = min(self.strips, min(lattice.shape) - 1)
        strips = strips if strips >= SHORTEST else 0
        links: Any = space_on(self.space, lattice)
        options: dict[str, Any] = self.config() | {"reach": reach, "strips": strips}
        field = SUNField(links, group=self.group.on(links), **options)
        field = field.to(self.amplitude.device, self.amplitude.dtype)
        field.amplitude.data.copy_(self.amplitude)
        if self.ladder is not None and field.ladder is not None:
            # Profiles are polynomials of a number that is not the same beside a plaquette on every lattice.
            stretch = LadderTerms.stretch(self.reach, reach, field.ladder)
            field.ladder.data.copy_(self.ladder * stretch[:, None])
        if self.strip is not None and field.strip is not None:
            field.strip.data.copy_(self.strip[:, :, : field.strip.shape[2]])
        return field

    def _at(self, t: Tensor | float, weights: Tensor) -> Tensor:
        """Return weights at flow time `t`."""
        return torch.tensordot(self.time_basis(t), weights, 1)

    def _seen(self, planes: tuple[Tensor, ...], path: tuple[Step, ...]) -> LoopFunctions:
        """Return the functions of the loops along a path from every site."""
        return LoopFunctions.of(self.space.lie, transporter(self.space.lie, planes, path), self.powers)

    def _sent(
        self, planes: tuple[Tensor, ...]
    ) -> Iterable[tuple[nn.Parameter, Iterable[tuple[int, LadderTerms | StripTerms]]]]:
        """Yield the weights of ladders and strips, where there are any, with what they multiply."""
        if self.ladder is not None:
            yield self.ladder, self._ladders(planes)
        if self.strip is not None:
            yield self.strip, self._strips(planes)

    def _ladders(self, planes: tuple[Tensor, ...]) -> Iterable[tuple[int, LadderTerms]]:
        """Yield what plaquettes send along ladders, with the direction of the rungs."""
        lie, directions = self.space.lie, range(self.lattice.dim)
        for mu, nu in itertools.combinations(directions, 2):
            plaquette = transporter(lie, planes, rectangle(mu, nu))
            for rung, along, sign in ((mu, nu, 1.0), (nu, mu, -1.0)):
                seen = LoopFunctions.of(lie, plaquette, self.powers, sign=sign)
                ladders = Ladders(lie, planes, rung, along, self.reach)
                yield rung, LadderTerms(seen, plaquette, ladders, sign=sign)

    def _strips(self, planes: tuple[Tensor, ...]) -> Iterable[tuple[int, StripTerms]]:
        """Yield the strips of the ladders, with the direction of the rungs."""
        for rung, along in itertools.permutations(range(self.lattice.dim), 2):
            yield rung, StripTerms(self.space.lie, planes, rung, along, self.strips, self.powers)


def _loops(lattice: Lattice, shape: str) -> list[tuple[Step, ...]]:
    """Return the loops of a shape from one site, each once, or raise if it is unknown or meets itself."""
    if shape not in SHAPES:
        raise ValueError(f"Unknown shape {shape!r}; expected one of {', '.join(SHAPES)}.")
    longest = max(map(max, _RECTANGLES.get(shape, ((1, 1),))))
    if min(lattice.shape) <= longest:
        raise ValueError(
            f"The loops of shape {shape!r} meet themselves on the lattice {lattice.shape}; expected sides of "
            f"{longest + 1} or more."
        )
    if shape != "chair":
        planes = itertools.combinations(range(lattice.dim), 2)
        return [rectangle(mu, nu, r, t) for mu, nu in planes for r, t in _RECTANGLES[shape]]
    if lattice.dim < 3:
        raise ValueError(f"A chair needs three dimensions or more, got the lattice {lattice.shape}.")
    # Two plaquettes at a right angle, without the link (of direction nu) that they share.
    return [
        ((mu, s), (nu, 1), (mu, -s), (rho, r), (nu, -1), (rho, -r))
        for nu in range(lattice.dim)
        for mu, rho in itertools.combinations([k for k in range(lattice.dim) if k != nu], 2)
        for s, r in itertools.product((1, -1), repeat=2)
    ]
