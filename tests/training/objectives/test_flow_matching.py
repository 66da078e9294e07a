"""Flow matching: its pairs, and the minimum of its regression."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from equiflow import (
    HMC,
    EquivariantCNF,
    Flow,
    FlowMatching,
    FreeField,
    FreeScalar,
    Lattice,
    Phi4,
    Solver,
    VectorField,
    fit,
    importance_sample,
)
from equiflow.training.objectives.flow_matching import matched
from tests.support.objectives import ACTION, PHI, RECTANGLE, build, generator, gradient
from tests.support.oracles import free_samples
from tests.support.strategies import configurations


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pairing": "optimal"}, ValueError, "minibatch, independent"),
        ({"sigma": -0.1}, ValueError, "sigma"),
        ({"sigma": math.inf}, ValueError, "sigma"),
        ({"n_times": 0}, ValueError, "n_times"),
        ({"fit_prior": 1}, TypeError, "fit_prior"),
    ],
)
def test_bad_options_of_flow_matching_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        FlowMatching(PHI, **options)


def squared_distance(start: Tensor, end: Tensor) -> float:
    return float((start - end).square().sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_minibatch_pairing_is_the_optimal_assignment(seed):
    start, end = (configurations(RECTANGLE, n=4, seed=10 * seed + i) for i in (0, 1))
    best = matched(start, end)
    costs = [squared_distance(start, end[list(order)]) for order in itertools.permutations(range(4))]
    assert squared_distance(start, best) == pytest.approx(min(costs), rel=1e-12)
    assert sorted(map(tuple, best.flatten(1).tolist())) == sorted(map(tuple, end.flatten(1).tolist()))
    # Other pairings are seen: the same in reverse, the order as drawn, the longest instead of the shortest.
    for wrong in (best.flip(0), end.roll(1, 0), matched(-start, end)):
        assert squared_distance(start, wrong) > min(costs) + 1e-6


def test_the_pairing_is_what_the_option_says():
    losses = {}
    for pairing in ("minibatch", "independent"):
        flow = build()
        nn.init.zeros_(flow.vector_field.kernel.weight)  # v = 0: the loss is the pairs' squared distance
        value = FlowMatching(PHI, pairing=pairing)(flow, ACTION, 16, generator())
        losses[pairing] = float(value.loss)
    index = torch.randint(20, (16,), generator=(stream := generator()))
    start = build().prior.rsample(16, stream).detach()
    assert losses["independent"] == pytest.approx(squared_distance(start, PHI[index]) / 16, rel=1e-12)
    pairs = matched(start, PHI[index])
    assert losses["minibatch"] == pytest.approx(squared_distance(start, pairs) / 16, rel=1e-12)
    assert losses["minibatch"] < 0.9 * losses["independent"]


class GaussianVelocity(VectorField):
    """`E[phi_1 - phi_0 | phi_t]` of two free fields, off by a factor `1 + error_k(t)` of each mode.

    With variances `a_k` and `b_k`, independent: `v_k = (t b - (1-t) a) / ((1-t)^2 a + t^2 b + sigma^2)`
    times `phi_k`.
    """

    def __init__(self, prior: FreeField, target: FreeScalar, *, sigma: float = 0.0, power: int = 2) -> None:
        super().__init__(prior.group)
        self.a, self.b = prior.mode_variance().detach(), self.lattice.half(target.mode_variance())
        self.noise, self.power = sigma**2, power
        self.constant = nn.Parameter(torch.zeros(self.lattice.half_shape))
        self.linear = nn.Parameter(torch.zeros(self.lattice.half_shape))

    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        variance = (1 - t) ** self.power * self.a + t**self.power * self.b + self.noise
        rate = (t * self.b - (1 - t) * self.a) / variance + self.constant + self.linear * t
        return self.lattice.ifft(rate * self.lattice.fft(phi)), phi.new_zeros(len(phi))


def deviations(field: GaussianVelocity, prior: FreeField, target: FreeScalar, sigma: float) -> Tensor:
    """Mean gradients of the regression over their errors: of order 1 at its minimum."""
    objective = FlowMatching(
        free_samples(target, 40_000), pairing="independent", sigma=sigma, fit_prior=False, n_times=8
    )
    flow, stream = EquivariantCNF(prior.lattice, vector_field=field, prior=prior), generator(1)
    rows = torch.stack([gradient(objective(flow, target, 512, stream), flow) for _ in range(60)])
    rows = rows[:, rows.std(0) > 0]
    return rows.mean(0) / (rows.std(0) / math.sqrt(len(rows)))


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_the_regression_of_free_fields_has_its_minimum_at_the_exact_velocity(sigma):
    target, prior = FreeScalar(RECTANGLE, m2=0.3), FreeField(RECTANGLE, m2=2.0).double()
    exact = deviations(GaussianVelocity(prior, target, sigma=sigma), prior, target, sigma)
    assert len(exact) >= 8
    assert float(exact.abs().max()) < 4.5
    planted = {
        "linear variance": GaussianVelocity(prior, target, sigma=sigma, power=1),
        "no or other noise": GaussianVelocity(prior, target, sigma=0.4 - sigma),
        "other target": GaussianVelocity(prior, FreeScalar(RECTANGLE, m2=0.5), sigma=sigma),
        "other prior": GaussianVelocity(FreeField(RECTANGLE, m2=1.0).double(), target, sigma=sigma),
    }
    for name, wrong in planted.items():
        assert float(deviations(wrong, prior, target, sigma).abs().max()) > 8, name


def test_the_regression_gives_the_prior_no_gradient_and_the_likelihood_does():
    flow = build()
    value = FlowMatching(PHI, fit_prior=False)(flow, ACTION, 8, generator())
    value.surrogate.backward()
    assert flow.prior.log_sigma.grad is None
    assert float(flow.vector_field.kernel.weight.grad.abs().max()) > 1e-3
    other = build()
    FlowMatching(PHI)(other, ACTION, 8, generator()).surrogate.backward()
    index = torch.randint(20, (8,), generator=generator())
    expected = torch.autograd.grad(-build_prior(other).log_prob(PHI[index]).mean(), other.prior.log_sigma)[0]
    torch.testing.assert_close(other.prior.log_sigma.grad, expected)
    torch.testing.assert_close(flow.vector_field.kernel.weight.grad, other.vector_field.kernel.weight.grad)


def build_prior(flow: Flow) -> FreeField:
    assert isinstance(flow.prior, FreeField)
    return flow.prior


def test_flow_matching_trains_a_flow():
    lattice = Lattice((4,))
    action = Phi4(lattice, m2=-2.0, lam=3.0)
    chain = HMC(action).sample(32, n_chains=64, n_thermalisation=100, generator=generator())
    flow = EquivariantCNF(lattice, solver=Solver("rk5", steps=6))
    before = importance_sample(flow, action, 2048, certify=0, generator=generator()).effective_sample_size()
    history = fit(
        flow, action, steps=200, objective=FlowMatching(chain.configurations), warmup=10, progress=False
    )
    after = importance_sample(flow, action, 2048, certify=0, generator=generator()).effective_sample_size()
    assert before.mean < 0.7
    assert after.mean > 0.93
    assert sum(history.loss[-20:]) < 0.97 * sum(history.loss[:20])
