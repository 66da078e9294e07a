"""The part of a velocity by which strips of plaquettes turn the links at their ends: `StripTerms`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.theories.gauge.lie_group import LieGroup
from equiflow.theories.gauge.loops import shifted
from equiflow.vector_fields.gauge_functions import LoopFunctions, Powers
from equiflow.vector_fields.gauge_ladders import frames_along

#: what a rung at an end of a strip looks at: powers of w of the plaquettes beside it, outside and inside
LOOKS = ((0, 0), (1, 0), (0, 1))
#: plaquettes of the shortest strips
SHORTEST = 2


@dataclass(frozen=True)
class _Look:
    """A number S at both ends of every strip, with its derivative when the rung there is turned.

    Numbers are `(length, batch, *lattice)`, without a length at the beginning, where all strips see the same;
    derivatives `(generator, length, batch, *lattice)`.
    """

    end: Tensor
    of_end: Tensor
    beginning: Tensor
    of_beginning: Tensor


class StripTerms:
    r"""What strips of plaquettes tell the two rungs at their ends, `v = S dF` and `-S dF`.

    A strip of r plaquettes lies between the rungs x and x + r of a ladder, see `Ladders`. In the frames at
    the origins of both sides, a rung is one matrix, `G(x) = W(x) V(x) W'(x)^dagger`, and the strip is
    `G(x + r) G(x)^dagger`. So rungs are spins of a chain, a principal chiral model in one dimension, whose
    ends are tied by the holonomies of the sides, `G(x + L) = H G(x) H'^dagger`. While rungs turn, the product
    of all plaquettes of the ladder stays. That correlates plaquettes at every distance, and strips see it.

    F is a function of `w + i z = tr(strip) / N` for each r from 2 to `longest`. With S = 1, rungs follow the
    gradient of `sum_r sum_x F_r`. Else S is w of the plaquette beside the rung, outside the strip or inside.

    Args:
        lie: group of the links.
        planes: links of each direction, `(..., batch, *lattice)`.
        rung: direction of the rungs.
        along: direction of the ladders.
        longest: number of plaquettes of the longest strips, from 2 to the sites of a ladder less one.
        powers: of w and z in F, see `LoopFunctions`.
    """

    def __init__(
        self, lie: LieGroup, planes: Sequence[Tensor], rung: int, along: int, longest: int, powers: Powers
    ) -> None:
        self.lie, self.axis, self.longest = lie, along - len(planes), longest
        self.n_sites = planes[along].shape[self.axis]
        #: from the beginnings of rungs to the origin of their side, and once around the lattice
        self.frame, self.holonomy = frames_along(lie, planes[along], self.axis)
        right = [int(mu == rung) for mu in range(len(planes))]
        upper, its_holonomy = shifted(self.frame, right), shifted(self.holonomy, right)
        rungs = lie.product(lie.product(self.frame, planes[rung]), lie.dagger(upper))
        again = lie.product(lie.product(self.holonomy, self._first(rungs)), lie.dagger(its_holonomy))
        around, back = torch.cat([rungs, again], self.axis), lie.dagger(rungs)
        plaquette = lie.product(around.narrow(self.axis, 1, self.n_sites), back)
        strips = lie.product(self._at_ends(around, lie.n_plane_axes), back.unsqueeze(lie.n_plane_axes))
        #: functions of all strips, with an axis for their length before the batch
        self.seen = LoopFunctions.of(lie, strips, powers)
        self.looks = self._looks(lie.trace(plaquette), -lie.slope(plaquette))

    @staticmethod
    def shape(longest: int) -> tuple[int, int]:
        """Return the number of looks, and of lengths up to the longest."""
        return len(LOOKS), longest + 1 - SHORTEST

    def velocity(self, weights: Tensor, *, alone: bool = False) -> tuple[Tensor, Tensor]:
        """Return how the rungs turn, and the divergence.

        Args:
            weights: `(look, length, function)`.
            alone: whether the divergence is left out.

        Returns:
            Coefficients `(generator, batch, *lattice)`, and `(batch,)`.
        """
        ends: Any = 0.0
        beginnings: Any = 0.0
        divergence = self.seen.w.new_zeros(self.seen.w.shape[1])
        for look, its in zip(self.looks, weights.to(self.seen.w), strict=True):
            # One number for each function and length.
            each = its.mT.reshape(*its.shape[::-1], *[1] * (self.seen.w.ndim - 1))
            vector = self.seen.gradient(each)
            ends, beginnings = ends + look.end * vector, beginnings + look.beginning * vector
            if not alone:
                change = (vector * (look.of_end - look.of_beginning)).sum(0)
                change = change + (look.end + look.beginning) * self.seen.bend(each)
                divergence = divergence + change.sum(0).flatten(1).sum(1)
        arrived = self._arrived(ends) - beginnings.sum(1)
        return self.lie.adjoint(self.lie.dagger(self.frame), arrived), divergence

    def rates(self, score: Tensor) -> Tensor:
        """Return `d/dweights (div v + v . score)`.

        Args:
            score: coefficients at the rungs, `(generator, batch, *lattice)`.

        Returns:
            `(batch, look, length, function)`.
        """
        here = self.lie.adjoint(self.frame, score)
        there, rows = self._vectors_at_ends(here), []
        for look in self.looks:
            pull = look.end * there + look.of_end - (look.beginning * here).unsqueeze(1) - look.of_beginning
            overlaps = [(vector * pull).sum(0) for vector in self.seen.vectors]
            changes = self.seen.changes(overlaps, look.end + look.beginning)
            rows.append(torch.stack([change.flatten(2).sum(2).mT for change in changes], -1))
        return torch.stack(rows, 1)

    def _looks(self, w: Tensor, slope: Tensor) -> list[_Look]:
        """Return all S, given w of the plaquette ahead of every rung and its derivative at the beginning."""
        behind = self.lie.adjoint(
            self.lie.dagger(self.holonomy), slope.narrow(self.axis, self.n_sites - 1, 1)
        )
        behind = torch.cat([behind, slope.narrow(self.axis, 0, self.n_sites - 1)], self.axis)
        # A rung that turns is the first of the plaquette ahead, and the last of the one behind.
        beside, found = ((w, -slope), (w.roll(1, self.axis), behind)), []
        for outside, inside in LOOKS:
            end, of_end = _product(beside, (outside, inside))
            beginning, of_beginning = _product(beside, (inside, outside))
            more = torch.cat([end, self._first(end)], self.axis)
            found.append(
                _Look(self._at_ends(more, 0), self._vectors_at_ends(of_end), beginning, of_beginning[:, None])
            )
        return found

    def _arrived(self, ends: Tensor) -> Tensor:
        """Return the sums at rungs of vectors at the ends of strips, the transposed of `_vectors_at_ends`."""
        both = self.n_sites + self.longest
        moved = [self._placed(its, r, both) for r, its in enumerate(ends.unbind(1), SHORTEST)]
        total = torch.stack(moved).sum(0)
        further = total.narrow(self.axis, self.n_sites, self.longest)
        again = self.lie.adjoint(self.lie.dagger(self.holonomy), further)
        return total.narrow(self.axis, 0, self.n_sites) + self._placed(again, 0, self.n_sites)

    def _placed(self, values: Tensor, at: int, length: int) -> Tensor:
        """Return values along the ladder from a position on, with zeros before and behind."""
        behind = length - at - values.shape[self.axis]
        return torch.nn.functional.pad(values, [0] * 2 * (-self.axis - 1) + [at, behind])

    def _vectors_at_ends(self, vectors: Tensor) -> Tensor:
        again = self.lie.adjoint(self.holonomy, self._first(vectors))
        return self._at_ends(torch.cat([vectors, again], self.axis), 1)

    def _at_ends(self, around: Tensor, axis: int) -> Tensor:
        """Return what stands at the ends of strips of each length, with an axis for it, given all rungs."""
        lengths = range(SHORTEST, self.longest + 1)
        return torch.stack([around.narrow(self.axis, r, self.n_sites) for r in lengths], axis)

    def _first(self, values: Tensor) -> Tensor:
        return values.narrow(self.axis, 0, self.longest)


def _product(beside: tuple[tuple[Tensor, Tensor], ...], powers: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return a product of powers of two numbers and its derivative, given theirs."""
    (a, of_a), (b, of_b), (j, k) = *beside, powers
    slope = torch.zeros_like(of_a)
    if j:
        slope = slope + j * a ** (j - 1) * b**k * of_a
    if k:
        slope = slope + k * a**j * b ** (k - 1) * of_b
    return a**j * b**k, slope
