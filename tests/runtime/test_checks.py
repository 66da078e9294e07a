"""Checks of arguments pass what fits, and name the argument and the value that does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equiflow.runtime.checks import (
    check_count,
    check_flag,
    check_positive,
    check_type,
    is_integer,
    is_number,
    plain,
)

INTEGERS = (np.int8(3), np.int64(3), np.uint16(3))
FLOATS = (np.float16(0.5), np.float32(0.5), np.float64(0.5))


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


@pytest.mark.parametrize("value", [torch.zeros(2, 40), np.zeros((2, 40))])
def test_many_numbers_are_named_by_their_shape(value):
    with pytest.raises(
        TypeError, match=r"^x must be of type int, got (Tensor|ndarray) of shape \(2, 40\)\.$"
    ):
        check_type(value, int, "x")


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


@pytest.mark.parametrize("value", INTEGERS, ids=lambda value: value.dtype.name)
def test_integers_of_numpy_are_integers_and_become_python_s(value):
    check_type(value, int, "n")
    check_type(value, (float, int), "n")
    assert is_integer(value)
    assert is_number(value)
    for same in (check_count(value, "n"), plain(value), plain((value, "a"))[0], plain([value])[0]):
        assert (same, type(same)) == (3, int)
    with pytest.raises(ValueError, match="n must be an integer >= 4, got 3"):
        check_count(value, "n", minimum=4)
    with pytest.raises(TypeError, match="must be of type str"):
        check_type(value, str, "n")


@pytest.mark.parametrize("value", FLOATS, ids=lambda value: value.dtype.name)
def test_floats_of_numpy_are_numbers_and_become_python_s(value):
    check_type(value, (float, int), "m2")
    assert is_number(value)
    assert not is_integer(value)
    for same in (check_positive(value, "m2"), plain(value)):
        assert (same, type(same)) == (0.5, float)
    for wrong in (lambda: check_type(value, int, "n"), lambda: check_count(value, "n")):
        with pytest.raises(TypeError, match="n must be"):
            wrong()


@pytest.mark.parametrize("value", [True, np.bool_(True), "3", None, np.array([3.0]), 3j, np.complex64(3)])
def test_what_is_no_number_is_none(value):
    assert not is_number(value)
    assert not is_integer(value)
    assert isinstance(value, np.bool_) or plain(value) is value


def test_a_flag_of_numpy_becomes_python_s_and_a_number_is_none():
    assert plain(np.bool_(True)) is check_flag(np.bool_(True), "z2") is check_flag(True, "z2") is True
    assert check_flag(np.bool_(False), "z2") is False
    check_type(np.bool_(False), bool, "z2")
    for value in (0, 1.0, "no", None, np.int64(1)):
        with pytest.raises(TypeError, match=r"^z2 must be of type bool, got .*\. Write True or False\.$"):
            check_flag(value, "z2")


def test_an_array_of_integers_becomes_a_tuple():
    assert plain(np.array([4, 6])) == (4, 6)
    assert all(type(side) is int for side in plain(np.array([4, 6], dtype=np.uint8)))
    grid = np.array([[4, 6]])
    assert plain(grid) is grid


class Lamp:
    how_to_give = "Write Lamp()."


def test_a_class_says_itself_how_it_is_given():
    with pytest.raises(TypeError, match=r"^lamp must be of type Lamp, got 3\. Write Lamp\(\)\.$"):
        check_type(3, Lamp, "lamp")
    with pytest.raises(TypeError, match=r"got 3\. Light it\.$"):
        check_type(3, Lamp, "lamp", "Light it.")
