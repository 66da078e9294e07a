"""Config files: read with messages that name file, section and nearest valid key; written with comments."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from equiflow.cli.config import KINDS, Config, Section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(ValueError):
    """A config that cannot be run, in words for the one who wrote it."""


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a config file.

    Args:
        path: a TOML file.
        overrides: `"section.key=value"`, instead of what the file says.

    Raises:
        ConfigError: if the file is missing or no TOML, or a key is unknown, missing or ill-typed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. `equiflow config` prints one."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text file in UTF-8. `equiflow config` prints a config.") from error
    return parse_config(text, source=str(path), overrides=overrides)


def parse_config(text: str, *, source: str, overrides: Iterable[str] = ()) -> Config:
    """A config from the text of a TOML file; `source` is how messages call it."""
    content = _toml(text, source)
    for override in overrides:
        _override(content, override)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        lines = [_explain(e["type"], e["loc"], e["msg"], e["input"]) for e in error.errors(include_url=False)]
        raise ConfigError("\n".join(f"{source}: {line}" for line in lines)) from error


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}.") from error


def _override(content: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(f"--set {override!r}: write section.key=value, such as training.steps=100.")
    try:
        parsed = _toml(f"value = {value}", override)["value"]
    except ConfigError:  # a bare word: quotes do not survive every shell
        parsed = value.strip()
    table = content.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"--set {override!r}: {section} is no section of the config.")
    table[key] = parsed


def _explain(kind: str, location: tuple[int | str, ...], message: str, given: object) -> str:
    """One complaint of pydantic in our words."""
    section, *inner = (str(part) for part in location)
    if len(location) == 1:
        return _explain_section(kind, section, message, given)
    if section in KINDS:
        tag, *inner = inner
        model = next(member for member in KINDS[section] if member.model_fields["kind"].default == tag)
    else:
        (model,) = _models(section)
    key = inner[0] if inner else ""
    where = f"[{section}] {'.'.join(inner)}"
    if kind == "extra_forbidden":
        return f"[{section}] {key}: unknown key{_nearest(key, model.model_fields, section)}"
    text = model.model_fields[key].description if key in model.model_fields else model.__doc__
    if kind == "missing":
        return f"{where} is missing ({text}): it has no default."
    return f"{where} = {_shown(given)}: {message[:1].lower()}{message[1:]}; expected: {text}."


def _explain_section(kind: str, section: str, message: str, given: object) -> str:
    if kind == "missing":
        return f"section [{section}] is missing: it has no default. `equiflow config` shows it."
    if kind == "extra_forbidden":
        return f"{section}: unknown section{_nearest(section, Config.model_fields, None)}"
    if kind == "union_tag_invalid":
        known = [str(member.model_fields["kind"].default) for member in KINDS[section]]
        wrong = given.get("kind") if isinstance(given, dict) else given
        hint = _suggestion(str(wrong), known) or "."
        return f"[{section}] kind = {_shown(wrong)}: expected {' or '.join(known)}{hint}"
    return f"{section} = {_shown(given)}: expected a section [{section}] with keys."


def _nearest(name: str, known: Iterable[str], section: str | None) -> str:
    """What may have been meant: a similar name here, or the same name in another section."""
    known = list(known)
    elsewhere = [f"[{other}]" for other, _, key, _ in every_key() if key == name and other != section]
    if elsewhere:
        return f"; it belongs to {' or '.join(dict.fromkeys(elsewhere))}."
    return f"{_suggestion(name, known) or '.'} Known here: {', '.join(known)}."


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def every_key() -> Iterator[tuple[str, type[Section], str, Any]]:
    """All keys that there are: section, its model, key and pydantic's description of it."""
    for section in Config.model_fields:
        for model in _models(section):
            for key, described in model.model_fields.items():
                yield section, model, key, described


def _models(section: str) -> tuple[type[Section], ...]:
    """What a section can be, its default first."""
    if section in KINDS:
        return KINDS[section]
    model = Config.model_fields[section].annotation
    assert isinstance(model, type)
    return (model,)


def render(config: Config) -> str:
    """The config as TOML with every key that it uses and what it means; reading it gives it back.

    Sections that a start from a trained flow replaces are left out.
    """
    return "\n".join(
        line
        for name in sections_of(config)
        for line in [f"[{name}]", *_lines(type(getattr(config, name)), dict(getattr(config, name))), ""]
    )


def sections_of(config: Config) -> list[str]:
    """Names of the sections that take part in a run."""
    replaced = {"field", "prior", "symmetry"} if config.start.flow is not None else set()
    return [name for name in Config.model_fields if name not in replaced]


def render_defaults() -> str:
    """Every key of every section with its default and meaning, ready to be edited."""
    lines = ["# Every key of an equiflow config. What has no default is marked as required.", ""]
    for name in Config.model_fields:
        default, *others = _models(name)
        lines += [f"[{name}]  # {_summary(default)}", *_lines(default, _defaults(default)), ""]
        for other in others:
            shown = [f"[{name}]  # {_summary(other)}", *_lines(other, _defaults(other))]
            lines += [*(f"# {line}" for line in shown), ""]
    return "\n".join(lines)


def _summary(model: type[Section]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _defaults(model: type[Section]) -> dict[str, Any]:
    return {
        key: described.examples[0] if described.is_required() and described.examples else described.default
        for key, described in model.model_fields.items()
    }


def _lines(model: type[Section], values: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, described in model.model_fields.items():
        value = values[key]
        # TOML has no null: a key without value is shown as a comment.
        entry = f"# {key} =" if value is None else f"{key} = {_shown(value)}"
        required = "required: " if described.is_required() else ""
        lines.append(f"{entry:<28}  # {required}{described.description}")
    return lines


def _shown(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value)
