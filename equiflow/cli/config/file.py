"""Config files: read with messages that name file, section and nearest valid key; written with comments."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from equiflow.cli.config.schema import KINDS, LISTS, Config
from equiflow.cli.config.section import Section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


#: what TOML has no word for, or another
_WORDS = {"none": None, "true": True, "false": False}


class ConfigError(ValueError):
    """A config that cannot be run, in words for the one who wrote it."""


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a config file.

    Args:
        path: a TOML file.
        overrides: `"section.key=value"`, instead of what the file says; `none` is no value.

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
    for given in [_override(content, override) for override in overrides]:
        given.settle(content)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        # A key of several types has a complaint for each: the first will do.
        found: dict[str, str] = {}
        for e in error.errors(include_url=False):
            place = Place.of(e["loc"])
            found.setdefault(place.name, _explain(e["type"], place, e["msg"], e["input"]))
        raise ConfigError("\n".join(f"{source}: {line}" for line in found.values())) from error


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}.") from error


@dataclass(frozen=True)
class Override:
    """A key that is set from outside of a file.

    Attributes:
        table: that the key is in.
        key: its name there.
        path: names and indices from the config to the table.
        readings: what the value can mean, in the order of trying; the last is kept if none will do.
    """

    table: dict[str, Any]
    key: str
    path: tuple[str | int, ...]
    readings: list[object]

    def settle(self, content: dict[str, Any]) -> None:
        """Take the first reading that the config `content` has nothing against."""
        for reading in self.readings:
            self.table[self.key] = reading
            if not _refused(content, (*self.path, self.key)):
                return


def _override(content: dict[str, Any], override: str) -> Override:
    """Put the first reading of a value into the config."""
    name, equals, value = override.partition("=")
    *path, key = (part.strip() for part in name.split("."))
    is_list = key in LISTS and key in Config.model_fields
    if not (equals and all(path) and key and (path or is_list)):
        raise ConfigError(f"--set {override!r}: write section.key=value, such as training.steps=100.")
    table: Any = content
    for above, part in zip(["", *path], path, strict=False):
        if isinstance(table, list):
            if not (part.isdecimal() and 1 <= int(part) <= len(table)):
                raise ConfigError(
                    f"--set {override!r}: {part} is none of the {len(table)} tables, from 1 on."
                )
            table = table[int(part) - 1]
        elif part in LISTS and part not in table:
            kinds = [kind.model_fields["kind"].default for kind in _kinds_with(part, above)]
            also = f", and {above}.kind={kinds[0]}" if kinds else ""
            named = f"{above}.{part}".strip(".")
            raise ConfigError(
                f"--set {override!r}: there is no [[{named}]]. Write it into the file, or "
                f"--set '{named}=[{{...}}]' before{also}."
            )
        else:
            table = table.setdefault(part, {})
        if not isinstance(table, (dict, list)):
            raise ConfigError(f"--set {override!r}: {part} is no section of the config.")
    if not isinstance(table, dict):
        raise ConfigError(f"--set {override!r}: say which table, such as {path[-1]}.1.{key}={value}.")
    readings = _readings(value)
    table[key] = readings[0]
    return Override(table, key, tuple(int(p) - 1 if p.isdecimal() else p for p in path), readings)


def _readings(value: str) -> list[object]:
    """What a value can mean; messages speak of the last."""
    word = value.strip()
    try:
        parsed = _toml(f"value = {value}", "")["value"]
    except ConfigError:  # a bare word: quotes do not survive every shell
        return [*([_WORDS[word.lower()]] if word.lower() in _WORDS else []), word]
    # A folder can have a number or a date for its name.
    return [parsed] if isinstance(parsed, str) else [parsed, word, parsed]


def _refused(content: dict[str, Any], location: tuple[str | int, ...]) -> bool:
    """Whether something is wrong with the value of a key, whatever else is."""
    try:
        Config.model_validate(content)
    except ValidationError as error:
        found = [e["loc"] for e in error.errors(include_url=False)]
        # Pydantic's path has kinds and types in between; that of a wrong kind ends before its key.
        return any(_passes(one, location) or _passes(location, one) for one in found)
    return False


def _passes(path: tuple[str | int, ...], stations: tuple[str | int, ...]) -> bool:
    """Whether the stations are in the path, in their order."""
    rest = iter(path)
    return all(station in rest for station in stations)


@dataclass(frozen=True)
class Place:
    """Where in a config something is wrong.

    Attributes:
        section: name of the innermost table: a section, `ladder`, `parts`.
        title: the same as a user sees it, such as `[[ladder]] 2`.
        model: what the table is, if that is known.
        keys: the key in it, and the index of an entry if the key is a list; empty for the table itself.
    """

    section: str
    title: str
    model: type[Section] | None
    keys: tuple[str, ...]

    @classmethod
    def of(cls, location: tuple[int | str, ...]) -> Place:
        """From pydantic's path of keys, indices and kinds."""
        section, *rest = map(str, location)
        title, model = f"[{section}]", None
        while True:
            if section in LISTS and rest and rest[0].isdecimal():
                title = f"[{title}] {int(rest.pop(0)) + 1}"
            if section in KINDS:
                if not rest:
                    return cls(section, title, None, ())
                tag = rest.pop(0)
                model = next(kind for kind in KINDS[section] if kind.model_fields["kind"].default == tag)
            elif section in Config.model_fields:
                (model,) = _models(section)
            if not (rest and rest[0] in LISTS):
                break
            title, section = f"{title[:-1]}.{rest[0]}]", rest.pop(0)
        # After a key come indices, and pydantic's names of the types that it can have.
        inner = [name for n, name in enumerate(rest) if n == 0 or name.isdecimal()]
        return cls(section, title, model, tuple(inner))

    @property
    def name(self) -> str:
        """Table and key, for messages."""
        return " ".join([self.title, ".".join(self.keys)]) if self.keys else self.title


