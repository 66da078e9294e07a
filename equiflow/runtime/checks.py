"""Checks of what callers give; messages name the argument, the value and a remedy."""

from __future__ import annotations

import math


def check_type(value: object, expected: type | tuple[type, ...], name: str, remedy: str = "") -> None:
    """Raise a TypeError unless `value` is an instance of `expected`.

    A bool is accepted only where `expected` is bool.

    Args:
        value: the argument to check.
        expected: a class, or a tuple of classes any of which is accepted.
        name: name of the argument in the message.
        remedy: a sentence that ends the message.

    Raises:
        TypeError: if the value is of another type.
    """
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        kinds = expected if isinstance(expected, tuple) else (expected,)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be of type {wanted}, got {value!r}. {remedy}".rstrip())


def check_count(value: object, name: str, *, minimum: int = 1) -> int:
    """Return `value` if it is an integer of at least `minimum`.

    Args:
        value: the argument to check.
        name: name of the argument in the message.
        minimum: smallest accepted value.

    Returns:
        The value.

    Raises:
        TypeError: if the value is no integer.
        ValueError: if it is smaller than `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value}.")
    return value


def check_positive(value: float, name: str) -> float:
    """Return `value` as a float if it is a positive, finite number.

    Args:
        value: the argument to check.
        name: name of the argument in the message.

    Returns:
        The value.

    Raises:
        TypeError: if the value is no number.
        ValueError: if it is zero, negative, infinite or NaN.
    """
    check_type(value, (float, int), name)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}.")
    return float(value)
