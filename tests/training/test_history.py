"""Every column of the history of a training, against closed forms for the linear field by Euler steps."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import PathGradient, ReverseKL, fit
from tests.support.linear_flow import LATTICE, Gaussian, V, linear_flow

RATE, STEPS, BATCH, SEED = 0.3, 4, 32, 11
STRETCH = (1 + RATE / STEPS) ** STEPS


def squares() -> torch.Tensor:
    """Return `sum_x z^2` of the prior samples of the first step."""
    generator = torch.Generator().manual_seed(SEED)
    z = torch.randn(BATCH, *LATTICE.shape, generator=generator, dtype=torch.float64)
    return z.square().sum((1, 2))


def expected_gradient(kinetic_penalty: float | None) -> float:
    """Return the derivative in c of what is minimised, by differences of closed forms."""

    def loss(c: float) -> torch.Tensor:
        stretch = (1 + c / STEPS) ** STEPS
        return (0.5 * (stretch**2 - 1) * squares() - c * V).mean()

    if kinetic_penalty is None:
        return float(loss(RATE + 1e-6) - loss(RATE - 1e-6)) / 2e-6
    # The path gradient: dphi/dc times the force, with the score of the discrete flow.
    slope = (1 + RATE / STEPS) ** (STEPS - 1)
    force = STRETCH - (1 - RATE / STEPS) ** STEPS
    steps = [(1 + RATE / STEPS) ** (2 * n) for n in range(STEPS)]
    rise = [2 * n / STEPS * (1 + RATE / STEPS) ** (2 * n - 1) for n in range(STEPS)]
    kinetic = (2 * RATE * sum(steps) + RATE**2 * sum(rise)) / STEPS
    return float((slope * force + kinetic_penalty * kinetic) * squares().mean())


@pytest.mark.parametrize("penalty", [None, 0.0, 0.25])
def test_the_first_entries_are_those_of_the_batch(penalty):
    flow = linear_flow(RATE, STEPS)
    objective = ReverseKL() if penalty is None else PathGradient(kinetic_penalty=penalty)
    options = {"steps": 3, "batch_size": BATCH, "seed": SEED, "objective": objective, "progress": False}
    history = fit(flow, Gaussian(), learning_rate=1e-3, warmup=2, clip_norm=1e-3, **options)
    log_w = 0.5 * (1 - STRETCH**2) * squares() + RATE * V + V / 2 * math.log(2 * math.pi)
    assert history.loss[0] == pytest.approx(-float(log_w.mean()), rel=1e-9)
    weight = log_w.softmax(0)
    assert history.ess[0] == pytest.approx(1 / (BATCH * float(weight.square().sum())), rel=1e-9)
    # before clipping, which cuts it to 1e-3
    assert history.grad_norm[0] == pytest.approx(abs(expected_gradient(penalty)), rel=1e-6)
    assert history.nfe == ([0] if penalty is None else [STEPS]) * 3
    assert history.step == [1, 2, 3]
    rates = [min(1, n / 2) * 1e-3 * 0.5 * (1 + math.cos(math.pi * (n - 1) / 3)) for n in (1, 2, 3)]
    assert history.learning_rate == pytest.approx(rates, rel=1e-12)
    assert history.last() == {"loss": f"{history.loss[-1]:.3f}", "ess": f"{history.ess[-1]:.3f}"}
    # Adam's first step is the learning rate, against the gradient.
    first = linear_flow(RATE, STEPS)
    fit(first, Gaussian(), learning_rate=1e-3, warmup=0, **options | {"steps": 1})
    moved = float(first.vector_field.rate.detach()) - RATE
    assert moved == pytest.approx(-math.copysign(1e-3, expected_gradient(penalty)), rel=1e-4)


def test_seconds_are_wall_time(monkeypatch):
    now = iter(range(100, 10**6, 7))
    monkeypatch.setattr("equiflow.training.run.time.perf_counter", lambda: float(next(now)))
    history = fit(
        linear_flow(RATE, STEPS), Gaussian(), steps=3, batch_size=4, objective=ReverseKL(), progress=False
    )
    assert history.seconds == [7.0, 14.0, 21.0]
