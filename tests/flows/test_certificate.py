"""Certificates: errors of discretisation and rounding, in every result and in the choice of a solver."""

import copy
import dataclasses
import warnings
from functools import cache

import pytest
import torch

from equiflow import (
    AugmentedFlow,
    ConditionalFlow,
    CouplingFlow,
    EquivariantCNF,
    Lattice,
    O3Field,
    OrbitConvField,
    Phi4,
    SteerableField,
    SymplecticFlow,
    importance_sample,
    measure,
)
from equiflow.flows import AffineMap, ExtendedAction
from equiflow.ode.solver import Solver, SolverError
from equiflow.runtime.precision import in_double
from equiflow.samplers import HMC, Alternate, IndependenceMetropolis, LatentHMC
from equiflow.samplers.samples import reweighted_mean
from equiflow.statistics import Estimate
from equiflow.testing import randomise
from equiflow.theories.base.action import Action
from equiflow.theories.scalar.observables import phi_squared
from equiflow.theories.scalar.priors import FreeField, StandardNormal
from tests.support.strategies import needs

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


@cache
def ensemble_of_steps(n: int):
    """Return samples of a flow solved in `n` steps, which several results are read from."""
    return ensemble_of(flow_with(Solver("rk4", steps=n)))


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_the_solver_error_of_a_result_predicts_its_change_under_a_much_finer_solve(result):
    coarse, fine = (result(ensemble_of_steps(n)) for n in (3, 48))
    change = abs(coarse.mean - fine.mean)
    assert coarse.systematic > 20 * fine.systematic
    # The certificate looks at other samples than the result, so it knows the size, not the digits.
    assert change < 5 * coarse.systematic + 1e-3 * abs(fine.mean)
    assert coarse.systematic < 5 * change + 1e-3 * abs(fine.mean) + 0.3 * coarse.error


def test_the_acceptance_of_another_update_has_no_solver_error_of_independence_metropolis():
    flow = flow_with(Solver("euler", steps=2))
    latent = LatentHMC(flow, ACTION, step_size=0.5)
    for kernel in (latent, Alternate(latent, HMC(ACTION, step_size=0.2))):
        chain = kernel.sample(4, n_chains=4, n_thermalisation=0, certify=16)
        assert chain.acceptance_rate.systematic == 0.0
        assert chain.mean(phi_squared).systematic > 0.0
    assert IndependenceMetropolis(flow, ACTION).sample(8, certify=16).acceptance_rate.systematic > 0.0


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


@pytest.mark.parametrize(
    ("action", "target"),
    [(ACTION, 1e-2), (ACTION, 1e-6), (None, 1e-4)],
    ids=["action, coarse", "action, fine", "model"],
)
def test_the_tuned_solver_reaches_its_target_and_a_cheaper_one_does_not(action, target):
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


# --- rounding ------------------------------------------------------------------------------------------


