"""The example of electrons in a trap, much reduced."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "fermions_in_a_trap.py"


def run(*arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [EXAMPLE.name, *arguments])
        torch.set_default_dtype(torch.float32)
        runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_results_of_two_electrons_are_written(tmp_path, capsys):
    quick = ["--steps", "3", "--batch-size", "32", "--samples", "1000", "--cutoff", "7"]
    run("--n", "2", "--dim", "2", "--beta", "2", "--Z", "0", "0.5", *quick, "--out", str(tmp_path))
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    wanted = ("free_energy", "free_energy_error", "energy", "energy_error", "entropy")
    assert {type(found[name]) for name in wanted} == {float}
    assert [one["Z"] for one in found["all"]] == [0.0, 0.5]
    for one in found["all"]:
        assert abs(one["free_energy_exact"] - {0.0: 2.48953, 0.5: 2.79204}[one["Z"]]) < 1e-5
        assert -4.5 * one["free_energy_error"] < one["free_energy"] - one["free_energy_exact"] < 0.1
    assert (tmp_path / "densities.png").stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert "exact free energy 2.792044" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cutoff", "2"), "below the energy 3 of the Fermi sea"),
        (("--n", "0"), "number must be an integer >= 1, got 0"),
        (("--beta", "-1"), "beta must be positive"),
        (("--Z", "-1"), "Z must be finite and >= 0"),
    ],
)
def test_impossible_systems_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as raised:
        run(*arguments, "--steps", "1", "--samples", "10")
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
