"""Sums over the stages of a Runge-Kutta step, and kinetic energies, for one block."""

from __future__ import annotations

from typing import Any

from equiflow.fused.groups import add_over_sites, spread_group
from equiflow.fused.just_in_time import jit_within
from equiflow.fused.ridges import copy
from equiflow.fused.vectors import flat, lanes_of, load, store, zero


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
def energies_of(velocity: Any, together: int, energies: Any) -> None:
    """Write `sum_x v_x^2` of each configuration of a block.

    Args:
        velocity: `(first, group, row)`.
        together: configurations of a group.
        energies: `(configuration,)`, float64, written.
    """
    (rows, n_groups, length), values, lanes = velocity.shape, flat(velocity), lanes_of(velocity)
    energies[:] = 0
    for group in range(n_groups):
        total = zero(values)
        for x in range(rows):
            start = (x * n_groups + group) * length
            for y in range(start, start + length, lanes):
                v = load(values, y)
                total += v * v
        add_over_sites(total, energies, group * together, together)


@jit_within
def of_energies(velocity: Any, together: int, of_energy: Any, out: Any) -> None:
    """Set `out` to the gradient of the sum of `of_energy sum_x v_x^2` in the velocity of a block.

    Args:
        velocity: `(first, group, row)`.
        together: configurations of a group.
        of_energy: `(configuration,)`.
        out: like `velocity`, written.
    """
    (rows, n_groups, length), values, lanes = velocity.shape, flat(velocity), lanes_of(velocity)
    written = flat(out)
    for group in range(n_groups):
        factor = spread_group(of_energy, group * together, together)
        factor = factor + factor
        for x in range(rows):
            start = (x * n_groups + group) * length
            for y in range(start, start + length, lanes):
                store(factor * load(values, y), written, y)


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
