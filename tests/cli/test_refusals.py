"""Errors and interruptions end a command with a sentence, not with a traceback."""

from __future__ import annotations

import errno
import signal
import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest
import torch
import typer
from typer.testing import CliRunner

from equiflow.cli import ensembles, main, results
from equiflow.cli.app import app, start
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.run.folder import Run
from tests.support.cli_runs import TINY, invoke, succeed, tiny, trained

EASY = ("action.m2=1.0", "action.lam=0.05")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("run") / "tiny", *EASY)


def words(output: str) -> str:
    return " ".join(output.split())


@pytest.mark.parametrize(
    ("device", "message"),
    [
        pytest.param(
            "cuda",
            "[compute]: There is no CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
        ("gpu", "[compute]: unknown device 'gpu'; expected cpu, cuda, cuda:1, ..."),
    ],
)
def test_a_device_that_is_not_there_is_named(device, message, tmp_path):
    (tmp_path / "c.toml").write_text(TINY)
    result = invoke(
        "train", tmp_path / "c.toml", "--run", tmp_path / "r", "--set", f"compute.device={device}"
    )
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "r").exists()


def test_seeds_that_torch_cannot_take_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"\[training\] seed = 18446744073709551616: .*615"):
        tiny(f"training.seed={2**64}")
    largest = trained(tmp_path / "run", f"training.seed={2**64 - 1}", "training.steps=1")
    assert len(largest.metrics) == 1


def test_memory_that_runs_out_ends_with_the_remedy(run, tmp_path, monkeypatch):
    """What is needed beyond the samples themselves cannot be foreseen."""
    monkeypatch.setattr(ensembles, "importance_sample", lambda *arguments, **options: torch.empty(2**45))
    result = invoke("sample", run.folder, "-o", tmp_path / "e.npz")
    assert result.exit_code == 1
    assert "not enough memory: take smaller batches or fewer samples" in words(result.output)
    assert len(result.output.splitlines()) < 4


def test_other_errors_of_torch_are_not_called_lack_of_memory(run, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("a defect")

    monkeypatch.setattr(ensembles, "importance_sample", fail)
    assert invoke("sample", run.folder, "-o", tmp_path / "e.npz").exception.args == ("a defect",)


@pytest.mark.parametrize("command", [["sample"], ["report"], ["check"], ["resume"], ["measure"]])
def test_ctrl_c_ends_every_command_with_a_word(run, monkeypatch, command):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "open", interrupted)
    monkeypatch.setattr(results, "measure_files", interrupted)
    result = invoke(*command, run.folder)
    assert result.exit_code == 130
    assert result.output.strip() == "Stopped."


def test_ctrl_c_while_the_commands_are_imported_ends_without_traceback(monkeypatch):
    class Slow(ModuleType):
        def __getattr__(self, name):
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setitem(sys.modules, "equiflow.cli.app", Slow("equiflow.cli.app"))
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.value.code == 130


def test_a_report_without_hmc_is_better_than_none(run, monkeypatch):
    """HMC gives up on some valid actions, such as that of m2 = 1e6."""

    class GivesUp:
        def __init__(self, action):
            pass

        def sample(self, *arguments, **options):
            raise RuntimeError("the step size collapsed")

    monkeypatch.setattr(results, "HMC", GivesUp)
    output = succeed("report", run.folder, "-n", 256, "--hmc", 64)
    assert "compares with nothing: the step size collapsed" in words(output)
    assert (run.folder / "report.html").exists()
    assert not (run.folder / ensembles.HMC_FILE).exists()


def test_no_color_means_no_colour(run, tmp_path, monkeypatch):
    def coloured(**environment: str) -> bool:
        result = CliRunner().invoke(app, ["sample", str(tmp_path)], color=True, env=environment)
        assert "holds no run" in result.output
        return "\x1b" in result.output

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured()
    assert not coloured(NO_COLOR="1")


@pytest.mark.parametrize("seed", [-1, 2**64, "1.5", "x"])
def test_seeds_and_threads_that_cannot_be_are_refused_as_usage(run, seed, tmp_path):
    for option in ("--seed", "--threads"):
        result = invoke("sample", run.folder, "-n", 2, "-o", tmp_path / "e.npz", option, seed)
        assert result.exit_code == 2
        assert option in words(result.output)


def test_more_threads_than_any_machine_has_are_refused():
    """OpenMP would end the process without a word."""
    with pytest.raises(ConfigError, match=r"\[compute\] threads = 100000: .*1024"):
        tiny("compute.threads=100000")


@pytest.mark.parametrize(
    "full", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.ENOSPC, "No space")]
)
@pytest.mark.parametrize("inside", [True, False])
def test_output_that_goes_nowhere_ends_a_command_in_one_line(full, inside, monkeypatch, capsys):
    """A pipe that nobody reads is no error to tell; a full disk is."""

    def fails(*arguments, **options):
        raise full

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "argv", ["equiflow", "config"] if inside else ["equiflow", "--version"])
    monkeypatch.setattr(typer, "echo", lambda text, err=False: sys.stderr.write(text) if err else fails())
    with pytest.raises(SystemExit) as end:
        start()
    said = f"{capsys.readouterr().err}{end.value.code if isinstance(end.value.code, str) else ''}"
    assert said == ("" if isinstance(full, BrokenPipeError) else "The system refused: No space.")
    assert end.value.code not in (0, None)


def test_a_warning_is_a_sentence_without_a_line_of_code(monkeypatch, capsys):
    def warn(**options):
        warnings.warn("few samples", UserWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    monkeypatch.setitem(sys.modules, "equiflow.cli.app", SimpleNamespace(start=warn))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main()
    assert capsys.readouterr().err == "Warning: few samples\nDeprecationWarning: old\n"
