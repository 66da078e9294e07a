"""Functions of a site's channels, with the trace of their Jacobian against any matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from equiflow.nn.pointwise.features import SineFeatures


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


class SinePointwise(Pointwise):
    """`G_c(u) = sum_f a_cf h_f(u_c)`, each channel by itself; odd, so that Z2 holds, if `odd`.

    Args:
        n_channels: number of channels.
        dim: dimension of the lattice.
        n_frequencies: sine features of each channel (as many cosine ones besides, unless odd).
        max_frequency: largest initial frequency.
        odd: whether `G(-u) = -G(u)`.
    """

    def __init__(
        self,
        n_channels: int,
        dim: int,
        *,
        n_frequencies: int = 8,
        max_frequency: float = 8.0,
        odd: bool = True,
    ) -> None:
        super().__init__()
        self.features = SineFeatures(n_frequencies, dim, max_frequency=max_frequency, odd=odd)
        self.weight = nn.Parameter(torch.zeros(n_channels, len(self.features)))

    def forward(self, u: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """See `Pointwise.forward`."""
        features = self.features(u)
        value = torch.einsum("bcf...,cf->bc...", features.value, self.weight)
        diagonal = self.weight * overlap.diagonal().unsqueeze(1)
        return value, torch.einsum("bcf...,cf->b...", features.first, diagonal)
