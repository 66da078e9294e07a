"""Functions of channels in irreducible representations: each block is scaled by invariants of all blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from equiflow.nn.pointwise.base import Pointwise
from equiflow.runtime.checks import check_type


class GatedPointwise(Pointwise):
    r"""Gated blocks `G_i(u) = g_i u_i` with `g_i = sum_k W_ik s(|u_k|^2)` and `s(q) = q / (1 + q)`.

    Each `u_i` is a block of channels on which the point group acts by an orthogonal matrix, and `G` commutes
    with every such action (gates as in arXiv:1807.02547). s is bounded, so G grows no faster than u and a
    flow along it exists at all times. Scalars also get `sin(omega_i u_i) / omega_i`. G is odd; without Z2,
    scalars get an even part as well, `b_i (1 - cos(omega_i u_i)) / omega_i + c_i`.

    Args:
        sizes: number of channels of each block, scalars (of size 1) first.
        max_frequency: the initial frequencies of the scalars are spread evenly on (0, max_frequency].
        odd: whether `G(-u) = -G(u)`.

    Raises:
        TypeError: if `max_frequency` is not a number.
        ValueError: if `max_frequency` is not positive and finite.
    """

    def __init__(self, sizes: Sequence[int], *, max_frequency: float = 8.0, odd: bool = True) -> None:
        super().__init__()
        check_type(max_frequency, (float, int), "max_frequency")
        if not 0 < max_frequency < math.inf:
            raise ValueError(f"Expected max_frequency > 0, finite; got {max_frequency}.")
        dtype = torch.get_default_dtype()
        n_blocks, self.n_scalars = len(sizes), sum(size == 1 for size in sizes)
        block = torch.repeat_interleave(torch.arange(n_blocks), torch.tensor(sizes))
        members = (block == torch.arange(n_blocks)[:, None]).to(dtype)
        self.register_buffer("_block", block, False)
        self.register_buffer("_members", members, False)
        # Not zero: the kernels after them start at zero, and together both would never move.
        noise = torch.randn(n_blocks, n_blocks, generator=torch.Generator().manual_seed(0), dtype=dtype)
        self.gate = nn.Parameter(noise / n_blocks**0.5)
        start = torch.arange(1, self.n_scalars + 1) * (max_frequency / max(self.n_scalars, 1))
        self.omega = nn.Parameter(start.to(dtype))
        self.even = None if odd else nn.Parameter(torch.zeros(2, self.n_scalars, dtype=dtype))

    _block: Tensor
    _members: Tensor

    def forward(self, u: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """See `Pointwise.forward`."""
        batch_last = u.movedim(0, -1)  # the layout of `Stencil`, so nothing is copied
        sites, u = batch_last.shape[1:], batch_last.flatten(1)
        weight = self.gate.index_select(0, self._block)
        damping = 1 / (1 + self._members @ u.square())
        saturated = 1 - damping
        value = u * (weight @ saturated)
        # d(g_i u_i) = g_i du_i + u_i sum_k W_ik s'(q_k) 2 u_k . du_k, contracted with the overlaps.
        mixed = (weight.index_select(1, self._block) * overlap).mT @ u
        through = self._members @ (u * mixed)
        trace = (overlap.diagonal() @ weight) @ saturated + 2 * (damping.square() * through).sum(0)
        sine, its_trace = self._sines(u[: self.n_scalars], overlap)
        value = torch.cat([value[: self.n_scalars] + sine, value[self.n_scalars :]])
        return value.view(-1, *sites).movedim(-1, 0), (trace + its_trace).view(sites).movedim(-1, 0)

    def _sines(self, scalar: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Return the functions of each scalar by itself, and their trace against the overlaps."""
        omega = self.omega[:, None]
        sine, cosine = (omega * scalar).sin(), (omega * scalar).cos()
        diagonal = overlap.diagonal()[: self.n_scalars]
        value, trace = sine / omega, diagonal @ cosine
        if self.even is not None:
            b, c = self.even[..., None].unbind()
            value = value + b * (1 - cosine) / omega + c
            trace = trace + (diagonal * self.even[0]) @ sine
        return value, trace
