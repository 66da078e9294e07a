"""Functions of the channels of a site that are sums of ridges, with derivatives in closed form.

Start at `Ridges`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_count, check_type


class Ridges(nn.Module):
    r"""The function `F(u) = sum_j a_j (1 - cos theta_j) / omega_j^2` with `theta_j = omega_j e_j . u`.

    Each ridge varies along one direction `e_j` in the space of the channels, so F mixes the channels. F is
    even, as Z2 requires; without Z2 the angles get learnable phases. All derivatives in u are bounded, the
    slope by `|a_j / omega_j|`. As `omega_j -> 0`, an even ridge tends to `a_j (e_j . u)^2 / 2` and a ridge
    with a phase diverges.

    The caller passes the amplitudes `a_j`, because they depend on flow time. The sites of all configurations
    come last, flattened to one axis, so that every sum over channels or ridges is one matrix product.

    Args:
        n_channels: number of channels.
        n_ridges: number of ridges. They start along the axes of the channels in turn.
        max_frequency: the initial frequencies of each channel are spread evenly on (0, max_frequency].
        even: whether `F(-u) = F(u)`.

    Raises:
        TypeError: if a number is not an int, or `max_frequency` not a number.
        ValueError: if a number is less than one, or `max_frequency` is not positive and finite.
    """

    def __init__(
        self, n_channels: int, n_ridges: int, *, max_frequency: float = 8.0, even: bool = True
    ) -> None:
        super().__init__()
        check_count(n_channels, "n_channels")
        check_count(n_ridges, "n_ridges")
        check_type(max_frequency, (float, int), "max_frequency")
        if not 0 < max_frequency < math.inf:
            raise ValueError(f"Expected max_frequency > 0, finite; got {max_frequency}.")
        dtype, ridge = torch.get_default_dtype(), torch.arange(n_ridges)
        per_channel = -(-n_ridges // n_channels)
        start = (ridge // n_channels + 1) * (max_frequency / per_channel)
        self.omega = nn.Parameter(start.to(dtype))
        self.direction = nn.Parameter(torch.eye(n_channels, dtype=dtype)[ridge % n_channels])
        # The phases start at 0 and pi/2 in turn, which gives even and odd parts.
        phase = (ridge // n_channels % 2) * (math.pi / 2)
        self.phase = None if even else nn.Parameter(phase.to(dtype))

    def map_to_angles(self) -> tuple[Tensor, Tensor | None]:
        """Return W, `(ridge, channel)`, and the phase, `(ridge,)` or None, of `theta = W u + phase`."""
        return self.omega[:, None] * self.direction, self.phase

    def angles(self, u: Tensor) -> Tensor:
        """Return `theta_j`, `(ridge, site)`, for channels `(channel, site)`."""
        weight, phase = self.map_to_angles()
        return weight @ u if phase is None else weight @ u + phase[:, None]

    def value(self, cos: Tensor, amplitude: Tensor) -> Tensor:
        """Return `F(u)`.

        Args:
            cos: `cos theta_j`, `(ridge, site)`.
            amplitude: `a_j`, `(ridge,)`.

        Returns:
            `(site,)`.
        """
        return (amplitude / self.omega.square()) @ (1 - cos)

    def gradient(self, sin: Tensor, amplitude: Tensor) -> Tensor:
        """Return `dF/du_c`.

        Args:
            sin: `sin theta_j`, `(ridge, site)`.
            amplitude: `a_j`, `(ridge,)`.

        Returns:
            `(channel, site)`.
        """
        return self.slopes(amplitude) @ sin

    def slopes(self, amplitude: Tensor) -> Tensor:
        """Return `G_cj = e_jc a_j / omega_j` in `dF/du_c = sum_j G_cj sin theta_j`.

        Args:
            amplitude: `a_j`, `(ridge,)`.

        Returns:
            `(channel, ridge)`.
        """
        return (self.direction * (amplitude / self.omega)[:, None]).mT

    def curvature(self, overlap: Tensor, amplitude: Tensor) -> Tensor:
        """Return `q_j` in `sum_cc' overlap_cc' d2F/du_c du_c' = sum_j q_j cos theta_j`.

        Args:
            overlap: `(channel, channel)`.
            amplitude: `a_j`, `(ridge,)`.

        Returns:
            `(ridge,)`.
        """
        return amplitude * ((self.direction @ overlap) * self.direction).sum(1)

    def bend(self, cos: Tensor, amplitude: Tensor, gram: Tensor) -> Tensor:
        """Return `sum_cc' gram_cc' d2F/du_c du_c'` for a matrix at every site.

        Args:
            cos: `cos theta_j`, `(ridge, site)`.
            amplitude: `a_j`, `(ridge,)`.
            gram: the symmetric matrix on the pairs `c <= c'` of `torch.triu_indices`, `(pair, site)`.

        Returns:
            `(site,)`.
        """
        n_channels = self.direction.shape[1]
        c, d = torch.triu_indices(n_channels, n_channels, device=cos.device)
        pairs = self.direction[:, c] * self.direction[:, d] * (1 + (c != d)).to(cos)
        return amplitude @ (cos * (pairs @ gram))
