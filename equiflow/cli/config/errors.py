"""What is wrong with a config, in words for whoever wrote it: section, key, expected, got, and a remedy.

`complaints` walks through the tables of a config and lets pydantic check each one by itself, so that a
message knows the table that it is about.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from equiflow.cli.config.render import header, shown
from equiflow.cli.config.schema import KINDS, LISTS, Config, every_key, sections_named, with_kinds
from equiflow.cli.config.section import Section

#: what no config describes, by the name that an action or a section may be given: what trains it in Python
TRAINED_IN_PYTHON = {
    **dict.fromkeys(
        ("electrons", "fermions", "thermal"), "fit_thermal_state, as examples/fermions_in_a_trap.py"
    ),
    **dict.fromkeys(
        ("hamiltonian", "chain", "ring", "canonical", "trajectories"),
        "fit on a CanonicalFlow or fit_trajectories, as examples/slow_modes.py",
    ),
    **dict.fromkeys(("path", "segments", "stochastic"), "fit_segments, as benchmarks/stochastic.py"),
    **dict.fromkeys(
        ("levels", "multiscale", "hierarchy"), "fit on a MultiscaleFlow, as examples/neural_rg.py"
    ),
    **dict.fromkeys(("coulomb", "particles"), "fit, as examples/coulomb_gas.py"),
}
#: where in a config something is: names of tables and keys, and indices in lists, from the outside in
Path = tuple[str | int, ...]


class ConfigError(ValueError):
    """A config that cannot be run; the message is for whoever wrote it."""


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong.

    Attributes:
        path: the table or the key that it is about.
        text: the message, without the name of the file.
    """

    path: Path
    text: str


def complaints(content: dict[str, Any]) -> Iterator[Complaint]:
    """Yield what is wrong with the content of a config file, at most one thing for each key."""
    content = with_kinds(content)
    for name in content:
        if name not in Config.model_fields:
            hint = _in_python(name) or _hint(name, Config.model_fields)
            yield Complaint((name,), f"{name}: unknown section{hint}")
    for name, described in Config.model_fields.items():
        if name in content:
            yield from _in_table((name,), content[name])
        elif described.is_required():
            yield _missing((name,))


def kinds_with(key: str, name: str) -> list[str]:
    """Return the kinds of a table that have a key.

    Args:
        key: the key.
        name: of the table, such as `field` or `parts`.

    Returns:
        Names of kinds; none if the table comes in one kind only.
    """
    return [kind for kind, section in KINDS.get(name, {}).items() if key in section.model_fields]


def _in_table(path: Path, value: object) -> Iterator[Complaint]:
    """Yield what is wrong with a table, or with each table of a list."""
    *_, name = (part for part in path if isinstance(part, str))
    if path[-1] in LISTS and isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _in_table((*path, index), entry)
    elif path[-1] in LISTS or not isinstance(value, dict):
        expected = "tables" if path[-1] in LISTS else "a table" if name in LISTS else "a section"
        yield Complaint(path, f"{name} = {shown(value)}: expected {expected} {_title(path)} with keys.")
    else:
        sections = sections_named(name)
        if "kind" in value and name in KINDS:
            sections = tuple(section for kind, section in KINDS[name].items() if kind == value["kind"])
        if sections:
            yield from _in_section(path, value, sections[0], name)
        else:
            yield _unknown_kind(path, value["kind"], list(KINDS[name]))


def _in_section(path: Path, value: dict[str, Any], section: type[Section], name: str) -> Iterator[Complaint]:
    """Yield what is wrong with the keys of a table, whose section is known."""
    found: dict[Path, Complaint] = {}
    try:
        section.model_validate(value)
    except ValidationError as refused:
        for error in refused.errors(include_url=False):
            key, *inside = error["loc"]
            if key in LISTS and inside:  # looked at below, table by table
                continue
            # A key of several types has a complaint for each: one will do.
            place = (*path, key, *(part for part in inside if isinstance(part, int)))
            found.setdefault(place, Complaint(place, _explained(error, path, place, section, name)))
    yield from found.values()
    for key in value.keys() & set(LISTS) & section.model_fields.keys():
        if (*path, key) not in found:
            yield from _in_table((*path, key), value[key])


def _explained(error: Any, path: Path, place: Path, section: type[Section], name: str) -> str:
    """Reword one complaint of pydantic about a key."""
    key, kind, given = str(place[len(path)]), error["type"], error["input"]
    known = section.model_fields
    if kind == "extra_forbidden":
        return f"{_title(path)} {key}: unknown key{_hint(key, known, name)}"
    if key in LISTS and kind == "missing":
        return _missing(place).text
    if key in LISTS:
        return f"{key} = {shown(given)}: expected tables {_title(place)} with keys."
    text = known[key].description or ""
    if kind == "missing":
        return f"{_title(path)} {key} is missing ({text.split(',')[0]}): it has no default."
    message = error["msg"][:1].lower() + error["msg"][1:] + (", true or false" if kind == "bool_type" else "")
    whole = ".".join(map(str, place[len(path) :]))
    return f"{_title(path)} {whole} = {shown(given)}: {message}; expected: {text}."


def _missing(path: Path) -> Complaint:
    """Return the complaint that a table is missing."""
    text = f"section {_title(path)} is missing: it has no default. `equiflow config` shows it."
    return Complaint(path, text)


def _unknown_kind(path: Path, kind: object, known: list[str]) -> Complaint:
    """Return the complaint that a table is of none of the known kinds."""
    name = kind if isinstance(kind, str) else ""
    hint = (path == ("action",) and _in_python(name)) or _similar(name, known) or "."
    text = f"{_title(path)} kind = {shown(kind)}: expected {' or '.join(known)}{hint}"
    return Complaint((*path, "kind"), text)


def _in_python(name: str) -> str:
    """Say what trains something that has no config; empty if nothing of this name is known."""
    what = TRAINED_IN_PYTHON.get(name)
    return f"; it is trained in Python, by {what} does." if what else ""


def _title(path: Path) -> str:
    """Return the name of a table in files, such as `[field]` or `[[objective.parts]] 2`."""
    names = [part for part in path if isinstance(part, str)]
    number = f" {path[-1] + 1}" if isinstance(path[-1], int) else ""
    return header(".".join(names)) + number


def _hint(name: str, known: Iterable[str], table: str = "") -> str:
    """Suggest the same name in another kind or section, or a similar name here."""
    kinds = kinds_with(name, table)
    if kinds:
        return f"; it belongs to kind = {' or '.join(map(shown, kinds))}."
    elsewhere = [header(other) for other, _, key, _ in every_key() if key == name and other != table]
    if elsewhere:
        return f"; it belongs to {' or '.join(dict.fromkeys(elsewhere))}."
    return f"{_similar(name, known) or '.'} Known here: {', '.join(known)}."


def _similar(name: str, known: Iterable[str]) -> str:
    """Ask whether a known name that looks similar was meant."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
