"""Evaluations and solves of fields of angles and their gradients: `rates`, `solve` and `pull_back`.

See `equiflow.fused.angle_fields` for the fields and for the arguments `tables`, `ridges` and `basis`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.angle_fields import angle_rates_of, angle_tables_at, angle_work_for
from equiflow.fused.angle_pulls import angle_pull_of, angle_pull_work_for
from equiflow.fused.just_in_time import jit_within
from equiflow.fused.ridges import copy
from equiflow.fused.solves import Kernels, pull_back_by, rates_by, solve_by
from equiflow.fused.vectors import flat


@jit_within
def _same(fields: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Copy angles: their state is on the sites."""
    copy(flat(fields), flat(out))


@jit_within
def _work_for(like: Any, now: Any) -> Any:
    """Return scratch memory for rates, for the transposed Jacobian, and a velocity that nobody wants."""
    unused = np.empty_like(like), np.empty(like.shape[1] * like.shape[2] // now[0].shape[2])
    return angle_work_for(like, now), angle_pull_work_for(like, now), unused


@jit_within
def _velocity(theta: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, divergence: Any) -> None:
    angle_rates_of(theta, now, ridges, basis, work[0], out, divergence)


@jit_within
def _velocity_and_score(
    theta: Any, score: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, rate: Any, divergence: Any
) -> None:
    """Pull the score with weight 1 on each divergence, without gradients in the tables."""
    kernels, B, D, at_origin, _ = now
    unwanted = np.zeros_like(B), np.zeros_like(D), np.zeros_like(at_origin)
    nothing = (kernels[:0], *unwanted, np.zeros_like(ridges[0]), ridges[1][:0])
    ones = np.ones(theta.shape[1] * basis[2], theta.dtype)
    angle_pull_of(theta, score, ones, now, ridges, basis, work[0], work[1], out, divergence, rate, nothing)


@jit_within
def _pull(
    theta: Any, w: Any, weights: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, sums: Any
) -> None:
    of_kernels, of_B, of_D, of_origin, of_constant, of_W, of_phase = sums
    for weight in weights:
        of_constant[0] += weight
    velocity, divergence = work[2]
    others = of_kernels, of_B, of_D, of_origin, of_W, of_phase
    given = (theta, w, weights, now, ridges, basis, work[0], work[1])
    angle_pull_of(*given, velocity, divergence, out, others)


@jit_within
def _sums_at(gradients: Any, n: int) -> Any:
    kernels, B, D, at_origin, constant, W, phase = gradients
    return kernels[n], B[n], D[n], at_origin[n], constant[n : n + 1], W, phase


ANGLES = Kernels(
    name="angles",
    at_time=angle_tables_at,
    enter=_same,
    leave=_same,
    work_for=_work_for,
    velocity=_velocity,
    velocity_and_score=_velocity_and_score,
    pull=_pull,
    sums_at=_sums_at,
)
rates, solve, pull_back = rates_by(ANGLES), solve_by(ANGLES), pull_back_by(ANGLES)
