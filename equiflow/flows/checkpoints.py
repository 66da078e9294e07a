"""Files of flows: `SavedModule` writes and reads them, and `SavedFlow` does so for every `Flow`.

A file holds tensors and plain values, so that loading runs no code from the file. Start with
`SavedModule.load`.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from equiflow.flows.about import About
from equiflow.flows.descriptions import check_rebuilds
from equiflow.flows.parts import UnknownPartError, dtype_name, dtype_named
from equiflow.runtime.devices import UNCOUNTABLE
from equiflow.runtime.storage import CheckpointError, is_of_system, load_safely, save_atomically
from equiflow.statistics import Estimate
from equiflow.statistics.tables import ShownAsTable

S = TypeVar("S", bound="SavedModule")
G = TypeVar("G", bound="SavedFlow")


class UnknownOptionError(TypeError):
    """`load` was given an option that the flow in the file does not take."""


class SavedModule(ShownAsTable, nn.Module, ABC):
    """A module that is saved to one file and rebuilt from it. `print` shows what it is made of.

    Subclasses fill in `to_dict` and `from_dict`.
    """

    #: what a file says that it holds
    file_kind: ClassVar[str] = "flow"
    #: submodules that had another name in version 0.1: the old name and the new one
    renamed: ClassVar[Mapping[str, str]] = {}
    #: see `about`
    _about: Mapping[str, Any] = MappingProxyType({})

    # The modules inside of it as torch writes them: checkpoints of training compare them.
    __repr__ = nn.Module.__repr__

    @property
    def about(self) -> dict[str, Any]:
        """What a file should say about the flow: plain values by name, saved and loaded with it.

        `print(flow.about)` shows a table.
        """
        if not isinstance(self._about, About):
            self._about = About(self._about)
        return self._about

    @about.setter
    def about(self, values: Mapping[str, Any]) -> None:
        self._about = About(values)

    def _rows(self) -> dict[str, object]:
        """Return what the flow is made of, and what is known about it."""
        rows: dict[str, object] = {"flow": type(self).__name__}
        for name in ("space", "group", "couplings", "solver"):
            if getattr(self, name, None) is not None:
                rows[name] = getattr(self, name)
        rows |= {name.replace("_", " "): _kind(part) for name, part in self.named_children()}
        tensors = list(self.parameters())
        trained = sum(one.numel() for one in tensors if one.requires_grad)
        kinds = sorted({f"{dtype_name(one.dtype)} on {one.device}" for one in tensors})
        rows["parameters"] = ", ".join([str(trained), *kinds])
        known = self.about
        rows |= {"trained on": known["action"]} if "action" in known else {}
        measured = [name for name in known if f"{name}_error" in known]
        return rows | {
            name.replace("_", " "): Estimate(known[name], known[f"{name}_error"]) for name in measured
        }

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return everything that rebuilds the module, as plain values and tensors."""

    @classmethod
    @abstractmethod
    def from_dict(
        cls: type[S], content: dict[str, Any], *, device: torch.device | str = "cpu", **options: Any
    ) -> S:
        """Rebuild the module that `to_dict` describes.

        Args:
            content: what `to_dict` returned.
            device: where the module goes.
            options: see `load`.

        Returns:
            The module with its weights, in its saved dtype.

        Raises:
            Exception: of any type, if `content` does not come from `to_dict`.
        """

    def save(self, path: str | Path) -> None:
        """Write the flow to one file of tensors and plain values; `load` rebuilds it.

        Args:
            path: name of the file. A crash while writing leaves an old file of this name intact.

        Raises:
            TypeError: if the file could not be loaded: a flow, field, prior or space of your own does not say
                how it is rebuilt, or what it says is not enough. Nothing is written then.
        """
        content = self.to_dict()
        self._check_loads(content)
        save_atomically({"kind": self.file_kind, **content}, path)

    def _check_loads(self, content: dict[str, Any]) -> None:
        """Raise a TypeError if `from_dict` would not rebuild the module; parts check themselves."""

    @classmethod
    def load(cls: type[S], path: str | Path, *, device: torch.device | str = "cpu", **options: Any) -> S:
        """Rebuild a saved flow. Loading runs no code from the file.

        `Flow.load` rebuilds a flow of any class, and a subclass rebuilds flows of this class only. A class of
        your own must be defined, or imported, before its flows are loaded.

        | class | options |
        |---|---|
        | `EquivariantCNF`, `ConditionalFlow` | `vector_field`, `prior`, `compile` |
        | `CouplingFlow` | `site_map`, `prior` |
        | `SymplecticFlow`, `AugmentedFlow` | `position`, `momentum` (priors) |
        | `MultiscaleFlow` | `levels`, one `EquivariantCNF` for each |
        | `CanonicalFlow` | `layers` |

        Args:
            path: a file that `save` wrote.
            device: where the flow goes.
            options: a part of your own class is built by you and passed under its name. `load` fills it
                with the saved weights. `compile=True` compiles the vector field, see `EquivariantCNF`.

        Returns:
            The flow with the saved weights, in the saved dtype.

        Raises:
            OSError: if the operating system refuses, for instance a FileNotFoundError or a PermissionError.
            ValueError: if this machine lacks the device.
            CheckpointError: if the file is damaged, holds something else, or names a part that is not
                part of this library.
            TypeError: for an option that the flow in the file does not take.
        """
        content = load_safely(path, cls.file_kind, map_location=device)
        try:
            return cls.from_dict(content, device=device, **options)
        except UnknownOptionError:
            raise
        except UnknownPartError as error:
            raise CheckpointError(f"{path} does not describe a flow by itself: {error}") from error
        except Exception as error:  # a recipe that fits nothing can make constructors raise anything
            # Sides that no computer can count are nonsense in the file, and no lack of memory.
            if is_of_system(error) and not re.search(UNCOUNTABLE, str(error)):
                raise
            raise CheckpointError(f"{path} does not describe a {cls.file_kind}: {error}") from error

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Accept the names of version 0.1, see `renamed`."""
        current = with_current_names(state_dict, self.renamed, prefix)
        state_dict.clear()
        state_dict.update(current)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _kind(part: nn.Module) -> str:
    """Return the class of a part, or those of a list of parts with their numbers."""
    if not isinstance(part, nn.ModuleList):
        return type(part).__name__
    counts = Counter(type(one).__name__ for one in part)
    return ", ".join(f"{n} {name}" for name, n in counts.items())


class SavedFlow(SavedModule):
    """A flow that is saved as a recipe and its weights.

    Subclasses that can be saved fill in `recipe` and `from_recipe`.
    """

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Floating-point type in which the flow computes."""

    def recipe(self) -> dict[str, Any]:
        """Return plain values from which `from_recipe` rebuilds the flow, except for its weights.

        The entry `"flow"` is the name of the class.

        Raises:
            TypeError: if this class of flows cannot be saved.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is rebuilt; override `recipe`.")

    @classmethod
    def from_recipe(cls: type[G], recipe: dict[str, Any]) -> G:
        """Return a flow of this class with fresh weights.

        Overriding methods may add keyword-only options, which `load` passes on.

        Args:
            recipe: what `recipe` returned.

        Raises:
            TypeError: if this class of flows cannot be saved.
        """
        raise TypeError(f"{cls.__name__} does not say how it is rebuilt; override `from_recipe`.")

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe and the weights of the flow, as plain values and tensors."""
        return {
            **self.recipe(),
            "dtype": dtype_name(self.dtype),
            "about": dict(self.about),
            "state_dict": self.state_dict(),
        }

    def _check_loads(self, content: dict[str, Any]) -> None:
        check_rebuilds(self, content, lambda: type(self).from_recipe(content))
        if not self._wrote(content):
            raise TypeError(
                f"{type(self).__name__} cannot be saved, since it would not know its file: recipe returned "
                f'{content.get("flow", "no name")!r} as the entry "flow"; expected the name of the class.'
            )

    @classmethod
    def from_dict(
        cls: type[G], content: dict[str, Any], *, device: torch.device | str = "cpu", **options: Any
    ) -> G:
        """See `SavedModule.from_dict`; the flow is of the class that `content` names."""
        found = cls._class_in(content)
        _check_options(found, options)
        flow = found.from_recipe(content, **options).to(device, dtype_named(content["dtype"]))
        load_weights(flow, content["state_dict"])
        flow.about = dict(content.get("about", {}))
        return flow

    @classmethod
    def _class_in(cls: type[G], content: dict[str, Any]) -> type[G]:
        """Return this class or its subclass that wrote `content`."""
        found = [one for one in _with_subclasses(cls) if not inspect.isabstract(one) and one._wrote(content)]
        name = content.get("flow")
        # A class that a notebook has defined again is the last one of its name.
        if found:
            return next((one for one in reversed(found) if one.__name__ == name), found[0])
        raise ValueError(
            f"it holds a {name or 'flow of another kind'}, not a {cls.__name__} or a class derived from it "
            "that is defined in this program; import the module that defines it first"
        )

    @classmethod
    def _wrote(cls, content: dict[str, Any]) -> bool:
        """Whether `content` comes from `to_dict` of this class."""
        return content.get("flow") == cls.__name__


