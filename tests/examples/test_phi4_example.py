from __future__ import annotations

import ast
import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from equiflow import EquivariantCNF, fused

EXAMPLE = Path(__file__).parents[2] / "examples" / "phi4_L16.py"
REQUIRED = {
    *("reverse_ess", "forward_ess", "acceptance", "log_z", "log_z_error", "log_z_shift"),
    *("train_seconds", "total_seconds", "nfe", "steps", "seed"),
}
OPTIONS = ["--L", "--m2", "--lam", "--steps", "--batch-size", "--device", "--dtype", "--seed", "--out"]
SMALL = ["--L", "4", "--lam", "7", "--steps", "20", "--samples", "256"]


def run(*arguments: str, example: Path = EXAMPLE) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, str(example), *arguments], capture_output=True, text=True, env=environment
    )


@pytest.fixture
def run_here(monkeypatch, capsys) -> Callable[..., str]:
    """Run an example in this process, which saves importing everything again; its output."""

    def run_it(*arguments: str, example: Path = EXAMPLE) -> str:
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        monkeypatch.setattr(sys, "argv", [str(example), *arguments])
        try:
            runpy.run_path(str(example), run_name="__main__")
        finally:
            torch.set_default_dtype(default)
        return capsys.readouterr().out

    return run_it


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("example") / "out"
    return out, run(*SMALL, "--out", str(out))


def test_the_example_succeeds_and_prints_its_table(finished):
    _, process = finished
    assert process.returncode == 0, process.stderr
    for words in ("reverse ess", "forward ess", "acceptance", "log z", "susceptibility", "HMC", "trained in"):
        assert words in process.stdout


def test_the_example_leaves_plots_and_a_readable_flow(finished):
    out, _ = finished
    plots = sorted(path.name for path in out.glob("*.png"))
    assert plots == [
        "configurations.png",
        "effective_mass.png",
        "magnetisation.png",
        "training.png",
        "two_point.png",
        "weights.png",
    ]
    assert {path.name for path in out.iterdir()} == {*plots, "flow.pt", "results.json"}
    flow = EquivariantCNF.load(out / "flow.pt")
    assert (flow.lattice.shape, flow.dtype) == ((4, 4), torch.float32)
    assert bool(flow.sample_and_log_prob(4)[1].isfinite().all())


