"""Ladders of links, and frames in which vectors of the algebra are sent along them. Start at `Ladders`."""

from __future__ import annotations

from collections.abc import Sequence

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
    the holonomy of the side for what comes around the lattice. Tensors in frames have an axis for the side,
    the first before the batch.

    Args:
        lie: group of the links.
        planes: links of each direction, `(..., batch, *lattice)`.
        rung: direction of the rungs.
        along: direction of the ladders.
        reach: number of rungs on each side that a plaquette turns, at most half of the sites of a ladder.
    """

    def __init__(self, lie: LieGroup, planes: Sequence[Tensor], rung: int, along: int, reach: int) -> None:
        self.lie, self.reach, self.axis = lie, reach, along - len(planes)
        rungs, links = planes[rung], planes[along]
        right = [int(mu == rung) for mu in range(len(planes))]
        self.next = [int(mu == along) for mu in range(len(planes))]
        self.n_sites = links.shape[self.axis]
        left, holonomy = frames_along(lie, links, self.axis)
        #: from the beginning of every rung to the origins of both sides, `(..., side, batch, *lattice)`
        self.frame = self._on_sides(left, lie.product(shifted(left, right), lie.dagger(rungs)))
        self.holonomy = self._on_sides(holonomy, shifted(holonomy, right))

    def basis(self, sign: float, like: Tensor) -> Tensor:
        """Return at which rungs h arrives what plaquettes e send, `(distance, h, e)`.

        Args:
            sign: what rungs ahead of a plaquette turn by, if those behind it turn by one; -1 moves it.
            like: a tensor of the precision of the result.

        Returns:
            One for `e = h + d - 1`, sign for `e = h - d`, for distances d from 1 to `reach`; e runs over all
            positions of `around`.
        """
        place = torch.arange(self.n_sites + 2 * self.reach, device=like.device) - self.reach
        ahead = place - torch.arange(self.n_sites, device=like.device)[:, None]  # e - h
        distance = torch.arange(1, self.reach + 1, device=like.device)[:, None, None]
        before, behind = ((ahead == at).to(like.real.dtype) for at in (distance - 1, -distance))
        return before + sign * behind

    def framed(self, planes: Tensor) -> Tensor:
        """Return plaquettes, or other matrices at the beginning of rungs, in the frames of both sides.

        Args:
            planes: `(..., batch, *lattice)`.

        Returns:
            At all positions of `around`, `(..., side, batch, *lattice)`.
        """
        moved = self._conjugated(self.frame, planes.unsqueeze(self.lie.n_plane_axes))
        before = moved.narrow(self.axis, self.n_sites - self.reach, self.reach)
        before = self._conjugated(self.lie.dagger(self.holonomy), before)
        after = self._conjugated(self.holonomy, moved.narrow(self.axis, 0, self.reach))
        return torch.cat([before, moved, after], self.axis)

    def around(self, values: Tensor) -> Tensor:
        """Return scalars `(..., *lattice)` at the positions `-reach ... n_sites + reach - 1` of ladders."""
        before = values.narrow(self.axis, self.n_sites - self.reach, self.reach)
        return torch.cat([before, values, values.narrow(self.axis, 0, self.reach)], self.axis)

    def inside(self, around: Tensor, offset: int = 0) -> Tensor:
        """Return what `around` holds at a distance along the ladder from every site.

        Args:
            around: what `around` has returned.
            offset: the distance, at most the reach.

        Returns:
            As many values as there are sites along the ladder.
        """
        return around.narrow(self.axis, self.reach + offset, self.n_sites)

    def into_frames(self, vectors: Tensor) -> Tensor:
        """Return vectors at the beginning of rungs in the frames of both sides.

        Args:
            vectors: `(generator, batch, *lattice)`.

        Returns:
            `(generator, side, batch, *lattice)`.
        """
        return self.lie.adjoint(self.frame, vectors.unsqueeze(1).expand(-1, 2, *vectors.shape[1:]))

    def out_of_frames(self, vectors: Tensor) -> Tensor:
        """Return the mean of both sides of what is in frames, the transposed of `into_frames` over two.

        Args:
            vectors: `(generator, side, batch, *lattice)`.

        Returns:
            `(generator, batch, *lattice)`.
        """
        return self.lie.adjoint(self.lie.dagger(self.frame), vectors).mean(1)

    def spread(self, values: Tensor, kernel: Tensor) -> Tensor:
        """Return `sum_e k(h - e) values(e)` over the plaquettes e of the ladder of every rung h.

        Args:
            values: `(batch, *lattice)`.
            kernel: k for differences from 0 to the length of the ladder, `(n_sites,)`.

        Returns:
            `(batch, *lattice)`.
        """
        place = torch.arange(self.n_sites, device=values.device)
        return self.along(values, kernel[(place[:, None] - place) % self.n_sites])

    def along(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Apply a matrix along the ladders.

        Args:
            values: `(..., *lattice)`.
            matrix: `(position, position)`.

        Returns:
            Like `values`, at the positions of the rows of the matrix.
        """
        return (values.movedim(self.axis, -1) @ matrix.mT).movedim(-1, self.axis)

    def behind(self, values: Tensor) -> Tensor:
        """Return values of plaquettes at the rungs ahead of them, `(..., batch, *lattice)`."""
        return shifted(values, [-side for side in self.next])

    def ahead(self, values: Tensor) -> Tensor:
        """Return values of rungs at the plaquettes behind them, `(..., batch, *lattice)`."""
        return shifted(values, self.next)

    def _on_sides(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.stack([left, right], self.lie.n_plane_axes)

    def _conjugated(self, frame: Tensor, planes: Tensor) -> Tensor:
        return self.lie.product(self.lie.product(frame, planes), self.lie.dagger(frame))


def frames_along(lie: LieGroup, links: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return products of links from the origin of every line to its sites.

    Args:
        lie: group of the links.
        links: those along the lines, `(..., batch, *lattice)`.
        axis: of the lines, negative.

    Returns:
        `W(x) = U(0) U(1) ... U(x - 1)`, like `links`, and the product of all, with one site along the axis.
    """
    steps = list(links.unbind(axis))
    frames = [lie.identity(tuple(steps[0].shape[lie.n_plane_axes :]), steps[0])]
    for step in steps:
        frames.append(lie.product(frames[-1], step))
    return torch.stack(frames[:-1], axis), frames[-1].unsqueeze(axis)
