"""Carrying what was learned on one lattice to another: kernels by offset, spectra by momentum."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_type
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.space import Space


def check_resizable(source: Lattice, target: Lattice) -> None:
    """Raise unless `target` is a lattice of as many dimensions as `source`."""
    check_type(target, Lattice, "lattice", "Write Lattice((16, 16)).")
    if source.dim != target.dim:
        raise ValueError(
            f"Nothing carries over from a {source.dim}D lattice to a {target.dim}D one; expected a shape "
            f"with {source.dim} sides, got {target.shape}."
        )


def space_on(source: Space, target: Lattice) -> Space:
    """The space of the same fields on another lattice, see `check_resizable`."""
    check_resizable(lattice_of(source), target)
    return target if isinstance(source, Lattice) else replace(source, lattice=target)  # type: ignore[type-var]


def freeze_as(source: nn.Module, target: nn.Module) -> None:
    """Train those weights of `target` that are trained in `source`, by name."""
    learns = {name: weight.requires_grad for name, weight in source.named_parameters()}
    for name, weight in target.named_parameters():
        weight.requires_grad_(learns.get(name, weight.requires_grad))


def signed_offsets(side: int, device: torch.device | None = None) -> Tensor:
    """Offsets along a periodic axis, the nearer way round: 0, 1, ..., -1."""
    index = torch.arange(side, device=device)
    return torch.where(index <= side // 2, index, index - side)


def offsets_on(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """A kernel `(..., *source)` as a function of the signed offset, on another lattice.

    Offsets that the larger lattice adds get zero, offsets that the smaller one identifies are summed:
    on fields of a period that fits both lattices the two convolutions agree exactly. The offset L/2 of
    an even side, which stands for both L/2 and -L/2, is split between them.
    """
    check_resizable(source, target)
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        if old == new:
            continue
        share = torch.ones(old, dtype=kernel.dtype, device=kernel.device)
        if old % 2 == 0:
            share[old // 2] = 0.5
        along = (-1,) + (1,) * (-axis - 1)
        shape = list(kernel.shape)
        shape[axis] = new
        carried = kernel.new_zeros(shape)
        kernel = kernel * share.reshape(along)
        carried.index_add_(kernel.dim() + axis, signed_offsets(old, kernel.device) % new, kernel)
        if old % 2 == 0:
            carried.select(axis, -(old // 2) % new).add_(kernel.select(axis, old // 2))
        kernel = carried
    return kernel


def momenta_on(values: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """A function of momentum `(..., *source)`, periodic, interpolated linearly on another lattice."""
    check_resizable(source, target)
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        if old == new:
            continue
        # Integers, so that a momentum that both lattices have is hit exactly.
        scaled = torch.arange(new, device=values.device) * old
        below = scaled // new
        weight = ((scaled % new).to(values.dtype) / new).reshape((-1,) + (1,) * (-axis - 1))
        lower, upper = values.index_select(axis, below), values.index_select(axis, (below + 1) % old)
        values = lower + weight * (upper - lower)
    return values
