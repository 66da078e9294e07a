"""Paths of densities: their ends, and their rates against differences of actions."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import FreeField, HaarPrior, Lattice, Links, Phi4, WilsonAction
from equiflow.theories.base.action import Action
from equiflow.theories.base.paths import StraightPath, path_between
from equiflow.theories.gauge.early_sectors import EarlySectors, smooth_sawtooth

LINKS = Links(Lattice((4, 3)), "U(1)")


def paths():
    lattice = Lattice((2, 3))
    straight = StraightPath(FreeField(lattice), Phi4(lattice, m2=-1.0, lam=1.0))
    early = EarlySectors(HaarPrior(LINKS), WilsonAction(LINKS, beta=3.0), beta=3.0)
    return [straight.__class__(straight.prior.double(), straight.action.double()), early]


@pytest.mark.parametrize("path", paths(), ids=str)
def test_a_path_leads_from_the_prior_to_the_target(path):
    phi = path.action.space.probes(3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(path.at(0.0)(phi), -path.prior.log_prob(phi))
    assert path.at(1.0) is path.action
    torch.testing.assert_close(path.at(1 - 1e-9)(phi), path.action(phi))


@pytest.mark.parametrize("path", paths(), ids=str)
@pytest.mark.parametrize("t", [0.1, 0.6])
def test_rates_and_forces_are_derivatives(path, t):
    phi, h = path.action.space.probes(3, torch.Generator().manual_seed(0)), 1e-5
    slope = (path.at(t + h)(phi) - path.at(t - h)(phi)) / (2 * h)
    torch.testing.assert_close(path.rate(phi, t), slope, rtol=1e-7, atol=1e-7)
    action = path.at(t)
    torch.testing.assert_close(action.grad(phi), Action.grad(action, phi))
    assert (path.rate(phi, t) + slope).abs().max() > 1e-2


def test_the_charge_is_settled_early_and_the_straight_path_is_not():
    """The width of the charge, `1 / (1 / (V chi) + kappa)`, is soon near its last one."""
    path, volume = paths()[1], 12

    def chi(beta):
        angle = torch.linspace(-math.pi, math.pi, 20001, dtype=torch.float64)
        weight = torch.exp(beta * angle.cos())
        return float((weight * angle.square()).sum() / weight.sum()) / (4 * math.pi**2)

    widths = [1 / (1 / (volume * chi(3.0 * t)) + path.kappa(t)[0]) for t in (0.35, 0.6, 1.0)]
    assert widths[0] < 1.3 * widths[2]
    assert widths[1] < 1.1 * widths[2]
    assert chi(0.35 * 3.0) > 2 * chi(3.0)


def test_the_smooth_charge_is_nearly_the_topological_one():
    coefficients = smooth_sawtooth(40)
    angle = torch.linspace(-2.9, 2.9, 50, dtype=torch.float64)
    series = sum(a * (m * angle).sin() for m, a in enumerate(coefficients, 1))
    torch.testing.assert_close(series, angle / (2 * math.pi), rtol=0, atol=1e-2)


def test_only_u1_in_two_dimensions_has_sectors():
    for links, beta, options in (
        (LINKS, 2.0, {"rectangle": -0.1}),
        (LINKS, -2.0, {}),
        (Links(Lattice((2, 2, 2)), "U(1)"), 2.0, {}),
        (Links(Lattice((3, 3)), "SU(2)"), 2.0, {}),
    ):
        path = path_between(HaarPrior(links), WilsonAction(links, beta=beta, **options))
        assert type(path) is StraightPath
    assert type(path_between(HaarPrior(LINKS), WilsonAction(LINKS, beta=2.0))) is EarlySectors
    links = Links(Lattice((3, 3)), "SU(2)")
    with pytest.raises(ValueError, match=r"Sectors are known for U\(1\)"):
        EarlySectors(HaarPrior(links), WilsonAction(links, beta=2.0), beta=2.0)
    with pytest.raises(ValueError, match="lives on"):
        StraightPath(HaarPrior(links), WilsonAction(LINKS, beta=2.0))
