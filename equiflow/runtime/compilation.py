"""`torch.compile` that falls back to the uncompiled function: `Compiled`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

try:
    from torch.compiler import is_compiling
except ImportError:  # torch 2.2

    def is_compiling() -> bool:
        """Return whether `torch.compile` traces the caller; this version of torch does not say."""
        return False


__all__ = ["Compiled", "is_compiling"]


class Compiled:
    """A function that is compiled at its second call, and runs uncompiled if compilation fails.

    The first call always runs uncompiled: wrong arguments then raise their usual errors, and constants
    get cached. Compilation takes seconds to minutes and needs a C++ compiler on CPUs, Triton on GPUs.

    Args:
        function: function of tensors to compile.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._compiled: Callable[..., Any] | None = None
        self._warm: set[bool] = set()

    def __call__(self, *arguments: Any) -> Any:
        """Return `function(*arguments)`."""
        # With and without gradients are different programs, each with its own constants.
        mode = torch.is_grad_enabled()
        if mode not in self._warm:
            self._warm.add(mode)
            return self.function(*arguments)
        if self._compiled is None:
            self._compiled = torch.compile(_with_own_code(self.function), fullgraph=True)
        if self._compiled is self.function:
            return self.function(*arguments)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns about itself while it traces
                return self._compiled(*arguments)
        except Exception as failure:
            result = self.function(*arguments)  # raises by itself if the arguments are wrong
            self._compiled = self.function
            self._warn(failure)
            return result

    def _warn(self, failure: Exception) -> None:
        name = getattr(self.function, "__qualname__", repr(self.function))
        reason = str(failure).strip().partition("\n")[0][:200]
        warnings.warn(
            f"torch.compile could not compile {name} and it runs uncompiled, as correct and slower: "
            f"{type(failure).__name__}: {reason}. Leave out compile=True, or install what it misses.",
            stacklevel=3,
        )

    def __reduce__(self) -> tuple[type[Compiled], tuple[Callable[..., Any]]]:
        """Reduce to the function: copies and pickles compile it again."""
        return Compiled, (self.function,)


def _with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` in a new code object, because torch limits the compilations of each code object."""

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
