"""What every objective must do: resume bit for bit, show itself, fit its flow, fill the history."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from equiflow import (
    Action,
    EquivariantCNF,
    ExtendedAction,
    FlowMatching,
    ForwardKL,
    InversePathGradient,
    Lattice,
    Mixture,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    SymmetryGroup,
    TrainingDivergedError,
    fit,
    forward_effective_sample_size,
    log_weights,
)
from equiflow.report.plots import training_curve
from equiflow.runtime.storage import CheckpointError
from equiflow.training import ObjectiveValue
from equiflow.training.objectives.base import check_suits
from tests.support.objectives import (
    ACTION,
    FAST,
    FORWARD,
    MATCHING,
    OBJECTIVES,
    PATH,
    PHI,
    SHORT,
    Interrupted,
    build,
    exact_map,
    generator,
    record,
    weights,
)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_is_reproducible_and_goes_on_after_an_interruption_bit_for_bit(name, tmp_path):
    objective, runs = OBJECTIVES[name], []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        flow = build()
        runs.append((record(fit(flow, ACTION, objective=objective, seed=seed, **SHORT)), weights(flow)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1], runs[2][1])
    options = SHORT | {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        fit(build(), ACTION, objective=Interrupted(objective, 4), **options)
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    resumed, counting = build(), Interrupted(objective, 0)
    history = fit(resumed, ACTION, objective=counting, **options)
    assert len(counting.calls) == 4
    assert record(history) == runs[0][0]
    assert torch.equal(weights(resumed), runs[0][1])
    # Without the state of the noise the rest of the run is another one.
    torch.save(content | {"generator": generator().get_state()}, tmp_path / "run.pt")
    forgetful = build()
    fit(forgetful, ACTION, objective=objective, **options)
    assert not torch.equal(weights(forgetful), runs[0][1])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_repr_is_short_the_same_everywhere_and_tells_samples_apart(name):
    shown = repr(OBJECTIVES[name])
    assert "tensor" not in shown
    assert "0x" not in shown
    assert len(shown) < 700
    assert "samples=(20, 2, 3) float64 sha256:" in shown
    other = PHI.clone()
    other[7, 1, 1] += 1e-15
    for make in (ForwardKL, FlowMatching):
        assert repr(make(PHI)) == repr(make(PHI.clone())) == repr(make(PHI.mT.contiguous().mT))
        found = {repr(make(samples)) for samples in (PHI, other, PHI.flip(0), PHI.float(), PHI[:-1])}
        assert len(found) == 5


@pytest.mark.parametrize(
    "other",
    [
        ForwardKL(PHI.flip(0), solver=FAST),
        ForwardKL(PHI),
        FlowMatching(PHI),
        Mixture((FORWARD, 0.5), (PATH, 0.5)),
    ],
    ids=["samples", "solver", "kind", "mixture"],
)
def test_a_run_does_not_go_on_with_another_objective_or_other_samples(other, tmp_path):
    options = SHORT | {"checkpoint": tmp_path / "run.pt"}
    fit(build(), ACTION, objective=FORWARD, **options)
    with pytest.raises(CheckpointError, match="objective was"):
        fit(build(), ACTION, objective=other, **options)


def test_flows_that_an_objective_does_not_suit_are_refused_with_a_remedy():
    flow, target = exact_map(), ExtendedAction(ACTION)
    for objective, remedy in (
        (FlowMatching(PHI), r"use ForwardKL\(samples\)"),
        (FORWARD, "Leave it out"),
        (PathGradient(), r"use ReverseKL\(\)"),
        (Mixture((ReverseKL(), 0.5), (MATCHING, 0.5)), "use ForwardKL"),
    ):
        with pytest.raises(TypeError, match=remedy):
            fit(flow, target, objective=objective, **SHORT)


def test_an_objective_says_before_training_whether_it_suits():
    flow, exact, target = build(), exact_map(), ExtendedAction(ACTION)
    for objective in (*OBJECTIVES.values(), ReverseKL(), PATH, lambda *_: None):
        check_suits(objective, flow, ACTION)
    for objective in (
        FORWARD,
        ReverseKL(),
        InversePathGradient(),
        Mixture((ReverseKL(), 0.5), (FORWARD, 0.5)),
    ):
        check_suits(objective, exact, target)
    for objective in (PATH, MATCHING, Mixture((ReverseKL(), 0.5), (PATH, 0.5)), OBJECTIVES["nested"]):
        with pytest.raises(TypeError, match="needs an EquivariantCNF"):
            check_suits(objective, exact, target)
    larger = build(Lattice((3, 3)))
    for objective in (*OBJECTIVES.values(), FORWARD):
        with pytest.raises(ValueError, match=r"\(20, 2, 3\)"):
            check_suits(objective, larger, Phi4(larger.lattice, m2=-4.0, lam=7.0))


def test_the_history_has_the_forward_ess_or_none_and_never_nan():
    phi = PHI[:8]
    history = fit(build(), ACTION, objective=ForwardKL(phi, solver=FAST), **SHORT | {"steps": 1})
    index = torch.randint(8, (8,), generator=generator())
    flow = build()
    log_w = log_weights(flow, ACTION, phi[index])
    assert history.loss[0] == pytest.approx(-float(flow.log_prob(phi[index]).detach().mean()), rel=1e-12)
    assert history.ess[0] == pytest.approx(forward_effective_sample_size(log_w, n_blocks=8).mean, rel=1e-9)
    history = fit(build(), ACTION, objective=MATCHING, **SHORT)
    assert history.ess == [None] * 6
    assert all(loss > 0 for loss in history.loss)
    assert history.nfe == [3] * 6
    training_curve(history)


def test_an_objective_without_weights_must_say_its_loss():
    with pytest.raises(ValueError, match="must give its value"):
        ObjectiveValue(torch.zeros(()), None, 0)
    assert ObjectiveValue(torch.zeros(()), None, 0, value=torch.ones(())).ess is None
    both = ObjectiveValue(torch.zeros(()), torch.tensor([0.0, 1.0]), 0)
    assert float(both.loss) == -0.5
    assert replace(both, value=torch.ones(())).loss == 1


def value_of(log_weight):
    return ObjectiveValue(torch.zeros(()), log_weight, 0)


def test_log_weights_of_minus_infinity_are_zero_weights_of_the_effective_sample_size():
    log_weight = torch.tensor([0.3, -math.inf, -0.5, 1.1], dtype=torch.float64)
    w = torch.tensor([math.exp(0.3), 0.0, math.exp(-0.5), math.exp(1.1)], dtype=torch.float64)
    expected = w.sum() ** 2 / (4 * w.square().sum())
    torch.testing.assert_close(value_of(log_weight).ess, expected)
    assert value_of(torch.full((4,), -math.inf)).ess == 0.0
    assert value_of(torch.tensor([0.0, math.nan])).ess.isnan()


def test_a_row_without_any_weight_counts_as_samples_of_weight_zero():
    row = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    empty = torch.full((3,), -math.inf, dtype=torch.float64)
    alone = value_of(row).ess
    torch.testing.assert_close(value_of(torch.stack([row, empty])).ess, alone / 2)
    torch.testing.assert_close(value_of(torch.stack([row, row + 5])).ess, alone)


class Wall(Action):
    """No density where the field is negative on average."""

    def forward(self, phi):
        axes = self.lattice.axes
        return torch.where(phi.sum(axes) > 0, phi.square().sum(axes), math.inf)

    def grad(self, phi):
        return 2 * phi


@pytest.mark.parametrize("objective", [ReverseKL(), PathGradient(), InversePathGradient()], ids=repr)
def test_a_target_without_density_where_the_flow_has_some_is_named(objective):
    lattice = Lattice((2, 2))
    group = SymmetryGroup(lattice, z2=False)
    flow = EquivariantCNF(lattice, group=group, solver=Solver("rk5", steps=4))
    with pytest.raises(TrainingDivergedError, match=r"action is infinite for \d+ model samples.*ForwardKL"):
        fit(flow, Wall(lattice), steps=2, batch_size=32, objective=objective)


def test_maximum_likelihood_trains_on_a_target_with_walls():
    lattice = Lattice((2, 2))
    group = SymmetryGroup(lattice, z2=False)
    flow = EquivariantCNF(lattice, group=group)
    samples = torch.randn(256, 2, 2, generator=torch.Generator().manual_seed(0)).abs()
    history = fit(flow, Wall(lattice), steps=20, batch_size=64, objective=ForwardKL(samples))
    assert history.loss[-1] < history.loss[0]
