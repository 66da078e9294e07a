"""Microcanonical trajectories: constant speed, reversible, and a volume change that their energy counts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from equiflow import OMELYAN, Lattice, Phi4
from equiflow.samplers import LEAPFROG
from equiflow.samplers.microcanonical import Path, turned, unit_speed
from equiflow.testing import dense_jacobian
from tests.support.strategies import configurations, lattices, seeds
from tests.support.updates import generator

INTEGRATORS = pytest.mark.parametrize("integrator", [LEAPFROG, OMELYAN], ids=lambda i: i.name)


def noise(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def in_the_limit(velocity: Tensor, gradient: Tensor, amount: float, n: int = 4000) -> Tensor:
    """Solve `du/dt = -d/(d-1) P(u) g` by the midpoint rule."""
    d = velocity.shape[1]

    def slope(u: Tensor) -> Tensor:
        return -d / (d - 1) * (gradient - u * (u * gradient).sum(1, keepdim=True) / d)

    for _ in range(n):
        middle = velocity + 0.5 * amount / n * slope(velocity)
        velocity = velocity + amount / n * slope(middle)
    return velocity


@pytest.mark.parametrize("d", [2, 3, 10])
def test_a_kick_solves_the_equation_of_motion(d):
    velocity, gradient = unit_speed(noise(5, d)), noise(5, d, 1)
    expected = in_the_limit(velocity, gradient, 0.7)
    torch.testing.assert_close(turned(velocity, gradient, 0.7)[0], expected, atol=1e-6, rtol=0)
    assert float((turned(velocity, gradient, 0.75)[0] - expected).abs().max()) > 1e-2


@pytest.mark.parametrize("amount", [1e-6, 0.3, 200.0])
def test_a_kick_keeps_the_speed_and_a_kick_back_undoes_it(amount):
    velocity, gradient = unit_speed(noise(7, 6)), noise(7, 6, 1)
    there, change = turned(velocity, gradient, amount)
    torch.testing.assert_close(there.square().sum(1), torch.full((7,), 6.0), atol=1e-12, rtol=0)
    if amount < 1:
        back, reverse = turned(-there, gradient, amount)
        torch.testing.assert_close(back, -velocity, atol=1e-12, rtol=0)
        torch.testing.assert_close(reverse, -change, atol=1e-12, rtol=0)


def test_kicks_by_one_force_add_up():
    velocity, gradient = unit_speed(noise(7, 6)), noise(7, 6, 1)
    middle, first = turned(velocity, gradient, 0.2)
    end, second = turned(middle, gradient, 0.5)
    whole, change = turned(velocity, gradient, 0.7)
    torch.testing.assert_close(end, whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(first + second, change, atol=1e-12, rtol=0)


def test_no_force_turns_nothing():
    velocity = unit_speed(noise(3, 4))
    there, change = turned(velocity, torch.zeros(3, 4), 0.5)
    assert torch.equal(there, velocity)
    assert torch.equal(change, torch.zeros(3))


@pytest.mark.parametrize("d", [2, 3, 4])
def test_the_energy_of_a_kick_is_minus_its_log_volume_change(d):
    gradient = noise(4, d, 1)

    def on_the_sphere(direction: Tensor) -> Tensor:
        """Extend the kick to all lengths of u, which it keeps."""
        scale = direction.norm(dim=1, keepdim=True) / math.sqrt(d)
        return scale * turned(direction / scale, gradient, 0.4)[0]

    velocity = unit_speed(noise(4, d))
    log_volume = torch.linalg.slogdet(dense_jacobian(on_the_sphere, velocity)).logabsdet
    change = turned(velocity, gradient, 0.4)[1]
    torch.testing.assert_close(-log_volume, change, atol=1e-8, rtol=0)
    assert float(change.abs().max()) > 0.1


def path_of(integrator, step: float, n: int) -> Path:
    return Path.of(integrator, step, n, None)


@INTEGRATORS
@given(lattices(max_volume=30), seeds)
def test_trajectories_are_reversible_at_constant_speed(integrator, lattice, seed):
    if lattice.volume < 2:
        return
    action, phi = Phi4(lattice, m2=-1.0, lam=0.5), 0.5 * configurations(lattice, seed=seed)
    velocity, path = unit_speed(noise(len(phi), lattice.volume, seed)), path_of(integrator, 0.1, 7)
    end, final, change, _ = path.follow(action, phi, velocity, None)
    torch.testing.assert_close(final.square().sum(1), torch.full((len(phi),), float(lattice.volume)))
    back, reversed_velocity, reverse, _ = path.follow(action, end, -final, None)
    torch.testing.assert_close(back, phi, atol=1e-10, rtol=0)
    torch.testing.assert_close(reversed_velocity, -velocity, atol=1e-10, rtol=0)
    torch.testing.assert_close(reverse, -change, atol=1e-9, rtol=0)


@INTEGRATORS
def test_the_energy_error_of_a_step_falls_with_its_third_power(integrator):
    action = Phi4(Lattice((4, 4)), m2=-1.0, lam=1.0)
    phi = 0.5 * configurations(action.lattice, 64)
    velocity, errors = unit_speed(noise(64, 16)), []
    for n in (8, 16, 32):
        path = Path.of(integrator, 0.4 / n, n, 1e8)  # hardly any noise, but steps end between kicks
        errors.append(float(path.follow(action, phi, velocity, generator())[3].mean()))
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(6, abs=0.3)


@INTEGRATORS
def test_the_energy_error_of_a_trajectory_falls_with_the_square_of_the_step(integrator):
    action = Phi4(Lattice((4, 4)), m2=-1.0, lam=1.0)
    phi = 0.5 * configurations(action.lattice, 64)
    velocity, found = unit_speed(noise(64, 16)), []
    for n in (10, 20, 40):
        end, _, change, _ = path_of(integrator, 1.0 / n, n).follow(action, phi, velocity, None)
        found.append(float((change + action(end) - action(phi)).square().mean().sqrt()))
    assert math.log2(found[0] / found[2]) / 2 == pytest.approx(2, abs=0.15)
    # Without the kinetic energy nothing is conserved.
    assert float((action(end) - action(phi)).abs().mean()) > 100 * found[2]


@pytest.mark.parametrize(("length", "n_refreshments"), [(1.0, 8), (0.04, 96)])
def test_noise_turns_directions_over_the_decoherence_length(length, n_refreshments):
    action = Phi4(Lattice((20, 20)), m2=1.0, lam=0.0)
    phi, velocity = torch.zeros(400, 20, 20), unit_speed(noise(400, 400))
    path = Path.of(LEAPFROG, 0.01, 98, length)
    assert sum(weight > 0 for weight in path.refreshments) == n_refreshments + (length == 0.04)
    free = Path([(0.0, 0.0)] * 99, path.refreshments, path.drifts, 1)
    final = free.follow(action, phi, velocity, generator(4))[1]
    correlation = float((final * velocity).sum(1).mean() / 400)
    steps = {1.0: 96, 0.04: 97}[length]
    assert correlation == pytest.approx(math.exp(-steps * 0.01 / length), abs=0.01)
    torch.testing.assert_close(final.square().sum(1), torch.full((400,), 400.0), atol=1e-9, rtol=0)


def test_a_refreshment_splits_the_joined_kicks_of_two_steps():
    with_noise, without = Path.of(OMELYAN, 0.2, 3, 0.5), Path.of(OMELYAN, 0.2, 3, None)
    assert [sum(pair) for pair in with_noise.kicks] == pytest.approx([sum(pair) for pair in without.kicks])
    assert sum(first + second for first, second in without.kicks) == pytest.approx(0.6)
    assert [weight > 0 for weight in with_noise.refreshments] == [
        False,
        False,
        True,
        False,
        True,
        False,
        False,
    ]
    assert with_noise.drifts == without.drifts
