"""The building blocks of a config: sections, their keys, and tables that come in several kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema


class Section(BaseModel):
    """A table of a config file: it refuses unknown keys and wrong types, and never changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class KindSection(Section):
    """A table that comes in several kinds, which its key `kind` tells apart."""

    kind: str = ""


@dataclass(frozen=True)
class OneOf:
    """Annotation of a table that comes in several kinds: `Annotated[KindSection, OneOf(kinds)]`.

    Attributes:
        kinds: the section of each kind by its name; the first is meant where a table has no `kind`.
    """

    kinds: Mapping[str, type[KindSection]]

    def kind_in(self, table: Any) -> Any:
        """Return the kind that a table names, by default the first one."""
        if isinstance(table, dict):
            return table.get("kind", next(iter(self.kinds)))
        return getattr(table, "kind", None)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Tell pydantic to choose the section by the kind."""
        choices = {name: handler.generate_schema(section) for name, section in self.kinds.items()}
        return core_schema.tagged_union_schema(choices, discriminator=self.kind_in)


def key(default: Any, text: str, **bounds: Any) -> Any:
    """Return a key of a section that has a default.

    Args:
        default: its value where a file does not give it.
        text: what it means, in a few words.
        bounds: pydantic's, such as `ge=1`.

    Returns:
        What pydantic takes as the definition of a field.
    """
    return Field(default, description=text, **bounds)


def required(example: Any, text: str, **bounds: Any) -> Any:
    """Return a key of a section that every file must give, such as a coupling.

    Args:
        example: a value for the printed defaults.
        text: what it means, in a few words.
        bounds: pydantic's, such as `ge=1`.

    Returns:
        What pydantic takes as the definition of a field.
    """
    return Field(description=text, examples=[example], **bounds)
