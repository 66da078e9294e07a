"""HMC: laws of the trajectories, exact moments, tuning, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from equiflow import HMC, Action, Chain, FreeScalar, Lattice, Phi4, fused
from equiflow.samplers import LEAPFROG
from equiflow.statistics import mean_of_series
from equiflow.testing import dense_jacobian
from equiflow.theories.scalar.observables import phi_squared
from tests.support.oracles import free_samples, one_site_moment
from tests.support.strategies import configurations, lattices, seeds


class WrongForce(Phi4):
    """An action whose gradient is 30 % too large."""

    def grad(self, phi: Tensor) -> Tensor:
        return 1.3 * super().grad(phi)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def euler(action: Action, phi: Tensor, momentum: Tensor, step: float, n: int) -> tuple[Tensor, Tensor]:
    """Integrate by Euler's method, which is neither reversible nor volume preserving."""
    for _ in range(n):
        phi, momentum = phi + step * momentum, momentum - step * action.grad(phi)
    return phi, momentum


def round_trip(integrator: Callable, action: Action, phi: Tensor, step: float, n: int) -> float:
    momentum = configurations(action.lattice, len(phi), seed=7)
    there, p = integrator(action, phi, momentum, step, n)
    back, q = integrator(action, there, -p, step, n)
    return max(float((back - phi).abs().max()), float((q + momentum).abs().max()))


def volume_change(integrator: Callable, action: Action) -> float:
    """Return `max |log |det d(phi', p') / d(phi, p)||` of a trajectory."""
    state = configurations(Lattice((2, *action.lattice.shape)), 2)

    def move(x: Tensor) -> Tensor:
        return torch.stack(integrator(action, x[:, 0], x[:, 1], 0.1, 7), 1)

    return float(torch.linalg.slogdet(dense_jacobian(move, state)).logabsdet.abs().max())


@given(lattices(max_volume=30), seeds, st.integers(1, 30), st.floats(0.01, 0.15))
def test_leapfrog_is_reversible(lattice, seed, n_steps, step_size):
    action, phi = Phi4(lattice, m2=-1.0, lam=0.5), 0.5 * configurations(lattice, seed=seed)
    assert round_trip(LEAPFROG, action, phi, step_size, n_steps) < 1e-12


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3)])
def test_leapfrog_preserves_volume(shape):
    action = Phi4(Lattice(shape), m2=-1.0, lam=0.7)
    assert volume_change(LEAPFROG, action) < 1e-10


def test_the_euler_method_is_caught_by_both_laws():
    action = Phi4(Lattice((2, 3)), m2=-1.0, lam=0.7)
    assert volume_change(euler, action) > 1e-3
    assert round_trip(euler, action, configurations(action.lattice), 0.05, 10) > 1e-3


def energy_slope(action: Action) -> float:
    """Return the exponent of the energy error in the step size, from step halving at fixed time."""
    hmc, phi = HMC(action), 0.5 * configurations(action.lattice, 64)
    momentum = configurations(action.lattice, 64, seed=1)
    errors = []
    for n in (40, 80, 160):
        moved = LEAPFROG(action, phi, momentum, 1.0 / n, n)
        change = hmc.energy(*moved) - hmc.energy(phi, momentum)
        errors.append(float(change.square().mean().sqrt()))
    return math.log2(errors[0] / errors[2]) / 2


@pytest.mark.parametrize("shape", [(5,), (4, 4), (2, 3, 2)])
def test_energy_error_falls_with_the_square_of_the_step(shape):
    lattice = Lattice(shape)
    assert energy_slope(Phi4(lattice, m2=-1.0, lam=1.0)) == pytest.approx(2, abs=0.1)
    assert energy_slope(WrongForce(lattice, m2=-1.0, lam=1.0)) < 0.5


def mean_exp_minus_change(integrator: Callable, scale: float = 1.0) -> tuple[float, float]:
    """Return the deviation of `<exp(-dH)>` from 1 on equilibrium fields in standard errors, and the error."""
    action = FreeScalar(Lattice((3, 4)), m2=0.5)
    phi = scale * free_samples(action, 20_000)
    momentum = configurations(action.lattice, len(phi), seed=3)
    hmc = HMC(action)
    change = hmc.energy(*integrator(action, phi, momentum, 0.25, 4)) - hmc.energy(phi, momentum)
    weight = (-change).exp()
    error = float(weight.std()) / math.sqrt(len(weight))
    return float(weight.mean() - 1) / error, error


