"""Kernels are used where numba is, kept on disk with all their sources, and spread over threads."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest
import torch

from equiflow import fused
from equiflow.fused import just_in_time

numba = pytest.importorskip("numba")


def test_kernels_can_be_switched_off_and_on():
    with fused.switched(False):
        assert not fused.in_use()
        assert "switched off" in fused.state()
        with fused.switched(True):
            assert fused.in_use()
        assert not fused.in_use()
    assert fused.in_use()
    assert fused.state() == "in use"


def test_the_environment_switches_kernels_off():
    code = "from equiflow import fused; print(fused.in_use())"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"EQUIFLOW_FUSED": "0"}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"


def test_without_numba_kernels_are_not_in_use_and_the_log_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(just_in_time, "is_installed", lambda: False)
    just_in_time._say_what_is_missing.cache_clear()
    with caplog.at_level(logging.INFO, "equiflow"):
        assert not fused.in_use()
        assert not fused.in_use()
    assert [record.getMessage() for record in caplog.records] == [f"Fused kernels are {fused.state()}."]
    assert "pip install" in fused.state()


def test_machine_code_belongs_to_all_sources(monkeypatch):
    @just_in_time.jit
    def kernel(x):
        return x + 1

    assert kernel(1) == 2
    cache, codegen = kernel._cache, numba.core.registry.cpu_target.target_context.codegen()
    one = cache._index_key((numba.int64,), codegen)
    monkeypatch.setattr(just_in_time, "_sources", lambda: "another version of a file")
    assert cache._index_key((numba.int64,), codegen) != one


def test_kernels_made_by_the_same_lines_have_names_of_their_own():
    def multiplying(factor, decorate):
        @decorate
        def multiply(x):
            return factor * x

        return multiply

    two, three = (multiplying(n, just_in_time.jit_as(f"times {n}")) for n in (2, 3))
    assert (two(5), three(5)) == (10, 15)
    for decorate in (just_in_time.jit, just_in_time.jit_within, just_in_time.inline):
        with pytest.raises(ValueError, match="name it by jit_as"):
            multiplying(2, decorate)


def test_sources_are_those_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "just_in_time.py").write_text("one")
    monkeypatch.setattr(just_in_time, "__file__", str(tmp_path / "just_in_time.py"))
    hashes = []
    for content in ("a", "b", "a"):
        (tmp_path / "another.py").write_text(content)
        just_in_time._sources.cache_clear()
        hashes.append(just_in_time._sources())
    just_in_time._sources.cache_clear()
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize(("threads", "batch"), [(1, 5), (3, 7), (4, 2)])
def test_every_configuration_is_computed_once(threads, batch):
    seen, lock, before = [], threading.Lock(), torch.get_num_threads()

    def kernel(start, stop):
        with lock:
            seen.append(range(start, stop))

    try:
        torch.set_num_threads(threads)
        just_in_time.in_parallel(kernel, batch, 10**6)
    finally:
        torch.set_num_threads(before)
    assert sorted(n for part in seen for n in part) == list(range(batch))
    assert len(seen) == min(threads, batch)


def test_little_work_stays_in_one_thread():
    seen, before = [], torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        just_in_time.in_parallel(lambda *part: seen.append(part), 8, 1)
    finally:
        torch.set_num_threads(before)
    assert seen == [(0, 8)]


def test_faults_of_a_thread_are_raised():
    def kernel(start, stop):
        raise ZeroDivisionError

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ZeroDivisionError):
            just_in_time.in_parallel(kernel, 8, 10**6)
    finally:
        torch.set_num_threads(before)


def test_kernels_without_a_folder_to_write_to_are_compiled(monkeypatch):
    def refuse(self, function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr("numba.core.caching.FunctionCache.__init__", refuse)

    @just_in_time.jit
    def kernel(x):
        return 2 * x

    assert kernel(3) == 6
