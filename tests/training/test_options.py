"""The numbers of a run: the schedule of the learning rate, and what is refused."""

from __future__ import annotations

import math

import pytest

from equiflow import (
    Lattice,
    Phi4,
    fit,
)
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
