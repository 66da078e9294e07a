"""Every kind of action, field and objective that a config can name, and from there to numbers."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from equiflow import (
    HMC,
    AngleField,
    Angles,
    EquivariantCNF,
    ExternalField,
    FlowMatching,
    ForwardKL,
    FreeScalar,
    Lattice,
    Mixture,
    Multiplet,
    MultipletField,
    ONModel,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    UniformAngles,
    XYModel,
    importance_sample,
    measure,
)
from equiflow.cli import building
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.file import parse_config
from equiflow.cli.config.render import render
from equiflow.cli.config.schema import FIELDS, Config
from equiflow.cli.run.folder import Run
from equiflow.interop import load_ensemble, save_samples
from equiflow.theories.angles.observables import energy
from tests.support.cli_runs import TINY, Executioner, KilledError, parse, succeed
from tests.support.strategies import NEEDS, is_there, needs

O2 = TINY.replace('kind = "orbit"\n', "").replace("[action]\n", '[action]\nkind = "on"\nn_components = 2\n')
DEEP = TINY.replace("[4, 4]", "[2, 2]").replace('"orbit"', '"deep-attention"\nn_heads = 1')


def config(text: str, *overrides: str) -> Config:
    return parse_config(text, source="my.toml", overrides=overrides)


@pytest.mark.parametrize("kind", sorted(FIELDS.keys() - {"multiplet", "angles", "u1", "sun"}))
def test_every_field_is_built_on_the_lattices_that_it_suits(kind):
    family = FIELDS[kind].stands_for
    if not is_there(NEEDS.get(family.__name__, "torch")):
        pytest.skip(f"needs {NEEDS[family.__name__]}")
    shape = "[3, 3, 3]" if kind == "o3" else "[4, 4]"
    flow = building.build_flow(parse("", f"lattice.shape={shape}", f"field.kind={kind}"))
    assert type(flow.vector_field) is family
    again = EquivariantCNF.from_dict(flow.to_dict())
    assert repr(again.vector_field) == repr(flow.vector_field)


def test_sizes_and_representations_can_be_lists():
    flow = building.build_flow(parse("", "lattice.shape=[4, 6]", "field.kernel_size=[1, 3]"))
    assert flow.vector_field.config()["kernel_size"] == (1, 3)
    with pytest.raises(ConfigError, match=r"^my.toml: \[field\] kernel_size = \"3\": [^\n]*$"):
        parse("[field]\nkernel_size = '3'")
    chosen = parse("[field]\nkind = 'steerable'\nrepresentation = ['trivial', 'regular']")
    assert chosen.field.representation == ["trivial", "regular"]


@pytest.mark.parametrize(
    ("kind", "package", "extra", "shape"),
    [("o3", "e3nn", "o3", "[3, 3, 3]"), ("deep-steerable", "escnn", "steerable", "[4, 4]")],
)
def test_a_missing_extra_is_told_with_its_remedy(kind, package, extra, shape, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"\[field\]: .*pip install '\.\[{extra}\]'"):
        building.build_flow(parse("", f"lattice.shape={shape}", f"field.kind={kind}"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("field.kind=o3",), "O3Field needs a lattice of 3 dimensions"),
        (("lattice.shape=[2, 2, 2]", "field.kind=steerable"), "Steerable fields live in two dimensions"),
        (("field.kind=multiplet",), "'multiplet' is not for action.kind = 'phi4'; 'potential' is"),
        (("action.kind=on", "action.n_components=2", "field.kind=orbit"), "'on'; 'multiplet' is"),
        (("field.kind=deep-attention", "field.trace=hutch"), "Unknown trace 'hutch'"),
        (("field.convolution=fast",), "fast"),
    ],
)
def test_fields_that_do_not_suit_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=rf"\[field\]: .*{message}"):
        building.build_flow(parse("", *overrides))


def test_an_estimated_trace_is_for_training_alone(tmp_path):
    config_ = config(DEEP, "field.trace=hutchinson", "training.steps=3", "field.n_frequencies=1")
    run = Run.create(tmp_path / "run", config_)
    assert not run.untrained().vector_field.trace_is_exact
    with pytest.MonkeyPatch.context() as patch:
        Executioner(patch, 7)
        with pytest.raises(KilledError):
            run.train(progress=False)
    flow, source = run.trained()
    assert (flow.vector_field.trace_is_exact, source) == (True, "latest.pt")
    run.train(progress=False)
    assert all("ess" in row for row in run.evaluations)
    flow = run.trained()[0]
    assert flow.vector_field.trace_is_exact
    weights = torch.load(run.latest, weights_only=True)["flow"]
    assert weights.keys() == flow.state_dict().keys()


def test_natural_gradients_need_an_exact_trace(tmp_path):
    with pytest.raises(ConfigError, match=r'\[optimiser\]: kind = "natural" needs field.trace = "dense"'):
        Run.create(tmp_path / "run", config(DEEP, "field.trace=hutchinson", "optimiser.kind=natural"))
    assert not (tmp_path / "run").exists()


def test_actions_are_those_of_the_library():
    lattice, o2 = Lattice((4, 4)), ("action.kind=on", "action.n_components=2")
    multiplet = Multiplet(lattice, 2)
    expected = {
        (): Phi4(lattice, m2=-4.0, lam=7.0),
        ("action.h=0.1", "symmetry.z2=false"): ExternalField(Phi4(lattice, m2=-4.0, lam=7.0), h=0.1),
        o2: ONModel(multiplet, m2=-4.0, lam=7.0),
        (*o2, "action.h=[0.1, -0.2]", "symmetry.z2=false"): ExternalField(
            ONModel(multiplet, m2=-4.0, lam=7.0), h=(0.1, -0.2)
        ),
    }
    for overrides, action in expected.items():
        assert repr(building.build_action(parse("", *overrides))) == repr(action)
    free = parse_config("[lattice]\nshape = [4, 4]\n[action]\nkind = 'free'\nm2 = 1.0", source="free")
    assert isinstance(building.build_action(free), FreeScalar)
    assert "\n" not in repr(building.build_action(parse("", "action.h=0.1", "symmetry.z2=false")))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("action.h=0.1",), r"\[action\]: h breaks phi -> -phi.* set z2 = false in \[symmetry\]"),
        (
            ("action.kind=on", "action.n_components=2", "action.h=[0.1]", "symmetry.z2=false"),
            "2 finite numbers",
        ),
        (("action.kind=on",), r"\[action\] n_components is missing"),
        (("action.kind=on", "action.n_components=0"), r"\[action\] n_components = 0"),
    ],
)
def test_actions_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        building.build_action(parse("", *overrides))


def test_symmetry_of_several_components_is_on():
    flow = building.build_flow(config(O2))
    assert isinstance(flow.vector_field, MultipletField)
    assert str(flow.group) == "translations x D4 x O(2)"
    broken = building.build_flow(config(O2, "action.h=[0.1, 0.0]", "symmetry.z2=false", "symmetry.point=C4"))
    assert str(broken.group) == "translations x C4"
    assert config(render(config(O2))) == config(O2)


def test_a_model_of_two_components_from_config_to_numbers(tmp_path):
    (tmp_path / "o2.toml").write_text(O2)
    folder = tmp_path / "run"
    succeed("train", tmp_path / "o2.toml", "--run", folder, "--quiet")
    succeed("sample", folder, "-n", 2048)
    output = succeed("measure", folder / "ensemble.npz", "--json", tmp_path / "numbers.json")
    assert "ONModel(shape=(2, 4, 4), m2=-4.0, lam=7.0)" in " ".join(output.split())
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    expected = measure(load_ensemble(folder / "ensemble.npz"), action=Run.open(folder).action)
    assert numbers["susceptibility"]["mean"] == expected.susceptibility.mean
    assert len(numbers["correlator"]) == 4


XY = """
[lattice]
shape = [3, 3]

