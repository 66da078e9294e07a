"""Sitewise features `h_f(phi_x)` with derivatives in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FeatureValues:
    """Features and their first two derivatives, each `(batch, feature, *lattice)`."""

    value: Tensor
    first: Tensor
    second: Tensor


class SineFeatures(nn.Module):
    """`phi` and `sin(omega_f phi) / omega_f`; without Z2 also `1` and `(1 - cos(omega_f phi)) / omega_f`.

    All of the first kind are odd, which makes a field built on them odd under phi -> -phi. The scale
    `1/omega` gives every sine the slope 1 at phi = 0.

    Args:
        n_frequencies: number of learnable frequencies omega_f.
        dim: dimension of the lattice.
        max_frequency: initial frequencies are spread evenly on (0, max_frequency].
        odd: whether only odd features are kept.

    Raises:
        ValueError: if there is less than one frequency or `max_frequency` is not positive.
    """

    def __init__(
        self, n_frequencies: int, dim: int, *, max_frequency: float = 6.0, odd: bool = True
    ) -> None:
        super().__init__()
        if n_frequencies < 1 or not max_frequency > 0:
            raise ValueError(
                "SineFeatures needs n_frequencies >= 1 and max_frequency > 0; "
                f"got {n_frequencies} and {max_frequency}."
            )
        self.odd = odd
        self.dim = dim
        self.n_frequencies = n_frequencies
        start = torch.arange(1, n_frequencies + 1) * (max_frequency / n_frequencies)
        self.omega = nn.Parameter(start.to(torch.get_default_dtype()))

    def __len__(self) -> int:
        return (1 + self.n_frequencies) * (1 if self.odd else 2)

    def _angles(self, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        phi = phi.unsqueeze(-self.dim - 1)
        omega = self.omega.reshape(-1, *(1,) * self.dim)
        return phi, omega, omega * phi

    def forward(self, phi: Tensor) -> Tensor:
        """Feature values, `(batch, feature, *lattice)`."""
        phi, omega, angle = self._angles(phi)
        odd = [phi, angle.sin() / omega]
        even = [] if self.odd else [torch.ones_like(phi), (1 - angle.cos()) / omega]
        return torch.cat(odd + even, -self.dim - 1)

    def with_derivatives(self, phi: Tensor) -> FeatureValues:
        """Values, first and second derivatives, sharing one sine and one cosine."""
        phi, omega, angle = self._angles(phi)
        sin, cos = angle.sin(), angle.cos()
        one, zero = torch.ones_like(phi), torch.zeros_like(phi)
        value, first, second = [phi, sin / omega], [one, cos], [zero, -omega * sin]
        if not self.odd:
            value += [one, (1 - cos) / omega]
            first += [zero, sin]
            second += [zero, omega * cos]
        axis = -self.dim - 1
        return FeatureValues(
            torch.cat(value, axis), torch.cat(first, axis), torch.cat(second, axis)
        )
