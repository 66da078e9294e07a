"""Every number of a flow and its certificate, against closed forms for the linear field by Euler steps."""

from __future__ import annotations

import math

import pytest
import torch

from tests.support.linear_flow import LATTICE, Gaussian, V, linear_flow
from tests.support.strategies import configurations

RATE, STEPS, N_SAMPLES = 0.3, 5, 64
#: by how much N and 2N Euler steps stretch
COARSE, FINE = ((1 + RATE / n) ** n for n in (STEPS, 2 * STEPS))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def noise() -> torch.Tensor:
    return torch.randn(N_SAMPLES, *LATTICE.shape, generator=generator(), dtype=torch.float64)


def test_the_density_is_that_of_a_stretched_gaussian():
    phi = configurations(LATTICE)
    z = phi * (1 - RATE / STEPS) ** STEPS  # Euler backwards
    expected = -0.5 * (z.square() + math.log(2 * math.pi)).sum((1, 2)) - RATE * V
    torch.testing.assert_close(linear_flow(RATE, STEPS).log_prob(phi).detach(), expected)


def test_a_certificate_has_the_numbers_of_twice_the_steps():
    found = linear_flow(RATE, STEPS).certificate(N_SAMPLES, action=Gaussian(), generator=generator())
    square = noise().square().sum((1, 2))
    # log w = -S - log q, up to a constant
    log_w = {a: 0.5 * square * (1 - a**2) for a in (COARSE, FINE)}
    shift = float(log_w[FINE].logsumexp(0) - log_w[COARSE].logsumexp(0))
    assert found.log_z_shift == pytest.approx(shift, rel=1e-9)
    assert found.max_log_q_error == pytest.approx(float(0.5 * square.max()) * (FINE**2 - COARSE**2), rel=1e-9)
    there_and_back = ((1 + RATE / STEPS) * (1 - RATE / STEPS)) ** STEPS
    assert found.round_trip_error == pytest.approx(
        float(noise().abs().max()) * (1 - there_and_back), rel=1e-9
    )
    assert (found.nfe, found.n_samples) == (STEPS, N_SAMPLES)
    assert found.error_factor == 2
    constant = V / 2 * math.log(2 * math.pi) + RATE * V
    torch.testing.assert_close(found.samples.log_weight, log_w[COARSE] + constant)
    torch.testing.assert_close(found.samples.refined_log_weight, log_w[FINE] + constant)
    moved = found.shift_of(lambda phi, log_w: (log_w.softmax(0) * phi.square().mean((1, 2))).sum())
    means = [a**2 * float((log_w[a].softmax(0) * square).sum()) / V for a in (COARSE, FINE)]
    assert moved == pytest.approx(means[1] - means[0], rel=1e-9)
    assert found.error_of(lambda phi, log_w: phi.abs().max()) == pytest.approx(
        2 * (FINE - COARSE) * float(noise().abs().max()), rel=1e-9
    )


def test_a_certificate_without_an_action_compares_with_the_finer_inverse():
    found = linear_flow(RATE, STEPS).certificate(N_SAMPLES, generator=generator())
    square = noise().square().sum((1, 2))
    back = (1 - RATE / (2 * STEPS)) ** (2 * STEPS) * COARSE
    change = 0.5 * square * (1 - back**2)  # log of the finer density over the one that was sampled
    assert found.max_log_q_error == pytest.approx(float(change.abs().max()), rel=1e-9)
    shift = math.log(N_SAMPLES) - float(change.logsumexp(0))
    assert found.log_z_shift == pytest.approx(shift, rel=1e-9)


def test_the_kinetic_energy_is_the_integral_of_the_squared_velocity():
    flow = linear_flow(RATE, STEPS)
    path = flow.rsample_path(N_SAMPLES, generator=generator())
    square = noise().square().sum((1, 2))
    steps = sum((1 + RATE / STEPS) ** (2 * n) for n in range(STEPS)) / STEPS
    torch.testing.assert_close(path.kinetic_energy.detach(), RATE**2 * square * steps)
    torch.testing.assert_close(path.score, -noise() * (1 - RATE / STEPS) ** STEPS)
    assert path.nfe == STEPS


@pytest.mark.parametrize("with_action", [True, False])
def test_a_tuned_solver_is_chosen_by_its_true_error(with_action):
    rate = 3.0
    flow, action = linear_flow(rate, STEPS), Gaussian() if with_action else None
    choice = flow.tune_solver(1e-4, action=action, n_samples=N_SAMPLES, generator=generator())
    square = noise().square().sum((1, 2))
    tried = [(solver, error) for solver, _, error in choice.trials if solver.method == "rk5"]
    assert len(tried) >= 3
    for solver, error in tried:
        x = rate / solver.steps  # the formula of Dormand and Prince stretches by this polynomial
        step = 1 + x + x**2 / 2 + x**3 / 6 + x**4 / 24 + x**5 / 120 + x**6 / 600
        stretch = step**solver.steps
        if with_action:
            log_w = 0.5 * square * (1 - stretch**2)
            exact = 0.5 * square * (1 - math.exp(2 * rate))
        else:  # the target is the model without solver error
            log_w, exact = 0.5 * square * (1 - (stretch * math.exp(-rate)) ** 2), torch.zeros(N_SAMPLES)
        shift = abs(float(log_w.logsumexp(0) - exact.logsumexp(0)))
        expected = max(shift, 0.1 * float((log_w - exact).abs().max()))
        assert error == pytest.approx(expected, rel=1e-3, abs=1e-7)
        assert (error <= 1e-4) == (solver == tried[-1][0])
    assert choice.error <= choice.target == 1e-4
