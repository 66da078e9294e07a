"""Masses and lengths: exact on the correlators of free fields, and honest about their errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equiflow.analysis.correlators import effective_mass, fit_cosh, second_moment_length
from tests.support.free_field import free_correlator


@pytest.mark.parametrize("side", [4, 5, 6, 9, 16])
@pytest.mark.parametrize("m2", [0.1, 1.0, 3.0])
def test_masses_of_a_free_correlator_are_exact(side, m2):
    correlator, mass = free_correlator(side, m2), math.acosh(1 + m2 / 2)
    assert torch.stack(effective_mass(correlator)).tolist() == pytest.approx([mass] * (side // 2), rel=1e-9)
    assert float(second_moment_length(correlator)) == pytest.approx(m2**-0.5, rel=1e-9)
    fit = fit_cosh(correlator, correlated_noise(side))
    assert fit.mass.mean == pytest.approx(mass, rel=1e-8)
    # C(t) = sum_n exp(-m |t + n side|) / (4 sinh m)
    assert fit.amplitude.mean == pytest.approx(
        1 / (4 * math.sinh(mass) * (1 - math.exp(-mass * side))), rel=1e-8
    )
    assert fit.chi2 < 1e-12
    assert fit.dof == side // 2 - max(1, side // 4) - 1


def correlated_noise(side: int, size: float = 1e-4) -> Tensor:
    """Return a covariance with correlated neighbours, as averaged correlators have it."""
    distance = (torch.arange(side)[:, None] - torch.arange(side)).abs()
    return size**2 * (torch.exp(-distance.double() / 4) + 0.5)


@pytest.mark.parametrize("correlated", [True, False])
def test_chi2_and_error_of_the_mass_need_the_correlations(correlated):
    exact, covariance = free_correlator(24, 0.3), correlated_noise(24)
    noise = torch.randn(300, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = noise @ torch.linalg.cholesky(covariance).T
    assumed = covariance if correlated else covariance.diagonal().diag()
    fits = [fit_cosh(exact + one, assumed) for one in noise]
    chi2, dof = sum(fit.chi2 for fit in fits) / 300, fits[0].dof
    covered = sum(abs(fit.mass.sigmas_from(math.acosh(1.15))) < 1 for fit in fits) / 300
    sound = abs(chi2 / dof - 1) < 4 * math.sqrt(2 / dof / 300) and 0.60 < covered < 0.76
    assert sound == correlated


def test_two_states_are_no_single_one_and_a_later_window_is():
    t = torch.arange(32) - 16.0
    mixed = torch.cosh(0.3 * t) + 1e-6 * torch.cosh(1.2 * t)
    early, late = (fit_cosh(mixed, correlated_noise(32, 1e-3), t_min=t_min) for t_min in (1, 12))
    assert early.p_value < 1e-6
    assert late.p_value > 0.9
    assert late.mass.mean == pytest.approx(0.3, abs=0.01)
    assert effective_mass(mixed)[0] > 0.6


def test_the_slope_of_the_fit_is_its_derivative():
    correlator, covariance = free_correlator(12, 0.5), correlated_noise(12)
    step = 1e-6 * torch.eye(12, dtype=torch.float64)
    plus, minus = ([fit_cosh(correlator + s * e, covariance).mass.mean for e in step] for s in (1, -1))
    difference = (torch.tensor(plus) - torch.tensor(minus)).double() / 2e-6
    torch.testing.assert_close(difference, fit_cosh(correlator, covariance).slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("correlator", "covariance"),
    [
        (torch.ones(3), torch.eye(3)),  # one point
        (torch.ones(8), torch.eye(8)),  # no decay
        (-free_correlator(8, 1.0), torch.eye(8)),  # no state has it
        (free_correlator(8, 1.0), torch.ones(8, 8)),  # no inverse
        (free_correlator(8, 1.0), math.nan * torch.eye(8)),
    ],
)
def test_where_no_mass_fits_it_is_not_a_number(correlator, covariance):
    fit = fit_cosh(correlator, covariance)
    assert math.isnan(fit.mass.mean)
    assert math.isnan(fit.mass.error)
    assert math.isnan(fit.p_value)


@pytest.mark.parametrize("t_min", [-1, 5])
def test_a_window_off_the_correlator_is_refused(t_min):
    with pytest.raises(ValueError, match="t_min"):
        fit_cosh(free_correlator(8, 1.0), torch.eye(8), t_min=t_min)


def test_a_length_too_small_to_be_seen_is_not_a_number():
    correlator = torch.zeros(8, dtype=torch.float64)
    correlator[0], correlator[1], correlator[7] = 1.0, -0.01, -0.01  # noise: F > chi2
    assert math.isnan(float(second_moment_length(correlator)))
    correlator[1], correlator[7] = 0.01, 0.01
    # F = 1 + 0.02 cos(pi / 4) and chi2 = 1.02
    excess = 1.02 / (1 + 0.02 * math.cos(math.pi / 4)) - 1
    expected = math.sqrt(excess) / (2 * math.sin(math.pi / 8))
    assert float(second_moment_length(correlator)) == pytest.approx(expected, rel=1e-12)
