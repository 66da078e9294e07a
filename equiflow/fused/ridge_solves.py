"""Solves of potential and shallow fields and their gradients, for one block after the other.

A block of a few configurations stays in the cache from the first step to the last. Its state is kept in
modes, where convolutions are products, so an evaluation takes one transform per kernel. See
`equiflow.fused.ridge_fields` for the fields and for the arguments `tables`, `ridges` and `basis`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit
from equiflow.fused.modes import aligned, load, store, to_modes, to_sites
from equiflow.fused.ridge_fields import at_time, pull, velocity_and_score_of, velocity_of
from equiflow.fused.ridges import copy, work_for

#: sites of a block, unless a configuration has more
SITES_PER_BLOCK = 1024


@jit
def advanced(y: Any, row: Any, stages: Any, n: int, h: Any, out: Any) -> None:
    """Set `out = y + h sum_{i<n} row_i stages_i`, all flat; two stages are added in one pass.

    Args:
        y: `(n,)`.
        row: coefficients, of which the first n count.
        stages: `(stage, n)`.
        n: number of stages to add.
        h: length of the step.
        out: like `y`, written.
    """
    copy(y, out)
    for i in range(0, n - 1, 2):
        a, b, first, second = h * row[i], h * row[i + 1], stages[i], stages[i + 1]
        for k in range(len(y)):
            out[k] += a * first[k] + b * second[k]
    if n % 2 == 1:
        add(h * row[n - 1], stages[n - 1], out)


@jit
def add_energies(velocity: Any, factor: Any, first: int, energy: Any) -> None:
    """Add `factor sum_x v_x^2` of each configuration of a block.

    Args:
        velocity: `(first, configuration, second)`.
        factor: of all configurations.
        first: first configuration of the block.
        energy: `(batch,)`, added to.
    """
    rows, size, columns = velocity.shape
    for n in range(size):
        total = velocity.dtype.type(0)
        for x in range(rows):
            for y in range(columns):
                total += velocity[x, n, y] * velocity[x, n, y]
        energy[first + n] += factor * total


@jit
def of_energies(velocity: Any, factor: Any, of_energy: Any, out: Any) -> None:
    """Set `out` to the gradient of the sum of `of_energy factor sum_x v_x^2` in the velocity of a block.

    Args:
        velocity: `(first, configuration, second)`.
        factor: of all configurations.
        of_energy: of each configuration, `(configuration,)`.
        out: like `velocity`, written.
    """
    rows, size, columns = velocity.shape
    for n in range(size):
        twice = (factor + factor) * of_energy[n]
        for x in range(rows):
            for y in range(columns):
                out[x, n, y] = twice * velocity[x, n, y]


@jit
def add(factor: Any, values: Any, out: Any) -> None:
    """Add `factor values` to `out`.

    Args:
        factor: a number.
        values: `(n,)`.
        out: `(n,)`, added to.
    """
    for k in range(len(out)):
        out[k] += factor * values[k]


@jit
def rates(
    first: int,
    size: int,
    phi: Any,
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
        phi: `(batch, V)`.
        score: `(batch, V)`, or without elements.
        tables: at one time.
        ridges: see above.
        basis: see above.
        velocity: `(batch, V)`, written.
        rate: like `score`, written.
        divergence: `(batch,)` float64, written.
    """
    now = at_time(tables, 0)
    rows, columns = now[0].shape
    blocks = aligned(5 * rows * size * columns, phi).reshape(5, rows, size, columns)
    work = work_for(blocks[0], size, len(now[1]), *now[3].shape)
    load(phi, first, blocks[4])
    to_modes(blocks[4], basis, blocks[0], blocks[1])
    total = divergence[first : first + size]
    if score.size:
        load(score, first, blocks[4])
        to_modes(blocks[4], basis, blocks[0], blocks[2])
        velocity_and_score_of(blocks[1], blocks[2], now, ridges, basis, work, blocks[3], blocks[4], total)
        to_sites(blocks[4], basis, blocks[0], blocks[1])
        store(-blocks[1], first, rate)
    else:
        velocity_of(blocks[1], now, ridges, basis, work, blocks[3], total)
    to_sites(blocks[3], basis, blocks[0], blocks[1])
    store(blocks[1], first, velocity)


