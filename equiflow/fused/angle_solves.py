"""Evaluations and solves of fields of angles, for one block after the other.

A block of a few configurations stays in the cache from the first step to the last. See
`equiflow.fused.angle_fields` for the fields and for the arguments `tables`, `ridges` and `basis`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.angle_fields import angle_rates_of, angle_tables_at, angle_work_for
from equiflow.fused.just_in_time import jit
from equiflow.fused.modes import aligned, load, store
from equiflow.fused.ridge_solves import add_energies, advanced

#: sites of a block, unless a configuration has more
SITES_PER_BLOCK = 2048


@jit
def rates(
    first: int,
    size: int,
    theta: Any,
    tables: Any,
    ridges: Any,
    basis: Any,
    velocity: Any,
    divergence: Any,
) -> None:
    """Write velocity and divergence at one time for a block.

    Args:
        first: first configuration of the block.
        size: number of configurations.
        theta: `(batch, V)`.
        tables: at one time.
        ridges: see above.
        basis: see above.
        velocity: `(batch, V)`, written.
        divergence: `(batch,)` float64, written.
    """
    now = angle_tables_at(tables, 0)
    rows, columns = now[0].shape[1:]
    blocks = aligned(2 * rows * size * columns, theta).reshape(2, rows, size, columns)
    work = angle_work_for(blocks[0], now)
    load(theta, first, blocks[0])
    angle_rates_of(blocks[0], now, ridges, basis, work, blocks[1], divergence[first : first + size])
    store(blocks[1], first, velocity)


@jit
def solve(
    first: int,
    size: int,
    theta: Any,
    log_det: Any,
    energy: Any,
    tables: Any,
    ridges: Any,
    basis: Any,
    formula: Any,
    h: Any,
) -> None:
    """Carry a block through all steps, in place; `energy` becomes `int sum_x v_x^2 dt`.

    Args:
        first: first configuration of the block.
        size: number of configurations.
        theta: `(batch, V)`.
        log_det: `(batch,)`, float64.
        energy: `(batch,)`, float64.
        tables: at the times of all evaluations, in their order.
        ridges: see above.
        basis: see above.
        formula: matrix and weights of the Runge-Kutta method.
        h: length of a step, with its sign.
    """
    matrix, weights = formula
    n_stages, n_times = len(weights), len(tables[4])
    rows, columns = tables[0].shape[2:]
    shape, V = (rows, size, columns), size * rows * columns
    stages = aligned(n_stages * V, theta).reshape(n_stages, V)
    y, at = aligned(V, theta), aligned(V, theta)
    work = angle_work_for(y.reshape(shape), angle_tables_at(tables, 0))
    divergence = np.empty(size)
    load(theta, first, y.reshape(shape))
    for time in range(n_times):
        i = time % n_stages
        now, rate = angle_tables_at(tables, time), stages[i].reshape(shape)
        advanced(y, matrix[i], stages, i, h, at)
        angle_rates_of(at.reshape(shape), now, ridges, basis, work, rate, divergence)
        for n in range(size):
            log_det[first + n] += h * weights[i] * divergence[n]
        add_energies(rate, h * weights[i], first, energy)
        if i == n_stages - 1:
            advanced(y, weights, stages, n_stages, h, at)
            y[:] = at
    store(y.reshape(shape), first, theta)
