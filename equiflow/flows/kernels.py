"""Solves of a flow by the fused kernels of its vector field: `solve_by_kernels`."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.flows.compiled import CompiledField
from equiflow.ode.integrate import check_finite
from equiflow.ode.solver import EqualSteps, Solver
from equiflow.vector_fields import VectorField
from equiflow.vector_fields.base import FusedField, FusedSolution

#: what a solve calls for the rates of a flow
FieldOfSolve = VectorField | CompiledField | FusedField


def solve_by_kernels(
    field: FieldOfSolve, phi: Tensor, t0: float, t1: float, solver: Solver, *, score: Tensor | None = None
) -> FusedSolution | None:
    """Return the whole solve by fused kernels, or None if it has to be done evaluation by evaluation.

    Kernels take equal steps. Their gradients are those of backpropagation, with or without checkpoints.

    Args:
        field: vector field, for one solve.
        phi: configurations at `t0`, `(batch, *lattice)`.
        t0: initial flow time.
        t1: final flow time.
        solver: method, step control and way to gradients.
        score: `grad log q` at `t0`, to be carried along.

    Returns:
        The end of the solve, if the field has kernels and the solver suits them.

    Raises:
        SolverError: if the result is not finite.
    """
    control = solver.step_control
    by_adjoint = solver.adjoint and torch.is_grad_enabled()
    if not isinstance(field, FusedField) or not isinstance(control, EqualSteps) or by_adjoint:
        return None
    if phi.numel() == 0 or t0 == t1 or not field.can_solve(phi, score):
        return None
    end = field.solve(phi, t0, t1, method=solver.method, steps=control.steps, score=score)
    parts = (end.phi, end.log_det, end.kinetic_energy)
    check_finite(parts if end.score is None else (*parts, end.score), solver, t1, end.nfe)
    return end
