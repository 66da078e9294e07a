"""Exact gauge theory on the torus: against integrals over the Haar measure, closed forms and expansions."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import iv

from equiflow import Lattice, Links, Phi4, WilsonAction
from equiflow.oracles import gauge_torus
from equiflow.oracles.characters import Characters, characters
from equiflow.theories.gauge.groups import lie_group
from equiflow.theories.gauge.observables import (
    plaquette,
    theta_factor,
    topological_charge,
    topological_susceptibility,
    wilson_loop,
)
from tests.support.gauge import GROUPS, rng

N_SAMPLES = 60_000
BETAS = {"U(1)": 1.0, "SU(2)": 1.5, "SU(3)": 2.0, "SU(4)": 2.0}


def exact(group: str, beta: float, shape: tuple[int, ...] = (4, 4), **options):
    return gauge_torus(WilsonAction(Links(Lattice(shape), group), beta=beta, **options))


@cache
def haar_sample(group: str, shape: tuple[int, ...]):
    """Return links of the Haar measure, and their weights `exp(-S)` at the coupling of the group."""
    links = Links(Lattice(shape), group)
    u = links.probes(N_SAMPLES if group == "U(1)" else N_SAMPLES // 4, rng(2))
    return links, u, (-WilsonAction(links, beta=BETAS[group])(u)).exp()


def reweighted(weight, values):
    """Return a reweighted mean and its error."""
    mean = float((weight * values).mean() / weight.mean())
    return mean, float((weight * (values - mean)).std() / weight.mean()) / len(weight) ** 0.5


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (2, 3)])
def test_partition_functions_and_loops_are_integrals_over_the_haar_measure(group, shape):
    links, u, weight = haar_sample(group, shape)
    found = exact(group, BETAS[group], shape)
    error = float(weight.std() / weight.mean()) / len(weight) ** 0.5
    assert found.log_z == pytest.approx(float(weight.mean().log()), abs=4 * error + 1e-12)
    assert error < 0.05
    mean, error = reweighted(weight, plaquette(links)(u))
    assert found.plaquette == pytest.approx(mean, abs=4 * error + 1e-12)
    if min(shape) > 1:
        for r, t in ((1, 1), (1, 2)):
            if max(r, t) < min(shape):
                mean, error = reweighted(weight, wilson_loop(links, r, t)(u))
                assert found.wilson_loop(r * t) == pytest.approx(mean, abs=4 * error)


@pytest.mark.parametrize("shape", [(1, 2), (2, 2), (2, 3), (3, 3)])
def test_charges_are_integrals_over_the_haar_measure(shape):
    links, u, weight = haar_sample("U(1)", shape)
    found = exact("U(1)", 1.0, shape)
    mean, error = reweighted(weight, topological_susceptibility(links)(u))
    assert found.topological_susceptibility == pytest.approx(mean, abs=4 * error + 1e-14)
    if math.prod(shape) < 9:
        return
    for theta in (0.5, 2.0, math.pi, 5.0):
        mean, error = reweighted(weight, theta_factor(links, theta)(u))
        assert found.theta_factor(theta) == pytest.approx(mean, abs=4 * error + 1e-14)
    tilted = exact("U(1)", 1.0, shape, imaginary_theta=0.8)
    charge = topological_charge(links)(u)
    mean, error = reweighted(weight * (0.8 * charge).exp(), charge)
    assert tilted.charge == pytest.approx(mean, abs=4 * error)
    mean, error = reweighted(weight * (0.8 * charge).exp(), (charge - tilted.charge).square() / 9)
    assert tilted.topological_susceptibility == pytest.approx(mean, abs=4 * error)
    mean, error = reweighted(weight * (0.8 * charge).exp(), plaquette(links)(u))
    assert tilted.plaquette == pytest.approx(mean, abs=4 * error)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("beta", [0.01, 1.0, 7.0])
def test_the_characters_add_up_to_the_weight_of_a_plaquette_of_one(group, beta):
    found = characters(lie_group(group), beta, 1)
    # At U = 1 the characters are the dimensions and the weight is exp(beta).
    total = math.log((found.dimension**2 * found.ratio).sum().real) + found.log_scale
    assert total == pytest.approx(beta, abs=1e-9)
    wrong = math.log((found.dimension * found.ratio).sum().real) + found.log_scale
    assert group == "U(1)" or abs(wrong - beta) > 1e-4


@pytest.mark.parametrize("beta", [0.3, 2.0, 9.0])
def test_su2_has_bessel_functions(beta):
    n = np.arange(1, 60)
    weight = 2 * iv(n, beta) / beta
    found = exact("SU(2)", beta)
    assert found.log_z == pytest.approx(math.log((weight**16).sum()), rel=1e-13)
    # Loops: neighbours n +- 1, each with the ratio of the dimensions.
    inside, outside = weight**3, weight**13
    expected = sum(
        (n[a] / n[b]) * inside[a] * outside[b] for a in range(59) for b in (a - 1, a + 1) if 0 <= b < 59
    )
    assert found.wilson_loop(3) == pytest.approx(expected / 2 / (weight**16).sum(), rel=1e-12)


@pytest.mark.parametrize("beta", [0.3, 2.0, 9.0])
def test_u1_has_bessel_functions(beta):
    n = np.arange(-60, 61)
    weight = iv(np.abs(n), beta)
    found = exact("U(1)", beta)
    assert found.log_z == pytest.approx(math.log((weight**16).sum()), rel=1e-13)
    loops = (weight[:-1] ** 12 * weight[1:] ** 4).sum() / (weight**16).sum()
    assert found.wilson_loop(4) == pytest.approx(loops, rel=1e-12)
    assert exact("U(1)", beta, (1, 1)).log_z == pytest.approx(beta, rel=1e-13)
    assert exact("U(1)", beta, (1, 2)).log_z == pytest.approx(math.log(iv(0, 2 * beta)), rel=1e-13)


@pytest.mark.parametrize(
    ("group", "slope"), [("U(1)", 1 / 2), ("SU(2)", 1 / 4), ("SU(3)", 1 / 18), ("SU(4)", 1 / 32)]
)
def test_strong_coupling_is_the_first_term_of_the_expansion(group, slope):
    beta = 1e-3
    found = exact(group, beta)
    # <(Re tr U / N)^2> of the Haar measure, with corrections of order beta.
    assert found.plaquette / beta == pytest.approx(slope, rel=2e-3)
    assert found.log_z == pytest.approx(16 * slope * beta**2 / 2, rel=2e-3)
    assert found.wilson_loop(2) == pytest.approx(found.plaquette**2, rel=1e-9)


@pytest.mark.parametrize("group", GROUPS)
def test_derivatives_of_log_z_are_averages(group):
    beta, h = 2.3, 1e-4
    up, here, down = (exact(group, beta + step, (3, 4)) for step in (h, 0, -h))
    assert here.plaquette == pytest.approx((up.log_z - down.log_z) / (2 * h * 12), abs=1e-8)
    assert here.wilson_loop(1) == pytest.approx(here.plaquette, rel=1e-12)
    assert here.wilson_loop(0) == pytest.approx(1, rel=1e-12)
    assert here.wilson_loop(2) < here.wilson_loop(1)


def test_the_charge_follows_from_z_of_theta():
    found, h = exact("U(1)", 1.0), 1e-3
    bend = -(found.theta_factor(h) + found.theta_factor(-h) - 2) / h**2 / 16
    assert found.topological_susceptibility == pytest.approx(bend, rel=1e-5)
    assert found.charge == 0
    assert found.theta_factor(2 * math.pi + 0.3) == pytest.approx(found.theta_factor(0.3), rel=1e-12)
    assert found.theta_factor(0) == pytest.approx(1, rel=1e-13)
    for h in (0.5, -2.0):
        up, here, down = (exact("U(1)", 1.0, imaginary_theta=h + step) for step in (1e-3, 0, -1e-3))
        assert here.charge == pytest.approx((up.log_z - down.log_z) / 2e-3, rel=1e-6)
        bend = (up.log_z + down.log_z - 2 * here.log_z) / 1e-6 / 16
        assert here.topological_susceptibility == pytest.approx(bend, rel=1e-4)


def test_probabilities_of_charges_have_the_known_moments():
    for beta, shape in ((1.0, (4, 4)), (5.5, (16, 16)), (0.0, (3, 3))):
        found, largest = exact("U(1)", beta, shape), 15
        probability, charge = found.charge_probabilities(largest), np.arange(-largest, largest + 1)
        assert probability.sum() == pytest.approx(1, abs=1e-10)
        assert probability == pytest.approx(probability[::-1], abs=1e-13)
        square = float(probability @ charge**2) / found.volume
        assert square == pytest.approx(found.topological_susceptibility, rel=1e-8)
    with pytest.raises(ValueError, match="A theta is known for U"):
        exact("SU(2)", 1.0).charge_probabilities(3)


def test_published_numbers_and_large_volumes():
    assert exact("U(1)", 2.0, (16, 16)).log_z == pytest.approx(210.9424, abs=1e-4)
    assert exact("U(1)", 5.0, (8, 8)).log_z == pytest.approx(211.5011, abs=1e-4)
    assert exact("U(1)", 5.0, (8, 8)).topological_susceptibility == pytest.approx(0.0056, abs=5e-5)
    for group in GROUPS:
        huge = exact(group, 6.0, (1000, 1000))
        assert math.isfinite(huge.log_z)
        # Only the trivial representation is left.
        found = characters(lie_group(group), 6.0, 1)
        assert huge.log_z == pytest.approx(1e6 * found.log_scale, rel=1e-10)
        assert huge.wilson_loop(2) == pytest.approx(huge.plaquette**2, rel=1e-10)


def test_a_lost_dimension_would_be_seen():
    found = characters(lie_group("SU(2)"), 2.0, 1)
    wrong = Characters(found.log_scale, found.ratio * found.dimension, found.dimension, found.fundamental, 2)
    right, false = ((one.ratio**4).sum() for one in (found, wrong))
    links, _, weight = haar_sample("SU(2)", (2, 2))
    found = characters(links.lie, BETAS["SU(2)"], 1)
    estimate = float(weight.mean().log()) - 4 * found.log_scale
    assert abs(math.log((found.ratio**4).sum()) - estimate) < 0.05
    assert abs(math.log(((found.ratio * found.dimension) ** 4).sum()) - estimate) > 0.15
    assert false > right


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: gauge_torus(Phi4(Lattice((4, 4)), m2=1.0, lam=1.0)),
            TypeError,
            "must be of type WilsonAction",
        ),
        (lambda: exact("U(1)", 1.0, (2, 2, 2)), ValueError, "in two dimensions"),
        (lambda: exact("U(1)", 1.0, rectangle=-0.1), ValueError, "without rectangles"),
        (lambda: exact("U(1)", 1.0).wilson_loop(17), ValueError, "at most 16"),
        (lambda: exact("U(1)", 1.0).wilson_loop(-1), ValueError, ">= 0"),
        (lambda: exact("SU(2)", 1.0).theta_factor(1.0), ValueError, "for U"),
        (lambda: exact("U(1)", 1.0).theta_factor("1"), TypeError, "theta must be a number"),
        (lambda: exact("U(1)", 1.0, (2, 2), imaginary_theta=1.0), ValueError, "larger lattice"),
    ],
)
def test_what_is_not_known_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_numbers_of_numpy_are_as_good():
    found = exact("U(1)", np.float32(1.0))
    assert found.wilson_loop(np.int64(2)) == exact("U(1)", 1.0).wilson_loop(2)
    assert found.theta_factor(np.float64(0.5)) == exact("U(1)", 1.0).theta_factor(0.5)
    assert torch.is_tensor(haar_sample("U(1)", (2, 2))[2])


def test_charges_are_drawn_from_their_probabilities():
    found = exact("U(1)", 2.0)
    charge = found.draw_charges(20_000, torch.Generator().manual_seed(0)).double()
    variance = found.topological_susceptibility * found.volume
    assert abs(float(charge.mean())) < 4 * (variance / 20_000) ** 0.5
    # Fluctuations of the square are about those of a Gaussian.
    assert abs(float(charge.square().mean()) / variance - 1) < 5 * (2 / 20_000) ** 0.5
    with pytest.raises(ValueError, match=r"U\(1\)"):
        exact("SU(2)", 1.0).draw_charges(3)
