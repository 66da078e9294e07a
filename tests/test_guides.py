"""The guides run as they stand, and what they show is what comes out."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "examples" / "guides").glob("*.md"))
#: the topics that the gallery promises, in its order
TOPICS = [
    *("first_flow", "own_action", "own_field", "certificates", "large_lattices", "couplings", "gauge"),
    *("particles", "from_hmc", "runs"),
]


#: guides of a quarter of a minute and more: left to the slow tests
LONG = ("certificates", "runs", "own_action", "gauge", "own_field")


@pytest.fixture(scope="module")
def guides():
    spec = importlib.util.spec_from_file_location("docs_guides", ROOT / ".docs" / "guides.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] if p.stem in LONG else [], id=p.stem) for p in GUIDES],
)
def test_a_guide_runs_and_prints_what_it_shows(guides, path, tmp_path):
    if path.stem == "runs":
        pytest.importorskip("typer")
    torch.set_default_dtype(torch.float32)
    session, faults = guides.Session(tmp_path), []
    shorter = False  # from the first block on that is shorter in tests, numbers are those of another flow
    for block in guides.blocks(path.read_text(encoding="utf-8")):
        if not block.is_run:
            continue
        shorter = shorter or bool(block.shorter)
        with warnings.catch_warnings():
            if shorter:  # few samples of a flow that is hardly trained
                warnings.simplefilter("ignore", UserWarning)
            printed = session.run(block.language, block.for_tests())
        faults.append(guides.difference(block.output, printed, words_alone=shorter))
    assert [fault for fault in faults if fault] == []


def test_every_topic_has_its_guide_and_a_line_in_the_gallery():
    gallery = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    places = [gallery.index(f"(guides/{topic}.md)") for topic in TOPICS]
    assert places == sorted(places)
    assert set(TOPICS) <= {path.stem for path in GUIDES}
    for path in GUIDES:
        assert f"(guides/{path.name})" in gallery


def test_every_block_of_code_that_prints_shows_its_output(guides):
    for path in GUIDES:
        for block in guides.blocks(path.read_text(encoding="utf-8")):
            prints = block.language == "python" and "\nprint(" in block.source
            assert bool(block.output) or not prints or not block.is_run, (path.stem, block.source)


SHOWN = "ESS 0.9938 ± 0.0013 ± 7e-05 (solver)\ntable   12 rows\n"


@pytest.mark.parametrize(
    "printed",
    [
        SHOWN,
        "ESS 0.9921 ± 0.0015\ntable  7 rows\n",  # other numbers and widths, no error of the solver
        "ESS 0.9938 ± 0.0013 (only 12 tau_int long)\ntable 12 rows\n",
    ],
)
def test_what_another_machine_prints_agrees(guides, printed):
    assert guides.difference(SHOWN, printed) == ""


@pytest.mark.parametrize(
    ("printed", "fault"),
    [
        (SHOWN.replace("rows", "lines"), "printed: table"),
        (SHOWN.replace("0.9938", "0.8938"), "0.8938 ± 0.0013 is printed"),
        (SHOWN.replace("0.9938", "nan"), "shown:"),
        (SHOWN + "more\n", "2 lines are shown and 3 are printed"),
        ("", "2 lines are shown and 0 are printed"),
    ],
)
def test_what_has_gone_stale_is_noticed(guides, printed, fault):
    assert fault in guides.difference(SHOWN, printed)


def test_a_shorter_run_has_other_numbers_and_the_same_words(guides):
    warned = SHOWN + "warning: few effective samples\n"
    assert guides.difference(SHOWN, warned, words_alone=True) == ""
    assert guides.difference(SHOWN, SHOWN.replace("0.9938", "0.5"), words_alone=True) == ""
    assert guides.difference(SHOWN, SHOWN.replace("ESS", "log Z"), words_alone=True) != ""


TEXT = """# A guide

<!-- in tests: 3 -> 2; stop -> end -->
```python
print("a" * 3, "stop")
```

```text
old
```

<!-- not run -->
```bash
exit 1
```

```python
x = 1
```
"""


def test_a_guide_is_rewritten_with_what_it_prints(guides, tmp_path):
    path = tmp_path / "guide.md"
    path.write_text(TEXT)
    guides.rewrite(path)
    assert path.read_text() == TEXT.replace("```text\nold\n", "```text\naaa stop\n")
    first, second, third = guides.blocks(path.read_text())
    assert first.for_tests() == 'print("a" * 2, "end")\n'
    assert (first.output, second.is_run, third.output) == ("aaa stop\n", False, "")


def test_a_guide_that_fails_is_not_rewritten(guides, tmp_path):
    path = tmp_path / "guide.md"
    for broken in (TEXT.replace("x = 1", "x = y"), TEXT.replace("not run", "run")):
        path.write_text(broken)
        with pytest.raises((NameError, RuntimeError)):
            guides.rewrite(path)
        assert path.read_text() == broken
    with pytest.raises(ValueError, match="'4' is to be replaced in tests"):
        guides.blocks(TEXT.replace("3 -> 2", "4 -> 2"))
