"""Couplings: one field moves as another one drives it, with exact inverse and log-determinant.

The driver passes untouched, so the network that reads it may be anything; only what it does to the
moved field must be invertible. All kernels are tied on momentum orbits: every coupling commutes with
translations and the point group, acting on both fields at once, and with Z2 if the group has it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from equiflow.nn.pointwise.features import SineFeatures
from equiflow.theories.base.symmetry import SymmetryGroup

#: |log scale| of a site stays below this, whatever the driver: a step cannot overflow.
MAX_LOG_SCALE = 2.0


class OrbitSpectrum(nn.Module):
    """Real numbers on momenta, tied on the orbits of the group and k -> -k.

    Args:
        group: ties the momenta.
        start: `(kernel, *lattice)`, invariant initial values on all momenta.
    """

    def __init__(self, group: SymmetryGroup, start: Tensor) -> None:
        super().__init__()
        orbits = group.momentum_orbits()
        self.weight = nn.Parameter(orbits.mean(start).to(torch.get_default_dtype()))
        self.register_buffer("_orbit", group.lattice.half(orbits.index).contiguous(), False)
        self.register_buffer("_multiplicity", orbits.multiplicity.to(self.weight.dtype), False)

    _orbit: Tensor
    _multiplicity: Tensor

    def forward(self) -> Tensor:
        """Values on the momenta of `Lattice.fft`, `(kernel, *half_shape)`."""
        return self.weight.index_select(1, self._orbit.flatten()).unflatten(1, self._orbit.shape)

    def total(self) -> Tensor:
        """Sum over all momenta, `(kernel,)`."""
        return self.weight @ self._multiplicity


class PhaseSpaceLayer(nn.Module, ABC):
    """`x' = f(x; u)`, invertible in the moved field x for every driver u.

    Args:
        group: symmetry to build in.
        linear: `(*lattice)`, initial kernel of the linear response `K_0 * u` on all momenta.
        n_channels: kernels that read the driver, from the identity to ever smoother ones.
        n_frequencies: sine features of each channel.
        max_frequency: largest initial frequency of the features.
    """

    def __init__(
        self,
        group: SymmetryGroup,
        *,
        linear: Tensor,
        n_channels: int = 2,
        n_frequencies: int = 6,
        max_frequency: float = 6.0,
    ) -> None:
        super().__init__()
        if n_channels < 1:
            raise ValueError(f"A coupling needs at least one channel, got {n_channels}.")
        self.group = group
        self.lattice = group.lattice
        self.linear = OrbitSpectrum(group, linear[None])
        self.inner = OrbitSpectrum(group, _smoothers(group, n_channels))
        self.features = SineFeatures(
            n_frequencies, self.lattice.dim, max_frequency=max_frequency, odd=group.z2
        )
        self.shift_weight = nn.Parameter(torch.zeros(n_channels, len(self.features)))

    @abstractmethod
    def forward(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        """`x'` and `log |det dx'/dx|`, of shapes `(batch, *lattice)` and `(batch,)`."""

    @abstractmethod
    def inverse(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        """`x` and `log |det dx/dx'|` from `x'` and the same driver."""

    def _filtered(self, channels: Tensor, modes: Tensor) -> Tensor:
        """`K_c * channels_c`, both `(batch, channel, *lattice)`."""
        return self.lattice.ifft(self.lattice.fft(channels) * modes)

    def _response(self, values: Tensor, weight: Tensor, modes: Tensor) -> Tensor:
        """`sum_c K_c * sum_f weight_cf values_cf`, `(batch, *lattice)`."""
        mixed = torch.einsum("bcfx,cf->bcx", values.flatten(3), weight)
        mixed_k = self.lattice.fft(mixed.unflatten(2, self.lattice.shape))
        return self.lattice.ifft((mixed_k * modes).sum(1))


class ShearLayer(PhaseSpaceLayer):
    r"""`x' = x + grad U(u)`: symplectic, and volume-preserving, when x and u are conjugate.

    `U(u) = sum_x [1/2 u K_0 * u + sum_c F_c(K_c * u)]`, with `F_c' = sum_f a_cf h_f`, is an invariant
    potential, whose gradient is `K_0 * u + sum_c K_c * F_c'(K_c * u)` (arXiv:1909.13789, 1910.00024).
    """

    def forward(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        """See `PhaseSpaceLayer.forward`."""
        return moved + self.gradient(driver), moved.new_zeros(len(moved))

    def inverse(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        """See `PhaseSpaceLayer.inverse`."""
        return moved - self.gradient(driver), moved.new_zeros(len(moved))

    def gradient(self, driver: Tensor) -> Tensor:
        """`grad U(u)`, shaped like `u`."""
        modes = self.inner()
        features = self.features(self._filtered(driver[:, None], modes))
        linear = self._filtered(driver[:, None], self.linear())[:, 0]
        return linear + self._response(features.value, self.shift_weight, modes)


class AffineLayer(PhaseSpaceLayer):
    r"""`x' = C * (exp(s(u)) x) + b(u)`, `log det = sum_x s_x + sum_k log C_k` (arXiv:1605.08803).

    `b = K_0 * u + sum_c B_c * sum_f a_cf h_f(K_c * u)` is odd like the field, and
    `s = sum_c S_c * sum_f d_cf h_f'(K_c * u)`, softly bounded, is even.
    """

    def __init__(self, group: SymmetryGroup, *, linear: Tensor, **options: Any) -> None:
        super().__init__(group, linear=linear, **options)
        start = self.inner.weight.detach().double()[:, group.momentum_orbits().index]
        self.outer = OrbitSpectrum(group, start)
        self.outer_scale = OrbitSpectrum(group, start)
        self.log_stretch = OrbitSpectrum(group, torch.zeros(1, *self.lattice.shape, dtype=torch.float64))
        self.scale_weight = nn.Parameter(torch.zeros_like(self.shift_weight))

    def forward(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        """See `PhaseSpaceLayer.forward`."""
        shift, log_scale, log_det = self._read(driver)
        return self._stretched(moved * log_scale.exp(), 1) + shift, log_det

    def inverse(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        """See `PhaseSpaceLayer.inverse`."""
        shift, log_scale, log_det = self._read(driver)
        return self._stretched(moved - shift, -1) * (-log_scale).exp(), -log_det

    def _read(self, driver: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(self._filtered(driver[:, None], self.inner()))
        shift = self._filtered(driver[:, None], self.linear())[:, 0]
        shift = shift + self._response(features.value, self.shift_weight, self.outer())
        raw = self._response(features.first, self.scale_weight, self.outer_scale())
        log_scale = MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)
        return shift, log_scale, log_scale.sum(self.lattice.axes) + self.log_stretch.total()

    def _stretched(self, field: Tensor, power: int) -> Tensor:
        return self.lattice.ifft(self.lattice.fft(field) * (power * self.log_stretch()).exp()[0])


def _smoothers(group: SymmetryGroup, n_channels: int) -> Tensor:
    """`1 / (1 + c k^2)` for `c = 0 ... n_channels - 1`: the identity and smoother kernels."""
    steps = torch.arange(n_channels, dtype=torch.float64).reshape(-1, *(1,) * group.lattice.dim)
    return 1 / (1 + steps * group.lattice.squared_momenta())
