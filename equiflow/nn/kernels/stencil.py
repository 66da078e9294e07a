"""Convolutions with kernels of small support, between any numbers of channels.

Start at `Stencil`, which gathers the neighbours of all sites and then takes one matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equiflow.theories.base.lattice import Lattice

#: Most offsets for which gathering is faster than FFTs in three dimensions (measured at L = 6 and 8).
MAX_OFFSETS = 64
#: Most sites for which it is faster in fewer dimensions (measured for 9 to 49 offsets, L = 8 to 64).
MAX_SITES = 100


def stencil_for(lattice: Lattice, support: Tensor) -> Stencil | None:
    """Choose between a stencil and FFTs for kernels of a given support.

    Args:
        lattice: where the fields live.
        support: the offsets at which a kernel may differ from zero, `(*lattice)` bool.

    Returns:
        A stencil of these offsets, or None if FFTs are faster.
    """
    few = int(support.sum()) <= MAX_OFFSETS and (lattice.dim > 2 or lattice.volume <= MAX_SITES)
    return Stencil(lattice, support.nonzero()) if few else None


class Stencil(nn.Module):
    """Convolution with kernels that live on a few offsets.

    In memory the batch comes last, so that neighbours are gathered in whole rows. Results are views on such
    memory, so a chain of stencils and pointwise functions copies nothing.

    Args:
        lattice: where the fields live.
        offsets: `(offset, dim)` integers. Several of them may be equal modulo the lattice.
    """

    def __init__(self, lattice: Lattice, offsets: Tensor) -> None:
        super().__init__()
        self.lattice = lattice
        site = torch.arange(lattice.volume).view(lattice.shape)
        places = [x.flatten() for x in torch.meshgrid(*map(torch.arange, lattice.shape), indexing="ij")]

        def moved(sign: int) -> Tensor:
            """Return the index of the site `x + sign o`, `(offset, V)`."""
            axes = zip(places, offsets.unbind(1), lattice.shape, strict=True)
            return site[tuple((x + sign * o.unsqueeze(1)) % n for x, o, n in axes)]

        self.register_buffer("_offsets", moved(1)[:, 0], False)
        self.register_buffer("_behind", moved(-1), False)
        self.register_buffer("_ahead", moved(1), False)

    _offsets: Tensor
    _behind: Tensor
    _ahead: Tensor

    def restrict(self, kernels: Tensor) -> Tensor:
        """Return the values of kernels `(channel, *lattice)` on the offsets, `(channel, offset)`."""
        return kernels.flatten(1).index_select(1, self._offsets)

    def convolve(self, fields: Tensor, kernels: Tensor) -> Tensor:
        """Return `sum_jo K_ij(o) h_j(x - o)`.

        Neighbours are gathered on the side that has fewer channels, before or after the matrix product.

        Args:
            fields: h, `(batch, j, *lattice)`.
            kernels: K, `(i, j, offset)`.

        Returns:
            `(batch, i, *lattice)`.
        """
        out, into, n = kernels.shape
        rows = fields.movedim(0, -1).flatten(1, -2)
        if out < into:
            spread = kernels.transpose(1, 2).flatten(0, 1) @ rows.flatten(1)
            h = _Collect.apply(spread.view(out, n, *rows.shape[1:]), self._ahead, self._behind)
        else:
            around = _Gather.apply(rows, self._behind, self._ahead)
            h = kernels.flatten(1) @ around.flatten(2).flatten(0, 1)
        return h.view(out, *self.lattice.shape, len(fields)).movedim(-1, 0)

    def transpose(self, fields: Tensor, kernels: Tensor) -> Tensor:
        """Return `sum_io K_ij(o) h_i(x + o)`, the adjoint of `convolve`.

        Args:
            fields: h, `(batch, i, *lattice)`.
            kernels: K, `(i, j, offset)`.

        Returns:
            `(batch, j, *lattice)`.
        """
        _, into, n = kernels.shape
        rows = fields.movedim(0, -1).flatten(1, -2)
        spread = kernels.flatten(1).mT @ rows.flatten(1)
        h = _Collect.apply(spread.view(into, n, *rows.shape[1:]), self._behind, self._ahead)
        return h.view(into, *self.lattice.shape, len(fields)).movedim(-1, 0)


class _Gather(torch.autograd.Function):
    """Take fields `(channel, V, batch)` at the sites `(offset, V)`: `(channel, offset, V, batch)`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(fields: Tensor, sites: Tensor, back: Tensor) -> Tensor:
        around = fields.index_select(1, sites.flatten())
        return around.unflatten(1, sites.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        _remember_sites(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Collect.apply(gradient, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Gather.apply(tangent, *ctx.saved_for_forward)


class _Collect(torch.autograd.Function):
    """The adjoint of `_Gather`: sum `(channel, offset, V, batch)` to `(channel, V, batch)`.

    It gathers at the sites `back` instead of scattering.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(spread: Tensor, sites: Tensor, back: Tensor) -> Tensor:
        start = torch.arange(len(back), device=back.device).unsqueeze(1) * back.shape[1]
        collected = spread.flatten(1, 2).index_select(1, (back + start).flatten())
        return collected.view(spread.shape).sum(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        _remember_sites(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Gather.apply(gradient, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Collect.apply(tangent, *ctx.saved_for_forward)


def _remember_sites(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Save the indices for the derivatives of both classes, which are linear in their fields."""
    ctx.save_for_backward(*inputs[1:])
    ctx.save_for_forward(*inputs[1:])