def test_mean_of_exp_minus_energy_change_is_one_in_equilibrium():
    sigmas, error = mean_exp_minus_change(LEAPFROG)
    assert abs(sigmas) < 4
    assert error < 0.01


@pytest.mark.parametrize(
    ("integrator", "scale"), [(euler, 1.0), (LEAPFROG, 0.9)], ids=["not symplectic", "not in equilibrium"]
)
def test_mean_of_exp_minus_energy_change_sees_mistakes(integrator, scale):
    assert abs(mean_exp_minus_change(integrator, scale)[0]) > 6


def mode_deviations(chain: Chain, action: FreeScalar) -> Tensor:
    """Return the deviation of the power of each mode from the closed form, in standard errors."""
    exact, lattice = action.mode_variance().flatten(), action.lattice
    power = torch.fft.fftn(chain.samples, dim=lattice.axes).abs().square() / lattice.volume
    series = power.flatten(2).unbind(-1)
    estimates = [mean_of_series(values) for values in series]
    return torch.tensor([e.sigmas_from(float(v)) for e, v in zip(estimates, exact, strict=True)])


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 2, 3)])
def test_every_mode_of_the_free_field_has_its_variance(shape):
    action = FreeScalar(Lattice(shape), m2=0.5)
    chain = HMC(action).sample(300, n_chains=64, generator=generator())
    assert float(mode_deviations(chain, action).abs().max()) < 4
    assert float(mode_deviations(chain, FreeScalar(action.lattice, m2=0.6)).abs().max()) > 6


