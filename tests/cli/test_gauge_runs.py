"""Gauge theories in config files: `action.kind = "wilson"`, and from there to numbers."""

from __future__ import annotations

import json

import pytest
import torch

from equiflow import HaarPrior, Lattice, Links, SUNField, U1Field, WilsonAction
from equiflow.cli import building
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.file import parse_config
from equiflow.cli.config.render import render, render_defaults
from equiflow.cli.config.schema import Config
from equiflow.cli.flow_files import action_from
from equiflow.cli.run.folder import Run
from equiflow.interop import load_ensemble
from equiflow.oracles import gauge_torus
from equiflow.theories.gauge.observables import plaquette
from tests.support.cli_runs import succeed

WILSON = """
[lattice]
shape = [3, 3]

[action]
kind = "wilson"
group = "U(1)"
beta = 1.0

[training]
steps = 4
batch_size = 64

[optimiser]
n_times = 4

[compute]
dtype = "float64"

[run]
checkpoint_every = 2
evaluation_samples = 32
"""
#: fields whose laws are checked in a second
SMALL = {
    "U(1)": "[field]\nn_local = 2\nn_mixed = 1\nn_frequencies = 1\nn_harmonics = 1\nn_time_modes = 2\n",
    "SU(2)": "[field]\nshapes = ['plaquette']\ndegree = 1\nn_time_modes = 2\n",
}


def config(*overrides: str) -> Config:
    return parse_config(WILSON, source="my.toml", overrides=overrides)


@pytest.mark.parametrize(("group", "family"), [("U(1)", U1Field), ("SU(2)", SUNField), ("SU(3)", SUNField)])
def test_the_group_of_the_links_chooses_the_field(group, family):
    chosen = config(f"action.group={group}", "action.rectangle=-0.1")
    flow = building.build_flow(chosen)
    assert (type(flow.vector_field), type(flow.prior)) == (family, HaarPrior)
    links = Links(Lattice((3, 3)), group)
    assert repr(building.build_action(chosen)) == repr(WilsonAction(links, beta=1.0, rectangle=-0.1))
    assert str(flow.group) == f"local {group} x translations x D4 x C"
    assert parse_config(render(chosen), source="rendered") == chosen


def test_options_of_fields_and_symmetries_reach_the_flow():
    chosen = config(
        "action.group=SU(2)", "field.shapes=['plaquette', 'square']", "symmetry.z2=false", "symmetry.point=C4"
    )
    flow = building.build_flow(chosen)
    assert flow.vector_field.shapes == ("plaquette", "square")
    assert str(flow.group) == "local SU(2) x translations x C4"
    assert building.build_flow(config("field.n_time_modes=2")).vector_field.config()["n_time_modes"] == 2
    assert 'kind = "wilson"' in render_defaults()


def test_a_broken_charge_conjugation_is_left_out_of_the_symmetry():
    with pytest.raises(ConfigError, match=r"\[action\]: imaginary_theta breaks .* set z2 = false and point"):
        building.build_action(config("action.imaginary_theta=0.3"))
    with pytest.raises(ConfigError, match="conjugation"):
        building.build_action(config("action.imaginary_theta=0.3", "symmetry.point=rotations"))
    chosen = config("action.imaginary_theta=0.3", "symmetry.point=rotations", "symmetry.z2=false")
    assert building.build_action(chosen).imaginary_theta == 0.3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("action.group=SU(1)",), r'\[action\]: group must be "U\(1\)" or "SU\(N\)" with N >= 2'),
        (("action.group=3",), r"\[action\]: group must be .* got '3'"),
        (("action.beta=inf",), r"\[action\]: beta must be finite, got inf"),
        (("lattice.shape=[8]",), r"\[action\]: Links need a lattice of two dimensions or more, got \(8,\)"),
        (("action.group=SU(3)", "field.kind=u1"), r"\[field\]: kind = 'u1' is not for this space; 'sun' is"),
        (("field.kind=sun",), r"\[field\]: kind = 'sun' is not for this space; 'u1' is"),
        (("field.kind=orbit",), r"\[field\]: kind = 'orbit' is not for action.kind = 'wilson'; 'u1' is"),
        (("prior.kind=free",), r"\[prior\]: kind = 'free' is not for action.kind = 'wilson'; 'links' is"),
        (("action.m2=1.0",), r"\[action\] m2: unknown key"),
        (("lattice.shape=[3, 3, 3]", "action.imaginary_theta=0.3"), "topological charge is defined for U"),
    ],
)
def test_what_does_not_belong_to_links_is_refused(overrides, message):
    def build() -> None:
        chosen = config(*overrides)
        building.build_action(chosen)
        building.build_flow(chosen)

    with pytest.raises(ConfigError, match=message):
        build()


