"""Checks of what the functions of this folder are given: numbers, log weights, functions."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

#: characters of a wrong argument that a message shows
SHOWN = 60
#: as many axes as there may be, but one at least
AT_LEAST_ONE = tuple(range(1, 65))


def real_numbers(
    values: object, name: str, *, dims: tuple[int, ...] = (1,), shape: str = "(n_samples,)", minimum: int = 0
) -> Tensor:
    """Return real numbers in float64 and without a graph, or raise.

    Args:
        values: a tensor, an array or a list of numbers.
        name: of the argument in the message.
        dims: numbers of axes that are accepted.
        shape: the accepted shapes in words.
        minimum: least length of the first axis.

    Returns:
        The numbers as a tensor, on the device of `values`.

    Raises:
        TypeError: if these are no numbers, or rows of different lengths.
        ValueError: if they are complex, of another shape or too few.

    >>> real_numbers([1, 2], "values")
    tensor([1., 2.], dtype=torch.float64)
    """
    try:
        tensor = torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"{type(values).__name__} {values!r}"
        got = got if len(got) <= SHOWN else got[:SHOWN] + "..."
        raise TypeError(
            f"{name} must be real numbers, {shape}; got {got}. Give a tensor, an array or a list of numbers."
        ) from error
    if tensor.is_complex():
        raise ValueError(f"{name} is complex; give its real and imaginary part one at a time.")
    if tensor.dim() not in dims or (tensor.dim() and len(tensor) < minimum):
        least = f" with at least {minimum} of them" if minimum else ""
        raise ValueError(f"{name} must be real numbers, {shape}{least}; got shape {tuple(tensor.shape)}.")
    return tensor.double()


def zero_or_finite_logs(
    log_weight: object,
    name: str = "log_weight",
    *,
    dims: tuple[int, ...] = (1,),
    shape: str = "(n_samples,)",
    minimum: int = 0,
) -> Tensor:
    """Return log weights in float64 without a graph, where -inf is a weight of zero.

    Args:
        log_weight: a tensor, an array or a list of numbers.
        name: of the argument in the message.
        dims: numbers of axes that are accepted.
        shape: the accepted shapes in words.
        minimum: least length of the first axis.

    Returns:
        The log weights.

    Raises:
        TypeError: see `real_numbers`.
        ValueError: if one is NaN, +inf or complex, all weights are zero, or the shape is another one.
    """
    logs = real_numbers(log_weight, name, dims=dims, shape=shape, minimum=minimum)
    if bool((logs.isnan() | logs.isposinf()).any()):
        raise ValueError(f"{name} has NaN or infinite values; expected finite ones, or -inf for zero.")
    if logs.numel() and bool(logs.isneginf().all()):
        raise ValueError(f"{name} is -inf everywhere: no sample has a weight. Draw others.")
    return logs


def check_function(function: object, gets: str) -> None:
    """Raise a TypeError unless something can be called.

    Args:
        function: the argument.
        gets: what it is given, in words.

    Raises:
        TypeError: if it is no function.
    """
    if not callable(function):
        raise TypeError(f"function must be a function of {gets}; got {function!r}.")


def checked_blocks(n_blocks: object) -> int:
    """Return a number of jackknife blocks, or raise.

    Args:
        n_blocks: an integer, of Python or numpy.

    Returns:
        The number.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is less than 2.
    """
    try:
        count = operator.index(n_blocks)  # type: ignore[arg-type]
    except TypeError as error:
        raise TypeError(f"n_blocks must be an integer, got {n_blocks!r}.") from error
    if count < 2:
        raise ValueError(f"n_blocks must be an integer >= 2, got {count}.")
    return count


def check_same_length(**columns: Tensor) -> None:
    """Raise a ValueError unless tensors have one length.

    Args:
        columns: the tensors by the names of their arguments.

    Raises:
        ValueError: if they differ.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise ValueError(f"Expected one entry per sample everywhere; got {got}.")