class Truncated(OrbitConvField):
    """A field whose divergence has only the digits of bfloat16 in float32."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        if phi.dtype == torch.float32:
            divergence = (divergence.view(torch.int32) & ~0xFFFF).view(torch.float32)
        return velocity, divergence


def random_flow(field, *, steps: int = 16, prior=None, scale: float = 0.3) -> EquivariantCNF:
    """Return a float32 flow whose error of discretisation is 1e-5 to 1e-4."""
    flow = EquivariantCNF(field.lattice, vector_field=field, prior=prior, solver=Solver("rk4", steps=steps))
    randomise(flow.double().vector_field, scale=scale)
    return flow.float()


def on(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_weights_of(flow, solver: Solver, z: torch.Tensor) -> torch.Tensor:
    phi, log_det = flow.solve(z, 0.0, 1.0, solver=solver).state
    return (-ACTION(phi) - flow.prior.log_prob(z) + log_det).detach().double()


def shift(finer: torch.Tensor, current: torch.Tensor) -> float:
    return float(finer.logsumexp(0) - current.logsumexp(0))


def test_rounding_in_float32_is_seen_and_measured():
    flow = random_flow(Truncated(LATTICE, n_frequencies=2))
    found = flow.certificate(64, action=ACTION, generator=on(0))
    z = flow.prior.rsample(64, on(0)).detach()
    current = log_weights_of(flow, flow.solver, z)
    exact = log_weights_of(in_double(flow), Solver("dopri8", rtol=1e-11, atol=1e-11), z.double())
    assert found.log_z_shift == pytest.approx(shift(exact, current), rel=0.05)
    assert found.max_log_q_error == pytest.approx(float((exact - current).abs().max()), rel=0.05)
    assert found.max_log_q_error > 5e-3
    # A finer solve in float32 rounds alike and sees a tenth of it.
    alike = log_weights_of(flow, flow.solver.refined(), z)
    assert abs(shift(alike, current)) < 0.1 * abs(found.log_z_shift)
    # Without an action, and by results, it is seen as well.
    assert flow.certificate(64, generator=on(0)).max_log_q_error > 5e-3
    assert importance_sample(flow, ACTION, 256, generator=on(0)).log_z().systematic > 2e-3
    # The same field in float64 has no defect, nor has float32 without it.
    assert in_double(flow).certificate(64, action=ACTION, generator=on(0)).max_log_q_error < 1e-4
    honest = random_flow(OrbitConvField(LATTICE, n_frequencies=2))
    for action in (ACTION, None):
        assert honest.certificate(64, action=action, generator=on(0)).max_log_q_error < 1e-4


def test_no_solver_makes_up_for_rounding():
    flow = random_flow(Truncated(LATTICE, n_frequencies=2))
    with pytest.raises(SolverError, match="float64"):
        flow.tune_solver(1e-4, action=ACTION, n_samples=32, generator=on(0))
    honest = random_flow(OrbitConvField(LATTICE, n_frequencies=2))
    assert honest.tune_solver(1e-4, action=ACTION, n_samples=32, generator=on(0)).error <= 1e-4


@pytest.mark.parametrize("with_action", [False, True])
@pytest.mark.parametrize("solver", [Solver("rk4", steps=4), Solver()], ids=str)
def test_in_float64_a_certificate_compares_two_solvers_and_nothing_else(with_action, solver):
    flow = flow_with(solver)
    found = flow.certificate(16, action=ACTION if with_action else None, generator=on(0))
    z = flow.prior.rsample(16, on(0)).detach()
    with torch.no_grad():
        phi, log_det = flow.solve(z, 0.0, 1.0).state
        if with_action:
            current, exact = (log_weights_of(flow, s, z) for s in (solver, solver.refined()))
        else:
            back, back_log_det = flow.solve(phi, 1.0, 0.0, solver=solver.refined()).state
            current = flow.prior.log_prob(back) + back_log_det - flow.prior.log_prob(z) + log_det
            exact = torch.zeros_like(current)
    assert found.log_z_shift == pytest.approx(shift(exact, current), abs=1e-12)
    assert found.max_log_q_error == pytest.approx(float((exact - current).abs().max()), abs=1e-12)
    assert found.refined == f"{solver.refined()} in float64"


class Quadratic(Action):
    """`S = phi . M phi / 2`, whose matrix has a dtype of its own."""

    def __init__(self, lattice):
        super().__init__(lattice)
        self.register_buffer("matrix", torch.eye(lattice.volume, dtype=torch.float32) + 0.1)

    def forward(self, phi):
        flat = phi.flatten(1)
        return 0.5 * (flat * (flat @ self.matrix)).sum(1)


@pytest.mark.parametrize("prior", [FreeField, StandardNormal])
def test_a_certificate_leaves_flow_and_action_as_they_are(prior):
    flow = random_flow(OrbitConvField(LATTICE, n_frequencies=2), prior=prior(LATTICE))
    action = Quadratic(LATTICE)
    before = copy.deepcopy(flow.state_dict())
    tensors = {name: id(tensor) for name, tensor in flow.named_parameters()}
    solver = flow.solver
    found = flow.certificate(8, action=action, generator=on(0))
    flow.compiled = True
    assert flow._reference().compiled is False
    assert flow.compiled
    assert (flow.dtype, action.matrix.dtype, flow.solver) == (torch.float32, torch.float32, solver)
    assert tensors == {name: id(tensor) for name, tensor in flow.named_parameters()}
    assert all(torch.equal(before[name], tensor) for name, tensor in flow.state_dict().items())
    assert not any(p.grad is not None for p in flow.parameters())
    samples = found.samples
    assert samples.phi.dtype == samples.refined_phi.dtype == torch.float32
    assert samples.log_weight.dtype == samples.refined_log_weight.dtype == torch.float64
    assert samples.refined_phi.device == flow.device
    assert 0 < found.max_log_q_error < 1e-3


def test_nothing_is_copied_that_is_float64_already():
    flow = flow_with(Solver())
    assert in_double(flow) is flow
    assert in_double(ACTION) is ACTION
    assert in_double(flow.float()) is not flow


def test_flows_of_a_conditional_one_are_certified_in_float64():
    flow = random_flow(Truncated(LATTICE, n_frequencies=2))
    conditional = ConditionalFlow(flow, {"lam": (1.0, 3.0)}, degree=1)
    randomise(conditional.stacks, scale=0.01)
    found = conditional.at(lam=1.5).certificate(64, action=ACTION, generator=on(0))
    assert "in float64" in str(found)
    assert found.max_log_q_error > 2e-3
    assert conditional.dtype == torch.float32


FAMILIES = {
    "O3Field": lambda: O3Field(Lattice((3, 3, 3)), irreps="2x0e + 1x1o", n_time_modes=2),
    "SteerableField": lambda: SteerableField(Lattice((4, 4)), multiplicity=1, n_time_modes=2),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("O3Field", marks=needs("e3nn")),
        pytest.param("SteerableField", marks=needs("escnn")),
    ],
)
def test_every_family_is_certified_in_float64(name):
    flow = random_flow(FAMILIES[name](), scale=0.1)
    action = Phi4(flow.lattice, m2=1.0, lam=1.0)
    found = flow.certificate(4, action=action, generator=on(0))
    exact = in_double(flow).certificate(4, action=action, generator=on(0))
    assert 0 < found.max_log_q_error < 1e-4 + 10 * exact.max_log_q_error


class Rounded(AffineMap):
    """A map whose log-determinant has only the digits of bfloat16 in float32."""

    def forward(self, x, even, odd):
        moved, log_slope = super().forward(x, even, odd)
        return moved, log_slope.bfloat16().to(x) if x.dtype == torch.float32 else log_slope


EXACT = {
    "coupling": lambda: CouplingFlow(Lattice((4, 4)), n_layers=4, hidden_channels=(4,)),
    "rounded coupling": lambda: CouplingFlow(
        Lattice((4, 4)), n_layers=4, hidden_channels=(4,), site_map=Rounded()
    ),
    "symplectic": lambda: SymplecticFlow(LATTICE),
    "augmented": lambda: AugmentedFlow(LATTICE),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("with_action", [False, True])
def test_the_rounding_of_an_exact_map_is_measured(name, with_action):
    flow = EXACT[name]().float()
    randomise(flow, scale=0.1)
    phi4 = Phi4(flow.lattice, m2=0.5, lam=0.01)
    extended = flow.prior.event_shape != flow.lattice.shape
    action = (ExtendedAction(phi4) if extended else phi4) if with_action else None
    found = flow.certificate(64, action=action, generator=on(0))
    rounds = name.startswith("rounded")
    low, high = (1e-3, 1e-1) if rounds else (1e-7, 5e-4)
    assert low < found.max_log_q_error < high
    assert (found.solver, found.refined, found.nfe) == ("exact map", "exact map in float64", 0)
    exact = flow.double().certificate(64, action=action, generator=on(0))
    assert exact.max_log_q_error < 1e-11


def log_z_of(_, log_weight):
    return log_weight.double().logsumexp(0)


def mean_of(phi, log_weight):
    return reweighted_mean(phi_squared(phi), log_weight)


@cache
@torch.no_grad()
def exactly_solved():
    """Return 200 samples of the prior, and where they are moved with which log-determinant."""
    exact = flow_with(Solver("dopri8", rtol=1e-12, atol=1e-12))
    z = exact.prior.rsample(200, torch.Generator().manual_seed(3))
    return z, *exact.transform_and_log_det(z)


@pytest.mark.parametrize(
    "solver",
    [
        *(Solver("euler", steps=200), Solver("midpoint", steps=48), Solver("heun2", steps=48)),
        *(Solver("heun3", steps=24), Solver("rk4", steps=12), Solver("rk5", steps=10)),
        *(Solver("dopri5", rtol=1e-4, atol=1e-4), Solver("dopri5", rtol=1e-6, atol=1e-6)),
    ],
    ids=str,
)
@torch.no_grad()
def test_the_solver_error_is_the_distance_from_an_exact_solve_of_the_same_samples(solver):
    flow, (z, phi, log_det) = flow_with(solver), exactly_solved()
    certificate = flow.certificate(200, action=ACTION, generator=torch.Generator().manual_seed(3))
    log_weight, twice = -ACTION(phi) - flow.prior.log_prob(z) + log_det, certificate.samples
    largest = float((log_weight - twice.log_weight).abs().max())
    assert certificate.error_factor * certificate.max_log_q_error == pytest.approx(largest, rel=0.05)
    if solver.order <= 3:  # for higher orders this average has a leading error near zero
        change = mean_of(phi, log_weight) - mean_of(twice.phi, twice.log_weight)
        assert certificate.error_of(mean_of) == pytest.approx(abs(float(change)), rel=0.05)
        assert abs(certificate.shift_of(mean_of)) < 0.9 * abs(change)  # the plain change is too small


@pytest.mark.parametrize(
    ("solver", "factor"),
    [
        *(
            (Solver("euler", steps=2), 2.0),
            (Solver("midpoint", steps=2), 4 / 3),
            (Solver("heun3", steps=1), 8 / 7),
        ),
        *((Solver("rk4", steps=1), 16 / 15), (Solver("rk5", steps=1), 32 / 31), (Solver("dopri5"), 1.0)),
    ],
    ids=str,
)
def test_the_fields_of_a_certificate_are_as_measured_and_results_get_the_full_error(solver, factor):
    flow = flow_with(solver, scale=0.05)
    ensemble = ensemble_of(flow, 64)
    certificate = ensemble.certificate
    assert certificate.error_factor == pytest.approx(factor, rel=1e-14)
    assert certificate.shift_of(log_z_of) == pytest.approx(certificate.log_z_shift, abs=1e-12)
    assert ensemble.log_z().systematic == pytest.approx(factor * abs(certificate.log_z_shift), rel=1e-9)
    plain = abs(certificate.shift_of(mean_of))
    for found in (ensemble.mean(phi_squared), measure(ensemble).phi_squared):
        assert found.systematic == pytest.approx(factor * plain, rel=1e-6)


def test_an_exact_map_has_no_factor():
    certificate = CouplingFlow(Lattice((2, 2)), n_layers=2).certificate(4)
    assert certificate.error_factor == 1.0
    assert certificate.converged


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_a_solve_that_has_not_converged_bounds_no_result_and_says_so(result):
    ensemble = ensemble_of(flow_with(Solver("euler", steps=2), scale=0.5), 512)
    assert ensemble.certificate.max_log_q_error > 1
    assert not ensemble.certificate.converged
    assert str(ensemble.certificate).endswith("not converged, take more steps (flow.tune_solver)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the few effective samples
        found = result(ensemble)
    assert found.systematic == found.total_error == float("inf")
    assert "(solver not converged)" in str(found)


def test_a_solve_is_converged_below_an_error_of_one():
    certificate = flow_with(Solver("midpoint", steps=4)).certificate(8, action=ACTION)
    for change, converged in ((0.74, True), (0.76, False), (float("nan"), False), (float("inf"), False)):
        assert dataclasses.replace(certificate, max_log_q_error=change).converged is converged


def test_samples_of_weight_zero_are_no_error_of_log_q():
    flow = flow_with(Solver("rk4", steps=6), scale=0.1)

    class Wall(Phi4):
        def forward(self, phi):
            action = super().forward(phi)
            return torch.where(phi.flatten(1).sum(1) > 0, action, float("inf"))

    action = Wall(LATTICE, m2=-1.0, lam=2.0)
    certificate = flow.certificate(256, action=action, generator=torch.Generator().manual_seed(0))
    zero = certificate.samples.log_weight.isneginf()
    assert 64 < int(zero.sum()) < 192
    inside = certificate.samples.refined_log_weight[~zero]
    expected = float((inside - certificate.samples.log_weight[~zero]).abs().max())
    assert certificate.max_log_q_error == expected < 1e-2
    assert abs(certificate.log_z_shift) < 1e-2
    ensemble = importance_sample(flow, action, 512, generator=torch.Generator().manual_seed(1))
    assert ensemble.log_z().systematic < 1e-2
    assert ensemble.mean(phi_squared).systematic < 1e-2


def test_inference_mode_changes_no_certificate():
    flow = flow_with(Solver("rk4", steps=4), scale=0.1)
    make = lambda: flow.certificate(8, action=ACTION, generator=torch.Generator().manual_seed(0))  # noqa: E731
    expected = make()
    with torch.inference_mode():
        found = make()
        assert found == expected
        assert found.error_of(mean_of) == expected.error_of(mean_of)
