"""Vector fields of angles: gradients of an invariant potential of their differences.

Start at `AngleField`, the default on `Angles`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.kernels.orbits import MomentumKernel
from equiflow.nn.pointwise.ridges import Ridges
from equiflow.nn.pointwise.sines import sine_and_cosine
from equiflow.nn.time import CosineBasis
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import full_precision
from equiflow.theories.angles.group import AngleGroup
from equiflow.theories.angles.space import Angles
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_on
from equiflow.theories.base.lattice import Lattice
from equiflow.vector_fields.angle_kernels import FusedAngles
from equiflow.vector_fields.base import VectorField
from equiflow.vector_fields.ridge_kernels import can_use_kernels
from equiflow.vector_fields.sized_kernels import kernel_of_size, start_from


@dataclass(frozen=True)
class _Coefficients:
    """The coefficients of the potential at one time.

    Attributes:
        harmonics: the `K_n` as the convolution takes them.
        operand: `K_1` and the `L_c` as the convolution takes them.
        harmonics_at_origin: `K_n(0)`, `(harmonic,)`.
        at_origin: `L_c(0)`, `(channel,)`.
        amplitude: `a_j`, `(ridge,)`.
    """

    harmonics: Tensor
    operand: Tensor
    harmonics_at_origin: Tensor
    at_origin: Tensor
    amplitude: Tensor


class AngleField(VectorField):
    r"""`v = grad Phi`, the gradient of an invariant potential of angles, periodic in each of them.

    `Phi(theta, t) = sum_n 1/(2n) sum_xy K_n(x - y) cos n(theta_x - theta_y) + sum_x F(e(x), t)` with local
    energies `e_c(x) = sum_y L_c(y - x) cos(theta_x - theta_y)` and ridges F of them, see `Ridges`. With
    `u = exp(i theta)`, `w_c = L_c^T * u`, `F_c = dF/de_c` and `q = K_1 * u + sum_c L_c * (F_c u)`

        v_x = Im[conj(u) q]_x + sum_c F_c Im[conj(u) w_c]_x + sum_{n > 1} Im[conj(u^n) K_n * u^n]_x.

    The first term is the projection of q on the tangent of the circle. The divergence is the Laplacian of
    Phi, exact by one more convolution for each pair of channels: with `m_c = Im[conj(u) w_c]`

        div v = sum_x sum_cc' F_cc' [m_c m_c' + sum_y (L_c L_c')(y - x) sin^2(theta_x - theta_y)]
              - 2 sum_x sum_c F_c [e_c - L_c(0)] - sum_n n sum_x (Re[conj(u^n) K_n * u^n] - K_n(0)).

    Kernels and amplitudes depend on flow time. An untrained field stands still: `K = a = 0`. Its `L_c` are
    walks of c + 1 steps to nearest neighbours, so that `e_0(x)` is the mean cosine of the links at x.
    The term `K_1` contains the gradient flow of the action, a trivialising map to first order in beta
    (arXiv:0907.5491).

    Args:
        angles: `Angles(lattice)`.
        group: by default translations x the full point group x O(2).
        kernel_size: offsets per axis of the kernels `L_c` of the local energies, any parity; the whole
            lattice if None.
        n_harmonics: number of kernels `K_n`, which act on `exp(i n theta)` and span the lattice.
        n_channels: number of local energies that the ridges depend on.
        n_ridges: number of ridges, functions of one combination of the local energies each.
        n_time_modes: number of cosine modes in flow time of kernels and amplitudes.
        max_frequency: largest initial frequency of the ridges, in units of 1/energy.
        convolution: how kernels are applied, "auto", "fourier" or "dense"; they agree to rounding.

    Raises:
        ValueError: if the group acts on another space or the kernel does not fit.

    >>> field = AngleField(Angles(Lattice((4, 4))))
    >>> velocity, divergence = field.velocity_and_divergence(torch.randn(3, 4, 4), 0.5)
    >>> velocity.shape, divergence.shape
    (torch.Size([3, 4, 4]), torch.Size([3]))
    """

    group: AngleGroup

    def __init__(
        self,
        angles: Angles,
        *,
        group: Group | None = None,
        kernel_size: int | tuple[int, ...] | None = None,
        n_harmonics: int = 2,
        n_channels: int = 2,
        n_ridges: int = 16,
        n_time_modes: int = 4,
        max_frequency: float = 4.0,
        convolution: str = "auto",
    ) -> None:
        check_type(angles, Angles, "angles", "Write Angles(Lattice((16, 16))).")
        group = group_on(angles, group, "field", AngleGroup)
        super().__init__(group)
        check_count(n_harmonics, "n_harmonics")
        spatial = self.group.spatial
        self.time_basis = CosineBasis(n_time_modes)
        self.ridges = Ridges(n_channels, n_ridges, max_frequency=max_frequency, even=False)
        self.amplitude = nn.Parameter(torch.zeros(n_time_modes, n_ridges))
        # Symmetric whatever the group: the cosine does not see the antisymmetric part of K_n.
        self.harmonics = MomentumKernel(
            spatial, n_time_modes, n_harmonics, convolution=convolution, symmetric=True
        )
        # All kernels are applied in the same way, since their operands are joined.
        chosen = self.harmonics.convolution.name
        self.kernel = kernel_of_size(spatial, n_time_modes, n_channels, kernel_size, convolution=chosen)
        start_from(self.kernel, _modes_of_walks(angles.lattice, n_channels), kernel_size)

    @property
    def learning_rate(self) -> float:
        """See `VectorField.learning_rate`."""
        return 3e-2

    @full_precision
    def potential(self, theta: Tensor, t: Tensor | float) -> Tensor:
        """Return `Phi(theta, t)`, whose gradient is the velocity.

        Args:
            theta: angles in radians, `(batch, *lattice)`.
            t: float or 0-d tensor in [0, 1].

        Returns:
            `(batch,)`.
        """
        self.space.check(theta, "theta")
        now, u = self._coefficients(t), _unit(theta)
        e = _dot(u, self._smeared(self._encode(u), now.operand[1:]))
        of_ridges = self.ridges.value(self.ridges.angles(_by_channel(e)).cos(), now.amplitude)
        total = of_ridges.view(theta.shape).sum(self.lattice.axes)
        for n, operand in enumerate(now.harmonics.split(1), 1):
            u_n = _unit(n * theta)
            total = total + _dot(u_n, self._smeared(self._encode(u_n), operand)).flatten(1).sum(1) / (2 * n)
        return total

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        self.space.check(phi)
        axes, now, ridges = self.lattice.axes, self._coefficients(t), self.ridges
        u, double = _unit(phi), _unit(2 * phi)
        encoded, encoded_double = self._encode(u), self._encode(double)
        w = self._smeared(encoded, now.operand[1:])
        e, m = _dot(u, w), _cross(u, w)
        sin, cos = sine_and_cosine(ridges.angles(_by_channel(e)))
        slope = ridges.gradient(sin, now.amplitude).unflatten(1, phi.shape).transpose(0, 1)
        q = self._mix(encoded, slope.unsqueeze(1) * u, now)
        velocity = _cross(u, q).squeeze(1) + (slope * m).sum(1)
        # sum_x Re[conj(u) q] = sum_x (Re[conj(u) K_1 * u] + sum_c F_c e_c)
        at_origin = now.at_origin.view(-1, *(1,) * self.lattice.dim)
        divergence = (slope * (2 * at_origin - e)).sum((1, *axes)) - _dot(u, q).sum((1, *axes))
        gram = _by_channel(self._gram(m, double, encoded_double, now))
        divergence = divergence + ridges.bend(cos, now.amplitude, gram).view(phi.shape).sum(axes)
        divergence = divergence + self.lattice.volume * now.harmonics_at_origin[0]
        for n in range(2, len(now.harmonics) + 1):
            u_n = double if n == 2 else _unit(n * phi)
            sent = encoded_double if n == 2 else self._encode(u_n)
            pulled = self._smeared(sent, now.harmonics[n - 1 : n])
            velocity = velocity + _cross(u_n, pulled).squeeze(1)
            excess = _dot(u_n, pulled) - now.harmonics_at_origin[n - 1]
            divergence = divergence - n * excess.sum((1, *axes))
        return velocity, divergence

    def fused(self, phi: Tensor) -> FusedAngles | None:
        """See `VectorField.fused`."""
        # The kernels do not know what a subclass overrides.
        fits = type(self) is AngleField and can_use_kernels(self, phi, self.group.spatial)
        return FusedAngles(self) if fits else None

    def resized(self, lattice: Lattice) -> AngleField:
        """See `VectorField.resized`; kernels carry over as functions of offset."""
        return self._rebuilt_on(lattice)

    def _coefficients(self, t: Tensor | float) -> _Coefficients:
        """Return the coefficients of the potential at flow time `t`."""
        time_values = self.time_basis(t)
        harmonics, kernel = self.harmonics(time_values), self.kernel(time_values)
        return _Coefficients(
            harmonics=harmonics.operand,
            operand=torch.cat([harmonics.operand[:1], kernel.operand]),
            harmonics_at_origin=harmonics.at_origin,
            at_origin=kernel.at_origin,
            amplitude=time_values @ self.amplitude,
        )

    def _encode(self, u: Tensor) -> Tensor:
        """Encode fields `(batch, 2, channel, *lattice)`, their two parts as if they were a larger batch."""
        return self.kernel.convolution.encode(u.flatten(0, 1))

    def _smeared(self, encoded: Tensor, operand: Tensor) -> Tensor:
        """Return `K_c^T * u` for each kernel of the operand, `(batch, 2, channel, *lattice)`."""
        return self.kernel.convolution.transpose(encoded, operand).unflatten(0, (-1, 2))

    def _mix(self, linear: Tensor, fields: Tensor, now: _Coefficients) -> Tensor:
        """Return `K_1 * u + sum_c L_c * field_c`, `(batch, 2, 1, *lattice)`."""
        mixed = self.kernel.convolution.mix(linear, self._encode(fields), now.operand)
        return mixed.unflatten(0, (-1, 2)).unsqueeze(2)

    def _gram(self, m: Tensor, double: Tensor, encoded: Tensor, now: _Coefficients) -> Tensor:
        """Return `sum_y de_c(x)/dtheta_y de_c'(x)/dtheta_y` for pairs of channels, `(batch, pair, *lattice)`.

        `sin^2 = (1 - cos 2(theta_x - theta_y)) / 2` makes the sum over y != x a convolution.
        """
        convolution, operand = self.kernel.convolution, now.operand[1:]
        c, d = torch.triu_indices(len(operand), len(operand), device=m.device)
        cosine = _dot(double, self._smeared(encoded, convolution.times(operand[c], operand[d])))
        overlap = convolution.products(operand)[c, d].view(-1, *(1,) * self.lattice.dim)
        return m.index_select(1, c) * m.index_select(1, d) + (overlap - cosine) / 2


def _unit(theta: Tensor) -> Tensor:
    """Return `(cos theta, sin theta)` with one channel, `(batch, 2, 1, *lattice)`."""
    sin, cos = sine_and_cosine(theta)
    return torch.stack([cos, sin], 1).unsqueeze(2)


def _dot(u: Tensor, w: Tensor) -> Tensor:
    """Return `Re[conj(u) w_c]`, `(batch, channel, *lattice)`."""
    return u[:, 0] * w[:, 0] + u[:, 1] * w[:, 1]


def _cross(u: Tensor, w: Tensor) -> Tensor:
    """Return `Im[conj(u) w_c]`, `(batch, channel, *lattice)`."""
    return u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]


def _by_channel(fields: Tensor) -> Tensor:
    """Return fields as `(channel, site)`, with the sites of all configurations in one row."""
    return fields.transpose(0, 1).flatten(1)


def _modes_of_walks(lattice: Lattice, n_channels: int) -> Tensor:
    """Return `L_c(p) = (mean_mu cos p_mu)^(c + 1)`, `(channel, *lattice)`."""
    step = 1 - lattice.squared_momenta() / (2 * lattice.dim)
    return step ** torch.arange(1, n_channels + 1).view(-1, *(1,) * lattice.dim)
