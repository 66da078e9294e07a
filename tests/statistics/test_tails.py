"""The shape of the tail of importance weights, and what estimates say of a heavy one."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import genpareto
from torch import Tensor

from equiflow import Ensemble, Lattice
from equiflow.analysis import Observable, estimate_observables
from equiflow.observables import phi_squared
from equiflow.statistics import (
    effective_sample_size,
    few_effective_samples,
    heavy_tails,
    log_mean_exp,
    pareto_shape,
    weighted_mean,
)


def noise(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_wider_gaussian(x: Tensor, width: float) -> Tensor:
    """Log weights that turn a unit Gaussian into one of another width; the tail has k = 1 - 1 / width^2."""
    return 0.5 * x.square() * (1 - width**-2)


@pytest.mark.parametrize("shape", [0.3, 0.6, 0.9])
def test_the_shape_of_a_pareto_distribution_is_found(shape):
    u = torch.rand(100, 4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.tensor([pareto_shape(log_weight) for log_weight in -shape * u.log()])
    # The error of the fit is (1 + k) / sqrt(189) at best, and the pull toward 1/2 a twentieth.
    assert abs(found.mean() - (189 * shape + 5) / 199) < 4 * (1 + shape) / math.sqrt(189 * 100) + 0.01
    assert found.std() < 1.5 * (1 + shape) / math.sqrt(189)


def test_it_is_near_the_maximum_of_the_likelihood():
    weight = torch.from_numpy(genpareto.rvs(0.5, size=2500, random_state=3)) + 1e-3
    count = 150
    tail = weight.sort().values[-count - 1 :]
    expected, _, _ = genpareto.fit((tail[1:] - tail[0]).numpy(), floc=0.0)
    assert pareto_shape(weight.log()) == pytest.approx((count * expected + 5) / (count + 10), abs=0.03)


def test_it_does_not_depend_on_the_unit_or_the_order_of_the_weights():
    log_weight = of_wider_gaussian(noise(1000, 0), 2.0)
    assert pareto_shape(log_weight.flip(0) - 1e4) == pytest.approx(pareto_shape(log_weight), abs=1e-6)


@pytest.mark.parametrize(
    ("width", "least", "most"), [(1.1, 0.0, 0.02), (1.2, 0.0, 0.05), (2.0, 0.4, 1.0), (3.0, 0.7, 1.0)]
)
def test_heavy_tails_are_noted_and_light_ones_are_not(width, least, most):
    logs = [of_wider_gaussian(noise(1000, seed), width) for seed in range(100)]
    assert least <= sum(bool(heavy_tails(log_weight)) for log_weight in logs) / 100 <= most


def test_every_reweighted_estimate_carries_the_note():
    quantiles = (torch.randperm(2000, generator=torch.Generator().manual_seed(2)) + 0.5) / 2000
    log_weight, light = -0.65 * quantiles.double().log(), 0.1 * noise(2000, 3)
    assert not few_effective_samples(log_weight)  # or else that is what the notes say
    phi = noise(2000 * 4, 4).reshape(2000, 2, 2)
    for logs, says in ((log_weight, True), (light, False)):
        ensemble = Ensemble(phi, torch.zeros(2000), logs, space=Lattice((2, 2)))
        notes = [
            weighted_mean(phi_squared(phi), logs).note,
            log_mean_exp(logs).note,
            ensemble.mean(phi_squared).note,
            ensemble.log_z().note,
            estimate_observables(ensemble, [Observable("phi^2", phi_squared)])["phi^2"].note,
        ]
        assert [("heavy tail of the weights, k = " in note) for note in notes] == [says] * 5
        assert bool(effective_sample_size(logs).note) == says  # that few samples carry the mean of w^2


def test_too_few_or_equal_weights_say_nothing_of_the_tail():
    assert math.isnan(pareto_shape(noise(99, 0)))
    assert math.isfinite(pareto_shape(noise(100, 0)))
    assert math.isnan(pareto_shape(torch.zeros(1000)))
    assert heavy_tails(torch.zeros(1000)) == heavy_tails(torch.zeros(0)) == ""
    with_zeros = of_wider_gaussian(noise(1000, 5), 2.0)
    with_zeros[:500] = -math.inf
    assert math.isfinite(pareto_shape(with_zeros))
    with pytest.raises(ValueError, match="NaN"):
        pareto_shape(torch.full((200,), math.nan))
