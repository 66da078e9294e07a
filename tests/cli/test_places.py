"""What a command is told to read or write: what is missing, leads nowhere or has no room is named at once."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from equiflow.cli.config.errors import ConfigError
from equiflow.cli.ensembles import check_place
from equiflow.cli.run.folder import Run
from equiflow.interop import describe_samples, load_chain, load_ensemble
from equiflow.runtime import capacity
from equiflow.runtime.storage import real_path, written_atomically
from tests.support.cli_runs import TINY, invoke, tiny

FLOW = "phi4-2d-L8"


def words(output: str) -> str:
    return " ".join(output.split())


def test_measuring_what_does_not_exist_says_so(tmp_path):
    for name in ("nothere", "nothere.npz", "nothere.txt"):
        result = invoke("measure", tmp_path / name)
        assert result.exit_code == 1
        assert f"{tmp_path / name} does not exist; expected a file or folder" in words(result.output)


def test_measuring_a_folder_without_samples_says_what_it_lacks(tmp_path):
    result = invoke("measure", tmp_path)
    assert result.exit_code == 1
    assert "is neither a run folder, with a config.toml, nor a folder of samples" in words(result.output)


@pytest.mark.parametrize("read", [load_ensemble, load_chain, describe_samples])
@pytest.mark.parametrize("name", ["nothere", "nothere.npz", "nothere.txt"])
def test_samples_that_do_not_exist_are_no_matter_of_their_suffix(read, name, tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(name)):
        read(tmp_path / name)


@pytest.fixture
def loop(tmp_path) -> Path:
    """A symbolic link that leads to itself through another one."""
    (tmp_path / "loop").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to("loop")
    return tmp_path / "loop"


def test_a_link_that_leads_back_to_itself_is_named_as_such(loop, tmp_path):
    (tmp_path / "c.toml").write_text(TINY)
    for command in (
        ("measure", loop),
        ("sample", loop),
        ("sample", FLOW, "-n", 16, "-o", loop / "x.npz"),
        ("resume", loop),
        ("watch", loop, "--once"),
        ("report", loop),
        ("check", loop),
        ("train", tmp_path / "c.toml", "--run", loop),
        ("train", tmp_path / "c.toml", "--run", loop / "r"),
    ):
        result = invoke(*command)
        assert result.exit_code == 1
        assert "a symbolic link leads back to itself." in words(result.output), command
        assert str(loop) in result.output
    assert loop.is_symlink()
    for refused in (lambda: real_path(loop), lambda: real_path(loop / "in" / "it")):
        with pytest.raises(OSError, match="symbolic links"):
            refused()
    with pytest.raises(OSError, match="symbolic links"), written_atomically(loop):
        pass


def test_links_that_lead_somewhere_are_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("folder/new")
    assert real_path(tmp_path / "link" / "x") == (tmp_path / "folder" / "x").resolve()
    assert real_path(tmp_path / "dangling") == (tmp_path / "folder" / "new").resolve()
    with written_atomically(tmp_path / "dangling") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "folder" / "new").read_text() == "x"


def test_a_place_is_checked_without_making_anything(tmp_path):
    check_place(tmp_path / "a" / "b" / "x.npz")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"):
        check_place(tmp_path / "file" / "x.npz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        check_place(tmp_path / "folder")
    for name in ("x" * 300, f"{'x' * 300}/x.npz", f"a/{'x' * 300}/x.npz"):
        with pytest.raises(OSError, match="too long"):
            check_place(tmp_path / name)
    check_place(tmp_path / ("x" * 200))


def test_a_place_that_cannot_be_written_is_refused_far_above_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path))):
        check_place(tmp_path / "a" / "b" / "x.npz")


@pytest.mark.parametrize("shards", [(), ("--shards", 2)])
def test_a_refused_sample_leaves_no_folder(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "free_disk", lambda folder: 1000)
    result = invoke("sample", FLOW, "-n", 16, "-o", tmp_path / "new" / "x.npz", *shards)
    assert result.exit_code == 1
    assert "1 kB are free there" in words(result.output)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("run.evaluation_samples", r"\[run\]: 1000000 samples of 16 numbers .* Lower evaluation_samples"),
        ("training.batch_size", r"\[training\]: 1000000 samples of 16 numbers .* Lower batch_size"),
    ],
)
def test_counts_beyond_the_memory_are_refused_before_a_run_exists(key, message, tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "free_memory", lambda device="cpu": 10**6)
    Run.create(tmp_path / "small", tiny())
    with pytest.raises(ConfigError, match=message):
        Run.create(tmp_path / "huge", tiny(f"{key}=1000000"))
    assert not (tmp_path / "huge").exists()


def test_an_error_of_the_system_names_the_file_and_no_temporary_one(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as failure, written_atomically(tmp_path / "folder") as temporary:
        temporary.write_text("x")
    assert failure.value.filename == str(tmp_path / "folder")
    assert failure.value.filename2 is None
    with pytest.raises(FileNotFoundError) as failure, written_atomically(tmp_path / "file") as temporary:
        temporary.with_name("another").read_bytes()
    assert failure.value.filename == str(tmp_path / "another")  # the counter-example
    assert not [*tmp_path.glob(".*")]
