"""The numbers of a run: the schedule of the learning rate, and what is refused."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest

from equiflow import (
    Lattice,
    Phi4,
    fit,
)
from equiflow.training.options import TrainingOptions
from tests.support.training import ACTION, OBJECTIVES, SHORT, build


def test_history_has_one_entry_per_step_and_the_schedule():
    history = fit(build(), ACTION, learning_rate=0.01, objective=OBJECTIVES[0], **SHORT)
    assert history.step == [1, 2, 3, 4, 5, 6]
    assert {len(column) for column in history.to_dict().values()} == {len(history)}
    warm_up = [min(1.0, n / 2) for n in history.step]
    decay = [0.5 * (1 + math.cos(math.pi * (n - 1) / 6)) for n in history.step]
    expected = [0.01 * w * d for w, d in zip(warm_up, decay, strict=True)]
    assert history.learning_rate == pytest.approx(expected)
    assert history.seconds == sorted(history.seconds)
    assert all(0 < ess <= 1 for ess in history.ess)
    assert set(history.nfe) == {16}  # four steps of rk4


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"action": Phi4(Lattice((3, 3)), m2=1.0, lam=1.0)}, r"\(3, 3\).*\(4, 4\)"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        fit(**({"flow": build(), "action": ACTION} | SHORT | bad))


VALID = {
    "steps": 6,
    "batch_size": 8,
    "learning_rate": 0.1,
    "warmup": 2,
    "clip_norm": 1.0,
    "seed": 0,
    "checkpoint_every": 4,
}


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"steps": 2.0}, TypeError),
        ({"steps": True}, TypeError),
        ({"batch_size": "8"}, TypeError),
        ({"checkpoint_every": 1.5}, TypeError),
        ({"steps": 0}, ValueError),
        ({"warmup": -1}, ValueError),
        ({"learning_rate": math.inf}, ValueError),
        ({"clip_norm": 0.0}, ValueError),
    ],
)
def test_options_that_exist_are_valid(bad, error):
    options = TrainingOptions(**VALID)
    with pytest.raises(error):
        TrainingOptions(**VALID | bad)
    with pytest.raises(FrozenInstanceError):
        options.steps = 7


def test_a_checkpoint_is_due_at_its_multiples_and_at_the_end():
    options = TrainingOptions(**VALID)
    assert [step for step in range(1, 7) if options.is_due(step)] == [4, 6]


def test_a_resumed_run_may_write_checkpoints_at_other_times_and_nothing_else():
    settings = TrainingOptions(**VALID).settings()
    assert TrainingOptions(**VALID | {"checkpoint_every": 1}).settings() == settings
    others = {"steps": 7, "batch_size": 9, "learning_rate": 0.2, "warmup": 3, "clip_norm": 2.0, "seed": 1}
    assert others.keys() == settings.keys()
    for name, value in others.items():
        assert TrainingOptions(**VALID | {name: value}).settings() != settings


@pytest.mark.parametrize("warmup", [0, 1, 5, 60])
def test_the_rate_stays_between_zero_and_its_top_and_would_reach_zero_after_the_last_step(warmup):
    options = TrainingOptions(**VALID | {"steps": 40, "warmup": warmup})
    rates = [options.rate(step) for step in range(1, 41)]
    assert all(0 < rate <= options.learning_rate for rate in rates)
    assert options.rate(41) == pytest.approx(0.0, abs=1e-12)
    assert rates[0] == pytest.approx(options.learning_rate / max(warmup, 1))
