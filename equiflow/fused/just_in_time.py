"""Compilation of the fused kernels by numba, and whether they are in use: `in_use`, `switched`, `jit`.

Nothing here imports numba until a kernel is needed, so `import equiflow` does not pay for it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

#: set to 0 to leave the kernels out
SWITCH = "EQUIFLOW_FUSED"
#: floating-point rules that LLVM may bend: none of them changes NaN or infinity
FAST_MATH = {"contract", "reassoc", "nsz", "arcp"}
#: below this number of sites a second thread costs more than it saves
MIN_SITES_PER_THREAD = 4096

_log = logging.getLogger("equiflow")
_allowed = os.environ.get(SWITCH, "1") != "0"


@cache
def is_installed() -> bool:
    """Return whether numba can be imported."""
    return importlib.util.find_spec("numba") is not None


def in_use() -> bool:
    """Return whether fused kernels are used where they fit; the log says once if they are missing."""
    if _allowed and not is_installed():
        _say_what_is_missing()
    return _allowed and is_installed()


@cache
def _say_what_is_missing() -> None:
    _log.info("Fused kernels are %s.", state())


def state() -> str:
    """Return one line for people: whether the kernels are in use, and if not, why."""
    if not is_installed():
        return "not in use: numba is missing, pip install 'equiflow-lattice[fast]'"
    return "in use" if _allowed else f"switched off by {SWITCH}=0"


@contextmanager
def switched(on: bool) -> Iterator[None]:
    """Use the fused kernels, or leave them out, within a `with` block.

    Args:
        on: whether they are used where they fit. Without numba they never are.
    """
    global _allowed
    before, _allowed = _allowed, on
    try:
        yield
    finally:
        _allowed = before


@cache
def announce(what: str) -> None:
    """Write to the log, once per process, that kernels for `what` are used and are being compiled."""
    _log.info("Fused kernels for %s are in use; the first call compiles them and keeps them on disk.", what)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel on its first call. The machine code is kept on disk and used again.

    The kernel releases the interpreter lock, and does not check indices.
    """
    return _compiled(function)


def jit_within(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that only kernels call, which spares the code that Python would need."""
    return _compiled(function, no_cpython_wrapper=True)


def jit_as(name: str, *, within: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return `jit` for a function that another one defines, which is kept on disk under a name of its own.

    Args:
        name: tells apart what is made by the same lines; without it one would be taken for the other.
        within: whether only kernels call it, see `jit_within`.

    Returns:
        A decorator.
    """

    def named(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__qualname__ = name.replace(" ", "_")
        return jit_within(function) if within else jit(function)

    return named


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that LLVM merges into each kernel that calls it."""
    return _compiled(function, forceinline=True, no_cpython_wrapper=True)


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    import numba
    from numba.core.caching import FunctionCache

    if function.__closure__ and "<locals>" in function.__qualname__:
        raise ValueError(
            f"The machine code of {function.__qualname__} would be taken for that of others made by the same "
            "lines; name it by jit_as."
        )

    class OfTheseSources(FunctionCache):
        """The cache on disk, with the sources of all kernels in its keys.

        numba looks at the file of a function alone, and would go on with old code of what it calls. Functions
        of other functions it would not find again, because it writes their closures out with random numbers.
        """

        def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
            return signature, codegen.magic_tuple(), _sources()

    njit: Any = numba.njit  # its annotations miss options
    rules = {"fastmath": FAST_MATH, "error_model": "numpy", "boundscheck": False, "nogil": True}
    make = njit(no_cfunc_wrapper=True, **rules, **options)
    compiled = make(function)
    with suppress(RuntimeError):  # no folder to write to: the kernel is compiled by every process
        compiled._cache = OfTheseSources(function)
    return compiled


@cache
def _sources() -> str:
    """Return a hash of all files of this folder."""
    content = (path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(b"".join(content)).hexdigest()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="equiflow")


def in_parallel(kernel: Callable[[int, int], None], batch: int, sites: int) -> None:
    """Call `kernel(start, stop)` for all configurations, split over `torch.get_num_threads()` threads.

    Args:
        kernel: works on the configurations from `start` to `stop`; must be independent of all others.
        batch: number of configurations.
        sites: number of sites of each.
    """
    threads = min(torch.get_num_threads(), batch, max(1, batch * sites // MIN_SITES_PER_THREAD))
    if threads == 1:
        kernel(0, batch)
        return
    bounds = [batch * part // threads for part in range(threads + 1)]
    for done in [_pool(threads).submit(kernel, start, stop) for start, stop in pairwise(bounds)]:
        done.result()
