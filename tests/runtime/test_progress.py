"""Long work shows a bar or lines, short work nothing, and `progress=False` silences everything inside."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from equiflow import (
    HMC,
    ActionFamily,
    Ensemble,
    EquivariantCNF,
    IndependenceMetropolis,
    Lattice,
    Phi4,
    Solver,
    diagnose,
    fit,
    fit_ladder,
    importance_sample,
    interop,
    log_weights,
    log_z_along,
    measure,
)
from equiflow.analysis import Observable, estimate_observables
from equiflow.runtime import distributed, progress
from equiflow.runtime.progress import progress_as, progress_bar

ACTION = Phi4(Lattice((2, 2)), m2=-4.0, lam=8.0)
FAMILY = ActionFamily(Phi4, ACTION.lattice, m2=-4.0, lam=(6.0, 8.0))
FLOW = EquivariantCNF(ACTION.lattice, solver=Solver("rk4", steps=1))
ENSEMBLE = importance_sample(FLOW, ACTION, 256, certify=0)
CHAIN = HMC(ACTION, step_size=0.1).sample(8, n_chains=8, n_thermalisation=0)


def chain(**options: object) -> object:
    return HMC(ACTION, step_size=0.1).sample(4, n_chains=4, n_thermalisation=4, **options)


def sample(**couplings: float) -> Ensemble:
    return importance_sample(FLOW, FAMILY.at(**couplings), 64)


#: what takes a while on large lattices, and the word that its bar begins with
LONG = {
    "training": lambda **o: fit(FLOW, ACTION, steps=2, batch_size=4, **o),
    "training ": lambda **o: fit_ladder([ACTION], flow=FLOW, steps=2, batch_size=4, **o),
    "HMC, 4 chains": chain,
    "Metropolis, 2 chains": lambda **o: IndependenceMetropolis(FLOW, ACTION).sample(4, n_chains=2, **o),
    "sampling": lambda **o: importance_sample(FLOW, ACTION, 64, **o),
    "inverse flow": lambda **o: log_weights(FLOW, ACTION, ENSEMBLE.phi, **o),
    "inverse flow ": lambda **o: diagnose(FLOW, ACTION, ENSEMBLE, CHAIN, **o),
    "measuring": lambda **o: measure(ENSEMBLE, **o),
    "measuring ": lambda **o: estimate_observables(
        CHAIN, [Observable("M", lambda phi: phi.mean((1, 2)))], **o
    ),
    "log Z": lambda **o: log_z_along(sample, FAMILY, {"lam": 6.0}, {"lam": 8.0}, n_points=3, **o),
}


@pytest.mark.filterwarnings("ignore::equiflow.statistics.LowEffectiveSampleSizeWarning")
@pytest.mark.parametrize("what", LONG)
def test_a_bar_is_shown_where_it_is_asked_for_and_short_work_says_nothing(what, capfd):
    for silent in ({}, {"progress": False}, {"progress": None}):
        LONG[what](**silent)
        assert capfd.readouterr() == ("", "")
    LONG[what](progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.strip().startswith(what.strip())
    assert "100%" in err
    with progress_as(False):  # of a caller who wants silence
        LONG[what](progress=True)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(TypeError, match="progress must be of type bool, got 'yes'"):
        LONG[what](progress="yes")


def test_shards_show_a_bar_each(tmp_path, capfd):
    options = {"n_shards": 2, "certify": 0}
    interop.sample_shards(FLOW, ACTION, 64, tmp_path / "silent", progress=False, **options)
    assert capfd.readouterr().err == ""
    interop.sample_shards(FLOW, ACTION, 64, tmp_path / "shown", progress=True, **options)
    assert capfd.readouterr().err.count("sampling: 100%") == 2


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.time)
    return now


def test_a_log_gets_a_line_every_30_seconds(clock, capfd):
    with progress_bar(600, "training", "step", initial=100) as bar:
        for step in range(100, 600):
            bar.set_postfix({"loss": f"-{step}"})
            clock.time += 0.5
            bar.update()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 250 // 30
    assert lines[0] == "training: 160 of 600 steps, 0:00:30, 0:03:40 left, loss -159"
    assert lines[-1] == "training: 580 of 600 steps, 0:04:00, 0:00:10 left, loss -579"


def test_only_the_outermost_bar_counts(clock, capfd):
    with progress_bar(2, "outer", "step") as outer:
        for _ in range(2):
            with progress_bar(100, "inner", "update") as inner:
                for _ in range(100):
                    clock.time += 1
                    inner.update()
            outer.update()
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["outer: 1 of 2 steps", "outer: 2 of 2 steps"]
    with progress_bar(1, "after", "step") as bar:
        clock.time += 31
        bar.update()
    assert capfd.readouterr().err.startswith("after: 1 of 1 steps")


def test_only_the_first_process_tells(clock, capfd, monkeypatch):
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    with progress_as(True), progress_bar(1, "training", "step") as bar:
        clock.time += 100
        bar.update()
    assert capfd.readouterr().err == ""


def test_a_terminal_and_a_notebook_get_a_bar(monkeypatch):
    assert not progress.sees_bars()
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    assert progress.sees_bars()
    monkeypatch.undo()
    for config, found in (({"IPKernelApp": {}}, True), ({"TerminalIPythonApp": {}}, False)):
        shell = SimpleNamespace(config=config)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert progress.sees_bars() == found
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not progress.sees_bars()


def test_numbers_do_not_depend_on_what_is_shown():
    runs = [chain(progress=shown, generator=torch.Generator().manual_seed(0)) for shown in (True, False)]
    assert torch.equal(runs[0].samples, runs[1].samples)
