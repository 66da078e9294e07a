"""Mistakes in a config: told with file, section, key and remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from equiflow.cli.config.errors import ConfigError, complaints
from equiflow.cli.config.file import parse_config
from equiflow.cli.config.schema import KINDS, Config, every_key
from tests.support.cli_runs import parse


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nstps = 3", r"my.toml: \[training\] stps: unknown key; did you mean steps\?"),
        (
            "[training]\nlearning_rate = 1",
            r"\[training\] learning_rate: unknown key; it belongs to \[optimiser\]",
        ),
        ("[trainin]\nsteps = 3", r"trainin: unknown section; did you mean training\?"),
        (
            "[field]\nkind = 'orbit'\nn_freq = 3",
            r"\[field\] n_freq: unknown key; did you mean n_frequencies\?",
        ),
        (
            "[field]\nkind = 'o3'\nn_frequencies = 3",
            r"\[field\] n_frequencies: unknown key; it belongs to kind = \"orbit\" or",
        ),
        ("[field]\nkind = 'orbits'", r"\[field\] kind = \"orbits\": expected .* did you mean orbit\?"),
        ("[field]\nkind = 3", r"\[field\] kind = 3: expected potential or orbit or"),
        ("[training]\nsteps = '100'", r"\[training\] steps = \"100\": .*valid integer.*optimiser steps"),
        ("[training]\nsteps = 1.5", r"\[training\] steps = 1.5: .*valid integer"),
        ("[training]\nsteps = true", r"\[training\] steps = true: .*valid integer"),
        ("[training]\nsteps = 0", r"\[training\] steps = 0: .*greater than or equal to 1"),
        ("[optimiser]\nlearning_rate = nan", r"\[optimiser\] learning_rate = nan"),
        ("[optimiser]\nlearning_rate = 'fast'", r"\[optimiser\] learning_rate = \"fast\": .*valid number"),
        ("[compute]\ndtype = 'float16'", r"\[compute\] dtype = \"float16\": .*'float32' or 'float64'"),
        ("[compute]\ncompile = 1", r"\[compute\] compile = 1: .*valid boolean"),
        ("[prior]\nm2 = [1]", r"\[prior\] m2 = \[1\]"),
    ],
)
def test_mistakes_are_told_with_file_section_and_remedy(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"section \[lattice\] is missing"),
        ("[lattice]\nshape = [4]\n[action]\nm2 = 1.0", r"\[action\] lam is missing \(quartic coupling\)"),
        ("lam = 7.0", r"lam: unknown section; it belongs to \[action\]"),
        ("lattice = 3", r"lattice = 3: expected a section \[lattice\]"),
        ("action = 3", r"action = 3: expected a section \[action\]"),
        ("[lattice]\nshape = [4.0, 4]", r"\[lattice\] shape.0 = 4.0"),
        ("[lattice]\nshape = []", r"\[lattice\] shape = \[\]"),
        ("[lattice", r"my.toml is not valid TOML"),
        ("[ladder]\nshape = [4]", r"ladder = .*: expected tables \[\[ladder\]\] with keys"),
        ("[[ladder]]\nsteps = 3", r"\[\[ladder\]\] 1 shape is missing \(sides of the lattice\)"),
        ("[objective]\nkind = 'mixture'\nweights = [1]", r"section \[\[objective.parts\]\] is missing"),
        ("[objective]\nkind = 'mixture'\nweights = [1]\nparts = []", r"parts = \[\]: expected tables"),
    ],
)
def test_what_is_missing_is_told(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(text, source="my.toml")


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("[action]\nkind = 'electrons'", "fit_thermal_state"),
        ("[action]\nkind = 'chain'", "fit_trajectories"),
        ("[path]\nn = 4", "fit_segments"),
        ("[levels]\nn = 4", "MultiscaleFlow"),
    ],
)
def test_what_is_trained_in_python_alone_is_named(text, function):
    with pytest.raises(ConfigError, match=rf"trained in Python, by .*{function}.* as \w+/\w+\.py does"):
        parse_config(text, source="my.toml")
    with pytest.raises(ConfigError) as refused:  # a field of such a name is a mistake like any other
        parse("[field]\nkind = 'chain'")
    assert "Python" not in str(refused.value)


def test_every_mistake_is_told_at_once():
    with pytest.raises(ConfigError) as refused:
        parse("[training]\nsteps = 0\nbach_size = 3\n[run]\nkeep = -1")
    assert len(str(refused.value).splitlines()) == 3


ROWS = [[{"kind": "path"}], [{"shape": [2, 2]}], [{"kind": "bad"}], [{"kind": [1]}]]
VALUES = st.sampled_from(
    [3, -1, 1.5, True, "orbit", "none", [1], [4, 4], [[1]], ["a"], {}, {"kind": "path"}, {"kind": [1]}, *ROWS]
)
KIND_NAMES = st.sampled_from([*(kind for kinds in KINDS.values() for kind in kinds), "bad", 3, [1]])
TABLES = st.dictionaries(st.sampled_from(sorted({key for _, _, key, _ in every_key()})), VALUES, max_size=3)
SECTIONS = st.dictionaries(
    st.sampled_from([*Config.model_fields, "fields"]),
    VALUES | TABLES | st.builds(lambda table, kind: {**table, "kind": kind}, TABLES, KIND_NAMES),
    max_size=3,
)


@given(SECTIONS)
def test_there_are_complaints_exactly_if_a_config_is_refused(sections):
    content = {"lattice": {"shape": [4, 4]}, "action": {"m2": 1.0, "lam": 1.0}, **sections}
    try:
        Config.model_validate(content)
    except ValidationError:
        refused = True
    else:
        refused = False
    found = list(complaints(content))
    assert bool(found) == refused
    assert len({complaint.path for complaint in found}) == len(found)
    assert all("\n" not in complaint.text for complaint in found)
