"""Reweighted averages where few samples carry the weight: they say so, and their errors stay honest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equiflow import Ensemble, FreeScalar, Lattice, measure
from equiflow.observables import phi_squared
from equiflow.statistics import (
    Estimate,
    LowEffectiveSampleSizeWarning,
    effective_sample_size,
    error_of_weighted_fluctuations,
    few_effective_samples,
    forward_effective_sample_size,
    jackknife_estimate,
    jackknife_of_logs,
    log_mean_exp,
    normalised_weights,
    warn_if_few_effective_samples,
    weighted_mean,
)
from tests.support.estimates import coverage, normal
from tests.support.oracles import free_samples


def linear(values: Tensor, log_weight: Tensor) -> Estimate:
    """Return the mean with the error of linear propagation, which trusts the heaviest sample."""
    fraction = torch.softmax(log_weight, 0)
    mean = fraction @ values
    return Estimate(float(mean), float((fraction * (values - mean)).norm()))


@pytest.mark.parametrize("spread", [2.5, 3.0, 5.0, 40.0])
def test_errors_of_dominated_ensembles_cover_the_truth(spread):
    runs = [(normal(1000, seed=seed), spread * normal(1000, seed=10**6 + seed)) for seed in range(300)]
    found = [weighted_mean(*run) for run in runs]
    assert coverage(found, 0.0) >= 0.65
    # Half of the error is too small, unless most runs rest on a single sample, whose error is infinite.
    assert spread > 4 or coverage([Estimate(e.mean, e.error / 2) for e in found], 0.0) < 0.65
    assert sum(bool(estimate.note) for estimate in found) > 0.9 * len(found)
    # The counter-example trusts a sample that carries all of the weight.
    assert coverage([linear(*run) for run in runs], 0.0) < 0.60


@pytest.mark.parametrize("heavy", [10.0, 40.0, 50.0])
def test_one_heavy_sample_has_no_known_error(heavy):
    values, log_weight = normal(500), 1e-3 * normal(500, seed=1)
    log_weight[7] = heavy
    estimate = weighted_mean(values, log_weight)
    assert estimate.mean == pytest.approx(float(values[7]), rel=0.1)
    assert estimate.error == math.inf
    assert estimate.note.startswith("only 1.")
    assert linear(values, log_weight).error < 0.1
    # What does not fluctuate has no error, whatever the weights are.
    assert weighted_mean(torch.full((500,), 0.1), log_weight).error < 1e-14
    with pytest.warns(LowEffectiveSampleSizeWarning):
        measured = measure(
            Ensemble(values[:, None, None], torch.zeros(500), log_weight, space=Lattice((1, 1)))
        )
    assert measured.phi_squared.error == math.inf


def test_few_heavy_samples_have_at_least_the_error_of_their_spread():
    values, log_weight = normal(500), 1e-3 * normal(500, seed=1)
    log_weight[:4] = 40.0
    estimate = weighted_mean(values, log_weight)
    distance = abs(float(values[:4].mean() - values.mean()))
    assert estimate.error == pytest.approx(max(0.5, distance), rel=0.4)
    # Four samples far from the others: the truth may be as far from them as they are from the others.
    far = weighted_mean(torch.where(torch.arange(500) < 4, 5.0, 0.1 * values), log_weight)
    assert far.error == pytest.approx(5.0 * (1 - 4 / 500), rel=0.05)


@pytest.mark.parametrize("shift", [3.0, 4.0])
def test_errors_reach_a_truth_beyond_the_heaviest_samples(shift):
    runs = [normal(1000, seed=seed) for seed in range(200)]
    found = [weighted_mean(x, shift * x) for x in runs]
    assert sum(bool(estimate.note) for estimate in found) > 0.9 * len(found)
    assert coverage(found, shift) > 0.62
    narrow = [linear(x, shift * x) for x in runs]
    assert coverage(narrow, shift) < 0.2


@pytest.mark.parametrize("width", [1.15, 1.25])
def test_errors_of_a_few_hundred_effective_samples_cover_the_truth(width):
    runs = normal(400, 1000, 16)
    logs = 0.5 * (runs.square() * (1 - width**-2)).sum(2)
    values = runs.square().mean(2)
    found = [weighted_mean(*run) for run in zip(values, logs, strict=True)]
    assert 0.62 <= coverage(found, width**2) <= 0.78
    narrow = [linear(*run) for run in zip(values, logs, strict=True)]
    assert coverage(narrow, width**2) < coverage(found, width**2) - 0.05
    # `measure` propagates the same errors.
    even = next(k for k, estimate in enumerate(found) if not estimate.note)
    ensemble = Ensemble(runs[even].reshape(1000, 4, 4), torch.zeros(1000), logs[even])
    assert measure(ensemble).phi_squared.error == pytest.approx(found[even].error, rel=0.1)


def test_the_error_without_each_sample_is_the_jackknife():
    values, log_weight = normal(60), 0.8 * normal(60, seed=1)
    weight = normalised_weights(log_weight)
    fraction = weight / weight.sum()
    fluctuations = 60 * fraction * (values - fraction @ values)
    found = float(error_of_weighted_fluctuations(fluctuations[:, None], log_weight))
    expected = jackknife_estimate(lambda wo, w: wo / w, weight * values, weight).error
    squares = fraction.square().sum()
    deviation = values - fraction @ values
    spread = math.sqrt(float(squares * (fraction @ deviation.square()) / (1 - squares)))
    assert 1 / float(squares) > 10  # so the weights of the spread are not flattened
    assert found == pytest.approx(max(expected, spread), rel=1e-9)


def test_an_average_of_many_effective_samples_is_the_jackknife_to_the_last_bit():
    values, log_weight = normal(1000), 0.5 * normal(1000, seed=1)
    weight = normalised_weights(log_weight)
    assert weighted_mean(values, log_weight) == jackknife_estimate(
        lambda wo, w: wo / w, weight * values, weight
    )
    assert few_effective_samples(log_weight) == ""


def weighted_mean_with_warning(values: Tensor, log_weight: Tensor) -> Estimate:
    """Warn like the functions of the library, which name their caller."""
    warn_if_few_effective_samples(log_weight)
    return weighted_mean(values, log_weight)


def test_few_effective_samples_are_warned_of_and_noted():
    values, heavy = normal(1000), 3 * normal(1000, seed=1)
    count = 1000 * effective_sample_size(heavy).mean
    assert 1 < count < 50
    note = f"only {count:.{0 if count > 10 else 1}f} effective samples"
    with pytest.warns(LowEffectiveSampleSizeWarning, match=f"{note} of 1000; expected 50") as caught:
        weighted_mean_with_warning(values, heavy)
    assert caught[0].filename == __file__
    for estimate in (weighted_mean(values, heavy), log_mean_exp(heavy)):
        assert estimate.note == note
        assert str(estimate).endswith(f"({note})")
    for sane in (torch.zeros(8), 0.3 * normal(200), torch.zeros(0)):  # a warning here would be an error
        warn_if_few_effective_samples(sane)


def test_everything_that_reweights_an_ensemble_warns_and_knows_its_error():
    action = FreeScalar(Lattice((4, 4)), m2=1.0)
    phi = free_samples(action, 400)
    log_weight = torch.zeros(400)
    log_weight[::100] = 40.0
    ensemble = Ensemble(phi, torch.zeros(400), log_weight)
    with pytest.warns(LowEffectiveSampleSizeWarning) as caught:
        measured, mean = measure(ensemble, action=action), ensemble.mean(phi_squared)
    assert {warning.filename for warning in caught} == {__file__}
    # The scatter of single configurations is about the error of an average over four of them.
    one = float(phi_squared(phi).std())
    for estimate in (measured.phi_squared, mean):
        assert 0.3 * one < estimate.error < 3 * one
        assert "effective samples" in str(estimate)
    assert measured.phi_squared.error == pytest.approx(mean.error, rel=1e-9)
    assert "effective samples" in str(measured)


def with_zeros(log_weight: Tensor, n: int) -> Tensor:
    """Return log weights with n weights of zero at random places among them."""
    longer = torch.full((len(log_weight) + n,), -math.inf, dtype=log_weight.dtype)
    places = torch.randperm(len(longer), generator=torch.Generator().manual_seed(0))[: len(log_weight)]
    longer[places.sort().values] = log_weight
    return longer


def test_weights_of_zero_count_as_samples():
    log_weight = 0.3 * normal(300)
    longer = with_zeros(log_weight, 100)
    assert effective_sample_size(longer).mean == pytest.approx(
        0.75 * effective_sample_size(log_weight).mean, rel=1e-12
    )
    assert log_mean_exp(longer).mean == pytest.approx(
        log_mean_exp(log_weight).mean + math.log(0.75), rel=1e-9
    )
    # log Z of a hit rate of 3/4 has a binomial error.
    hits = with_zeros(torch.zeros(300).double(), 100)
    assert log_mean_exp(hits).error == pytest.approx(math.sqrt(0.25 / 0.75 / 400), rel=0.15)
    assert forward_effective_sample_size(longer) == Estimate(0.0, 0.0)


def test_samples_without_weight_change_no_average():
    action = FreeScalar(Lattice((4, 4)), m2=1.0)
    phi, log_weight = free_samples(action, 400), 0.3 * normal(300)
    longer = with_zeros(log_weight, 100)
    given = longer.isfinite()
    one = measure(Ensemble(phi, torch.zeros(400), longer)).scalars()
    other = measure(Ensemble(phi[given], torch.zeros(300), log_weight)).scalars()
    for name, estimate in one.items():
        assert estimate.mean == pytest.approx(other[name].mean, rel=1e-9), name
        assert estimate.error == pytest.approx(other[name].error, rel=0.01), name


@pytest.mark.parametrize("spread", [0.3, 30.0])
def test_a_single_sample_with_a_weight_has_no_known_error(spread):
    log_weight = torch.full((50,), -math.inf, dtype=torch.float64)
    log_weight[7] = spread
    values = normal(50)
    for estimate, mean in (
        (weighted_mean(values, log_weight), float(values[7])),
        (effective_sample_size(log_weight), 1 / 50),
        (log_mean_exp(log_weight), spread - math.log(50)),
    ):
        assert (estimate.mean, estimate.error) == (pytest.approx(mean), math.inf)


def test_what_are_no_weights_is_refused():
    for bad, message in (
        (torch.full((8,), -math.inf), "no sample has a weight"),
        (torch.tensor([0.0, math.nan]), "NaN"),
        (torch.tensor([0.0, math.inf]), "infinite"),
        (torch.zeros(8) + 1j, "complex"),
    ):
        for function in (normalised_weights, effective_sample_size, log_mean_exp, few_effective_samples):
            with pytest.raises(ValueError, match=message):
                function(bad)
    with pytest.raises(ValueError, match="complex"):
        weighted_mean(torch.ones(8) + 1j, torch.zeros(8))
    with pytest.raises(ValueError, match="complex"):
        jackknife_estimate(lambda mean: mean, torch.ones(8) + 1j)
    with pytest.raises(ValueError, match="NaN or infinite"):
        jackknife_of_logs(lambda mean: mean, torch.tensor([0.0, math.inf]))
