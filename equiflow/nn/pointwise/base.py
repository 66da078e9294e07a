"""Functions of a site's channels, with the trace of their Jacobian against any matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Pointwise(nn.Module, ABC):
    """`G(u)` at every site, which may mix the channels there, but not the sites."""

    @abstractmethod
    def forward(self, u: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """The function, and what a divergence needs of its Jacobian.

        Args:
            u: `(batch, channel, *lattice)`.
            overlap: `(channel, channel)`.

        Returns:
            `G(u)` shaped like u, and `sum_cc' overlap_cc' dG_c/du_c'`, `(batch, *lattice)`. Both must be
            differentiable in u and in the parameters.
        """
