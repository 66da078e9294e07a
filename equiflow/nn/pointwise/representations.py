"""Pointwise functions that commute with a group acting on channels by signed permutations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from equiflow.nn.pointwise.base import Pointwise
from equiflow.runtime.checks import check_type


class FieldwisePointwise(Pointwise):
    r"""One function for each field of channels: sines, or a radial function if the group changes signs.

    If a field has one channel, or if the group only permutes its channels, then
    `G_c(u) = sin(w u_c) / w + a (1 - cos(w u_c)) / w`. For all other fields,
    `G_c(u) = u_c exp(-w^2 |u|^2 / 2)` with the norm `|u|` of the field. All have slope 1 at u = 0, and all
    but the cosines are odd. Each field has its own frequency w.

    Args:
        sizes: number of channels of each field, in the order of the channels.
        permutes: for each field, whether the group acts on it without signs.
        dim: dimension of the lattice.
        copies: how often this list of fields is repeated. The frequencies of the copies are spread evenly
            on (0, max_frequency].
        max_frequency: largest initial frequency.
        odd: whether `G(-u) = -G(u)`. If not, the fields without signs also have cosines.

    Raises:
        TypeError: if `max_frequency` is not a number.
        ValueError: if `max_frequency` is not positive and finite.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        permutes: Sequence[bool],
        dim: int,
        *,
        copies: int = 1,
        max_frequency: float = 8.0,
        odd: bool = True,
    ) -> None:
        super().__init__()
        check_type(max_frequency, (float, int), "max_frequency")
        if not 0 < max_frequency < math.inf:
            raise ValueError(f"Expected max_frequency > 0, finite; got {max_frequency}.")
        self.dim = dim
        unsigned = torch.tensor(list(permutes) * copies)
        radial = ~unsigned & (torch.tensor(list(sizes) * copies) > 1)
        field_of = torch.arange(len(unsigned)).repeat_interleave(torch.tensor(list(sizes) * copies))
        start = torch.arange(1, copies + 1) * (max_frequency / copies)
        self.omega = nn.Parameter(start.repeat_interleave(len(sizes)).to(torch.get_default_dtype()))
        n_even = 0 if odd else int(unsigned.sum())
        self.even = nn.Parameter(torch.zeros(n_even)) if n_even else None
        self.register_buffer("_field", field_of, False)
        self.register_buffer("_wave", (~radial[field_of]).nonzero().flatten(), False)
        self.register_buffer("_radial", radial[field_of].nonzero().flatten(), False)
        self.register_buffer("_unsigned", unsigned.nonzero().flatten(), False)

    _field: Tensor
    _wave: Tensor
    _radial: Tensor
    _unsigned: Tensor

    def forward(self, u: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """See `Pointwise.forward`."""
        channel = u.dim() - self.dim - 1
        if not len(self._radial):
            return self._waves(u, overlap, self._wave)
        if not len(self._wave):
            return self._radials(u, overlap, self._radial)
        wave, of_wave = self._waves(u.index_select(channel, self._wave), overlap, self._wave)
        radial, of_radial = self._radials(u.index_select(channel, self._radial), overlap, self._radial)
        order = torch.cat([self._wave, self._radial]).argsort()
        return torch.cat([wave, radial], channel).index_select(channel, order), of_wave + of_radial

    def _waves(self, u: Tensor, overlap: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Return sines and cosines of the given channels, and their trace."""
        field = self._field[channels]
        omega = self._along(self.omega[field])
        weight = self._along(overlap.diagonal()[channels])
        angle = omega * u
        value, slope = angle.sin(), angle.cos()
        if self.even is not None:
            of_field = self.even.new_zeros(len(self.omega)).index_copy(0, self._unsigned, self.even)
            even = self._along(of_field[field])
            value, slope = value + even * (1 - slope), slope + even * value
        return value / omega, (weight * slope).sum(-self.dim - 1)

    def _radials(self, u: Tensor, overlap: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Return radial functions of the given channels, and their trace.

        `dG_c/du_c' = g (delta_cc' - w^2 u_c u_c')` within a field, where g is the Gaussian.
        """
        fields, field = self._field[channels].unique(return_inverse=True)
        axis = u.dim() - self.dim - 1
        norm = u.new_zeros(*u.shape[:axis], len(fields), *u.shape[axis + 1 :])
        norm = norm.index_add(axis, field, u.square())
        omega2 = self._along(self.omega[self._field[channels]].square())
        gaussian = (-0.5 * omega2 * norm.index_select(axis, field)).exp()
        own = overlap[channels][:, channels] * (field[:, None] == field)
        mixed = torch.einsum("cd,...dx->...cx", own, u.flatten(-self.dim)).view_as(u)
        trace = gaussian * (self._along(own.diagonal()) - omega2 * u * mixed)
        return u * gaussian, trace.sum(axis)

    def _along(self, per_channel: Tensor) -> Tensor:
        """Return numbers per channel in a shape that broadcasts over sites."""
        return per_channel.reshape(-1, *(1,) * self.dim)
