"""Numbers are computed in the dtype of the flow, whatever the surroundings ask for."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function outside any `torch.autocast`, which would round log-densities to bfloat16."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **options: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **options)

    return wrapped


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Another default dtype for a while: for libraries whose constants follow it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def in_double(module: M) -> M:
    """The module itself if all its numbers are float64, else a copy of which that is true."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    if all(tensor.dtype == torch.float64 for tensor in tensors if tensor.is_floating_point()):
        return module
    return copy.deepcopy(module).double()


FIELD_DTYPES = (torch.float32, torch.float64)
