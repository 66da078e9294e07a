"""An `Estimate` prints its error with two digits and measures distances in units of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiflow.statistics import Estimate


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.21053, 0.00009), "0.210530 ± 0.000090"),
        (Estimate(84.7781, 0.0123), "84.778 ± 0.012"),
        (Estimate(-123.4, 17.0), "-123 ± 17"),
        (Estimate(1.5, 0.0), "1.5 ± 0"),
        (Estimate(math.nan, math.nan), "nan ± nan"),
        (Estimate(2.0, math.inf), "2 ± inf"),
    ],
)
def test_estimate_prints_two_digits_of_its_error(estimate, text):
    assert str(estimate) == text


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6))
def test_printed_estimate_loses_less_than_a_tenth_of_its_error(mean, error):
    printed_mean, printed_error = map(float, str(Estimate(mean, error)).split(" ± "))
    assert abs(printed_mean - mean) <= max(0.1 * error, 1e-9 * abs(mean))
    assert abs(printed_error - error) <= 0.1 * error


@pytest.mark.parametrize(
    ("other", "expected"), [(1.0, 4.0), (Estimate(1.0, 0.0), 4.0), (Estimate(4.0, 0.5), -2 / math.sqrt(2))]
)
def test_sigmas_use_the_combined_error(other, expected):
    assert Estimate(3.0, 0.5).sigmas_from(other) == pytest.approx(expected)


def test_sigmas_between_equal_exact_values_are_zero():
    assert Estimate(1.0, 0.0).sigmas_from(1.0) == 0.0
