"""Backflow of particles: pair and one-body displacements with all derivatives in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.time import CosineBasis
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_on
from equiflow.theories.base.space import Space
from equiflow.theories.particles.group import EuclideanGroup
from equiflow.theories.particles.space import Particles
from equiflow.vector_fields.base import PathRates, VectorField
from equiflow.vector_fields.curvature import CurvatureRates


class BackflowField(VectorField):
    r"""`v_i = sum_j eta(|x_ij|) x_ij / (N - 1) + mu(|y_i|) y_i - mean_k mu(|y_k|) y_k`: pairs and singles.

    `x_ij = x_i - x_j` and `y_i = x_i - X`. The centre of mass X never moves. The profiles are
    `eta(r, t) = b(t) + sum_c w_c(t) tanh((r - m_c) / l_c)`, and mu alike, with learned centres and widths.
    The force may jump where two particles meet, as the cusp of charged particles demands. (arXiv:2105.08644)

    With the differences `r_e = sum_i B_ei x_i` (all pairs, and all `y_i`) the field is
    `v = B^T w(B x)`, `w_e = eta_e(|r_e|) r_e`. So velocity, divergence, Jacobian and second derivatives are
    sums over e in closed form, at little more than the cost of the velocity. Use it where the Hessian of
    log q is needed, as for local energies of quantum states; `ParticleField` goes beyond pair forces.

    Args:
        particles: `Particles(N, dim)` with N >= 2.
        group: by default permutations x E(dim).
        n_radial: number of steps tanh in each profile.
        n_time_modes: number of cosine modes in flow time of their weights.
        reach: distance up to which the centres are spread at the start, in units of length.

    Raises:
        ValueError: if the group acts on another space, there is one particle only, or a number is out of
            range.

    >>> field = BackflowField(Particles(6, 2))
    >>> velocity, divergence = field.velocity_and_divergence(torch.randn(4, 6, 2), 0.5)
    >>> velocity.shape, divergence.shape
    (torch.Size([4, 6, 2]), torch.Size([4]))
    """

    group: EuclideanGroup
    incidence: Tensor
    weight: Tensor

    def __init__(
        self,
        particles: Particles,
        *,
        group: Group | None = None,
        n_radial: int = 8,
        n_time_modes: int = 3,
        reach: float = 4.0,
    ) -> None:
        check_type(particles, Particles, "particles", "Write Particles(6, dim=2).")
        if not self.suits(particles):
            raise ValueError("A single particle has no neighbour to flow around; expected two or more.")
        group = EuclideanGroup(particles, translations=True) if group is None else group
        super().__init__(group_on(particles, group, "field", EuclideanGroup))
        check_count(n_radial, "n_radial")
        check_type(reach, (float, int), "reach")
        if not 0 < reach < math.inf:
            raise ValueError(f"reach must be positive and finite, got {reach}.")
        self.time_basis = CosineBasis(n_time_modes)
        self.pairs = _Profile(n_radial, n_time_modes, reach)
        self.singles = _Profile(n_radial, n_time_modes, reach)
        n = particles.number
        i, j = torch.triu_indices(n, n, 1)
        same = torch.eye(n)
        incidence = torch.cat([same[i] - same[j], same - 1 / n]).to(torch.get_default_dtype())
        self.n_pairs = len(i)
        self.register_buffer("incidence", incidence, False)
        #: `sum_i B_ei^2`, with which each difference enters the divergence
        self.register_buffer("weight", incidence.square().sum(1), False)

    @classmethod
    def suits(cls, space: Space) -> bool:
        """See `VectorField.suits`; at least two particles are needed."""
        return isinstance(space, Particles) and space.number > 1

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        apart, r = self._differences(phi)
        eta, slope = self._profiles(r, t, 1)
        velocity = self.incidence.mT @ (eta.unsqueeze(-1) * apart)
        return velocity, (self.weight * (self.space.shape[1] * eta + slope * r)).sum(1)

    @full_precision
    @torch.no_grad()
    def curvature_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> CurvatureRates:
        """See `VectorField.curvature_rates`."""
        return self._rates(phi, t, score).curvature(self.incidence)

    @full_precision
    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """See `VectorField.path_rates`."""
        with torch.no_grad():
            rate = self._rates(phi, t, score).score_rate(self.incidence)
        velocity, divergence = self.velocity_and_divergence(phi, t)
        return PathRates(velocity, divergence.detach(), rate)

    def _differences(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the differences r_e, `(batch, e, dim)`, and their lengths, `(batch, e)`."""
        self.space.check(x)
        apart = self.incidence @ x
        # The gradient of the length stays finite where two particles meet.
        return apart, (apart.square().sum(-1) + 1e-30).sqrt()

    def _profiles(self, r: Tensor, t: Tensor | float, order: int) -> list[Tensor]:
        """Return the profiles of all differences with their derivatives up to an order, `(batch, e)` each."""
        values = self.time_basis(t)
        # Scaled, so that a step of the optimiser has the same effect on v for all numbers of particles.
        scale = 1 / (self.space.shape[0] - 1)
        pairs = [scale * one for one in self.pairs(r[:, : self.n_pairs], values, order)]
        singles = self.singles(r[:, self.n_pairs :], values, order)
        return [torch.cat(both, 1) for both in zip(pairs, singles, strict=True)]

    def _rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> _Rates:
        apart, r = self._differences(phi)
        profiles = self._profiles(r, t, 3)
        return _Rates(apart, r, self.incidence @ score, self.weight, *profiles)


