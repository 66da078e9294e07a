"""Ensembles of two levels in files, folders and shards: the pairs stay with their samples."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from equiflow import importance_sample
from equiflow.interop import (
    append_samples,
    describe_samples,
    load_ensemble,
    sample_shards,
    save_samples,
    to_xarray,
)
from equiflow.runtime.storage import CheckpointError
from equiflow.samplers import TwoLevels
from equiflow.theories.scalar.observables import phi_squared
from tests.support.samples import same
from tests.support.strategies import is_there
from tests.support.two_levels import ACTION, COARSE, FINE, draw, generator, trained


def test_two_levels_come_back_as_they_were(tmp_path):
    two, path = draw(80, share=0.5, certify=16), tmp_path / "two.npz"
    save_samples(two, path, action=ACTION)
    loaded = load_ensemble(path)
    assert same(loaded, two)
    assert str(loaded) == str(two)
    assert loaded.log_z() == two.log_z()
    assert loaded.mean(phi_squared) == two.mean(phi_squared)
    assert describe_samples(path)["levels"] == str(two.correction)
    save_samples(two.by_fine_solver(), path)
    assert describe_samples(path)["levels"] == "one"


def test_joined_files_keep_each_pair_together(tmp_path):
    parts = [draw(n, share=0.5, seed=n, certify=16) for n in (64, 90, 70)]
    for part in parts:
        append_samples(part, tmp_path, action=ACTION)
    joined = load_ensemble(tmp_path)
    rows = joined.correction.rows
    assert torch.equal(joined.phi[rows], torch.cat([part.phi[part.correction.rows] for part in parts]))
    assert torch.equal(joined.correction.phi, torch.cat([part.correction.phi for part in parts]))
    assert len(rows.unique()) == len(rows) == sum(len(part.correction.rows) for part in parts)
    assert joined.certificate.corrects == parts[0].certificate.corrects != ""
    # The pairs of one file with the samples of another would have nothing in common.
    assert joined.log_z().error < 0.7 * max(part.log_z().error for part in parts)


@pytest.mark.parametrize("other", ["one level", "another solver"])
def test_files_of_other_levels_are_not_joined(tmp_path, other):
    append_samples(draw(64), tmp_path, action=ACTION)
    if other == "one level":
        wrong = importance_sample(trained(), ACTION, 64, certify=0, generator=generator(1))
    else:
        wrong = draw(64, levels=TwoLevels(FINE))
    append_samples(wrong, tmp_path, action=ACTION)
    with pytest.raises(CheckpointError, match="levels"):
        load_ensemble(tmp_path)


@pytest.mark.parametrize("wrong", ["rows", "phi", "log_weight"])
def test_pairs_that_do_not_fit_are_refused(tmp_path, wrong):
    two = draw(64, share=0.5)
    changed = {"rows": two.correction.rows + 60, "phi": two.correction.phi[:, :2]}
    changed |= {"log_weight": two.correction.log_weight[1:]}
    correction = dataclasses.replace(two.correction, **{wrong: changed[wrong]})
    with pytest.raises(ValueError, match="do not fit"):
        save_samples(dataclasses.replace(two, correction=correction), tmp_path / "two.npz")


def test_shards_share_one_choice_and_refuse_another(tmp_path):
    options = {"n_shards": 2, "seed": 3, "certify": 16}
    log_weight = sample_shards(trained(), ACTION, 400, tmp_path, levels=2, **options)
    joined = load_ensemble(tmp_path)
    assert joined.correction.fine == str(FINE)
    torch.testing.assert_close(joined.log_weight, log_weight)
    assert torch.equal(sample_shards(trained(), ACTION, 400, tmp_path, levels=2, **options), log_weight)
    for levels in (1, TwoLevels(COARSE)):
        with pytest.raises(ValueError, match="another ensemble: levels"):
            sample_shards(trained(), ACTION, 400, tmp_path, levels=levels, **options)


@pytest.mark.skipif(not is_there("xarray"), reason="needs xarray")
def test_xarray_gets_samples_whose_weights_need_no_correction():
    two = draw(100, share=0.4)
    data = to_xarray(two, observables={"phi2": phi_squared})
    assert data.sizes["draw"] == 40
    assert torch.equal(torch.from_numpy(data["log_weight"].values), two.correction.log_weight)