[action]
kind = "xy"
beta = 0.5

[field]
n_ridges = 2
n_time_modes = 2

[objective]
method = "rk4"
steps = 2

[training]
steps = 4
batch_size = 8

[compute]
dtype = "float64"

[run]
checkpoint_every = 2
evaluation_samples = 32
"""


def test_a_theory_chooses_field_prior_and_symmetry():
    flow = building.build_flow(config(XY))
    assert (type(flow.vector_field), type(flow.prior)) == (AngleField, UniformAngles)
    assert repr(building.build_action(config(XY))) == repr(XYModel(Angles(Lattice((3, 3))), beta=0.5))
    assert str(flow.group) == "translations x D4 x O(2)"
    smaller = building.build_flow(config(XY, "symmetry.point=C4", "field.kernel_size=1"))
    assert str(smaller.group) == "translations x C4 x O(2)"
    assert config(render(config(XY))) == config(XY)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("field.kind=orbit",), r"\[field\]: kind = 'orbit' is not for action.kind = 'xy'; 'angles' is"),
        (("prior.kind=free",), r"\[prior\]: kind = 'free' is not for action.kind = 'xy'; 'angles' is"),
        (("symmetry.z2=false",), r"\[symmetry\]: z2 = false is not for action.kind = 'xy'"),
        (("action.beta=nan",), r"\[action\]: beta must be finite"),
        (("action.h=0.1",), r"\[action\] h: unknown key; it belongs to kind = \"phi4\" or"),
        (("action.lam=1.0",), r"\[action\] lam: unknown key; it belongs to kind = \"phi4\" or"),
        (
            ("action.kind=coulomb",),
            r"\[action\] kind = \"coulomb\": expected phi4 or free or ising or on or xy or wilson",
        ),
    ],
)
def test_what_does_not_belong_to_angles_is_refused(overrides, message):
    def build() -> None:
        chosen = config(XY.replace("n_ridges = 2\n", ""), *overrides)
        building.build_action(chosen)
        building.build_flow(chosen)

    with pytest.raises(ConfigError, match=message):
        build()


def test_the_xy_model_from_config_to_numbers(tmp_path):
    (tmp_path / "xy.toml").write_text(XY)
    folder = tmp_path / "run"
    output = succeed("train", tmp_path / "xy.toml", "--run", folder, "--quiet")
    assert f"Next: equiflow report {folder}" in output
    run = Run.open(folder)
    assert all("ess" in row for row in run.evaluations)
    succeed("sample", folder, "-n", 2048)
    output = succeed("measure", folder / "ensemble.npz", "--json", tmp_path / "numbers.json")
    assert "vortex density" in output
    assert "two-point" not in output
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    ensemble = load_ensemble(folder / "ensemble.npz")
    assert numbers["energy"]["mean"] == ensemble.mean(energy).mean
    assert numbers["log_z"]["mean"] == ensemble.log_z().mean
    assert "all laws hold" in succeed("check", folder)
    assert "step 4 of 4" in succeed("watch", folder, "--once")


@pytest.mark.filterwarnings("ignore:The weights leave")
def test_a_run_of_angles_has_a_report(tmp_path):
    run = trained_from(tmp_path / "run", config(XY, "training.steps=1"))
    output = succeed("report", run.folder, "-n", 64, "--hmc", 0)
    assert "helicity" not in output
    assert "vortex density" in output
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert 'id="two-point"' not in text
    assert "Observables along two chains" in text


def test_a_ladder_of_angles_is_climbed_and_resumed(tmp_path):
    text = XY + "[[ladder]]\nshape = [2, 2]\nbeta = 0.4\nsteps = 2\n"
    run = Run.create(tmp_path / "run", config(text, "training.steps=2", "run.evaluation_samples=16"))
    assert [rung.config.action.beta for rung in run.rungs] == [0.4, 0.5]
    with pytest.MonkeyPatch.context() as patch:
        Executioner(patch, 9)
        with pytest.raises(KilledError):
            run.train(progress=False)
    run.train(progress=False)
    assert [len(history) for history in run.histories()] == [2, 2]


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        ("potential", "field.n_channels=0", "n_channels must be an integer >= 1, got 0"),
        ("potential", "field.n_ridges=0", "n_ridges must be an integer >= 1, got 0"),
        ("orbit", "field.max_frequency=0.0", "max_frequency > 0"),
        ("orbit", "field.n_time_modes=0", "at least one mode, got 0"),
        ("factorised", "field.n_harmonics=-1", "n_harmonics must be an integer >= 0, got -1"),
        ("attention", "field.seed=-1", r"seed must be an integer from 0 to 2\^64 - 1, got -1"),
        ("deep-attention", "field.n_layers=1", "n_layers must be an integer >= 2, got 1"),
        ("orbit", "prior.m2=0.0", "positive, finite m2; got 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused_with_section_and_key(kind, override, message):
    section = override.split(".")[0]
    with pytest.raises(ConfigError, match=rf"^\[{section}\]: .*{message}"):
        building.build_flow(parse("", f"field.kind={kind}", override))


@needs("escnn")
def test_steerable_fields_refuse_frequencies_that_are_not_positive():
    with pytest.raises(ConfigError, match=r"\[field\]: .*max_frequency > 0"):
        building.build_flow(parse("", "field.kind=steerable", "field.max_frequency=0.0"))


@pytest.mark.parametrize(
    "override", ["rows=0", "refresh=0", "window=0", "damping=0.0", "momentum=1.0", "radius=0.0"]
)
def test_a_natural_gradient_out_of_range_is_refused_before_anything_is_made(override, tmp_path):
    name = override.split("=")[0]
    with pytest.raises(ConfigError, match=rf"optimiser\W.*{name}"):
        Run.create(tmp_path / "run", parse("", "optimiser.kind=natural", f"optimiser.{override}"))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def chain_file(tmp_path_factory):
    action = Phi4(Lattice((4, 4)), m2=-4.0, lam=7.0)
    path = tmp_path_factory.mktemp("chain") / "hmc.npz"
    generator = torch.Generator().manual_seed(0)
    save_samples(HMC(action).sample(8, n_chains=8, generator=generator), path, action=action)
    return path


MIXTURE = """
[objective]
kind = "mixture"
weights = [0.75, 0.25]

