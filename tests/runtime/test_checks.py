"""Checks of arguments pass what fits, and name the argument and the value that does not."""

from __future__ import annotations

import math

import pytest

from equiflow.runtime.checks import check_count, check_positive, check_type


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, int), (1.5, (int, float)), (True, bool), ("a", str), (None, (str, type(None)))],
)
def test_instances_pass(value, expected):
    check_type(value, expected, "x")


@pytest.mark.parametrize(("value", "expected"), [(1.0, int), (True, int), (False, (int, float)), (int, int)])
def test_other_types_are_refused_by_name_with_a_remedy(value, expected):
    with pytest.raises(TypeError, match=r"^batch must be of type int.*, got .*\. Write 3\.$"):
        check_type(value, expected, "batch", "Write 3.")


def test_a_count_is_an_integer_that_is_large_enough():
    assert check_count(1, "n") == 1
    assert check_count(0, "n", minimum=0) == 0
    with pytest.raises(ValueError, match="n must be an integer >= 2, got 1"):
        check_count(1, "n", minimum=2)
    for value in (1.0, True, "1", None):
        with pytest.raises(TypeError, match="n must be an integer, got"):
            check_count(value, "n")


def test_a_positive_number_comes_back_as_a_float():
    assert check_positive(2, "m2") == 2.0
    assert isinstance(check_positive(2, "m2"), float)
    for value in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="m2 must be positive and finite"):
            check_positive(value, "m2")
    with pytest.raises(TypeError, match="m2 must be of type float or int"):
        check_positive("1", "m2")
