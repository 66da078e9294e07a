"""A `PotentialField` evaluated by fused kernels, see `equiflow.fused`: start at `FusedPotential`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equiflow import fused
from equiflow.fused import solving
from equiflow.fused.solving import Formula, Tables
from equiflow.nn.kernels.orbits import OrbitKernel
from equiflow.ode.equal_steps import FORMULAS
from equiflow.runtime.autograd import is_transformed
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.vector_fields.base import FusedField, FusedSolution, PathRates

if TYPE_CHECKING:
    from equiflow.vector_fields.potential import PotentialField


class FusedPotential(FusedField):
    """The same field, with velocity, path rates and whole solves by kernels that run on CPUs.

    Single evaluations that record a graph are those of the field itself. Whole solves record their own.

    Args:
        field: the field; its weights are read at every call.
    """

    def __init__(self, field: PotentialField) -> None:
        self.field = field
        self.shape = _two_sides(field)

    @staticmethod
    def of(field: PotentialField, phi: Tensor) -> FusedPotential | None:
        """Return the field with kernels, or None if they are not in use or do not fit.

        They fit fields of float32 or float64 on CPUs, on lattices of one or two dimensions whose reflections
        along each axis are symmetries. They do not know what a subclass overrides.

        Args:
            field: the field.
            phi: where it will be evaluated, `(batch, *lattice)`.
        """
        fits = fused.in_use() and _is_plain(phi, field.amplitude) and _sides_fit(field.lattice.shape)
        return FusedPotential(field) if fits and _reflects_each_axis(field.group) else None

    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""
        return self.velocity_and_divergence(phi, t)[0]

    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        if torch.is_grad_enabled() or len(phi) == 0:
            return self.field.velocity_and_divergence(phi, t)
        velocity, divergence, _ = solving.rates(phi, self.shape, self.tables(self._moment(phi, t)))
        return velocity, divergence

    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """See `VectorField.path_rates`."""
        if torch.is_grad_enabled() or len(phi) == 0:
            return self.field.path_rates(phi, t, score)
        velocity, divergence, rate = solving.rates(phi, self.shape, self.tables(self._moment(phi, t)), score)
        assert rate is not None
        return PathRates(velocity, divergence, rate)

    def solve(
        self, phi: Tensor, t0: float, t1: float, *, method: str, steps: int, score: Tensor | None = None
    ) -> FusedSolution:
        """See `FusedField.solve`."""
        formula = FORMULAS[method]
        h = (t1 - t0) / steps
        starts = t0 + h * torch.arange(steps, dtype=torch.float64)[:, None]
        times = (starts + h * torch.tensor(formula.nodes, dtype=torch.float64)).flatten().to(phi)
        rows = ([], *formula.rows)
        step = Formula(matrix=rows, weights=formula.weights, h=h)
        return FusedSolution(*solving.solve(phi, self.shape, self.tables(times), step, score), len(times))

    def tables(self, times: Tensor) -> Tables:
        """Return the coefficients of the potential at times `(time,)`, differentiable in the weights."""
        field, ridges = self.field, self.field.ridges
        basis = torch.cos(torch.outer(times, torch.pi * field.time_basis.frequency))
        linear, at_origin = self._modes(field.linear, basis)
        kernels, _ = self._modes(field.kernel, basis)
        V = field.lattice.volume
        amplitude = basis @ field.amplitude
        overlap = kernels @ kernels.mT / V
        curvature = ((ridges.direction @ overlap) * ridges.direction).sum(2) * amplitude
        slopes = (amplitude / ridges.omega).unsqueeze(1) * ridges.direction.mT
        phase = torch.zeros_like(ridges.omega) if ridges.phase is None else ridges.phase
        drift = torch.zeros_like(times) if field.drift is None else V**0.5 * (basis @ field.drift)
        return Tables(
            linear=linear[:, 0],
            kernels=kernels,
            slopes=slopes,
            curvature=curvature,
            trace=V * at_origin[:, 0],
            drift=drift,
            angles=ridges.omega[:, None] * ridges.direction / torch.pi,
            phase=phase / torch.pi,
        )

    def _modes(self, kernel: OrbitKernel, basis: Tensor) -> tuple[Tensor, Tensor]:
        """Return kernels in the real Fourier basis, `(time, kernel, V)`, and their values at the origin."""
        half, at_origin = kernel.modes_at(basis)
        # Reflections make the modes real, even where sides of one or two sites make them trivial.
        half = half.real if half.is_complex() else half
        return half.flatten(2).index_select(2, self._order()), at_origin

    def _order(self) -> Tensor:
        """Return the place of each real mode among the modes of a real FFT, flattened, `(V,)`."""
        from equiflow.fused.modes import momenta

        first, second = (momenta(side) for side in self.shape)
        return (first[:, None] * (self.shape[1] // 2 + 1) + second).flatten()

    def _moment(self, phi: Tensor, t: Tensor | float) -> Tensor:
        return torch.as_tensor(t, dtype=phi.dtype).reshape(1)


def _two_sides(field: Any) -> tuple[int, int]:
    shape = field.lattice.shape
    return (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])


def _is_plain(phi: Tensor, weight: Tensor) -> bool:
    """Return whether kernels can compute with a field: on a CPU, not within a transformation of torch."""
    known = phi.dtype in (torch.float32, torch.float64) and phi.dtype == weight.dtype
    dual = torch.autograd.forward_ad._current_level >= 0
    return known and phi.device.type == weight.device.type == "cpu" and not (dual or is_transformed())


def _sides_fit(shape: tuple[int, ...]) -> bool:
    from equiflow.fused.modes import MAX_SIDE

    return len(shape) <= 2 and max(shape) <= MAX_SIDE


@lru_cache(maxsize=64)
def _reflects_each_axis(group: SymmetryGroup) -> bool:
    """Return whether the group ties each offset, and so each momentum, to its reflections along the axes."""
    index = group.offset_orbits().index
    reflected = (index.flip(axis).roll(1, axis) for axis in range(index.dim()))
    return all(torch.equal(index, other) for other in reflected)
