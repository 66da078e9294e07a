"""Everything that takes a flow works with flows of links: weights, chains, annealing, diagnosis, files."""

from __future__ import annotations

import pytest
import torch

from equiflow import (
    HMC,
    Alternate,
    EquivariantCNF,
    IndependenceMetropolis,
    LatentHMC,
    Lattice,
    Links,
    Solver,
    WilsonAction,
    annealed_importance_sample,
    importance_sample,
    measure,
)
from equiflow.analysis import diagnose, log_z_bridge
from equiflow.interop import load_ensemble, save_samples
from equiflow.oracles import gauge_torus
from equiflow.samplers import IndependenceStep
from equiflow.testing import randomise
from equiflow.theories.gauge.observables import plaquette
from tests.support.gauge import rng

BETAS = {"U(1)": 0.7, "SU(2)": 1.0, "SU(3)": 1.5}


def pair(group: str, *, dtype: torch.dtype = torch.float64) -> tuple[EquivariantCNF, WilsonAction]:
    """A flow that is not trained, with random weights, and an action that is not far from it."""
    links = Links(Lattice((3, 3)), group)
    field = type(EquivariantCNF(links).vector_field)
    options = {"shapes": ("plaquette",), "degree": 1, "n_time_modes": 1}
    if group == "U(1)":
        options = {"n_local": 1, "n_mixed": 1, "n_harmonics": 1, "n_time_modes": 1}
    flow = EquivariantCNF(links, vector_field=field(links, **options), solver=Solver("rk4", steps=3))
    randomise(flow.vector_field, scale=0.02)
    return flow.to(dtype=dtype), WilsonAction(links, beta=BETAS[group])


@pytest.mark.parametrize("group", BETAS)
def test_weighted_samples_and_chains_have_the_exact_averages(group):
    flow, action = pair(group)
    exact, u = gauge_torus(action), plaquette(action.space)
    n = 1000 if group == "SU(3)" else 2000  # whose samples cost most
    ensemble = importance_sample(flow, action, n, certify=32, generator=rng(1))
    assert abs(ensemble.log_z().sigmas_from(exact.log_z)) < 4
    assert abs(ensemble.mean(u).sigmas_from(exact.plaquette)) < 4
    # Without weights they are far off.
    assert abs(float(u(ensemble.phi).mean()) - exact.plaquette) > 5 * ensemble.mean(u).total_error
    chain = IndependenceMetropolis.from_ensemble(ensemble, n_chains=10, generator=rng(2))
    assert chain.space == action.space
    assert abs(chain.mean(u).sigmas_from(exact.plaquette)) < 4
    both = Alternate(IndependenceStep(flow, action), HMC(action, step_size=0.4))
    mixed = both.sample(12, n_chains=64, n_thermalisation=8, certify=0, generator=rng(3))
    assert abs(mixed.mean(u).sigmas_from(exact.plaquette)) < 4


@pytest.mark.parametrize("group", ["U(1)", "SU(2)"])
def test_annealing_moves_links_by_their_noise(group):
    flow, action = pair(group)
    exact, u = gauge_torus(action), plaquette(action.space)
    plain = importance_sample(flow, action, 600, certify=0, generator=rng(4))
    annealed = annealed_importance_sample(flow, action, 600, betas=4, certify=0, generator=rng(4))
    assert annealed.phi.shape == (600, *action.space.shape)
    assert abs(annealed.log_z().sigmas_from(exact.log_z)) < 4
    assert abs(annealed.mean(u).sigmas_from(exact.plaquette)) < 4
    assert annealed.effective_sample_size().mean > plain.effective_sample_size().mean
    assert float(action.space.lie.defect(annealed.phi).max()) < 1e-12


def test_latent_hmc_moves_angles_and_refuses_matrices():
    flow, action = pair("U(1)")
    chain = LatentHMC(flow, action, step_size=0.5).sample(
        10, n_chains=64, n_thermalisation=4, certify=0, generator=rng(5)
    )
    assert abs(chain.mean(plaquette(action.space)).sigmas_from(gauge_torus(action).plaquette)) < 4
    assert float(chain.samples.abs().max()) <= 3.15
    with pytest.raises(ValueError, match=r"does not follow from configurations.*IndependenceMetropolis"):
        LatentHMC(*pair("SU(2)"))


@pytest.mark.parametrize("group", BETAS)
def test_a_flow_of_single_precision_is_compared_with_chains_of_double_precision(group):
    flow, action = pair(group, dtype=torch.float32)
    chain = HMC(action, step_size=0.4).sample(20, n_chains=16, n_thermalisation=20, generator=rng(6))
    ensemble = importance_sample(flow, action, 512, certify=16, generator=rng(7))
    found = diagnose(flow, action, ensemble, chain)
    assert found.ok
    assert found.positive_sector is None
    assert abs(log_z_bridge(flow, action, ensemble, chain).sigmas_from(gauge_torus(action).log_z)) < 4
    # Samples of another coupling are not those of the target.
    wrong = HMC(WilsonAction(action.space, beta=4 * action.beta), step_size=0.2)
    other = wrong.sample(20, n_chains=16, n_thermalisation=40, generator=rng(6))
    assert not diagnose(flow, action, ensemble, other).ok


@pytest.mark.parametrize("group", ["U(1)", "SU(2)", "SU(3)"])
def test_the_solver_of_a_flow_of_single_precision_is_tuned(group):
    flow, action = pair(group, dtype=torch.float32)
    flow.tune_solver(1e-3, action=action, n_samples=16, generator=rng(8))
    certificate = flow.certificate(16, action=action, generator=rng(9))
    assert abs(certificate.log_z_shift) < 5e-3


def test_ensembles_of_links_come_back_from_files(tmp_path):
    flow, action = pair("SU(2)")
    ensemble = importance_sample(flow, action, 400, certify=8, generator=rng(1))
    save_samples(ensemble, tmp_path / "ensemble.npz", action=action)
    again = load_ensemble(tmp_path / "ensemble.npz")
    assert torch.equal(again.phi, ensemble.phi)
    assert str(measure(again)) == str(measure(ensemble))
