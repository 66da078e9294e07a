"""Every column of the history of a training, against closed forms for the linear field by Euler steps."""

from __future__ import annotations

import math
import re

import pytest
import torch

from equiflow import (
    EquivariantCNF,
    ForwardKL,
    FreeField,
    FreeScalar,
    Lattice,
    OrbitConvField,
    PathGradient,
    ReverseKL,
    fit,
    fit_by_continuity,
    importance_sample,
)
from equiflow.training.history import History
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


def test_every_step_says_what_its_loss_is(tmp_path):
    options = {"batch_size": 8, "progress": False, "n_fresh": 0}
    one = fit(linear_flow(RATE, STEPS), Gaussian(), steps=2, objective=ReverseKL(), **options)
    assert one.loss_name == ["log q + S"] * 2
    assert list(one.losses()) == [("log q + S", range(2))]
    target = torch.randn(64, *LATTICE.shape, dtype=torch.float64)
    other = fit(linear_flow(RATE, STEPS), Gaussian(), steps=2, objective=ForwardKL(target), **options)
    assert other.loss_name == ["ForwardKL"] * 2


def test_losses_of_several_kinds_stand_in_rows_of_their_own():
    history = History()
    for step, name in enumerate(["first", "second", "second"], 1):
        entry = {"loss": 10.0 / step, "ess": None, "grad_norm": 1.0, "learning_rate": 1.0, "nfe": 4}
        history.append(step=step, loss_name=name, seconds=float(step), **entry)
    assert list(history.losses()) == [("first", range(1)), ("second", range(1, 3))]
    rows = dict(re.split(r"\s{2,}", line) for line in str(history).splitlines())
    assert rows["loss first"] == "10"
    assert rows["loss second"] == "5 at first, 3.33333 at last"
    old = History(**{name: column for name, column in history.to_dict().items() if name != "loss_name"})
    assert list(old.losses()) == [("", range(3))]
    assert "10 at first" in str(old)


def test_a_sweep_that_goes_on_has_the_loss_of_samples_of_its_flow():
    lattice = Lattice((4, 4))
    prior = FreeField(lattice, m2=2.0, learnable=False)
    flow = EquivariantCNF(lattice, vector_field=OrbitConvField(lattice), prior=prior).double()
    action = FreeScalar(lattice, m2=1.0)
    options = {"n_samples": 2048, "n_times": 12, "progress": False}
    first = fit_by_continuity(flow, action, sweeps=1, **options)
    ensemble = importance_sample(flow, action, 4096, generator=torch.Generator().manual_seed(1))
    after = fit_by_continuity(flow, action, sweeps=1, seed=1, **options)
    assert (first.loss_name, after.loss_name) == (["int Var[r] dt"], ["log q + S"])
    expected = -float(ensemble.log_weight.mean())
    assert after.loss[0] == pytest.approx(expected, abs=0.01)
    assert after.loss[0] > -float(action.log_z()) - 1e-3
