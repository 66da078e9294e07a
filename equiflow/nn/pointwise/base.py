"""The interface of functions that mix the channels of a site. Subclass `Pointwise` for one of your own."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Pointwise(nn.Module, ABC):
    """A function `G(u)` at every site, which may mix the channels but not the sites."""

    @abstractmethod
    def forward(self, u: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Return the function and the trace of its Jacobian against a matrix, which a divergence needs.

        Args:
            u: `(batch, channel, *lattice)`.
            overlap: the matrix, `(channel, channel)`.

        Returns:
            `G(u)`, `(batch, channel, *lattice)`, and `sum_cc' overlap_cc' dG_c/du_c'`, `(batch, *lattice)`.
            Both must be differentiable in u and in the parameters.
        """
