"""Evaluations and solves of fields of angles and their gradients, for one block after the other.

A block of a few configurations stays in the cache from the first step to the last. See
`equiflow.fused.angle_fields` for the fields and for the arguments `tables`, `ridges` and `basis`. Whether a
score is given is known when a kernel is compiled: code for scores is not compiled before it is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.angle_fields import angle_rates_of, angle_tables_at, angle_work_for
from equiflow.fused.angle_pulls import angle_pull_of, angle_pull_work_for
from equiflow.fused.just_in_time import jit
from equiflow.fused.modes import aligned, load, store
from equiflow.fused.ridge_solves import add, add_energies, advanced, of_energies
from equiflow.fused.ridges import copy

#: sites of a block, unless a configuration has more
SITES_PER_BLOCK = 2048


@jit
def _no_sums(now: Any, ridges: Any) -> Any:
    """Return what `angle_pull_of` adds gradients to where nobody wants them."""
    kernels, B, D, at_origin, _ = now
    ridge_sums = np.zeros_like(B), np.zeros_like(D), np.zeros_like(at_origin)
    return kernels[:0], *ridge_sums, np.zeros_like(ridges[0]), np.zeros_like(ridges[1])


@jit
def rates(
    first: int,
    size: int,
    theta: Any,
    score: Any,
    tables: Any,
    ridges: Any,
    basis: Any,
    velocity: Any,
    rate: Any,
    divergence: Any,
) -> None:
    """Write velocity and divergence at one time for a block, and the rate of the score if one is given.

    Args:
        first: first configuration of the block.
        size: number of configurations.
        theta: `(batch, V)`.
        score: `(batch, V)` or None.
        tables: at one time.
        ridges: see above.
        basis: see above.
        velocity: `(batch, V)`, written.
        rate: `(batch, V)`, written if a score is given.
        divergence: `(batch,)` float64, written.
    """
    now = angle_tables_at(tables, 0)
    rows, columns = now[0].shape[1:]
    blocks = aligned(4 * rows * size * columns, theta).reshape(4, rows, size, columns)
    work, total = angle_work_for(blocks[0], now), divergence[first : first + size]
    load(theta, first, blocks[0])
    if score is None:
        angle_rates_of(blocks[0], now, ridges, basis, work, blocks[1], total)
    else:
        load(score, first, blocks[2])
        memory, nothing = angle_pull_work_for(blocks[0], now), _no_sums(now, ridges)
        ones = np.ones(size, theta.dtype)
        velocity_of, pulled = blocks[1], blocks[3]
        given = (blocks[0], blocks[2], ones, now, ridges, basis, work, memory)
        angle_pull_of(*given, velocity_of, total, pulled, nothing)
        store(-pulled, first, rate)
    store(blocks[1], first, velocity)


@jit
def solve(
    first: int,
    size: int,
    theta: Any,
    score: Any,
    log_det: Any,
    energy: Any,
    tables: Any,
    ridges: Any,
    basis: Any,
    formula: Any,
    h: Any,
    states: Any,
    stages_kept: Any,
) -> None:
    """Carry a block through all steps, in place; `energy` becomes `int sum_x v_x^2 dt`.

    Args:
        first: first configuration of the block.
        size: number of configurations.
        theta: `(batch, V)`.
        score: `(batch, V)` to carry the score along, or None.
        log_det: `(batch,)`, float64.
        energy: `(batch,)`, float64.
        tables: at the times of all evaluations, in their order.
        ridges: see above.
        basis: see above.
        formula: matrix and weights of the Runge-Kutta method.
        h: length of a step, with its sign.
        states: `(batch, step, V)` for the angles at the beginning of each step, or without elements.
        stages_kept: `(batch, evaluation, V)` for each velocity, or without elements.
    """
    matrix, weights = formula
    n_stages, n_times = len(weights), len(tables[4])
    rows, columns = tables[0].shape[2:]
    shape, V = (rows, size, columns), size * rows * columns
    stages = aligned(n_stages * V, theta).reshape(n_stages, V)
    y, at = aligned(V, theta), aligned(V, theta)
    start = angle_tables_at(tables, 0)
    work, divergence = angle_work_for(y.reshape(shape), start), np.empty(size)
    load(theta, first, y.reshape(shape))
    if score is not None:
        of_score = aligned(n_stages * V, theta).reshape(n_stages, V)
        s, of_score_at = aligned(V, theta), aligned(V, theta)
        memory, nothing = angle_pull_work_for(y.reshape(shape), start), _no_sums(start, ridges)
        ones = np.ones(size, theta.dtype)
        load(score, first, s.reshape(shape))
    for time in range(n_times):
        i = time % n_stages
        now, rate = angle_tables_at(tables, time), stages[i].reshape(shape)
        advanced(y, matrix[i], stages, i, h, at)
        if score is None:
            angle_rates_of(at.reshape(shape), now, ridges, basis, work, rate, divergence)
        else:
            advanced(s, matrix[i], of_score, i, -h, of_score_at)
            given = (at.reshape(shape), of_score_at.reshape(shape), ones, now, ridges, basis, work, memory)
            angle_pull_of(*given, rate, divergence, of_score[i].reshape(shape), nothing)
        for n in range(size):
            log_det[first + n] += h * weights[i] * divergence[n]
        add_energies(rate, h * weights[i], first, energy)
        if states.size:
            copy(stages[i], stages_kept[first : first + size].reshape(n_times, V)[time])
        if i == n_stages - 1:
            if states.size:
                copy(y, states[first : first + size].reshape(n_times // n_stages, V)[time // n_stages])
            advanced(y, weights, stages, n_stages, h, at)
            copy(at, y)
            if score is not None:
                advanced(s, weights, of_score, n_stages, -h, of_score_at)
                copy(of_score_at, s)
    store(y.reshape(shape), first, theta)
    if score is not None:
        store(s.reshape(shape), first, score)


@jit
def pull_back(
    first: int,
    size: int,
    of_theta: Any,
    of_log_det: Any,
    of_energy: Any,
    tables: Any,
    ridges: Any,
    basis: Any,
    formula: Any,
    h: Any,
    states: Any,
    stages_kept: Any,
    gradients: Any,
) -> None:
    """Turn gradients with respect to the results of `solve` into those of its arguments.

    Args:
        first: first configuration of the block.
        size: number of configurations.
        of_theta: gradient of the final angles, overwritten by that of the initial ones, `(batch, V)`.
        of_log_det: gradient of `log_det`, `(batch,)`.
        of_energy: gradient of `energy`, `(batch,)`.
        tables: see `solve`.
        ridges: see above.
        basis: see above.
        formula: see `solve`.
        h: see `solve`.
        states: written by `solve`.
        stages_kept: written by `solve`.
        gradients: added to: of all tables; of W and phase over pi.
    """
    matrix, weights = formula
    n_stages, n_times = len(weights), len(tables[4])
    rows, columns = tables[0].shape[2:]
    shape, V = (rows, size, columns), size * rows * columns
    of_kernels, of_B, of_D, of_origin, of_constant, of_W, of_phase = gradients
    pulled = aligned(n_stages * V, of_theta).reshape(n_stages, V)
    end, at, w, unused = (
        aligned(V, of_theta),
        aligned(V, of_theta),
        aligned(V, of_theta),
        aligned(V, of_theta),
    )
    start = angle_tables_at(tables, 0)
    work, memory = angle_work_for(end.reshape(shape), start), angle_pull_work_for(end.reshape(shape), start)
    weight, one, divergence = np.empty(size, of_theta.dtype), of_theta.dtype.type(1), np.empty(size)
    load(of_theta, first, end.reshape(shape))
    begun = states[first : first + size].reshape(n_times // n_stages, V)
    kept = stages_kept[first : first + size].reshape(n_times, V)
    for time in range(n_times - 1, -1, -1):
        i = time % n_stages
        stages = kept[time - i : time - i + n_stages]
        advanced(begun[time // n_stages], matrix[i], stages, i, h, at)
        of_energies(
            stages[i].reshape(shape), h * weights[i], of_energy[first : first + size], w.reshape(shape)
        )
        for n in range(size):
            weight[n] = h * weights[i] * of_log_det[first + n]
            of_constant[time] += weight[n]
        add(h * weights[i], end, w)
        for later in range(i + 1, n_stages):
            add(h * matrix[later, i], pulled[later], w)
        now = angle_tables_at(tables, time)
        sums = of_kernels[time], of_B[time], of_D[time], of_origin[time], of_W, of_phase
        given = (at.reshape(shape), w.reshape(shape), weight, now, ridges, basis, work, memory)
        angle_pull_of(*given, unused.reshape(shape), divergence, pulled[i].reshape(shape), sums)
        if i == 0:
            for stage in range(n_stages):
                add(one, pulled[stage], end)
    store(end.reshape(shape), first, of_theta)
