"""Files survive interrupted writes, and files that are damaged, foreign or dangerous are refused."""

from __future__ import annotations

import errno
import os
import pickle
import time
import zipfile
from pathlib import Path

import pytest
import torch

from equiflow.flows import EquivariantCNF
from equiflow.runtime import storage
from equiflow.runtime.storage import CheckpointError, load_safely, save_atomically, sweep, written_atomically
from tests.support.leftovers import dead_process, half_written_by
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


def left_in(folder: Path) -> set[Path]:
    return set(folder.glob(".*.tmp"))


def test_what_dead_processes_left_is_swept_and_what_living_ones_write_is_not(path):
    dead, living = half_written_by(dead_process(), path), half_written_by(os.getppid(), path)
    other = half_written_by(dead_process(), path.with_name("other.pt"))
    with written_atomically(path) as own:
        own.write_text("hours of work")
        sweep(path.parent, path.name)
        assert left_in(path.parent) == {living, other, own}
        sweep(path.parent)
        assert left_in(path.parent) == {living, own}
    assert path.read_text() == "hours of work"
    assert not dead.exists()


def test_what_this_process_left_unfinished_is_swept(path):
    left = half_written_by(os.getpid(), path)
    sweep(path.parent)
    assert not left.exists()


def test_files_of_other_machines_are_swept_when_nobody_has_touched_them_for_a_day(path, monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "another machine")
    elsewhere = half_written_by(dead_process(), path)
    monkeypatch.undo()
    of_version_0_1 = path.with_name(".file.pt.12.34.tmp")
    strange = path.with_name(".somebody-else.tmp")
    of_version_0_1.touch()
    strange.touch()
    sweep(path.parent)
    assert left_in(path.parent) == {elsewhere, of_version_0_1, strange}
    for temporary in left_in(path.parent):
        os.utime(temporary, (0, time.time() - 25 * 3600))
    sweep(path.parent)
    assert left_in(path.parent) == {strange}


@pytest.mark.parametrize("name", ["n" * 243 + ".pt", "n" * 252 + ".pt", "\u03c6" * 126 + ".pt"], ids=len)
def test_every_name_that_the_system_allows_can_be_written(tmp_path, name):
    save_atomically(CONTENT, tmp_path / name)
    assert load_safely(tmp_path / name, "thing")["numbers"] == [1, 2.5]
    with pytest.raises(OSError, match="too long"):
        save_atomically(CONTENT, tmp_path / f"{name}nnnnnnnnnn")


def test_a_symbolic_link_is_followed(tmp_path):
    target, link = tmp_path / "disk" / "file.pt", tmp_path / "link.pt"
    link.symlink_to(target)
    for numbers in ([1], [2]):  # a link to nothing yet, and to a file
        save_atomically({"kind": "thing", "numbers": numbers}, link)
        assert link.is_symlink()
        assert load_safely(target, "thing")["numbers"] == numbers
    assert only_file(target)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOMEM])
def test_what_the_system_refuses_is_not_called_damage(saved, monkeypatch, number):
    def refuse(file, *arguments, **options):
        raise OSError(number, os.strerror(number), str(file))

    monkeypatch.setattr("builtins.open", refuse)
    for load in (lambda: load_safely(saved, "thing"), lambda: EquivariantCNF.load(saved)):
        with pytest.raises(OSError, match=os.strerror(number)) as refused:
            load()
        assert refused.value.errno == number


needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        pytest.param("cuda", "no CUDA device here", marks=needs_no_cuda),
        ("cuda:99", "no (CUDA device|device cuda:99) here"),
        ("gpu", "unknown device 'gpu'; expected cpu"),
        ("xpu:99", "no device xpu:99 here"),
    ],
)
def test_a_device_that_is_not_there_is_not_called_damage(tmp_path, device, message):
    small_flow().save(tmp_path / "flow.pt")
    for load in (
        lambda: EquivariantCNF.load(tmp_path / "flow.pt", device=device),
        lambda: EquivariantCNF.pretrained("phi4-2d-L8", device=device),
        lambda: load_safely(tmp_path / "flow.pt", "flow", map_location=device),
    ):
        with pytest.raises(ValueError, match=message):
            load()


@needs_no_cuda
def test_a_sound_file_from_a_gpu_is_named_as_such(saved, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    save_atomically(CONTENT, saved)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="saved from a device that this machine lacks"):
        load_safely(saved, "thing")
    content = load_safely(saved, "thing", map_location="cpu")
    assert torch.equal(content["weights"], CONTENT["weights"])
    saved.write_bytes(saved.read_bytes()[:-60])
    with pytest.raises(CheckpointError):
        load_safely(saved, "thing")


def test_a_full_gpu_is_not_called_damage(saved, monkeypatch):
    def full(*arguments, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(storage.torch, "load", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        load_safely(saved, "thing")
