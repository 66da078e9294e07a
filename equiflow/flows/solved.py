"""Any solver on given prior samples, which two levels of accuracy are made of: `solve_by`, `with_solver`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.flows.cnf import EquivariantCNF
from equiflow.ode.solver import Solver


@dataclass(frozen=True)
class Solved:
    """Prior samples carried to the model.

    Attributes:
        phi: configurations, `(batch, *lattice)`.
        log_q: their normalised log-density as the solver computes it, `(batch,)`.
        nfe: evaluations of the vector field per sample.
    """

    phi: Tensor
    log_q: Tensor
    nfe: int


@torch.no_grad()
def solve_by(flow: EquivariantCNF, solver: Solver, z: Tensor) -> Solved:
    """Carry prior samples to the model by a solver that need not be the flow's own.

    Args:
        flow: the flow; it keeps its solver.
        solver: how to integrate.
        z: samples of the prior, `(batch, *lattice)`.

    Returns:
        The configurations with their densities, detached.

    Raises:
        SolverError: if the solver gives up or the result is not finite.
        ValueError: if the flow only estimates its log-determinants.
    """
    phi, log_det, nfe = flow._by(solver)._transform_and_count(z)
    phi, log_q = flow._with_log_prob(z, phi, log_det)
    return Solved(phi, log_q, nfe)


def with_solver(flow: EquivariantCNF, solver: Solver) -> EquivariantCNF:
    """Return the flow with another solver; everything else is shared.

    Args:
        flow: the flow; it keeps its solver.
        solver: how the other one integrates.

    Returns:
        A flow with the same parameters.
    """
    return flow._by(solver)
