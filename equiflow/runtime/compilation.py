"""`torch.compile` that falls back to what it compiles."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch


class Compiled:
    """A function that is compiled at its second call, and left as it is where that fails.

    The first call is an ordinary one: wrong arguments raise what they always raise, and constants are
    cached. Compilation takes seconds to minutes and needs a C++ compiler on CPUs, Triton on GPUs.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._compiled: Callable[..., Any] | None = None
        self._warm: set[bool] = set()

    def __call__(self, *arguments: Any) -> Any:
        """Call it."""
        # With and without gradients are different programs, with constants of their own.
        mode = torch.is_grad_enabled()
        if mode not in self._warm:
            self._warm.add(mode)
            return self.function(*arguments)
        if self._compiled is None:
            self._compiled = torch.compile(_with_code_of_its_own(self.function), fullgraph=True)
        if self._compiled is self.function:
            return self.function(*arguments)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, while it traces
                return self._compiled(*arguments)
        except Exception as failure:
            result = self.function(*arguments)  # raises by itself if the arguments are to blame
            self._compiled = self.function
            name = getattr(self.function, "__qualname__", repr(self.function))
            reason = str(failure).strip().partition("\n")[0][:200]
            warnings.warn(
                f"torch.compile could not compile {name} and it runs uncompiled, as correct and slower: "
                f"{type(failure).__name__}: {reason}. Leave out compile=True, or install what it misses.",
                stacklevel=2,
            )
            return result

    def __reduce__(self) -> tuple[type[Compiled], tuple[Callable[..., Any]]]:
        """Copies and pickles are compiled anew."""
        return Compiled, (self.function,)


def _with_code_of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function in a frame that no other shares: torch limits compilations per code object."""

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
