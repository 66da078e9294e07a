"""Representations and steerable kernels from escnn, which only this file imports.

escnn samples its kernel bases in float32, where the symmetry holds to 1e-7. Here each kernel is averaged over
the point group in float64 and then copied along its orbits. Entries that the symmetry ties are then equal bit
by bit, in every precision. Start at `steerable_kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from equiflow.runtime.precision import default_dtype
from equiflow.theories.base.point_groups import PointElement
from equiflow.theories.base.symmetry import SymmetryGroup


@dataclass(frozen=True, eq=False)
class ChannelField:
    """Channels of a site that transform together.

    Attributes:
        name: name of the representation: `trivial`, `regular`, `vector`, or escnn's name of an irrep.
        matrices: how each of the group's `point_elements` acts, `(element, size, size)`, in float64. They
            are permutations with signs, without rounding errors.
    """

    name: str
    matrices: Tensor

    @property
    def size(self) -> int:
        """The number of channels."""
        return self.matrices.shape[1]

    @property
    def permutes(self) -> bool:
        """Whether the group only permutes the channels, without signs."""
        return bool((self.matrices >= 0).all())


def representation_names(group: SymmetryGroup, representation: object) -> tuple[str, ...]:
    """Check the representations that a user gives.

    Args:
        group: whose point group acts.
        representation: one name, a list of names, or an `escnn.nn.FieldType`.

    Returns:
        Their names.

    Raises:
        TypeError: if `representation` is anything else.
        ValueError: if a representation is unknown, or belongs to another group.
    """
    if isinstance(representation, str):
        names: Sequence[Any] = (representation,)
    elif hasattr(representation, "gspace") and hasattr(representation, "representations"):
        names = _names_in_field_type(group, representation)
    elif isinstance(representation, list | tuple):
        names = representation
    else:
        raise TypeError(
            f"representation must be a name, a list of names or an escnn FieldType, got {representation!r}."
        )
    known = _representations(group)
    unknown = [name for name in names if not isinstance(name, str) or name not in known]
    if unknown or not names:
        raise ValueError(
            f"representation {list(names)!r} of {group}: expected at least one of {', '.join(known)}."
        )
    return tuple(names)


@lru_cache(maxsize=128)
def channel_field(group: SymmetryGroup, name: str) -> ChannelField:
    """Return the representation called `name`.

    Args:
        group: whose point group acts.
        name: a name that `representation_names` returns.

    Returns:
        The channels of one site, and how the group acts on them.
    """
    rep = _representations(group)[name]
    matrices = torch.stack([torch.tensor(rep(g), dtype=torch.float64) for g in _escnn_elements(group)])
    exact = matrices.round()
    assert (matrices - exact).abs().max() < 1e-6
    assert bool((exact.abs().sum(2) == 1).all())
    return ChannelField(name, exact)


@lru_cache(maxsize=128)
def steerable_kernels(group: SymmetryGroup, source: str, target: str, kernel_size: tuple[int, int]) -> Tensor:
    """Return escnn's basis of kernels between two representations, exactly symmetric.

    `K(R x) = rho_target(R) K(x) rho_source(R)^T` for every R of the point group (arXiv:1911.08251). Rings of
    integer radius r carry the angular frequencies up to 2 r. The offsets `-((n-1)//2) ... n//2` are completed
    to a set that the group maps to itself: a kernel of even size gains the mirror images of its last offset.

    Args:
        group: whose point group acts.
        source: name of a representation.
        target: name of a representation.
        kernel_size: offsets per axis, before the completion.

    Returns:
        `(basis, target channel, source channel, n0, n1)` in float64 on a box of odd sides. Offset 0 is at
        index 0, negative offsets are at the end. For each pair of channels the squares sum to 1 on average.
    """
    out_of, into = channel_field(group, source), channel_field(group, target)
    inside = _support(group, kernel_size)
    reach = max(side // 2 for side in inside.shape)
    rings = [float(r) for r in range(reach + 1)]
    sigma = [0.005] + [0.6] * (reach - 1) + [0.4] * (reach > 0)
    representations = _representations(group)
    with default_dtype(torch.float32):  # escnn mixes float32 with the default, and raises if they differ
        try:
            basis = _gspace(group).build_kernel_basis(
                representations[source], representations[target], sigma, rings, maximum_frequency=2 * reach
            )
        except _escnn().kernels.EmptyBasisException:
            return torch.zeros(0, into.size, out_of.size, *inside.shape, dtype=torch.float64)
        sides = [torch.fft.fftfreq(side, 1 / side).round() for side in inside.shape]
        sampled = basis.sample(torch.cartesian_prod(*sides).float())
    smooth = [n for n, element in enumerate(basis) if _frequency(element) <= 2 * element["radius"]]
    kernels = sampled.permute(1, 2, 3, 0)[smooth].double().unflatten(3, inside.shape) * inside
    exact = _symmetrised(kernels, _images(group, out_of, into, inside.shape))
    assert (exact - kernels).abs().max() < 1e-4, "escnn's basis and equiflow's group act differently"
    norm = exact.square().flatten(1).sum(1).div(into.size * out_of.size).sqrt()
    return (exact / norm.clamp(min=1e-30).view(-1, 1, 1, 1, 1))[norm > 0.05]


def nearness(kernels: Tensor) -> Tensor:
    """Return `exp(-2 <o^2>)` for each kernel on a box of offsets, `(kernel,)`.

    This is 1 for a kernel at the site itself and 0.1 for a kernel at its neighbours. A field whose random
    initial kernels are scaled by it is nearly a function of one site, and learns much faster.
    """
    sides = [torch.fft.fftfreq(n, 1 / n, dtype=kernels.dtype) for n in kernels.shape[-2:]]
    squared = sides[0][:, None].square() + sides[1].square()
    power = kernels.square().flatten(1, -3).sum(1)
    return torch.exp(-2 * (power * squared).sum((1, 2)) / power.sum((1, 2)))


def _symmetrised(kernels: Tensor, images: Tensor) -> Tensor:
    """Return kernels averaged over a group that permutes their entries with signs, symmetric bit by bit."""
    position, sign = images.abs() - 1, images.sign()
    average = (kernels.flatten(1)[:, position] * sign).mean(1)
    # Each entry is a copy of the first one in its orbit, or zero if it is tied to minus itself.
    first = position.amin(0)
    sign = torch.where(position == first, sign, 0).sum(0).sign()
    return (average[:, first] * sign).view_as(kernels)


def _images(group: SymmetryGroup, source: ChannelField, target: ChannelField, box: Sequence[int]) -> Tensor:
    """Return which entry of a kernel each entry of its image is, with sign, `(element, entry)`.

    Entries are counted from 1, so that each can have a sign.
    """
    shape = (target.size, source.size, *box)
    label = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64).view(shape)
    moved = [
        torch.einsum("ab,bc...,dc->ad...", out, element(label), into)
        for element, out, into in zip(group.point_elements, target.matrices, source.matrices, strict=True)
    ]
    return torch.stack(moved).flatten(1).round().long()


def _support(group: SymmetryGroup, kernel_size: tuple[int, int]) -> Tensor:
    """Return the offsets of a kernel and their images, bool, on the smallest box of odd sides."""
    reach = [n // 2 for n in kernel_size]
    if any(element.permutation != (0, 1) for element in group.point_elements):
        reach = [max(reach)] * 2
    inside = torch.ones([2 * r + 1 for r in reach], dtype=torch.bool)
    for axis, n in enumerate(kernel_size):
        offsets = torch.arange(-((n - 1) // 2), n // 2 + 1)
        reached = torch.zeros(inside.shape[axis], dtype=torch.bool)
        reached[offsets % len(reached)] = True
        inside &= reached.view((-1, 1) if axis == 0 else (1, -1))
    return torch.stack([element(inside) for element in group.point_elements]).any(0)


def _frequency(element: dict[str, Any]) -> int:
    """Return the angular frequency of one of escnn's basis kernels."""
    return int(abs(element["irrep:frequency"]))


