"""What every section of a config file is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field


class Section(BaseModel):
    """Keys that are known, of the right type, and never changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def key(default: Any, text: str, **bounds: Any) -> Any:
    """A key with a default and a meaning."""
    return Field(default, description=text, **bounds)


def required(example: Any, text: str, **bounds: Any) -> Any:
    """A key without default: the physics is never chosen for the user."""
    return Field(description=text, examples=[example], **bounds)


def kind(default: str) -> Discriminator:
    """Which member of a union a table means by its key `kind`."""
    return Discriminator(
        lambda table: table.get("kind", default) if isinstance(table, dict) else getattr(table, "kind", None)
    )
