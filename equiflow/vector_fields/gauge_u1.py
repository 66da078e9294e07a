"""Vector fields of U(1) links: curls of functions of plaquettes, with closed divergence.

Start at `U1Field`, the default on links in U(1).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.kernels.mixing import mix_fields
from equiflow.nn.kernels.orbits import OffsetKernel
from equiflow.nn.pointwise.sines import sine_and_cosine
from equiflow.nn.time import ChebyshevBasis
from equiflow.runtime.checks import check_count, check_positive, check_type
from equiflow.runtime.constants import RoundedConstants
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_on
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.resizing import signed_offsets
from equiflow.theories.base.space import Space
from equiflow.theories.base.symmetry import spatial_part
from equiflow.theories.gauge.early_sectors import smooth_sawtooth
from equiflow.theories.gauge.links import Links
from equiflow.vector_fields.base import VectorField


@dataclass(frozen=True)
class _Features:
    """The features of a batch at all plaquettes; a row is one plane of one configuration.

    Attributes:
        value: f, `(row, feature, site)`.
        by_angle: derivatives by the angle of the plaquette itself, `(row, feature, site)`.
        by_tilt: derivatives of the last features by their tilt, `(row, frequency, function, site)`.
        response: `w_j . (D K_o k * s')`, how a tilt answers to the links that a plaquette moves, `(row,
            orbit, frequency, site)`.
    """

    value: Tensor
    by_angle: Tensor
    by_tilt: Tensor
    response: Tensor


@dataclass(frozen=True)
class _Kernels:
    """Constant kernels; every orbit o of offsets of H has its own.

    Attributes:
        potential: Fourier modes of `K_o = (-Laplacian)^-1 H_o`, `(orbit, *half_shape)`.
        charge: Fourier modes of the `k_c`, `(channel, *half_shape)`.
        at_origin: `(D K_o)(0)` in each plane, `(plane, orbit)`.
        response: Fourier modes of `(D K_o)(y) k_c(y)`, `(plane, orbit, channel, *half_shape)`.
    """

    potential: Tensor
    charge: Tensor
    at_origin: Tensor
    response: Tensor


class U1Field(VectorField):
    r"""`v = d^T psi`, the curl of a function psi of the plaquettes of U(1) links.

    With plaquette angles `P = d theta` in every plane, and charges `u_c = k_c * sum_m a_cm sin(m P)`,

        psi = K * f(P, u),    K = (-Laplacian)^-1 H,
        f = sum_n a_n sin nP + sum_jn [b_jn sin nP cos tau_j + d_jn cos nP sin tau_j],    tau_j = w_j . u,

    and `v = d^T psi` adds `psi` of every plaquette to its four links, with its sign. The field sees links
    through plaquettes alone, so local gauge transformations, centre shifts and full turns of a link change
    nothing. psi is odd, as charge conjugation and reflections demand. With `H = 1` in two dimensions, each
    plaquette moves by its own f, up to the mean of all. The velocity is linear in a, b and d, which depend
    on flow time. An untrained field stands still.

    The first term reshapes the distribution of each plaquette. The others let plaquettes near pi turn
    through it in the direction that the charges decide, which is how configurations change their topological
    sector. A charge that sees the whole lattice, `k = 1`, begins as a smooth topological charge.

    The divergence is closed: with `D = dd^T` within a plane and `s' = sum_m m a_cm cos(m P)`,

        div v = sum_x [ (D K)(0) df/dP + sum_c df/du_c (D K k_c * s'_c) ].

    Args:
        links: `Links(lattice, "U(1)")`, in two dimensions or more.
        group: by default the whole symmetry group of the links.
        n_local: number of features `sin n P`, for n from 1 on.
        n_mixed: largest n of the features that see charges.
        n_frequencies: number of frequencies w for each charge.
        max_frequency: largest initial frequency; each of the others is half of the one before.
        charge_ranges: width of the Gaussian `k_c` of each charge in lattice spacings; infinite for `k = 1`.
        n_harmonics: number of harmonics of a charge, at the start those of `P / 2 pi`, smoothed at pi.
        kernel_size: number of offsets of H per axis, see `OrbitConvField`; by default 1 in two dimensions,
            where plaquettes depend on each other by their sum alone, and up to 3 in more.
        n_time_modes: number of polynomials in flow time of the weights a, b and d.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the links are not in U(1), the group acts on other links, or a number is out of range.

    References:
        arXiv:2410.13161 (gauge-equivariant continuous flows), arXiv:0907.5491 (trivialising maps).

    >>> field = U1Field(Links(Lattice((4, 4)), "U(1)"))
    >>> velocity, divergence = field.velocity_and_divergence(torch.randn(3, 2, 4, 4), 0.5)
    >>> velocity.shape, divergence.shape
    (torch.Size([3, 2, 4, 4]), torch.Size([3]))
    """

    space: Links
    wants_least_squares = True

    def __init__(
        self,
        links: Links,
        *,
        group: Group | None = None,
        n_local: int = 10,
        n_mixed: int = 6,
        n_frequencies: int = 3,
        max_frequency: float = 1.0,
        charge_ranges: tuple[float, ...] = (math.inf,),
        n_harmonics: int = 3,
        kernel_size: int | None = None,
        n_time_modes: int = 10,
    ) -> None:
        check_type(links, Links, "links", 'Write Links(Lattice((16, 16)), "U(1)").')
        if links.group != "U(1)":
            raise ValueError(f"U1Field moves links in U(1), got {links.group}; use SUNField.")
        super().__init__(group_on(links, group, "field"))
        self.n_local = check_count(n_local, "n_local")
        self.n_mixed = check_count(n_mixed, "n_mixed", minimum=0)
        check_count(n_frequencies, "n_frequencies")
        check_count(n_harmonics, "n_harmonics")
        if kernel_size is None:
            kernel_size = 1 if links.lattice.dim == 2 else min(3, *links.lattice.shape)
        for width in charge_ranges:
            check_type(width, (float, int), "charge_ranges")
        self.ranges = [float(width) for width in charge_ranges]
        if not (self.ranges and min(self.ranges) > 0):
            raise ValueError(
                f"charge_ranges must be positive widths, at least one, got {charge_ranges}; "
                "(math.inf,) is one charge of the whole lattice."
            )
        self._record(charge_ranges=self.ranges, kernel_size=kernel_size)
        self.time_basis = ChebyshevBasis(n_time_modes)
        self.frequency = nn.Parameter(
            _frequencies(len(self.ranges), n_frequencies, check_positive(max_frequency, "max_frequency"))
        )
        n_features = self.n_local + len(self.frequency) * (2 * self.n_mixed + 1)
        spatial = spatial_part(self.group)
        self.kernel = OffsetKernel(spatial, n_time_modes, n_features, kernel_size, convolution="fourier")
        self.charge = nn.Parameter(torch.tensor([smooth_sawtooth(n_harmonics)] * len(self.ranges)))
        self._constants = RoundedConstants()

    @classmethod
    def suits(cls, space: Space) -> bool:
        """See `VectorField.suits`; links in U(1)."""
        return isinstance(space, Links) and space.is_flat

    @property
    def learning_rate(self) -> float:
        """See `VectorField.learning_rate`."""
        return 5e-3

    @property
    def linear_parameters(self) -> tuple[nn.Parameter, ...]:
        """See `VectorField.linear_parameters`; the weights a, b and d."""
        return (self.kernel.weight,)

    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""
        return self._velocity(self._waves(self.space.check(phi)), self._weights(t))

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        waves, weight = self._waves(self.space.check(phi)), self._weights(t)
        (sin, cos, sin_tilt, cos_tilt), (even, odd) = waves, self._by_parity(weight)
        n, end = _counted(sin), self.n_mixed + 1
        by_angle = self._summed((n * cos, -n * sin, sin_tilt, cos_tilt), weight)
        rows_of_planes = self._kernels(phi).at_origin.repeat(len(phi), 1)
        divergence = (by_angle.sum(2) * rows_of_planes).sum(1)
        by_tilt = (odd.permute(2, 0, 1) @ cos[:, None, :end]) * cos_tilt[:, None]
        by_tilt = by_tilt - (even.permute(2, 0, 1) @ sin[:, None, 1:end]) * sin_tilt[:, None]
        divergence = divergence + (by_tilt * self._response(waves)).sum((1, 2, 3))
        return self._velocity(waves, weight), divergence.view(len(phi), -1).sum(1)

    @torch.no_grad()
    def parameter_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> Tensor:
        """See `VectorField.parameter_rates`; in closed form if the linear parameters alone are trained."""
        if self.frequency.requires_grad or self.charge.requires_grad or not self.kernel.weight.requires_grad:
            return super().parameter_rates(phi, t, score)
        seen, kernels = self._features(self._waves(self.space.check(phi))), self._kernels(phi)
        # K is even, so that it is its own transposed.
        pull = mix_fields(self.lattice, curl(score).flatten(0, 1)[:, None], kernels.potential[:, None])
        rates = seen.value @ pull.flatten(2).mT
        rates += seen.by_angle.sum(2)[..., None] * kernels.at_origin.repeat(len(phi), 1)[:, None]
        answers = torch.einsum("rjmx,rojx->rjmo", seen.by_tilt, seen.response)
        rates[:, self.n_local :] += answers.flatten(1, 2)
        rates = rates.unflatten(0, (len(phi), -1)).sum(1)
        return torch.einsum("j,bfo->bjfo", self.time_basis(t), rates).flatten(1)

    def resized(self, lattice: Lattice) -> U1Field:
        """See `VectorField.resized`; all weights are the same on every lattice."""
        field: U1Field = self._rebuilt_on(lattice)
        return field

    def _weights(self, t: Tensor | float) -> Tensor:
        """Return the weights of the features at flow time `t`, `(feature, orbit)`."""
        return torch.tensordot(self.time_basis(t), self.kernel.weight, 1)

    def _velocity(self, waves: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        """Return `d^T (K * f)`."""
        f, dim = self._summed(waves, weight).unflatten(2, self.lattice.shape), self.lattice.dim
        psi = mix_fields(self.lattice, f, self._kernels(f).potential[None])
        return curl_transposed(psi.view(-1, dim * (dim - 1) // 2, *self.lattice.shape), dim)

    def _summed(self, waves: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        """Return f, summed over the frequencies first, `(row, orbit, site)`."""
        (sin, cos, sin_tilt, cos_tilt), end = waves, self.n_mixed + 1
        local, (even, odd) = weight[: self.n_local], self._by_parity(weight)
        of_sin = (even.permute(2, 1, 0) @ cos_tilt[:, None]).mul(sin[:, None, 1:end]).sum(2)
        of_cos = (odd.permute(2, 1, 0) @ sin_tilt[:, None]).mul(cos[:, None, :end]).sum(2)
        return local.mT @ sin[:, 1 : self.n_local + 1] + of_sin + of_cos

    def _by_parity(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of `sin nP cos tau` and of `cos nP sin tau`, `(frequency, n, orbit)`."""
        tilted = weight[self.n_local :].unflatten(0, (len(self.frequency), -1))
        return tilted[:, : self.n_mixed], tilted[:, self.n_mixed :]

    def _waves(self, phi: Tensor) -> tuple[Tensor, ...]:
        """Return `sin nP`, `cos nP`, n from 0 on, `sin tau` and `cos tau`, `(row, n or frequency, site)`."""
        n_harmonics = self.charge.shape[1]
        n = torch.arange(max(self.n_local, self.n_mixed, n_harmonics) + 1, device=phi.device)
        sin, cos = sine_and_cosine(n[:, None] * curl(phi).flatten(2).flatten(0, 1)[:, None])
        u = self._smeared(self.charge @ sin[:, 1 : n_harmonics + 1], self._kernels(phi).charge)
        return sin, cos, *sine_and_cosine(self.frequency @ u)

    def _smeared(self, fields: Tensor, modes: Tensor) -> Tensor:
        """Return the convolutions of fields `(..., site)` with kernels that are given by their modes."""
        lattice = self.lattice
        return lattice.ifft(lattice.fft(fields.unflatten(-1, lattice.shape)) * modes).flatten(-lattice.dim)

    def _values(self, sin: Tensor, cos: Tensor, sin_tilt: Tensor, cos_tilt: Tensor) -> Tensor:
        """Return f made of waves, `(row, feature, site)`."""
        return torch.cat([sin[:, 1 : self.n_local + 1], self._tilted(sin, cos, sin_tilt, cos_tilt)], 1)

    def _tilted(self, sin: Tensor, cos: Tensor, sin_tilt: Tensor, cos_tilt: Tensor) -> Tensor:
        """Return `sin nP cos tau` from n = 1 on, and `cos nP sin tau` from n = 0 on, for each tau."""
        end = self.n_mixed + 1
        even = sin[:, None, 1:end] * cos_tilt[:, :, None]
        return torch.cat([even, cos[:, None, :end] * sin_tilt[:, :, None]], 2).flatten(1, 2)

    def _features(self, waves: tuple[Tensor, ...]) -> _Features:
        """Return the features and their derivatives."""
        sin, cos, sin_tilt, cos_tilt = waves
        n = _counted(sin)
        by_angle = self._values(n * cos, -n * sin, sin_tilt, cos_tilt)
        by_tilt = self._tilted(sin, cos, cos_tilt, -sin_tilt).unflatten(1, (len(self.frequency), -1))
        return _Features(self._values(*waves), by_angle, by_tilt, self._response(waves))

    def _response(self, waves: tuple[Tensor, ...]) -> Tensor:
        """Return how tilts answer to the links that a plaquette moves, see `_Features.response`."""
        (_, cos, *_), end = waves, self.charge.shape[1] + 1
        n_planes = self.lattice.dim * (self.lattice.dim - 1) // 2
        slope = (self.charge * _counted(cos)[1:end, 0]) @ cos[:, 1:end]
        slope = slope.unflatten(0, (-1, n_planes))[:, :, None]  # (batch, plane, 1, channel, site)
        return self.frequency @ self._smeared(slope, self._kernels(cos).response).flatten(0, 1)

    def _kernels(self, like: Tensor) -> _Kernels:
        """Return the constant kernels in the dtype and on the device of a tensor."""

        def exact() -> list[Tensor]:
            lattice, along = self.lattice, _squared_momenta(self.lattice)
            whole = torch.stack(along).sum(0)
            planes = itertools.combinations(range(lattice.dim), 2)
            within = torch.stack([along[mu] + along[nu] for mu, nu in planes])
            # H is even, even if the group lacks x -> -x.
            hopping = torch.fft.fftn(self.kernel.basis(), dim=lattice.axes).real
            potential = torch.where(whole > 1e-12, hopping / whole.clamp(min=1e-12), 0.0)
            moved = torch.fft.ifftn(within[:, None] * potential, dim=lattice.axes).real
            charge = _charges(lattice, self.ranges)
            response = torch.fft.fftn(moved[:, :, None] * charge, dim=lattice.axes).real
            modes = (potential, torch.fft.fftn(charge, dim=lattice.axes).real, response)
            potential, charge, response = (lattice.half(of) for of in modes)
            return [potential, charge, moved.flatten(2)[..., 0], response]

        return _Kernels(*self._constants.like(like, exact))


def curl(theta: Tensor) -> Tensor:
    r"""Return the angles of the plaquettes of U(1) links, real numbers without a cut.

    `P_mu,nu(x) = theta_mu(x) + theta_nu(x + mu) - theta_mu(x + nu) - theta_nu(x)` for `mu < nu`.

    Args:
        theta: angles, `(batch, direction, *lattice)`.

    Returns:
        `(batch, plane, *lattice)`.
    """
    dim = theta.shape[1]
    planes = [
        theta[:, mu] + theta[:, nu].roll(-1, mu - dim) - theta[:, mu].roll(-1, nu - dim) - theta[:, nu]
        for mu, nu in itertools.combinations(range(dim), 2)
    ]
    return torch.stack(planes, 1)


def curl_transposed(psi: Tensor, dim: int) -> Tensor:
    """Return the transposed of `curl`, applied to a function of the plaquettes.

    Args:
        psi: `(batch, plane, *lattice)`.
        dim: number of directions.

    Returns:
        `(batch, direction, *lattice)`.
    """
    links = [torch.zeros_like(psi[:, 0]) for _ in range(dim)]
    for plane, (mu, nu) in zip(psi.unbind(1), itertools.combinations(range(dim), 2), strict=True):
        links[mu] = links[mu] + plane - plane.roll(1, nu - dim)
        links[nu] = links[nu] - plane + plane.roll(1, mu - dim)
    return torch.stack(links, 1)


def _squared_momenta(lattice: Lattice) -> list[Tensor]:
    """Return `4 sin^2(p_mu / 2)` for each direction mu, in float64, `(*lattice)` each."""
    found = []
    for axis, side in zip(lattice.axes, lattice.shape, strict=True):
        along = 4 * torch.sin(math.pi * torch.arange(side, dtype=torch.float64) / side) ** 2
        found.append(along.view(-1, *(1,) * (-axis - 1)).expand(lattice.shape))
    return found


def _frequencies(n_channels: int, n_frequencies: int, largest: float) -> Tensor:
    """Return frequencies along each channel in turn, `(frequency, channel)`."""
    sizes = largest * 0.5 ** torch.arange(n_frequencies)
    return (sizes[:, None, None] * torch.eye(n_channels)).flatten(0, 1)


def _charges(lattice: Lattice, widths: list[float]) -> Tensor:
    """Return Gaussians of the offset, `(channel, *lattice)` in float64."""
    squares = torch.zeros(lattice.shape, dtype=torch.float64)
    for axis, side in zip(lattice.axes, lattice.shape, strict=True):
        squares = squares + signed_offsets(side).double().square().view(-1, *(1,) * (-axis - 1))
    return torch.stack([torch.exp(-squares / (2 * width**2)) for width in widths])


def _counted(waves: Tensor) -> Tensor:
    """Return the numbers n of the harmonics from 0 on, `(n, 1)`."""
    return torch.arange(waves.shape[1], device=waves.device, dtype=waves.dtype)[:, None]
