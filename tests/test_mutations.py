"""The list of planted mistakes keeps up with the code, and the suite kills each."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "mutations.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="needs the repository, not only the tests")


@pytest.fixture(scope="module")
def mutations() -> ModuleType:
    pytest.importorskip("rich")
    spec = importlib.util.spec_from_file_location("equiflow_mutations", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_mutant_s_text_occurs_once_and_its_tests_exist(mutations):
    names = [mutant.name for mutant in mutations.MUTANTS]
    assert len(names) == len(set(names)) >= 12
    mutations.check_mutants(mutations.MUTANTS)
    for mutant in mutations.MUTANTS:
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert f"def {name.split('[')[0]}" in (SCRIPT.parents[1] / "tests" / file).read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"right": "no such text"}, "found it 0 times"),
        ({"right": "self"}, "expected its text once"),
        ({"file": "nowhere.py"}, "does not exist"),
    ],
)
def test_a_mutant_that_has_rotted_is_named(mutations, change, message):
    rotten = dataclasses.replace(mutations.MUTANTS[0], **change)
    with pytest.raises(ValueError, match=message):
        mutations.check_mutants([rotten])


@pytest.mark.slow
def test_the_suite_kills_every_mutant():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
