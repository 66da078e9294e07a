"""Translation-invariant kernels that are constant on the orbits of a point group.

A kernel acts as `(K * h)_x = sum_y K(x - y) h_y`. In momentum space this is a product with the Fourier modes
`K_k`, so it costs O(V log V) whatever the support. A divergence needs only the value at the origin, `K(0)`.
Start at `MomentumKernel` (kernels that span the lattice) and `OffsetKernel` (kernels of any support).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.kernels.convolution import Convolution, DenseConvolution, DirectConvolution, convolution_for
from equiflow.runtime.constants import RoundedConstants
from equiflow.theories.base.resizing import offsets_on
from equiflow.theories.base.symmetry import SymmetryGroup


@dataclass(frozen=True)
class KernelValues:
    """Kernels of several features at one time.

    Attributes:
        operand: what the kernel's `convolution` applies to fields: modes, matrices or values on orbits.
        at_origin: `K_f(0)`, `(feature,)`.
    """

    operand: Tensor
    at_origin: Tensor


class OrbitKernel(nn.Module, ABC):
    """Kernels `K_f(x; t) = sum_j T_j(t) K_jf(x)` of several features f, one number per orbit.

    Args:
        group: ties the values of a kernel.
        n_time_modes: number of functions `T_j` in the time basis.
        n_features: number of kernels.
        n_orbits: numbers per kernel and time mode.
        convolution: applies the kernels to fields.
    """

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
        self.lattice = group.lattice
        self.convolution = convolution
        self._matrices = RoundedConstants()
        self.weight = nn.Parameter(torch.zeros(n_time_modes, n_features, n_orbits))

    def forward(self, time_values: Tensor, scale: Tensor | None = None) -> KernelValues:
        """Return the kernels at one time.

        Args:
            time_values: values of the time basis at that time, `(time_mode,)`.
            scale: factors of the kernels, `(feature,)`; 1 by default.

        Returns:
            The operand of `convolution`, and `K_f(0)`.
        """
        weight = (time_values @ self.weight.flatten(1)).unflatten(0, self.weight.shape[1:])
        weight = weight if scale is None else weight * scale.unsqueeze(1)
        if isinstance(self.convolution, DenseConvolution):
            return self._as_matrices(weight)
        return self._modes(weight)

    def modes_at(self, time_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernels' Fourier modes at several times.

        Args:
            time_values: values of the time basis, `(time, time_mode)`.

        Returns:
            The modes of a real FFT, `(time, feature, *half_shape)`, real if the group contains x -> -x, and
            `K_f(0)`, `(time, feature)`.

        Raises:
            TypeError: if the kernels act offset by offset and have no modes.
        """
        if isinstance(self.convolution, DirectConvolution):
            raise TypeError('Kernels that act offset by offset have no modes; take convolution="fourier".')
        weight = torch.tensordot(time_values, self.weight, 1)
        values = self._modes(weight.flatten(0, 1))
        shape = weight.shape[:2]
        return values.operand.unflatten(0, shape), values.at_origin.unflatten(0, shape)

    @abstractmethod
    def _modes(self, weight: Tensor) -> KernelValues:
        """Return operand and value at the origin for weights `(feature, orbit)`, unless dense."""

    def _as_matrices(self, weight: Tensor) -> KernelValues:
        """Return the matrices `(feature, V, V)` and their value at the origin."""
        (of_orbits,) = self._matrices.like(weight, self._matrices_of_orbits)
        matrices = (weight @ of_orbits).unflatten(1, (self.lattice.volume,) * 2)
        return KernelValues(matrices, matrices[:, 0, 0])

    def _matrices_of_orbits(self) -> list[Tensor]:
        """Return the matrix `D(y, x) = K(x - y)` of a weight of 1 on each orbit, `(orbit, V V)`."""
        matrices = self.basis().flatten(1)[:, self.lattice.differences()]
        return [matrices.flatten(1)]

    @abstractmethod
    def basis(self) -> Tensor:
        """Return the kernel of a weight of 1 on each orbit, `(orbit, *lattice)`, in float64."""

    def values(self) -> Tensor:
        """Return the kernels as functions of the offset, `(time_mode, feature, *lattice)`.

        They are detached, in float64 and on the CPU.
        """
        return torch.tensordot(self.weight.detach().double().cpu(), self.basis(), 1)

    @abstractmethod
    def set_values(self, values: Tensor) -> None:
        """Set the weights to kernels `(time_mode, feature, *lattice)`, averaged over the orbits."""

    def resize_from(self, other: OrbitKernel) -> None:
        """Set the weights to the kernels of another lattice, see `theories.base.resizing.offsets_on`."""
        self.set_values(offsets_on(other.values(), other.lattice, self.lattice))


def convolved(kernel: OrbitKernel, phi: Tensor, time_values: Tensor) -> tuple[Tensor, Tensor]:
    """Return `K_0 * phi` and its trace `V K_0(0)`, where `K_0` is the first kernel.

    Args:
        kernel: kernels with `convolution="fourier"`.
        phi: `(batch, *lattice)`.
        time_values: values of the time basis, `(time_mode,)`.

    Returns:
        `(batch, *lattice)`, and a number as a 0-d tensor.
    """
    lattice, now = kernel.lattice, kernel(time_values)
    return lattice.ifft(lattice.fft(phi) * now.operand[0]), lattice.volume * now.at_origin[0]


