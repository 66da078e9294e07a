"""The whole path against closed forms and transfer matrices, and one sampler against another."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from equiflow import (
    HMC,
    Action,
    Chain,
    Ensemble,
    EquivariantCNF,
    Estimate,
    FreeField,
    FreeScalar,
    IndependenceMetropolis,
    Lattice,
    OrbitConvField,
    Phi4,
    Prior,
    Solver,
    StandardNormal,
    importance_sample,
)
from equiflow.theories.scalar.observables import (
    abs_magnetisation,
    nearest_neighbour,
    phi_squared,
    susceptibility,
)
from tests.support.oracles import Exact, trained_flow, transfer_matrix
from tests.support.strategies import configurations, small_flow

M2, LAM = -4.0, 6.0
SQUARE = Lattice((3, 3))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def untrained(prior: Prior) -> EquivariantCNF:
    """Return a flow with zero weights, whose model is its prior."""
    field = OrbitConvField(prior.lattice, n_frequencies=1, n_time_modes=1)
    solver = Solver("euler", steps=1)
    return EquivariantCNF(prior.lattice, vector_field=field, prior=prior, solver=solver).double()


@pytest.mark.parametrize("shape", [(1,), (6,), (3, 4), (4, 4), (2, 3, 3)])
def test_log_z_of_the_free_field_is_exact_for_every_sample(shape):
    lattice = Lattice(shape)
    action = FreeScalar(lattice, m2=0.7)
    log_weight = importance_sample(
        untrained(FreeField(lattice, m2=0.7)), action, 50, generator=generator()
    ).log_weight
    assert float((log_weight - action.log_z()).abs().max()) < 1e-10
    assert float((log_weight - FreeScalar(lattice, m2=0.71).log_z()).abs().min()) > 1e-3


@pytest.mark.parametrize("prior", [lambda lattice: FreeField(lattice, m2=1.0), StandardNormal])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_log_z_of_the_free_field_is_right_from_another_gaussian(shape, prior):
    lattice = Lattice(shape)
    action = FreeScalar(lattice, m2=0.7)
    log_z = importance_sample(untrained(prior(lattice)), action, 40_000, generator=generator()).log_z()
    assert abs(log_z.sigmas_from(action.log_z())) < 4
    assert log_z.error < 0.05


@pytest.mark.parametrize(("n_slices", "width"), [(2, 1), (5, 1), (2, 2), (2, 3), (3, 2), (3, 3)])
def test_transfer_matrix_is_the_closed_form_on_the_free_field(n_slices, width):
    action = FreeScalar(Lattice((n_slices, width)), m2=1.0)
    exact = transfer_matrix(n_slices, width, m2=1.0, lam=0.0)
    assert exact.log_z == pytest.approx(action.log_z(), abs=1e-6)
    assert exact.phi_squared == pytest.approx(float(action.mode_variance().mean()), abs=1e-6)
    assert exact.susceptibility == pytest.approx(float(action.mode_variance()[0, 0]), abs=1e-6)


def test_transfer_matrix_is_that_of_a_dense_chain():
    phi = torch.linspace(-2.0, 2.0, 201)
    potential = M2 * phi**2 + LAM * phi**4
    t = (-(phi[:, None] - phi).square() - (potential[:, None] + potential) / 2).exp() * (phi[1] - phi[0])
    for length in (2, 4, 7):
        dense = float(torch.linalg.matrix_power(t, length).trace().log())
        chain = transfer_matrix(length, 1, m2=M2, lam=LAM, reach=2.0)
        assert chain.log_z == pytest.approx(dense, abs=1e-7)


def test_transfer_matrix_is_the_same_along_either_side():
    one, other = (transfer_matrix(*shape, m2=M2, lam=LAM, reach=2.0) for shape in ((2, 3), (3, 2)))
    assert one.log_z == pytest.approx(other.log_z, abs=1e-7)
    assert one.susceptibility == pytest.approx(other.susceptibility, abs=1e-7)
    assert one.nearest_neighbour == pytest.approx(other.nearest_neighbour_across, abs=1e-7)


@pytest.fixture(scope="module")
def exact() -> Exact:
    return transfer_matrix(3, 3, m2=M2, lam=LAM, reach=2.0)


def test_transfer_matrix_has_converged_and_is_the_same_along_and_across(exact):
    finer = transfer_matrix(3, 3, m2=M2, lam=LAM, reach=2.3, n_grid=36, rank=9)
    for name, value in vars(exact).items():
        assert vars(finer)[name] == pytest.approx(value, abs=1e-7), name
    assert exact.nearest_neighbour == pytest.approx(exact.nearest_neighbour_across, abs=1e-8)
    coarse = transfer_matrix(3, 3, m2=M2, lam=LAM, reach=2.0, n_grid=12)
    assert abs(coarse.log_z - exact.log_z) > 1e-3


@pytest.fixture(scope="module")
def action() -> Phi4:
    return Phi4(SQUARE, m2=M2, lam=LAM)


@pytest.fixture(scope="module")
def flow(action) -> EquivariantCNF:
    return trained_flow(action)


@pytest.fixture(scope="module")
def ensemble(flow, action) -> Ensemble:
    return importance_sample(flow, action, 8192, generator=generator(1))


@pytest.fixture(scope="module")
def chains(ensemble, action) -> dict[str, Chain]:
    return {
        "HMC": HMC(action).sample(400, n_chains=64, generator=generator(2)),
        "IMH": IndependenceMetropolis.from_ensemble(ensemble, n_chains=8, generator=generator(3)),
    }


def test_log_z_of_phi4_is_that_of_the_transfer_matrix(ensemble, exact, flow, action):
    log_z = ensemble.log_z()
    assert ensemble.effective_sample_size().mean > 0.5
    assert abs(log_z.sigmas_from(exact.log_z)) < 4
    assert log_z.error < 0.02
    # The counter-examples: another coupling, and a prior that forgets a constant.
    assert abs(log_z.sigmas_from(transfer_matrix(3, 3, m2=M2, lam=1.02 * LAM, reach=2.0).log_z)) > 4
    forgotten = Ensemble(ensemble.phi, ensemble.log_q, ensemble.log_weight - 0.5 * math.log(2 * math.pi))
    assert abs(forgotten.log_z().sigmas_from(exact.log_z)) > 4


def test_log_z_of_a_coarse_solver_is_wrong_by_what_its_certificate_says(flow, action, exact):
    coarse = EquivariantCNF(
        SQUARE, vector_field=flow.vector_field, prior=flow.prior, solver=Solver("rk4", steps=1)
    )
    ensemble = importance_sample(coarse, action, 4096, generator=generator(4))
    assert ensemble.effective_sample_size().mean > 0.5
    unaware = replace(ensemble, certificate=None)
    assert abs(unaware.log_z().sigmas_from(exact.log_z)) > 4
    assert abs(ensemble.log_z().sigmas_from(exact.log_z)) < 4
    fine = flow.certificate(512, action=action, generator=generator(5))
    assert abs(fine.log_z_shift) < 1e-3


def deviations(source: Ensemble | Chain, exact: Exact) -> list[float]:
    truths = {
        phi_squared: exact.phi_squared,
        susceptibility: exact.susceptibility,
        nearest_neighbour: exact.nearest_neighbour,
    }
    return [abs(source.mean(observable).sigmas_from(truth)) for observable, truth in truths.items()]


@pytest.mark.parametrize("sampler", ["HMC", "IMH", "reweighting"])
def test_every_sampler_has_the_observables_of_the_transfer_matrix(sampler, ensemble, chains, exact):
    source = ({"reweighting": ensemble} | chains)[sampler]
    assert max(deviations(source, exact)) < 4
    assert max(deviations(source, transfer_matrix(3, 3, m2=M2, lam=1.03 * LAM, reach=2.0))) > 4


@pytest.mark.parametrize("observable", [phi_squared, abs_magnetisation, nearest_neighbour])
def test_samplers_agree_within_combined_errors(observable, ensemble, chains):
    # IMH uses the samples of the ensemble, so only HMC is independent of both.
    reference = chains["HMC"].mean(observable)
    for other in (ensemble, chains["IMH"]):
        assert abs(reference.sigmas_from(other.mean(observable))) < 4
        assert other.mean(observable).error < 0.02 * reference.mean


def test_plain_averages_of_a_poor_model_disagree(action, chains):
    poor = importance_sample(untrained(FreeField(SQUARE)), action, 8192, generator=generator(6))
    unweighted = Ensemble(poor.phi, poor.log_q, torch.zeros(8192))
    reference: Estimate = chains["HMC"].mean(abs_magnetisation)
    assert abs(reference.sigmas_from(unweighted.mean(abs_magnetisation))) > 8


def mass(flow: EquivariantCNF, reach: float = 6.0, n: int = 121) -> float:
    """Return `int q`, by the trapezoid rule on all sites."""
    line = torch.linspace(-reach, reach, n)
    phi: Tensor = torch.cartesian_prod(*[line] * flow.lattice.volume).reshape(-1, *flow.lattice.shape)
    with torch.no_grad():
        log_q = torch.cat([flow.log_prob(part) for part in phi.split(20_000)])
    return float(log_q.exp().sum() * (line[1] - line[0]) ** flow.lattice.volume)


@pytest.mark.parametrize("shape", [(1,), (2,), (1, 2)])
def test_the_model_density_is_normalised(shape):
    flow = small_flow(shape, scale=0.1, solver=Solver("rk4", steps=12))
    assert mass(flow) == pytest.approx(1, abs=1e-4)
    inexact = small_flow(shape, scale=0.1, solver=Solver("euler", steps=2))
    assert abs(mass(inexact) - 1) > 1e-3


@pytest.mark.parametrize("action_of", [lambda x: Phi4(x, m2=M2, lam=LAM), lambda x: FreeScalar(x, m2=0.5)])
def test_the_average_weight_over_target_samples_is_one_over_z(action_of, flow):
    action: Action = action_of(SQUARE)
    if isinstance(action, FreeScalar):
        model, log_z = untrained(FreeField(SQUARE, m2=0.4)), action.log_z()
        phi = FreeField(SQUARE, m2=0.5).double().rsample(20_000, generator(7)).detach()
    else:
        model, log_z = flow, transfer_matrix(3, 3, m2=M2, lam=LAM, reach=2.0).log_z
        phi = HMC(action).sample(1, n_chains=4096, generator=generator(7)).configurations
    with torch.no_grad():
        inverse = (model.log_prob(phi) + action(phi) + log_z).exp()
    sigmas = float((inverse.mean() - 1) / inverse.std()) * math.sqrt(len(phi))
    assert abs(sigmas) < 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_gives_the_physics_of_float64(dtype, flow, action, exact):
    model = EquivariantCNF(SQUARE, vector_field=flow.vector_field, prior=flow.prior)
    try:
        log_z = importance_sample(model.to(dtype), action, 2048, generator=generator(8)).log_z()
    finally:
        flow.double()
    assert abs(log_z.sigmas_from(exact.log_z)) < 4


def test_free_field_configurations_are_those_of_hmc():
    action = FreeScalar(Lattice((3, 4)), m2=0.5)
    start = configurations(action.lattice, 64)
    chain = HMC(action).sample(200, n_chains=64, initial=start, generator=generator(9))
    for observable, truth in (
        (phi_squared, float(action.mode_variance().mean())),
        (susceptibility, float(action.mode_variance()[0, 0])),
    ):
        assert abs(chain.mean(observable).sigmas_from(truth)) < 4
