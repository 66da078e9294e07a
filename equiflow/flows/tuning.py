"""Errors of solvers on a flow as trained, by which `IntegratedFlow.tune_solver` chooses the cheapest one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.flows.base import Flow
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import doubled, in_double
from equiflow.theories.base.action import Action


def solver_errors(
    by: Callable[[Solver], Flow], reference: Flow, z: Tensor, action: Action | None
) -> Callable[[Solver], tuple[float, int]]:
    """Return a function that measures the error of a solver and its evaluations per sample.

    The error is the larger one of `|shift of log Z|` and a tenth of the largest change of a log weight.

    Args:
        by: returns the flow with another solver.
        reference: the flow in float64 with a solver whose error is negligible.
        z: samples of the prior, `(batch, *lattice)`.
        action: target of the log weights; None for `reference` itself.

    Returns:
        A function of a `Solver` that returns its error and its evaluations per sample.

    Raises:
        TypeError: if `action` is not an `Action`.
    """
    if action is not None:
        check_type(action, Action, "action")
    exact = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    if action is not None:
        exact = reference._log_weight(doubled(z), reference, in_double(action))[1]

    def measure(solver: Solver) -> tuple[float, int]:
        _, log_weight, nfe = by(solver)._log_weight(z, reference, action)
        change = log_weight - exact
        shift = log_weight.logsumexp(0) - exact.logsumexp(0)
        return max(abs(float(shift)), 0.1 * float(change.abs().max())), nfe

    return measure