class MomentumKernel(OrbitKernel):
    """Kernels that span the lattice, with one number per orbit of momenta.

    The modes decouple, so a diagonal optimiser such as Adam gives each its own step. Training tolerates
    twice the learning rate that numbers per orbit of offsets tolerate, and it starts faster.

    Args:
        group: ties the momenta. It must contain x -> -x, which makes the modes real.
        n_time_modes: size of the time basis.
        n_features: number of kernels.
        convolution: how the kernels act, see `convolution_for`.
        symmetric: tie k and -k, so that `K(-x) = K(x)`, whatever the group.

    Raises:
        ValueError: if the group lacks x -> -x and `symmetric` is False.
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
        acts = convolution_for(group.lattice, convolution)
        super().__init__(group, n_time_modes, n_features, len(orbits), acts)
        index = group.lattice.half(orbits.index).contiguous()
        self.register_buffer("_orbit", index, False)
        self.register_buffer("_multiplicity", orbits.multiplicity.to(self.weight.dtype), False)

    _orbit: Tensor
    _multiplicity: Tensor

    def _modes(self, weight: Tensor) -> KernelValues:
        """See `OrbitKernel._modes`."""
        # gather is index_select along the last axis; in float64 it is five times as fast.
        index = self._orbit.flatten().expand(len(weight), -1)
        modes = weight.gather(1, index).unflatten(1, self._orbit.shape)
        return KernelValues(modes, weight @ self._multiplicity / self.lattice.volume)

    def overlaps(self, score: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
        """Return `d/dK_f(k) (score . sum_f K_f * h_f + sum_f K_f(0) sum_x h_f')` per configuration.

        Args:
            score: `(batch, *lattice)`.
            values: `h_f`, `(batch, feature, *lattice)`.
            slopes: `sum_x h_f'`, `(batch, feature)`.

        Returns:
            `(batch, feature, orbit)`.
        """
        lattice = self.lattice
        measure = (lattice.half_multiplicity() / lattice.volume).to(score)
        a, b = lattice.fft(score.unsqueeze(1)), lattice.fft(values)
        product = ((a.real * b.real + a.imag * b.imag) * measure).flatten(2)
        total = product.new_zeros(*product.shape[:2], len(self._multiplicity))
        total.index_add_(2, self._orbit.flatten(), product)
        return total + slopes.unsqueeze(2) * (self._multiplicity / lattice.volume)

    def basis(self) -> Tensor:
        """See `OrbitKernel.basis`."""
        index = self.group.momentum_orbits().index
        modes = (index == torch.arange(self.weight.shape[2]).view(-1, *(1,) * index.dim())).double()
        return torch.fft.ifftn(modes, dim=self.lattice.axes).real

    @torch.no_grad()
    def set_values(self, values: Tensor) -> None:
        """See `OrbitKernel.set_values`."""
        modes = torch.fft.fftn(values, dim=self.lattice.axes).real
        self.weight.copy_(self.group.momentum_orbits().mean(modes))


class OffsetKernel(OrbitKernel):
    """Kernels of any support, with one number per orbit of offsets.

    Each weight is divided by the root of its orbit's multiplicity. All weights then have the same influence
    on the velocity.

    Args:
        group: ties the offsets.
        n_time_modes: size of the time basis.
        n_features: number of kernels.
        kernel_size: offsets per axis, see `SymmetryGroup.offset_orbits`; None for the whole lattice.
        convolution: how the kernels act, see `convolution_for`.
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
        acts = convolution_for(group.lattice, convolution, orbits)
        super().__init__(group, n_time_modes, n_features, len(orbits), acts)
        self.kernel_size = kernel_size
        self.has_inversion = group.has_inversion
        self.register_buffer("_sites", (orbits.index.flatten() >= 0).nonzero().flatten(), False)
        self.register_buffer("_orbit", orbits.index.flatten()[self._sites], False)
        self.register_buffer("_multiplicity", orbits.multiplicity.to(self.weight.dtype), False)

    _sites: Tensor
    _orbit: Tensor
    _multiplicity: Tensor

    def _modes(self, weight: Tensor) -> KernelValues:
        """See `OrbitKernel._modes`."""
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
        """See `OrbitKernel.set_values`.

        Raises:
            ValueError: if a kernel is not zero at an offset outside `kernel_size`.
        """
        orbits = self.group.offset_orbits(self.kernel_size)
        if bool((values[..., orbits.index < 0] != 0).any()):
            raise ValueError(
                f"kernel_size {self.kernel_size} with {self.group} on {self.lattice.shape} covers fewer "
                "offsets and does not hold the kernels. Use kernel_size=None, or an odd one, the same along "
                "every axis."
            )
        self.weight.copy_(orbits.mean(values) * orbits.multiplicity.double().sqrt())


def carry_over(source: nn.Module, target: nn.Module) -> None:
    """Copy the weights of a module to the same module on another lattice.

    A submodule that has a method `resize_from` (kernels, attention) converts its weights by offset. All other
    weights are copied.

    Args:
        source: has the weights.
        target: built with the same arguments on another lattice; its weights are overwritten.
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
    """Return kernels that span the lattice, in the parametrisation that trains best.

    Args:
        group: ties the kernels.
        n_time_modes: size of the time basis.
        n_features: number of kernels.
        convolution: how the kernels act, see `convolution_for`.

    Returns:
        A `MomentumKernel` if the group contains x -> -x, else an `OffsetKernel`.
    """
    kind = MomentumKernel if group.has_inversion else OffsetKernel
    return kind(group, n_time_modes, n_features, convolution=convolution)
