"""Config files: those of the examples, of the README and of the presets can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from equiflow import EquivariantCNF, Lattice
from equiflow.cli import building
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.file import load_config, parse_config
from equiflow.cli.config.objectives import OBJECTIVES
from equiflow.cli.presets import config_text
from equiflow.cli.run.rungs import rungs_of
from equiflow.theories.scalar.presets import names
from equiflow.training.recipe import Recipe
from tests.support.cli_runs import MINIMAL
from tests.support.strategies import is_there

EXAMPLES = Path(__file__).parents[3] / "examples" / "configs"


def test_a_missing_or_binary_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml cannot be read: No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "binary.toml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_is_read_as_editors_and_shells_of_all_systems_write_it(tmp_path, encoding, newline):
    """Notepad marks UTF-8, and PowerShell writes the output of `equiflow presets` in UTF-16."""
    text = f"# φ⁴{newline}{MINIMAL.replace(chr(10), newline)}"
    (tmp_path / "c.toml").write_bytes(text.encode(encoding))
    assert load_config(tmp_path / "c.toml") == parse_config(MINIMAL, source="c")
    assert parse_config(f"\ufeff{MINIMAL}", source="c") == parse_config(MINIMAL, source="c")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_example_configs_can_be_built(path):
    config = load_config(path)
    if config.field.kind == "o3" and not is_there("e3nn"):
        pytest.skip("needs e3nn")
    for rung in rungs_of(config, Path("run")):
        flow, action = building.build_flow(rung.config), building.build_action(rung.config)
        assert flow.space == action.space


def test_there_is_an_example_of_each_published_set_up():
    found = {path.stem: load_config(path) for path in EXAMPLES.glob("*.toml")}
    xy = found.pop("XY")
    assert (xy.action.kind, xy.field.kind, xy.prior.kind) == ("xy", "angles", "angles")
    for name, group, field in (("U1", "U(1)", "u1"), ("SU2", "SU(2)", "sun")):
        links = found.pop(name)
        assert (links.action.kind, links.action.group, links.field.kind) == ("wilson", group, field)
        assert links.action.beta == 1.0
    couplings = {"E1": 6.975, "E2": 6.008, "E3": 5.550, "E4": 5.276, "E5": 5.113, "L16": 4.97, "3d": 8.0}
    couplings |= {"ladder": 4.572, "L256": 4.28, "3d-o3": 8.0, "O2": 8.0}
    assert {name: config.action.lam for name, config in found.items()} == couplings
    assert all(config.action.m2 == -4.0 for config in found.values())
    sides = [found[f"E{n}"].lattice.shape for n in range(1, 6)]
    assert sides == [[6, 6], [8, 8], [10, 10], [12, 12], [14, 14]]
    fields = {"L16": "potential", "3d-o3": "o3", "O2": "multiplet"}
    assert {name: found[name].field.kind for name in fields} == fields
    rungs = [(rung.shape, rung.lam) for rung in found["ladder"].ladder]
    assert rungs == [([8, 8], 6.008), ([16, 16], 4.97)]


def test_the_config_of_the_guide_is_one():
    text = (EXAMPLES.parent / "guides" / "runs.md").read_text().split("```toml\n")[1].split("```")[0]
    below, last = rungs_of(parse_config(text, source="guide"), Path("run"))
    assert below.config.action.lam == 6.008
    assert last.config.action == load_config(EXAMPLES / "L16.toml").action


def test_presets_are_configs_that_train_as_fit_does_by_default():
    for name in names():
        config = parse_config(config_text(name), source=name)
        assert config.objective == OBJECTIVES["adaptive"]()
    recipe = Recipe.of(EquivariantCNF(Lattice((8, 8))))
    training = parse_config(config_text("albergo-E2"), source="albergo-E2").training
    assert (training.steps, training.batch_size) == (recipe.steps, recipe.batch_size)
    with pytest.raises(ConfigError, match="albergo"):
        config_text("albergo-E9")