@pytest.mark.parametrize("n", [1, 2, 3])
def test_trajectories_of_a_mode_s_half_period_do_not_trap_it(n):
    # The mean length 2 is n half periods of the zero mode. A fixed length would map phi to -phi or phi.
    action = FreeScalar(Lattice((1,)), m2=0.5 * (n * math.pi / 2) ** 2)
    chain = HMC(action, step_size=0.05).sample(200, n_chains=128, generator=generator())
    truth = float(action.mode_variance())
    assert float(phi_squared(chain.configurations).mean()) == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize(("m2", "lam"), [(1.0, 0.5), (-1.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "eager"])
def test_one_site_phi4_has_the_moments_of_quadrature(m2, lam, dtype, is_fused):
    action = Phi4(Lattice((1,)), m2=m2, lam=lam)
    with fused.switched(is_fused):
        chain = HMC(action, step_size=0.3).sample(400, n_chains=128, generator=generator(), dtype=dtype)
    assert chain.samples.dtype == dtype
    other = Phi4(action.lattice, m2=m2, lam=1.3 * lam)
    for power in (1, 2, 4):
        estimate = chain.mean(lambda phi, power=power: phi.abs().pow(power).flatten(1).sum(1))
        assert abs(estimate.sigmas_from(one_site_moment(action, power))) < 4
        assert abs(estimate.sigmas_from(one_site_moment(other, power))) > 4


def test_independent_chains_follow_the_one_site_density():
    action = Phi4(Lattice((1,)), m2=-1.0, lam=1.0)
    final = HMC(action).sample(1, n_chains=4000, thin=5, generator=generator()).samples.flatten()
    line = torch.linspace(-4, 4, 4001)
    density = (-action(line[:, None])).exp()
    cumulative = density.cumsum(0) / density.sum()

    def cdf(x: object) -> Tensor:
        return cumulative[torch.searchsorted(line, torch.as_tensor(x)).clamp(max=4000)]

    assert kstest(final.numpy(), lambda x: cdf(x).numpy()).pvalue > 1e-3
    assert kstest(1.1 * final.numpy(), lambda x: cdf(x).numpy()).pvalue < 1e-3


def test_a_wrong_force_costs_acceptance_but_not_exactness():
    right, wrong = (kind(Lattice((1,)), m2=-1.0, lam=1.0) for kind in (Phi4, WrongForce))
    chains = [HMC(a, step_size=0.2).sample(200, n_chains=128, generator=generator()) for a in (right, wrong)]
    assert chains[1].acceptance_rate.mean < chains[0].acceptance_rate.mean - 0.005
    for chain in chains:
        assert abs(chain.mean(phi_squared).sigmas_from(one_site_moment(right, 2))) < 4


@pytest.mark.parametrize(("shape", "target"), [((4, 4), 0.6), ((4, 4), 0.9), ((3, 3, 3), 0.8)])
def test_tuning_reaches_the_target_acceptance(shape, target):
    action = Phi4(Lattice(shape), m2=-1.0, lam=2.0)
    chain = HMC(action, target_acceptance=target).sample(100, n_chains=64, generator=generator())
    assert chain.acceptance_rate.mean == pytest.approx(target, abs=0.1)


def test_a_given_step_is_kept():
    action = Phi4(Lattice((4, 4)), m2=-1.0, lam=2.0)
    untuned = HMC(action, step_size=0.02).sample(20, n_chains=64, generator=generator())
    assert untuned.step_size == pytest.approx(0.02)
    assert untuned.acceptance_rate.mean > 0.97


def test_stuck_chains_are_reported():
    action = Phi4(Lattice((4, 4)), m2=-1.0, lam=2.0)
    with pytest.raises(RuntimeError, match=r"accepted no trajectory.*smaller step_size"):
        HMC(action, step_size=1.5).sample(10, n_chains=8, generator=generator())


@pytest.mark.parametrize("options", [{}, {"thin": 3}, {"n_thermalisation": 0}, {"dtype": torch.float32}])
def test_chains_are_reproducible_and_seeds_matter(options):
    hmc = HMC(Phi4(Lattice((3, 4)), m2=-1.0, lam=1.0))
    one, same, other = (hmc.sample(5, n_chains=4, generator=generator(s), **options) for s in (0, 0, 1))
    assert one.samples.shape == (5, 4, 3, 4)
    assert one.acceptance.shape == (5, 4)
    assert torch.equal(one.samples, same.samples)
    assert not torch.equal(one.samples, other.samples)


def test_chains_start_where_they_are_told_and_leave_the_start_alone():
    action, start = Phi4(Lattice((4,)), m2=1.0, lam=1.0), configurations(Lattice((4,)), 6)
    before = start.clone()
    chain = HMC(action, step_size=1e-6, trajectory_length=1e-6).sample(
        1, n_chains=6, n_thermalisation=0, initial=start, generator=generator()
    )
    torch.testing.assert_close(chain.samples[0], start, rtol=0, atol=1e-4)
    assert torch.equal(start, before)


def test_configurations_keep_each_chain_together():
    samples = torch.arange(6.0).reshape(3, 2, 1)
    chain = Chain(samples, torch.ones(3, 2))
    assert chain.configurations.flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert chain.series(lambda phi: phi.sum(1)).tolist() == samples[..., 0].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"step_size": 0.0},
        {"step_size": -0.1},
        {"step_size": math.nan},
        {"trajectory_length": 0.0},
        {"trajectory_length": math.nan},
        {"target_acceptance": 1.0},
        {"target_acceptance": math.nan},
    ],
)
def test_bad_parameters_are_refused(options):
    with pytest.raises(ValueError, match=r"Expected positive|target_acceptance"):
        HMC(Phi4(Lattice((4,)), m2=1.0, lam=1.0), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"n_samples": 0},
        {"n_chains": 0},
        {"thin": 0},
        {"n_thermalisation": -1},
        {"initial": torch.full((2, 4), math.nan)},
        {"initial": torch.ones(2, 5)},
        {"n_chains": 3, "initial": torch.ones(2, 4)},
    ],
)
def test_bad_runs_are_refused(options):
    with pytest.raises(ValueError, match=r"must be an integer >= |initial"):
        HMC(Phi4(Lattice((4,)), m2=1.0, lam=1.0)).sample(**({"n_samples": 2} | options))


@pytest.mark.parametrize("bad", [{"step_size": 1e-9}, {"first_step": 1e-9}, {"first_step": 0.0}])
def test_steps_with_which_no_trajectory_would_end_are_refused(bad):
    action = Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0)
    with pytest.raises(ValueError, match="step"):
        HMC(action, **bad)
    # Short steps are right where trajectories are short, too.
    HMC(action, **{name: max(step, 1e-9) for name, step in bad.items()}, trajectory_length=1e-6)
