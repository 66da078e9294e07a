"""Vector fields evaluated by the fused kernels of `equiflow.fused.ridge_fields`.

Start at `FieldByKernels`, which serves the kernels of angles too; a field fills in its tables.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from equiflow import fused
from equiflow.fused import solving
from equiflow.fused.references import Formula
from equiflow.fused.ridge_tables import Tables
from equiflow.fused.tables import FieldTables
from equiflow.nn.kernels.orbits import OrbitKernel
from equiflow.ode.equal_steps import FORMULAS
from equiflow.runtime.autograd import is_transformed
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.vector_fields.base import FusedField, FusedSolution, PathRates


class FieldByKernels(FusedField):
    """A field whose velocity, path rates and whole solves are computed by kernels, on CPUs.

    Single evaluations that record a graph are those of the field itself. Whole solves record their own. A
    subclass fills in the tables of its kernels.

    Args:
        field: a field on a lattice that `can_use_kernels`; its weights are read at every call.
    """

    def __init__(self, field: Any) -> None:
        self.field = field
        self.shape = on_two_axes(field.lattice.shape)

    @abstractmethod
    def tables(self, times: Tensor) -> FieldTables:
        """Return the coefficients of the field at times `(time,)`, differentiable in its weights."""

    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""
        return self.velocity_and_divergence(phi, t)[0]

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        if torch.is_grad_enabled() or len(phi) == 0:
            velocity, divergence = self.field.velocity_and_divergence(phi, t)
        else:
            velocity, divergence, _ = solving.rates(phi, self.shape, self._tables_at(phi, t))
        return velocity, divergence

    @full_precision
    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """See `VectorField.path_rates`."""
        if torch.is_grad_enabled() or len(phi) == 0:
            rates: PathRates = self.field.path_rates(phi, t, score)
            return rates
        velocity, divergence, rate = solving.rates(phi, self.shape, self._tables_at(phi, t), score)
        assert rate is not None
        return PathRates(velocity, divergence, rate)

    @full_precision
    def solve(
        self, phi: Tensor, t0: float, t1: float, *, method: str, steps: int, score: Tensor | None = None
    ) -> FusedSolution:
        """See `FusedField.solve`."""
        times, step = equal_steps(t0, t1, method, steps)
        tables = self.tables(times.to(phi))
        end, log_det, energy, score = solving.solve(phi, self.shape, tables, step, score)
        return FusedSolution(end, log_det, energy, score, len(times))

    def time_values(self, times: Tensor) -> Tensor:
        """Return the values of the field's time basis, `(time, time_mode)`."""
        return torch.cos(torch.outer(times, torch.pi * self.field.time_basis.frequency))

    def modes(self, kernel: OrbitKernel, time_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return kernels in the real Fourier basis, `(time, kernel, V)`, and their values at the origin.

        Args:
            kernel: even under the reflection of each axis.
            time_values: `(time, time_mode)`.

        Returns:
            `(time, kernel, V)` and `(time, kernel)`.
        """
        return real_modes(kernel, time_values, self.shape)

    def _tables_at(self, phi: Tensor, t: Tensor | float) -> FieldTables:
        return self.tables(torch.as_tensor(t, dtype=phi.dtype, device=phi.device).reshape(1))


class FusedRidges(FieldByKernels):
    """A field of ridges evaluated by kernels, see `FieldByKernels`."""

    @abstractmethod
    def tables(self, times: Tensor) -> Tables:
        """See `FieldByKernels.tables`."""

    def drift(self, time_values: Tensor) -> Tensor:
        """Return the uniform drift of the field as an amplitude of mode 0, `(time,)`."""
        if self.field.drift is None:
            return torch.zeros_like(time_values[:, 0])
        drift: Tensor = self.field.lattice.volume**0.5 * (time_values @ self.field.drift)
        return drift


class FusedPotential(FusedRidges):
    """A `PotentialField` evaluated by kernels, see `FusedRidges`."""

    def tables(self, times: Tensor) -> Tables:
        """See `FusedRidges.tables`."""
        field, ridges, basis = self.field, self.field.ridges, self.time_values(times)
        linear, at_origin = self.modes(field.linear, basis)
        kernels, _ = self.modes(field.kernel, basis)
        V = field.lattice.volume
        amplitude = basis @ field.amplitude
        overlap = kernels @ kernels.mT / V
        phase = torch.zeros_like(ridges.omega) if ridges.phase is None else ridges.phase
        return Tables(
            linear=linear[:, 0],
            inner=kernels,
            outer=kernels,
            slopes=(amplitude / ridges.omega).unsqueeze(1) * ridges.direction.mT,
            curvature=((ridges.direction @ overlap) * ridges.direction).sum(2) * amplitude,
            trace=V * at_origin[:, 0],
            drift=self.drift(basis),
            angles=ridges.omega[:, None] * ridges.direction / torch.pi,
            phase=phase / torch.pi,
        )


class FusedOrbitConv(FusedRidges):
    """An `OrbitConvField` evaluated by kernels, see `FusedRidges`: one ridge for each feature."""

    def tables(self, times: Tensor) -> Tables:
        """See `FusedRidges.tables`; `(1 - cos x) / omega` is a constant and the sine of `x - pi / 2`."""
        field, features, basis = self.field, self.field.features, self.time_values(times)
        modes, at_origin = self.modes(field.kernel, basis)
        linear, kernels = modes[:, 0], modes[:, 1:]
        V, n, omega = field.lattice.volume, features.n_frequencies, features.frequencies()
        phase = torch.zeros_like(omega)
        phase[n:] = -0.5
        drift = self.drift(basis)
        if not features.odd:
            drift = drift + V**0.5 * (kernels[:, n:, 0] / features.omega).sum(1)
        return Tables(
            linear=linear,
            inner=torch.ones_like(kernels[:, :1]),
            outer=kernels,
            slopes=torch.diag(1 / omega).expand(len(times), -1, -1),
            curvature=at_origin[:, 1:],
            trace=V * at_origin[:, 0],
            drift=drift,
            angles=omega[:, None] / torch.pi,
            phase=phase,
        )


def equal_steps(t0: float, t1: float, method: str, steps: int) -> tuple[Tensor, Formula]:
    """Return the times of all evaluations in float64, `(time,)`, and one step as the kernels take it.

    Args:
        t0: initial time.
        t1: final time.
        method: name of a formula.
        steps: number of steps.

    Returns:
        The times in the order of the evaluations, and the formula.
    """
    formula = FORMULAS[method]
    h = (t1 - t0) / steps
    # Kernels are for CPUs, whatever torch's default device.
    starts = t0 + h * torch.arange(steps, dtype=torch.float64, device="cpu")[:, None]
    times = (starts + h * torch.tensor(formula.nodes, dtype=torch.float64, device="cpu")).flatten()
    return times, Formula(matrix=([], *formula.rows), weights=formula.weights, h=h)


def on_two_axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the sides of a lattice of one or two dimensions as two of them.

    Args:
        shape: of the lattice.

    Returns:
        Two sides; the first one is 1 in one dimension.
    """
    first, second = shape if len(shape) == 2 else (1, *shape)
    return first, second


def real_modes(kernel: OrbitKernel, time_values: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return kernels in the real Fourier basis, `(time, kernel, V)`, and their values at the origin.

    Args:
        kernel: even under the reflection of each axis.
        time_values: values of the time basis, `(time, time_mode)`.
        shape: sides of the lattice, two of them.

    Returns:
        `(time, kernel, V)` and `(time, kernel)`.
    """
    # Modes are linear in the values of the time basis: fewer transforms, gathers and their gradients.
    n_modes = time_values.shape[1]
    if len(time_values) <= n_modes:
        half, at_origin = kernel.modes_at(time_values)
        return in_order(half, shape), at_origin
    each = torch.eye(n_modes, dtype=time_values.dtype, device=time_values.device)
    half, at_origin = kernel.modes_at(each)
    return torch.tensordot(time_values, in_order(half, shape), 1), time_values @ at_origin


def in_order(half: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return modes `(time, kernel, *half_shape)` of an FFT in the real Fourier basis, `(time, kernel, V)`.

    Args:
        half: modes of a real FFT.
        shape: sides of the lattice, two of them.

    Returns:
        `(time, kernel, V)`.
    """
    # Reflections make the modes real, even where sides of one or two sites make them trivial.
    half = half.real if half.is_complex() else half
    return half.flatten(2).index_select(2, _order(shape))


def can_use_kernels(field: Any, phi: Tensor, group: SymmetryGroup | None = None) -> bool:
    """Return whether kernels are in use and fit a field on a lattice.

    They fit fields of float32 or float64 on CPUs, on lattices of one or two dimensions whose reflections
    along each axis are symmetries, outside of the transformations of torch.

    Args:
        field: a vector field with a `kernel`.
        phi: where it will be evaluated, `(batch, *lattice)`.
        group: the symmetries of its kernels; by default the group of the field.

    Returns:
        Whether they can compute the field.
    """
    weight = field.kernel.weight
    known = phi.dtype in (torch.float32, torch.float64) and phi.dtype == weight.dtype
    on_cpu = phi.device.type == weight.device.type == "cpu"
    # There is no public name for this level either.
    transformed = is_transformed() or torch.autograd.forward_ad._current_level >= 0
    if not (fused.in_use() and known and on_cpu and not transformed and _sides_fit(field.lattice.shape)):
        return False
    return field.kernel.convolution.name != "direct" and _reflects_each_axis(group or field.group)


def _sides_fit(shape: tuple[int, ...]) -> bool:
    from equiflow.fused.modes import MAX_SIDE

    return len(shape) <= 2 and max(shape) <= MAX_SIDE


@lru_cache(maxsize=64)
def _reflects_each_axis(group: SymmetryGroup) -> bool:
    """Return whether the group ties each offset, and so each momentum, to its reflections along the axes."""
    index = group.offset_orbits().index
    reflected = (index.flip(axis).roll(1, axis) for axis in range(index.dim()))
    return all(torch.equal(index, other) for other in reflected)


@lru_cache(maxsize=64)
def _order(shape: tuple[int, int]) -> Tensor:
    """Return the place of each real mode among the modes of a real FFT, flattened, `(V,)`."""
    from equiflow.fused.modes import momenta

    first, second = (momenta(side) for side in shape)
    return (first[:, None] * (shape[1] // 2 + 1) + second).flatten()
