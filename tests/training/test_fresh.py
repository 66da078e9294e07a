"""What `fit` says about a flow, and whether it has reached a target, comes from samples of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equiflow import (
    ActionFamily,
    ConditionalFlow,
    EquivariantCNF,
    Lattice,
    PathGradient,
    Phi4,
    Solver,
    fit,
    fit_ladder,
    importance_sample,
)
from equiflow.training import EarlyStopping, History, LogTo, StopTraining
from equiflow.training.fresh import FreshSamples
from equiflow.vector_fields import DeepAttentionField
from tests.support.linear_flow import Gaussian, linear_flow

ACTION = Phi4(Lattice((2, 2)), m2=-4.0, lam=8.0)
SOLVER = Solver("rk4", steps=2)
OPTIONS = {"batch_size": 64, "warmup": 2, "progress": False, "objective": PathGradient(solver=SOLVER)}


class Narrow(Gaussian):
    """`S = 9/2 sum_x phi^2`: weights of white noise have an ESS of `(17^(1/2) / 9)^6 = 0.0092`."""

    def forward(self, phi: torch.Tensor) -> torch.Tensor:
        return 9 * super().forward(phi)


def flow() -> EquivariantCNF:
    torch.manual_seed(0)
    return EquivariantCNF(ACTION.lattice, solver=SOLVER)


def test_the_last_line_is_the_ess_of_the_trained_flow_on_samples_of_its_own():
    trained = flow()
    history = fit(trained, ACTION, steps=40, n_fresh=2048, **OPTIONS)
    last = str(history).splitlines()[-1]
    assert last == f"ESS on fresh samples  {history.fresh_ess}"
    assert 0 < history.fresh_ess.error < 0.02
    generator = torch.Generator().manual_seed(77)
    other = importance_sample(trained, ACTION, 2048, certify=0, generator=generator).effective_sample_size()
    assert abs(history.fresh_ess.sigmas_from(other)) < 4
    # The flow has changed since the first step, whose batch had another ESS.
    assert abs(history.fresh_ess.sigmas_from(history.ess[0])) > 4


def test_measuring_changes_nothing_in_the_training():
    runs = [flow() for _ in range(3)]
    before = torch.get_rng_state()
    histories = [
        fit(one, ACTION, steps=10, n_fresh=n, target_ess=target, **OPTIONS)
        for one, n, target in zip(runs, (0, 256, 64), (None, None, 0.9999), strict=True)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert [history.fresh_ess is None for history in histories] == [True, False, False]
    for one, history in zip(runs[1:], histories[1:], strict=True):
        assert history.loss == histories[0].loss
        same = zip(one.parameters(), runs[0].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in same)


@pytest.mark.parametrize(
    ("n", "target", "steps", "found"),
    [
        (None, None, 10, 0),
        (None, None, 64, 256),
        (None, None, 10**6, 1024),
        (None, 0.9, 10, 1024),
        (7, 0.9, 1, 7),
    ],
)
def test_measuring_costs_little_of_the_training(n, target, steps, found):
    options = type("Options", (), {"batch_size": 64, "steps": steps})()
    assert FreshSamples(n, target).number(steps, options) == found


def test_training_stops_at_a_target_that_it_reaches_early():
    trained = flow()
    history = fit(trained, ACTION, steps=480, target_ess=0.9, **OPTIONS)
    assert len(history) in range(20, 400, 20)
    assert history.notes[-1].startswith(f"step {len(history)}: stopped, since the ESS on 1024 fresh samples")
    assert history.fresh_ess.mean + 4 * history.fresh_ess.error > 0.9
    # The ESS that is reported was not the one that decided.
    assert str(history.fresh_ess) not in history.notes[-1]


def test_training_goes_on_where_a_target_is_not_reached_whatever_the_batches_say():
    """Two samples of a batch have an ESS of at least one half, so small batches look better than they are."""
    wide = linear_flow(0.0, 2)
    far = {"steps": 48, "batch_size": 2, "learning_rate": 1e-6, "progress": False}
    history = fit(wide, Narrow(), target_ess=0.5, objective=PathGradient(solver=wide.solver), **far)
    assert len(history) == 48
    assert np.mean(history.ess) > 0.5
    assert history.fresh_ess.mean < 0.3
    assert not history.notes


def test_a_range_of_couplings_is_as_good_as_its_worst():
    family = ActionFamily(Phi4, ACTION.lattice, m2=-4.0, lam=(6.0, 12.0))
    trained = ConditionalFlow(flow(), {"lam": (6.0, 12.0)})
    history = fit(trained, family, steps=3, batch_size=8, n_fresh=512, progress=False)
    generator = torch.Generator().manual_seed(5)
    worst = min(
        importance_sample(trained.at(lam=lam), family.at(lam=lam), 512, certify=0, generator=generator)
        .effective_sample_size()
        .mean
        for lam in (6.0, 9.0, 12.0)
    )
    assert history.fresh_ess.mean == pytest.approx(worst, abs=0.1)
    assert "the smallest of three, at lam = " in str(history)


def test_a_training_is_not_lost_where_its_ess_is_unknown():
    estimated = EquivariantCNF(
        ACTION.lattice, vector_field=DeepAttentionField(ACTION.lattice, trace="hutchinson"), solver=SOLVER
    )
    history = fit(estimated, ACTION, steps=2, n_fresh=64, target_ess=0.1, **OPTIONS)
    assert len(history) == 2
    assert history.fresh_ess is None
    assert "the ESS on fresh samples is unknown" in history.notes[-1]
    assert str(history).splitlines()[-1] == "ESS on fresh samples  not measured"


def test_each_rung_of_a_ladder_has_its_ess_and_a_resumed_run_measures_it_again(tmp_path):
    actions = [ACTION, Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0)]
    options = {"steps": 4, "n_fresh": 64, "checkpoint": tmp_path / "run.pt", **OPTIONS}
    rungs, again = (fit_ladder(actions, flow=flow(), **options) for _ in range(2))
    for one, other in zip(rungs, again, strict=True):
        assert one.history.fresh_ess == other.history.fresh_ess is not None
        assert str(one).splitlines()[0].split(maxsplit=1) == ["action", repr(one.action)]


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"target_ess": 1.0}, ValueError, "target_ess must be between 0 and 1, got 1.0"),
        ({"target_ess": "high"}, TypeError, "target_ess must be of type float"),
        ({"n_fresh": -1}, ValueError, "n_fresh must be an integer >= 0"),
        ({"callback": 5}, TypeError, "callback must be a function"),
        (
            {"callback": [print, 5]},
            TypeError,
            "of the History, or several; got 5",
        ),
    ],
)
def test_wrong_options_are_refused_before_training(wrong, error, words):
    with pytest.raises(error, match=words):
        fit(flow(), ACTION, steps=1, **OPTIONS | wrong)


def record(loss: list[float]) -> History:
    history = History()
    for step, value in enumerate(loss, 1):
        others = {"ess": None, "grad_norm": 1.0, "learning_rate": 0.1, "nfe": 8, "seconds": 1.0}
        history.append(step=step, loss=value, **others)
    return history


def stops_at(loss: list[float], **options: float) -> int | None:
    """Return the step after which the losses would stop a training."""
    stopping = EarlyStopping(patience=20, **options)
    for n in range(1, len(loss) + 1):
        try:
            stopping(record(loss[:n]))
        except StopTraining:
            return n
    return None


def test_a_loss_that_falls_goes_on_and_one_that_stays_stops():
    noise = 0.1 * torch.randn(200, generator=torch.Generator().manual_seed(3)).numpy()
    falling = -0.05 * np.arange(200)
    assert stops_at(list(falling + noise)) is None
    assert stops_at(list(noise)) in range(40, 60)
    assert 100 <= stops_at(list(np.where(np.arange(200) < 100, falling, falling[100]) + noise)) < 150
    # 20 steps win 1.0
    assert stops_at(list(falling + noise), least=0.8) is None
    assert stops_at(list(falling + noise), least=1.5) == 40


def test_early_stopping_ends_a_training_with_a_checkpoint_from_which_it_goes_on(tmp_path):
    options = {"steps": 60, "learning_rate": 1e-12, "checkpoint": tmp_path / "run.pt", **OPTIONS}
    history = fit(flow(), ACTION, callback=EarlyStopping(patience=4), **options)
    assert len(history) in range(8, 60)
    assert history.notes == [f"step {len(history)}: stopped by a callback: {history.notes[0].split(': ')[2]}"]
    steps: list[int] = []
    resumed = fit(flow(), ACTION, callback=lambda h: steps.append(len(h)), **options)
    assert steps == list(range(len(history) + 1, 61))
    assert resumed.loss[: len(history)] == history.loss


def test_all_callbacks_are_called_and_a_logger_gets_plain_numbers():
    rows: dict[int, dict[str, float]] = {}
    seen: list[int] = []

    def stop(history: History) -> None:
        if len(history) == 5:
            raise StopTraining("enough")

    logger = LogTo(lambda row, step: rows.update({step: row}), every=2)
    history = fit(flow(), ACTION, steps=8, callback=[stop, logger, lambda h: seen.append(len(h))], **OPTIONS)
    assert seen == [1, 2, 3, 4, 5]
    assert history.notes == ["step 5: stopped by a callback: enough"]
    assert list(rows) == [2, 4]
    assert rows[4]["loss"] == history.loss[3]
    assert set(map(type, rows[4].values())) <= {int, float}
    without_weights = {}
    LogTo(lambda row, step: without_weights.update(row))(record([1.0]))
    assert "ess" not in without_weights
    assert without_weights["loss"] == 1.0
    with pytest.raises(TypeError, match="write must be a function"):
        LogTo("file")
    for wrong in ({"patience": 1}, {"least": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EarlyStopping(**wrong)


def test_a_long_history_prints_as_a_few_lines():
    history = record([1.0 / n for n in range(1, 2001)])
    history.notes = [f"step {n}: rk4(steps={n})" for n in range(50)]
    lines = str(history).splitlines()
    assert repr(history) == str(history)
    assert len(lines) < 12
    assert lines[0].split() == ["steps", "2000"]
    assert "47 earlier ones" in str(history)
    assert "step 49" in str(history)
    assert str(History()).splitlines() == ["steps                 0", "ESS on fresh samples  not measured"]
