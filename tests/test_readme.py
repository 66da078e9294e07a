"""What the README shows works as it stands."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    namespace = {}
    exec(compile(block, "README", "exec"), namespace)
    out = capsys.readouterr().out
    assert "FAIL" not in out
    if "ensemble" in namespace:
        assert namespace["ensemble"].effective_sample_size().mean > 0.95
    else:
        assert out.count("all laws hold") == 2


def test_both_commands_are_there_and_continuous_integration_runs_the_second():
    text = README.read_text()
    assert "python examples/phi4_L16.py" in text
    command = text.split("<!-- test command -->")[1].split("```")[1]
    assert command.strip().endswith("pytest -n auto --dist loadfile")
