"""`equiflow sample` loses nothing that is there, and refuses what cannot be written before it starts."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch

from equiflow import (
    Angles,
    CoulombGas,
    EquivariantCNF,
    ExternalField,
    FreeScalar,
    Lattice,
    ONModel,
    Particles,
    Phi4,
    XYModel,
    importance_sample,
    measure,
)
from equiflow.cli import ensembles, results
from equiflow.cli.flow_files import action_from, flow_named
from equiflow.cli.run.folder import Run, start_flow
from equiflow.interop import describe_samples, load_ensemble, save_samples
from equiflow.runtime import capacity
from equiflow.runtime.randomness import stream
from equiflow.theories.multiplets.space import Multiplet
from tests.support import distributed_jobs as jobs
from tests.support.cli_runs import Executioner, KilledError, invoke, parse, succeed, tiny, trained
from tests.support.free_field import as_chain
from tests.support.oracles import free_samples
from tests.support.strategies import needs

#: a target so near the prior that few samples measure it well
EASY = ("action.m2=1.0", "action.lam=0.05")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("run") / "tiny")


def words(output: str) -> str:
    """An output without the line breaks and frames of a terminal."""
    return " ".join(output.replace("│", " ").split())


def refused(*arguments: object) -> str:
    """The message of a command that ends with status 1 and no traceback."""
    result = invoke(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    return words(result.output)


def never(*arguments: object, **options: object) -> None:
    raise AssertionError("this was refused too late")


def test_an_ensemble_is_replaced_by_force_only(run, tmp_path, monkeypatch):
    path = tmp_path / "e.npz"
    succeed("sample", run.folder, "-n", 8, "-o", path)
    first = load_ensemble(path).phi
    with monkeypatch.context() as patch:
        patch.setattr(ensembles, "importance_sample", never)
        message = refused("sample", run.folder, "-n", 8, "-o", path, "--seed", 2)
    assert "e.npz is there already" in message
    assert "--force" in message
    assert torch.equal(load_ensemble(path).phi, first)
    succeed("sample", run.folder, "-n", 8, "-o", path, "--seed", 2, "--force")
    assert not torch.equal(load_ensemble(path).phi, first)


def test_an_ensemble_that_appears_meanwhile_is_kept(run, tmp_path, monkeypatch):
    path, draw = tmp_path / "e.npz", ensembles.importance_sample

    def draw_slowly(*arguments, **options):
        path.write_text("another command was faster")
        return draw(*arguments, **options)

    monkeypatch.setattr(ensembles, "importance_sample", draw_slowly)
    assert "is there already" in refused("sample", run.folder, "-n", 8, "-o", path)
    assert path.read_text() == "another command was faster"


def test_shards_of_other_samples_are_replaced_by_force_only(run, tmp_path):
    command = ["sample", run.folder, "-n", 8, "-o", tmp_path / "many.npz", "--shards", 2]
    succeed(*command)
    first = load_ensemble(tmp_path / "many").phi
    succeed(*command)  # the same command keeps them
    assert "belongs to another ensemble" in refused(*command, "--seed", 2)
    assert torch.equal(load_ensemble(tmp_path / "many").phi, first)
    succeed(*command, "--seed", 2, "--force")
    assert not torch.equal(load_ensemble(tmp_path / "many").phi, first)


def test_force_keeps_what_was_drawn_before_torchrun_began_again(run, tmp_path, monkeypatch):
    command = ["sample", run.folder, "-n", 8, "-o", tmp_path / "many.npz", "--shards", 2, "--force"]
    succeed(*command)
    drawn = [path.stat().st_mtime_ns for path in sorted((tmp_path / "many").iterdir())]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    succeed(*command)
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "many").iterdir())] == drawn


@pytest.mark.parametrize("shards", [[], ["--shards", 2]], ids=["file", "shards"])
@pytest.mark.parametrize(
    ("out", "message"),
    [("n" * 270 + ".npz", "too long"), ("file/e.npz", "exists|Not a directory"), ("e.csv", "ends in .npz")],
)
def test_a_file_that_cannot_be_written_is_refused_before_sampling(
    run, tmp_path, monkeypatch, out, message, shards
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(ensembles, "importance_sample", never)
    monkeypatch.setattr(ensembles, "sample_shards", never)
    output = refused("sample", run.folder, "-o", tmp_path / out, *shards)
    assert any(part.replace(" ", "") in output.replace(" ", "") for part in message.split("|"))


def test_a_folder_without_permission_is_refused_before_sampling(run, tmp_path, monkeypatch):
    monkeypatch.setattr(ensembles, "importance_sample", never)
    monkeypatch.setattr(ensembles.os, "access", lambda path, *_, **__: Path(path) != tmp_path)
    assert "Permission denied" in refused("sample", run.folder, "-o", tmp_path / "e.npz")


def test_without_h5py_nothing_is_sampled_for_it(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setattr(ensembles, "importance_sample", never)
    monkeypatch.setattr("equiflow.interop.shards.importance_sample", never)
    for shards in ([], ["--shards", 2]):
        message = refused("sample", run.folder, "-o", tmp_path / "e.h5", *shards)
        assert message == "HDF5 files need h5py: pip install '.[io]', or take a name that ends in .npz."
    with pytest.raises(ImportError, match="need h5py"):
        jobs.shards(tmp_path / "e", 2, suffix=".h5")


@pytest.mark.parametrize("suffix", [".npz", pytest.param(".h5", marks=needs("h5py"))])
@pytest.mark.parametrize("shards", [[], ["--shards", 2]], ids=["file", "shards"])
def test_a_full_disk_leaves_one_clear_message_and_the_old_ensemble(run, tmp_path, suffix, shards):
    """A limit on the size of files stands for the disk: writes fail in the same place."""
    path = tmp_path / f"e{suffix}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    command = ["sample", run.folder, "-n", 512, "-o", path, *shards, "--force"]
    succeed(*command)
    left = {file: file.read_bytes() for file in tmp_path.rglob("*.*") if not shards}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
        message = refused(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "too large" in message
    assert len(message) < 400
    assert left == {file: file.read_bytes() for file in tmp_path.rglob("*.*") if not shards}
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("shards", [[], ["--shards", 4]], ids=["file", "shards"])
def test_samples_without_room_on_the_disk_are_refused_before_sampling(run, tmp_path, monkeypatch, shards):
    """A sample has 16 numbers, log q and log weight in float64, 144 bytes; a file its header."""
    room = 144 * 1000 + len(shards or [1]) ** 2 * ensembles.HEADER_BYTES
    monkeypatch.setattr(capacity, "free_disk", lambda folder: room)
    monkeypatch.setattr(ensembles, "importance_sample", never)
    monkeypatch.setattr(ensembles, "sample_shards", never)
    message = refused("sample", run.folder, "-n", 1001, "-o", tmp_path / "e.npz", *shards)
    assert message.startswith("1001 samples of 16 numbers in float64 need 14")
    assert message.endswith("are free there. Take fewer samples (-n), or another disk (--out).")
    with pytest.raises(AssertionError, match="too late"):  # one less has room
        raise invoke("sample", run.folder, "-n", 1000, "-o", tmp_path / "e.npz", *shards).exception
    assert not list(tmp_path.rglob("*.npz"))


def test_samples_without_room_in_the_memory_are_refused_before_sampling(run, tmp_path, monkeypatch):
    """All samples are in memory twice for a moment; shards are there one at a time."""
    command = ["sample", run.folder, "-o", tmp_path / "e.npz"]
    monkeypatch.setattr(capacity, "free_memory", lambda device: 2 * 144 * 1000)
    with monkeypatch.context() as patch:
        patch.setattr(ensembles, "importance_sample", never)
        patch.setattr(ensembles, "sample_shards", never)
        message = refused(*command, "-n", 1001)
        assert "need at least 288 kB of memory; 288 kB are free. Take fewer" in message
        assert "--shards" in message
        assert "1001 samples of" in refused(*command, "-n", 2002, "--shards", 2)
        assert "They are one shard: take more --shards." in refused(*command, "-n", 2001, "--shards", 2)
    succeed(*command, "-n", 1000, "--batch-size", 1000)
    succeed(*command, "-n", 1001, "--shards", 2)


@pytest.mark.parametrize("n_samples", [10**11, 10**30])
@pytest.mark.parametrize("command", [["sample"], ["sample", "--shards", 9], ["report"], ["report", "--hmc"]])
def test_what_no_machine_can_hold_is_refused_at_once(run, tmp_path, command, n_samples):
    count = [*command, n_samples] if command[-1] == "--hmc" else [*command, "-n", n_samples]
    message = refused(*count, run.folder, "-o", tmp_path / "e.npz")
    assert f"{n_samples} samples of 16 numbers" in message
    assert "Take fewer samples" in message
    assert not list(tmp_path.rglob("e*.*"))


def test_a_run_folder_stands_for_its_ensembles(tmp_path):
    folder = trained(tmp_path / "run", *EASY).folder
    assert "equiflow sample" in refused("measure", folder)
    (folder / ensembles.HMC_FILE).touch()
    assert "holds no ensemble yet" in refused("measure", folder)
    succeed("sample", folder, "-n", 256)
    assert "log Z" in succeed("measure", folder, "--json", tmp_path / "one.json")
    succeed("sample", folder, "-n", 256, "-o", folder / "more.npz", "--shards", 2)
    assert ensembles.ensembles_of(folder) == [folder / "ensemble.npz", folder / "more"]
    output = succeed("measure", folder)
    assert "ensemble.npz: Phi4" in output
    assert "more: Phi4" in output
    message = refused("measure", folder, "--json", tmp_path / "two.json")
    assert "name one" in message
    assert not (tmp_path / "two.json").exists()


def test_a_run_of_another_device_is_sampled_reported_and_checked_here(tmp_path):
    folder = trained(tmp_path / "run", *EASY).folder
    config = folder / "config.toml"
    config.write_text(config.read_text().replace('device = "cpu"', 'device = "cuda:99"'))
    for command in (["sample", "-n", 256], ["report", "-n", 256, "--hmc", 0], ["check"]):
        assert "device" in refused(*command, folder)
        succeed(*command, folder, "--device", "cpu")
    succeed("sample", "-n", 8, "--shards", 2, folder, "--device", "cpu")
    (folder / "flow.pt").unlink()
    (folder / "checkpoints" / "best.pt").unlink()  # from here on, the latest checkpoint has to do
    assert "latest.pt" in succeed("sample", "-n", 8, folder, "--device", "cpu", "--force")
    assert "cuda:99" in config.read_text()
    assert start_flow(parse("", f"start.flow={folder}")).device.type == "cpu"
    assert "unknown device 'gpu'" in refused("sample", folder, "--device", "gpu", "--force")


@pytest.mark.parametrize("command", ["sample", "report"])
def test_an_unfinished_run_says_at_which_step_it_stands(command, tmp_path):
    run = Run.create(tmp_path / "run", tiny(*EASY))
    with pytest.MonkeyPatch.context() as patch:
        Executioner(patch, 17)
        with pytest.raises(KilledError):
            run.train(progress=False)
    step = run.metrics[-1]["step"]
    assert 3 < step < 7
    flow, source = run.trained()
    options = ["--hmc", 0] if command == "report" else []
    output = words(succeed(command, run.folder, "-n", 256, *options))
    assert f"is unfinished: step {step} of 7." in output
    assert f"The flow is that of {source}, of step {flow.about['step']};" in output
    if (
        command == "sample"
    ):  # a finished run says nothing; another report would take seconds for the same lines
        run.train(progress=False)
        assert "is unfinished" not in succeed("sample", run.folder, "-n", 256, "--force")


def test_the_flow_of_a_file_is_sampled_and_checked(run, tmp_path, monkeypatch):
    succeed("sample", run.folder, "-n", 16, "-o", tmp_path / "run.npz")
    shutil.copy(run.folder / "flow.pt", tmp_path / "copy.pt")
    monkeypatch.chdir(tmp_path)
    succeed("sample", "copy.pt", "-n", 16)
    assert torch.equal(load_ensemble("ensemble.npz").phi, load_ensemble("run.npz").phi)
    assert torch.equal(load_ensemble("ensemble.npz").log_weight, load_ensemble("run.npz").log_weight)
    assert describe_samples("ensemble.npz")["action"] == describe_samples("run.npz")["action"]
    succeed("sample", "copy.pt", "-n", 16, "--shards", 2)
    assert "all laws hold" in succeed("check", "copy.pt")


def test_a_pretrained_flow_is_sampled_by_its_name(tmp_path):
    succeed("sample", "phi4-2d-L8", "-n", 256, "-o", tmp_path / "e.npz")
    assert describe_samples(tmp_path / "e.npz")["action"]["text"] == "Phi4(shape=(8, 8), m2=-4.0, lam=6.008)"
    assert load_ensemble(tmp_path / "e.npz").effective_sample_size().mean > 0.95
    message = refused("sample", "phi4-2d-L9", "-o", tmp_path / "f.npz")
    assert "phi4-2d-L9 holds no run" in message
    assert "expected one of phi4-2d-L16" in message


def test_two_levels_are_sampled_measured_and_written_in_shards(tmp_path):
    output = words(
        succeed("sample", "phi4-2d-L8", "-n", 600, "--levels", 2, "--seed", 4, "-o", tmp_path / "e.npz")
    )
    two = load_ensemble(tmp_path / "e.npz")
    assert two.correction is not None
    assert f"levels all samples by {two.correction.coarse}" in output
    assert f"log Z corrected by {two.correction_of()}" in output
    measured = words(succeed("measure", tmp_path / "e.npz"))
    assert f"log Z {two.log_z()}" in measured
    assert f"log Z corrected by {two.correction_of()}" in measured
    output = words(
        succeed("sample", "phi4-2d-L8", "-n", 600, "--levels", 2, "--shards", 2, "-o", tmp_path / "s.npz")
    )
    assert "corrected by fine solves: equiflow measure" in output
    assert "without the solver's error" not in output
    assert abs(load_ensemble(tmp_path / "s").log_z().sigmas_from(two.log_z())) < 4


@pytest.mark.parametrize("name", ["copy.pt", "phi4-2d-L8"])
def test_a_flow_without_run_has_a_report_in_a_folder_of_its_own(run, tmp_path, monkeypatch, name):
    monkeypatch.setattr(results, "HMC_CHAINS", 8)
    monkeypatch.setattr(results, "DENSE_SITES", 16)  # dense Jacobians of 64 sites show nothing about reports
    shutil.copy(run.folder / "flow.pt", tmp_path / "copy.pt")
    monkeypatch.chdir(tmp_path)
    Path(ensembles.HMC_FILE).write_text("of something else")
    output = words(succeed("report", name, "-n", 256, "--hmc", 64))
    folder = Path(f"{name.removesuffix('.pt')}-report")
    assert f"wrote {folder / 'report.html'}" in output
    assert {path.name for path in folder.iterdir()} == {"report.html", "plots", ensembles.HMC_FILE}
    assert Path(ensembles.HMC_FILE).read_text() == "of something else"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "No step is on record" in page
    assert "No config file belongs to this flow" in page
    assert "All laws hold" in page
    numbers = json.loads((folder / "plots" / "results.json").read_text())
    flow, source = flow_named(name).trained()
    drawn = importance_sample(
        flow, flow_named(name).action, 256, batch_size=512, certify=256, generator=stream(0, "report")
    )
    assert numbers["log_z"] == drawn.log_z().mean
    assert (numbers["flow"], numbers["n_hmc_samples"], numbers["steps"]) == (source, 64, 0)
    if name == "copy.pt":
        succeed("report", name, "-n", 256, "--hmc", 64, "--out", "elsewhere/page.html")
        assert Path("elsewhere/page.html").exists()


def test_the_report_of_a_flow_of_particles_is_refused_before_sampling(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "importance_sample", never)
    flow = EquivariantCNF(Particles(3, 2))
    flow.about["action"] = repr(CoulombGas(flow.space, beta=0.5))
    flow.save(tmp_path / "gas.pt")
    assert "observables of fields, angles or links" in refused("report", tmp_path / "gas.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["gas.pt"]


def test_a_folder_whose_name_is_no_text_has_a_report(run, tmp_path):
    folder = tmp_path / os.fsdecode(b"r\xe9sultats")
    shutil.copytree(run.folder, folder)
    succeed("report", folder, "-n", 128, "--hmc", 0)
    assert "r?sultats" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "about", ["", "ExternalField(Phi4(), h=1)", "__import__('os').mkdir('x')", "Phi4(lam=1", "Phi4(**{})"]
)
def test_a_flow_that_does_not_say_its_action_is_checked_but_not_sampled(run, tmp_path, monkeypatch, about):
    monkeypatch.chdir(tmp_path)
    flow, _ = run.trained()
    flow.about = {"action": about} if about else {}
    flow.save("flow.pt")
    assert "has to say its action in flow.about['action']" in refused("sample", "flow.pt")
    assert "all laws hold" in succeed("check", "flow.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["flow.pt"]


@pytest.mark.parametrize(
    "action",
    [
        Phi4(Lattice((3, 4)), m2=-0.5, lam=1e-3),
        ONModel(Multiplet(Lattice((3, 3)), 2), m2=1.0, lam=0.25),
        XYModel(Angles(Lattice((2, 2))), beta=0.7),
        CoulombGas(Particles(3, 2), beta=1.5),
        ExternalField(Phi4(Lattice((3, 4)), m2=-0.5, lam=1e-3), h=0.2),
        ExternalField(ONModel(Multiplet(Lattice((3, 3)), 2), m2=1.0, lam=0.25), h=(0.0, 0.5)),
    ],
    ids=lambda action: type(action).__name__,
)
def test_actions_are_built_again_from_their_text(action):
    built = action_from(repr(action), action.space)
    assert repr(built) == repr(action)
    assert built.space == action.space
    assert action_from(repr(action), Lattice((9, 9))) is None


def test_the_action_in_a_file_says_whether_the_mean_field_is_subtracted(tmp_path):
    action = ExternalField(FreeScalar(Lattice((4, 4)), m2=1.0), h=4.0)
    phi = free_samples(action.action, 400) + 2.0
    save_samples(as_chain(phi), tmp_path / "known.npz", action=action)
    save_samples(as_chain(phi), tmp_path / "unknown.npz")
    length = measure(as_chain(phi), action=action).correlation_length.mean
    for name, options, subtracted in (
        ("known", (), True),
        ("known", ("--z2",), False),
        ("unknown", (), False),
        ("unknown", ("--no-z2",), True),
    ):
        output = succeed("measure", tmp_path / f"{name}.npz", *options, "--json", tmp_path / "numbers.json")
        numbers = json.loads((tmp_path / "numbers.json").read_text())
        assert ("C(t), connected" in output) == subtracted
        assert ("z2=False" in words(output)) == (not subtracted)
        assert (numbers["correlation_length"]["mean"] == pytest.approx(length)) == subtracted
        assert numbers["magnetisation"]["mean"] == pytest.approx(2.0, abs=0.1)
        assert numbers["correlator"][2]["mean"] > 10 > numbers["connected_correlator"][2]["mean"]
