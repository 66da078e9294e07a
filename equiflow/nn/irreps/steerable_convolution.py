"""Convolutions between channels of any representations of the point group, on a periodic lattice.

Start at `SteerableConvolution`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from equiflow.nn.irreps.escnn_kernels import channel_field, nearness, steerable_kernels
from equiflow.nn.kernels.stencil import Stencil
from equiflow.runtime.randomness import seeded
from equiflow.theories.base.symmetry import SymmetryGroup


class SteerableConvolution(nn.Module):
    r"""The convolution `h(x) = sum_o K(o) u(x - o)` with `K(R o) = rho_out(R) K(o) rho_in(R)^T`.

    The constraint holds for every R in the point group. K is a combination of escnn's kernels
    (arXiv:1911.08251), symmetric in every precision, see `steerable_kernels`. Its weights depend on time. If
    they are of order 1, the output is as large as the input. There is no bias.

    Args:
        group: whose point group acts.
        source: names of the representations of the input.
        target: names of the representations of the output.
        kernel_size: offsets per axis, odd or even.
        n_time_modes: size of the time basis.
        copies: how often the list `source` and the list `target` are repeated.
        seed: seed of the normal initial weights, which are largest at the site itself; None for zeros.

    Attributes:
        reached: for each name in `target`, whether any kernel leads to it on this lattice.
        reach: per axis, the largest offset of the kernels.
    """

    def __init__(
        self,
        group: SymmetryGroup,
        source: Sequence[str],
        target: Sequence[str],
        kernel_size: tuple[int, int],
        n_time_modes: int,
        *,
        copies: tuple[int, int] = (1, 1),
        seed: int | None = None,
    ) -> None:
        super().__init__()
        basis, into, fan_in = _basis(group, source, target, kernel_size)
        kept = _seen(group, source, basis)
        basis, into, fan_in = basis[kept], into[kept], fan_in[kept]
        self.reached = [bool((into == n).any()) for n in range(len(target))]
        # The offsets in escnn's box. Some may be equal modulo the lattice.
        sides = [torch.fft.fftfreq(n, 1 / n).round().long() for n in basis.shape[-2:]]
        inside = basis.flatten(0, 2).any(0)
        offsets = torch.cartesian_prod(*sides)[inside.flatten()]
        self.reach = tuple(max(map(abs, along), default=0) for along in offsets.mT.tolist())
        self.stencil = Stencil(group.lattice, offsets)
        total = _over_sources(fan_in, into)
        scaled = basis[..., inside] / (total * copies[0]).sqrt().view(-1, 1, 1, 1)
        # Saved with the weights, because another version of escnn may have another basis.
        self.register_buffer("basis", scaled.to(torch.get_default_dtype()))
        self.weight = nn.Parameter(torch.zeros(n_time_modes, copies[1], copies[0], len(basis)))
        if seed is not None:
            near = nearness(basis)
            near = near * (total / _over_sources(fan_in * near.square(), into)).sqrt()
            generator = seeded(seed)
            noise = torch.randn(self.weight.shape[1:], generator=generator, dtype=torch.float64)
            with torch.no_grad():
                self.weight[0] = noise * near

    basis: Tensor

    def forward(self, u: Tensor, time_values: Tensor) -> Tensor:
        """Convolve the channels.

        Args:
            u: `(batch, channel, *lattice)`; the channels of one copy are next to each other.
            time_values: values of the time basis, `(time_mode,)`.

        Returns:
            `(batch, channel, *lattice)`, in the same order of copies.
        """
        weight = torch.tensordot(time_values, self.weight, 1)
        kernel = torch.einsum("mnk,kijo->minjo", weight, self.basis)
        return self.stencil.convolve(u, kernel.flatten(2, 3).flatten(0, 1))


def _over_sources(values: Tensor, into: Tensor) -> Tensor:
    """Return for each kernel the sum of `values` over all kernels that lead into the same field."""
    return values.new_zeros(int(into.max()) + 1 if len(into) else 0).index_add_(0, into, values)[into]


def _basis(
    group: SymmetryGroup, source: Sequence[str], target: Sequence[str], size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return kernels `(basis, out, in, n0, n1)` between all channels, and their target fields and fan-ins."""
    sizes = [[channel_field(group, name).size for name in names] for names in (target, source)]
    kernels, into, fan_in = [], [], []
    for m, out in enumerate(target):
        for n, name in enumerate(source):
            block = steerable_kernels(group, name, out, size)
            whole = block.new_zeros(len(block), sum(sizes[0]), sum(sizes[1]), *block.shape[3:])
            i, j = sum(sizes[0][:m]), sum(sizes[1][:n])
            whole[:, i : i + sizes[0][m], j : j + sizes[1][n]] = block
            kernels.append(whole)
            into += [m] * len(block)
            fan_in += [float(sizes[1][n])] * len(block)
    return torch.cat(kernels), torch.tensor(into, dtype=torch.long), torch.tensor(fan_in, dtype=torch.float64)


def _seen(group: SymmetryGroup, source: Sequence[str], basis: Tensor) -> Tensor:
    """Return which kernels have an effect, `(basis,)` bool, on a lattice that may be as small as they are.

    Offsets that are equal modulo the lattice add up. If some R moves no site, the input is invariant under R,
    because it is made from the field.
    """
    lattice = group.lattice
    sides = [torch.fft.fftfreq(n, 1 / n).round().long() for n in basis.shape[-2:]]
    first, second = (o % side for o, side in zip(sides, lattice.shape, strict=True))
    site = (first[:, None] * lattice.shape[1] + second).flatten()
    folded = basis.new_zeros(*basis.shape[:3], lattice.volume).index_add(3, site, basis.flatten(3))
    label = torch.arange(lattice.volume).view(lattice.shape)
    still = [n for n, element in enumerate(group.point_elements) if torch.equal(element(label), label)]
    matrices = [channel_field(group, name).matrices[still].mean(0) for name in source]
    projected = torch.einsum("kijx,jl->kilx", folded, torch.block_diag(*matrices))
    return projected.flatten(1).norm(dim=1) > 1e-6
