"""Layers on phase space: one field moves, another one drives it; inverse and log-determinant are exact.

The driver does not change, so the function that reads it may be anything. Only its effect on the moved field
must be invertible. All kernels are tied on momentum orbits: every layer commutes with translations and the
point group, which act on both fields at once, and with Z2 if the group contains it. Start at `ShearLayer`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from equiflow.nn.pointwise.features import SineFeatures
from equiflow.theories.base.symmetry import SymmetryGroup

#: Bound on |log scale| of a site for any driver, so that a layer cannot overflow.
MAX_LOG_SCALE = 2.0


class OrbitSpectrum(nn.Module):
    """Real numbers on momenta that are tied on the orbits of the group and of k -> -k.

    Args:
        group: ties the momenta.
        start: initial values on all momenta, invariant under the group, `(kernel, *lattice)`.
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
        """Return the values on the momenta of `Lattice.fft`, `(kernel, *half_shape)`."""
        return self.weight.index_select(1, self._orbit.flatten()).unflatten(1, self._orbit.shape)

    def total(self) -> Tensor:
        """Return the sum over all momenta, `(kernel,)`."""
        return self.weight @ self._multiplicity


class PhaseSpaceLayer(nn.Module, ABC):
    """A layer `x' = f(x; u)`, invertible in the moved field x for every driver u.

    Args:
        group: symmetry to build in.
        linear: initial modes of `K_0` in the linear response `K_0 * u`, on all momenta, `(*lattice)`.
        n_channels: number of kernels that read the driver, from the identity to ever smoother ones.
        n_frequencies: number of sine features of each channel.
        max_frequency: largest initial frequency of the features.

    Raises:
        ValueError: if there are no channels.
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
            raise ValueError(f"A layer needs at least one channel, got {n_channels}.")
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
        """Move the field.

        Args:
            moved: x, `(batch, *lattice)`.
            driver: u, `(batch, *lattice)`.

        Returns:
            `x'`, `(batch, *lattice)`, and `log |det dx'/dx|`, `(batch,)`.
        """

    @abstractmethod
    def inverse(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        """Move the field back.

        Args:
            moved: `x'`, `(batch, *lattice)`.
            driver: u, the driver of `forward`, `(batch, *lattice)`.

        Returns:
            `x`, `(batch, *lattice)`, and `log |det dx/dx'|`, `(batch,)`.
        """

    def _filtered(self, channels: Tensor, modes: Tensor) -> Tensor:
        """Return `K_c * channels_c`, `(batch, channel, *lattice)`."""
        return self.lattice.ifft(self.lattice.fft(channels) * modes)

    def _response(self, values: Tensor, weight: Tensor, modes: Tensor) -> Tensor:
        """Return `sum_c K_c * sum_f weight_cf values_cf`, `(batch, *lattice)`."""
        mixed = torch.einsum("bcfx,cf->bcx", values.flatten(3), weight)
        mixed_k = self.lattice.fft(mixed.unflatten(2, self.lattice.shape))
        return self.lattice.ifft((mixed_k * modes).sum(1))


class ShearLayer(PhaseSpaceLayer):
    r"""The layer `x' = x + grad U(u)`, symplectic if x and u are conjugate; `log_det = 0`.

    The potential is `U(u) = sum_x [1/2 u K_0 * u + sum_c F_c(K_c * u)]` with `F_c' = sum_f a_cf h_f`. It is
    invariant, and its gradient is `K_0 * u + sum_c K_c * F_c'(K_c * u)` (arXiv:1909.13789, 1910.00024).
    """

    def forward(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        """See `PhaseSpaceLayer.forward`."""
        return moved + self.gradient(driver), moved.new_zeros(len(moved))

    def inverse(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        """See `PhaseSpaceLayer.inverse`."""
        return moved - self.gradient(driver), moved.new_zeros(len(moved))

    def gradient(self, driver: Tensor) -> Tensor:
        """Return `grad U(u)`, `(batch, *lattice)`."""
        modes = self.inner()
        features = self.features(self._filtered(driver[:, None], modes))
        linear = self._filtered(driver[:, None], self.linear())[:, 0]
        return linear + self._response(features.value, self.shift_weight, modes)


class AffineLayer(PhaseSpaceLayer):
    r"""The layer `x' = C * (exp(s(u)) x) + b(u)` with `log_det = sum_x s_x + sum_k log C_k`.

    `b = K_0 * u + sum_c B_c * sum_f a_cf h_f(K_c * u)` is odd in the driver, like the field.
    `s = sum_c S_c * sum_f d_cf h_f'(K_c * u)` is even, and is bounded by a tanh (arXiv:1605.08803).

    Args:
        group: symmetry to build in.
        linear: initial modes of `K_0` on all momenta, `(*lattice)`.
        **options: the other options of `PhaseSpaceLayer`.
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
        """Return `b`, `s` and the log-determinant."""
        features = self.features(self._filtered(driver[:, None], self.inner()))
        shift = self._filtered(driver[:, None], self.linear())[:, 0]
        shift = shift + self._response(features.value, self.shift_weight, self.outer())
        raw = self._response(features.first, self.scale_weight, self.outer_scale())
        log_scale = MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)
        return shift, log_scale, log_scale.sum(self.lattice.axes) + self.log_stretch.total()

    def _stretched(self, field: Tensor, power: int) -> Tensor:
        """Return `C^power * field`."""
        return self.lattice.ifft(self.lattice.fft(field) * (power * self.log_stretch()).exp()[0])


def _smoothers(group: SymmetryGroup, n_channels: int) -> Tensor:
    """Return the modes `1 / (1 + c k^2)` for `c = 0 ... n_channels - 1`: ever smoother kernels."""
    steps = torch.arange(n_channels, dtype=torch.float64).reshape(-1, *(1,) * group.lattice.dim)
    return 1 / (1 + steps * group.lattice.squared_momenta())