def test_links_are_trained_by_least_squares_unless_an_objective_is_given():
    chosen = parse_config(WILSON.split("[training]")[0], source="my.toml")
    assert (chosen.optimiser.kind, chosen.training.steps, chosen.training.batch_size) == (
        "least_squares",
        3,
        1024,
    )
    assert chosen.run.checkpoint_every == 1
    text = WILSON.replace("[optimiser]\nn_times = 4\n", '[objective]\nkind = "path"\n')
    assert parse_config(text, source="my.toml").optimiser.kind == "adam"
    scalar = parse_config("[lattice]\nshape = [4, 4]\n[action]\nm2 = 1.0\nlam = 1.0\n", source="s.toml")
    assert (scalar.optimiser.kind, scalar.training.steps, scalar.run.checkpoint_every) == ("adam", 600, 50)


def test_least_squares_need_linear_weights(tmp_path):
    text = '[lattice]\nshape = [4, 4]\n[action]\nm2 = 1.0\nlam = 1.0\n[optimiser]\nkind = "least_squares"\n'
    with pytest.raises(
        ConfigError, match=r"\[optimiser\]: .* linear weights, such as u1 or orbit; 'potential'"
    ):
        Run.create(tmp_path / "run", parse_config(text, source="s.toml"))


def test_a_run_by_least_squares_goes_on_bit_for_bit(tmp_path):
    histories, text = [], WILSON.replace("[3, 3]", "[2, 2]") + SMALL["U(1)"]
    changes = ["training.steps=2", "run.evaluation_samples=16", "run.checkpoint_every=1", "run.accuracy=0"]
    for name, stops in (("whole", False), ("stopped", True)):
        run = Run.create(tmp_path / name, parse_config(text, source="my.toml", overrides=changes))
        run.train(progress=False)
        if stops:  # as if it had been killed after the first sweep
            (run.checkpoints / "step-000001.pt").replace(run.latest)
            (run.folder / "flow.pt").unlink()
            run = Run.open(run.folder)
            assert run.train(progress=False).step == [1, 2]
        histories.append(run.histories()[0])
    assert histories[0].loss == histories[1].loss
    one, other = (Run.open(tmp_path / name).trained()[0].vector_field for name in ("whole", "stopped"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_missing_group_is_told():
    with pytest.raises(ConfigError, match=r"\[action\] group is missing"):
        parse_config(WILSON.replace('group = "U(1)"\n', ""), source="my.toml")


def test_the_action_of_a_flow_in_a_file_is_known():
    for group in ("U(1)", "SU(3)"):
        links = Links(Lattice((2, 3)), group)
        action = WilsonAction(links, beta=1.5, rectangle=-0.1)
        assert repr(action_from(repr(action), links)) == repr(action)
        assert action_from(repr(action), Links(Lattice((2, 3)), "SU(2)")) is None


@pytest.mark.filterwarnings("ignore:The weights leave")
@pytest.mark.parametrize("group", ["U(1)", pytest.param("SU(2)", marks=pytest.mark.slow)])
def test_a_gauge_theory_from_config_to_report(tmp_path, group):
    text = WILSON.replace("U(1)", group).replace("beta = 1.0", "beta = 0.5").replace("[3, 3]", "[2, 2]")
    (tmp_path / "wilson.toml").write_text(text + SMALL[group])
    folder = tmp_path / "run"
    output = succeed("train", tmp_path / "wilson.toml", "--run", folder, "--quiet")
    assert f"Next: equiflow report {folder}" in output
    run = Run.open(folder)
    assert all("ess" in row for row in run.evaluations)
    assert "step 4 of 4" in succeed("watch", folder, "--once")
    assert "all laws hold" in succeed("check", folder)

    succeed("sample", folder, "-n", 512)
    output = succeed("measure", folder / "ensemble.npz", "--json", tmp_path / "numbers.json")
    assert "polyakov loop squared" in output
    assert ("topological charge" in output) == (group == "U(1)")
    assert "two-point" not in output
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    ensemble = load_ensemble(folder / "ensemble.npz")
    assert numbers["plaquette"]["mean"] == ensemble.mean(plaquette(run.action.space)).mean
    assert numbers["log_z"]["mean"] == ensemble.log_z().mean
    assert abs(ensemble.log_z().sigmas_from(gauge_torus(run.action).log_z)) < 4

    output = succeed("report", folder, "-n", 64, "--hmc", 64)
    assert "plaquette" in output
    plots = {path.stem for path in (folder / "plots").glob("*.png")}
    assert plots == {"training", "weights", "histograms", "histories"}
    results = json.loads((folder / "plots" / "results.json").read_text())
    assert {"reverse_ess", "forward_ess", "flow_plaquette", "hmc_plaquette_error"} < results.keys()
    assert "Observables along two chains" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_ladder_of_links_grows_in_volume_and_coupling(tmp_path):
    text = WILSON + SMALL["U(1)"] + "[[ladder]]\nshape = [2, 2]\nbeta = 0.5\nsteps = 2\n"
    chosen = parse_config(text, source="ladder", overrides=["training.steps=2", "run.evaluation_samples=16"])
    run = Run.create(tmp_path / "run", chosen)
    assert [rung.config.action.beta for rung in run.rungs] == [0.5, 1.0]
    assert [rung.config.action.group for rung in run.rungs] == ["U(1)", "U(1)"]
    run.train(progress=False)
    assert [len(history) for history in run.histories()] == [2, 2]
    assert run.trained()[0].space == Links(Lattice((3, 3)), "U(1)")
