"""Symmetry-equivariant continuous normalizing flows for lattice field theory."""

# First, because the other imports take seconds: from here on, Ctrl-C ends a command without a traceback.
from equiflow.runtime import interrupts as _interrupts  # noqa: F401

# isort: split
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from equiflow.runtime.memory import keep_freed_memory as _keep_freed_memory

if _TYPE_CHECKING:
    from equiflow import distributed as distributed
    from equiflow import interop as interop
    from equiflow import presets as presets
    from equiflow.public import *  # noqa: F403

    __version__: str

# Here, because all samplers, measurements and trainings need it, those without a flow too.
_keep_freed_memory()


def __getattr__(name: str) -> _Any:
    """Import everything that `equiflow.public` lists when the first of its names is asked for.

    `equiflow --help` needs none of it, and torch takes seconds.
    """
    if name == "__version__":
        from importlib.metadata import version

        return globals().setdefault(name, version("equiflow-lattice"))
    if name != "__all__" and name.startswith("_"):
        raise AttributeError(f"module 'equiflow' has no attribute {name!r}")
    import equiflow.distributed
    import equiflow.interop
    import equiflow.presets
    from equiflow.public import __all__ as listed

    public = vars(equiflow.public)
    globals().update({one: public[one] for one in listed})
    globals()["__all__"] = [*listed, "__version__", "distributed", "interop", "presets"]
    if name not in globals():
        raise AttributeError(f"module 'equiflow' has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
