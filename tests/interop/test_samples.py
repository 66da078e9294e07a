"""Ensembles and chains come back from files as they were, or not at all."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from equiflow import IndependenceMetropolis, Phi4, measure
from equiflow.interop import (
    append_samples,
    containers,
    describe_samples,
    load_chain,
    load_ensemble,
    save_samples,
)
from equiflow.runtime.storage import CheckpointError
from equiflow.statistics import LowEffectiveSampleSizeWarning
from equiflow.theories.scalar.observables import phi_squared
from tests.support.samples import ACTION, a_chain, an_ensemble, same
from tests.support.strategies import small_flow

needs_h5py = pytest.mark.skipif(
    importlib.util.find_spec("h5py") is None and "CI" not in os.environ, reason="needs h5py"
)
suffixes = pytest.mark.parametrize("suffix", [".npz", pytest.param(".h5", marks=needs_h5py)])
#: files that version 0.1 wrote
OLD = Path(__file__).parents[1] / "data" / "version_0_1"


@suffixes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("certify", [0, 8])
def test_an_ensemble_comes_back_as_it_was(tmp_path, suffix, dtype, certify):
    ensemble, path = an_ensemble(dtype=dtype, certify=certify), tmp_path / f"new/ensemble{suffix}"
    save_samples(ensemble, path, action=ACTION)
    loaded = load_ensemble(str(path))
    assert same(loaded, ensemble)
    with pytest.warns(LowEffectiveSampleSizeWarning):  # these few samples are only compared
        assert repr(measure(loaded)) == repr(measure(ensemble))  # NaN is not equal to itself
    assert loaded.log_z() == ensemble.log_z()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@suffixes
def test_chains_come_back_as_they_were(tmp_path, suffix):
    for name, chain in {
        "hmc": a_chain(),
        "metropolis": IndependenceMetropolis.from_ensemble(an_ensemble()),
    }.items():
        save_samples(chain, tmp_path / f"{name}{suffix}", action=ACTION)
        assert same(load_chain(tmp_path / f"{name}{suffix}"), chain)


def test_samples_that_are_views_or_carry_a_graph(tmp_path):
    ensemble = an_ensemble(certify=0)
    turned = dataclasses.replace(ensemble, phi=ensemble.phi.mT.requires_grad_(), log_q=ensemble.log_q[::1])
    save_samples(turned, tmp_path / "e.npz")
    assert same(load_ensemble(tmp_path / "e.npz").phi, turned.phi.detach())


def test_an_annealed_ensemble_stays_one_and_files_from_before_the_mark_still_load(tmp_path):
    plain, path = an_ensemble(), tmp_path / "e.npz"
    annealed = dataclasses.replace(plain, annealed=True)
    save_samples(annealed, path)
    assert same(load_ensemble(path), annealed)
    header, arrays = containers.read(path)
    del header["content"]["parts"]["annealed"]
    containers.write(path, header, arrays)
    assert same(load_ensemble(path), plain)
    # One part of paths among others makes the whole one of paths.
    for part in (plain, annealed):
        append_samples(part, tmp_path / "run")
    assert load_ensemble(tmp_path / "run").annealed


@suffixes
def test_a_file_says_what_it_holds(tmp_path, suffix):
    path = tmp_path / f"ensemble{suffix}"
    save_samples(an_ensemble(), path, action=ACTION, about={"seed": 3, "machine": "laptop"})
    header = describe_samples(path)
    assert header["kind"] == "Ensemble"
    assert header["shape"] == [4, 4]
    assert (header["n_samples"], header["dtype"]) == (40, "float64")
    assert header["action"] == {"name": "Phi4", "couplings": {"m2": 1.0, "lam": 0.5}, "text": repr(ACTION)}
    assert header["about"] == {"seed": 3, "machine": "laptop"}
    assert header["versions"]["numpy"] == np.__version__
    assert "log Z moves by" in header["certificate"]


@suffixes
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_refused(tmp_path, suffix, fraction):
    path = tmp_path / f"ensemble{suffix}"
    save_samples(an_ensemble(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(CheckpointError, match="truncated, damaged, or something else"):
        load_ensemble(path)


@suffixes
def test_damaged_numbers_are_refused(tmp_path, suffix):
    ensemble, path = an_ensemble(), tmp_path / f"ensemble{suffix}"
    save_samples(ensemble, path, action=ACTION)
    whole = path.read_bytes()
    for part in (ensemble.phi, ensemble.log_weight, ensemble.certificate.samples.refined_phi):
        data = bytearray(whole)
        data[data.index(part.numpy().tobytes()) + 5] ^= 1
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            load_ensemble(path)
    path.write_bytes(whole)
    assert same(load_ensemble(path), ensemble)


@needs_h5py
def test_a_damaged_header_is_refused(tmp_path):
    path = tmp_path / "ensemble.h5"
    save_samples(an_ensemble(), path, action=ACTION)
    data = path.read_bytes()
    assert b'"lam": 0.5' in data
    path.write_bytes(data.replace(b'"lam": 0.5', b'"lam": 0.7'))
    with pytest.raises(CheckpointError, match="bad checksum of the header"):
        describe_samples(path)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code-was-run",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("trap.npz", header=np.array(RunsCode(), dtype=object))
    with pytest.raises(CheckpointError):
        load_ensemble("trap.npz")
    assert not Path("code-was-run").exists()
    np.load("trap.npz", allow_pickle=True)["header"]  # the trap works for whoever loads carelessly
    assert Path("code-was-run").exists()


def rewrite(path: Path, change: dict[str, object]) -> None:
    """Change a header and make its checksum right again."""
    with np.load(path) as file:
        content = dict(file)
    header = json.loads(str(content["header"]).partition(" ")[2]) | change
    text = json.dumps(header)
    np.savez(path, **content | {"header": np.array(f"{zlib.crc32(text.encode()):08x} {text}")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something"}, "its format is 'something'"),
        ({"kind": "Chain"}, "holds no Ensemble; it holds 'Chain'"),
        ({"shape": [4, 5]}, "does not describe Ensemble"),
        ({"content": None}, "does not describe Ensemble"),
        ({"content": {"kind": "os.system", "parts": {}}}, "does not describe Ensemble"),
        ({"content": {"kind": "Ensemble", "parts": {"phi": {"array": "phi"}}}}, "does not describe Ensemble"),
        ({"content": {"array": "phi"}}, "does not describe Ensemble"),
        ({"crc32": {"nothing": 1}}, "KeyError"),
        ({"crc32": None}, "AttributeError"),
    ],
    ids=str,
)
def test_a_recipe_that_does_not_fit_is_refused(tmp_path, change, message):
    path = tmp_path / "ensemble.npz"
    save_samples(an_ensemble(), path)
    rewrite(path, {})
    load_ensemble(path)
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message):
        load_ensemble(path)


def test_a_chain_is_no_ensemble_and_a_foreign_file_neither(tmp_path):
    save_samples(a_chain(), tmp_path / "chain.npz")
    with pytest.raises(CheckpointError, match="holds no Ensemble; it holds 'Chain'"):
        load_ensemble(tmp_path / "chain.npz")
    np.savez(tmp_path / "other.npz", phi=np.zeros(3))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_chain(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        load_chain(tmp_path / "nothing.npz")


def test_numbers_of_numpy_are_written_as_pythons(tmp_path):
    about = {"seed": np.int64(3), "beta": np.float32(0.5), "done": np.bool_(True), "shape": [np.int64(4)]}
    chain = dataclasses.replace(a_chain(), step_size=np.float64(0.25), annealed=np.bool_(False))
    save_samples(chain, tmp_path / "chain.npz", about=about)
    expected = {"seed": 3, "beta": 0.5, "done": True, "shape": [4]}
    assert describe_samples(tmp_path / "chain.npz")["about"] == expected
    loaded = load_chain(tmp_path / "chain.npz")
    assert (loaded.step_size, loaded.annealed) == (0.25, False)


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.npz, \.h5, \.hdf5"):
        save_samples(an_ensemble(), tmp_path / "ensemble.csv")
    with pytest.raises(TypeError, match="Ensemble or Chain"):
        save_samples(torch.zeros(3, 4, 4), tmp_path / "phi.npz")
    with pytest.raises(TypeError, match="action must be of type Action"):
        save_samples(an_ensemble(), tmp_path / "e.npz", action="phi^4")
    assert list(tmp_path.iterdir()) == []


@suffixes
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix):
    old, path = an_ensemble(), tmp_path / f"ensemble{suffix}"
    save_samples(old, path)

    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        save_samples(an_ensemble(seed=1), path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    assert same(load_ensemble(path), old)


def test_without_h5py_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[io\]'.*\.npz"):
        save_samples(an_ensemble(), tmp_path / "ensemble.h5")
    assert list(tmp_path.iterdir()) == []


@suffixes
def test_parts_of_an_ensemble_are_joined_in_order(tmp_path, suffix):
    parts = [an_ensemble(n, seed=n) for n in (3, 12, 5)]
    for number, part in enumerate(parts):
        written = append_samples(part, tmp_path / "run", suffix=suffix, action=ACTION)
        assert written.name == f"samples-{number:06d}{suffix}"
    whole = load_ensemble(tmp_path / "run")
    assert same(whole.phi, torch.cat([part.phi for part in parts]))
    assert same(whole.log_weight, torch.cat([part.log_weight for part in parts]))
    certificates = [part.certificate for part in parts]
    assert whole.certificate.n_samples == 24
    assert whole.certificate.max_log_q_error == max(c.max_log_q_error for c in certificates)
    shifts = [c.log_z_shift for c in certificates]
    assert min(shifts) <= whole.certificate.log_z_shift <= max(shifts)
    assert whole.certificate.shift_of(lambda _, log_w: log_w.double().logsumexp(0)) == pytest.approx(
        whole.certificate.log_z_shift, abs=1e-12
    )


def test_pieces_of_a_chain_follow_each_other(tmp_path):
    chain = a_chain(12)
    for start in (0, 4, 8):
        piece = dataclasses.replace(
            chain,
            samples=chain.samples[start : start + 4],
            acceptance=chain.acceptance[start : start + 4],
        )
        append_samples(piece, tmp_path, action=ACTION)
    assert same(load_chain(tmp_path), chain)
    append_samples(dataclasses.replace(chain, step_size=1.0), tmp_path, action=ACTION)
    assert load_chain(tmp_path).step_size is None


def test_chains_that_started_apart_are_joined_and_written_again(tmp_path):
    sampler = IndependenceMetropolis(small_flow((4, 4)), ACTION)
    for seed in range(2):
        chain = sampler.sample(6, n_chains=2, certify=4, generator=torch.Generator().manual_seed(seed))
        append_samples(chain, tmp_path / "run", action=ACTION)
    joined = load_chain(tmp_path / "run")
    assert (len(joined.samples), len(joined.acceptance)) == (12, 10)
    save_samples(joined, tmp_path / "joined.npz", action=ACTION)
    assert same(load_chain(tmp_path / "joined.npz"), joined)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    chain, ensemble = a_chain(), an_ensemble()
    for wrong in (
        dataclasses.replace(chain, acceptance=torch.ones(13, 3)),
        dataclasses.replace(chain, acceptance=torch.ones(12, 4)),
        dataclasses.replace(ensemble, log_weight=ensemble.log_weight[1:]),
        dataclasses.replace(ensemble, phi=ensemble.phi.int()),
    ):
        with pytest.raises(ValueError, match="do not fit each other"):
            save_samples(wrong, tmp_path / "wrong.npz")
    assert list(tmp_path.iterdir()) == []


def other_action(folder: Path) -> None:
    append_samples(an_ensemble(), folder, action=Phi4(ACTION.lattice, m2=1.0, lam=0.6))


def other_precision(folder: Path) -> None:
    append_samples(an_ensemble(dtype=torch.float32), folder, action=ACTION)


def no_certificate(folder: Path) -> None:
    append_samples(an_ensemble(certify=0), folder, action=ACTION)


def other_kind(folder: Path) -> None:
    append_samples(a_chain(), folder, action=ACTION)


def damaged(folder: Path) -> None:
    path = append_samples(an_ensemble(), folder, action=ACTION)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("stranger", [other_action, other_precision, no_certificate, other_kind, damaged])
def test_parts_that_do_not_belong_together_are_not_joined(tmp_path, stranger):
    append_samples(an_ensemble(), tmp_path, action=ACTION)
    load_ensemble(tmp_path)
    stranger(tmp_path)
    with pytest.raises(CheckpointError):
        load_ensemble(tmp_path)


def test_other_files_in_a_folder_do_not_matter_but_samples_must_be_there(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".samples-000000.npz.12.34.tmp").write_text("half")
    with pytest.raises(FileNotFoundError, match="holds no samples"):
        load_ensemble(tmp_path)
    append_samples(an_ensemble(), tmp_path)
    assert len(load_ensemble(tmp_path).phi) == 40


def test_an_ensemble_of_version_0_1_has_the_log_z_that_it_had():
    expected = torch.load(OLD / "samples_expected.pt", weights_only=True)
    ensemble = load_ensemble(OLD / "ensemble.npz")
    assert ensemble.log_z().mean == pytest.approx(expected["log_z"], rel=1e-12)
    half = dataclasses.replace(ensemble, log_weight=ensemble.log_weight / 2)
    assert half.log_z().mean != pytest.approx(expected["log_z"], rel=1e-3)


def test_a_chain_of_version_0_1_has_the_phi_squared_that_it_had():
    expected = torch.load(OLD / "samples_expected.pt", weights_only=True)
    chain = load_chain(OLD / "chain.npz")
    assert chain.mean(phi_squared).mean == pytest.approx(expected["phi2"], rel=1e-12)
    assert chain.mean(lambda phi: phi_squared(phi[:, 1:])).mean != pytest.approx(expected["phi2"], rel=1e-3)


@pytest.mark.parametrize("name", ["ensemble.npz", "chain.npz"])
def test_samples_of_version_0_1_are_written_again_as_they_were(name, tmp_path):
    load = load_ensemble if name == "ensemble.npz" else load_chain
    samples = load(OLD / name)
    save_samples(samples, tmp_path / name)
    assert same(load(tmp_path / name), samples)
    assert describe_samples(OLD / name)["versions"]["equiflow"] == "0.1.0"
