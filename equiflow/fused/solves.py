"""Evaluations and solves of a field and their gradients, for one block after the other, for any `Kernels`.

A block of a few configurations stays in the cache from the first step to the last. Its configurations are
filled up with zeros to `transforms.configurations_per_vector`. Whether a score is given is known when a
kernel is compiled: code for scores is not compiled before it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit, jit_as, jit_within
from equiflow.fused.ridges import copy
from equiflow.fused.transforms import aligned, configurations_per_vector, load_block, store_block


@dataclass(frozen=True)
class Kernels:
    """What a solve calls of a field, all compiled.

    The state of a block is `(first, configuration, second)`, in modes or on sites as the field wants. Tables
    at one time come from `at_time`, scratch memory from `work_for`, and `ridges` and `basis` are handed on.

    Attributes:
        name: of the field.
        at_time: `(tables, n)` to the tables at the n-th time.
        enter: `(fields, basis, scratch, out)` takes fields on sites to states.
        leave: `(states, basis, scratch, out)` takes them back.
        work_for: `(like, now)` to scratch memory of a block.
        velocity: `(state, now, ridges, basis, work, out, divergence)` writes both.
        velocity_and_score: `(state, score, now, ridges, basis, work, out, rate, divergence)` writes minus the
            rate of the score too.
        pull: `(state, w, weights, now, ridges, basis, work, out, sums)` writes the transposed Jacobian of
            velocity and divergence, and adds gradients in the tables.
        sums_at: `(gradients, n)` to the sums of `pull` at the n-th time.
    """

    name: str
    at_time: Any
    enter: Any
    leave: Any
    work_for: Any
    velocity: Any
    velocity_and_score: Any
    pull: Any
    sums_at: Any


@jit_within
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


@jit_within
def add(factor: Any, values: Any, out: Any) -> None:
    """Add `factor values` to `out`.

    Args:
        factor: a number.
        values: `(n,)`.
        out: `(n,)`, added to.
    """
    for k in range(len(out)):
        out[k] += factor * values[k]


@jit_within
def add_energies(velocity: Any, factor: Any, energy: Any) -> None:
    """Add `factor sum_x v_x^2` of the first configurations of a block.

    Args:
        velocity: `(first, configuration, second)`.
        factor: of all configurations.
        energy: `(configuration,)`, added to.
    """
    rows, _, columns = velocity.shape
    for n in range(len(energy)):
        total = velocity.dtype.type(0)
        for x in range(rows):
            for y in range(columns):
                total += velocity[x, n, y] * velocity[x, n, y]
        energy[n] += factor * total


@jit_within
def of_energies(velocity: Any, factor: Any, of_energy: Any, out: Any) -> None:
    """Set `out` to the gradient of the sum of `of_energy factor sum_x v_x^2` in the velocity of a block.

    Args:
        velocity: `(first, configuration, second)`.
        factor: of all configurations.
        of_energy: of the first configurations, `(configuration,)`; zero for all others.
        out: like `velocity`, written.
    """
    rows, size, columns = velocity.shape
    for n in range(size):
        twice = factor + factor
        twice *= of_energy[n] if n < len(of_energy) else velocity.dtype.type(0)
        for x in range(rows):
            for y in range(columns):
                out[x, n, y] = twice * velocity[x, n, y]


@jit
def padded(size: int, columns: int, like: Any) -> int:
    """Return the number of configurations of a block that holds `size` of them.

    Args:
        size: number of configurations.
        columns: length of the second axis.
        like: an array of the dtype.

    Returns:
        The next multiple of `transforms.configurations_per_vector`.
    """
    number = configurations_per_vector(columns, like)
    return (size + number - 1) // number * number


def rates_by(field: Kernels) -> Any:
    """Return a kernel for velocity and divergence at one time, and the rate of the score if one is given.

    Args:
        field: functions of the field.

    Returns:
        A compiled function.
    """
    at_time, enter, leave, work_for = field.at_time, field.enter, field.leave, field.work_for
    velocity_of, velocity_and_score_of = field.velocity, field.velocity_and_score

    @jit_as(f"rates of {field.name}")
    def rates(
        first: int,
        size: int,
        phi: Any,
        score: Any,
        tables: Any,
        ridges: Any,
        basis: Any,
        shape: Any,
        velocity: Any,
        rate: Any,
        divergence: Any,
    ) -> None:
        now, (rows, columns) = at_time(tables, 0), shape
        room = padded(size, columns, phi)
        blocks = aligned(6 * rows * room * columns, phi).reshape(6, rows, room, columns)
        given, y, s, v, r = blocks[0], blocks[1], blocks[2], blocks[3], blocks[4]
        scratch = blocks[5].reshape(given.size)
        work, total = work_for(y, now), np.empty(room)
        load_block(phi, first, size, given)
        enter(given, basis, scratch, y)
        if score is None:
            velocity_of(y, now, ridges, basis, work, v, total)
        else:
            load_block(score, first, size, given)
            enter(given, basis, scratch, s)
            velocity_and_score_of(y, s, now, ridges, basis, work, v, r, total)
            leave(r, basis, scratch, given)
            store_block(-given, first, size, rate)
        leave(v, basis, scratch, given)
        store_block(given, first, size, velocity)
        divergence[first : first + size] = total[:size]

    return rates


def solve_by(field: Kernels) -> Any:  # noqa: C901 (so does what makes it)
    """Return a kernel that carries a block through all steps.

    It takes `(first, size, phi, score, log_det, energy, tables, ridges, basis, shape, formula, h, states,
    stages_kept)`: first configuration and number of them; phi and score `(batch, V)`, overwritten, or None
    for the score; `log_det` and `energy`, which becomes `int sum_x v_x^2 dt`, `(batch,)` in float64; the
    tables at the times of all evaluations; matrix and weights of the Runge-Kutta method and the length of
    a step, with its sign; states at the beginning of each step `(batch, step, V)` and velocities `(batch,
    evaluation, V)`, written unless they are empty. Both have room for whole blocks.

    Args:
        field: functions of the field.

    Returns:
        A compiled function.
    """
    at_time, enter, leave, work_for = field.at_time, field.enter, field.leave, field.work_for
    velocity_of, velocity_and_score_of = field.velocity, field.velocity_and_score

    @jit_as(f"solve of {field.name}")
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
        shape: Any,
        formula: Any,
        h: Any,
        states: Any,
        stages_kept: Any,
    ) -> None:
        (matrix, weights), (rows, columns), n_times = formula, shape, len(tables[-1])
        n_stages, room = len(weights), padded(size, columns, phi)
        block, V = (rows, room, columns), room * rows * columns
        stages = aligned(n_stages * V, phi).reshape(n_stages, V)
        y, at, moved = aligned(V, phi), aligned(V, phi), aligned(V, phi)
        work, divergence = work_for(y.reshape(block), at_time(tables, 0)), np.empty(room)
        load_block(phi, first, size, moved.reshape(block))
        enter(moved.reshape(block), basis, at, y.reshape(block))
        if score is not None:
            of_score = aligned(n_stages * V, phi).reshape(n_stages, V)
            s, of_score_at = aligned(V, phi), aligned(V, phi)
            load_block(score, first, size, moved.reshape(block))
            enter(moved.reshape(block), basis, at, s.reshape(block))
        for time in range(n_times):
            i = time % n_stages
            now, rate = at_time(tables, time), stages[i].reshape(block)
            advanced(y, matrix[i], stages, i, h, at)
            if score is None:
                velocity_of(at.reshape(block), now, ridges, basis, work, rate, divergence)
            else:
                advanced(s, matrix[i], of_score, i, -h, of_score_at)
                given = (at.reshape(block), of_score_at.reshape(block), now, ridges, basis, work)
                velocity_and_score_of(*given, rate, of_score[i].reshape(block), divergence)
            for n in range(size):
                log_det[first + n] += h * weights[i] * divergence[n]
            add_energies(rate, h * weights[i], energy[first : first + size])
            if states.size:
                copy(stages[i], stages_kept[first : first + room].reshape(n_times, V)[time])
            if i == n_stages - 1:
                if states.size:
                    copy(y, states[first : first + room].reshape(n_times // n_stages, V)[time // n_stages])
                advanced(y, weights, stages, n_stages, h, moved)
                copy(moved, y)
                if score is not None:
                    advanced(s, weights, of_score, n_stages, -h, moved)
                    copy(moved, s)
        leave(y.reshape(block), basis, at, moved.reshape(block))
        store_block(moved.reshape(block), first, size, phi)
        if score is not None:
            leave(s.reshape(block), basis, at, moved.reshape(block))
            store_block(moved.reshape(block), first, size, score)

    return solve


def pull_back_by(field: Kernels) -> Any:
    """Return a kernel that turns gradients in the results of a solve into gradients in its arguments.

    It takes `(first, size, of_phi, of_log_det, of_energy, tables, ridges, basis, shape, formula, h, states,
    stages_kept, gradients)`: `of_phi` is overwritten, and `gradients` of all tables are added to.

    Args:
        field: functions of the field.

    Returns:
        A compiled function.
    """
    at_time, enter, leave, work_for = field.at_time, field.enter, field.leave, field.work_for
    pull, sums_at = field.pull, field.sums_at

    @jit_as(f"gradients of {field.name}")
    def pull_back(
        first: int,
        size: int,
        of_phi: Any,
        of_log_det: Any,
        of_energy: Any,
        tables: Any,
        ridges: Any,
        basis: Any,
        shape: Any,
        formula: Any,
        h: Any,
        states: Any,
        stages_kept: Any,
        gradients: Any,
    ) -> None:
        (matrix, weights), (rows, columns), n_times = formula, shape, len(tables[-1])
        n_stages, room = len(weights), padded(size, columns, of_phi)
        block, V = (rows, room, columns), room * rows * columns
        pulled = aligned(n_stages * V, of_phi).reshape(n_stages, V)
        end, moved, at, w = aligned(V, of_phi), aligned(V, of_phi), aligned(V, of_phi), aligned(V, of_phi)
        work = work_for(end.reshape(block), at_time(tables, 0))
        weight, one = np.zeros(room, of_phi.dtype), of_phi.dtype.type(1)
        load_block(of_phi, first, size, moved.reshape(block))
        enter(moved.reshape(block), basis, at, end.reshape(block))
        begun = states[first : first + room].reshape(n_times // n_stages, V)
        kept = stages_kept[first : first + room].reshape(n_times, V)
        for time in range(n_times - 1, -1, -1):
            i = time % n_stages
            factor, stages = h * weights[i], kept[time - i : time - i + n_stages]
            advanced(begun[time // n_stages], matrix[i], stages, i, h, at)
            of_energies(stages[i].reshape(block), factor, of_energy[first : first + size], w.reshape(block))
            for n in range(size):
                weight[n] = factor * of_log_det[first + n]
            add(factor, end, w)
            for later in range(i + 1, n_stages):
                add(h * matrix[later, i], pulled[later], w)
            given = (at.reshape(block), w.reshape(block), weight, at_time(tables, time), ridges, basis, work)
            pull(*given, pulled[i].reshape(block), sums_at(gradients, time))
            if i == 0:
                for stage in range(n_stages):
                    add(one, pulled[stage], end)
        leave(end.reshape(block), basis, at, moved.reshape(block))
        store_block(moved.reshape(block), first, size, of_phi)

    return pull_back
