"""Solves by the kernels of a field as functions for autograd: start at `solve`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.just_in_time import announce, in_parallel
from equiflow.fused.references import Formula, gradients_in_torch
from equiflow.fused.tables import FieldTables

#: sites of a block, unless a configuration has more
SITES_PER_BLOCK = 2048
#: blocks of one call of a kernel: Python, which costs microseconds per call, can stop a solve between calls
BLOCKS_PER_CALL = 32


def rates(
    phi: Tensor, shape: tuple[int, int], tables: FieldTables, score: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return rates at the one time of the tables, without a graph.

    Args:
        phi: `(batch, *lattice)`.
        shape: sides of the lattice, two of them.
        tables: at one time.
        score: `(batch, *lattice)`.

    Returns:
        Velocity `(batch, *lattice)`, divergence `(batch,)` and, if a score is given, its rate.
    """
    flat, s = flattened(phi), None if score is None else flattened(score)
    velocity, rate, divergence = np.empty_like(flat), np.empty_like(flat), np.empty(len(flat))
    given = (flat, s, *tables.arrays(shape), shape, velocity, rate, divergence)
    kernel = tables.kernels().rates
    by_blocks(flat, shape, 1, lambda *blocks: kernel(*blocks[:3], *given))
    of_score = None if score is None else torch.from_numpy(rate).view_as(phi)
    return torch.from_numpy(velocity).view_as(phi), torch.from_numpy(divergence).to(phi.dtype), of_score


def solve(
    phi: Tensor, shape: tuple[int, int], tables: FieldTables, formula: Formula, score: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Carry configurations through all steps.

    Args:
        phi: `(batch, *lattice)`.
        shape: sides of the lattice, two of them.
        tables: at the times of all evaluations, in their order.
        formula: of a step.
        score: `grad log q` at the beginning, `(batch, *lattice)`; it is carried along if given.

    Returns:
        The final phi, `int div v dt` and `int sum_x v_x^2 dt`, which are differentiable in `phi` and the
        tables, and the final score, which is not.
    """
    announce(tables.name)
    call = _Call(shape, formula, tables, torch.is_grad_enabled())
    final, log_det, energy, final_score = _Solve.apply(call, phi, score, *tables.tensors())
    return final, log_det, energy, None if score is None else final_score


@dataclass
class _Call:
    """What a solve is told besides tensors, and tables, of which it only needs the kind."""

    shape: tuple[int, int]
    formula: Formula
    tables: FieldTables
    recording: bool


class _Solve(torch.autograd.Function):
    """`solve` for autograd, with the tables one by one."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, phi: Tensor, score: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tables = call.tables.replaced(tensors)
        flat = flattened(phi).copy()
        step, h = call.formula.arrays(flat.dtype)
        n_times, (batch, V) = len(tensors[0]), flat.shape
        keeps = call.recording and any(ctx.needs_input_grad)
        whole = _whole_blocks(batch, call.shape, flat) if keeps else 0
        states = np.empty((whole, n_times // len(step[1]) if keeps else 0, V), flat.dtype)
        stages = np.empty((whole, n_times if keeps else 0, V), flat.dtype)
        log_det, energy = np.zeros(batch), np.zeros(batch)
        carried = None if score is None else flattened(score).copy()
        constants = (*tables.arrays(call.shape), call.shape)
        given = (flat, carried, log_det, energy, *constants, step, h, states, stages)
        kernel = tables.kernels().solve
        by_blocks(flat, call.shape, n_times, lambda *blocks: kernel(*blocks[:3], *given))
        ctx.call, ctx.kept = call, (states, stages)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(phi, *tensors)
        of_score = phi.new_empty(0) if carried is None else torch.from_numpy(carried).view_as(phi)
        ctx.mark_non_differentiable(of_score)
        numbers = [torch.from_numpy(x).to(phi.dtype) for x in (log_det, energy)]
        return torch.from_numpy(flat).view_as(phi), numbers[0], numbers[1], of_score

    @staticmethod
    def backward(ctx: Any, *of_results: Tensor | None) -> tuple[Tensor | None, ...]:
        phi, *tensors = ctx.saved_tensors
        call, tables = ctx.call, ctx.call.tables.replaced(tensors)
        gradients: Sequence[Tensor | None]
        if torch.is_grad_enabled():  # someone wants second derivatives
            needed = (ctx.needs_input_grad[1], *ctx.needs_input_grad[3:])
            results = tables.solve_in_torch(phi, call.shape, call.formula)
            gradients = gradients_in_torch((phi, *tensors), results, of_results[:3], needed)
        else:
            gradients = _gradients(call, phi, tables, of_results[:3], ctx.kept)
        of_phi, *of_tensors = gradients
        return None, of_phi, None, *of_tensors


def _gradients(
    call: _Call, phi: Tensor, tables: FieldTables, of_results: Sequence[Tensor | None], kept: Any
) -> list[Tensor]:
    """Return the gradients with respect to phi and all tables, by kernels."""
    like, arrays = flattened(phi), tables.arrays(call.shape)
    of_phi = np.zeros_like(like) if of_results[0] is None else flattened(of_results[0]).copy()
    of_numbers = [np.zeros(len(phi), like.dtype) if g is None else flattened(g) for g in of_results[1:]]
    constants = (*arrays, call.shape, *call.formula.arrays(like.dtype))
    sums: dict[int, Any] = {}  # by part of the batch, each for one thread
    kernel = tables.kernels().pull_back

    def some_blocks(start: int, size: int, number: int, part: int) -> None:
        own = sums.setdefault(part, tuple(np.zeros_like(x) for x in tables.sums(arrays)))
        kernel(start, size, number, of_phi, *of_numbers, *constants, *kept, own)

    by_blocks(like, call.shape, len(arrays[0][0]), some_blocks)
    parts = [sums[part] for part in sorted(sums)]
    total = [torch.from_numpy(sum(terms[1:], start=terms[0])) for terms in zip(*parts, strict=True)]
    return [torch.from_numpy(of_phi).view_as(phi), *tables.gradients(total)]


def by_blocks(
    fields: Any, shape: tuple[int, int], n_times: int, kernel: Callable[[int, int, int, int], None]
) -> None:
    """Call `kernel(start, size, number, part)` for all blocks of configurations.

    The blocks do not depend on the number of threads.

    Args:
        fields: `(batch, V)`.
        shape: sides of the lattice, two of them.
        n_times: number of evaluations.
        kernel: works on `number` blocks of `size` configurations from `start` on, in one thread for each
            `part`.
    """
    batch, V = fields.shape
    size = _whole_blocks(max(1, SITES_PER_BLOCK // V), shape, fields)

    def some(first: int, last: int) -> None:
        for block in range(first, last, BLOCKS_PER_CALL):
            start, stop = block * size, min(batch, min(last, block + BLOCKS_PER_CALL) * size)
            number, rest = divmod(stop - start, size)
            if number:
                kernel(start, size, number, first)
            if rest:  # of the last block
                kernel(stop - rest, rest, 1, first)

    in_parallel(some, -(-batch // size), size * V * n_times)


def _whole_blocks(size: int, shape: tuple[int, int], like: Any) -> int:
    """Return how many configurations blocks have room for that hold `size` of them."""
    from equiflow.fused.transforms import configurations_together

    together = configurations_together(shape[1], like.dtype)
    return -(-size // together) * together


def flattened(x: Tensor) -> Any:
    """Return a tensor as an array with one row per configuration, without copying if it is contiguous."""
    array = x.detach().contiguous().numpy()
    return array.reshape(len(array), -1) if array.ndim > 1 else array
