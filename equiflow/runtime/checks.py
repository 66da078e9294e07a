"""Checks of arguments at the public boundary: what was expected, what came, what to do."""

from __future__ import annotations

import math


def check_type(value: object, expected: type | tuple[type, ...], name: str, remedy: str = "") -> None:
    """Raise a TypeError unless `value` is an instance of what is expected; a class is not."""
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        kinds = expected if isinstance(expected, tuple) else (expected,)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be of type {wanted}, got {value!r}. {remedy}".rstrip())


def check_count(value: object, name: str, *, minimum: int = 1) -> int:
    """Return `value` if it is an integer of at least `minimum`, else raise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value}.")
    return value


def check_positive(value: float, name: str) -> float:
    """The value as a float if it is a positive, finite number, else raise."""
    check_type(value, (float, int), name)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}.")
    return float(value)
