"""Training with `fit`: reproducible, downhill, symmetric, and silent when asked."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from equiflow import (
    Action,
    ActionFamily,
    ConditionalFlow,
    CouplingFlow,
    EquivariantCNF,
    FactorisedConvField,
    FreeField,
    FreeScalar,
    Lattice,
    OrbitConvField,
    OverCouplings,
    PathGradient,
    Phi4,
    Solver,
    effective_sample_size,
    fit,
    importance_sample,
)
from equiflow.testing import assert_log_density_exact, assert_vector_field, invariance_error
from equiflow.training.trainer import adam
from tests.support.training import (
    ACTION,
    FAST,
    OBJECTIVES,
    SHORT,
    SQUARE,
    Tampered,
    build,
    columns,
    same,
    weights,
)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_is_bitwise_reproducible_and_the_seed_matters(objective, dtype):
    runs = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        flow = build().to(dtype)
        history = fit(flow, ACTION, objective=objective, seed=seed, **SHORT)
        runs.append((columns(history), weights(flow)))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]
    assert not same(runs[0][1], runs[2][1])


def test_training_leaves_global_randomness_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(build(), ACTION, **SHORT)
    assert torch.equal(torch.get_rng_state(), before)


def test_loss_and_ess_of_the_history_are_those_of_the_batch():
    history = fit(
        build(), ACTION, steps=1, batch_size=64, objective=PathGradient(solver=FAST), progress=False
    )
    ensemble = importance_sample(build(), ACTION, 64, generator=torch.Generator().manual_seed(0))
    assert history.loss[0] == pytest.approx(-float(ensemble.log_weight.mean()), rel=1e-10)
    assert history.ess[0] == pytest.approx(effective_sample_size(ensemble.log_weight).mean, rel=1e-10)


def quality(flow: EquivariantCNF, action: Action = ACTION) -> tuple[float, float]:
    """Loss and reverse ESS on fresh samples."""
    ensemble = importance_sample(flow, action, 2048, generator=torch.Generator().manual_seed(99))
    return -float(ensemble.log_weight.mean()), ensemble.effective_sample_size().mean


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_training_lowers_the_loss_and_raises_the_ess(objective):
    flow = build(solver=Solver("rk4", steps=8))
    before = quality(flow)
    history = fit(flow, ACTION, steps=60, batch_size=64, warmup=10, objective=objective, progress=False)
    after = quality(flow)
    assert after[0] < before[0] - 0.5
    assert after[1] > before[1] + 0.2
    assert after[1] > 0.7
    assert sum(history.loss[-10:]) < sum(history.loss[:10])
    # Climbing instead of descending is noticed by the same numbers.
    uphill = build(solver=Solver("rk4", steps=8))
    wrong = Tampered(objective, 1, -1.0)
    for _ in range(5):
        wrong.calls.clear()
        fit(uphill, ACTION, steps=1, batch_size=64, warmup=0, objective=wrong, progress=False)
    assert quality(uphill)[0] > before[0]


def test_training_finds_the_spectrum_of_a_free_field():
    action = FreeScalar(SQUARE, m2=0.5)
    flow = build()
    fit(flow, action, steps=120, batch_size=64, warmup=10, learning_rate=0.05, progress=False)
    loss, ess = quality(flow, action)
    assert ess > 0.999
    assert loss == pytest.approx(-action.log_z(), abs=1e-3)


@pytest.mark.parametrize(("kind", "steps"), [(OrbitConvField, 5), (FactorisedConvField, 10)])
def test_unless_told_otherwise_a_conditional_flow_is_trained_over_couplings_with_a_larger_penalty(
    kind, steps
):
    lattice = Lattice((2, 2))
    family = ActionFamily(Phi4, lattice, m2=-4.0, lam=(6.0, 9.0))
    options = {"steps": 2, "batch_size": 4, "progress": False}
    solver = Solver("rk5", steps=steps)
    objectives = (
        None,
        PathGradient(kinetic_penalty=1e-2, solver=solver),
        OverCouplings(PathGradient(kinetic_penalty=1e-2, solver=solver)),
        OverCouplings(PathGradient(solver=solver)),
    )
    runs = []
    for objective in objectives:
        torch.manual_seed(0)
        flow = ConditionalFlow(EquivariantCNF(lattice, vector_field=kind(lattice)), {"lam": (6.0, 9.0)})
        fit(flow, family, objective=objective, **options)
        runs.append(weights(flow))
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    assert not same(runs[0], runs[3])


def test_only_flows_that_integrate_have_a_solver_for_training():
    assert build().training_solver == Solver("rk5", steps=5)
    exact = CouplingFlow(SQUARE, n_layers=2)
    assert exact.training_solver is None
    with pytest.raises(TypeError, match=r"CouplingFlow does not integrate\. Leave it out"):
        exact.log_prob_to_train(torch.zeros(2, 4, 4), solver=FAST)
    log_q, nfe = exact.log_prob_to_train(torch.zeros(2, 4, 4))
    assert torch.equal(log_q, exact.log_prob(torch.zeros(2, 4, 4)))
    assert nfe == 0


def test_unless_told_otherwise_it_is_adam_with_a_short_memory_and_a_large_eps():
    runs = []
    for optimiser in (
        {},
        {"optimiser": adam},
        {"optimiser": partial(torch.optim.Adam, betas=(0.9, 0.99), eps=1e-5)},
        {"optimiser": torch.optim.Adam},
        {"optimiser": partial(torch.optim.Adam, betas=(0.9, 0.99))},
    ):
        flow = build()
        fit(flow, ACTION, objective=OBJECTIVES[0], **SHORT | optimiser)
        runs.append(weights(flow))
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    assert not any(same(runs[0], other) for other in runs[3:])


@pytest.mark.parametrize("shape", [(4, 4), (2, 4), (2, 2, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.float64, 1e-6)])
def test_symmetry_and_log_density_stay_exact_while_training(shape, dtype, tolerance):
    lattice = Lattice(shape)
    precise = Solver(rtol=1e-8, atol=1e-8) if dtype == torch.float64 else Solver(rtol=1e-5, atol=1e-5)
    flow = build(lattice, solver=precise).to(dtype)
    objective = PathGradient(solver=FAST)
    fit(flow, Phi4(lattice, m2=-4.0, lam=7.0), objective=objective, **SHORT | {"steps": 15})
    assert_vector_field(flow.vector_field, lattice)
    assert_log_density_exact(flow, tolerance=tolerance)
    assert max(invariance_error(flow, flow.group).values()) < tolerance
    # A mask on one site breaks both.
    flow.vector_field.register_buffer("mask", torch.ones(shape, dtype=dtype))
    flow.vector_field.mask.view(-1)[0] = 0.9
    inner = flow.vector_field.velocity_and_divergence

    def masked(phi: torch.Tensor, t: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
        velocity, divergence = inner(phi, t)
        return velocity * flow.vector_field.mask, divergence

    flow.vector_field.velocity_and_divergence = masked
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_vector_field(flow.vector_field, lattice)
    with pytest.raises(AssertionError, match="log q"):
        assert_log_density_exact(flow, tolerance=tolerance)


def test_training_is_silent_when_asked(capfd):
    fit(build(), ACTION, **SHORT)
    assert capfd.readouterr() == ("", "")
    fit(build(), ACTION, **SHORT | {"progress": True})
    assert "training" in capfd.readouterr().err


def test_training_runs_where_the_flow_lives(device):
    flow = build().to(device, torch.float32)
    history = fit(flow, ACTION, **SHORT)
    assert len(history) == 6
    assert {(p.device.type, p.dtype) for p in flow.parameters()} == {(device.type, torch.float32)}


def test_parameters_without_gradient_stay():
    flow = build()
    flow.prior = FreeField(SQUARE, learnable=False).double()
    fit(flow, ACTION, **SHORT)
    assert torch.equal(flow.prior.log_sigma, FreeField(SQUARE).double().log_sigma)
