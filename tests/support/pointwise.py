"""A pointwise function that only tests need: sines of each channel by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equiflow.nn.pointwise.base import Pointwise
from equiflow.nn.pointwise.features import SineFeatures


class SinePointwise(Pointwise):
    """`G_c(u) = sum_f a_cf h_f(u_c)`: each channel is mapped by itself. It keeps Z2 if `odd`.

    Args:
        n_channels: number of channels.
        dim: dimension of the lattice.
        n_frequencies: number of sine features of each channel, and of cosine features unless `odd`.
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
