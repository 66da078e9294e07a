"""Configs: every key documented and used, defaults those of the library, mistakes told by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow import EquivariantCNF, FlowMatching, ForwardKL, NaturalGradient, PathGradient, Solver, fit
from equiflow.cli import building
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.file import load_config, parse_config
from equiflow.cli.config.objectives import SolvedSection
from equiflow.cli.config.render import render, render_defaults
from equiflow.cli.config.schema import FIELDS, KINDS, LISTS, AdamSection, Config, every_key
from equiflow.cli.config.section import Section
from equiflow.cli.presets import config_text
from equiflow.cli.run.rungs import rungs_of
from equiflow.theories.scalar.presets import names
from equiflow.training.trainer import TRAINING_SOLVER
from equiflow.vector_fields import VECTOR_FIELDS
from tests.support.cli_runs import parse
from tests.support.strategies import is_there

EXAMPLES = Path(__file__).parents[3] / "examples" / "configs"


def test_every_key_is_documented():
    for section, _, key, described in every_key():
        assert described.description, f"{section}.{key}"
        assert described.is_required() == bool(described.examples), f"{section}.{key}"


def test_the_defaults_are_shown_for_every_kind_and_can_be_run():
    text = render_defaults()
    for section, model, key, described in every_key():
        assert f"{key} =" in text or f"[[{section}.{key}]]" in text
        assert described.description in text
        assert f"{section}]{']' * (section in LISTS)}  # {model.__doc__.splitlines()[0]}" in text
    config = parse_config(text, source="defaults")
    assert config == parse_config(
        "[lattice]\nshape = [8, 8]\n[action]\nm2 = -4.0\nlam = 6.008", source="short"
    )
    flow = building.build_flow(config)
    default = EquivariantCNF(flow.lattice).to(dtype=torch.float32)
    assert (repr(flow), flow.dtype) == (repr(default), torch.float32)


def test_defaults_are_those_of_the_library():
    config = parse("")
    options = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
    for name in ("steps", "batch_size", "seed"):
        assert getattr(config.training, name) == options[name]
    for name in ("learning_rate", "warmup", "clip_norm"):
        assert getattr(config.optimiser, name) == options[name]
    assert config.run.checkpoint_every == options["checkpoint_every"]
    assert building.build_objective(config) == PathGradient(solver=TRAINING_SOLVER)
    stiff = building.build_objective(parse("", "field.kind=factorised"))
    assert stiff == PathGradient(solver=Solver("rk5", steps=10))
    given = building.build_objective(parse("", "field.kind=factorised", "objective.steps=4"))
    assert given == PathGradient(solver=Solver("rk5", steps=4))
    assert building.build_flow(config).solver == Solver()


def kinds(section: str) -> dict[str, type[Section]]:
    return dict(KINDS[section])


def defaults(model: type[Section]) -> dict[str, object]:
    return {
        key: None if f.is_required() else f.default for key, f in model.model_fields.items() if key != "kind"
    }


def options(build: Callable[..., object], *but: str) -> dict[str, object]:
    """Options with their defaults; None for those without."""
    signature = inspect.signature(build).parameters.items()
    return {k: None if p.default is p.empty else p.default for k, p in signature if k not in but}


@pytest.mark.parametrize("kind", kinds("field"))
def test_the_keys_of_a_field_are_the_options_of_its_class_with_their_defaults(kind):
    expected = options(FIELDS[kind].stands_for, "lattice", "multiplet", "angles", "group")
    assert defaults(kinds("field")[kind]) == expected


def test_every_family_of_fields_of_a_lattice_has_a_kind():
    elsewhere = {"ParticleField"}  # built in Python alone
    assert {section.stands_for.__name__ for section in FIELDS.values()} == set(VECTOR_FIELDS) - elsewhere
    assert set(FIELDS) == set(kinds("field"))


def test_the_keys_of_objectives_and_optimisers_are_options_with_their_defaults():
    def own(kind: str) -> dict[str, object]:
        found = defaults(kinds("objective")[kind])
        return {key: found[key] for key in found.keys() - SolvedSection.model_fields.keys()}

    assert own("path") == options(PathGradient, "solver")
    assert own("forward") == options(ForwardKL, "solver")
    assert own("matching") == options(FlowMatching)
    natural = defaults(kinds("optimiser")["natural"])
    shared = AdamSection.model_fields.keys()
    expected = options(NaturalGradient, "flow", "parameters", "lr", "seed")
    assert {key: natural[key] for key in natural.keys() - shared} == expected


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(min_value=1e-300, exclude_min=True),
    st.none() | st.integers(1, 100),
    st.sampled_from(["adam", "natural"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)
def test_what_is_written_is_read_again(shape, m2, clip, kernel_size, optimiser, point):
    config = Config.model_validate(
        {
            "lattice": {"shape": shape},
            "action": {"kind": "free", "m2": m2},
            "field": {"kernel_size": kernel_size} if kernel_size else {},
            "optimiser": {"kind": optimiser, "clip_norm": clip},
            "symmetry": {"point": point},
        }
    )
    assert parse_config(render(config), source="again") == config


def test_infinity_can_be_written():
    assert math.isinf(parse("[optimiser]\nkind = 'natural'").optimiser.clip_norm)
    assert parse("[optimiser]\nclip_norm = inf").optimiser.clip_norm == math.inf


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


def test_every_mistake_is_told_at_once():
    with pytest.raises(ConfigError) as refused:
        parse("[training]\nsteps = 0\nbach_size = 3\n[run]\nkeep = -1")
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[solver]\nmethod = 'rk4'", r"\[solver\]: rk4 takes fixed steps"),
        ("[solver]\nmethod = 'rk45'", r"\[solver\]: Unknown method"),
        ("[symmetry]\npoint = 'C7'", r"\[symmetry\]: Unknown point group"),
        ("[field]\nkind = 'o3'", r"\[field\]: O3Field needs a lattice of 3 dimensions"),
        ("[field]\nkernel_size = 9", r"\[field\]: "),
        ("[compute]\ndevice = 'gpu'", r"\[compute\]: "),
    ],
)
def test_what_the_library_refuses_is_told_with_its_section(text, message):
    with pytest.raises(ConfigError, match=message):
        building.build_flow(parse(text))


def test_what_cannot_be_normalised_is_refused_with_its_section():
    with pytest.raises(ConfigError, match=r"\[action\]: exp\(-S\) cannot be normalised"):
        building.build_action(parse("", "action.lam=-1.0"))
    with pytest.raises(ConfigError, match=r"\[objective\]: dopri5 chooses its own steps"):
        building.build_objective(parse("[objective]\nmethod = 'dopri5'\nsteps = 4"))


def test_overrides_are_typed_and_refused_like_keys():
    config = parse("", "training.steps=5", "field.kind=orbit", "run.tensorboard=true", "lattice.shape=[6, 6]")
    assert (config.training.steps, config.field.kind) == (5, "orbit")
    assert (config.run.tensorboard, config.lattice.shape) == (True, [6, 6])
    for override, message in (
        ("training.stps=5", "did you mean steps"),
        ("training.steps=many", "valid integer"),
        ("steps=5", "write section.key=value"),
        ("training.steps", "write section.key=value"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse("", override)


def test_overrides_can_say_all_that_a_key_can_be():
    config = parse(
        "[optimiser]\nlearning_rate = 0.1\n[[ladder]]\nshape = [2, 2]",
        "optimiser.learning_rate=none",
        "compute.compile=True",
        "ladder=[]",
        "start.flow=2024-05-01",
        "symmetry.point=none",
    )
    assert config.optimiser.learning_rate is None
    assert config.compute.compile is True
    assert config.ladder == []
    assert (config.start.flow, config.symmetry.point) == ("2024-05-01", "none")
    assert parse("", "start.flow=2024").start.flow == "2024"
    assert parse("", "start.flow=None").start.flow is None
    assert parse("", "ladder=[{shape=[2, 2]}]", "ladder.1.steps=7").ladder[0].steps == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps=none", r'\[training\] steps = "none": .*valid integer'),
        ("training.steps=2.5", r"\[training\] steps = 2.5: .*valid integer"),
        ("compute.compile=yes", "valid boolean, true or false"),
        ("field.kind=none", r'\[field\] kind = "none": expected potential or'),
        ("objective.parts.1.kind=path", r"no \[\[objective.parts\]\].* and objective.kind=mixture"),
        ("ladder.1.steps=3", r"there is no \[\[ladder\]\].*--set 'ladder=\[\{"),
        ("ladder=[3]", r"ladder = 3: expected a table \[\[ladder\]\] 1 with keys"),
    ],
)
def test_overrides_that_say_nothing_are_told_the_way_out(override, message):
    with pytest.raises(ConfigError, match=message):
        parse("", override)


def test_a_missing_or_binary_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml cannot be read: No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "binary.toml")


def test_options_reach_the_flow_and_its_training():
    config = parse(
        "[symmetry]\npoint = 'rotations'\nz2 = false\n[field]\nn_time_modes = 2\nkernel_size = 3\n"
        "[prior]\nkind = 'normal'\n[solver]\nmethod = 'rk4'\nsteps = 3\n[compute]\ndtype = 'float64'\n"
        "[objective]\nkinetic_penalty = 0.5\nmethod = 'dopri5'\nrtol = 1e-3\n[optimiser]\nkind = 'natural'"
    )
    flow = building.build_flow(config)
    assert str(flow.group) == "translations x C4"
    assert flow.vector_field.config()["n_time_modes"] == 2
    assert flow.vector_field.config()["kernel_size"] == 3
    assert type(flow.prior).__name__ == "StandardNormal"
    assert (flow.solver, flow.dtype) == (Solver("rk4", steps=3), torch.float64)
    assert building.build_objective(config) == PathGradient(0.5, Solver("dopri5", rtol=1e-3))
    optimiser = building.build_optimiser(config, flow)(list(flow.parameters()), 1.0)
    assert isinstance(optimiser, NaturalGradient)


def test_a_flow_is_the_same_whatever_the_surroundings():
    config = parse("[compute]\ndtype = 'float64'")
    states = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        states.append(building.build_flow(config).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


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
    couplings = {"E1": 6.975, "E2": 6.008, "E3": 5.550, "E4": 5.276, "E5": 5.113, "L16": 4.97, "3d": 8.0}
    couplings |= {"ladder": 4.572, "3d-o3": 8.0, "O2": 8.0}
    assert {name: config.action.lam for name, config in found.items()} == couplings
    assert all(config.action.m2 == -4.0 for config in found.values())
    sides = [found[f"E{n}"].lattice.shape for n in range(1, 6)]
    assert sides == [[6, 6], [8, 8], [10, 10], [12, 12], [14, 14]]
    fields = {"L16": "potential", "3d-o3": "o3", "O2": "multiplet"}
    assert {name: found[name].field.kind for name in fields} == fields
    rungs = [(rung.shape, rung.lam) for rung in found["ladder"].ladder]
    assert rungs == [([8, 8], 6.008), ([16, 16], 4.97)]


def test_the_config_of_the_readme_is_one():
    text = (EXAMPLES.parents[1] / "README.md").read_text().split("```toml\n")[1].split("```")[0]
    below, last = rungs_of(parse_config(text, source="README"), Path("run"))
    assert below.config.action.lam == 6.008
    assert last.config.action == load_config(EXAMPLES / "L16.toml").action


def test_presets_are_configs():
    for name in names():
        parse_config(config_text(name), source=name)
    with pytest.raises(ConfigError, match="albergo"):
        config_text("albergo-E9")