def _with_subclasses(cls: type[G]) -> Iterator[type[G]]:
    """Yield a class and all classes derived from it, each before its own subclasses."""
    yield cls
    for subclass in cls.__subclasses__():
        yield from _with_subclasses(subclass)


def _check_options(cls: type[SavedFlow], options: dict[str, Any]) -> None:
    """Raise unless `from_recipe` of a class of flows takes these options."""
    parameters = inspect.signature(cls.from_recipe).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UnknownOptionError(
            f"A {cls.__name__} is loaded without the option {', '.join(unknown)}; expected device or one of "
            f"{', '.join(known) or 'none'}."
        )


def with_current_names(
    state: Mapping[str, Any], renamed: Mapping[str, str], prefix: str = ""
) -> dict[str, Any]:
    """Return a state dict whose weights have the names of today.

    Args:
        state: weights by name.
        renamed: see `SavedModule.renamed`.
        prefix: of the names, such as `"template."` for a flow inside of another module.

    Returns:
        The same weights under the names of today.
    """
    current = {}
    for name, weight in state.items():
        for old, new in renamed.items():
            if name.startswith(f"{prefix}{old}."):
                name = f"{prefix}{new}.{name.removeprefix(f'{prefix}{old}.')}"
        current[name] = weight
    return current


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Call `load_state_dict`, but refuse weights of another dtype instead of rounding them.

    Args:
        module: gets the weights.
        state: weights by name.

    Raises:
        ValueError: if a weight has another dtype than the module.
    """
    own = module.state_dict()
    for name, weight in with_current_names(state, getattr(module, "renamed", {})).items():
        if name in own and isinstance(weight, Tensor) and weight.dtype != own[name].dtype:
            raise ValueError(f"{name} has dtype {weight.dtype}; expected {own[name].dtype}")
    module.load_state_dict(state)
