"""The notebook, and the training loops of others."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))


def cells() -> list[str]:
    """Sources of the code cells, without lines that speak to Jupyter alone."""
    sources = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    return ["\n".join(line for line in s.splitlines() if not line.startswith("%")) for s in sources]


def test_the_notebook_runs_from_top_to_bottom(monkeypatch, capsys):
    torch.set_default_dtype(torch.float32)
    namespace = {"__name__": "notebook"}
    for number, source in enumerate(cells()):
        exec(compile(source, f"cell {number}", "exec"), namespace)
    output = capsys.readouterr().out
    assert "all laws hold" in output
    assert "both directions agree" in output
    assert namespace["ensemble"].effective_sample_size().mean > 0.95
    agree = [
        abs(value.sigmas_from(namespace["reference"].scalars()[name])) < 4
        for name, value in namespace["ours"].scalars().items()
    ]
    assert all(agree)


def test_the_notebook_was_saved_with_what_it_showed_and_without_errors():
    outputs = [o for cell in NOTEBOOK["cells"] for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert len([o for o in outputs if "image/png" in o.get("data", {})]) == 3
    assert "/work" not in json.dumps(NOTEBOOK)


def run(example: str, *arguments: str) -> None:
    """What `python examples/NAME` does, without a process of its own."""
    torch.set_default_dtype(torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [example, *arguments])
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")


def test_a_loop_of_your_own_trains(capsys):
    run("own_loop.py", "5")
    assert capsys.readouterr().out.splitlines()[-1].startswith("ESS on fresh samples: 0.")
    assert len((EXAMPLES / "own_loop.py").read_text().splitlines()) <= 30


@pytest.mark.filterwarnings("ignore")  # Lightning's own, which come and go with its versions
def test_lightning_trains(capsys):
    pytest.importorskip("lightning")
    run("with_lightning.py", "3")
    assert "ESS on fresh samples: 0." in capsys.readouterr().out
