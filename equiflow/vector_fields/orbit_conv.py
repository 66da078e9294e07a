"""Shallow fields: sitewise features mixed by orbit-tied kernels, with exact divergence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equiflow.lattice import Lattice
from equiflow.nn.convolution import feature_convolution
from equiflow.nn.features import FeatureValues, SineFeatures
from equiflow.nn.kernels import Kernel, KernelValues, MomentumKernel, OffsetKernel, spanning_kernel
from equiflow.nn.time import CosineBasis
from equiflow.precision import full_precision
from equiflow.resizing import check_resizable
from equiflow.symmetry import SymmetryGroup, symmetry_on
from equiflow.vector_fields.base import PathRates, VectorField, default_field


class OrbitConvField(VectorField):
    r"""`v(phi, t) = K_0(t) * phi + sum_f K_f(t) * h_f(phi)` with kernels tied on symmetry orbits.

    The features are sitewise, so the Jacobian's trace is exact and costs one sum over sites:
    `div v = V K_0(0) + sum_f K_f(0) sum_x h_f'(phi_x)`. (arXiv:2110.02673, 2207.00283)

    Args:
        lattice: where the field lives.
        group: symmetry to build in; by default translations x the full point group x Z2.
        kernel_size: offsets per axis, any parity; `None` lets the kernels span the lattice.
        n_frequencies: number of sine features (as many cosine ones besides, without Z2).
        n_time_modes: number of cosine modes of the kernels' time dependence. At L = 16 six reach an
            ESS of 0.970 where four reach 0.962, but need 60 evaluations instead of 36 for the same
            accuracy of log Z.
        max_frequency: largest initial frequency of the features, in units of 1/phi.
        convolution: `"fourier"`, `"dense"` (one matrix product), `"direct"` (offset by offset, not for
            `kernel_size=None`), or `"auto"`, the fastest: dense up to 100 sites, beyond them direct up
            to three offsets per axis (`benchmarks/velocity.py`). They agree to rounding.

    Raises:
        ValueError: if the group acts on another lattice or the kernel does not fit.

    >>> field = OrbitConvField(Lattice((4, 4)))
    >>> velocity, divergence = field.velocity_and_divergence(torch.randn(3, 4, 4), 0.5)
    >>> velocity.shape, divergence.shape
    (torch.Size([3, 4, 4]), torch.Size([3]))
    """

    group: SymmetryGroup

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        kernel_size: int | tuple[int, ...] | None = None,
        n_frequencies: int = 8,
        n_time_modes: int = 4,
        max_frequency: float = 8.0,
        convolution: str = "auto",
    ) -> None:
        group = symmetry_on(lattice, group, "field")
        super().__init__(group)
        self._config: dict[str, Any] = {
            "kernel_size": kernel_size,
            "n_frequencies": n_frequencies,
            "n_time_modes": n_time_modes,
            "max_frequency": max_frequency,
            "convolution": convolution,
        }
        self.time_basis = CosineBasis(n_time_modes)
        self.features = SineFeatures(n_frequencies, lattice.dim, max_frequency=max_frequency, odd=group.z2)
        n_kernels = 1 + len(self.features)
        self.kernel: Kernel
        if kernel_size is None:
            self.kernel = spanning_kernel(group, n_time_modes, n_kernels, convolution=convolution)
        else:
            self.kernel = OffsetKernel(group, n_time_modes, n_kernels, kernel_size, convolution=convolution)
        # A uniform drift is the one even feature that no kernel can give: allowed only without Z2.
        self.drift = None if group.z2 else nn.Parameter(torch.zeros(n_time_modes))

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        self.lattice.check(phi)
        if not torch.is_grad_enabled():
            return self._without_graph(phi, t)
        kernel, drift = self._at(t)
        velocity, _ = self._convolve(phi, kernel, drift)
        slopes = self.features(phi).first.sum(self.lattice.axes)
        return velocity, self._divergence(slopes, kernel)

    def _without_graph(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """The same within 1.2 times the FFTs, sines and cosines alone (`benchmarks/velocity.py`)."""
        # The features' 1/omega goes to the kernels, which are small.
        omega = self.features.frequencies()
        scale = torch.cat([omega.new_ones(1), omega.reciprocal()])
        kernel, drift = self._at(t, scale)
        slopes, waves = self.features.slopes_and_waves(phi)
        convolution = self.kernel.convolution
        linear, encoded = convolution.encode(phi.unsqueeze(1)), convolution.encode(waves)
        velocity = convolution.mix_(linear, encoded, kernel.operand)
        velocity = velocity if self.drift is None else velocity + drift
        return velocity, self._divergence(slopes * omega, kernel)

    @full_precision
    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """`v(phi, t)` alone, `(batch, *lattice)`."""
        self.lattice.check(phi)
        return self._convolve(phi, *self._at(t))[0]

    @full_precision
    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """Closed form: `d score/dt = -K_0^T * s - sum_f h_f' (K_f^T * s) - sum_f K_f(0) h_f''`."""
        self.lattice.check(phi)
        self.lattice.check(score, "score")
        kernel, drift = self._at(t)
        velocity, features = self._convolve(phi, kernel, drift)
        with torch.no_grad():
            convolution = self.kernel.convolution
            back = convolution.transpose(convolution.encode_back(score.unsqueeze(1)), kernel.operand)
            rate = (back[:, 1:] * features.first).sum(1) + back[:, 0]
            rate += self.features.weighted_second(features.value, kernel.at_origin[1:])
            divergence = self._divergence(features.first.sum(self.lattice.axes), kernel)
        return PathRates(velocity, divergence, -rate)

    @torch.no_grad()
    def parameter_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> Tensor:
        """Closed form for kernels that span the lattice with Z2, see `VectorField.parameter_rates`."""
        kernel = self.kernel
        if not (isinstance(kernel, MomentumKernel) and self.features.odd and self._all_trained()):
            return super().parameter_rates(phi, t, score)
        time_values, omega = self.time_basis(t), self.features.omega.reshape(-1, *(1,) * self.lattice.dim)
        site, features = phi.unsqueeze(1), self.features(phi)
        slopes = torch.cat([torch.ones_like(site), features.first], 1).sum(self.lattice.axes)
        per_orbit = kernel.overlaps(score, torch.cat([site, features.value], 1), slopes)
        # dh/domega = (phi h' - h) / omega, whose slope is -phi omega h.
        slopes = -(site * omega * features.value).sum(self.lattice.axes)
        moved = kernel.overlaps(score, (site * features.first - features.value) / omega, slopes)
        weight = torch.tensordot(time_values, kernel.weight, 1)[1:]
        own = {
            "features.omega": (moved * weight).sum(-1),
            "kernel.weight": torch.einsum("j,bfo->bjfo", time_values, per_orbit).flatten(1),
        }
        return torch.cat([own[name] for name, _ in self.named_parameters()], 1)

    def _all_trained(self) -> bool:
        return all(p.requires_grad for p in self.parameters())

    def config(self) -> dict[str, object]:
        """See `VectorField.config`."""
        return dict(self._config)

    def resized(self, lattice: Lattice) -> OrbitConvField:
        """Kernels as functions of offset, everything else as it is, see `VectorField.resized`."""
        check_resizable(self.lattice, lattice)
        field = OrbitConvField(lattice, group=self.group.on(lattice), **self._config)
        weight = self.kernel.weight
        field.to(weight.device, weight.dtype)
        shared = {name: value for name, value in self.state_dict().items() if name != "kernel.weight"}
        field.load_state_dict(shared, strict=False)
        field.kernel.resize_from(self.kernel)
        return field

    def _at(self, t: Tensor | float, scale: Tensor | None = None) -> tuple[KernelValues, Tensor | float]:
        time_values = self.time_basis(t)
        drift = 0.0 if self.drift is None else self.drift @ time_values
        return self.kernel(time_values, scale), drift

    def _convolve(
        self, phi: Tensor, kernel: KernelValues, drift: Tensor | float
    ) -> tuple[Tensor, FeatureValues]:
        """The velocity, and the features behind it without a graph."""
        with torch.no_grad():
            features = self.features(phi)
        frequencies = self.features.frequencies()
        velocity = feature_convolution(phi, frequencies, kernel.operand, features, self.kernel.convolution)
        return (velocity if self.drift is None else velocity + drift), features

    def _divergence(self, slopes: Tensor, kernel: KernelValues) -> Tensor:
        """`V K_0(0) + sum_f K_f(0) slopes_f`, of `sum_x h_f'(phi_x)`, `(batch, feature)`."""
        return slopes @ kernel.at_origin[1:] + self.lattice.volume * kernel.at_origin[0]


default_field.register(Lattice, OrbitConvField)