@jit
def solve(
    first: int,
    size: int,
    phi: Any,
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
        phi: `(batch, V)`.
        score: `(batch, V)` to carry the score along, or without elements.
        log_det: `(batch,)`, float64.
        energy: `(batch,)`, float64.
        tables: at the times of all evaluations, in their order.
        ridges: see above.
        basis: see above.
        formula: matrix and weights of the Runge-Kutta method.
        h: length of a step, with its sign.
        states: `(batch, step, V)` for the modes at the beginning of each step, or without elements.
        stages_kept: `(batch, evaluation, V)` for the modes of each velocity, or without elements.
    """
    matrix, weights = formula
    n_stages, n_times = len(weights), len(tables[6])
    rows, columns = tables[0].shape[1:]
    shape, V = (rows, size, columns), size * rows * columns
    stages = aligned(n_stages * V, phi).reshape(n_stages, V)
    of_score = aligned(n_stages * V, phi).reshape(n_stages, V)
    y, s, moved = aligned(V, phi), aligned(V, phi), aligned(V, phi)
    at, of_score_at = aligned(V, phi), aligned(V, phi)
    work = work_for(y.reshape(shape), size, tables[1].shape[1], *tables[3].shape[1:])
    divergence = np.empty(size)
    load(phi, first, moved.reshape(shape))
    to_modes(moved.reshape(shape), basis, at.reshape(shape), y.reshape(shape))
    if score.size:
        load(score, first, moved.reshape(shape))
        to_modes(moved.reshape(shape), basis, at.reshape(shape), s.reshape(shape))
    for time in range(n_times):
        i = time % n_stages
        now, rate = at_time(tables, time), stages[i].reshape(shape)
        advanced(y, matrix[i], stages, i, h, at)
        if score.size:
            advanced(s, matrix[i], of_score, i, -h, of_score_at)
            velocity_and_score_of(
                at.reshape(shape),
                of_score_at.reshape(shape),
                now,
                ridges,
                basis,
                work,
                rate,
                of_score[i].reshape(shape),
                divergence,
            )
        else:
            velocity_of(at.reshape(shape), now, ridges, basis, work, rate, divergence)
        for n in range(size):
            log_det[first + n] += h * weights[i] * divergence[n]
        add_energies(rate, h * weights[i], first, energy)
        if states.size:
            stages_kept[first : first + size].reshape(n_times, V)[time] = stages[i]
        if i == n_stages - 1:
            if states.size:
                states[first : first + size].reshape(n_times // n_stages, V)[time // n_stages] = y
            advanced(y, weights, stages, n_stages, h, moved)
            copy(moved, y)
            if score.size:
                advanced(s, weights, of_score, n_stages, -h, moved)
                copy(moved, s)
    to_sites(y.reshape(shape), basis, at.reshape(shape), moved.reshape(shape))
    store(moved.reshape(shape), first, phi)
    if score.size:
        to_sites(s.reshape(shape), basis, at.reshape(shape), moved.reshape(shape))
        store(moved.reshape(shape), first, score)


@jit
def pull_back(
    first: int,
    size: int,
    of_phi: Any,
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
        of_phi: gradient of the final phi, overwritten by that of the initial one, `(batch, V)`.
        of_log_det: gradient of `log_det`, `(batch,)`.
        of_energy: gradient of `energy`, `(batch,)`.
        tables: see `solve`.
        ridges: see above.
        basis: see above.
        formula: see `solve`.
        h: see `solve`.
        states: written by `solve`.
        stages_kept: written by `solve`.
        gradients: added to: of linear, inner, outer, B transposed, q, trace, drift; of W and phase over pi.
    """
    matrix, weights = formula
    n_stages, n_times = len(weights), len(tables[6])
    rows, columns = tables[0].shape[1:]
    shape, V = (rows, size, columns), size * rows * columns
    of_linear, of_inner, of_outer, of_B, of_q, of_trace, of_drift, of_W, of_phase = gradients
    pulled = aligned(n_stages * V, of_phi).reshape(n_stages, V)
    end, moved, at, w = aligned(V, of_phi), aligned(V, of_phi), aligned(V, of_phi), aligned(V, of_phi)
    work = work_for(end.reshape(shape), size, tables[1].shape[1], *tables[3].shape[1:])
    weight, one = np.empty(size, of_phi.dtype), of_phi.dtype.type(1)
    load(of_phi, first, moved.reshape(shape))
    to_modes(moved.reshape(shape), basis, at.reshape(shape), end.reshape(shape))
    begun = states[first : first + size].reshape(n_times // n_stages, V)
    kept = stages_kept[first : first + size].reshape(n_times, V)
    for time in range(n_times - 1, -1, -1):
        i = time % n_stages
        stages = kept[time - i : time - i + n_stages]
        advanced(begun[time // n_stages], matrix[i], stages, i, h, at)
        total = w.reshape(shape)
        of_energies(stages[i].reshape(shape), h * weights[i], of_energy[first : first + size], total)
        for n in range(size):
            weight[n] = h * weights[i] * of_log_det[first + n]
            of_trace[time] += weight[n]
        add(h * weights[i], end, w)
        for later in range(i + 1, n_stages):
            add(h * matrix[later, i], pulled[later], w)
        for n in range(size):
            of_drift[time] += total[0, n, 0]
        of_kernels = of_linear[time], of_inner[time], of_outer[time]
        sums = (*of_kernels, of_B[time], of_q[time], of_W, of_phase)
        pull(
            at.reshape(shape),
            total,
            weight,
            at_time(tables, time),
            ridges,
            basis,
            work,
            pulled[i].reshape(shape),
            sums,
        )
        if i == 0:
            for stage in range(n_stages):
                add(one, pulled[stage], end)
    to_sites(end.reshape(shape), basis, at.reshape(shape), moved.reshape(shape))
    store(moved.reshape(shape), first, of_phi)
