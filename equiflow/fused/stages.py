"""Sums over the stages of a Runge-Kutta step, and kinetic energies, for one block."""

from __future__ import annotations

from typing import Any

from equiflow.fused.just_in_time import jit_within
from equiflow.fused.ridges import copy
from equiflow.fused.vectors import flat, lanes_of, load, sum_of_lanes, zero


@jit_within
def advanced(y: Any, row: Any, stages: Any, n: int, h: Any, out: Any) -> None:
    """Set `out = y + h sum_{i<n} row_i stages_i`, all flat; two stages are added in one pass.

    Args:
        y: `(n,)`, another array than `out`.
        row: coefficients, of which the first n count.
        stages: `(stage, n)`.
        n: number of stages to add.
        h: length of the step.
        out: like `y`, written.
    """
    if n == 0:
        copy(y, out)
    elif n == 1:
        a, first = h * row[0], stages[0]
        for k in range(len(y)):
            out[k] = y[k] + a * first[k]
    else:
        a, b, first, second = h * row[0], h * row[1], stages[0], stages[1]
        for k in range(len(y)):
            out[k] = y[k] + a * first[k] + b * second[k]
    for i in range(2, n - 1, 2):
        a, b, first, second = h * row[i], h * row[i + 1], stages[i], stages[i + 1]
        for k in range(len(y)):
            out[k] += a * first[k] + b * second[k]
    if n > 2 and n % 2 == 1:
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
    (rows, size, columns), values, lanes = velocity.shape, flat(velocity), lanes_of(velocity)
    whole = columns - columns % lanes
    for n in range(len(energy)):
        sums, rest = zero(values), velocity.dtype.type(0)
        for x in range(rows):
            place = (x * size + n) * columns
            for y in range(place, place + whole, lanes):
                v = load(values, y)
                sums += v * v
            for y in range(place + whole, place + columns):
                rest += values[y] * values[y]
        energy[n] += factor * (sum_of_lanes(sums) + rest)


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


@jit_within
def keep(values: Any, first: int, room: int, n: int, kept: Any) -> None:
    """Copy what a block has at the n-th time to `kept`, unless that is empty.

    Args:
        values: of the block, flat.
        first: the first configuration of the block.
        room: configurations of the block.
        n: number of the time.
        kept: `(configuration, time, V)`, written; or empty.
    """
    if kept.size:
        copy(values, kept[first : first + room].reshape(kept.shape[1], len(values))[n])
