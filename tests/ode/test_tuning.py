"""A tuned solver is chosen by its true error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiflow.flows import EquivariantCNF
from equiflow.ode.solver import Solver
from equiflow.theories.scalar.phi4 import Phi4
from tests.support.strategies import small_flow

TIGHT = Solver("dopri8", rtol=1e-11, atol=1e-11)
N_SAMPLES = 32


def log_weight(flow: EquivariantCNF, solver: Solver, action: Phi4 | None) -> Tensor:
    """Return log weights of the same samples by a solver; without an action the exact flow is the target."""
    flow.solver = solver
    phi, log_q = flow.sample_and_log_prob(N_SAMPLES, generator=torch.Generator().manual_seed(0))
    flow.solver = TIGHT
    return (flow.log_prob(phi).detach() if action is None else -action(phi)) - log_q


@pytest.mark.parametrize("with_action", [False, True])
def test_the_errors_a_solver_is_chosen_by_are_true_errors(with_action):
    flow = small_flow((3, 3), scale=0.6)
    action = Phi4(flow.lattice, m2=-1.0, lam=1.0) if with_action else None
    choice = flow.tune_solver(
        1e-5, action=action, n_samples=N_SAMPLES, generator=torch.Generator().manual_seed(0)
    )
    assert len(choice.trials) > 3
    exact = log_weight(flow, TIGHT, action)
    for solver, _, error in choice.trials:
        found = log_weight(flow, solver, action)
        shift = float(found.logsumexp(0) - exact.logsumexp(0))
        assert error == pytest.approx(max(abs(shift), 0.1 * float((found - exact).abs().max())), rel=0.01)
