"""What cannot fit is refused with the numbers that were needed and found; what is unknown passes."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from equiflow.runtime import capacity
from equiflow.runtime.capacity import bytes_of_samples, check_disk, check_memory, free_disk, free_memory

MEMINFO = "MemTotal:  64000 kB\nMemFree:  100 kB\nMemAvailable:  5000 kB\nSwapFree:  2000 kB\n"


@pytest.fixture
def _machine(tmp_path, monkeypatch) -> Iterator[None]:
    """A machine with 7000 KiB, no limits and no control group."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    monkeypatch.setattr(capacity, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(capacity, "_OWN_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(capacity, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_samples_take_the_bytes_of_their_tensors():
    phi, weights = torch.empty(7, 3, 4, 5), torch.empty(2, 7)
    assert bytes_of_samples(7, (3, 4, 5), torch.float32) == 4 * (phi.numel() + weights.numel())
    assert bytes_of_samples(7, (3, 4, 5), torch.float64) == 8 * (phi.numel() + weights.numel())


@pytest.mark.usefixtures("_machine")
def test_free_memory_is_what_is_available_with_swap_within_every_limit(tmp_path, monkeypatch):
    assert free_memory() == 7000 * 1024
    (tmp_path / "cgroup").write_text("1:name=x:/\n0::/job/step\n")
    inner = tmp_path / "groups" / "job" / "step"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    assert free_memory() == 7000 * 1024
    (inner.parent / "memory.max").write_text("3000000\n")
    assert free_memory() == 3_000_000
    (inner / "memory.max").write_text("2000000\n")
    assert free_memory() == 2_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda kind: {resource.RLIMIT_AS: (1_000_000, 9e9)}[kind])
    assert free_memory() == 1_000_000


@pytest.mark.usefixtures("_machine")
def test_without_such_files_all_memory_counts_as_free(tmp_path):
    (tmp_path / "meminfo").unlink()
    pages = Path("/proc/meminfo").read_text().split()[1]  # kB of MemTotal
    assert free_memory() == 1024 * int(pages)


@pytest.mark.usefixtures("_machine")
def test_memory_is_refused_beyond_what_is_free_and_not_before():
    check_memory(7000 * 1024, "They need", "Take fewer.")
    with pytest.raises(
        ValueError, match=r"^They need at least 7.17 MB of memory; 7.17 MB are free. Take few"
    ):
        check_memory(7000 * 1024 + 1, "They need", "Take fewer.")
    assert free_memory("mps") is None
    check_memory(10**30, "They need", "", device="mps")  # nobody knows


def test_disk_is_refused_beyond_what_is_free_and_not_before(tmp_path, monkeypatch):
    missing = tmp_path / "not" / "there" / "yet"
    asked = []

    def usage(path):
        asked.append(path)
        return shutil._ntuple_diskusage(1000, 600, 400)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert free_disk(missing) == 400
    check_disk(400, missing, "They need", "Take fewer.")
    with pytest.raises(
        ValueError, match=r"^They need 401 bytes in .*yet; 400 bytes are free there. Take few"
    ):
        check_disk(401, missing, "They need", "Take fewer.")
    assert set(asked) == {tmp_path.resolve()}
    assert not (tmp_path / "not").exists()
