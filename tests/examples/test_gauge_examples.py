"""The examples of gauge theory, on small lattices: what they print and leave behind."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from equiflow import EquivariantCNF, Lattice, Links

EXAMPLES = Path(__file__).parents[2] / "examples"
REQUIRED = {
    *("reverse_ess", "forward_ess", "log_z", "log_z_error", "log_z_exact"),
    *("plaquette", "plaquette_error", "plaquette_exact", "chi_q", "raw_chi_q", "train_seconds"),
    *("L", "beta", "steps", "seed"),
}


def run(example: str, folder: Path, *arguments: str) -> dict[str, float]:
    """What `python examples/NAME ... --out FOLDER` leaves as results, without a process of its own."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [example, *arguments, "--out", str(folder)])
            runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    finally:
        torch.set_default_dtype(default)
    return json.loads((folder / "results.json").read_text())


def test_u1_agrees_with_exact_results(tmp_path, capsys):
    small = ("--L", "4", "--beta", "2", "--sweep-samples", "256", "--samples", "512", "--trajectories", "64")
    found = run("gauge_u1.py", tmp_path / "out", *small, "--steps", "1")
    assert found.keys() >= REQUIRED
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("flow.pt", "gauge_u1.png", "results.json")
    }
    assert found["reverse_ess"] > 0.9
    assert found["forward_ess"] > 0.9
    for name in ("log_z", "plaquette", "chi_q"):
        assert abs(found[name] - found[f"{name}_exact"]) < 4 * found[f"{name}_error"] + 1e-2, name
    assert abs(found["raw_chi_q"] - found["chi_q_exact"]) < 4 * found["raw_chi_q_error"] + 1e-3
    assert EquivariantCNF.load(tmp_path / "out" / "flow.pt").space == Links(Lattice((4, 4)), "U(1)")
    assert "HMC, cold start" in capsys.readouterr().out


def test_sun_agrees_with_exact_results(tmp_path, capsys):
    small = ("--group", "SU(2)", "--L", "3", "--beta", "1", "--sweep-samples", "128", "--samples", "256")
    found = run("gauge_su3.py", tmp_path / "out", *small)
    assert found.keys() >= REQUIRED | {"group", "n_parameters"}
    assert (found["chi_q"], found["raw_chi_q"]) == (None, None)
    assert found["reverse_ess"] > 0.8
    for name in ("log_z", "plaquette"):
        assert abs(found[name] - found[f"{name}_exact"]) < 4 * found[f"{name}_error"] + 1e-2, name
    assert "farthest from the group" in capsys.readouterr().out


def test_u1_has_an_example_of_its_own(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("gauge_su3.py", tmp_path, "--group", "U(1)")
    assert "gauge_u1.py is for U(1)" in capsys.readouterr().err
