"""Carrying weights from one lattice to another: kernels by offset, spectra by momentum.

`Prior.resized`, `VectorField.resized` and `EquivariantCNF.resized` are made of these functions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_type
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.space import Space


def check_resizable(source: Lattice, target: Lattice) -> None:
    """Raise unless weights can be carried from one lattice to another.

    Args:
        source: where the weights were learned.
        target: what the caller gave as the new lattice.

    Raises:
        TypeError: if `target` is not a `Lattice`.
        ValueError: if it has another number of dimensions than `source`.
    """
    check_type(target, Lattice, "lattice", "Write Lattice((16, 16)).")
    if source.dim != target.dim:
        raise ValueError(
            f"Nothing carries over from a {source.dim}D lattice to a {target.dim}D one; expected a shape "
            f"with {source.dim} sides, got {target.shape}."
        )


def space_on(source: Space, target: Lattice) -> Space:
    """Return the space of the same fields on another lattice.

    Args:
        source: space of fields on a lattice.
        target: the new lattice.

    Returns:
        A space of the same kind, see `Space.on`.

    Raises:
        TypeError: if `source` has no lattice or `target` is not a `Lattice`.
        ValueError: if the numbers of dimensions differ.
    """
    check_resizable(lattice_of(source), target)
    return source.on(target)


def freeze_as(source: nn.Module, target: nn.Module) -> None:
    """Give each weight of `target` the `requires_grad` of the weight of the same name in `source`.

    Args:
        source: the module that was resized.
        target: the result, changed in place.
    """
    learns = {name: weight.requires_grad for name, weight in source.named_parameters()}
    for name, weight in target.named_parameters():
        weight.requires_grad_(learns.get(name, weight.requires_grad))


def signed_offsets(side: int, device: torch.device | None = None) -> Tensor:
    """Return the offsets along a periodic axis, each the shorter way round: 0, 1, ..., -1.

    Args:
        side: number of sites along the axis.
        device: of the result.

    Returns:
        `(side,)` int64.
    """
    index = torch.arange(side, device=device)
    return torch.where(index <= side // 2, index, index - side)


def offsets_on(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """Carry a kernel to another lattice as a function of the signed offset.

    New offsets of a larger lattice get zero. Offsets that coincide on a smaller lattice are summed. On fields
    whose period fits both lattices the two convolutions then agree exactly. The offset L/2 of an even side
    stands for both L/2 and -L/2, so its value is split between them.

    Args:
        kernel: `(..., *source)`.
        source: lattice of the kernel.
        target: the other lattice, of the same dimension.

    Returns:
        `(..., *target)`.

    Raises:
        TypeError: if `target` is not a `Lattice`.
        ValueError: if the numbers of dimensions differ.
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
    """Carry a periodic function of momentum to another lattice by linear interpolation.

    Args:
        values: `(..., *source)`, indexed by the integer momenta of a full FFT.
        source: lattice of the values.
        target: the other lattice, of the same dimension.

    Returns:
        `(..., *target)`.

    Raises:
        TypeError: if `target` is not a `Lattice`.
        ValueError: if the numbers of dimensions differ.
    """
    check_resizable(source, target)
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        if old == new:
            continue
        # Integers, so that a momentum of both lattices is hit exactly.
        scaled = torch.arange(new, device=values.device) * old
        below = scaled // new
        weight = ((scaled % new).to(values.dtype) / new).reshape((-1,) + (1,) * (-axis - 1))
        lower, upper = values.index_select(axis, below), values.index_select(axis, (below + 1) % old)
        values = lower + weight * (upper - lower)
    return values
