"""Files survive interrupted writes, and files that are damaged, foreign or dangerous are refused."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from equiflow.flows import EquivariantCNF
from equiflow.runtime.storage import CheckpointError, load_safely, save_atomically
from tests.support.strategies import small_flow

CONTENT = {"kind": "thing", "numbers": [1, 2.5], "weights": torch.arange(6.0)}


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code-was-run",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.pt"


@pytest.fixture
def saved(path: Path) -> Path:
    save_atomically(CONTENT, path)
    return path


def only_file(path: Path) -> bool:
    return list(path.parent.iterdir()) == [path]


def test_what_is_saved_is_loaded(saved):
    content = load_safely(saved, "thing")
    assert torch.equal(content.pop("weights"), CONTENT["weights"])
    assert content == {"kind": "thing", "numbers": [1, 2.5]}
    assert only_file(saved)


def test_folders_are_made(tmp_path):
    save_atomically(CONTENT, str(tmp_path / "new" / "folder" / "file.pt"))
    assert load_safely(str(tmp_path / "new" / "folder" / "file.pt"), "thing")["numbers"] == [1, 2.5]


def test_a_missing_file_is_missing(path):
    with pytest.raises(FileNotFoundError):
        load_safely(path, "thing")
    with pytest.raises(FileNotFoundError):
        EquivariantCNF.load(path)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_refused(saved, fraction):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(CheckpointError, match=r"file\.pt cannot be read as an equiflow thing"):
        load_safely(saved, "thing")


FOREIGN = {
    "text": b"phi,chi\n1,2\n",
    "noise": bytes(range(256)) * 8,
    "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "pickle": pickle.dumps({"kind": "thing"}, protocol=2),
    "pickled code": pickle.dumps(RunsCode(), protocol=2),
    "broken pickle": b"\x80\x02}q\x00(X\x04",
    "pickle opcodes": b"cos\nmkdir\n(S'x'\ntR.",
    "letters": b"aaaaaaaa",
    "stack underflow": b"\x80\x020.",
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused(path, data):
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        load_safely(path, "thing")


def test_a_foreign_archive_is_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError):
        load_safely(path, "thing")


def test_a_folder_is_refused(path):
    path.mkdir()
    with pytest.raises(CheckpointError):
        load_safely(path, "thing")


def test_pickled_code_is_not_run(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    torch.save({"kind": "thing", "trap": RunsCode()}, path)
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        load_safely(path, "thing")
    assert only_file(path)
    torch.load(path, weights_only=False)  # loading without care does run the code
    assert Path("code-was-run").is_dir()


@pytest.mark.parametrize("content", [{"kind": "other"}, {"weights": 1}, [1, 2], torch.zeros(2)])
def test_another_kind_is_refused_by_name(path, content):
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"file\.pt is not an equiflow thing; it holds"):
        load_safely(path, "thing")


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_refused_or_harmless(saved, seed):
    data = bytearray(saved.read_bytes())
    positions = torch.randint(len(data), (4,), generator=torch.Generator().manual_seed(seed))
    for position in positions.tolist():
        data[position] ^= 0x55
    saved.write_bytes(data)
    try:
        content = load_safely(saved, "thing")
    except CheckpointError:
        return
    assert torch.equal(content["weights"], CONTENT["weights"])
    assert content["numbers"] == CONTENT["numbers"]


def test_damaged_weights_are_refused(saved):
    data = bytearray(saved.read_bytes())
    weights = CONTENT["weights"].numpy().tobytes()
    data[data.index(weights) + 5] ^= 0xFF
    saved.write_bytes(data)
    with pytest.raises(CheckpointError):
        load_safely(saved, "thing")


def fail(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", [(torch, "save"), (os, "replace"), (os, "fsync")], ids=str)
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(saved, monkeypatch, step):
    monkeypatch.setattr(*step, fail)
    with pytest.raises(KeyboardInterrupt):
        save_atomically({"kind": "thing", "numbers": []}, saved)
    monkeypatch.undo()
    assert only_file(saved)
    assert load_safely(saved, "thing")["numbers"] == [1, 2.5]


def write_in_place(content: object, path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"half")
        os.fsync(file.fileno())


def test_a_plain_write_would_lose_the_old_file(saved, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        write_in_place(CONTENT, saved)
    with pytest.raises(CheckpointError):
        load_safely(saved, "thing")


@pytest.mark.parametrize(
    "change",
    [
        {"lattice": [0]},
        {"lattice": None},
        {"lattice": [3, 4]},
        {"dtype": "save"},
        {"dtype": "nonsense"},
        {"dtype": 3},
        {"solver": {"method": "nonsense"}},
        {"solver": {"unknown": 1}},
        {"solver": None},
        {"vector_field": {"name": "OrbitConvField"}},
        {"vector_field": None},
        {"prior": {"name": "Nonsense", "group": {}, "config": {}}},
        {"state_dict": {}},
        {"state_dict": None},
        {"state_dict": [1]},
    ],
    ids=str,
)
def test_a_recipe_that_does_not_fit_is_refused(path, change):
    recipe = {"kind": "flow", **small_flow().to_dict()}
    save_atomically(recipe, path)
    EquivariantCNF.load(path)
    save_atomically(recipe | change, path)
    with pytest.raises(CheckpointError, match="does not describe a flow"):
        EquivariantCNF.load(path)
    del recipe[next(iter(change))]
    save_atomically(recipe, path)
    with pytest.raises(CheckpointError, match="does not describe a flow"):
        EquivariantCNF.load(path)
