"""Importing the package is quick: what few programs need is imported by those who need it."""

import os
import pickle
import subprocess
import sys

import pytest

import equiflow

#: each takes about as long to import as the whole package, or longer
HEAVY = {
    *("arviz", "e3nn", "escnn", "h5py", "jinja2", "matplotlib", "numba", "pandas", "pydantic", "rich"),
    *("scipy", "tensorboard", "torchdiffeq", "typer", "xarray", "zuko"),
}


def imported_by(code: str) -> set[str]:
    """Return the packages that a fresh process has imported after `code`."""
    code = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    everything = "import equiflow.analysis, equiflow.oracles, equiflow.testing, equiflow.training"
    found = imported_by(f"from equiflow import Lattice\nfrom equiflow import *\n{everything}")
    assert found & HEAVY == set()
    assert "torch" in found


def test_sampling_and_training_import_nothing_heavy():
    code = """
from equiflow import HMC, EquivariantCNF, Lattice, Phi4, Solver, fit
action = Phi4(Lattice((2, 2)), m2=-4.0, lam=8.0)
flow = EquivariantCNF(action.lattice, solver=Solver("rk4", steps=1))
fit(flow, action, steps=1, batch_size=2, progress=False)
HMC(action).sample(1, n_chains=2, n_thermalisation=0)
"""
    # numba belongs to an extra, and needs scipy for the kernels that it makes where it is installed.
    assert imported_by(code) & (HEAVY - {"numba", "scipy"}) == set()
    without = 'import os\nos.environ["EQUIFLOW_FUSED"] = "0"' + code
    assert imported_by(without) & HEAVY == set()


#: all of the package that the command needs until it runs
FEW = {"cli", "cli.app", "cli.config", "runtime", "runtime.interrupts", "runtime.memory"}


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["train", "--help"], ["report", "-h"], ["sample"], ["nosuch"]]
)
def test_the_command_says_what_it_is_and_what_it_wants_in_plain_text_without_torch_and_rich(arguments):
    """Else help would take seconds, or twice as long for frames and bold letters."""
    pytest.importorskip("typer")
    code = f"""
import sys
sys.argv = ["equiflow", *{arguments}]
from equiflow.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == {2 if len(arguments) == 1 and arguments[0].isalpha() else 0}, end.code
print("IMPORTED", *sys.modules)
"""
    environment = {**os.environ, "FORCE_COLOR": "1"}  # else a pipe would get plain text in any case
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    said, _, modules = done.stdout.rpartition("IMPORTED")
    found = set(modules.split())
    # typer converts the options of single commands by pydantic.
    others = {"numpy", "torch", "tqdm"} | HEAVY - {"typer"}
    others -= set() if arguments in (["--version"], ["--help"]) else {"pydantic"}
    assert {name.partition(".")[0] for name in found} & others == set()
    own = {name.removeprefix("equiflow.") for name in found if name.startswith("equiflow.")}
    assert own <= FEW
    assert ("typer" in found) == (arguments != ["--version"])
    assert "equiflow" in said + done.stderr
    assert "\x1b" not in said + done.stderr


def test_the_list_of_commands_says_what_each_does_in_a_whole_sentence():
    """Sentences that are too long for a line of a terminal are cut."""
    pytest.importorskip("typer")
    command = [sys.executable, "-m", "equiflow", "--help"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition(
        "Commands:"
    )[2]
    commands = listed.strip().splitlines()
    assert len(commands) == 10
    assert [line for line in commands if line.endswith("...") or not line.endswith(".")] == []


def test_the_shell_completes_commands_without_torch():
    pytest.importorskip("typer")
    environment = {"_EQUIFLOW_COMPLETE": "complete_bash", "COMP_WORDS": "equiflow re", "COMP_CWORD": "1"}
    code = "import sys; sys.modules['torch'] = None; from equiflow.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.stdout.split() == ["resume", "report"], done.stderr


def test_the_package_alone_imports_no_torch_and_knows_its_names_all_the_same():
    imported_by("""
import sys, equiflow
equiflow.__version__
assert "torch" not in sys.modules
equiflow.Lattice
assert "torch" in sys.modules
""")
    with pytest.raises(AttributeError, match="module 'equiflow' has no attribute 'Latice'"):
        getattr(equiflow, "Latice")  # noqa: B009 - the name is wrong on purpose
    with pytest.raises(AttributeError, match="no attribute '_private'"):
        getattr(equiflow, "_private")  # noqa: B009
    with pytest.raises(ImportError, match="Latice"):
        exec("from equiflow import Latice")


def test_what_was_left_out_is_imported_when_it_is_called():
    code = """
import torch
from equiflow import EquivariantCNF, Lattice
from equiflow.samplers.cluster import clusters
EquivariantCNF(Lattice((2, 2))).sample(1)
assert (clusters(torch.ones(1, 2, 3, 3, dtype=torch.bool)) == 0).all()
"""
    assert imported_by(code) >= {"scipy", "torchdiffeq"}


def test_every_public_name_is_there_at_once():
    names: dict[str, object] = {}
    exec("from equiflow import *", names)
    assert set(equiflow.__all__) <= names.keys()
    assert set(equiflow.__all__) <= set(dir(equiflow))
    assert {name for name in equiflow.__all__ if name not in vars(equiflow)} == set()


def test_public_classes_survive_pickling():
    classes = [value for name in equiflow.__all__ if isinstance(value := getattr(equiflow, name), type)]
    assert len(classes) > 40
    assert [pickle.loads(pickle.dumps(one)) for one in classes] == classes
