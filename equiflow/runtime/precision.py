"""Floating-point types: computations keep the dtype of the flow, whatever autocast or defaults are active."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)

#: dtypes that a field, and so a flow, may have
FIELD_DTYPES = (torch.float32, torch.float64)
#: dtypes of configurations of complex matrices
COMPLEX_DTYPES = (torch.complex64, torch.complex128)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` wrapped to run outside `torch.autocast`, which would round to bfloat16."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **options: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **options)

    return wrapped


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype inside a `with` block, for libraries whose constants follow it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def doubled(phi: Tensor) -> Tensor:
    """Return numbers in double precision: float64, or complex128 for complex ones."""
    return phi.to(torch.promote_types(phi.dtype, torch.float64))


def in_precision(phi: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers in the precision of a real dtype; complex numbers stay complex.

    Args:
        phi: real or complex numbers.
        dtype: float32 or float64.

    Returns:
        Numbers shaped like `phi`.
    """
    return phi.to(COMPLEX_DTYPES[FIELD_DTYPES.index(dtype)] if phi.is_complex() else dtype)


def in_double(module: M) -> M:
    """Return `module` if all its floating-point tensors are float64, else a float64 copy."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    if all(tensor.dtype == torch.float64 for tensor in tensors if tensor.is_floating_point()):
        return module
    return copy.deepcopy(module).double()
