"""Couplings are drawn where log w varies, and checks of the solver look at all couplings."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import (
    ActionFamily,
    ConditionalFlow,
    EquivariantCNF,
    Lattice,
    OverCouplings,
    PathGradient,
    Phi4,
    Solver,
    fit,
)
from equiflow.testing import randomise
from equiflow.training import AdaptivePathGradient
from equiflow.training.objectives import conditional as module
from equiflow.training.objectives.focus import MEMORY, Focus
from tests.support.training import columns, same, weights

LATTICE = Lattice((3, 3))
FAMILY = ActionFamily(Phi4, LATTICE, m2=-4.0, lam=(5.0, 9.0))
BOX = ActionFamily(Phi4, LATTICE, m2=(-4.0, -2.0), lam=(5.0, 9.0))


def points(*values: float) -> list[dict[str, float]]:
    return [{"lam": 7.0 + 2.0 * x} for x in values]


def taught(power: float) -> Focus:
    """Return a focus that has seen a variance of exp(2 x) often."""
    focus, x = Focus(power), torch.linspace(-1, 1, 9, dtype=torch.float64)
    for _ in range(30):
        focus.learn(FAMILY, points(*x.tolist()), (2 * x).exp())
    return focus


def drawn(focus: Focus, n: int = 800) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    found = [focus.draw(FAMILY, 4, generator) for _ in range(n // 4)]
    return torch.tensor([point["lam"] for four in found for point in four]).sub(7.0).div(2.0)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_couplings_have_the_density_of_the_variance_to_a_power(power):
    # p(x) ~ exp(a x) on [-1, 1] has the mean coth a - 1 / a.
    a = 2 * power
    assert float(drawn(taught(power)).mean()) == pytest.approx(1 / math.tanh(a) - 1 / a, abs=0.03)


def test_without_a_focus_couplings_are_those_of_the_family():
    for focus in (taught(0.0), Focus(0.0)):
        one, other = (torch.Generator().manual_seed(3) for _ in range(2))
        assert focus.draw(FAMILY, 5, one) == FAMILY.draw(5, other)
    assert abs(float(drawn(taught(0.0)).mean())) < 0.03
    assert abs(float(drawn(Focus(1.0)).mean())) < 0.03  # nothing was measured yet


def test_a_polynomial_of_two_couplings_is_fitted_exactly():
    focus, generator = Focus(1.0), torch.Generator().manual_seed(0)

    def law(point: dict[str, float]) -> float:
        x, y = point["m2"] + 3.0, (point["lam"] - 7.0) / 2.0
        return 0.3 - x + 0.5 * y * y + 0.7 * x * y

    for _ in range(40):
        some = BOX.draw(8, generator)
        focus.learn(BOX, some, torch.tensor([law(point) for point in some], dtype=torch.float64).exp())
    new = BOX.draw(16, generator)
    expected = torch.tensor([law(point) for point in new], dtype=torch.float64)
    torch.testing.assert_close(focus.log_variance(BOX, new), expected, rtol=0, atol=5e-3)


def test_what_was_measured_long_ago_is_forgotten():
    focus, x = taught(1.0), torch.linspace(-1, 1, 9, dtype=torch.float64)
    n = math.ceil(math.log(1e-3) / math.log(MEMORY))
    for _ in range(n):
        focus.learn(FAMILY, points(*x.tolist()), (-2 * x).exp())
    assert float(focus.log_variance(FAMILY, points(1.0))) == pytest.approx(-2.0, abs=0.05)


def test_a_variance_that_is_not_finite_is_left_out():
    focus, other = taught(1.0), taught(1.0)
    focus.learn(FAMILY, points(-0.5, 0.0, 0.5), torch.tensor([math.inf, 1.0, math.nan]))
    other.learn(FAMILY, points(0.0), torch.tensor([1.0]))
    assert torch.equal(focus.log_variance(FAMILY, points(0.3)), other.log_variance(FAMILY, points(0.3)))


def conditional() -> ConditionalFlow:
    flow = ConditionalFlow(EquivariantCNF(LATTICE, solver=Solver("rk4", steps=4)), {"lam": (5.0, 9.0)})
    randomise(flow, scale=0.05, seed=1)
    return flow


@pytest.mark.parametrize("lam", [5.0, 8.0])
def test_the_variance_that_checks_find_is_that_of_log_w(lam, monkeypatch):
    flow, action = conditional().at(lam=lam), FAMILY.at(lam=lam)
    monkeypatch.setattr("equiflow.training.objectives.adaptive.CHECKED_SAMPLES", 2048)
    _, found = AdaptivePathGradient().adaptation().error_and_variance(flow, action, seed=1)
    phi, log_q = flow.sample_and_log_prob(2048, generator=torch.Generator().manual_seed(1))
    log_w = (-action(phi) - log_q).detach()  # of the same noise, by another solver
    assert found == pytest.approx(float(log_w.var()), rel=0.02)
    assert found != pytest.approx(float((log_w + flow.prior.log_prob(phi).detach()).var()), rel=0.02)


def test_the_error_is_that_of_the_worst_coupling():
    flow = conditional()
    adaptation = OverCouplings(AdaptivePathGradient()).adaptation()
    found, each = adaptation.error(flow, FAMILY, seed=5), []
    for index, point in enumerate(FAMILY.draw(module.CHECKED_COUPLINGS, torch.Generator().manual_seed(5))):
        alone = AdaptivePathGradient().adaptation()
        each.append(alone.error(flow.at(**point), FAMILY.at(**point), seed=6 + index))
    assert found == pytest.approx(max(each), rel=1e-9)
    assert min(each) < 0.9 * max(each)


def train(flow: ConditionalFlow, **options):
    objective = OverCouplings(AdaptivePathGradient(), n_couplings=2, focus=1.0)
    return fit(
        flow, FAMILY, **{"steps": 14, "batch_size": 4, "objective": objective, "progress": False} | options
    )


def test_training_with_a_focus_resumes_to_the_bit(tmp_path):
    class StopError(Exception):
        pass

    def stop(history):
        if len(history) == 10:
            raise StopError

    whole, part, again = conditional(), conditional(), conditional()
    expected = train(whole)
    options = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 8}
    with pytest.raises(StopError):
        train(part, callback=stop, **options)
    state = torch.load(tmp_path / "run.pt", weights_only=True)["adaptation"]["objective"]["focus"]
    assert state["products"] is not None
    found = train(again, **options)
    assert columns(found) == columns(expected)
    assert same(weights(again), weights(whole))


def test_a_focus_is_not_forgotten_by_checkpoints_of_old():
    assert "focus" not in repr(OverCouplings(PathGradient()))
    assert repr(OverCouplings(AdaptivePathGradient(), focus=0.5)).endswith("n_couplings=4, focus=0.5)")
    assert OverCouplings(PathGradient()).adaptation() is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="focus must be >= 0"):
        OverCouplings(AdaptivePathGradient(), focus=-1.0)
    with pytest.raises(ValueError, match=r"Write OverCouplings\(AdaptivePathGradient\(\), focus=1.0\)"):
        OverCouplings(PathGradient(), focus=1.0)
    with pytest.raises(TypeError, match="focus"):
        OverCouplings(AdaptivePathGradient(), focus="much")
