"""Solves by the kernels of `equiflow.fused.ridge_solves`, as functions for autograd: start at `solve`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.just_in_time import announce, in_parallel
from equiflow.fused.references import Formula, gradients_in_torch, solve_in_torch


@dataclass(frozen=True)
class Tables:
    """What the kernels know of a field at several times, see `equiflow.fused.ridge_fields`.

    Attributes:
        linear: `K_0` in modes, `(time, V)`.
        inner: `P_c` in modes, `(time, inner channel, V)`.
        outer: `Q_f` in modes, `(time, outer channel, V)`.
        slopes: `B`, `(time, outer channel, ridge)`.
        curvature: q, `(time, ridge)`.
        trace: `V K_0(0)`, `(time,)`.
        drift: amplitude of the uniform mode, `(time,)`.
        angles: W, `(ridge, inner channel)`, in half turns.
        phase: `(ridge,)`, in half turns.
    """

    linear: Tensor
    inner: Tensor
    outer: Tensor
    slopes: Tensor
    curvature: Tensor
    trace: Tensor
    drift: Tensor
    angles: Tensor
    phase: Tensor


def rates(
    phi: Tensor, shape: tuple[int, int], tables: Tables, score: Tensor | None = None
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
    from equiflow.fused import ridge_solves

    constants, flat = _constants(tables, shape), flattened(phi)
    s = np.empty((0, 0), flat.dtype) if score is None else flattened(score)
    velocity, rate, divergence = np.empty_like(flat), np.empty_like(s), np.empty(len(flat))
    given = (flat, s, *constants, velocity, rate, divergence)
    by_blocks(
        flat, ridge_solves.SITES_PER_BLOCK, 1, lambda first, size, _: ridge_solves.rates(first, size, *given)
    )
    of_score = None if score is None else torch.from_numpy(rate).view_as(phi)
    return torch.from_numpy(velocity).view_as(phi), torch.from_numpy(divergence).to(phi.dtype), of_score


def solve(
    phi: Tensor, shape: tuple[int, int], tables: Tables, formula: Formula, score: Tensor | None = None
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
    announce("PotentialField")
    call = _Call(shape, formula, torch.is_grad_enabled())
    final, log_det, energy, final_score = _Solve.apply(call, phi, score, *_fields(tables))
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
        ctx: Any, call: _Call, phi: Tensor, score: Tensor | None, *fields: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from equiflow.fused import ridge_solves

        constants = _constants(Tables(*fields), call.shape)
        flat = flattened(phi).copy()
        formula, h = call.formula.arrays(flat.dtype)
        n_times, (batch, V) = len(fields[0]), flat.shape
        keeps = call.recording and any(ctx.needs_input_grad)
        states = np.empty((batch, n_times // len(formula[1]), V) if keeps else (0, 0, 0), flat.dtype)
        stages = np.empty((batch, n_times, V) if keeps else (0, 0, 0), flat.dtype)
        log_det, energy = np.zeros(batch), np.zeros(batch)
        carried = np.empty((0, 0), flat.dtype) if score is None else flattened(score).copy()
        given = (flat, carried, log_det, energy, *constants, formula, h, states, stages)
        by_blocks(
            flat,
            ridge_solves.SITES_PER_BLOCK,
            n_times,
            lambda first, size, _: ridge_solves.solve(first, size, *given),
        )
        ctx.call, ctx.kept = call, (states, stages)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(phi, *fields)
        final, of_score = torch.from_numpy(flat).view_as(phi), torch.from_numpy(carried)
        of_score = of_score if score is None else of_score.view_as(phi)
        ctx.mark_non_differentiable(of_score)
        numbers = [torch.from_numpy(x).to(phi.dtype) for x in (log_det, energy)]
        return final, numbers[0], numbers[1], of_score

    @staticmethod
    def backward(ctx: Any, *of_results: Tensor | None) -> tuple[Tensor | None, ...]:
        phi, *fields = ctx.saved_tensors
        gradients: Sequence[Tensor | None]
        if torch.is_grad_enabled():  # someone wants second derivatives
            needed = (ctx.needs_input_grad[1], *ctx.needs_input_grad[3:])
            results = _repeated_in_torch(ctx.call, phi, Tables(*fields))
            gradients = gradients_in_torch((phi, *fields), results, of_results[:3], needed)
        else:
            gradients = _gradients(ctx.call, phi, fields, of_results[:3], ctx.kept)
        of_phi, *of_fields = gradients
        return None, of_phi, None, *of_fields


def _gradients(
    call: _Call, phi: Tensor, fields: Sequence[Tensor], of_results: Sequence[Tensor | None], kept: Any
) -> list[Tensor]:
    """Return the gradients with respect to phi and all tables, by kernels."""
    from equiflow.fused import ridge_solves

    tables, ridges, basis = _constants(Tables(*fields), call.shape)
    like = flattened(phi)
    of_phi = np.zeros_like(like) if of_results[0] is None else flattened(of_results[0]).copy()
    of_numbers = [np.zeros(len(phi), like.dtype) if g is None else flattened(g) for g in of_results[1:]]
    formula, h = call.formula.arrays(like.dtype)
    linear, inner, outer, _, transposed, curvature, trace, drift = tables
    like_tables = (linear, inner, outer, transposed, curvature, trace, drift, *ridges[:2])
    sums: dict[int, Any] = {}  # by part of the batch, each for one thread

    def one_block(first: int, size: int, part: int) -> None:
        own = sums.setdefault(part, tuple(np.zeros_like(x) for x in like_tables))
        given = (of_phi, *of_numbers, tables, ridges, basis, formula, h, *kept, own)
        ridge_solves.pull_back(first, size, *given)

    by_blocks(like, ridge_solves.SITES_PER_BLOCK, len(linear), one_block)
    parts = [sums[part] for part in sorted(sums)]
    total = [torch.from_numpy(sum(terms[1:], start=terms[0])) for terms in zip(*parts, strict=True)]
    of_linear, of_inner, of_outer, of_transposed, *of_rest, of_angles, of_phase = total
    of_slopes = of_transposed.mT
    of_ridges = (torch.pi * of_angles, torch.pi * of_phase)
    in_modes = (of_linear.flatten(1), of_inner.flatten(2), of_outer.flatten(2))
    of_tables = (*in_modes, of_slopes, *of_rest, *of_ridges)
    return [torch.from_numpy(of_phi).view_as(phi), *of_tables]


def _repeated_in_torch(call: _Call, phi: Tensor, tables: Tables) -> tuple[Tensor, Tensor, Tensor]:
    """Return the results of a solve by operations of torch."""
    from equiflow.fused import modes

    left, right = (torch.from_numpy(modes.matrix(side, phi.dtype)) for side in call.shape)

    def to_sites(fields: Tensor) -> Tensor:
        return (left.mT @ fields.unflatten(-1, call.shape) @ right).flatten(-2)

    def to_modes(fields: Tensor) -> Tensor:
        return (left @ fields.unflatten(-1, call.shape) @ right.mT).flatten(-2)

    def velocity_and_divergence(y: Tensor, n: int) -> tuple[Tensor, Tensor]:
        u = to_sites(tables.inner[n] * y.unsqueeze(1))
        theta = torch.pi * (tables.angles @ u + tables.phase[:, None])
        sent = to_modes(tables.slopes[n] @ theta.sin())
        velocity = tables.linear[n] * y + (tables.outer[n] * sent).sum(1)
        uniform = torch.zeros_like(y[0])
        uniform[0] = 1
        bent = (theta.cos().sum(2) * tables.curvature[n]).sum(1)
        return velocity + tables.drift[n] * uniform, tables.trace[n] + bent

    y = to_modes(phi.reshape(len(phi), -1))
    end, log_det, energy = solve_in_torch(y, velocity_and_divergence, len(tables.linear), call.formula)
    return to_sites(end).view_as(phi), log_det, energy


def _fields(tables: Tables) -> tuple[Tensor, ...]:
    return tuple(getattr(tables, name) for name in Tables.__dataclass_fields__)


def by_blocks(fields: Any, sites: int, n_times: int, kernel: Callable[[int, int, int], None]) -> None:
    """Call `kernel(first, size, part)` for all blocks of configurations, which do not depend on threads.

    Args:
        fields: `(batch, V)`.
        sites: of a block, unless a configuration has more.
        n_times: number of evaluations.
        kernel: works on `size` configurations from `first` on, in one thread for each `part`.
    """
    batch, V = fields.shape
    size = max(1, sites // V)

    def some(start: int, stop: int) -> None:
        for block in range(start, stop):
            kernel(block * size, min(size, batch - block * size), start)

    in_parallel(some, -(-batch // size), size * V * n_times)


def flattened(x: Tensor) -> Any:
    """Return a tensor as an array with one row per configuration, without copying if it is contiguous."""
    array = x.detach().contiguous().numpy()
    return array.reshape(len(array), -1) if array.ndim > 1 else array


def _constants(tables: Tables, shape: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Return tables, ridges and basis as the kernels take them."""
    from equiflow.fused import modes

    arrays = [x.detach().contiguous().numpy() for x in _fields(tables)]
    linear, inner, outer, slopes, curvature, trace, drift, angles, phase = arrays
    transposed = np.ascontiguousarray(slopes.transpose(0, 2, 1))
    steep = np.ascontiguousarray((np.pi * angles).T.astype(angles.dtype))
    basis = modes.matrices(shape, tables.linear.dtype)
    in_modes = tuple(x.reshape(*x.shape[:-1], *shape) for x in (linear, inner, outer))
    return (*in_modes, slopes, transposed, curvature, trace, drift), (angles, phase, steep), basis
