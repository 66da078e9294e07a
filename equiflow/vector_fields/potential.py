"""Vector fields that are the gradient of an invariant potential, with exact Laplacian.

Start at `PotentialField`, the default on a lattice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.kernels.ridge_convolution import RidgeWeights, ridge_convolution, ridge_path
from equiflow.nn.pointwise.ridges import Ridges
from equiflow.nn.time import CosineBasis
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.symmetry import SymmetryGroup, symmetry_on
from equiflow.vector_fields.base import PathRates, VectorField
from equiflow.vector_fields.chunks import MANY_SITES, in_chunks, joined
from equiflow.vector_fields.ridge_kernels import FusedPotential, can_use_kernels
from equiflow.vector_fields.sized_kernels import kernel_of_size, linear_kernel, prior_like, start_from


@dataclass(frozen=True)
class _Coefficients:
    """The coefficients of the potential at one time.

    Attributes:
        weights: kernels and ridges, with the curvatures `q_j = a_j sum_cc' e_jc <K_c, K_c'> e_jc'`.
        amplitude: `a_j`, `(ridge,)`.
        trace: `V K_0(0)`, 0-d.
        drift: b, 0-d; zero with Z2.
    """

    weights: RidgeWeights
    amplitude: Tensor
    trace: Tensor
    drift: Tensor | float


class PotentialField(VectorField):
    r"""The default on a lattice: `v = grad Phi`, the gradient of an invariant potential of the field.

    `Phi(phi, t) = 1/2 phi . K_0 * phi + sum_x F(u(x), t)` with `u_c = K_c^T * phi` and ridges
    `F(u, t) = sum_j a_j(t) (1 - cos(omega_j e_j . u)) / omega_j^2`, see `Ridges`. Then

        v     = K_0 * phi + sum_c K_c * dF/du_c,
        div v = V K_0(0) + sum_x sum_cc' d2F/du_c du_c' <K_c, K_c'>,

    exact at the cost of one sum over sites, with `<a, b> = sum_offsets a b`. The Jacobian is symmetric. `K_0`
    and `K_c` depend on flow time. With Z2 the potential is even in phi. Without Z2 the ridges have phases,
    and Phi has a term `b(t) sum_x phi`. An untrained field stands still: `K_0 = a = 0`. Its `K_c` are
    propagators `1 / (1 + c p^2)`, c = 0, 1, ...; the first one gives phi itself.

    Optimal transport moves along gradients (Monge-Ampere flow, arXiv:1809.10188), and so do trivialising maps
    (arXiv:0907.5491, learned in 2212.08469).

    Args:
        lattice: where the field lives.
        group: symmetry to build in; by default translations x the full point group x Z2.
        kernels: what all kernels are made of: "orbits", one number per orbit of momenta (or offsets), or
            "smooth", a few smooth functions of momentum, the same on lattices of all sizes, see
            `SmoothFunctions`.
        kernel_size: offsets per axis of the kernels K_c, any parity; the whole lattice if None, which smooth
            kernels always span.
        n_channels: number of kernels K_c, through which the potential sees the field.
        n_ridges: number of ridges, functions of one combination of the channels each.
        n_time_modes: number of cosine modes in flow time of kernels and amplitudes.
        max_frequency: largest initial frequency of the ridges, in units of 1/phi.
        convolution: how kernels are applied, "auto", "fourier" or "dense"; they agree to rounding.

    Raises:
        ValueError: if the group acts on another lattice or the kernel does not fit.

    >>> field = PotentialField(Lattice((4, 4)))
    >>> field.potential(torch.randn(3, 4, 4), 0.5).shape
    torch.Size([3])
    """

    group: SymmetryGroup

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        kernels: str = "orbits",
        kernel_size: int | tuple[int, ...] | None = None,
        n_channels: int = 3,
        n_ridges: int = 16,
        n_time_modes: int = 4,
        max_frequency: float = 8.0,
        convolution: str = "auto",
    ) -> None:
        group = symmetry_on(lattice, group, "field")
        super().__init__(group)
        self.time_basis = CosineBasis(n_time_modes)
        self.ridges = Ridges(n_channels, n_ridges, max_frequency=max_frequency, even=group.z2)
        self.amplitude = nn.Parameter(torch.zeros(n_time_modes, n_ridges))
        self.drift = None if group.z2 else nn.Parameter(torch.zeros(n_time_modes))
        # Symmetric for every group: the antisymmetric part of K_0 gives no gradient.
        self.linear = linear_kernel(group, n_time_modes, kernels=kernels, convolution=convolution)
        # All kernels are applied in the same way, since their operands are joined.
        chosen = self.linear.convolution.name
        self.kernel = kernel_of_size(
            group, n_time_modes, n_channels, kernel_size, kernels=kernels, convolution=chosen
        )
        start_from(self.kernel, _modes_of_propagators(lattice, n_channels), kernel_size)

    @property
    def learning_rate(self) -> float:
        """See `VectorField.learning_rate`; 8e-2 up to 256 sites, then proportional to 1/V.

        At 32 x 32, training becomes erratic at 2e-2 and above it.
        """
        return 8e-2 * min(1.0, 256 / self.lattice.volume)

    @property
    def training_steps(self) -> int:
        """See `VectorField.training_steps`; 300 up to 64 sites, then proportional to the root of V."""
        return max(300, round(600 * (self.lattice.volume / 256) ** 0.5))

    @property
    def training_batch_size(self) -> int:
        """See `VectorField.training_batch_size`."""
        return 16

    def default_prior(self) -> Prior:
        """See `VectorField.default_prior`; a spectrum of the same kind as the kernels."""
        return prior_like(self.kernel) or super().default_prior()

    @full_precision
    def potential(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """Return `Phi(phi, t)`, whose gradient is the velocity.

        Args:
            phi: `(batch, *lattice)`.
            t: float or 0-d tensor in [0, 1].

        Returns:
            `(batch,)`.
        """
        self.lattice.check(phi)
        now = self._coefficients(t)
        convolution, operand = self.kernel.convolution, now.weights.operand
        encoded = convolution.encode(phi.unsqueeze(1))
        u = convolution.transpose(encoded, operand[1:]).transpose(0, 1).flatten(1)
        of_ridges = self.ridges.value(self.ridges.angles(u).cos(), now.amplitude).view(phi.shape)
        linear = convolution.transpose(encoded, operand[:1]).squeeze(1)
        return (of_ridges + phi * (linear / 2 + now.drift)).sum(self.lattice.axes)

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        self.lattice.check(phi)
        now = self._coefficients(t)
        convolution = self.kernel.convolution
        chunks = in_chunks(self.lattice, phi, None if torch.is_grad_enabled() else MANY_SITES)
        velocity, laplacian = joined([ridge_convolution(part, now.weights, convolution) for part in chunks])
        return velocity + now.drift, laplacian + now.trace

    @full_precision
    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """See `VectorField.path_rates`; in closed form, see `ridge_path`."""
        self.lattice.check(phi)
        self.lattice.check(score, "score")
        now = self._coefficients(t)
        pairs = zip(in_chunks(self.lattice, phi), in_chunks(self.lattice, score), strict=True)
        parts = [ridge_path(*pair, now.weights, self.kernel.convolution) for pair in pairs]
        velocity, laplacian, pulled = joined(parts)
        return PathRates(velocity + now.drift, laplacian + now.trace.detach(), -pulled)

    def fused(self, phi: Tensor) -> FusedPotential | None:
        """See `VectorField.fused`."""
        # The kernels do not know what a subclass overrides.
        fits = type(self) is PotentialField and can_use_kernels(self, phi)
        return FusedPotential(self) if fits else None

    def extra_repr(self) -> str:
        """See `VectorField.extra_repr`; runs begun before there was a choice of kernels go on."""
        return super().extra_repr().replace(", kernels=orbits", "")

    def resized(self, lattice: Lattice) -> PotentialField:
        """See `VectorField.resized`; kernels carry over as functions of offset."""
        return self._rebuilt_on(lattice)

    def _coefficients(self, t: Tensor | float) -> _Coefficients:
        """Return the coefficients of the potential at flow time `t`."""
        time_values = self.time_basis(t)
        linear, kernel = self.linear(time_values), self.kernel(time_values)
        amplitude = time_values @ self.amplitude
        overlap = self.kernel.convolution.products(kernel.operand)
        angles, phase = self.ridges.map_to_angles()
        weights = RidgeWeights(
            operand=torch.cat([linear.operand, kernel.operand]),
            angles=angles,
            slopes=self.ridges.slopes(amplitude),
            curvature=self.ridges.curvature(overlap, amplitude),
            phase=phase,
        )
        trace = self.lattice.volume * linear.at_origin[0]
        drift = 0.0 if self.drift is None else self.drift @ time_values
        return _Coefficients(weights, amplitude, trace, drift)


def _modes_of_propagators(lattice: Lattice, n_channels: int) -> Tensor:
    """Return `K_c(p) = 1 / (1 + c p^2)`, `(channel, *lattice)`."""
    c = torch.arange(n_channels, dtype=torch.float64).view(-1, *(1,) * lattice.dim)
    return 1 / (1 + c * lattice.squared_momenta())
