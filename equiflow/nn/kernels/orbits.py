"""Translation-invariant kernels tied on the orbits of a point group, applied by FFT.

A kernel acts as `(K * h)_x = sum_y K(x - y) h_y`. In momentum space it is a product with its Fourier
modes `K_k`, so it costs O(V log V) whatever its support, and the only number that a divergence needs
is its value at the origin, `K(0)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.constants import RoundedConstants
from equiflow.nn.kernels.convolution import Convolution, DenseConvolution, DirectConvolution, convolution_for
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.resizing import offsets_on
from equiflow.theories.base.symmetry import SymmetryGroup


@dataclass(frozen=True)
class KernelValues:
    """Kernels of several features at one time.

    Attributes:
        operand: what the kernel's `convolution` applies to fields: modes, matrices, values on orbits.
        at_origin: `K_f(0)`, `(feature,)`.
    """

    operand: Tensor
    at_origin: Tensor


class OrbitKernel(nn.Module, ABC):
    """Kernels `K_f(x; t) = sum_j T_j(t) K_jf(x)`, tied on orbits, for several features f."""

    weight: nn.Parameter

    def __init__(
        self,
        group: SymmetryGroup,
        n_time_modes: int,
        n_features: int,
        n_orbits: int,
        convolution: Convolution,
    ) -> None:
        super().__init__()
        self.group = group
        self.convolution = convolution
        self._matrices = RoundedConstants()
        self.weight = nn.Parameter(torch.zeros(n_time_modes, n_features, n_orbits))

    def forward(self, time_values: Tensor, scale: Tensor | None = None) -> KernelValues:
        """Kernels at the time whose basis values are `time_values`, `(time_mode,)`.

        Args:
            time_values: see above.
            scale: factors of the kernels, `(feature,)`; 1 by default.
        """
        weight = (time_values @ self.weight.flatten(1)).unflatten(0, self.weight.shape[1:])
        weight = weight if scale is None else weight * scale.unsqueeze(1)
        if isinstance(self.convolution, DenseConvolution):
            return self._as_matrices(weight)
        return self._modes(weight)

    @abstractmethod
    def _modes(self, weight: Tensor) -> KernelValues:
        """Operand and value at the origin for weights `(feature, orbit)` at one time, if not dense."""

    def _as_matrices(self, weight: Tensor) -> KernelValues:
        (of_orbits,) = self._matrices.like(weight, self._matrices_of_orbits)
        matrices = (weight @ of_orbits).unflatten(1, (self.group.lattice.volume,) * 2)
        return KernelValues(matrices, matrices[:, 0, 0])

    def _matrices_of_orbits(self) -> list[Tensor]:
        """Return the matrix `D(y, x) = K(x - y)` of a weight of 1 on each orbit, `(orbit, V V)`."""
        matrices = self.basis().flatten(1)[:, self.group.lattice.differences()]
        return [matrices.flatten(1)]

    @abstractmethod
    def basis(self) -> Tensor:
        """The kernel that a weight of 1 on each orbit gives, `(orbit, *lattice)`, in float64."""

    def values(self) -> Tensor:
        """The kernels as functions of offset, `(time_mode, feature, *lattice)`, detached, in float64."""
        return torch.tensordot(self.weight.detach().double().cpu(), self.basis(), 1)

    @abstractmethod
    def set_values(self, values: Tensor) -> None:
        """Take over kernels `(time_mode, feature, *lattice)`, averaged over the orbits of the group."""

    def resize_from(self, other: OrbitKernel) -> None:
        """Take over the kernels of another lattice, see `equiflow.theories.base.resizing.offsets_on`."""
        self.set_values(offsets_on(other.values(), other.group.lattice, self.group.lattice))


def convolved(kernel: OrbitKernel, phi: Tensor, time_values: Tensor) -> tuple[Tensor, Tensor]:
    """`K_0 * phi` with the first of the kernels, which act by FFT, and the trace `V K_0(0)`."""
    lattice, now = kernel.group.lattice, kernel(time_values)
    return lattice.ifft(lattice.fft(phi) * now.operand[0]), lattice.volume * now.at_origin[0]


class MomentumKernel(OrbitKernel):
    """Kernels that span the lattice, one number per orbit of momenta.

    The modes decouple, so that a diagonal optimiser such as Adam gives each its own step: training
    tolerates twice the learning rate that numbers per orbit of offsets do, and starts faster.

    Args:
        group: ties the momenta; must contain x -> -x, which makes the modes real.
        n_time_modes: size of the time basis.
        n_features: number of kernels.
        convolution: how they act, see `convolution_for`.
        symmetric: tie k and -k, so that `K(-x) = K(x)`, whatever the group.
    """

    def __init__(
        self,
        group: SymmetryGroup,
        n_time_modes: int,
        n_features: int,
        *,
        convolution: str = "auto",
        symmetric: bool = False,
    ) -> None:
        if not (symmetric or group.has_inversion):
            raise ValueError(
                f"MomentumKernel needs a group with x -> -x; {group} lacks it. Use OffsetKernel."
            )
        orbits = group.momentum_orbits()
        way = convolution_for(group.lattice, convolution)
        super().__init__(group, n_time_modes, n_features, len(orbits), way)
        self.volume = group.lattice.volume
        index = group.lattice.half(orbits.index).contiguous()
        self.register_buffer("_orbit", index, False)
        self.register_buffer("_multiplicity", orbits.multiplicity.to(self.weight.dtype), False)

    _orbit: Tensor
    _multiplicity: Tensor

    def _modes(self, weight: Tensor) -> KernelValues:
        # gather is index_select along the last axis, in float64 five times as fast.
        index = self._orbit.flatten().expand(len(weight), -1)
        modes = weight.gather(1, index).unflatten(1, self._orbit.shape)
        return KernelValues(modes, weight @ self._multiplicity / self.volume)

    def overlaps(self, score: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
        """`d/dK_f(k) (score . sum_f K_f * h_f + sum_f K_f(0) sum_x h_f')` of each configuration.

        Args:
            score: `(batch, *lattice)`.
            values: `h_f`, `(batch, feature, *lattice)`.
            slopes: `sum_x h_f'`, `(batch, feature)`.

        Returns:
            `(batch, feature, orbit)`.
        """
        lattice = self.group.lattice
        measure = (lattice.half_multiplicity() / self.volume).to(score)
        a, b = lattice.fft(score.unsqueeze(1)), lattice.fft(values)
        product = ((a.real * b.real + a.imag * b.imag) * measure).flatten(2)
        total = product.new_zeros(*product.shape[:2], len(self._multiplicity))
        total.index_add_(2, self._orbit.flatten(), product)
        return total + slopes.unsqueeze(2) * (self._multiplicity / self.volume)

    def basis(self) -> Tensor:
        """See `OrbitKernel.basis`."""
        index = self.group.momentum_orbits().index
        modes = (index == torch.arange(self.weight.shape[2]).view(-1, *(1,) * index.dim())).double()
        return torch.fft.ifftn(modes, dim=self.group.lattice.axes).real

    @torch.no_grad()
    def set_values(self, values: Tensor) -> None:
        """See `OrbitKernel.set_values`."""
        modes = torch.fft.fftn(values, dim=self.group.lattice.axes).real
        self.weight.copy_(self.group.momentum_orbits().mean(modes))


class OffsetKernel(OrbitKernel):
    """Kernels of selectable support, one number per orbit of offsets.

    Each weight is divided by the root of its orbit's multiplicity, which gives all of them the same
    influence on the velocity.

    Args:
        group: ties the offsets.
        n_time_modes: size of the time basis.
        n_features: number of kernels.
        kernel_size: offsets per axis, see `SymmetryGroup.offset_orbits`.
        convolution: how they act, see `convolution_for`.
    """

    def __init__(
        self,
        group: SymmetryGroup,
        n_time_modes: int,
        n_features: int,
        kernel_size: int | tuple[int, ...] | None = None,
        *,
        convolution: str = "auto",
    ) -> None:
        orbits = group.offset_orbits(kernel_size)
        way = convolution_for(group.lattice, convolution, orbits)
        super().__init__(group, n_time_modes, n_features, len(orbits), way)
        self.kernel_size = kernel_size
        self.lattice: Lattice = group.lattice
        self.has_inversion = group.has_inversion
        self.register_buffer("_sites", (orbits.index.flatten() >= 0).nonzero().flatten(), False)
        self.register_buffer("_orbit", orbits.index.flatten()[self._sites], False)
        self.register_buffer("_multiplicity", orbits.multiplicity.to(self.weight.dtype), False)

    _sites: Tensor
    _orbit: Tensor
    _multiplicity: Tensor

    def _modes(self, weight: Tensor) -> KernelValues:
        on_orbits = weight * self._multiplicity.rsqrt()
        at_origin = on_orbits[:, 0]  # the origin is an orbit of its own, the first
        if isinstance(self.convolution, DirectConvolution):
            return KernelValues(on_orbits, at_origin)
        values = on_orbits.gather(1, self._orbit.expand(len(weight), -1))
        kernel = values.new_zeros(len(weight), math.prod(self.lattice.shape))
        kernel = kernel.index_copy(1, self._sites, values).unflatten(1, self.lattice.shape)
        modes = self.lattice.fft(kernel)
        return KernelValues(modes.real if self.has_inversion else modes, at_origin)

    def basis(self) -> Tensor:
        """See `OrbitKernel.basis`."""
        orbits = self.group.offset_orbits(self.kernel_size)
        along = (-1,) + (1,) * orbits.index.dim()
        inside = orbits.index == torch.arange(len(orbits)).view(along)
        return inside * orbits.multiplicity.double().rsqrt().view(along)

    @torch.no_grad()
    def set_values(self, values: Tensor) -> None:
        """See `OrbitKernel.set_values`."""
        orbits = self.group.offset_orbits(self.kernel_size)
        if bool((values[..., orbits.index < 0] != 0).any()):
            raise ValueError(
                f"kernel_size {self.kernel_size} with {self.group} on {self.lattice.shape} covers fewer "
                "offsets and does not hold the kernels. Use kernel_size=None, or an odd one, the same along "
                "every axis."
            )
        self.weight.copy_(orbits.mean(values) * orbits.multiplicity.double().sqrt())


def carry_over(source: nn.Module, target: nn.Module) -> None:
    """Give a module the weights of its like on another lattice: of kernels by offset, all else as it is.

    Kernels are the submodules that have a `resize_from`.
    """
    kernels = [name for name, module in source.named_modules() if hasattr(module, "resize_from")]
    for name in kernels:
        target.get_submodule(name).resize_from(source.get_submodule(name))  # type: ignore[operator]
    inside = tuple(f"{name}." for name in kernels)
    shared = {name: value for name, value in source.state_dict().items() if not name.startswith(inside)}
    target.load_state_dict(shared, strict=False)


def spanning_kernel(
    group: SymmetryGroup, n_time_modes: int, n_features: int, *, convolution: str = "auto"
) -> OrbitKernel:
    """Kernels that span the lattice: one number per orbit of momenta, or of offsets without x -> -x."""
    kind = MomentumKernel if group.has_inversion else OffsetKernel
    return kind(group, n_time_modes, n_features, convolution=convolution)
