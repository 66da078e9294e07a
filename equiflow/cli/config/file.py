"""Config files: read, with messages that name the file, the section and the key. Start with `load_config`."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from equiflow.cli.config.errors import ConfigError, complaints
from equiflow.cli.config.overrides import apply_overrides
from equiflow.cli.config.schema import Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a config file.

    Args:
        path: a TOML file.
        overrides: `"section.key=value"`, instead of what the file says; `none` is no value.

    Returns:
        The config, with defaults for what the file leaves out.

    Raises:
        ConfigError: if the file is missing or no TOML, or a key is unknown, missing or ill-typed.
    """
    try:
        text = _decoded(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. `equiflow config` prints one."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text file in UTF-8. `equiflow config` prints a config.") from error
    return parse_config(text, source=str(path), overrides=overrides)


def _decoded(content: bytes) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with its mark, as PowerShell writes outputs.

    Line ends become those of Python.
    """
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if marked else "utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_config(text: str, *, source: str, overrides: Iterable[str] = ()) -> Config:
    """Read a config from the text of a TOML file.

    Args:
        text: the content of the file.
        source: name of the file in messages.
        overrides: `"section.key=value"`, instead of what the text says.

    Returns:
        The config, with defaults for what the text leaves out.

    Raises:
        ConfigError: if the text is no TOML, or a key is unknown, missing or ill-typed.
    """
    try:
        content = tomllib.loads(text.removeprefix("\ufeff"))  # some editors mark files in UTF-8
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}.") from error
    apply_overrides(content, overrides)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        found = [complaint.text for complaint in complaints(content)] or [str(error)]
        raise ConfigError("\n".join(f"{source}: {text}" for text in found)) from error
