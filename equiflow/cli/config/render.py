"""Configs as TOML with comments: a whole run (`render`), or every key with a default (`render_defaults`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from equiflow.cli.config.schema import LISTS, Config, sections_named
from equiflow.cli.config.section import Section

#: width of `key = value` up to which the comments behind stand in one column
COMMENT_COLUMN = 28


def render(config: Config) -> str:
    """Return the config as TOML, with every key that it uses and what it means; reading it gives it back.

    Sections that a start from a trained flow replaces are left out.
    """
    replaced = {"field", "prior", "symmetry"} if config.start.flow is not None else set()
    names = [name for name in Config.model_fields if name not in replaced]
    return "\n".join(line for name in names for line in _table(f"[{name}]", getattr(config, name)))


def render_defaults() -> str:
    """Return every key of every section with its default and meaning, ready to be edited."""
    lines = ["# Every key of an equiflow config. What has no default is marked as required.", ""]
    for name in Config.model_fields:
        default, *_ = sections = sections_named(name)
        for section in sections:
            # One table of each name can be in force, and there is no ladder unless one is asked for.
            comment = section is not default or name in LISTS
            lines += [f"# {line}".rstrip(" #") if comment else line for line in _example(name, section)]
    return "\n".join(lines)


def header(name: str) -> str:
    """Return the header of a table by its name, in single or double brackets."""
    return f"[[{name}]]" if name.split(".")[-1] in LISTS else f"[{name}]"


def shown(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    return repr(value)


def _table(title: str, value: Section | Sequence[Section]) -> list[str]:
    """Return a table, or several of one name, as lines of TOML."""
    if not isinstance(value, Section):
        return [line for one in value for line in _table(f"[{title}]", one)]
    lines = [title, *_lines(type(value), dict(value)), ""]
    for key in type(value).model_fields:
        if key in LISTS:
            lines += _table(f"{title[:-1]}.{key}]", getattr(value, key))
    return lines


def _lines(section: type[Section], values: Mapping[str, Any]) -> list[str]:
    """Return the keys of a table: its kind, then keys without default, then the rest."""
    order = sorted(
        section.model_fields.items(), key=lambda item: (item[0] != "kind", not item[1].is_required())
    )
    lines = []
    for key, described in order:
        if key in LISTS:
            continue
        value = values[key]
        # TOML has no null: a key without value is shown as a comment.
        entry = f"# {key} =" if value is None else f"{key} = {shown(value)}"
        required = "required: " if described.is_required() else ""
        lines.append(f"{entry:<{COMMENT_COLUMN}}  # {required}{described.description}")
    return lines


def _example(name: str, section: type[Section]) -> list[str]:
    """Return every key of a table with its default, or with an example if it has none."""
    values = {
        key: described.examples[0] if described.is_required() and described.examples else described.default
        for key, described in section.model_fields.items()
    }
    first, *rest = _table(header(name), section.model_construct(**values))
    return [f"{first}  # {(section.__doc__ or '').strip().splitlines()[0]}", *rest]
