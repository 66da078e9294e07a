"""Resampled samples: Z is unbiased, and errors that count families cover the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from equiflow import (
    HMC,
    Action,
    Ensemble,
    EquivariantCNF,
    Estimate,
    FreeField,
    IndependenceMetropolis,
    Kernel,
    StochasticFlow,
    annealed_importance_sample,
    geometric_path,
    measure,
    stochastic_importance_sample,
)
from equiflow.flows import journeys
from equiflow.interop import append_samples, load_ensemble, save_samples
from equiflow.oracles import Exact, quadrature, z2_balance
from equiflow.samplers.families import means_of_families, weights_of_families
from equiflow.statistics.reweighting import effective_number
from equiflow.theories.scalar.observables import magnetisation, phi_squared
from tests.support.estimates import coverage, error_ratio
from tests.support.updates import CHAIN

RUNS, N = 200, 128


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hmc(action: Action) -> Kernel:
    return HMC(action, step_size=0.5, trajectory_length=1.0)


@cache
def path() -> StochasticFlow:
    """Return annealing by few steps, whose weights are so uneven that resampling matters."""
    prior = FreeField(CHAIN.lattice, m2=0.1).double()
    return StochasticFlow(prior, geometric_path(prior, CHAIN, (0.0, 0.15, 0.4, 1.0)), kernel=hmc)


@cache
def runs(resample: float) -> list[Ensemble]:
    """Return many small ensembles, each of one batch."""
    noise = generator(1)
    draw = stochastic_importance_sample
    return [draw(path(), N, resample=resample, certify=0, generator=noise) for _ in range(RUNS)]


def blind(ensemble: Ensemble) -> Ensemble:
    """Return an ensemble that takes its samples for independent."""
    return replace(ensemble, family=None)


@cache
def exact() -> Exact:
    return quadrature(CHAIN)


def bias(ensembles: list[Ensemble]) -> float:
    """Return the deviation of the mean of Z from quadrature, in standard errors."""
    z = torch.stack([(e.log_weight - exact().log_z).exp().mean() for e in ensembles])
    return float((z.mean() - 1) / (z.std() / len(z) ** 0.5))


@pytest.mark.parametrize("resample", [0.8, 1.0])
def test_z_is_unbiased(resample):
    assert abs(bias(runs(resample))) < 4


def test_resampling_without_new_weights_has_a_bias(monkeypatch):
    resampled = journeys.resampled

    def kept(log_weight: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        rows, _ = resampled(log_weight, generator)
        return rows, log_weight[rows]

    monkeypatch.setattr(journeys, "resampled", kept)
    draw = stochastic_importance_sample
    wrong = [draw(path(), N, resample=1.0, certify=0, generator=generator(k)) for k in range(40)]
    assert abs(bias(wrong)) > 6


def log_z(ensemble: Ensemble) -> Estimate:
    return ensemble.log_z()


def mean_of_squares(ensemble: Ensemble) -> Estimate:
    return ensemble.mean(phi_squared)


def measured(ensemble: Ensemble) -> Estimate:
    return measure(ensemble)["phi_squared"]


@pytest.mark.parametrize("resample", [0.8, 1.0])
@pytest.mark.parametrize("result", [log_z, mean_of_squares])
def test_errors_cover_the_truth(result: Callable[[Ensemble], Estimate], resample):
    truth = exact().log_z if result is log_z else exact().phi_squared
    found = [result(ensemble) for ensemble in runs(resample)]
    # The error of log Z is rather too large: systematic resampling has less noise than families on their own.
    assert 0.58 < coverage(found, truth) < 0.84
    assert 0.82 < error_ratio(found) < 1.3


def test_errors_that_take_samples_for_independent_are_seen():
    # Resampling makes weights even, not samples independent.
    found = [log_z(blind(ensemble)) for ensemble in runs(1.0)]
    assert coverage(found, exact().log_z) < 0.45
    assert error_ratio(found) < 0.6


def test_errors_of_families_alone_are_larger():
    found = [log_z(replace(ensemble, surplus=None)) for ensemble in runs(1.0)]
    assert error_ratio(found) > 1.1 * error_ratio([log_z(ensemble) for ensemble in runs(1.0)])


def test_all_estimates_count_families():
    ensemble = runs(1.0)[0]
    assert effective_number(ensemble.log_weight) > 1.3 * effective_number(ensemble.independent_log_weight)
    assert ensemble.effective_sample_size().mean < 0.8 * blind(ensemble).effective_sample_size().mean
    one, other = measured(ensemble), mean_of_squares(ensemble)
    assert one.mean == pytest.approx(other.mean, rel=1e-9)
    assert one.error == pytest.approx(other.error, rel=0.2)
    assert one.error > 1.1 * measured(blind(ensemble)).error
    assert z2_balance(ensemble).positive.error > 1.1 * z2_balance(blind(ensemble)).positive.error
    # The averages themselves are those of the samples.
    assert ensemble.mean(magnetisation).mean == pytest.approx(
        blind(ensemble).mean(magnetisation).mean, rel=1e-9
    )
    assert ensemble.log_z().mean == pytest.approx(blind(ensemble).log_z().mean, rel=1e-9)


def test_families_without_a_weight_count_as_samples_of_weight_zero():
    family = torch.tensor([0, 0, 3, 3, 1, 4])
    weight = torch.tensor([1.0, 3.0, 0.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    log_weight = weight.log() + torch.tensor([0.0, 0, 0, 0, 0, -800])  # too small beside the others
    values = torch.tensor([[1.0], [2.0], [0.0], [5.0], [0.0], [9.0]])
    assert weights_of_families(family, log_weight).exp().tolist() == pytest.approx([4.0, 0, 0, 2.0, 0, 0])
    means = means_of_families(family, log_weight, values)
    assert means.flatten().tolist() == pytest.approx([1.75, 0, 0, 5.0, 0, 0])


def test_batches_are_families_of_their_own():
    draw = lambda size: stochastic_importance_sample(  # noqa: E731
        path(), 20, resample=1.0, batch_size=size, certify=0, generator=generator()
    )
    assert int(draw(20).family.max()) >= 10
    batched = draw(8).family
    assert [int(part.min()) // 8 for part in batched.split(8)] == [0, 1, 2]
    assert [int(part.max()) // 8 for part in batched.split(8)] == [0, 1, 2]
    assert stochastic_importance_sample(path(), 5, certify=0).family is None
    whole = [draw(size).surplus.split(size) for size in (20, 8)]
    assert all(float(part.sum()) == pytest.approx(0.0, abs=1e-12) for parts in whole for part in parts)
    assert len(stochastic_importance_sample(path(), 0, resample=1.0).phi) == 0


def test_files_keep_families_and_join_them(tmp_path):
    first, second = runs(1.0)[:2]
    plain = stochastic_importance_sample(path(), N, certify=0, generator=generator())
    save_samples(first, tmp_path / "one.npz")
    assert torch.equal(load_ensemble(tmp_path / "one.npz").family, first.family)
    for part in (first, plain, second):
        append_samples(part, tmp_path / "all")
    joined = load_ensemble(tmp_path / "all")
    assert float(joined.surplus.sum()) == pytest.approx(0.0, abs=1e-9)
    expected = [first.family, torch.arange(N) + N, second.family + 2 * N]
    assert torch.equal(joined.family, torch.cat(expected))
    z = [e.log_z().mean for e in (first, plain, second)]
    errors = [e.log_z().error for e in (first, plain, second)]
    assert 0.7 * min(errors) / 3**0.5 < joined.log_z().error < 1.3 * max(errors) / 3**0.5
    assert joined.log_z().mean == pytest.approx(float(torch.tensor(z).double().exp().mean().log()), rel=1e-9)


def test_samples_that_depend_on_each_other_are_no_proposals():
    with pytest.raises(ValueError, match="resample=None"):
        IndependenceMetropolis.from_ensemble(runs(1.0)[0])
    plain = stochastic_importance_sample(path(), N, certify=0, generator=generator())
    IndependenceMetropolis.from_ensemble(plain)


def test_annealing_from_a_flow_can_be_resampled():
    flow = EquivariantCNF(CHAIN.lattice, prior=FreeField(CHAIN.lattice, m2=0.1)).double()
    options = {"betas": (0.0, 0.2, 0.5, 1.0), "certify": 0}
    ensemble = annealed_importance_sample(flow, CHAIN, 600, resample=0.8, generator=generator(), **options)
    assert ensemble.family.unique().numel() < 560
    assert abs(ensemble.log_z().sigmas_from(exact().log_z)) < 4
    assert abs(ensemble.mean(phi_squared).sigmas_from(exact().phi_squared)) < 4
    with pytest.raises(ValueError, match="resample must be"):
        annealed_importance_sample(flow, CHAIN, 10, resample=2.0)


def test_systematic_resampling_draws_each_sample_as_often_as_its_weight_says():
    log_weight = torch.tensor([0.1, 1.7, 0.0, 3.2], dtype=torch.float64).log()
    counts = torch.stack(
        [torch.bincount(journeys.resampled(log_weight, generator(k))[0], minlength=4) for k in range(4000)]
    )
    share = 4 * log_weight.exp() / log_weight.exp().sum()
    assert bool(((counts == share.floor()) | (counts == share.ceil())).all())
    torch.testing.assert_close(counts.double().mean(0), share, atol=0.04, rtol=0)
    assert journeys.resampled(log_weight, generator())[1].exp().tolist() == pytest.approx([1.25] * 4)
