"""The part of a velocity that plaquettes send along ladders, with its divergence: `LadderTerms`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiflow.vector_fields.gauge_functions import LoopFunctions
from equiflow.vector_fields.gauge_ladders import Ladders

#: powers of w that rungs look at
LOOKS = (1, 2)
#: profiles in the distance of what is sent to rungs that look
N_PROFILES = 2


class LadderTerms:
    """What plaquettes send along the ladders in one direction: `v_h = sum_s S_s(h) B_s(h)` at every rung h.

    B is a sum of vectors `dF` of functions F of plaquettes, sent as `Ladders` say, with a profile in the
    distance. S is one, or looks at all plaquettes of the ladder: it is the mean of w or `w^2`, or their sum
    with the kernel `1/2 - d / L` of the distance d behind the rung, and the opposite of it ahead. So the
    plaquettes of a ladder do not all turn alike by what the others send, but as their density lets them.

    Args:
        seen: functions of the plaquettes, with derivatives when the rung behind them is turned.
        ladders: the ladders.
    """

    def __init__(self, seen: LoopFunctions, ladders: Ladders) -> None:
        self.seen, self.ladders = seen, ladders
        self.sides = [ladders.sides(vector) for vector in seen.vectors]
        options: dict[str, Any] = {"dtype": seen.w.dtype, "device": seen.w.device}
        n = ladders.n_sites
        mean, sawtooth = torch.full((n,), 1 / n, **options), 0.5 - (torch.arange(n, **options) - 0.5) / n
        sawtooth[0] = 0.5 / n - 0.5  # of the plaquette ahead
        #: kernel and power of each S but the first, and what rungs ahead turn by, see `Ladders.send`
        self.looks = [(kernel, i, sign) for kernel, sign in ((mean, -1.0), (sawtooth, 1.0)) for i in LOOKS]
        distance = (torch.arange(ladders.reach, **options) + 0.5) / ladders.reach
        self.profiles = torch.stack([torch.ones_like(distance), 1 - distance])  # (profile, distance)

    @staticmethod
    def n_features(reach: int) -> int:
        """Return the number of weights for each function.

        With S = 1 each distance from two on has its own. Distance one is the gradient of the function.
        """
        return reach - 1 + 2 * len(LOOKS) * N_PROFILES

    def velocity(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return how the rungs turn, and the divergence.

        Args:
            weights: `(n_features, function)`.

        Returns:
            Coefficients `(generator, batch, *lattice)`, and `(batch,)`.
        """
        seen, ladders = self.seen, self.ladders
        own, others = weights[: ladders.reach - 1], weights[ladders.reach - 1 :]
        factors = [seen.factors(w) for w in torch.cat([torch.zeros_like(weights[:1]), own])]
        total, divergence = ladders.send(self.sides, factors, -1.0), seen.w.new_zeros(len(seen.w))
        for (kernel, power, sign), its in zip(self.looks, others.unflatten(0, (-1, N_PROFILES)), strict=True):
            by_distance = self.profiles.mT @ its
            sent = ladders.send(self.sides, [seen.factors(w) for w in by_distance], sign)
            S, gradient = self._looked(kernel, power)
            bend = seen.bend(by_distance[0])
            divergence = divergence + (S * (bend - sign * ladders.behind(bend))).flatten(1).sum(1)
            divergence = divergence + (sent * gradient).sum(0).flatten(1).sum(1)
            total = total + S * sent
        return total, divergence

    def rates(self, score: Tensor) -> Tensor:
        """Return `d/dweights (div v + v . score)`.

        Args:
            score: coefficients at the rungs, `(generator, batch, *lattice)`.

        Returns:
            `(batch, n_features, function)`.
        """
        rows = [
            self.seen.rates(overlaps, 0.0) for overlaps in self.ladders.overlaps(score, self.sides, -1.0)[1:]
        ]
        for kernel, power, sign in self.looks:
            S, gradient = self._looked(kernel, power)
            by_distance = self.ladders.overlaps(S * score + gradient, self.sides, sign)
            near = S - sign * self.ladders.ahead(S)
            for profile in self.profiles:
                overlaps = torch.einsum("d,dv...->v...", profile, by_distance)
                rows.append(self.seen.rates(tuple(overlaps), profile[0] * near))
        return torch.stack([torch.stack(row, 1) for row in rows], 1)

    def _looked(self, kernel: Tensor, power: int) -> tuple[Tensor, Tensor]:
        """Return S at every rung and its derivative by the rung."""
        w, ladders = self.seen.w, self.ladders
        slope = power * w ** (power - 1) * self.seen.vectors[0]
        return ladders.spread(w**power, kernel), kernel[0] * slope - kernel[1] * ladders.carried_ahead(slope)
