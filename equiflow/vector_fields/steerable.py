"""Vector fields with steerable channels: a pointwise function between two of escnn's convolutions.

Start at `SteerableField`. The functions below it are shared with `DeepSteerableField`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equiflow.nn.irreps.escnn_kernels import channel_field, nearness, representation_names, steerable_kernels
from equiflow.nn.kernels.orbits import spanning_kernel
from equiflow.nn.kernels.stencil import stencil_for
from equiflow.nn.pointwise.representations import FieldwisePointwise
from equiflow.nn.time import CosineBasis
from equiflow.runtime.checks import check_count, check_seed, check_type
from equiflow.runtime.randomness import seeded
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.resizing import check_resizable
from equiflow.theories.base.symmetry import SymmetryGroup, symmetry_on
from equiflow.vector_fields.two_convolutions import TwoConvolutionField, TwoKernels

DEFAULT_KERNEL_SIZE = 5


class SteerableField(TwoConvolutionField):
    r"""`v = K0 * phi + sum_c K2_c^T * G_c(K1 * phi)` with channels in any representation of the point group.

    `K1` and `K2` are combinations of escnn's steerable kernels (arXiv:1911.08251), symmetric to rounding in
    every precision. G commutes with the group, see `FieldwisePointwise`. `K0` spans the lattice. The weights
    of all kernels depend on flow time. The divergence is exact, see `TwoConvolutionField`. An untrained field
    stands still: `K0 = K2 = 0`, and `K1` is random, with most of its weight at the origin.

    The field lives in two dimensions and needs escnn: `pip install '.[steerable]'`.

    Args:
        lattice: where the field lives, of two dimensions.
        group: symmetry to build in; by default translations x the full point group x Z2.
        representation: how the channels transform, "trivial", "regular", "vector", an irrep such as
            "irrep_1,2", a list of them, or an `escnn.nn.FieldType`.
        multiplicity: number of copies of the representations.
        kernel_size: offsets per axis of the kernels K1 and K2, any parity; 5, or as many as fit, if None.
        n_time_modes: number of cosine modes in flow time of each kernel.
        max_frequency: largest initial frequency of the nonlinearities, in units of 1/phi.
        seed: seed of the random kernel K1 at the start.

    Raises:
        ValueError: if the lattice is not two-dimensional, the group acts on another one, the kernel does
            not fit, or a representation is unknown or has no kernel of that size.
        ImportError: if escnn is not installed.
    """

    group: SymmetryGroup

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        representation: object = "regular",
        multiplicity: int = 4,
        kernel_size: int | tuple[int, int] | None = None,
        n_time_modes: int = 4,
        max_frequency: float = 8.0,
        seed: int = 0,
    ) -> None:
        group = group_in_the_plane(lattice, group)
        check_count(multiplicity, "multiplicity")
        check_seed(seed)
        size = size_on(lattice, group, kernel_size, DEFAULT_KERNEL_SIZE)
        names = representation_names(group, representation)
        fields = [channel_field(group, name) for name in names]
        pointwise = FieldwisePointwise(
            [field.size for field in fields],
            [field.permutes for field in fields],
            lattice.dim,
            copies=multiplicity,
            max_frequency=max_frequency,
            odd=group.z2,
        )
        super().__init__(group, pointwise)
        self._record(representation=list(names), kernel_size=size)
        self.time_basis = CosineBasis(n_time_modes)
        basis, field_of = _basis_of(group, names, size)
        self.register_buffer("_site", _sites_of_offsets(lattice, basis.shape[-2:]), False)
        #: elements of escnn's basis that do not vanish on a lattice as small as the kernel
        self._kept = (self._folded(basis).flatten(1).norm(dim=1) > 1e-6).nonzero().flatten()
        left = set(field_of[self._kept].tolist())
        check_reached(names, [n in left for n in range(len(names))], size, lattice)
        self.stencil = stencil_for(lattice, (self._folded(basis[self._kept]) != 0).flatten(0, 1).any(0))
        # A checkpoint carries the kernels that its weights belong to.
        self.register_buffer("basis", basis[self._kept].to(torch.get_default_dtype()))
        shape = (n_time_modes, multiplicity, len(self._kept))
        self.inner = nn.Parameter(torch.zeros(shape))
        self.outer = nn.Parameter(torch.zeros(shape))
        self._start(basis[self._kept], field_of[self._kept], seed)
        self.linear = spanning_kernel(group, n_time_modes, 1, convolution="fourier")

    basis: Tensor
    _site: Tensor

    def kernels(self, t: Tensor | float) -> TwoKernels:
        """See `TwoConvolutionField.kernels`."""
        time_values = self.time_basis(t)
        linear = self.lattice.ifft(self.linear(time_values).operand[0])
        return TwoKernels(
            self._expand(self.inner, time_values), self._expand(self.outer, time_values), linear
        )

    def _expand(self, weight: Tensor, time_values: Tensor) -> Tensor:
        """Return the kernels at one time, `(channel, *lattice)`."""
        weight = torch.tensordot(time_values, weight, 1)
        return self._folded((weight @ self.basis.flatten(1)).unflatten(1, self.basis.shape[1:])).flatten(0, 1)

    def _folded(self, kernels: Tensor) -> Tensor:
        """Return kernels on a box of offsets, `(..., n0, n1)`, summed into `(..., *lattice)`."""
        on_lattice = kernels.new_zeros(*kernels.shape[:-2], self.lattice.volume)
        on_lattice = on_lattice.index_add(-1, self._site, kernels.flatten(-2))
        return on_lattice.unflatten(-1, self.lattice.shape)

    @torch.no_grad()
    def _start(self, basis: Tensor, field_of: Tensor, seed: int) -> None:
        """Draw inner kernels of norm about 1 that are constant in time and largest at the origin."""
        generator = seeded(seed)
        noise = torch.randn(self.inner.shape[1:], generator=generator, dtype=torch.float64) * nearness(basis)
        total = torch.zeros(len(noise), int(field_of.max()) + 1, dtype=torch.float64)
        total.index_add_(1, field_of, noise.square())
        self.inner[0] = noise / total.sqrt()[:, field_of]

    def resized(self, lattice: Lattice) -> SteerableField:
        """See `VectorField.resized`; `K1` and `K2` stay the same, `K0` carries over as a function of offset.

        Raises:
            ValueError: also if the kernels do not fit or the lattices have different point groups.
        """
        build: Any = type(self)
        field: SteerableField = build(lattice, group=same_group_on(lattice, self.group), **self.config())
        field.to(self.inner.device, self.inner.dtype)
        own = self.state_dict()
        kernels = {"inner", "outer", "basis", "linear.weight"}
        field.load_state_dict({k: v for k, v in own.items() if k not in kernels}, strict=False)
        field.linear.resize_from(self.linear)
        # An element that vanishes on one of the lattices gets no weight on the other one.
        both = [(n, m) for n, a in enumerate(field._kept) for m, b in enumerate(self._kept) if a == b]
        here, there = (torch.tensor(index, dtype=torch.long) for index in zip(*both, strict=True))
        with torch.no_grad():
            field.basis[here] = self.basis[there]
            for new, old in ((field.inner, self.inner), (field.outer, self.outer)):
                new.zero_()
                new[..., here] = old[..., there]
        return field


def group_in_the_plane(lattice: Lattice, group: SymmetryGroup | None) -> SymmetryGroup:
    """Return the symmetry group of a steerable field.

    Args:
        lattice: where the field lives.
        group: the group; if None, translations x the full point group x Z2.

    Returns:
        The group, which acts on `lattice`.

    Raises:
        ValueError: if the lattice is not two-dimensional, or the group acts on another one.
    """
    check_type(lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
    if lattice.dim != 2:
        raise ValueError(
            f"Steerable fields live in two dimensions, got a lattice of shape {lattice.shape}; use "
            "OrbitConvField."
        )
    return symmetry_on(lattice, group, "field")


def size_on(
    lattice: Lattice, group: SymmetryGroup, size: int | tuple[int, int] | None, default: int
) -> tuple[int, int]:
    """Return the number of offsets along each axis.

    Args:
        lattice: of two dimensions.
        group: ties the offsets.
        size: one number for both axes, or one for each; if None, the default or as many as fit.
        default: the number of offsets per axis by default.

    Returns:
        One number of offsets for each of the two axes.

    Raises:
        ValueError: if a size that is given does not fit the lattice.
    """
    if size is None:
        first, second = (min(default, side) for side in lattice.shape)
    else:
        group.offset_orbits(size)  # raises if it does not fit
        first, second = (size, size) if isinstance(size, int) else size
    return first, second


def _basis_of(group: SymmetryGroup, names: tuple[str, ...], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return a basis of kernels from a scalar to all channels, and the index of each one's representation.

    The kernels have the shape `(basis, channel, n0, n1)`.
    """
    blocks = [steerable_kernels(group, "trivial", name, size)[:, :, 0] for name in names]
    channels = sum(block.shape[1] for block in blocks)
    padded, at = [], 0
    for block in blocks:
        whole = block.new_zeros(len(block), channels, *block.shape[2:])
        whole[:, at : at + block.shape[1]] = block
        padded.append(whole)
        at += block.shape[1]
    field_of = torch.arange(len(blocks)).repeat_interleave(torch.tensor([len(block) for block in blocks]))
    return torch.cat(padded), field_of


