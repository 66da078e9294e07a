"""Sections made from classes of the library: a key for each option, with its type, default and text.

`section_of` makes the section; `DerivedSection.options` returns the values as keyword arguments of the class.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Container, Mapping
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import create_model

from equiflow.cli.config.section import KindSection, key, required
from equiflow.runtime.options import REQUIRED, Option, options_of

#: characters from which on a text ends at its first colon or semicolon, so that it fits behind its key
LONG_TEXT = 110


class DerivedSection(KindSection):
    """A section whose keys are the options of a class of the library, perhaps among others."""

    #: the class
    stands_for: ClassVar[Any]
    #: the keys that its constructor takes
    option_names: ClassVar[tuple[str, ...]] = ()
    #: those among them that are lists in a file and tuples in Python
    tuple_names: ClassVar[frozenset[str]] = frozenset()

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for the class."""
        values = {name: getattr(self, name) for name in self.option_names}
        tuples = {name for name in self.tuple_names if isinstance(values[name], list)}
        return values | {name: tuple(values[name]) for name in tuples}


S = TypeVar("S", bound=DerivedSection)


def section_of(
    cls: type,
    kind: str,
    base: type[S],
    *,
    about: str,
    without: Container[str] = (),
    examples: Mapping[str, object] | None = None,
    more: Mapping[str, tuple[Any, Any]] | None = None,
) -> type[S]:
    """Return a section whose keys are the options of a class.

    Args:
        cls: the class.
        kind: the name that `kind` gives the section.
        base: the section to extend; its keys can be options as well.
        about: what the key `kind` means.
        without: options that are no keys.
        examples: values that stand for options without default where defaults are shown.
        more: further keys, each its type and what `key` or `required` returns.

    Returns:
        The section; its docstring is the first sentence about the class.
    """
    options = [option for option in options_of(cls) if option.name not in without]
    keys: dict[str, Any] = {"kind": (Literal[kind], key(kind, about)), **(more or {})}
    keys |= {option.name: _key_of(option, examples or {}) for option in options}
    doc = f"`{cls.__name__}`: {first_sentence(inspect.getdoc(cls) or '')}."
    section: type[S] = create_model(
        f"{cls.__name__}Section", __base__=base, __doc__=doc, __module__=__name__, **keys
    )
    section.stands_for = cls
    taken = inspect.signature(cls).parameters
    section.option_names = tuple(name for name in section.model_fields if name in taken)
    section.tuple_names = frozenset(o.name for o in options if _is_tuple(o.annotation))
    return section


def keys_of(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return the options of a class as keys: by name their type, and what `key` or `required` returns."""
    return {option.name: _key_of(option, {}) for option in options_of(cls)}


def first_sentence(text: str) -> str:
    """Return the first sentence of a text on one line, without its full stop."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"\.(?= [A-Z`]|$)", paragraph)[0]


def _key_of(option: Option, examples: Mapping[str, object]) -> tuple[Any, Any]:
    """Return an option as the type and the definition of a key."""
    text = first_sentence(option.text)
    if len(text) > LONG_TEXT:
        text = re.split("[;:] ", text)[0]
    kind = _in_files(option.annotation)
    if option.default is REQUIRED and kind is int:  # a count
        return kind, required(examples.get(option.name, 2), text, ge=1)
    if option.default is REQUIRED:
        return kind, required(examples.get(option.name, 1.0), text)
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    return kind, key(default, text)


def _in_files(annotation: Any) -> Any:
    """Return the type of an option in TOML: lists for tuples, one name or several for any object."""
    if annotation is object:
        return str | list[str]
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(map(_in_files, get_args(annotation)))]  # noqa: UP007 - a union of a tuple
    if get_origin(annotation) is tuple:
        return list[get_args(annotation)[0]]  # type: ignore[misc]
    return annotation


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(map(_is_tuple, get_args(annotation)))
