"""How a run advances: optimisers, clipping, and divergence that is reported."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from equiflow import (
    FreeField,
    TrainingDivergedError,
    fit,
)
from equiflow.runtime.storage import load_safely
from tests.support.training import (
    ACTION,
    OBJECTIVES,
    SHORT,
    SQUARE,
    InterruptionError,
    Tampered,
    build,
    same,
    weights,
)


def test_an_optimiser_gets_what_is_trained_and_the_rate_and_is_scheduled_in_every_group():
    made: list[Optimizer] = []
    seen: list[tuple[list[nn.Parameter], float]] = []

    class Watching(torch.optim.SGD):
        def step(self, closure: None = None) -> None:
            rates.append([group["lr"] for group in self.param_groups])

    def make(parameters: list[nn.Parameter], learning_rate: float) -> Optimizer:
        seen.append((parameters, learning_rate))
        made.append(Watching([{"params": [p], "lr": 7.0} for p in parameters], lr=learning_rate))
        return made[-1]

    rates: list[list[float]] = []
    flow = build()
    flow.prior = FreeField(SQUARE, learnable=False).double()
    history = fit(flow, ACTION, optimiser=make, learning_rate=0.01, objective=OBJECTIVES[0], **SHORT)
    ((parameters, rate),) = seen
    assert rate == 0.01
    assert [id(p) for p in parameters] == [id(p) for p in flow.vector_field.parameters()]
    assert rates == [[rate] * len(parameters) for rate in history.learning_rate]


def test_plain_gradient_descent_is_done_by_hand():
    flow, by_hand = build(), build()
    history = fit(
        flow,
        ACTION,
        optimiser=torch.optim.SGD,
        objective=OBJECTIVES[0],
        learning_rate=1e-3,
        clip_norm=2.0,
        **SHORT,
    )
    generator = torch.Generator().manual_seed(0)
    trained = list(by_hand.parameters())
    for rate in history.learning_rate:
        value = OBJECTIVES[0](by_hand, ACTION, SHORT["batch_size"], generator)
        slopes = torch.autograd.grad(value.surrogate, trained)
        norm = torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt()
        with torch.no_grad():
            for parameter, slope in zip(trained, slopes, strict=True):
                parameter -= rate * slope * min(1.0, 2.0 / float(norm))
    for found, expected in zip(weights(flow), weights(by_hand), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-10)
    assert max(history.grad_norm) > 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_is_reported_with_its_history_and_leaves_flow_and_checkpoint_alone(value, tmp_path):
    path, flow, safe = tmp_path / "run.pt", build(), build()
    options = SHORT | {"checkpoint_every": 2, "objective": OBJECTIVES[0]}
    with pytest.raises(InterruptionError):
        fit(safe, ACTION, **options | {"objective": Tampered(OBJECTIVES[0], 6), "checkpoint": path})
    before = path.read_bytes()
    with pytest.raises(TrainingDivergedError, match=r"step 6.*learning_rate") as caught:
        fit(flow, ACTION, **options | {"objective": Tampered(OBJECTIVES[0], 2, value), "checkpoint": path})
    assert caught.value.history.step == [1, 2, 3, 4, 5]
    assert path.read_bytes() == before
    assert same(weights(flow), weights(safe))


def test_weights_that_are_not_finite_are_never_written_to_a_checkpoint(tmp_path):
    class Spoiling(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: None = None) -> None:
            super().step()
            self.taken = getattr(self, "taken", 0) + 1
            if self.taken == 4:
                self.param_groups[0]["params"][0].fill_(math.nan)

    options = SHORT | {"optimiser": Spoiling, "learning_rate": 1e-4, "objective": OBJECTIVES[0]}
    with pytest.raises(TrainingDivergedError, match="step 4: weights are not finite"):
        fit(build(), ACTION, checkpoint=tmp_path / "run.pt", checkpoint_every=2, **options)
    saved = load_safely(tmp_path / "run.pt", "training")
    assert saved["step"] == 2
    assert all(bool(value.isfinite().all()) for value in saved["flow"].values())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_a_huge_learning_rate_diverges_loudly(objective):
    flow = build()
    with pytest.raises(TrainingDivergedError) as caught:
        fit(flow, ACTION, objective=objective, learning_rate=1e6, **SHORT | {"steps": 50, "warmup": 0})
    history = caught.value.history
    assert 0 < len(history) < 50
    assert all(math.isfinite(loss) for loss in history.loss)


def test_clipping_limits_the_step_but_not_the_record():
    free, clipped = build(), build()
    options = SHORT | {"steps": 1, "objective": OBJECTIVES[0]}
    one = fit(free, ACTION, clip_norm=1e9, **options)
    other = fit(clipped, ACTION, clip_norm=1e-12, **options)
    assert one.grad_norm == other.grad_norm
    assert one.grad_norm[0] > 1e-6
    start = weights(build())
    moved = [
        max(float((a - b).abs().max()) for a, b in zip(weights(flow), start, strict=True))
        for flow in (free, clipped)
    ]
    # Adam divides by the gradient's size, up to its epsilon of 1e-8.
    assert moved[1] < 1e-3 * moved[0]
