"""What plaquettes send along ladders of links, parallel transported. Start at `Ladders`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from equiflow.theories.gauge.lie_group import LieGroup
from equiflow.theories.gauge.loops import shifted


class Ladders:
    r"""The ladders of plaquettes along one axis, whose rungs are the links of another direction.

    A plaquette sends a vector of the algebra along its ladder, and rungs turn by what arrives. Where the
    vector is the same at two rungs in a row, the plaquette between them turns as a whole, and no trace
    changes. So a plaquette moves if the rungs behind it turn otherwise than those ahead, and it moves alone.

    A vector is transported along either side of the ladder, and the mean is taken. In the frame at the origin
    of a side, `Ad(W(x)) v(x)` with `W(x) = U(0) U(1) ... U(x - 1)`, transport is nothing but a shift, up to
    the holonomy of the side for what comes around the lattice.

    Args:
        lie: group of the links.
        planes: links of each direction, `(..., batch, *lattice)`.
        rung: direction of the rungs.
        along: direction of the ladders.
        reach: number of rungs on each side that a plaquette turns, at most half of the sites of a ladder.
    """

    def __init__(self, lie: LieGroup, planes: Sequence[Tensor], rung: int, along: int, reach: int) -> None:
        self.lie, self.reach, self.axis = lie, reach, along - len(planes)
        self.rungs, self.links = planes[rung], planes[along]
        self.right = [int(mu == rung) for mu in range(len(planes))]
        self.next = [int(mu == along) for mu in range(len(planes))]
        self.n_sites = self.links.shape[self.axis]
        steps = list(self.links.unbind(self.axis))
        frames = [lie.identity(tuple(steps[0].shape[lie.n_plane_axes :]), steps[0])]
        for step in steps:
            frames.append(lie.product(frames[-1], step))
        self.frame = torch.stack(frames[:-1], self.axis)
        self.holonomy = frames[-1].unsqueeze(self.axis)

    def sides(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors at the beginning of rungs as they are sent along the left and the right side."""
        left, right = (self._around(self._in_frames(vectors, right)) for right in (False, True))
        return left, right

    def send(
        self, sides: Sequence[tuple[Tensor, Tensor]], factors: Sequence[Sequence[Tensor]], sign: float
    ) -> Tensor:
        """Return how the rungs turn.

        Args:
            sides: vectors from `sides`.
            factors: for the distances from 1 to `reach`, what each of the vectors is multiplied by at its
                plaquette, `(batch, *lattice)`.
            sign: what rungs ahead of a plaquette turn by, if those behind it turn by one; -1 moves it.

        Returns:
            Coefficients of the velocity of the rungs, `(generator, batch, *lattice)`.
        """
        found = []
        for right in (False, True):
            arrived: Any = 0.0
            for distance, its in enumerate(factors, 1):
                pairs = zip(sides, its, strict=True)
                sent = torch.stack([vector[right] * self._beside(factor, right) for vector, factor in pairs])
                sent = sent.sum(0)
                arrived = arrived + self._at(sent, distance - 1) + sign * self._at(sent, -distance)
            found.append(self._at_rungs(arrived, right))
        return (found[0] + found[1]) / 2

    def overlaps(self, velocity: Tensor, sides: Sequence[tuple[Tensor, Tensor]], sign: float) -> Tensor:
        """Return the transposed of `send`: `v . send(sides, c, sign) = sum_db sum_x c_db overlaps_db`.

        Args:
            velocity: coefficients v at the rungs, `(generator, batch, *lattice)`.
            sides: vectors from `sides`.
            sign: see `send`.

        Returns:
            Numbers at the plaquettes, `(distance, vector, batch, *lattice)`.
        """
        arrived, found = self.sides(velocity), []
        own = [[self._at(vector, 0) for vector in pair] for pair in sides]
        for n in range(self.reach):
            pulls = [self._at(around, -n) + sign * self._at(around, n + 1) for around in arrived]
            for left, right in own:
                on_the_right = shifted((right * pulls[1]).sum(0), self.right)
                found.append(((left * pulls[0]).sum(0) + on_the_right) / 2)
        return torch.stack(found).unflatten(0, (self.reach, len(own)))

    def spread(self, values: Tensor, kernel: Tensor) -> Tensor:
        """Return `sum_e k(h - e) values(e)` over the plaquettes e of the ladder of every rung h.

        Args:
            values: `(batch, *lattice)`.
            kernel: k for differences from 0 to the length of the ladder, `(n_sites,)`.

        Returns:
            `(batch, *lattice)`.
        """
        place = torch.arange(self.n_sites, device=values.device)
        matrix = kernel[(place[:, None] - place) % self.n_sites]  # (h, e)
        return (values.movedim(self.axis, -1) @ matrix.mT).movedim(-1, self.axis)

    def behind(self, values: Tensor) -> Tensor:
        """Return values of plaquettes at the rungs ahead of them, `(..., batch, *lattice)`."""
        return shifted(values, [-side for side in self.next])

    def ahead(self, values: Tensor) -> Tensor:
        """Return values of rungs at the plaquettes behind them, `(..., batch, *lattice)`."""
        return shifted(values, self.next)

    def carried_ahead(self, vectors: Tensor) -> Tensor:
        """Return the vectors of plaquettes, which commute with them, at the rungs ahead of them."""
        return self.behind(self.lie.adjoint(self.lie.dagger(self.links), vectors))

    def _beside(self, values: Tensor, right: bool) -> Tensor:
        """Return scalars at the positions of `_around`."""
        values = shifted(values, [-side for side in self.right]) if right else values
        before = values.narrow(self.axis, self.n_sites - self.reach, self.reach)
        return torch.cat([before, values, values.narrow(self.axis, 0, self.reach)], self.axis)

    def _in_frames(self, vectors: Tensor, right: bool) -> Tensor:
        """Return vectors at the beginning of rungs in the frames of one of their sides."""
        if right:
            moved = self.lie.adjoint(self.lie.dagger(self.rungs), vectors)
            vectors = shifted(moved, [-side for side in self.right])
        return self.lie.adjoint(self.frame, vectors)

    def _at_rungs(self, vectors: Tensor, right: bool) -> Tensor:
        """Return vectors in frames at the beginning of their rungs, the inverse of `_in_frames`."""
        vectors = self.lie.adjoint(self.lie.dagger(self.frame), vectors)
        return self.lie.adjoint(self.rungs, shifted(vectors, self.right)) if right else vectors

    def _around(self, vectors: Tensor) -> Tensor:
        """Return vectors in frames at the positions `-reach ... n_sites + reach - 1` of the ladder."""
        before = vectors.narrow(self.axis, self.n_sites - self.reach, self.reach)
        after = vectors.narrow(self.axis, 0, self.reach)
        before = self.lie.adjoint(self.lie.dagger(self.holonomy), before)
        return torch.cat([before, vectors, self.lie.adjoint(self.holonomy, after)], self.axis)

    def _at(self, around: Tensor, distance: int) -> Tensor:
        """Return what is at a distance along the ladder from every site."""
        return around.narrow(self.axis, self.reach + distance, self.n_sites)
