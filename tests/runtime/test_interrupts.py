"""Ctrl-C ends a command with status 130 and at most one line, in imports, in finalisers and in between."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import equiflow
from equiflow.runtime import interrupts
from tests.support.cli_runs import TINY

PACKAGES = Path(equiflow.__file__).parents[1]
#: a module that Python runs when it starts: it interrupts the process at one of its imports
AT_AN_IMPORT = """
import os, signal, sys
class Interrupts:
    count = 0
    def find_spec(self, name, path=None, target=None):
        self.count += "equiflow.runtime.interrupts" in sys.modules
        if os.environ["AT_IMPORT"] in (name, str(self.count)):
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
"""
#: a module whose import catches what it should not
CATCHES_ALL = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
    for _ in range(1000): pass
except BaseException:
    pass
was_finished = True
"""


@pytest.fixture
def _as_command() -> Iterator[None]:
    """Let Ctrl-C end this process at once, as in a command; whoever listened before is given back."""
    numbers = (signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.end_at_once()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def _heed_interrupts() -> None:
    """Undo what shells do to jobs in the background, which ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(folder: Path, *arguments: object, at_import: str) -> tuple[int, str]:
    """Status and complaints of a command that is interrupted at an import, given by its name or number."""
    (folder / "sitecustomize.py").write_text(AT_AN_IMPORT)
    environment = os.environ | {"AT_IMPORT": at_import, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(PACKAGES)])
    command = [sys.executable, "-m", "equiflow", *map(str, arguments)]
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_heed_interrupts,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", ["20", "160", "800"])
def test_a_command_interrupted_at_any_of_its_imports_ends_with_a_word(number, tmp_path):
    assert interrupted(tmp_path, "config", at_import=number) == (130, "Stopped.\n")


def test_a_command_interrupted_while_it_works_ends_with_a_word(tmp_path):
    """Training imports an adaptive solver late; the folder is there already, and can be gone on with."""
    adaptive = ["--set", "objective.method=dopri5", "--set", "objective.steps=none"]
    (tmp_path / "c.toml").write_text(TINY)
    status, complaints = interrupted(tmp_path, "train", "c.toml", "-q", *adaptive, at_import="torchdiffeq")
    assert status == 130
    assert complaints == "Stopped. There was no checkpoint yet; `equiflow resume runs/c` starts again.\n"
    assert (tmp_path / "runs" / "c" / "config.toml").exists()


def wait() -> None:
    """Give an interruption that is tried again the time to arrive."""
    for _ in range(1000):
        time.sleep(0.01)


@pytest.mark.usefixtures("_as_command")
def test_what_an_import_catches_is_raised_after_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "catches_all.py").write_text(CATCHES_ALL)

    @interrupts.raised()
    def work() -> None:
        importlib.import_module("catches_all")
        wait()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert sys.modules.pop("catches_all").was_finished


@pytest.mark.usefixtures("_as_command")
def test_what_a_finaliser_would_lose_is_raised_after_it():
    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    @interrupts.raised()
    def work() -> None:
        Finalised()
        wait()

    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.usefixtures("_as_command")
def test_anywhere_else_it_is_raised_at_once():
    passed = []

    @interrupts.raised()
    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        passed.append("too late")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert passed == []
    assert signal.getsignal(signal.SIGINT) is interrupts._end


def test_outside_of_commands_nothing_changes():
    before = signal.getsignal(signal.SIGINT)
    with interrupts.raised():
        assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("_as_command")
@pytest.mark.parametrize("chosen", [signal.SIG_IGN, signal.SIG_DFL])
def test_who_has_chosen_otherwise_is_left_alone(chosen):
    """In the background of a script, and under nohup, Ctrl-C is not for the command."""
    signal.signal(signal.SIGINT, chosen)
    interrupts.end_at_once()
    assert signal.getsignal(signal.SIGINT) is chosen


@pytest.mark.parametrize(
    ("arguments", "original", "expected"),
    [
        (["-m"], ["python", "-u", "-m", "equiflow", "info"], True),
        (["/usr/bin/equiflow", "info"], ["python", "/usr/bin/equiflow", "info"], True),
        (["C:\\equiflow.exe".replace("\\", "/")], [], True),
        (["-m"], ["python", "-m", "pytest", "equiflow"], False),
        (["-m"], ["python", "-m", "cProfile", "-m", "equiflow"], True),
        (["script.py", "equiflow"], ["python", "script.py", "equiflow"], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_a_command_is_told_from_a_script(arguments, original, expected):
    assert interrupts.is_command(arguments, original) is expected
