"""Solves by the kernels of `equiflow.fused.angle_solves`, as functions for autograd: start at `solve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.angle_references import rates_in_torch
from equiflow.fused.just_in_time import announce
from equiflow.fused.references import Formula, gradients_in_torch, solve_in_torch
from equiflow.fused.solving import by_blocks, flattened


@dataclass(frozen=True)
class AngleTables:
    """What the kernels know of a field of angles at several times, see `equiflow.fused.angle_fields`.

    Attributes:
        kernels: `K_n`, then `L_c`, then the products `L_c L_c'` with c <= c', in modes, `(time, kernel, V)`.
        slopes: B, `(time, channel, ridge)`.
        bends: D, `(time, ridge, pair)`.
        at_origin: `L_c(0)`, `(time, channel)`.
        constant: `V sum_n n K_n(0)`, `(time,)`.
        angles: W, `(ridge, channel)`, in half turns.
        phase: `(ridge,)`, in half turns.
    """

    kernels: Tensor
    slopes: Tensor
    bends: Tensor
    at_origin: Tensor
    constant: Tensor
    angles: Tensor
    phase: Tensor

    def arrays(self, shape: tuple[int, int]) -> tuple[Any, Any, Any]:
        """Return tables, ridges and basis as the kernels take them, on a lattice of two sides."""
        from equiflow.fused import modes

        kernels, *others = (x.detach().contiguous().numpy() for x in self.fields())
        slopes, bends, at_origin, constant, angles, phase = others
        in_modes = kernels.reshape(*kernels.shape[:2], *shape)
        basis = modes.matrices(shape, self.kernels.dtype)
        steep = np.ascontiguousarray((np.pi * angles).T.astype(angles.dtype))
        return (in_modes, slopes, bends, at_origin, constant), (angles, phase, steep), basis

    def fields(self) -> tuple[Tensor, ...]:
        """Return all tensors in their order."""
        return tuple(getattr(self, name) for name in AngleTables.__dataclass_fields__)


def rates(
    theta: Tensor, shape: tuple[int, int], tables: AngleTables, score: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return rates at the one time of the tables, without a graph.

    Args:
        theta: `(batch, *lattice)`.
        shape: sides of the lattice, two of them.
        tables: at one time.
        score: `(batch, *lattice)`.

    Returns:
        Velocity `(batch, *lattice)`, divergence `(batch,)` and, if a score is given, its rate.
    """
    from equiflow.fused import angle_solves

    flat, s = flattened(theta), None if score is None else flattened(score)
    velocity, rate, divergence = np.empty_like(flat), np.empty_like(flat), np.empty(len(flat))
    given = (flat, s, *tables.arrays(shape), velocity, rate, divergence)
    by_blocks(
        flat, angle_solves.SITES_PER_BLOCK, 1, lambda first, size, _: angle_solves.rates(first, size, *given)
    )
    of_score = None if score is None else torch.from_numpy(rate).view_as(theta)
    return torch.from_numpy(velocity).view_as(theta), torch.from_numpy(divergence).to(theta.dtype), of_score


