"""Evaluations and solves of a field and their gradients, for one block after the other, for any `Kernels`.

A block of a few configurations stays in the cache from the first step to the last. Its configurations are
filled up with zeros to whole groups, see `equiflow.fused.transforms`. Whether a score is given is known when
a kernel is compiled: code for scores is not compiled before it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit_as, jit_within
from equiflow.fused.stages import add, advanced, energies_of, keep, of_energies
from equiflow.fused.transforms import aligned, load_block, store_block
from equiflow.fused.vectors import flat


@dataclass(frozen=True)
class Kernels:
    """What a solve calls of a field, all compiled.

    The state of a block is `(first, group, row)`, in modes or on sites as the field wants. Tables at one time
    come from `at_time`, scratch memory from `work_for`; `ridges` are handed on, and so is `basis`, see
    `transforms.axes`.

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
def padded(size: int, together: int) -> int:
    """Return the number of configurations of a block that holds `size` of them.

    Args:
        size: number of configurations.
        together: configurations of a group.

    Returns:
        The next multiple of `together`.
    """
    return (size + together - 1) // together * together


def _moves(field: Kernels) -> tuple[Any, Any]:
    """Return functions that take configurations of a batch to a block of states, and back."""
    enter, leave = field.enter, field.leave

    @jit_as(f"loading of {field.name}", within=True)
    def load_states(
        fields: Any, first: int, size: int, basis: Any, sites: Any, scratch: Any, out: Any
    ) -> None:
        load_block(fields, first, size, basis[2], sites)
        enter(sites, basis, scratch, out)

    @jit_as(f"storing of {field.name}", within=True)
    def store_states(
        states: Any, first: int, size: int, basis: Any, sites: Any, scratch: Any, fields: Any
    ) -> None:
        leave(states, basis, scratch, sites)
        store_block(sites, first, size, basis[2], fields)

    return load_states, store_states