def _escnn() -> ModuleType:
    """Import escnn, or say how to install it."""
    try:
        import escnn
    except ImportError as missing:
        raise ImportError("Steerable fields need escnn: pip install '.[steerable]'.") from missing
    return escnn


def _gspace(group: SymmetryGroup) -> Any:
    """Return escnn's description of the point group acting on the plane."""
    gspaces = _escnn().gspaces
    rotations = sum(element.determinant == 1 for element in group.point_elements)
    if rotations < len(group.point_elements):
        return gspaces.flipRot2dOnR2(rotations)
    return gspaces.rot2dOnR2(rotations)


def _representations(group: SymmetryGroup) -> dict[str, Any]:
    """Return escnn's representations of the point group by name."""
    gspace = _gspace(group)
    named = {
        "trivial": gspace.trivial_repr,
        "regular": gspace.regular_repr,
        "vector": gspace.basespace_action,
    }
    return named | {irrep.name: irrep for irrep in gspace.irreps}


def _names_in_field_type(group: SymmetryGroup, field_type: Any) -> list[str]:
    """Return the names of the representations in an escnn FieldType."""
    gspace = _gspace(group)
    if field_type.gspace.fibergroup != gspace.fibergroup:
        raise ValueError(
            f"The escnn FieldType belongs to {field_type.gspace}, the field to {group}; expected {gspace}. "
            "Give the field a group of that kind, or build the FieldType on another gspace."
        )
    known = _representations(group)
    return [
        next((name for name, r in known.items() if r == rep), rep.name) for rep in field_type.representations
    ]


def _escnn_elements(group: SymmetryGroup) -> list[Any]:
    """Return escnn's group elements in the order of `point_elements`, matched by their matrices."""
    gspace = _gspace(group)
    of_matrix = {
        tuple(map(round, gspace.basespace_action(g).flatten().tolist())): g
        for g in gspace.fibergroup.elements
    }
    return [of_matrix[_flat_matrix(element)] for element in group.point_elements]


def _flat_matrix(element: PointElement) -> tuple[int, ...]:
    """Return the matrix of a point element, row by row."""
    return tuple(
        sign * int(axis == column)
        for axis, sign in zip(element.permutation, element.signs, strict=True)
        for column in range(len(element.signs))
    )
