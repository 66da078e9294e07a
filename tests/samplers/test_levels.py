"""Two levels: unbiased and covered results of the fine solver at the cost of the coarse one."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from equiflow import Ensemble, EquivariantCNF, Solver, importance_sample, measure
from equiflow.analysis import diagnose, log_z_bridge
from equiflow.flows.solved import with_solver
from equiflow.oracles import transfer_matrix
from equiflow.samplers import HMC, IndependenceMetropolis, TwoLevels, choose_levels
from equiflow.samplers.levels import MIN_PAIRS
from equiflow.statistics import Estimate
from equiflow.theories.scalar.observables import phi_squared, susceptibility
from tests.support.coupling_flows import make
from tests.support.estimates import coverage, error_ratio
from tests.support.two_levels import ACTION, CHEAPER, COARSE, FINE, draw, generator, replicas, trained

N_REPLICAS = 300


@pytest.fixture(scope="module")
def two_levels():
    return replicas(N_REPLICAS, 32, 128)


@pytest.fixture(scope="module")
def exact():
    return transfer_matrix(ACTION)


def results(ensembles: list[Ensemble]) -> dict[str, list[Estimate]]:
    """Return log Z and means of every ensemble, by name."""
    return {
        "log_z": [one.log_z() for one in ensembles],
        "phi_squared": [one.mean(phi_squared) for one in ensembles],
        "susceptibility": [one.mean(susceptibility) for one in ensembles],
    }


def distance(estimates: list[Estimate], truth: float) -> float:
    """Return the mean of many estimates minus the truth, in errors from their scatter."""
    means = torch.tensor([one.mean for one in estimates], dtype=torch.float64)
    return float((means.mean() - truth) / means.std() * math.sqrt(len(means)))


def test_results_are_unbiased_and_covered_where_one_coarse_level_is_far_off(exact, two_levels):
    # Seen from all samples together, each bias of the coarse level is of many errors.
    coarse = results([dataclasses.replace(one, correction=None) for one in two_levels])
    for name, estimates in results(two_levels).items():
        truth = getattr(exact, name)
        assert 0.62 < coverage(estimates, truth) < 0.74, name
        assert abs(distance(estimates, truth)) < 4, name
        # The scatter of 300 values is known to 4 %.
        assert error_ratio(estimates) == pytest.approx(1, abs=0.12), name
        assert abs(distance(coarse[name], truth)) > 8, name
    assert coverage(coarse["log_z"], exact.log_z) < 0.01


def test_measurements_are_covered_too(exact, two_levels):
    measured = [measure(one) for one in two_levels]
    for name in ("phi_squared", "susceptibility", "correlation_length"):
        estimates = [one[name] for one in measured]
        assert 0.62 < coverage(estimates, getattr(exact, name)) < 0.74, name


def test_one_coarse_level_is_many_sigmas_off_and_two_are_not(exact):
    two = draw(3000, share=0.2)
    one = Ensemble(two.phi, two.log_q, two.log_weight)
    assert abs(one.log_z().sigmas_from(exact.log_z)) > 30
    assert abs(two.log_z().sigmas_from(exact.log_z)) < 3
    assert abs(one.mean(phi_squared).sigmas_from(exact.phi_squared)) > 4
    assert abs(two.mean(phi_squared).sigmas_from(exact.phi_squared)) < 3


def test_the_ess_is_that_of_the_fine_solver():
    two, fine = (
        draw(4000, share=0.5),
        importance_sample(trained(), ACTION, 4000, certify=0, generator=generator(1)),
    )
    truth = fine.effective_sample_size()
    assert abs(two.effective_sample_size().sigmas_from(truth)) < 4
    coarse = dataclasses.replace(two, correction=None).effective_sample_size()
    assert abs(coarse.sigmas_from(truth)) > 4


def test_the_same_solver_twice_corrects_nothing():
    levels = TwoLevels(FINE, fine_share=0.25)
    two = importance_sample(trained(), ACTION, 200, levels=levels, certify=0, generator=generator())
    one = importance_sample(trained(), ACTION, 200, certify=0, generator=generator())
    assert torch.equal(two.phi, one.phi)
    for result in (None, phi_squared):
        change = two.correction_of(result)
        assert abs(change.mean) < 1e-10
        assert change.error < 1e-10
    assert two.log_z().mean == pytest.approx(one.log_z().mean, abs=1e-10)
    assert two.mean(phi_squared).mean == pytest.approx(one.mean(phi_squared).mean, abs=1e-10)


def test_pairs_alone_are_one_fine_level():
    two = draw(200, share=1.0)
    one = importance_sample(trained(), ACTION, 200, certify=0, generator=generator())
    torch.testing.assert_close(two.by_fine_solver().phi, one.phi)
    assert two.log_z().mean == pytest.approx(one.log_z().mean, abs=1e-10)
    assert two.mean(phi_squared).mean == pytest.approx(one.mean(phi_squared).mean, abs=1e-10)
    assert two.effective_sample_size().mean == pytest.approx(one.effective_sample_size().mean, abs=1e-10)


@pytest.mark.parametrize("batch_size", [7, 50, 1000])
def test_both_solvers_carry_the_same_prior_samples(batch_size):
    two = draw(120, share=0.5, batch_size=batch_size)
    fine = two.correction
    assert two.phi.shape == (120, 3, 3)
    assert torch.equal(fine.rows, torch.arange(60))
    flow = trained()
    for solver, phi, log_q in (
        (COARSE, two.phi[fine.rows], two.log_q[fine.rows]),
        (FINE, fine.phi, fine.log_q),
    ):
        z, _ = with_solver(flow, Solver("dopri8", rtol=1e-11, atol=1e-11)).inverse_and_log_det(fine.phi)
        again, log_det = with_solver(flow, solver).transform_and_log_det(z)
        torch.testing.assert_close(again, phi, rtol=0, atol=2e-4)
        torch.testing.assert_close(flow.prior.log_prob(z) - log_det, log_q, rtol=0, atol=2e-3)
    torch.testing.assert_close(fine.log_weight, -ACTION(fine.phi) - fine.log_q)
    torch.testing.assert_close(two.log_weight, -ACTION(two.phi) - two.log_q)


def test_there_are_enough_pairs_for_an_error():
    assert TwoLevels(COARSE, fine_share=0.01).n_pairs(1000) == MIN_PAIRS
    assert TwoLevels(COARSE, fine_share=0.1).n_pairs(1001) == 101
    assert TwoLevels(COARSE, fine_share=0.1).n_pairs(5) == 5
    assert draw(0).correction.rows.shape == (0,)
    assert draw(5).log_z().error > 0


def test_the_certificate_is_of_the_fine_solver_and_says_what_it_corrects():
    two = draw(64, certify=64)
    assert two.certificate.solver == str(FINE)
    assert str(two.certificate).startswith(
        "results of midpoint(steps=2), nfe 4, are corrected to those of rk5"
    )
    # What is left is the error of the fine solver, not that of the coarse one.
    assert two.log_z().systematic < 1e-3
    assert two.mean(phi_squared).systematic < 1e-5
    better = draw(64, certify=64, levels=TwoLevels(COARSE, Solver("rk5", steps=10), 0.5))
    assert better.certificate.solver == "rk5(steps=10)"
    assert better.log_z().systematic < two.log_z().systematic
    assert two.by_fine_solver().certificate.corrects == ""


def test_print_says_what_is_corrected_and_by_how_much():
    two = draw(200, certify=32)
    lines = {name: text.strip() for name, text in (line.split("  ", 1) for line in str(two).splitlines())}
    levels = "all samples by midpoint(steps=2), nfe 4; 40 of them also by rk5(steps=6), nfe 36"
    assert lines["levels"] == levels
    assert lines["log Z corrected by"] == str(two.correction_of())
    assert lines["log Z"] == str(two.log_z())
    assert "are corrected to those of" in lines["certificate"]
    one = importance_sample(trained(), ACTION, 40, certify=0, generator=generator())
    assert "levels" not in str(one)
    assert "certificate     none" in str(one)
    with pytest.raises(ValueError, match="one level"):
        one.correction_of()


def test_the_choice_has_the_least_cost_and_predicts_the_error():
    choice = choose_levels(trained(), ACTION, n_samples=2000, generator=generator())
    for trial in choice.trials:
        if not trial.gain:
            continue
        share, c, f = trial.levels.fine_share, trial.nfe, choice.fine_nfe

        def cost(share: float, trial=trial, c=c, f=f) -> float:
            return (c + share * f) * (trial.square + trial.square_of_change / share)

        assert trial.gain == pytest.approx(choice.square * f / cost(share), rel=1e-9)
        for other in (0.7 * share, 1.4 * share):
            assert other > 1 or cost(other) > cost(share)
    assert choice.best is max(choice.trials, key=lambda trial: trial.gain)
    assert choice.best.gain > 1
    n = choice.samples_for(2e-3)
    two = importance_sample(trained(), ACTION, n, levels=choice.levels, certify=0, generator=generator(1))
    # The variance of the change is known to about 15 %.
    assert two.log_z().error == pytest.approx(2e-3, rel=0.15)
    assert two.correction.coarse == str(choice.levels.coarse)


def test_an_observable_is_chosen_for_by_its_own_variance():
    choice = choose_levels(trained(), ACTION, observable=phi_squared, n_samples=1000, generator=generator())
    log_z = choose_levels(trained(), ACTION, n_samples=1000, generator=generator())
    # The mean feels less of the error of log w, so that a coarser solver does.
    assert choice.best.nfe < log_z.best.nfe
    assert choice.best.gain > 2
    n = choice.samples_for(1e-3)
    two = importance_sample(trained(), ACTION, n, levels=choice.levels, certify=0, generator=generator(1))
    assert two.mean(phi_squared).error == pytest.approx(1e-3, rel=0.15)
    assert f"chosen: {choice.levels.coarse}, corrected by {FINE}, nfe 36" in str(choice)


def test_one_level_is_drawn_where_two_do_not_pay():
    flow = with_solver(trained(), Solver("rk4", steps=2))
    choice = choose_levels(flow, ACTION, generator=generator())
    assert choice.levels is None
    assert choice.samples_for(0.01) == math.ceil(choice.square / 1e-4)
    assert "one level: rk4(steps=2), nfe 8" in str(choice)
    ensemble = importance_sample(flow, ACTION, 64, levels=2, certify=0, generator=generator())
    assert ensemble.correction is None
    ensemble = importance_sample(trained(), ACTION, 64, levels=2, certify=0, generator=generator())
    assert ensemble.correction.fine == str(FINE)


@functools.cache
def by_euler() -> list[Ensemble]:
    """Return ensembles of 160 samples by one step of Euler, 32 of them also by the fine solver."""
    levels = TwoLevels(Solver("euler", steps=1), CHEAPER, fine_share=1.0)
    with pytest.warns(UserWarning, match=r"euler\(steps=1\) is too coarse for rk5\(steps=4\)"):
        drawn = draw(120 * 160, levels=levels, seed=7, batch_size=10_000)
    fine, made = drawn.correction, []
    for start in range(0, len(drawn.phi), 160):
        a, b = slice(start, start + 160), slice(start, start + 32)
        pairs = dataclasses.replace(
            fine,
            rows=torch.arange(32),
            phi=fine.phi[b],
            log_q=fine.log_q[b],
            log_weight=fine.log_weight[b],
        )
        parts = drawn.phi[a], drawn.log_q[a], drawn.log_weight[a]
        made.append(Ensemble(*parts, correction=pairs, space=drawn.space))
    return made


def test_a_useless_coarse_solver_is_covered_and_noted(exact):
    ensembles = by_euler()
    for name, estimates in results(ensembles).items():
        assert 0.58 < coverage(estimates, getattr(exact, name)) < 0.78, name
        assert all("from the 32 fine samples alone: correlation" in one.note for one in estimates), name
    measured = [measure(one) for one in ensembles]
    found = [one.susceptibility for one in measured]
    assert 0.58 < coverage(found, exact.susceptibility) < 0.78
    assert str(measured[0]).count("from the 32 fine samples alone") == 1
    assert found[0].mean == pytest.approx(ensembles[0].mean(susceptibility).mean, rel=1e-9)
    # The ESS, which 32 samples hardly know, was 0.1 to 2 by both levels.
    ess = [one.effective_sample_size() for one in ensembles]
    truth = importance_sample(trained(), ACTION, 4000, certify=0, generator=generator(1))
    assert coverage(ess, truth.effective_sample_size().mean) > 0.48
    assert all(one.mean <= 1 for one in ess)


def test_results_of_levels_that_a_pilot_chooses_are_covered(exact):
    flow = with_solver(trained(), CHEAPER)
    found = [
        importance_sample(flow, ACTION, 300, levels=2, certify=0, generator=generator(100 + k))
        for k in range(60)
    ]
    assert all(one.correction is not None for one in found)
    for name, estimates in results(found).items():
        assert 0.52 < coverage(estimates, getattr(exact, name)) < 0.85, name  # 60 values scatter by 0.06
        assert not any(one.note for one in estimates), name


def test_who_draws_by_a_useless_coarse_solver_is_warned_where_he_stands():
    with pytest.warns(UserWarning, match="All estimates are from the 40 fine samples alone") as caught:
        importance_sample(
            trained(), ACTION, 200, levels=TwoLevels(Solver("euler", steps=1), fine_share=0.2), certify=0,
            generator=generator(),
        )  # fmt: skip
    assert caught[0].filename == __file__
    assert "levels=2 to choose" in str(caught[0].message)


def test_chains_and_comparisons_with_the_target_refuse_coarse_weights():
    two = draw(256, share=0.25)
    chain = HMC(ACTION, step_size=0.1).sample(16, n_chains=8, n_thermalisation=20, generator=generator(2))
    for refused in (
        lambda e: IndependenceMetropolis.from_ensemble(e, generator=generator(3)),
        lambda e: log_z_bridge(trained(), ACTION, e, chain),
        lambda e: diagnose(trained(), ACTION, e, chain),
    ):
        with pytest.raises(ValueError, match="by_fine_solver"):
            refused(two)
        refused(two.by_fine_solver())
    one = importance_sample(trained(), ACTION, 8, certify=0, generator=generator())
    assert one.by_fine_solver() is one


def test_zero_weights_of_either_solver_are_zeros():
    two = draw(200, share=0.5)
    fine, log_weight = two.correction, two.log_weight.clone()
    log_weight[3] = log_weight[150] = -math.inf
    of_fine = fine.log_weight.clone()
    of_fine[3] = of_fine[7] = -math.inf
    phi = two.phi.clone()
    phi[3] = math.nan
    cut = Ensemble(phi, two.log_q, log_weight, correction=dataclasses.replace(fine, log_weight=of_fine))
    for estimate in (cut.log_z(), cut.mean(phi_squared), cut.correction_of(), cut.correction_of(phi_squared)):
        assert math.isfinite(estimate.mean)
        assert 0 < estimate.error < 1
    assert measure(cut, action=ACTION).phi_squared.mean == pytest.approx(
        cut.mean(phi_squared).mean, rel=1e-12
    )


@pytest.mark.parametrize("levels", [0, 3, True, 1.5, "2"])
def test_other_numbers_of_levels_are_refused(levels):
    with pytest.raises((ValueError, TypeError), match="levels"):
        importance_sample(trained(), ACTION, 8, levels=levels)


def test_maps_without_a_solver_are_refused():
    flow = make("real_nvp")
    with pytest.raises(TypeError, match="flow must be"):
        importance_sample(flow, ACTION, 8, levels=2)
    with pytest.raises(TypeError, match="flow must be"):
        importance_sample(flow, ACTION, 8, levels=TwoLevels(COARSE))


@pytest.mark.parametrize(
    "wrong",
    [
        {"coarse": "rk4"},
        {"coarse": COARSE, "fine": 2},
        {"coarse": COARSE, "fine_share": 0.0},
        {"coarse": COARSE, "fine_share": "all"},
    ],
)
def test_levels_are_checked(wrong):
    with pytest.raises((ValueError, TypeError), match=r"coarse|fine"):
        TwoLevels(**wrong)


def test_shares_of_numpy_are_those_of_python():
    assert repr(TwoLevels(COARSE, fine_share=np.float64(0.25))) == repr(TwoLevels(COARSE, fine_share=0.25))


def test_the_flow_keeps_its_solver():
    flow: EquivariantCNF = trained()
    draw(40)
    choose_levels(flow, ACTION, generator=generator())
    assert flow.solver == FINE