class _Profile(nn.Module):
    """`eta(r, t) = b(t) + sum_c w_c(t) tanh((r - m_c) / l_c)`, zero at the start."""

    def __init__(self, n_radial: int, n_time_modes: int, reach: float) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        self.centre = nn.Parameter(torch.linspace(0, reach, n_radial, dtype=dtype))
        self.log_width = nn.Parameter(
            torch.full((n_radial,), math.log(max(0.5, reach / n_radial)), dtype=dtype)
        )
        self.weight = nn.Parameter(torch.zeros(n_time_modes, n_radial + 1, dtype=dtype))

    def forward(self, r: Tensor, time_values: Tensor, order: int) -> list[Tensor]:
        """Return eta and its derivatives up to `order` <= 3 at distances of any shape."""
        weight, steep = time_values @ self.weight, (-self.log_width).exp()
        step = torch.tanh((r.unsqueeze(-1) - self.centre) * steep)
        found = [step @ weight[:-1] + weight[-1]]
        if order:
            first = 1 - step.square()
            found.append(first @ (weight[:-1] * steep))
        if order > 1:  # tanh'' = -2 tanh tanh' and tanh''' = tanh' (4 - 6 tanh')
            found.append((-2 * step * first) @ (weight[:-1] * steep**2))
            found.append((first * (4 - 6 * first)) @ (weight[:-1] * steep**3))
        return found


@dataclass(frozen=True)
class _Rates:
    r"""The parts of `k_e = eta (r . a) + c (dim eta + eta' |r|)`, where `sum_e k_e = v . s + div v`.

    Attributes:
        apart: r_e, `(batch, e, dim)`.
        r: its length, `(batch, e)`.
        score: a_e, the score's components along e, `(batch, e, dim)`.
        weight: c_e, `(e,)`.
        eta: the profile, `(batch, e)`.
        first: eta'.
        second: eta''.
        third: eta'''.
    """

    apart: Tensor
    r: Tensor
    score: Tensor
    weight: Tensor
    eta: Tensor
    first: Tensor
    second: Tensor
    third: Tensor

    @property
    def spread(self) -> Tensor:
        """Divergence of the displacement in r_e, `h = dim eta + eta' |r|`."""
        return self.apart.shape[-1] * self.eta + self.first * self.r

    @property
    def spread_slope(self) -> Tensor:
        """`h' = (dim + 1) eta' + |r| eta''`."""
        return (self.apart.shape[-1] + 1) * self.first + self.r * self.second

    @property
    def unit(self) -> Tensor:
        """The direction of r_e."""
        return self.apart / self.r.unsqueeze(-1)

    @property
    def along(self) -> Tensor:
        """`r . a`."""
        return (self.apart * self.score).sum(-1)

    def score_rate(self, incidence: Tensor) -> Tensor:
        """Return `-grad sum_e k_e`, `(batch, particle, dim)`."""
        radial = self.first * self.along + self.weight * self.spread_slope
        return -(incidence.mT @ (self.eta.unsqueeze(-1) * self.score + radial.unsqueeze(-1) * self.unit))

    def curvature(self, incidence: Tensor) -> CurvatureRates:
        """Return all rates, assembled from the differences by their incidence B, `(e, particle)`."""
        dim = self.apart.shape[-1]
        unit, along, same = self.unit, self.along, torch.eye(dim, dtype=self.r.dtype, device=self.r.device)
        radial = unit.unsqueeze(-1) * unit.unsqueeze(-2)
        mixed = self.score.unsqueeze(-1) * unit.unsqueeze(-2)
        bent = (self.apart.shape[-1] + 2) * self.second + self.r * self.third
        across = (along * self.first + self.weight * self.spread_slope) / self.r
        through = along * self.second + self.weight * bent

        def weigh(factor: Tensor, matrix: Tensor) -> Tensor:
            return factor[..., None, None] * matrix

        slope = weigh(self.eta, same) + weigh(self.first * self.r, radial)
        bending = weigh(self.first, mixed + mixed.mT) + weigh(through, radial) + weigh(across, same - radial)
        velocity = incidence.mT @ (self.eta.unsqueeze(-1) * self.apart)
        divergence = (self.weight * self.spread).sum(1)
        score_rate = self.score_rate(incidence)
        return CurvatureRates(
            velocity, divergence, score_rate, _assemble(slope, incidence), _assemble(bending, incidence)
        )


def _assemble(blocks: Tensor, incidence: Tensor) -> Tensor:
    """Return `B^T diag(blocks) B` for blocks `(batch, e, dim, dim)`, `(batch, N dim, N dim)`."""
    both = torch.einsum("ei,ej->eij", incidence, incidence).flatten(1)
    n, dim = incidence.shape[1], blocks.shape[-1]
    found = blocks.flatten(2).mT @ both  # (batch, dim * dim, N * N)
    return found.unflatten(2, (n, n)).unflatten(1, (dim, dim)).permute(0, 3, 1, 4, 2).flatten(3).flatten(1, 2)
