"""Flows of angles: their laws, files, training and physics."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import (
    HMC,
    ActionFamily,
    AngleField,
    Angles,
    ConditionalFlow,
    EquivariantCNF,
    FlowMatching,
    ForwardKL,
    IndependenceMetropolis,
    LatentHMC,
    Lattice,
    NaturalGradient,
    ReverseKL,
    UniformAngles,
    XYModel,
    annealed_importance_sample,
    fit,
    fit_ladder,
    importance_sample,
    measure,
)
from equiflow.interop import load_ensemble, save_samples
from equiflow.statistics.reweighting import LowEffectiveSampleSizeWarning
from equiflow.testing import assert_vector_field, check_flow
from equiflow.theories.angles.observables import energy, helicity_modulus
from tests.support.angles import SQUARE, TURN, small_flow, trained
from tests.support.strategies import configurations
from tests.support.xy_oracle import ExactXY, ring, strip


def test_a_flow_needs_nothing_but_its_angles():
    flow = EquivariantCNF(SQUARE)
    assert isinstance(flow.vector_field, AngleField)
    assert isinstance(flow.prior, UniformAngles)
    assert str(flow.group) == "translations x D4 x O(2)"
    theta, log_q = flow.sample_and_log_prob(5)  # untrained: the identity
    torch.testing.assert_close(log_q, torch.full((5,), -9 * math.log(TURN)))
    assert float(theta.abs().max()) <= math.pi


def test_every_law_of_a_flow_and_samples_within_a_turn():
    flow = small_flow(Angles(Lattice((2, 3))), scale=0.2)
    report = check_flow(flow, tolerance=1e-5)
    assert report.ok, str(report)
    assert any(check.case.startswith("winding") and "log q" in check.law for check in report.checks)
    generator = torch.Generator().manual_seed(3)
    theta, log_q = flow.sample_and_log_prob(64, generator=generator)
    z = flow.prior.rsample(64, torch.Generator().manual_seed(3))
    on_the_line = flow.transform_and_log_det(z)[0].detach()
    assert float(on_the_line.abs().max()) > math.pi >= float(theta.abs().max())
    torch.testing.assert_close(flow.log_prob(theta), log_q, rtol=0, atol=1e-5)
    torch.testing.assert_close(flow.log_prob(on_the_line), log_q, rtol=0, atol=1e-5)


def test_a_saved_flow_is_the_same_flow(tmp_path):
    flow = small_flow()
    flow.save(tmp_path / "flow.pt")
    loaded = EquivariantCNF.load(tmp_path / "flow.pt")
    theta = configurations(SQUARE)
    assert torch.equal(loaded.log_prob(theta), flow.log_prob(theta))
    assert (loaded.space, loaded.group) == (flow.space, flow.group)


def test_a_resized_flow_agrees_on_angles_of_a_common_period():
    flow = small_flow()
    larger = flow.resized(Lattice((6, 3)))
    theta = configurations(SQUARE)
    twice = larger.vector_field.velocity(torch.cat([theta, theta], 1), 0.4)
    torch.testing.assert_close(twice[:, :3], flow.vector_field.velocity(theta, 0.4))
    assert larger.sample(2).shape == (2, 6, 3)


@pytest.mark.parametrize(
    ("shape", "exact", "other"),
    [
        ((4,), ring(0.9, 4), ring(1.0, 4)),
        ((2, 2), strip(0.5, 2, 2), strip(0.55, 2, 2)),
        ((3, 3), strip(0.7, 3, 3), strip(0.75, 3, 3)),
    ],
)
def test_reweighted_flows_have_the_exact_physics(shape, exact: ExactXY, other: ExactXY):
    angles, beta = Angles(Lattice(shape)), {4: 0.9, 2: 0.5, 3: 0.7}[shape[0]]
    flow, action = trained(angles, beta, 25), XYModel(angles, beta=beta)
    assert_vector_field(flow.vector_field)
    ensemble = importance_sample(flow, action, 2000, generator=torch.Generator().manual_seed(1))
    assert float(ensemble.phi.abs().max()) <= math.pi
    assert ensemble.effective_sample_size().mean > 0.5
    assert abs(ensemble.log_z().sigmas_from(exact.log_z)) < 3.5
    assert abs(ensemble.log_z().sigmas_from(other.log_z)) > 3.5
    assert abs(ensemble.mean(energy).sigmas_from(exact.energy)) < 3.5
    assert abs(ensemble.mean(helicity_modulus(beta)).sigmas_from(exact.helicity_modulus)) < 3.5


def test_chains_have_the_exact_physics():
    """On a ring: HMC, and both kinds of chain from a flow with little training."""
    angles, exact = Angles(Lattice((4,))), ring(0.9, 4)
    action, flow = XYModel(angles, beta=0.9), trained(angles, 0.9, 3)
    generator = torch.Generator().manual_seed(0)
    options = {"n_chains": 32, "generator": generator}
    latent = LatentHMC(flow, action, step_size=0.5)
    chains = [
        HMC(action).sample(100, thin=2, n_thermalisation=20, **options),
        IndependenceMetropolis(flow, action).sample(60, certify=0, **options),
        latent.sample(8, n_thermalisation=2, certify=0, **options),
    ]
    for chain in chains:
        assert float(chain.samples.abs().max()) <= math.pi
        assert abs(chain.mean(energy).sigmas_from(exact.energy)) < 3.5
        assert abs(chain.mean(helicity_modulus(0.9)).sigmas_from(exact.helicity_modulus)) < 3.5
    annealed = annealed_importance_sample(flow, action, 200, betas=2, certify=0, generator=generator)
    assert abs(annealed.log_z().sigmas_from(exact.log_z)) < 3.5


def test_a_continued_chain_of_angles_is_one_longer_chain():
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    kernel = HMC(XYModel(SQUARE, beta=1.0), step_size=0.4)
    long = kernel.sample(12, n_chains=3, n_thermalisation=0, thin=2, generator=generators[0])
    short = kernel.sample(6, n_chains=3, n_thermalisation=0, thin=2, generator=generators[1])
    more = kernel.sample(6, start=short, n_chains=3, thin=2, generator=generators[1])
    assert torch.equal(short.followed_by(more).samples, long.samples)


def test_every_way_of_training_takes_angles(tmp_path):
    action = XYModel(SQUARE, beta=0.5)
    chain = HMC(action).sample(
        8, n_chains=16, n_thermalisation=20, generator=torch.Generator().manual_seed(0)
    )
    samples = chain.configurations
    options = {"steps": 2, "batch_size": 8, "progress": False}
    for objective in (ReverseKL(), ForwardKL(samples), FlowMatching(samples)):
        fit(EquivariantCNF(SQUARE), action, objective=objective, **options)
    flow = EquivariantCNF(SQUARE, vector_field=AngleField(SQUARE, n_ridges=2, n_time_modes=1))
    fit(flow, action, optimiser=NaturalGradient.of(flow, rows=4), learning_rate=1.0, **options)
    rungs = fit_ladder([action, XYModel(Angles(Lattice((4, 4))), beta=0.5)], **options)
    assert rungs[-1].flow.space == Angles(Lattice((4, 4)))
    conditional = ConditionalFlow(EquivariantCNF(SQUARE), {"beta": (0.3, 0.6)})
    fit(conditional, ActionFamily(XYModel, SQUARE, beta=(0.3, 0.6)), **options)
    ensemble = importance_sample(conditional.at(beta=0.4), XYModel(SQUARE, beta=0.4), 16)
    save_samples(ensemble, tmp_path / "xy.npz", action=XYModel(SQUARE, beta=0.4))
    assert torch.equal(load_ensemble(tmp_path / "xy.npz").phi, ensemble.phi)
    with pytest.warns(LowEffectiveSampleSizeWarning):
        assert -2 < measure(ensemble)["energy"].mean < 2
