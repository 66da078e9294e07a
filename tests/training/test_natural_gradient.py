"""Tangents of log q, the Fisher matrix they make, and the optimiser that divides by it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from equiflow import EquivariantCNF, Lattice, NaturalGradient, OrbitConvField, Phi4, Solver, fit
from equiflow.flows.tangents import log_q_tangents, trained_parameters
from equiflow.runtime.storage import CheckpointError
from equiflow.testing import randomise
from equiflow.theories.base.prior import Prior
from equiflow.theories.scalar.priors import FreeField
from equiflow.vector_fields import VectorField
from tests.support.strategies import configurations, priors, seeds, small_flow, vector_fields

ACTION = Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0)
NATURAL = {"learning_rate": 1.0, "warmup": 3, "clip_norm": math.inf, "batch_size": 16}


def flow_to_train(shape: tuple[int, ...] = (4, 4)) -> EquivariantCNF:
    lattice = Lattice(shape)
    field = OrbitConvField(lattice, n_frequencies=2, n_time_modes=2, max_frequency=3.0)
    return EquivariantCNF(lattice, vector_field=field, solver=Solver("rk5", steps=4)).double()


def assert_parameter_rates(field: VectorField, seed: int = 0) -> None:
    phi, score = (configurations(field.lattice, seed=seed + i) for i in (0, 1))
    expected = VectorField.parameter_rates(field, phi, 0.3, score)
    torch.testing.assert_close(field.parameter_rates(phi, 0.3, score), expected, rtol=1e-11, atol=1e-11)


@settings(max_examples=30)
@given(vector_fields(), seeds)
def test_parameter_rates_agree_with_automatic_differentiation(field, seed):
    assert_parameter_rates(field, seed)


@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 4), (2, 2, 3)])
@pytest.mark.parametrize("convolution", ["dense", "fourier"])
def test_parameter_rates_of_spanning_kernels_count_each_momentum(shape, convolution):
    options = {"n_frequencies": 2, "n_time_modes": 2, "max_frequency": 3.0, "convolution": convolution}
    field = OrbitConvField(Lattice(shape), **options).double()
    randomise(field)
    assert_parameter_rates(field)


@given(priors(), seeds)
def test_the_parameter_score_of_a_prior_agrees_with_automatic_differentiation(prior, seed):
    z = configurations(prior.lattice, seed=seed)
    expected = Prior.parameter_score(prior, z)
    torch.testing.assert_close(prior.parameter_score(z), expected, rtol=1e-11, atol=1e-11)


def test_a_fixed_spectrum_has_no_parameter_score():
    prior = FreeField(Lattice((4, 4)), learnable=False).double()
    assert prior.parameter_score(prior.rsample(3)).shape == (3, 0)


def gradients_of_log_prob(flow: EquivariantCNF, phi: Tensor) -> Tensor:
    rows = []
    for one in phi.split(1):
        gradients = torch.autograd.grad(flow.log_prob(one).sum(), trained_parameters(flow))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def tangent_error(flow: EquivariantCNF, **options: int) -> float:
    tangents = log_q_tangents(flow, 4, generator=torch.Generator().manual_seed(0), **options)
    flow.solver = Solver("dopri8", rtol=1e-11, atol=1e-11)
    phi = flow.sample(4, generator=torch.Generator().manual_seed(0))
    return float((tangents - gradients_of_log_prob(flow, phi)).abs().max())


@pytest.mark.parametrize("options", [{}, {"kernel_size": 3}])
def test_tangents_are_the_gradients_of_log_prob(options):
    flow = small_flow((3, 4), **options)
    randomise(flow.prior, scale=0.2)
    errors = [tangent_error(flow, intervals=n) for n in (4, 12)]
    assert errors[1] < 1e-5
    assert errors[1] < 0.1 * errors[0]


def test_tangents_miss_nothing_of_the_divergence(monkeypatch):
    flow = small_flow((3, 4))
    rates = OrbitConvField.parameter_rates
    monkeypatch.setattr(
        OrbitConvField,
        "parameter_rates",
        lambda self, phi, t, score: rates(self, phi, t, score) - rates(self, phi, t, 0 * score),
    )
    assert tangent_error(flow, intervals=12) > 1e-2


def test_tangents_average_to_zero():
    flow = small_flow((3, 3))
    tangents = log_q_tangents(flow, 4000, generator=torch.Generator().manual_seed(0))
    deviation = tangents.mean(0) / (tangents.std(0) / math.sqrt(len(tangents)) + 1e-12)
    assert deviation.abs().max() < 5


def gradient_and_step(radius: float = 1e9) -> tuple[NaturalGradient, Tensor, Tensor]:
    flow = flow_to_train((3, 3))
    randomise(flow, scale=0.1)
    trained = trained_parameters(flow)
    optimiser = NaturalGradient(flow, trained, lr=1.0, momentum=0.0, radius=radius, window=1, rows=40)
    for i, parameter in enumerate(trained):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        parameter.grad = 1e-3 * noise
    gradient = torch.cat([p.grad.flatten() for p in trained])
    before = torch.cat([p.detach().flatten() for p in trained])
    optimiser.step()
    return optimiser, gradient, before - torch.cat([p.detach().flatten() for p in trained])


def test_a_step_solves_with_the_damped_fisher_matrix():
    optimiser, gradient, step = gradient_and_step()
    optimiser.relative = 1.0
    factors = optimiser.batches[0]
    scale = (factors.square().sum(0) + optimiser._floor(factors) + 1e-2).sqrt()
    scaled = factors / scale
    fisher = scaled.T @ scaled
    shift = optimiser.damping * torch.linalg.matrix_norm(fisher, 2)
    dense = torch.linalg.solve(fisher + shift * torch.eye(len(fisher)).double(), gradient / scale) / scale
    torch.testing.assert_close(step, dense, rtol=1e-8, atol=1e-12)
    assert torch.cosine_similarity(step, gradient, dim=0) < 0.99


def test_a_long_step_is_cut_to_the_radius_and_raises_the_damping():
    optimiser, gradient, step = gradient_and_step(radius=1e-9)
    longer, _, full = gradient_and_step()
    share = float(step @ gradient) / float(full @ gradient)
    assert 0.5 * share**2 * float(full @ gradient) == pytest.approx(1e-9)
    assert longer.relative == 0.8
    assert optimiser.relative == 1.0


def test_it_trains_in_a_few_steps():
    esses = {}
    for name in ("natural", "adam"):
        flow = flow_to_train().float()
        options = (
            dict(NATURAL, batch_size=64, optimiser=NaturalGradient.of(flow)) if name == "natural" else {}
        )
        history = fit(flow, ACTION, steps=15, **{"batch_size": 64, **options})
        esses[name] = sum(history.ess[-3:]) / 3
    assert esses["natural"] > 0.9
    assert esses["natural"] > 1.2 * esses["adam"]


def test_a_run_goes_on_bitwise(tmp_path):
    def train(steps_each: list[int], path=None) -> EquivariantCNF:
        flow = flow_to_train()
        for until in steps_each:
            stopping = Stopping(until)
            try:
                fit(
                    flow,
                    ACTION,
                    steps=6,
                    optimiser=NaturalGradient.of(flow, rows=8),
                    checkpoint=path,
                    checkpoint_every=1,
                    objective=stopping,
                    **NATURAL,
                )
            except KeyboardInterrupt:
                flow = flow_to_train()
        return flow

    whole, pieces = train([99]), train([3, 99], tmp_path / "run.pt")
    for a, b in zip(whole.parameters(), pieces.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(CheckpointError, match="optimiser was NaturalGradient"):
        fit(whole, ACTION, steps=6, checkpoint=tmp_path / "run.pt", objective=Stopping(99), **NATURAL)


class Stopping:
    """The default objective, until it is interrupted after some calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, *arguments: object):
        from equiflow import PathGradient

        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return PathGradient(solver=Solver("rk5", steps=2))(*arguments)

    def __repr__(self) -> str:
        return "Stopping"


def test_wrong_options_are_refused():
    flow, other = flow_to_train(), flow_to_train()
    with pytest.raises(ValueError, match="all trained parameters of one flow"):
        NaturalGradient(flow, list(other.parameters()))
    with pytest.raises(ValueError, match="Expected counts >= 1"):
        NaturalGradient(flow, list(flow.parameters()), rows=0)
    with pytest.raises(TypeError, match="flow must be of type EquivariantCNF"):
        NaturalGradient(flow.vector_field, list(flow.parameters()))
    with pytest.raises(ValueError, match="n_samples must be an integer >= 1"):
        log_q_tangents(flow, 0)
