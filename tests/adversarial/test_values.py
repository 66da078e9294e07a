"""Values that are not finite, or nearly not, and batches of none and one."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from equiflow import (
    HMC,
    FreeField,
    IndependenceMetropolis,
    Lattice,
    PathGradient,
    ReverseKL,
    SolverError,
    StandardNormal,
    TrainingDivergedError,
    effective_sample_size,
    fit,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
    measure,
)
from equiflow.samplers import Ensemble
from equiflow.statistics import bridge_log_z, log_mean_exp
from tests.support.adversarial import ACTION, CALLS, RK4, SHORT, SQUARE, generator, tensors
from tests.support.strategies import configurations, flows, seeds, small_flow

bad_values = st.sampled_from([math.nan, math.inf, -math.inf])


@settings(max_examples=30)
@given(flow=flows(solver=RK4), value=bad_values, where=seeds, n=st.integers(1, 4))
def test_one_bad_value_anywhere_is_refused(flow, value, where, n):
    phi = configurations(flow.lattice, n)
    assert bool(flow.log_prob(phi).isfinite().all())
    phi.view(-1)[where % phi.numel()] = value
    for name in ("log_prob", "transform", "inverse"):
        with pytest.raises(ValueError, match=f"NaN or infinite values in 1 of {n} configurations"):
            CALLS[name](flow, phi)


@settings(max_examples=60)
@given(
    exponent=st.floats(0, 308),
    prior=st.sampled_from([FreeField, StandardNormal]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=seeds,
)
@example(308.2, FreeField, torch.float64, 0)
@example(200.0, StandardNormal, torch.float64, 0)
def test_huge_fields_have_vanishing_density_or_are_refused(exponent, prior, dtype, seed):
    flow = small_flow(prior=prior(SQUARE), solver=RK4).to(dtype)
    phi = (configurations(SQUARE, 2, seed).sign() * 10.0**exponent).to(dtype)
    try:
        log_q = flow.log_prob(phi)
    except (ValueError, SolverError) as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert exponent > 38
        assert "infinite" in refusal
        return
    assert not bool(log_q.isnan().any())
    assert exponent < 6 or bool((log_q < -1e3).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300 * 1e300])
def test_weights_that_are_not_finite_are_refused_by_every_estimate(bad):
    log_weight = torch.tensor([0.0, 1.0, bad, 2.0])
    good = torch.tensor([0.0, 1.0, 0.5, 2.0])
    ensemble = Ensemble(torch.zeros(4, 3, 3), good, log_weight, space=Lattice((3, 3)))
    for estimate in (
        lambda: effective_sample_size(log_weight),
        lambda: forward_effective_sample_size(log_weight),
        lambda: log_mean_exp(log_weight),
        lambda: bridge_log_z(log_weight, good),
        lambda: bridge_log_z(good, log_weight),
        lambda: ensemble.mean(lambda phi: phi.sum((1, 2))),
        lambda: measure(ensemble),
        lambda: IndependenceMetropolis.from_ensemble(ensemble),
    ):
        with pytest.raises(ValueError, match="NaN or infinite"):
            estimate()


@pytest.mark.parametrize("scale", [1e3, 1e30, 1e300])
def test_huge_finite_weights_leave_an_estimate_and_an_error_that_is_a_number(scale):
    log_weight = scale * torch.tensor([0.0, 1.0, -1.0, 0.5])
    assert log_mean_exp(log_weight).mean == pytest.approx(scale, rel=2e-3)
    assert effective_sample_size(log_weight).mean == pytest.approx(0.25)
    for estimate in (effective_sample_size, forward_effective_sample_size, log_mean_exp):
        assert not math.isnan(estimate(log_weight).error)
        assert not math.isnan(estimate(log_weight).mean)


@pytest.mark.parametrize("objective", [PathGradient(), ReverseKL()])
@pytest.mark.parametrize("rate", [1e300, 1e308])
def test_training_never_returns_a_flow_that_is_not_finite(rate, objective):
    flow = small_flow(solver=RK4)
    with contextlib.suppress(TrainingDivergedError):
        fit(flow, ACTION, objective=objective, learning_rate=rate, **SHORT | {"steps": 1})
        assert all(bool(p.isfinite().all()) for p in flow.parameters())
        with contextlib.suppress(ValueError, SolverError):  # huge weights may overflow, but not in silence
            assert bool(flow.sample(2).isfinite().all())


def test_no_samples_make_no_estimate_and_one_makes_no_error():
    flow = small_flow(solver=RK4)
    for n in (0, 1):
        ensemble = importance_sample(flow, ACTION, n, certify=2)
        assert ensemble.phi.shape == (n, 3, 3)
        assert log_weights(flow, ACTION, ensemble.phi).shape == (n,)
        for estimate in (
            ensemble.effective_sample_size,
            ensemble.log_z,
            lambda e=ensemble: e.mean(lambda phi: phi.sum((1, 2))),
            lambda e=ensemble: measure(e),
        ):
            with pytest.raises(ValueError, match=r">= 2|at least 2|samples"):
                estimate()


def test_one_sample_makes_a_chain_and_none_does_not():
    flow = small_flow(solver=RK4)
    chain = IndependenceMetropolis(flow, ACTION).sample(1, generator=generator())
    assert chain.samples.shape == (1, 1, 3, 3)
    assert HMC(ACTION).sample(1, n_chains=1, n_thermalisation=1).samples.shape == (1, 1, 3, 3)
    for sample in (IndependenceMetropolis(flow, ACTION).sample, HMC(ACTION).sample):
        with pytest.raises(ValueError, match="n_samples"):
            sample(0)
    with pytest.raises(ValueError, match="n >= 4"):
        chain.mean(lambda phi: phi.sum((1, 2)))


def test_an_empty_batch_has_actions_gradients_and_weights():
    flow, empty = small_flow(solver=RK4), torch.zeros(0, 3, 3)
    assert {len(t) for call in CALLS.values() for t in tensors(call(flow, empty))} == {0}
    (gradient,) = torch.autograd.grad(flow.log_prob(empty.requires_grad_()).sum(), empty)
    assert gradient.shape == (0, 3, 3)
