"""Checks of what callers give; messages name the argument, the value and a remedy.

Numbers of numpy are accepted wherever Python's are, see `plain`.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np


def plain(value: Any) -> Any:
    """Return numbers and flags of numpy as Python's, a 1-d array of integers as a tuple, others unchanged.

    The items of tuples and lists are converted too.

    >>> plain(np.int64(8)), plain(np.float32(0.5)), plain(np.array([4, 6])), plain("rk4")
    (8, 0.5, (4, 6), 'rk4')
    """
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if isinstance(value, np.ndarray) and value.ndim == 1 and np.issubdtype(value.dtype, np.integer):
        return tuple(value.tolist())
    return type(value)(map(plain, value)) if type(value) in (tuple, list) else value


def make_plain(record: object, *names: str) -> None:
    """Convert attributes by `plain`, in place; for the `__post_init__` of dataclasses, frozen or not.

    Args:
        record: the object.
        names: of the attributes.
    """
    for name in names:
        object.__setattr__(record, name, plain(getattr(record, name)))


def _is_a(value: object, kind: type) -> bool:
    """Return whether `value` is an instance of a class, with numpy's numbers as good as Python's."""
    if isinstance(value, (bool, np.bool_)):
        return kind is bool
    if kind is float:
        return isinstance(value, (float, np.floating))
    return isinstance(value, (int, np.integer) if kind is int else kind)


def is_integer(value: object) -> TypeGuard[int]:
    """Return whether a value is an integer of Python or numpy; a bool is none."""
    return _is_a(value, int)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is an integer or a float of Python or numpy; a bool is none."""
    return _is_a(value, int) or _is_a(value, float)


def check_type(value: object, expected: type | tuple[type, ...], name: str, remedy: str = "") -> None:
    """Raise a TypeError unless `value` is an instance of `expected`.

    A bool is accepted only where `expected` is bool. Numbers and flags of numpy count as Python's.

    Args:
        value: the argument to check.
        expected: a class, or a tuple of classes any of which is accepted.
        name: name of the argument in the message.
        remedy: a sentence that ends the message; by default the attribute `how_to_give` of the class, if it
            has one.

    Raises:
        TypeError: if the value is of another type.
    """
    kinds = expected if isinstance(expected, tuple) else (expected,)
    if not any(_is_a(value, kind) for kind in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        remedy = remedy or getattr(kinds[0], "how_to_give", "")
        raise TypeError(f"{name} must be of type {wanted}, got {_named(value)}. {remedy}".rstrip())


def _named(value: object) -> str:
    """Return the text of a value for a message, or its type and shape if it holds many numbers."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    return repr(value)


def check_count(value: object, name: str, *, minimum: int = 1) -> int:
    """Return `value` if it is an integer of at least `minimum`.

    Args:
        value: the argument to check.
        name: name of the argument in the message.
        minimum: smallest accepted value.

    Returns:
        The value, an `int`.

    Raises:
        TypeError: if the value is no integer.
        ValueError: if it is smaller than `minimum`.
    """
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    count = int(value)
    if count < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {count}.")
    return count


def check_flag(value: object, name: str) -> bool:
    """Return `value` if it is True or False, of Python or numpy.

    Args:
        value: the argument to check.
        name: name of the argument in the message.

    Returns:
        The value, a `bool`.

    Raises:
        TypeError: if it is anything else.
    """
    check_type(value, bool, name, "Write True or False.")
    return bool(value)


def check_seed(value: object, name: str = "seed") -> int:
    """Return `value` if it is a seed: an integer from 0 to 2^64 - 1.

    Args:
        value: the argument to check.
        name: name of the argument in the message.

    Returns:
        The seed, an `int`.

    Raises:
        TypeError: if the value is no integer.
        ValueError: if it is out of range.
    """
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer from 0 to 2^64 - 1, got {value!r}.")
    seed = int(value)
    if not 0 <= seed < 2**64:
        raise ValueError(f"{name} must be an integer from 0 to 2^64 - 1, got {seed}.")
    return seed


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
