"""Options of a class: what its constructor takes, what it means, and what an instance was built with.

Start with `RecordsOptions`, the base class of everything that a saved flow rebuilds from its options, and
with `options_of`, which lists the options of a class together with their documentation.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from types import MappingProxyType
from typing import Any, get_type_hints

from equiflow.runtime.checks import plain

#: the default of an option that has none
REQUIRED = Parameter.empty

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Option:
    """An option of a class.

    Attributes:
        name: the keyword of the constructor.
        annotation: its type, such as `int` or `int | None`.
        default: its value unless given, or `REQUIRED`.
        text: its entry under `Args:` in the docstring of the class, on one line; empty if there is none.
    """

    name: str
    annotation: Any
    default: Any
    text: str


def options_of(cls: type) -> tuple[Option, ...]:
    """Return the options that the constructor of a class takes, in the order of its signature.

    Every parameter is an option except the first positional one (the lattice or another space), `group`,
    and `*args` and `**kwargs`.

    Args:
        cls: the class; its docstring, or else the docstring of its constructor, has a Google-style `Args:`.

    Returns:
        One `Option` for each of them.

    >>> class Walk(RecordsOptions):
    ...     '''A walk on a lattice.
    ...
    ...     Args:
    ...         lattice: where it happens.
    ...         n_steps: number of steps.
    ...     '''
    ...
    ...     def __init__(self, lattice: object, *, n_steps: int = 4) -> None: ...
    >>> options_of(Walk)
    (Option(name='n_steps', annotation=<class 'int'>, default=4, text='number of steps.'),)
    """
    construct = cls.__init__  # type: ignore[misc]
    parameters = _option_parameters(construct)
    if not parameters:
        return ()
    annotations, texts = get_type_hints(construct), _documented(cls)
    return tuple(
        Option(p.name, annotations.get(p.name, Any), p.default, texts.get(p.name, "")) for p in parameters
    )


class RecordsOptions:
    """A class whose instances know the options that they were built with.

    An instance records the arguments of its own class's constructor, positional or not, with defaults filled
    in and numbers of numpy as Python's. `options_of` says which parameters count as options. Arguments that
    a subclass passes on to `super().__init__` are not recorded. Recording costs nothing after construction.

    >>> class Walk(RecordsOptions):
    ...     def __init__(self, lattice, n_steps=4, *, seed=0): ...
    >>> Walk("a lattice", 8).config()
    {'n_steps': 8, 'seed': 0}
    """

    #: values by name; `...` stands for a value that is not plain and cannot be written to a file
    _options: Mapping[str, object] = MappingProxyType({})

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    def config(self) -> dict[str, object]:
        """Return the keyword arguments that rebuild this object on the same space and group.

        Options whose values are not plain (modules, functions) are left out. Override this method if such a
        value has a plain form, or call `_record` in the constructor.
        """
        return {name: value for name, value in self._options.items() if value is not ...}

    def _record(self, **values: object) -> None:
        """Replace recorded values of options by the values that a constructor has derived from them.

        Names that the constructor of the instance's own class does not take are ignored.
        """
        known = {name: _plain_or_dots(value) for name, value in values.items() if name in self._options}
        self._options = {**self._options, **known}


def _recording(construct: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that also records its arguments, unless a subclass calls it."""
    signature = inspect.signature(construct)
    names = [p.name for p in _option_parameters(construct)]
    rest = [p.name for p in signature.parameters.values() if p.kind is Parameter.VAR_KEYWORD]

    @functools.wraps(construct)
    def wrapped(self: RecordsOptions, *args: Any, **options: Any) -> None:
        if type(self).__init__ is wrapped:
            args, options = plain(args), {name: plain(value) for name, value in options.items()}
            try:
                bound = signature.bind(self, *args, **options)
            except TypeError:  # the call itself raises an error that names the constructor
                return construct(self, *args, **options)
            bound.apply_defaults()
            given = {name: bound.arguments[name] for name in names}
            for name in rest:
                given |= {key: value for key, value in bound.arguments[name].items() if key != "group"}
            self._options = {name: _plain_or_dots(value) for name, value in given.items()}
        construct(self, *args, **options)

    return wrapped


def _option_parameters(construct: Callable[..., None]) -> list[Parameter]:
    """Return the parameters of a constructor that count as options."""
    parameters = list(inspect.signature(construct).parameters.values())[1:]
    if parameters and parameters[0].kind in _POSITIONAL:
        parameters = parameters[1:]
    return [p for p in parameters if p.name != "group" and p.kind not in _VARIADIC]


def _plain_or_dots(value: object) -> object:
    """Return a plain value itself, and `...` for any other value."""
    return value if _is_plain(value) else ...


def _is_plain(value: object) -> bool:
    """Return whether a value consists of numbers, strings, None, tuples, lists and dicts alone."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def _documented(cls: type) -> dict[str, str]:
    """Return the entries under `Args:` of the docstring of a class, or of its constructor, by name."""
    for documented in (cls, cls.__init__):  # type: ignore[misc]
        lines = (inspect.getdoc(documented) or "").splitlines()
        if "Args:" in lines:
            return _entries(lines[lines.index("Args:") + 1 :])
    return {}


def _entries(lines: list[str]) -> dict[str, str]:
    """Return the entries `name: text` of an indented block, each on one line, by name."""
    texts: dict[str, str] = {}
    name = ""
    for line in lines:
        if line and not line.startswith(" "):
            break
        start = re.match(r" {4}(\w+)(?: \(.*?\))?: +(.*)", line)
        if start:
            name, texts[start[1]] = start[1], start[2].strip()
        elif name and line.strip():
            texts[name] += " " + line.strip()
    return texts