def solve(
    theta: Tensor,
    shape: tuple[int, int],
    tables: AngleTables,
    formula: Formula,
    score: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Carry configurations through all steps.

    Args:
        theta: `(batch, *lattice)`.
        shape: sides of the lattice, two of them.
        tables: at the times of all evaluations, in their order.
        formula: of a step.
        score: `grad log q` at the beginning, `(batch, *lattice)`; it is carried along if given.

    Returns:
        The final angles, `int div v dt` and `int sum_x v_x^2 dt`, which are differentiable in `theta` and the
        tables, and the final score, which is not.
    """
    announce("AngleField")
    call = _Call(shape, formula, torch.is_grad_enabled())
    final, log_det, energy, final_score = _Solve.apply(call, theta, score, *tables.fields())
    return final, log_det, energy, None if score is None else final_score


@dataclass
class _Call:
    """What a solve is told besides tensors."""

    shape: tuple[int, int]
    formula: Formula
    recording: bool


class _Solve(torch.autograd.Function):
    """`solve` for autograd, with the tables one by one."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, theta: Tensor, score: Tensor | None, *fields: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from equiflow.fused import angle_solves

        flat = flattened(theta).copy()
        step, h = call.formula.arrays(flat.dtype)
        n_times, (batch, V) = len(fields[0]), flat.shape
        keeps = call.recording and any(ctx.needs_input_grad)
        states = np.empty((batch, n_times // len(step[1]), V) if keeps else (0, 0, 0), flat.dtype)
        stages = np.empty((batch, n_times, V) if keeps else (0, 0, 0), flat.dtype)
        log_det, energy = np.zeros(batch), np.zeros(batch)
        carried = None if score is None else flattened(score).copy()
        constants = AngleTables(*fields).arrays(call.shape)
        given = (flat, carried, log_det, energy, *constants, step, h, states, stages)

        def one_block(first: int, size: int, part: int) -> None:
            angle_solves.solve(first, size, *given)

        by_blocks(flat, angle_solves.SITES_PER_BLOCK, n_times, one_block)
        ctx.call, ctx.kept = call, (states, stages)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(theta, *fields)
        of_score = theta.new_empty(0) if carried is None else torch.from_numpy(carried).view_as(theta)
        ctx.mark_non_differentiable(of_score)
        numbers = [torch.from_numpy(x).to(theta.dtype) for x in (log_det, energy)]
        return torch.from_numpy(flat).view_as(theta), numbers[0], numbers[1], of_score

    @staticmethod
    def backward(ctx: Any, *of_results: Tensor | None) -> tuple[Tensor | None, ...]:
        theta, *fields = ctx.saved_tensors
        gradients: Sequence[Tensor | None]
        if torch.is_grad_enabled():  # someone wants second derivatives
            needed = (ctx.needs_input_grad[1], *ctx.needs_input_grad[3:])
            results = solve_in_torch(
                theta, rates_in_torch(ctx.call.shape, AngleTables(*fields)), len(fields[0]), ctx.call.formula
            )
            gradients = gradients_in_torch((theta, *fields), results, of_results[:3], needed)
        else:
            gradients = _gradients(ctx.call, theta, fields, of_results[:3], ctx.kept)
        of_theta, *of_fields = gradients
        return None, of_theta, None, *of_fields


def _gradients(
    call: _Call, theta: Tensor, fields: Sequence[Tensor], of_results: Sequence[Tensor | None], kept: Any
) -> list[Tensor]:
    """Return the gradients with respect to the angles and all tables, by kernels."""
    from equiflow.fused import angle_solves

    tables, ridges, basis = AngleTables(*fields).arrays(call.shape)
    like = flattened(theta)
    of_theta = np.zeros_like(like) if of_results[0] is None else flattened(of_results[0]).copy()
    of_numbers = [np.zeros(len(theta), like.dtype) if g is None else flattened(g) for g in of_results[1:]]
    step, h = call.formula.arrays(like.dtype)
    sums: dict[int, Any] = {}  # by part of the batch, each for one thread

    def one_block(first: int, size: int, part: int) -> None:
        own = sums.setdefault(part, tuple(np.zeros_like(x) for x in (*tables, *ridges[:2])))
        given = (of_theta, *of_numbers, tables, ridges, basis, step, h, *kept, own)
        angle_solves.pull_back(first, size, *given)

    by_blocks(like, angle_solves.SITES_PER_BLOCK, len(tables[4]), one_block)
    parts = [sums[part] for part in sorted(sums)]
    total = [torch.from_numpy(sum(terms[1:], start=terms[0])) for terms in zip(*parts, strict=True)]
    of_kernels, *of_tables, of_angles, of_phase = total
    of_ridges = (torch.pi * of_angles, torch.pi * of_phase)
    return [torch.from_numpy(of_theta).view_as(theta), of_kernels.flatten(2), *of_tables, *of_ridges]
