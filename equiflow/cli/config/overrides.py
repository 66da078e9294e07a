"""Keys that are set from outside of a config file: `--set section.key=value`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from equiflow.cli.config.errors import ConfigError, Path, complaints, kinds_with
from equiflow.cli.config.schema import LISTS, Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: words for values that TOML has no word for, or writes otherwise
WORDS = {"none": None, "true": True, "false": False}


def apply_overrides(content: dict[str, Any], overrides: Iterable[str]) -> None:
    """Put values into the content of a config file.

    Args:
        content: tables and keys; changed in place.
        overrides: `"section.key=value"`; `none` is no value. Quotes around words are not needed.

    Raises:
        ConfigError: if one of them names no key.
    """
    for given in [_put(content, override) for override in overrides]:
        given.settle(content)


@dataclass(frozen=True)
class _Given:
    """A key that was set.

    Attributes:
        table: the table with the key.
        path: from the config to the key.
        readings: what the value can mean; the last one is kept if the config allows none.
    """

    table: dict[str, Any]
    path: Path
    readings: list[object]

    def settle(self, content: dict[str, Any]) -> None:
        """Take the first reading that the config has nothing against."""
        for reading in self.readings:
            self.table[str(self.path[-1])] = reading
            if not any(found.path[: len(self.path)] == self.path for found in complaints(content)):
                return


def _put(content: dict[str, Any], override: str) -> _Given:
    """Put the first reading of a value into the config."""
    name, equals, value = override.partition("=")
    *above, key = (part.strip() for part in name.split("."))
    is_list = key in LISTS and key in Config.model_fields
    if not (equals and all(above) and key and (above or is_list)):
        raise ConfigError(f"--set {override!r}: write section.key=value, such as training.steps=100.")
    table: Any = content
    for depth, part in enumerate(above):
        table = _inside(table, part, above[:depth], override)
    if not isinstance(table, dict):
        raise ConfigError(f"--set {override!r}: say which table, such as {above[-1]}.1.{key}={value}.")
    readings = _readings(value)
    table[key] = readings[0]
    path = tuple(int(part) - 1 if part.isdecimal() else part for part in above)
    return _Given(table, (*path, key), readings)


def _inside(table: Any, part: str, above: list[str], override: str) -> Any:
    """Return the table of this name or number in a table or list of tables."""
    if isinstance(table, list):
        if not (part.isdecimal() and 1 <= int(part) <= len(table)):
            raise ConfigError(f"--set {override!r}: {part} is none of the {len(table)} tables, from 1 on.")
        return table[int(part) - 1]
    if part in LISTS and part not in table:
        named = ".".join([*above, part])
        kinds = kinds_with(part, above[-1]) if above else []
        also = f", and {above[-1]}.kind={kinds[0]}" if kinds else ""
        raise ConfigError(
            f"--set {override!r}: there is no [[{named}]]. Write it into the file, or "
            f"--set '{named}=[{{...}}]' before{also}."
        )
    found = table.setdefault(part, {})
    if not isinstance(found, (dict, list)):
        raise ConfigError(f"--set {override!r}: {part} is no section of the config.")
    return found


def _readings(value: str) -> list[object]:
    """Return the meanings of a value in the order of trying; messages are about the last one."""
    word = value.strip()
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:  # a bare word: quotes do not survive every shell
        return [*([WORDS[word.lower()]] if word.lower() in WORDS else []), word]
    # A folder can have a number or a date for its name.
    return [parsed] if isinstance(parsed, str) else [parsed, word, parsed]