def rates_by(field: Kernels) -> Any:
    """Return a kernel for velocity and divergence at one time, and the rate of the score if one is given.

    Args:
        field: functions of the field.

    Returns:
        A compiled function for `number` blocks of `size` configurations, from the `start`-th one on.
    """
    at_time, work_for, (load_states, store_states) = field.at_time, field.work_for, _moves(field)
    velocity_of, velocity_and_score_of = field.velocity, field.velocity_and_score

    @jit_as(f"rates of {field.name}")
    def rates(
        start: int,
        size: int,
        number: int,
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
        now, (rows, columns), together = at_time(tables, 0), shape, basis[2]
        room = padded(size, together)
        blocks = aligned(6 * rows * room * columns, phi)
        blocks = blocks.reshape(6, rows, room // together, columns * together)
        sites, y, s, v, r, scratch = blocks[0], blocks[1], blocks[2], blocks[3], blocks[4], flat(blocks[5])
        work, total = work_for(y, now), np.empty(room)
        for block in range(number):
            first = start + block * size
            load_states(phi, first, size, basis, sites, scratch, y)
            if score is None:
                velocity_of(y, now, ridges, basis, work, v, total)
            else:
                load_states(score, first, size, basis, sites, scratch, s)
                velocity_and_score_of(y, s, now, ridges, basis, work, v, r, total)
                store_states(-r, first, size, basis, sites, scratch, rate)
            store_states(v, first, size, basis, sites, scratch, velocity)
            divergence[first : first + size] = total[:size]

    return rates


def solve_by(field: Kernels) -> Any:  # noqa: C901 (so does what makes it)
    """Return a kernel that carries blocks through all steps, one after the other.

    It takes `(start, size, number, phi, score, log_det, energy, tables, ridges, basis, shape, formula, h,
    states, stages_kept)`: first configuration, configurations of a block and number of blocks; phi and score
    `(batch, V)`, overwritten, or None for the score; `log_det` and `energy`, which becomes
    `int sum_x v_x^2 dt`, `(batch,)` in float64; the tables at the times of all evaluations; matrix and
    weights of the Runge-Kutta method and the length of a step, with its sign; states at the beginning of each
    step `(batch, step, V)` and velocities `(batch, evaluation, V)`, written unless they are empty. Both have
    room for whole blocks.

    Args:
        field: functions of the field.

    Returns:
        A compiled function.
    """
    at_time, work_for, (load_states, store_states) = field.at_time, field.work_for, _moves(field)
    velocity_of, velocity_and_score_of = field.velocity, field.velocity_and_score

    @jit_as(f"solve of {field.name}")
    def solve(
        start: int,
        size: int,
        number: int,
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
        n_stages, together = len(weights), basis[2]
        room = padded(size, together)
        shape_of_block, V = (rows, room // together, columns * together), room * rows * columns
        stages, one_more = aligned(n_stages * V, phi).reshape(n_stages, V), aligned(V, phi)
        velocities = stages.reshape(n_stages, *shape_of_block)
        y, at, sites = aligned(V, phi), aligned(V, phi), aligned(V, phi).reshape(shape_of_block)
        y_at = at.reshape(shape_of_block)
        work, divergence, energies = work_for(y_at, at_time(tables, 0)), np.empty(room), np.empty(room)
        if score is not None:
            of_score = aligned(n_stages * V, phi).reshape(n_stages, V)
            rates_of_score = of_score.reshape(n_stages, *shape_of_block)
            s, of_score_at = aligned(V, phi), aligned(V, phi).reshape(shape_of_block)
        for block in range(number):
            first = start + block * size
            load_states(phi, first, size, basis, sites, at, y.reshape(shape_of_block))
            if score is not None:
                load_states(score, first, size, basis, sites, at, s.reshape(shape_of_block))
            for time in range(n_times):
                i = time % n_stages
                now, rate = at_time(tables, time), velocities[i]
                advanced(y, matrix[i], stages, i, h, at)
                if score is None:
                    velocity_of(y_at, now, ridges, basis, work, rate, divergence)
                else:
                    advanced(s, matrix[i], of_score, i, -h, flat(of_score_at))
                    given = (y_at, of_score_at, now, ridges, basis, work)
                    velocity_and_score_of(*given, rate, rates_of_score[i], divergence)
                energies_of(rate, together, energies)
                for n in range(size):
                    log_det[first + n] += h * weights[i] * divergence[n]
                    energy[first + n] += h * weights[i] * energies[n]
                keep(stages[i], first, room, time, stages_kept)
                if i == n_stages - 1:
                    keep(y, first, room, time // n_stages, states)
                    advanced(y, weights, stages, n_stages, h, one_more)
                    y, one_more = one_more, y
                    if score is not None:
                        advanced(s, weights, of_score, n_stages, -h, one_more)
                        s, one_more = one_more, s
            store_states(y.reshape(shape_of_block), first, size, basis, sites, at, phi)
            if score is not None:
                store_states(s.reshape(shape_of_block), first, size, basis, sites, at, score)

    return solve


def pull_back_by(field: Kernels) -> Any:
    """Return a kernel that turns gradients in the results of a solve into gradients in its arguments.

    It takes `(start, size, number, of_phi, of_log_det, of_energy, tables, ridges, basis, shape, formula, h,
    states, stages_kept, gradients)`: `of_phi` is overwritten, and `gradients` of all tables are added to.

    Args:
        field: functions of the field.

    Returns:
        A compiled function.
    """
    at_time, work_for, (load_states, store_states) = field.at_time, field.work_for, _moves(field)
    pull, sums_at = field.pull, field.sums_at

    @jit_as(f"gradients of {field.name}")
    def pull_back(
        start: int,
        size: int,
        number: int,
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
        n_stages, together = len(weights), basis[2]
        room = padded(size, together)
        shape_of_block, V = (rows, room // together, columns * together), room * rows * columns
        pulled = aligned(n_stages * V, of_phi).reshape(n_stages, V)
        end, at, w = aligned(V, of_phi), aligned(V, of_phi), aligned(V, of_phi)
        at_end, w_at = end.reshape(shape_of_block), w.reshape(shape_of_block)
        y_at = at.reshape(shape_of_block)
        sites = aligned(V, of_phi).reshape(shape_of_block)
        work = work_for(at_end, at_time(tables, 0))
        weight, energy_weight = np.zeros(room, of_phi.dtype), np.zeros(room, of_phi.dtype)
        one = of_phi.dtype.type(1)
        for block in range(number):
            first = start + block * size
            load_states(of_phi, first, size, basis, sites, at, at_end)
            begun = states[first : first + room].reshape(n_times // n_stages, V)
            kept = stages_kept[first : first + room].reshape(n_times, V)
            for time in range(n_times - 1, -1, -1):
                i = time % n_stages
                factor, stages = h * weights[i], kept[time - i : time - i + n_stages]
                advanced(begun[time // n_stages], matrix[i], stages, i, h, at)
                velocity = stages[i].reshape(shape_of_block)
                for n in range(size):
                    weight[n] = factor * of_log_det[first + n]
                    energy_weight[n] = factor * of_energy[first + n]
                of_energies(velocity, together, energy_weight, w_at)
                add(factor, end, w)
                for later in range(i + 1, n_stages):
                    add(h * matrix[later, i], pulled[later], w)
                given = (y_at, w_at, weight, at_time(tables, time), ridges, basis, work)
                pull(*given, pulled[i].reshape(shape_of_block), sums_at(gradients, time))
                if i == 0:
                    for stage in range(n_stages):
                        add(one, pulled[stage], end)
            store_states(at_end, first, size, basis, sites, at, of_phi)

    return pull_back
