"""What the README shows works as it stands, and it stays short; `test_guides.py` runs the guides."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "examples" / "README.md", *sorted((ROOT / "examples" / "guides").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem} {number}")
    for page in PAGES[:2]
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_code_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    namespace = {}
    exec(compile(block, "README", "exec"), namespace)
    out = capsys.readouterr().out
    assert "FAIL" not in out
    if "ensemble" in namespace:
        assert namespace["ensemble"].effective_sample_size().mean > 0.9
    else:
        assert out.count("all laws hold") == 2


def test_both_commands_are_there_and_continuous_integration_runs_the_second():
    text = README.read_text(encoding="utf-8")
    assert "python examples/phi4_L16.py" in text
    command = text.split("<!-- test command -->")[1].split("```")[1]
    assert command.strip().endswith("pytest -n auto --dist loadfile")


def test_it_takes_a_few_minutes_to_read():
    text = README.read_text(encoding="utf-8")
    assert len(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()) <= 1000
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_within_the_project_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)|^\[[^]]+\]: ([^#\s]+)", text, re.MULTILINE)
    inside = [one or other for one, other in links if not (one or other).startswith("http")]
    assert all((page.parent / link).exists() for link in inside), inside


def test_every_example_is_in_the_gallery():
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    names = [path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb", ".sh")]
    assert [name for name in names if f"`{name}`" not in text] == []