[[objective.parts]]
kind = "path"
method = "rk4"
steps = 3

[[objective.parts]]
kind = "forward"
samples = "FILE"
"""


def test_objectives_are_those_of_the_library(chain_file):
    def built(text: str) -> object:
        return building.build_objective(parse(text.replace("FILE", str(chain_file))))

    assert built("[objective]\nkind = 'reverse'") == ReverseKL()
    forward = built("[objective]\nkind = 'forward'\nsamples = 'FILE'\nsteps = 7")
    assert isinstance(forward, ForwardKL)
    assert (forward.solver, forward.samples.shape) == (Solver("rk5", steps=7), (64, 4, 4))
    matching = built(
        "[objective]\nkind = 'matching'\nsamples = 'FILE'\nsigma = 0.1\ncoupling = 'independent'"
    )
    assert repr(matching) == repr(FlowMatching(forward.samples, pairing="independent", sigma=0.1))
    mixture = built(MIXTURE)
    parts = (
        (PathGradient(solver=Solver("rk4", steps=3)), 0.75),
        (ForwardKL(forward.samples, solver=Solver("rk5", steps=5)), 0.25),
    )
    assert repr(mixture) == repr(Mixture(*parts))


def test_natural_gradients_take_their_options():
    chosen = parse("[optimiser]\nkind = 'natural'\nrows = 16\ndamping = 0.1\n[training]\nseed = 7")
    optimiser = building.build_optimiser(chosen, building.build_flow(chosen))
    assert repr(optimiser).startswith("NaturalGradient(")
    assert "damping=0.1" in repr(optimiser)
    assert "rows=16" in repr(optimiser)
    assert "radius=0.5" in repr(optimiser)
    assert "seed=7" in repr(optimiser)


def test_a_mixture_is_trained_from_anywhere_and_resumed(chain_file, tmp_path, monkeypatch):
    monkeypatch.chdir(chain_file.parent)
    text = TINY[: TINY.index("[objective]")] + MIXTURE.replace("FILE", "hmc.npz")
    text += TINY[TINY.index("[optimiser]") :]
    assert config(render(config(text))) == config(text)
    run = Run.create(tmp_path / "run", config(text, "training.steps=3"))
    with pytest.MonkeyPatch.context() as patch:
        Executioner(patch, 9)
        with pytest.raises(KilledError):
            run.train(progress=False)
    monkeypatch.chdir(tmp_path)
    assert len(Run.open(tmp_path / "run").train(progress=False)) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("action.lam=7.5",), r"hmc.npz holds samples of Phi4\(shape=\(4, 4\), m2=-4.0, lam=7.0\), the run"),
        (("lattice.shape=[3, 4]",), r"holds configurations \[4, 4\], the run \[3, 4\]"),
        (("objective.samples=none.npz",), r"none.npz"),
        (("objective.method=dopri",), "Unknown method 'dopri'"),
    ],
)
def test_samples_of_something_else_are_refused(overrides, message, chain_file):
    text = f"[objective]\nkind = 'forward'\nsamples = '{chain_file}'"
    with pytest.raises(ConfigError, match=rf"\[objective\]: .*{message}"):
        building.build_objective(parse(text, *overrides))


def test_mixtures_are_checked_part_by_part(chain_file):
    text = MIXTURE.replace("FILE", str(chain_file))
    for override, message in (
        (
            "objective.parts.2.smples=3",
            r"\[\[objective.parts\]\] 2 smples: unknown key; did you mean samples",
        ),
        ("objective.parts.1.kind=pth", r"\[\[objective.parts\]\] 1 kind = \"pth\": .* did you mean path\?"),
        ("objective.weights=[1]", r"\[objective\]: there are 2 parts and 1 weights"),
        ("objective.weights=[0.5, 0.6]", r"\[objective\]: Weights must be positive and add up to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            building.build_objective(parse(text, override))


def test_an_ensemble_is_no_chain(tmp_path):
    flow = EquivariantCNF(Lattice((4, 4)))
    ensemble = importance_sample(flow, Phi4(flow.lattice, m2=-4.0, lam=7.0), 8, certify=0)
    save_samples(ensemble, tmp_path / "e.npz")
    with pytest.raises(ConfigError, match=r"\[objective\]: .*holds no Chain; it holds 'Ensemble'"):
        building.build_objective(parse(f"[objective]\nkind = 'matching'\nsamples = '{tmp_path / 'e.npz'}'"))


def test_a_run_goes_on_from_another_on_its_own_lattice_and_others(tmp_path):
    text = TINY.replace('"orbit"', '"attention"')
    first = Run.create(tmp_path / "first", config(text, "training.steps=1", "run.evaluation_samples=16"))
    first.train(progress=False)
    text = text[: text.index("[field]")] + text[text.index("[solver]") :]
    start = f"start.flow={first.folder}"
    second = Run.create(tmp_path / "second", config(text, start, "solver.steps=4", "compute.dtype=float32"))
    begun, saved = EquivariantCNF.load(second.start), first.trained()[0]
    assert (begun.solver, begun.dtype, begun.about) == (saved.solver, saved.dtype, saved.about)
    assert (second.untrained().solver, second.untrained().dtype) == (Solver("rk4", steps=4), torch.float32)
    second = Run.create(tmp_path / "alike", config(text, start))
    weights = second.untrained().state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.trained()[0].state_dict().items())
    third = Run.create(tmp_path / "third", config(text, start, "lattice.shape=[3, 3]"))
    assert third.untrained().lattice.shape == (3, 3)
    with pytest.raises(ConfigError, match=r"\[start\]: Nothing carries over from a 2D lattice"):
        Run.create(tmp_path / "refused", config(text, start, "lattice.shape=[3, 3, 3]"))
    with pytest.raises(ConfigError, match=r"\[start\]: .*the action on Multiplet"):
        Run.create(
            tmp_path / "fourth",
            config(text, "start.flow=phi4-2d-L8", "action.kind=on", "action.n_components=2"),
        )


@needs("escnn")
def test_steerable_channels_are_trained(tmp_path):
    text = DEEP.replace("deep-attention", "deep-steerable").replace("n_heads = 1", "multiplicity = 1")
    text = text.replace("n_frequencies = 2", "n_layers = 1")
    run = trained_from(tmp_path / "run", config(text, "field.trace=hutch++", "training.steps=1"))
    assert run.trained()[0].vector_field.trace_is_exact


def trained_from(folder, chosen: Config) -> Run:
    run = Run.create(folder, chosen)
    run.train(progress=False)
    return run
