"""The part of a velocity that plaquettes send along ladders, with its divergence: `LadderTerms`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.vector_fields.gauge_functions import LoopFunctions, slopes_of
from equiflow.vector_fields.gauge_ladders import Ladders

#: powers of w that rungs look at
LOOKS = (1, 2)
#: products of looks, by the powers of both: of two means, and of a mean and a sawtooth
MEANS, TEETH = ((1, 1),), ((1, 1),)
#: profiles in the distance of what is sent
N_PROFILES = 3


@dataclass(frozen=True)
class _Look:
    """A number S at every rung h, with its derivative by the rung, `own(h) V(h) - next(h - 1) V(h - 1)`.

    V is the derivative of w of the plaquette ahead of the rung. All are `(batch, *lattice)`; `next` is kept
    at the rung h.
    """

    value: Tensor
    own: Tensor
    next: Tensor

    def __mul__(self, other: _Look) -> _Look:
        """Return the product of two numbers."""
        return _Look(
            self.value * other.value,
            self.value * other.own + other.value * self.own,
            self.value * other.next + other.value * self.next,
        )


class LadderTerms:
    """What plaquettes send along the ladders in one direction: `v_h = sum_s S_s(h) B_s(h)` at every rung h.

    B is a sum of vectors `dF` of functions F of plaquettes, sent as `Ladders` say. Its profile in the
    distance d is a polynomial in `1 - (d - 1/2) / reach`. S is one, or looks at all plaquettes of the ladder:
    it is their mean of w or `w^2`, or the mean with the kernel `1/2 - d / L` of the distance d behind the
    rung, and the opposite of it ahead, or a product of such means. So the plaquettes of a ladder do not all
    turn alike by what the others send, but as their density lets them.

    Args:
        seen: functions of the plaquettes, with derivatives when the rung behind them is turned.
        plaquette: planes of the plaquettes.
        ladders: the ladders.
        sign: see `LoopFunctions.of`.
    """

    def __init__(self, seen: LoopFunctions, plaquette: Tensor, ladders: Ladders, *, sign: float) -> None:
        self.seen, self.ladders = seen, ladders
        #: derivatives of w and z in frames, `(generator, side, batch, *lattice)` each
        self.vectors = slopes_of(ladders.lie, ladders.framed(plaquette), sign=sign)
        options: dict[str, Any] = {"dtype": seen.w.dtype, "device": seen.w.device}
        n, reach = ladders.n_sites, ladders.reach
        left = 1 - (torch.arange(reach, **options) + 0.5) / reach
        profiles = torch.stack([left**i for i in range(N_PROFILES)])  # (profile, distance)
        #: of the rungs beside a plaquette, `(profile,)`
        self.beside = profiles[:, 0]
        odd, even = (torch.einsum("pd,dhe->phe", profiles, ladders.basis(s, seen.w)) for s in (-1.0, 1.0))
        sawtooth = 0.5 - (torch.arange(n, **options) - 0.5) / n
        sawtooth[0] = 0.5 / n - 0.5  # of the plaquette ahead
        mean = self._looks(torch.full((n,), 1 / n, **options))
        # What a plaquette sends, all others share.
        tooth = self._looks(sawtooth / n)
        means = [*mean.values(), *(mean[i] * mean[j] for i, j in MEANS)]
        teeth = [*tooth.values(), *(mean[i] * tooth[j] for i, j in TEETH)]
        #: all S but the first
        self.looks = means + teeth
        #: for each S, how what is sent by plaquettes e arrives at rungs h, `(profile, h, e)`
        self.bases = [odd] * (1 + len(means)) + [even] * len(teeth)
        #: for each S, what multiplies the Laplacian of a plaquette that sends to the rungs beside it
        self.near: list[Any] = [2.0]
        self.near += [look.value + ladders.ahead(look.value) for look in means]
        self.near += [look.value - ladders.ahead(look.value) for look in teeth]

    @staticmethod
    def n_features() -> int:
        """Return the number of weights for each function."""
        return (1 + 2 * len(LOOKS) + len(MEANS) + len(TEETH)) * N_PROFILES

    @classmethod
    def stretch(cls, reach: int, new_reach: int, like: Tensor) -> Tensor:
        """Return what weights are multiplied by for another reach, `(n_features,)`.

        Profiles become functions of `(reach + 1/2 - d) / (reach - 1/2)`, one beside a plaquette.

        Args:
            reach: of the ladders so far.
            new_reach: of the other ladders.
            like: a tensor of the precision and on the device of the result.

        Returns:
            The factors.
        """
        ratio = (1 - 0.5 / reach) / (1 - 0.5 / new_reach)
        powers = torch.arange(N_PROFILES, dtype=like.dtype, device=like.device)
        return (ratio**powers).repeat(cls.n_features() // N_PROFILES)

    def velocity(self, weights: Tensor, *, alone: bool = False) -> tuple[Tensor, Tensor]:
        """Return how the rungs turn, and the divergence.

        Args:
            weights: `(n_features, function)`.
            alone: whether the divergence is left out.

        Returns:
            Coefficients `(generator, batch, *lattice)`, and `(batch,)`.
        """
        parts, ladders = weights.to(self.seen.w).unflatten(0, (-1, N_PROFILES)), self.ladders
        kernels = [torch.einsum("pf,phe->feh", its, b) for its, b in zip(parts, self.bases, strict=True)]
        # All functions and positions of a ladder at once, for all S: one product of matrices.
        arrived = self._functions() @ torch.stack(kernels, 2).flatten(0, 1).flatten(1)
        arrived = arrived.unflatten(-1, (len(parts), ladders.n_sites))
        sent = [each.movedim(-1, ladders.axis) for each in arrived.unbind(-2)]
        total, divergence = sent[0], self.seen.w.new_zeros(len(self.seen.w))
        for look, arriving in zip(self.looks, sent[1:], strict=True):
            total = total + look.value * arriving
        if not alone:
            ahead, behind = (ladders.inside(self.vectors[0], at) for at in (0, -1))
            for look, arriving in zip(self.looks, sent[1:], strict=True):
                change = look.own * (ahead * arriving).sum(0) - look.next * (behind * arriving).sum(0)
                divergence = divergence + change.mean(0).flatten(1).sum(1)
            for near, its in zip(self.near, parts, strict=True):
                divergence = divergence + (near * self.seen.bend(self.beside @ its)).flatten(1).sum(1)
        return ladders.out_of_frames(total), divergence

    def rates(self, score: Tensor) -> Tensor:
        """Return `d/dweights (div v + v . score)`.

        Args:
            score: coefficients at the rungs, `(generator, batch, *lattice)`.

        Returns:
            `(batch, n_features, function)`.
        """
        ladders, rows = self.ladders, []
        pull = ladders.into_frames(score)
        ahead, behind = (ladders.inside(self.vectors[0], at) for at in (0, -1))
        pulls = [pull] + [look.value * pull + look.own * ahead - look.next * behind for look in self.looks]
        slopes = [[ladders.around(slope) for slope in its] for its in self.seen.slopes]
        for pulled, near, basis in zip(pulls, self.near, self.bases, strict=True):
            gathered = pulled.movedim(ladders.axis, -1) @ basis.movedim(1, 0).flatten(1)
            gathered = gathered.unflatten(-1, basis.shape[::2])
            bends = [(near * bend).flatten(1).sum(1) for bend in self.seen.bends]
            for p, beside in enumerate(self.beside):
                arrived = gathered[..., p, :].movedim(-1, ladders.axis)
                overlaps = [(vector * arrived).sum(0).mean(0) for vector in self.vectors]
                for its, bend in zip(slopes, bends, strict=True):
                    value = torch.stack([o * slope for o, slope in zip(overlaps, its, strict=True)]).sum(0)
                    rows.append(value.flatten(1).sum(1) + beside * bend)
        return torch.stack(rows, 1).unflatten(1, (-1, len(slopes)))

    def _functions(self) -> Tensor:
        """Return the vectors dF in frames, `(generator, side, batch, *others, function position)`."""
        found = []
        for slopes in self.seen.slopes:
            pairs = zip(self.vectors, slopes, strict=True)
            total = torch.stack([vector * self.ladders.around(slope) for vector, slope in pairs]).sum(0)
            found.append(total.movedim(self.ladders.axis, -1))
        return torch.stack(found, -2).flatten(-2)

    def _looks(self, kernel: Tensor) -> dict[int, _Look]:
        """Return what rungs see with a kernel, by the power of w."""
        w, found = self.seen.w, {}
        for power in LOOKS:
            slope = power * w ** (power - 1)
            value = self.ladders.spread(w**power, kernel)
            found[power] = _Look(value, kernel[0] * slope, kernel[1] * self.ladders.behind(slope))
        return found