def _sites_of_offsets(lattice: Lattice, box: tuple[int, ...]) -> Tensor:
    """Return the index of the site `x mod lattice` for each offset x of the box, flattened."""
    first, second = (
        torch.fft.fftfreq(n, 1 / n).round().long() % side for n, side in zip(box, lattice.shape, strict=True)
    )
    return (first[:, None] * lattice.shape[1] + second).flatten()


def check_reached(
    names: Sequence[str], reached: Sequence[bool], size: tuple[int, int], lattice: Lattice
) -> None:
    """Raise unless kernels lead to every representation.

    Args:
        names: of the representations.
        reached: whether a kernel leads to each of them.
        size: offsets per axis of the kernels.
        lattice: where the field lives.

    Raises:
        ValueError: if no kernel leads to some of them, which it names.
    """
    if not all(reached):
        empty = [name for name, found in zip(names, reached, strict=True) if not found]
        raise ValueError(
            f"No steerable kernel of size {size} leads from a scalar to {', '.join(empty)} on the lattice "
            f"{lattice.shape}; take a larger kernel_size, or leave the representation out."
        )


def same_group_on(lattice: Lattice, group: SymmetryGroup) -> SymmetryGroup:
    """Return the group on another lattice, where the channels transform under the same point group.

    Args:
        lattice: the other lattice.
        group: the group on the lattice of the field.

    Returns:
        The group that acts on `lattice`.

    Raises:
        ValueError: if the lattice has another number of dimensions or a different point group.
    """
    check_resizable(group.lattice, lattice)
    there = group.on(lattice)
    if there.point_elements != group.point_elements:
        raise ValueError(
            f"The channels transform under {group} on {group.lattice.shape} and would under {there} on "
            f"{lattice.shape}. Build the field with a point group that both lattices have."
        )
    return there
