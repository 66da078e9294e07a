"""Observables of one's own: values and errors against independent estimates."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from equiflow import Chain, Ensemble, FreeField, FreeScalar, Lattice, Phi4, Solver, importance_sample
from equiflow.analysis import Observable, estimate_observables
from equiflow.samplers.samples import reweighted_mean
from equiflow.statistics import Estimate, jackknife_estimate, normalised_weights
from equiflow.theories.scalar.observables import (
    magnetisation,
    phi_fourth,
    phi_squared,
    susceptibility,
    zero_momentum_correlator,
)
from tests.support.free_field import as_chain, as_ensemble, free_correlator
from tests.support.oracles import free_samples
from tests.support.strategies import small_flow

ACTION = FreeScalar(Lattice((4, 4)), m2=1.0)


def ratio(second: Tensor, fourth: Tensor) -> Tensor:
    return fourth / second.square()


KURTOSIS = Observable("kurtosis", (phi_squared, phi_fourth), ratio)


def estimate(samples: Chain | Ensemble, observable: Observable) -> Estimate:
    found = estimate_observables(samples, [observable])
    assert list(found) == [observable.name]
    assert isinstance(found[observable.name], Estimate)
    return found[observable.name]


def slow_chain(n: int = 4000, n_chains: int = 8, memory: float = 0.9) -> Chain:
    """Return Gaussian noise on four sites whose autocorrelation falls like `memory^t`."""
    noise = torch.randn(n + 200, n_chains, 4, generator=torch.Generator().manual_seed(0)).double()
    series = lfilter([math.sqrt(1 - memory**2)], [1.0, -memory], noise.numpy(), axis=0)
    return Chain(torch.from_numpy(series)[200:], torch.ones(n, n_chains))


def weighted() -> Ensemble:
    """Return samples of a light field, reweighted to a heavier one."""
    light, heavy = FreeScalar(ACTION.lattice, m2=0.8), ACTION
    phi = free_samples(light, 20_000)
    return as_ensemble(phi, light(phi) - heavy(phi))


@pytest.mark.parametrize("function", [phi_squared, susceptibility])
def test_a_plain_average_is_the_mean_of_the_samples(function):
    observable = Observable("average", function)
    for samples, rel in ((slow_chain(), 1e-9), (weighted(), 0.15)):  # 128 jackknife blocks know it to 6 %
        found, expected = estimate(samples, observable), samples.mean(function)
        assert found.mean == pytest.approx(expected.mean, rel=1e-10)
        assert found.error == pytest.approx(expected.error, rel=rel)
        assert found.tau_int == pytest.approx(0.5 if expected.tau_int is None else expected.tau_int)


@pytest.mark.parametrize("source", [as_ensemble, as_chain])
def test_a_derived_quantity_of_the_free_field_is_its_closed_form(source):
    found = estimate(source(free_samples(ACTION, 20_000)), KURTOSIS)
    assert abs(found.sigmas_from(3.0)) < 4
    assert 0 < found.error < 0.02
    other = Observable("other", (phi_squared, phi_fourth), lambda second, fourth: fourth / second)
    assert abs(estimate(source(free_samples(ACTION, 20_000)), other).sigmas_from(3.0)) > 10


def independent_error(samples: Ensemble) -> float:
    """Return the error that the ratio would have if its two averages fluctuated independently."""
    second, fourth = samples.mean(phi_squared), samples.mean(phi_fourth)
    slopes = 1 / second.mean**2, -2 * fourth.mean / second.mean**3
    return math.hypot(slopes[0] * fourth.error, slopes[1] * second.error)


def test_the_error_of_a_derived_quantity_on_an_ensemble_is_that_of_the_jackknife():
    samples = weighted()
    weight = normalised_weights(samples.log_weight)
    columns = [weight * function(samples.phi) for function in (phi_squared, phi_fourth)]
    expected = jackknife_estimate(
        lambda second, fourth, w: ratio(second / w, fourth / w), *columns, weight, n_blocks=1000
    )
    found = estimate(samples, KURTOSIS)
    assert found.mean == pytest.approx(expected.mean, rel=1e-10)
    assert found.error == pytest.approx(expected.error, rel=0.08)
    # The counter-example: a sum in quadrature ignores that both averages fluctuate together.
    assert independent_error(samples) > 1.3 * found.error


def test_the_error_of_a_derived_quantity_along_a_chain_is_that_of_the_jackknife():
    chain = slow_chain()
    columns = [chain.series(function).T.flatten() for function in (phi_squared, phi_fourth)]
    expected, naive = (jackknife_estimate(ratio, *columns, n_blocks=n) for n in (160, 16_000))
    found = estimate(chain, KURTOSIS)
    assert found.mean == pytest.approx(expected.mean, rel=1e-10)
    assert found.error == pytest.approx(expected.error, rel=0.25)  # 160 blocks know it to 6 %
    assert found.tau_int > 2
    # The counter-example: blocks of two samples do not absorb the autocorrelation.
    assert naive.error < 0.7 * found.error


def test_claimed_errors_are_the_scatter():
    found = [estimate(as_ensemble(free_samples(ACTION, 400, seed=seed)), KURTOSIS) for seed in range(100)]
    scatter = torch.tensor([one.mean for one in found]).std()
    claimed = torch.tensor([one.error for one in found]).mean()
    # The scatter of 100 values is known to 7 %.
    assert float(claimed / scatter) == pytest.approx(1, abs=0.28)


def test_the_solver_error_of_an_observable_is_its_change_under_a_finer_solve():
    lattice = Lattice((3, 3))
    prior = FreeField(lattice, m2=0.3).double()
    flow = small_flow((3, 3), prior=prior, scale=0.3, solver=Solver("rk4", steps=1))
    action = Phi4(lattice, m2=-1.0, lam=0.8)
    generator = torch.Generator().manual_seed(0)
    samples = importance_sample(flow, action, 2000, certify=2000, generator=generator)

    def kurtosis(phi: Tensor, log_weight: Tensor) -> Tensor:
        averages = [reweighted_mean(function(phi), log_weight) for function in (phi_squared, phi_fourth)]
        return ratio(*averages)

    found = estimate(samples, KURTOSIS)
    assert found.systematic == pytest.approx(abs(samples.certificate.shift_of(kurtosis)), rel=0.2)
    assert found.systematic > 0
    plain = estimate(samples, Observable("average", phi_squared))
    assert plain.systematic == pytest.approx(samples.mean(phi_squared).systematic, rel=1e-9)


def test_several_numbers_become_a_tuple():
    samples = as_ensemble(free_samples(ACTION, 20_000))
    found = estimate_observables(
        samples,
        [
            Observable("C", zero_momentum_correlator),
            Observable("C / C(0)", zero_momentum_correlator, lambda c: c / c[0]),
            Observable("both", (phi_squared, magnetisation), lambda second, m: (second, m.square())),
        ],
    )
    assert [len(found[name]) for name in ("C", "C / C(0)", "both")] == [4, 4, 2]
    for one, exact in zip(found["C"], free_correlator(4, 1.0).tolist(), strict=True):
        assert abs(one.sigmas_from(exact)) < 4
    assert found["C / C(0)"][0].mean == 1.0
    assert found["C / C(0)"][0].error == 0.0
    assert found["both"][0].mean == pytest.approx(samples.mean(phi_squared).mean)


def test_samples_of_any_theory_can_be_measured():
    angles = 2 * math.pi * torch.rand(4000, 5, 3, generator=torch.Generator().manual_seed(0))
    cosine = Observable("cos^2", lambda theta: theta.cos().square().mean((1, 2)))
    assert abs(estimate(as_ensemble(angles), cosine).sigmas_from(0.5)) < 4
    assert estimate_observables(as_ensemble(angles), []) == {}


def test_what_two_observables_share_is_evaluated_once():
    batches = []

    def watched(phi: Tensor) -> Tensor:
        batches.append(len(phi))
        return phi_squared(phi)

    samples = as_ensemble(free_samples(ACTION, 3000))
    two = [Observable("one", watched), Observable("other", (watched, phi_fourth), ratio)]
    estimate_observables(samples, two)
    assert sum(n for n in batches if n > 1) == 3000
    assert batches.count(1) == 2  # two configurations are looked at alone, see `check_each_alone`
    assert max(batches) < 3000  # a few configurations at a time


@pytest.mark.parametrize(
    ("average", "message"),
    [
        (lambda phi: phi, r"returned \(\d+, 4, 4\); expected one value per configuration"),
        (lambda phi: phi.sum(), r"returned \(\); expected"),
        (lambda phi: phi[:-1].flatten(1).sum(1), r"returned \(\d+,\); expected"),
        (lambda phi: 1.0, "returned float; expected"),
        (lambda phi: torch.fft.fft(phi.flatten(1)), "is complex"),
        (lambda phi: phi.flatten(1)[:, 0] / 0, "'bad' has NaN or infinite values"),
    ],
)
def test_averages_must_give_one_value_or_several_per_configuration(average, message):
    with pytest.raises(ValueError, match=message):
        estimate_observables(as_ensemble(free_samples(ACTION, 50)), [Observable("bad", average)])


@pytest.mark.parametrize(
    "derived", [lambda mean: 1.0, lambda mean: torch.tensor(1.0), lambda mean: torch.eye(2) * mean]
)
def test_what_has_no_error_is_refused(derived):
    bad = Observable("bad", phi_squared, derived)
    with pytest.raises(ValueError, match="'bad' must be one number or several"):
        estimate_observables(as_ensemble(free_samples(ACTION, 50)), [bad])


def test_observables_that_say_too_little_are_refused():
    with pytest.raises(ValueError, match="has 2 averages"):
        Observable("ratio", (phi_squared, phi_fourth))
    with pytest.raises(ValueError, match="has 0 averages"):
        Observable("nothing", ())
    with pytest.raises(TypeError, match="needs functions"):
        Observable("three", 3.0)
    with pytest.raises(TypeError, match="name must be of type str"):
        Observable(phi_squared, phi_squared)


def test_observables_without_a_name_of_their_own_are_refused():
    samples = as_ensemble(free_samples(ACTION, 50))
    with pytest.raises(ValueError, match="another observable called 'kurtosis'"):
        estimate_observables(samples, [KURTOSIS, KURTOSIS])
    with pytest.raises(TypeError, match="observable must be of type Observable"):
        estimate_observables(samples, [phi_squared])
    with pytest.raises(TypeError, match="samples must be of type Samples"):
        estimate_observables(samples.phi, [KURTOSIS])
