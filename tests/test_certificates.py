"""Every result of a flow knows its discretisation error, and the solver can be chosen by it."""

import dataclasses

import pytest
import torch

from equiflow import EquivariantCNF, Lattice, OrbitConvField, Phi4, importance_sample, measure
from equiflow.observables import phi_squared
from equiflow.samplers import IndependenceMetropolis
from equiflow.solvers import Solver, SolverError, choose_solver
from equiflow.statistics import Estimate
from equiflow.testing import randomise

LATTICE = Lattice((3, 4))
ACTION = Phi4(LATTICE, m2=-1.0, lam=2.0)


def flow_with(solver: Solver, *, scale: float = 0.3) -> EquivariantCNF:
    flow = EquivariantCNF(LATTICE, vector_field=OrbitConvField(LATTICE, n_frequencies=2), solver=solver)
    flow = flow.double()
    randomise(flow.vector_field, scale=scale)
    return flow


def ensemble_of(flow: EquivariantCNF, n: int = 2000):
    return importance_sample(flow, ACTION, n, generator=torch.Generator().manual_seed(1))


RESULTS = {
    "log_z": lambda e: e.log_z(),
    "mean": lambda e: e.mean(phi_squared),
    "ess": lambda e: e.effective_sample_size(),
    "acceptance": lambda e: metropolis(e).acceptance_rate,
    "chain mean": lambda e: metropolis(e).mean(phi_squared),
    "susceptibility": lambda e: measure(e).susceptibility,
    "correlator": lambda e: measure(e).correlator[1],
}


def metropolis(ensemble):
    return IndependenceMetropolis.from_ensemble(ensemble, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_the_solver_error_of_a_result_predicts_its_change_under_a_much_finer_solve(result):
    coarse, fine = (result(ensemble_of(flow_with(Solver("rk4", steps=n)))) for n in (3, 48))
    change = abs(coarse.mean - fine.mean)
    assert coarse.systematic > 20 * fine.systematic
    # The certificate looks at other samples than the result, so it knows the size, not the digits.
    assert change < 5 * coarse.systematic + 1e-3 * abs(fine.mean)
    assert coarse.systematic < 5 * change + 1e-3 * abs(fine.mean) + 0.3 * coarse.error


def test_without_a_certificate_nothing_is_claimed():
    flow = flow_with(Solver("rk4", steps=3))
    ensemble = importance_sample(flow, ACTION, 64, certify=0)
    assert ensemble.certificate is None
    assert ensemble.log_z().systematic == 0.0


def test_the_solver_error_is_shown_where_it_matters_and_counts_in_sigmas():
    assert str(Estimate(1.0, 0.1, systematic=0.05)) == "1.00 ± 0.10 ± 0.05 (solver)"
    assert str(Estimate(1.0, 0.1, systematic=0.0005)) == "1.00 ± 0.10"
    assert Estimate(1.0, 0.3, systematic=0.4).sigmas_from(0.0) == pytest.approx(2.0)
    assert Estimate(1.0, 0.3, systematic=0.4).sigmas_from(Estimate(0.0, 0.0)) == pytest.approx(2.0)


@pytest.mark.parametrize("target", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("action", [ACTION, None], ids=["action", "model"])
def test_the_tuned_solver_reaches_its_target_and_a_cheaper_one_does_not(target, action):
    flow = flow_with(Solver())
    choice = flow.tune_solver(target, action=action, generator=torch.Generator().manual_seed(0))
    assert flow.solver == choice.solver
    assert choice.error <= target
    cheaper = [trial for trial in choice.trials if trial[1] < choice.nfe]
    assert all(error > target for _, _, error in cheaper)
    certificate = flow.certificate(256, action=action, generator=torch.Generator().manual_seed(3))
    assert abs(certificate.log_z_shift) <= 2 * target
    assert certificate.max_log_q_error <= 10 * target
    # The counter-example: a solver that is too coarse does not pass for a good one.
    flow.solver = Solver("rk5", steps=2)
    worse = flow.certificate(256, action=action, generator=torch.Generator().manual_seed(3))
    assert worse.max_log_q_error > 10 * target


def test_the_choice_prints_what_was_tried_and_what_was_chosen():
    choice = flow_with(Solver()).tune_solver(1e-3, action=ACTION)
    lines = str(choice).splitlines()
    assert len(lines) == len(choice.trials) + 1
    assert str(choice.solver) in lines[-1]


def test_float32_reaches_a_thousandth():
    assert flow_with(Solver()).float().tune_solver(1e-3, action=ACTION).error <= 1e-3


def test_a_target_that_no_solver_reaches_is_refused_with_the_best_error():
    with pytest.raises(SolverError, match=r"best error is 1\.0e-05.*float64"):
        choose_solver(lambda solver: (1e-5, 10), target=1e-9)


def test_solvers_that_give_up_are_passed_over():
    def measure(solver):
        if solver.steps is not None:
            raise SolverError("blew up")
        return 1e-4, 50

    assert choose_solver(measure, target=1e-3).solver == Solver("dopri5", rtol=1e-5, atol=1e-5)


def test_impossible_targets_are_refused():
    with pytest.raises(ValueError, match="target"):
        choose_solver(lambda solver: (0.0, 1), target=0.0)


def test_rk5_uses_the_same_formula_as_dopri5():
    flow = flow_with(Solver("rk5", steps=40))
    z = flow.prior.rsample(4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        equal_steps = flow.solve(z, 0.0, 1.0).state
        adaptive = flow.solve(z, 0.0, 1.0, solver=Solver("dopri5", rtol=1e-11, atol=1e-11)).state
    torch.testing.assert_close(equal_steps, adaptive, rtol=1e-8, atol=1e-8)


def test_certificates_are_values():
    certificate = flow_with(Solver("rk4", steps=4)).certificate(8, generator=torch.Generator().manual_seed(0))
    again = flow_with(Solver("rk4", steps=4)).certificate(8, generator=torch.Generator().manual_seed(0))
    assert certificate == again
    assert certificate != dataclasses.replace(certificate, nfe=1)
