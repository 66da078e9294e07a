"""What is printed comes out as it is, on every terminal."""

from __future__ import annotations

import io
import sys

import pytest

from equiflow.report.terminal import print_line, print_table, printable

MARKED = "runs/[bold]x[/bold]/[red]:smile:[/]"


def test_markup_in_paths_is_shown_as_it_is(capsys):
    print_table(f"{MARKED}: title of the table", (f"{MARKED} a", "b"), [(f"{MARKED} c", f"{MARKED} d")])
    print_line(MARKED)
    output = capsys.readouterr().out
    for expected in (f"{MARKED}: title", f"{MARKED} a", f"{MARKED} c", f"{MARKED} d"):
        assert expected in output
    assert output.splitlines()[-1] == MARKED


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_terminal_prints_every_character(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    print_table("χ ± 1", ("τ", "▁▂▃▄▅▆▇█"), [("φ²", "0.5 ± 0.1 中")])
    print_line("1 ± 2")
    sys.stdout.flush()
    output = written.getvalue().decode(encoding)
    known = encoding == "utf-8"
    assert ("▁▂▃▄▅▆▇█" if known else "_.-=+*#@") in output
    assert ("中" if known else "?") in output
    assert ("1 +- 2" if encoding == "ascii" else "1 ± 2") in output


def test_what_a_terminal_can_show_is_not_changed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert printable("0.5 ± 0.1²") == "0.5 ± 0.1²"
    assert printable("φ") == "phi"
