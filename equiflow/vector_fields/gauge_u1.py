"""Vector fields of U(1) links: curls of functions of plaquettes, with closed divergence.

Start at `U1Field`, the default on links in U(1).
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.constants import RoundedConstants
from equiflow.nn.kernels.mixing import mix_fields
from equiflow.nn.kernels.orbits import MomentumKernel
from equiflow.nn.pointwise.sines import sine_and_cosine
from equiflow.nn.time import CosineBasis
from equiflow.runtime.checks import check_count, check_positive, check_type
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_on
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.resizing import signed_offsets
from equiflow.theories.base.space import Space
from equiflow.theories.base.symmetry import spatial_part
from equiflow.theories.gauge.links import Links
from equiflow.vector_fields.base import VectorField


@dataclass(frozen=True)
class _Kernels:
    """The kernels of the field at one time.

    Attributes:
        velocity: Fourier modes of `K_r`, `(1, feature, *half_shape)`.
        charge: Fourier modes of the `k_cm`, `(channel, harmonic, *half_shape)`.
        at_origin: `(dd^T K_r)(0)` in each plane, `(plane, feature)`.
        divergence: Fourier modes of `B_rm`, `(plane, feature, harmonic, *half_shape)`.
    """

    velocity: Tensor
    charge: Tensor
    at_origin: Tensor
    divergence: Tensor


class U1Field(VectorField):
    r"""`v = d^T psi`, the curl of a function psi of the plaquettes of U(1) links.

    With plaquette angles `P = d theta` in every plane, and smeared charges `u_c = sum_m k_cm * sin(m P)`,

        psi = sum_r K_r * sin phi_r,    phi_r = n_r P + w_r . u,

    and `v = d^T psi` adds `psi` of every plaquette to its four links, with its sign. The field sees links
    through plaquettes alone, so local gauge transformations, centre shifts and full turns of a link change
    nothing. psi is odd, as charge conjugation and reflections demand. Kernels are even, depend on flow time,
    and act within each plane of plaquettes. The divergence is closed: with `D = dd^T` within a plane,

        div v = sum_{r, x} cos phi_r(x) [n_r (D K_r)(0) + sum_m (B_rm * cos mP)(x)],
        B_rm(y) = m (D K_r)(y) sum_c w_rc k_cm(y).

    Features with `w = 0` reshape the distribution of each plaquette. The others let distant plaquettes decide
    whether a plaquette turns through pi, which is how configurations change their topological sector.
    `K_r = (-Laplacian)^-1 H_r` with learnt `H_r`, so that a constant `H_r` moves each plaquette by its own
    feature, up to the mean of all. An untrained field stands still, `H = 0`.

    Args:
        links: `Links(lattice, "U(1)")`, in two dimensions or more.
        group: by default the whole symmetry group of the links.
        n_local: number of features `sin n P`, for n from 1 on.
        n_mixed: largest n of the features that see charges, from beta = 2 on 4 or more, to move plaquettes
            near pi alone.
        n_frequencies: number of frequencies w for each charge.
        max_frequency: largest initial frequency, down from which the others are spread evenly.
        n_channels: number of charges `u_c`.
        charge_range: largest initial width of a charge in lattice spacings, down from which the others are
            spread evenly.
        n_harmonics: number of harmonics of a charge, at the start those of `P / 2 pi`, smoothed at pi.
        n_time_modes: number of cosine modes in flow time of the kernels.

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
    n: Tensor
    scale: Tensor

    def __init__(
        self,
        links: Links,
        *,
        group: Group | None = None,
        n_local: int = 8,
        n_mixed: int = 6,
        n_frequencies: int = 1,
        max_frequency: float = 1.5,
        n_channels: int = 1,
        charge_range: float = 3.0,
        n_harmonics: int = 3,
        n_time_modes: int = 3,
    ) -> None:
        check_type(links, Links, "links", 'Write Links(Lattice((16, 16)), "U(1)").')
        if links.group != "U(1)":
            raise ValueError(f"U1Field moves links in U(1), got {links.group}; use SUNField.")
        super().__init__(group_on(links, group, "field"))
        check_count(n_local, "n_local")
        check_count(n_mixed, "n_mixed", minimum=0)
        for name, count in (("n_frequencies", n_frequencies), ("n_channels", n_channels)):
            check_count(count, name)
        check_count(n_harmonics, "n_harmonics")
        self.time_basis = CosineBasis(n_time_modes)
        spatial, dtype = spatial_part(self.group), torch.get_default_dtype()
        w = _frequencies(n_channels, n_frequencies, check_positive(max_frequency, "max_frequency"))
        turns = torch.arange(-n_mixed, n_mixed + 1)  # n < 0 stands for n > 0 with -w
        n = torch.cat([torch.arange(1, n_local + 1), turns.abs().repeat(len(w))])
        mixed = (w[:, None] * turns.ge(0).double().mul(2).sub(1)[:, None]).flatten(0, 1)
        w = torch.cat([torch.zeros(n_local, n_channels, dtype=torch.float64), mixed])
        self.register_buffer("n", n.to(dtype), False)
        self.frequency = nn.Parameter(w.to(dtype))
        options = {"convolution": "fourier", "symmetric": True}
        self.kernel = MomentumKernel(spatial, n_time_modes, len(n), **options)  # type: ignore[arg-type]
        self.charge = MomentumKernel(spatial, n_time_modes, n_channels * n_harmonics, **options)  # type: ignore[arg-type]
        charges = _charges(links.lattice, n_channels, check_positive(charge_range, "charge_range"))
        values = torch.zeros(n_time_modes, n_channels, n_harmonics, *links.lattice.shape, dtype=torch.float64)
        harmonic = torch.arange(1, n_harmonics + 1, dtype=torch.float64)
        sawtooth = (-1) ** (harmonic + 1) * torch.sinc(harmonic / (n_harmonics + 1)) / (math.pi * harmonic)
        values[0] = sawtooth.view(-1, *(1,) * links.lattice.dim) * charges[:, None]
        self.charge.set_values(values.flatten(1, 2))
        # A feature turns all plaquettes within the range of its charge together: kernels are scaled, so that
        # all weights are alike.
        mass = charges.flatten(1).sum(1) / (2 * math.pi)
        self.register_buffer("scale", (1 / (1 + w.abs() @ mass)).to(dtype), True)
        self._constants = RoundedConstants()

    @classmethod
    def suits(cls, space: Space) -> bool:
        """See `VectorField.suits`; links in U(1)."""
        return isinstance(space, Links) and space.is_flat

    @property
    def learning_rate(self) -> float:
        """See `VectorField.learning_rate`."""
        return 2e-2

    @property
    def training_batch_size(self) -> int:
        """See `VectorField.training_batch_size`."""
        return 64

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        self.space.check(phi)
        lattice, now = self.lattice, self._kernels(t)
        shape, dim = lattice.shape, lattice.dim
        plaquettes = curl(phi)  # (batch, plane, *lattice)
        planes = plaquettes.flatten(0, 1).unsqueeze(1)
        harmonic = torch.arange(1, now.charge.shape[1] + 1, device=phi.device).view(-1, *(1,) * dim)
        sin, cos = sine_and_cosine(harmonic * planes)
        u = mix_fields(lattice, sin, now.charge)
        tilt = (self.frequency @ u.flatten(2)).unflatten(2, shape)
        sin, slope = sine_and_cosine(self.n.view(-1, *(1,) * dim) * planes + tilt)
        psi = mix_fields(lattice, sin, now.velocity).view(plaquettes.shape)
        slope = slope.unflatten(0, plaquettes.shape[:2])
        pulls = cos.unflatten(0, plaquettes.shape[:2])
        divergence = phi.new_zeros(len(phi))
        for plane, (at_origin, modes) in enumerate(zip(now.at_origin, now.divergence, strict=True)):
            gain = mix_fields(lattice, pulls[:, plane], modes).flatten(2)
            gain = gain + (self.n * at_origin)[:, None]
            divergence = divergence + (slope[:, plane].flatten(2) * gain).sum((1, 2))
        return curl_transposed(psi, dim), divergence

    def resized(self, lattice: Lattice) -> U1Field:
        """See `VectorField.resized`; kernels carry over as functions of offset."""
        filled = copy.deepcopy(self)
        with torch.no_grad():  # The zero mode moves nothing; continued from its neighbours, H has no tail.
            modes = filled.kernel.weight
            modes[..., 0] = modes[..., _smallest_momentum(self.kernel)]
        field: U1Field = filled._rebuilt_on(lattice)
        return field

    def _kernels(self, t: Tensor | float) -> _Kernels:
        """Return the kernels at flow time `t`."""
        time, lattice = self.time_basis(t)[None], self.lattice
        hopping = (self.kernel.modes_at(time)[0][0].flatten(1) * self.scale[:, None]).unflatten(
            1, lattice.half_shape
        )
        charge = self.charge.modes_at(time)[0][0].unflatten(0, (self.frequency.shape[1], -1))
        inverse, within = self._laplacians(hopping)
        velocity = (hopping * inverse)[None]
        harmonic = torch.arange(1, charge.shape[1] + 1, device=charge.device, dtype=charge.dtype)
        shapes = torch.einsum("rc,cm...->rm...", self.frequency, lattice.ifft(charge + 0j))
        shapes = shapes * harmonic.view(-1, *(1,) * lattice.dim)
        moved = lattice.ifft(velocity[0] * within[:, None] + 0j)  # D K_r, (plane, feature, *lattice)
        modes = lattice.fft(moved.unsqueeze(2) * shapes).real
        return _Kernels(velocity, charge, moved.flatten(2)[:, :, 0], modes)

    def _laplacians(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the modes of the inverse of minus the Laplacian, and of `dd^T` within each plane."""

        def exact() -> list[Tensor]:
            along = _squared_momenta(self.lattice)
            whole = sum(along)
            assert isinstance(whole, Tensor)
            planes = itertools.combinations(range(self.lattice.dim), 2)
            inverse = torch.where(whole > 1e-12, 1 / whole.clamp(min=1e-12), 0.0)
            within = torch.stack([along[mu] + along[nu] for mu, nu in planes])
            return [self.lattice.half(inverse), self.lattice.half(within)]

        inverse, within = self._constants.like(like, exact)
        return inverse, within


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
    """Return frequencies along each channel in turn, `(frequency, channel)` in float64."""
    sizes = torch.arange(1, n_frequencies + 1, dtype=torch.float64) * (largest / n_frequencies)
    return (sizes[:, None, None] * torch.eye(n_channels, dtype=torch.float64)).flatten(0, 1)


def _charges(lattice: Lattice, n_channels: int, largest: float) -> Tensor:
    """Return Gaussians of the offset with widths up to the largest, `(channel, *lattice)` in float64."""
    squares = torch.zeros(lattice.shape, dtype=torch.float64)
    for axis, side in zip(lattice.axes, lattice.shape, strict=True):
        squares = squares + signed_offsets(side).double().square().view(-1, *(1,) * (-axis - 1))
    widths = torch.arange(1, n_channels + 1, dtype=torch.float64) * (largest / n_channels)
    return torch.exp(-squares / (2 * widths.view(-1, *(1,) * lattice.dim) ** 2))


def _smallest_momentum(kernel: MomentumKernel) -> int:
    """Return the orbit of the smallest momentum that is not zero, along the longest side."""
    lattice = kernel.lattice
    longest = max(range(lattice.dim), key=lambda axis: lattice.shape[axis])
    index = kernel.group.momentum_orbits().index
    place = tuple(int(axis == longest) % side for axis, side in enumerate(lattice.shape))
    return int(index[place])