def _explain(kind: str, place: Place, message: str, given: object) -> str:
    """One complaint of pydantic in our words."""
    if not place.keys:
        return _explain_table(kind, place, given)
    assert place.model is not None
    known, (key, *_) = place.model.model_fields, place.keys
    if kind == "extra_forbidden":
        return f"{place.title} {key}: unknown key{_nearest(key, known, place.section)}"
    text = known[key].description if key in known else place.model.__doc__
    if kind == "missing":
        return f"{place.name} is missing ({text}): it has no default."
    if kind == "bool_type":
        message += ", true or false"
    return f"{place.name} = {_shown(given)}: {message[:1].lower()}{message[1:]}; expected: {text}."


def _explain_table(kind: str, place: Place, given: object) -> str:
    section = place.section
    # An entry has its number behind the brackets already.
    title = f"[{place.title}]" if section in LISTS and place.title.endswith("]") else place.title
    if kind == "missing":
        return f"section {title} is missing: it has no default. `equiflow config` shows it."
    if kind == "extra_forbidden":
        return f"{section}: unknown section{_nearest(section, Config.model_fields, None)}"
    if kind == "union_tag_invalid":
        known = [str(member.model_fields["kind"].default) for member in KINDS[section]]
        wrong = given.get("kind") if isinstance(given, dict) else given
        hint = _suggestion(wrong if isinstance(wrong, str) else "", known) or "."
        return f"{place.title} kind = {_shown(wrong)}: expected {' or '.join(known)}{hint}"
    expected = "a section" if section not in LISTS else "tables" if title.endswith("]]") else "a table"
    return f"{section} = {_shown(given)}: expected {expected} {title} with keys."


def _nearest(name: str, known: Iterable[str], section: str | None) -> str:
    """What may have been meant: a similar name here, or the same name in another section or kind."""
    known = list(known)
    if section is not None:
        own = [kind.model_fields["kind"].default for kind in _kinds_with(name, section)]
        if own:
            return f"; it belongs to kind = {' or '.join(map(_shown, own))}."
    elsewhere = [_header(other) for other, _, key, _ in every_key() if key == name and other != section]
    if elsewhere:
        return f"; it belongs to {' or '.join(dict.fromkeys(elsewhere))}."
    return f"{_suggestion(name, known) or '.'} Known here: {', '.join(known)}."


def _kinds_with(key: str, section: str) -> list[type[Section]]:
    """The kinds of a section that have a key."""
    return [kind for kind in KINDS.get(section, ()) if key in kind.model_fields]


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
    if section in LISTS:
        return LISTS[section]
    model = Config.model_fields[section].annotation
    assert isinstance(model, type)
    return (model,)


def render(config: Config) -> str:
    """The config as TOML with every key that it uses and what it means; reading it gives it back.

    Sections that a start from a trained flow replaces are left out.
    """
    return "\n".join(
        line for name in sections_of(config) for line in _table(f"[{name}]", getattr(config, name))
    )


def _table(header: str, value: Section | Sequence[Section]) -> list[str]:
    """A section, or several of one name, as lines of TOML."""
    if not isinstance(value, Section):
        return [line for one in value for line in _table(f"[{header}]", one)]
    lines = [header, *_lines(type(value), dict(value)), ""]
    for key in LISTS.keys() & type(value).model_fields.keys():
        lines += _table(f"{header[:-1]}.{key}]", getattr(value, key))
    return lines


def sections_of(config: Config) -> list[str]:
    """Names of the sections that take part in a run."""
    replaced = {"field", "prior", "symmetry"} if config.start.flow is not None else set()
    return [name for name in Config.model_fields if name not in replaced]


def render_defaults() -> str:
    """Every key of every section with its default and meaning, ready to be edited."""
    lines = ["# Every key of an equiflow config. What has no default is marked as required.", ""]
    for name in Config.model_fields:
        for model in _models(name):
            shown = _example(_header(name), model)
            # One table of each name can be in force, and there is no ladder unless one is asked for.
            comment = model is not _models(name)[0] or name in LISTS
            lines += [f"# {line}".rstrip(" #") if comment else line for line in shown]
    return "\n".join(lines)


def _example(header: str, model: type[Section]) -> list[str]:
    """Every key of a table with its default, or an example of what has none."""
    values = {
        key: described.examples[0] if described.is_required() and described.examples else described.default
        for key, described in model.model_fields.items()
    }
    first, *rest = _table(header, model.model_construct(**values))
    return [f"{first}  # {(model.__doc__ or '').strip().splitlines()[0]}", *rest]


def _header(name: str) -> str:
    return f"[[{name}]]" if name in LISTS else f"[{name}]"


def _lines(model: type[Section], values: Mapping[str, Any]) -> list[str]:
    lines = []
    # What a table is comes first, whatever its keys are inherited from.
    for key, described in sorted(model.model_fields.items(), key=lambda item: item[0] != "kind"):
        if key in LISTS:
            continue
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
