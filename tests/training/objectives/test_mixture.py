"""Mixtures are weighted sums, and keep the modes that one part alone drops."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import (
    HMC,
    Action,
    EquivariantCNF,
    ExtendedAction,
    ForwardKL,
    InversePathGradient,
    Lattice,
    Mixture,
    OrbitConvField,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    SymmetryGroup,
    fit,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
)
from tests.support.objectives import (
    ACTION,
    FORWARD,
    MATCHING,
    PATH,
    PHI,
    SHORT,
    build,
    exact_map,
    generator,
    gradient,
)


def test_the_gradient_and_the_loss_of_a_mixture_are_weighted_sums():
    flow, parts = build(), ((PATH, 0.2), (FORWARD, 0.5), (MATCHING, 0.3))
    mixed = Mixture(*parts)(flow, ACTION, 8, generator())
    stream = generator()
    alone = [objective(flow, ACTION, 8, stream) for objective, _ in parts]
    slopes = [gradient(value, flow) for value in alone]
    expected = sum(w * s for (_, w), s in zip(parts, slopes, strict=True))
    found = gradient(mixed, flow)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, sum(slopes) / 3, rtol=1e-3)
    assert float(mixed.loss) == pytest.approx(
        sum(w * float(v.loss) for (_, w), v in zip(parts, alone, strict=True)), rel=1e-12
    )
    assert torch.equal(mixed.log_weight, alone[0].log_weight)
    assert torch.equal(mixed.target_log_weight, alone[1].target_log_weight)
    assert torch.equal(mixed.ess, alone[0].ess)
    assert mixed.nfe == sum(value.nfe for value in alone)


def test_a_mixture_trains_an_exact_map():
    objective = Mixture((InversePathGradient(), 0.5), (ForwardKL(PHI), 0.5))
    history = fit(exact_map(), ExtendedAction(ACTION), objective=objective, **SHORT)
    assert all(0 < ess <= 1 for ess in history.ess)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ((), ValueError, "add up to 1"),
        (((ReverseKL(), 0.5), (PATH, 0.4)), ValueError, "add up to 1"),
        (((ReverseKL(), 1.5), (PATH, -0.5)), ValueError, "positive"),
        (((ReverseKL(), math.nan),), ValueError, "positive"),
        ((ReverseKL(), PATH), TypeError, "pair"),
        (((0.5, ReverseKL()),), TypeError, "pair"),
    ],
)
def test_bad_mixtures_are_refused(parts, error, message):
    with pytest.raises(error, match=message):
        Mixture(*parts)


def test_forward_divergence_keeps_the_mode_that_the_reverse_one_drops():
    """Two wells, a flow without Z2 that starts in one of them."""
    lattice = Lattice((2,))
    action: Action = Phi4(lattice, m2=-4.0, lam=1.5)
    chain = HMC(action).sample(16, n_chains=64, n_thermalisation=100, thin=2, generator=generator(1))
    phi = torch.cat([chain.configurations, -chain.configurations])
    found = {}
    for name, objective in {
        "reverse": PathGradient(),
        "mixture": Mixture((PathGradient(), 0.5), (ForwardKL(phi), 0.5)),
    }.items():
        group = SymmetryGroup(lattice, z2=False)
        vector_field = OrbitConvField(
            lattice, group=group, n_frequencies=4, n_time_modes=3, max_frequency=4.0
        )
        flow = EquivariantCNF(lattice, vector_field=vector_field, solver=Solver("rk4", steps=5))
        with torch.no_grad():
            vector_field.drift[0] = 1.4
        options = {"steps": 60, "batch_size": 64, "warmup": 10, "learning_rate": 0.03, "progress": False}
        fit(flow, action, objective=objective, **options)
        flow.solver = Solver("rk4", steps=20)
        ensemble = importance_sample(flow, action, 2048, certify=0, generator=generator(3))
        found[name] = {
            "positive": float((ensemble.phi.mean(1) > 0).double().mean()),
            "reverse": ensemble.effective_sample_size().mean,
            "forward": forward_effective_sample_size(log_weights(flow, action, phi)).mean,
            "log_z": ensemble.log_z().mean,
        }
    one_sided, mixed = found["reverse"], found["mixture"]
    # The reverse ESS sees nothing; the forward one and log Z, low by log 2, do.
    assert one_sided["positive"] > 0.99
    assert one_sided["reverse"] > 0.9
    assert one_sided["forward"] < 1e-3
    assert 0.3 < mixed["positive"] < 0.85
    assert min(mixed["reverse"], mixed["forward"]) > 0.4
    assert mixed["log_z"] - one_sided["log_z"] == pytest.approx(math.log(2), abs=0.1)