def test_the_example_leaves_the_required_numbers(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    assert results.keys() >= REQUIRED
    assert all(math.isfinite(results[key]) for key in REQUIRED)
    assert (results["steps"], results["seed"], results["n_samples"]) == (20, 0, 256)
    assert 0 < results["reverse_ess"] <= 1
    assert 0 < results["forward_ess"] <= 1
    assert 0 < results["acceptance"] <= 1
    assert abs(results["log_z_shift"]) < 0.01
    assert 0 < results["train_seconds"] <= results["total_seconds"]


def test_the_example_is_reproducible(finished, tmp_path, run_here):
    out = tmp_path / "again"
    run_here(*SMALL, "--out", str(out))
    first, again = (json.loads((folder / "results.json").read_text()) for folder in (finished[0], out))
    timings = {"train_seconds", "total_seconds", "out"}
    assert {k: v for k, v in again.items() if k not in timings} == {
        k: v for k, v in first.items() if k not in timings
    }


def test_help_explains_every_option_in_words(run_here, capsys):
    with pytest.raises(SystemExit) as end:
        run_here("--help")
    assert end.value.code == 0
    said = capsys.readouterr().out
    for words in (*OPTIONS, "mass", "coupling", "lattice", "optimiser steps", "seed"):
        assert words in said


@pytest.mark.parametrize("arguments", [["--lam", "-1", "--L", "4"], ["--dtype", "float16"]])
def test_bad_options_fail(arguments, run_here):
    with pytest.raises((SystemExit, ValueError)) as end:
        run_here(*arguments)
    assert not isinstance(end.value, SystemExit) or end.value.code == 2


def test_the_example_is_short_and_uses_public_names_only():
    source = EXAMPLE.read_text()
    assert len(source.splitlines()) < 100
    imported = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    modules = {node.module for node in imported if node.module.startswith("equiflow")}
    assert modules <= {"equiflow", "equiflow.report"}


@pytest.mark.filterwarnings("ignore::equiflow.statistics.LowEffectiveSampleSizeWarning")
def test_the_conditional_example_draws_a_curve(tmp_path, run_here):
    small = ["--L", "4", "--lam", "6", "8", "--steps", "10", "--samples", "256", "--points", "3"]
    out = run_here(*small, "--out", str(tmp_path), example=EXAMPLE.with_name("phi4_conditional.py"))
    assert "lam 6.00 to 8.00" in out
    assert {"flow.pt", "conditional.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.filterwarnings("ignore::equiflow.statistics.LowEffectiveSampleSizeWarning")
def test_the_example_of_charges_in_a_trap_draws_its_correlations(tmp_path, run_here):
    small = ["--particles", "3", "--steps", "5", "--batch-size", "16", "--samples", "256"]
    out = run_here(*small, "--out", str(tmp_path), example=EXAMPLE.with_name("coulomb_gas.py"))
    for words in ("reverse ESS", "forward ESS", "variational free energy", "energy <H>", "virial"):
        assert words in out
    assert {path.name for path in tmp_path.iterdir()} == {"flow.pt", "coulomb_gas.png"}


@pytest.mark.filterwarnings("ignore::equiflow.statistics.LowEffectiveSampleSizeWarning")
def test_the_example_of_angles_draws_its_vortices(tmp_path, run_here):
    small = ["--L", "4", "--beta", "0.5", "0.6", "--steps", "3", "--batch-size", "8", "--samples", "64"]
    # No other test trains angles in float32, and the kernels for it take a minute to compile.
    with fused.switched(False):
        out = run_here(*small, "--out", str(tmp_path), example=EXAMPLE.with_name("xy_model.py"))
    for words in ("reverse ESS", "forward ESS", "helicity modulus", "vortex density"):
        assert words in out
    assert {path.name for path in tmp_path.iterdir()} == {"flow-0.5.pt", "flow-0.6.pt", "xy_model.png"}


@pytest.mark.filterwarnings("ignore::equiflow.statistics.LowEffectiveSampleSizeWarning")
def test_the_example_in_three_dimensions_runs(tmp_path, run_here):
    small = ["--L", "4", "--steps", "20", "--samples", "256", "--field", "orbit"]
    out = run_here(*small, "--out", str(tmp_path), example=EXAMPLE.with_name("phi4_3d.py"))
    assert "reverse ESS" in out
    assert "results.json" in {path.name for path in tmp_path.iterdir()}


@pytest.mark.filterwarnings("ignore::equiflow.statistics.LowEffectiveSampleSizeWarning")
def test_the_example_of_the_renormalisation_group_leaves_the_exact_log_z(tmp_path, run_here, capsys):
    example = EXAMPLE.with_name("neural_rg.py")
    small = ["--L", "4", "--smallest", "2", "--levels", "2", "--T", "critical", "--steps", "3"]
    out = run_here(*small, "--samples", "256", "--out", str(tmp_path), example=example)
    for words in ("translations by 2 x D4 x Z2", "eta / 2", "log Z"):
        assert words in out
    results = json.loads((tmp_path / "results.json").read_text())
    names = {"reverse_ess", "forward_ess", "log_z", "log_z_error", "log_z_exact"}
    assert all(math.isfinite(results[name]) for name in names)
    assert results["log_z_exact"] == pytest.approx(37.37673, abs=1e-5)
    assert {"neural_rg.png", "flow.pt"} <= {path.name for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit):
        run_here("--L", "15", example=example)
    assert "needs even sides, got lattice (15, 15)" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
def test_jobs_of_slurm_have_a_port_of_their_own_and_the_cores_that_were_asked_for(tmp_path):
    """With a srun that only says what it was asked for."""
    for name, line in (
        ("srun", 'echo "$SRUN_CPUS_PER_TASK $*"'),
        ("scontrol", "echo node"),
        ("equiflow", ""),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "16"}
    environment |= {"SLURM_JOB_NODELIST": "node", "SLURM_NNODES": "2"}
    ports = set()
    for job in ("123456", "123457"):
        said = subprocess.run(
            ["bash", EXAMPLE.parent / "slurm.sh", "config.toml", "run"],
            capture_output=True,
            text=True,
            check=True,
            env=environment | {"SLURM_JOB_ID": job},
        ).stdout.splitlines()
        assert all(line.startswith("16 torchrun --nnodes=2 ") for line in said)
        ports |= {line.split("--rdzv-endpoint=node:")[1].split()[0] for line in said}
    assert ports == {"23456", "23457"}
