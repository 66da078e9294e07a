"""Representations and steerable kernels of escnn: the one place that imports it.

escnn samples its kernel bases in float32, where the symmetry holds to 1e-7. Here each element is averaged
over the point group in float64 and then copied along its orbit, so that entries which the symmetry ties
are equal bit by bit and stay so in every precision.
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
        name: of the representation: `trivial`, `regular`, `vector`, or escnn's name of an irrep.
        matrices: how each of the group's `point_elements` acts, `(element, size, size)`, in float64:
            permutations with signs, exact.
    """

    name: str
    matrices: Tensor

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.matrices.shape[1]

    @property
    def permutes(self) -> bool:
        """Whether the group only permutes the channels, without signs."""
        return bool((self.matrices >= 0).all())


def representation_names(group: SymmetryGroup, representation: object) -> tuple[str, ...]:
    """Names of the representations in a name, several names, or an `escnn.nn.FieldType`.

    Raises:
        TypeError: for anything else.
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
    """The representation of that name, see `representation_names`."""
    rep = _representations(group)[name]
    matrices = torch.stack([torch.tensor(rep(g), dtype=torch.float64) for g in _escnn_elements(group)])
    exact = matrices.round()
    assert (matrices - exact).abs().max() < 1e-6
    assert bool((exact.abs().sum(2) == 1).all())
    return ChannelField(name, exact)


@lru_cache(maxsize=128)
def steerable_kernels(group: SymmetryGroup, source: str, target: str, kernel_size: tuple[int, int]) -> Tensor:
    """Escnn's basis of kernels from one representation to another, exactly symmetric.

    `K(R x) = rho_target(R) K(x) rho_source(R)^T` for every R of the point group. Rings of integer radius
    r carry the angular frequencies up to 2 r. The offsets `-((n-1)//2) ... n//2` are closed under the
    group, so that an even kernel grows by the mirror image of its last offset.

    Args:
        group: whose point group acts.
        source: name of a representation.
        target: name of a representation.
        kernel_size: offsets per axis, before the closure.

    Returns:
        `(basis, target channel, source channel, n0, n1)` in float64 on a box of odd sides, offset 0 at
        index 0, negative ones at the end; the squares sum to 1 for each pair of channels on average.
    """
    out_of, into = channel_field(group, source), channel_field(group, target)
    inside = _support(group, kernel_size)
    reach = max(side // 2 for side in inside.shape)
    rings = [float(r) for r in range(reach + 1)]
    sigma = [0.005] + [0.6] * (reach - 1) + [0.4] * (reach > 0)
    representations = _representations(group)
    with default_dtype(torch.float32):  # escnn mixes it with float32, and raises where they differ
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
    """`exp(-2 <o^2>)` of each kernel on a box of offsets, `(kernel,)`: 1 at the site, 0.1 at its neighbours.

    Fields whose random kernels start like this are nearly functions of one site, and learn much faster.
    """
    sides = [torch.fft.fftfreq(n, 1 / n, dtype=kernels.dtype) for n in kernels.shape[-2:]]
    squared = sides[0][:, None].square() + sides[1].square()
    power = kernels.square().flatten(1, -3).sum(1)
    return torch.exp(-2 * (power * squared).sum((1, 2)) / power.sum((1, 2)))


def _symmetrised(kernels: Tensor, images: Tensor) -> Tensor:
    """The average over a group that permutes entries with signs, bit by bit symmetric."""
    position, sign = images.abs() - 1, images.sign()
    average = (kernels.flatten(1)[:, position] * sign).mean(1)
    # Each entry is a copy of the first one of its orbit; zero if it is tied to minus itself.
    first = position.amin(0)
    sign = torch.where(position == first, sign, 0).sum(0).sign()
    return (average[:, first] * sign).view_as(kernels)


def _images(group: SymmetryGroup, source: ChannelField, target: ChannelField, box: Sequence[int]) -> Tensor:
    """Where each entry of a transformed kernel comes from, `(element, entry)`, counted from 1, signed."""
    shape = (target.size, source.size, *box)
    label = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64).view(shape)
    moved = [
        torch.einsum("ab,bc...,dc->ad...", out, element(label), into)
        for element, out, into in zip(group.point_elements, target.matrices, source.matrices, strict=True)
    ]
    return torch.stack(moved).flatten(1).round().long()


def _support(group: SymmetryGroup, kernel_size: tuple[int, int]) -> Tensor:
    """The kernel's offsets, closed under the group, on the smallest box of odd sides."""
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
    return int(abs(element["irrep:frequency"]))


def _escnn() -> ModuleType:
    try:
        import escnn
    except ImportError as missing:
        raise ImportError("Steerable fields need escnn: pip install '.[steerable]'.") from missing
    return escnn


def _gspace(group: SymmetryGroup) -> Any:
    gspaces = _escnn().gspaces
    rotations = sum(element.determinant == 1 for element in group.point_elements)
    if rotations < len(group.point_elements):
        return gspaces.flipRot2dOnR2(rotations)
    return gspaces.rot2dOnR2(rotations)


def _representations(group: SymmetryGroup) -> dict[str, Any]:
    gspace = _gspace(group)
    named = {
        "trivial": gspace.trivial_repr,
        "regular": gspace.regular_repr,
        "vector": gspace.basespace_action,
    }
    return named | {irrep.name: irrep for irrep in gspace.irreps}


def _names_in_field_type(group: SymmetryGroup, field_type: Any) -> list[str]:
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
    """Escnn's group elements in the order of `point_elements`, matched by their action on the plane."""
    gspace = _gspace(group)
    of_matrix = {
        tuple(map(round, gspace.basespace_action(g).flatten().tolist())): g
        for g in gspace.fibergroup.elements
    }
    return [of_matrix[_flat_matrix(element)] for element in group.point_elements]


def _flat_matrix(element: PointElement) -> tuple[int, ...]:
    return tuple(
        sign * int(axis == column)
        for axis, sign in zip(element.permutation, element.signs, strict=True)
        for column in range(len(element.signs))
    )
