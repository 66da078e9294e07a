"""The forward divergence: its gradient, its solver, and what it finds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from equiflow import (
    AugmentedFlow,
    EquivariantCNF,
    ExtendedAction,
    Flow,
    ForwardKL,
    FreeScalar,
    Lattice,
    Solver,
    fit,
    importance_sample,
)
from tests.support.objectives import (
    ACTION,
    FAST,
    PHI,
    RECTANGLE,
    build,
    exact_map,
    generator,
    gradient,
    weights,
)
from tests.support.oracles import free_samples
from tests.support.strategies import small_flow


def likelihood_slope(
    flow: Flow, phi: Tensor, log_q: Callable[[Flow, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Central differences of `-mean log q` along random directions, and the directions."""
    start = weights(flow)
    directions = torch.randn((4, len(start)), generator=generator(8))
    slopes, step = [], 1e-5
    for direction in directions:
        ends = []
        for sign in (1, -1):
            nn.utils.vector_to_parameters(start + sign * step * direction, flow.parameters())
            ends.append(-float(log_q(flow, phi).detach().mean()))
        slopes.append((ends[0] - ends[1]) / (2 * step))
    nn.utils.vector_to_parameters(start, flow.parameters())
    return torch.tensor(slopes), directions


def without_prior(flow: Flow, phi: Tensor) -> Tensor:
    return flow.inverse_and_log_det(phi)[1]


def wrong_sign(flow: Flow, phi: Tensor) -> Tensor:
    z, log_det = flow.inverse_and_log_det(phi)
    return flow.prior.log_prob(z) - log_det


@pytest.mark.parametrize("new", [build, exact_map], ids=["continuous", "exact map"])
def test_the_forward_gradient_is_that_of_the_likelihood(new):
    flow, action = new(), ACTION
    if isinstance(flow, AugmentedFlow):
        action = ExtendedAction(ACTION)
    phi = torch.randn((1, *flow.prior.event_shape), generator=generator(2))
    objective = ForwardKL(phi, solver=FAST if isinstance(flow, EquivariantCNF) else None)
    found = gradient(objective(flow, action, 3, generator()), flow)  # one sample, whatever is drawn
    expected, directions = likelihood_slope(flow, phi, lambda f, x: f.log_prob(x))
    torch.testing.assert_close(directions @ found, expected, rtol=1e-6, atol=1e-7)
    for wrong in (without_prior, wrong_sign):
        planted, _ = likelihood_slope(flow, phi, wrong)
        assert float((directions @ found - planted).abs().max()) > 1e-2


def test_the_solver_of_the_objective_is_the_one_that_is_used():
    flow = build()
    flow.solver = Solver("euler", steps=1)
    value = ForwardKL(PHI[:1], solver=FAST)(flow, ACTION, 2, generator())
    assert value.nfe == 12
    expected = -float(build().log_prob(PHI[:1]).detach().mean())
    assert float(value.loss) == pytest.approx(expected, rel=1e-12)
    assert abs(float(ForwardKL(PHI[:1])(flow, ACTION, 2, generator()).loss) - expected) > 1e-4


def spectrum(phi: Tensor, lattice: Lattice) -> Tensor:
    return torch.fft.fftn(phi, dim=lattice.axes).abs().square().mean(0) / lattice.volume


def test_the_forward_divergence_finds_the_spectrum_of_a_free_field():
    action = FreeScalar(RECTANGLE, m2=0.4)
    n_samples = 8192
    flow = small_flow(RECTANGLE.shape, solver=FAST)
    before = importance_sample(flow, action, 1024, certify=0, generator=generator()).effective_sample_size()
    objective = ForwardKL(free_samples(action, n_samples), solver=FAST)
    options = {"steps": 150, "batch_size": 128, "warmup": 10, "learning_rate": 0.03, "progress": False}
    fit(flow, action, objective=objective, **options)
    ensemble = importance_sample(flow, action, n_samples, certify=0, generator=generator(4))
    assert before.mean < 0.9
    assert ensemble.effective_sample_size().mean > 0.99
    assert abs(ensemble.log_z().mean - action.log_z()) < 5e-3
    # Data and fresh samples each carry sqrt(2 / n), or less where modes are tied.
    ratio = spectrum(ensemble.phi, RECTANGLE) / action.mode_variance()
    error = 2 * math.sqrt(2 / n_samples)
    assert float((ratio - 1).abs().max()) < 4 * error
    wrong = spectrum(ensemble.phi, RECTANGLE) / FreeScalar(RECTANGLE, m2=0.6).mode_variance()
    assert float((wrong - 1).abs().max()) > 4 * error
