"""What a report says in words: titles, where chains come from, a verdict that praises nothing poor."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import (
    Angles,
    CoulombGas,
    Estimate,
    ExtendedAction,
    Lattice,
    Links,
    Multiplet,
    ONModel,
    Particles,
    Phi4,
    WilsonAction,
    XYModel,
)
from equiflow.report.words import autocorrelation, heading, provenance, verdict
from equiflow.samplers import Chain
from equiflow.theories.base.action import Action
from tests.report.test_numbers import report  # noqa: F401

GOOD = {
    "reverse_ess": Estimate(0.95, 0.01),
    "forward_ess": Estimate(0.94, 0.02),
    "log_z": Estimate(16.0, 0.01),
}


class Sextic(Action):
    def forward(self, phi):
        return (phi**6).sum(self.lattice.axes)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Phi4(Lattice((8, 4)), m2=-4.0, lam=6.008), "Phi4 on 8 x 4, m2 = -4, lam = 6.008"),
        (ONModel(Multiplet(Lattice((4, 4)), 2), m2=-4.0, lam=6.0), "ONModel on 4 x 4, m2 = -4, lam = 6"),
        (XYModel(Angles(Lattice((4, 4))), beta=0.5), "XYModel on 4 x 4, beta = 0.5"),
        (
            WilsonAction(Links(Lattice((4, 4)), "U(1)"), beta=2.0),
            "WilsonAction on 4 x 4, group = U(1), beta = 2",
        ),
        (CoulombGas(Particles(3, 2), beta=2.0), "CoulombGas on Particles(number=3, dim=2), beta = 2"),
        (ExtendedAction(Phi4(Lattice((4,)), m2=1.0, lam=0.1)), "Phi4 on 4, m2 = 1, lam = 0.1"),
        (Sextic(Lattice((3, 3))), "Sextic on 3 x 3"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_titles_have_theory_lattice_and_couplings(action, expected):
    assert heading(action) == expected


def test_a_chain_says_where_it_comes_from():
    chain = Chain(torch.zeros(5, 3, 2, 2), torch.tensor([[1.0, 0.5, 0.0]] * 5))
    assert provenance("HMC", chain, None) == "HMC (3 chains of 5, acceptance 0.50)"
    known = provenance("HMC", chain, Estimate(2.0, 0.5))
    assert known == r"HMC (3 chains of 5, acceptance 0.50, $\tau_{int}$ = 2.00 ± 0.50)"
    assert provenance("HMC", chain, Estimate(2.0, math.nan)).endswith("= 2)")


def test_the_slowest_observable_gives_the_autocorrelation():
    class Measured:
        def scalars(self):
            slow = Estimate(1.0, 0.1, tau_int=7.0, tau_int_error=1.0)
            fast, unknown = Estimate(1.0, 0.1, tau_int=0.5), Estimate(1.0, 0.1)
            return {"fast": fast, "slow": slow, "unknown": unknown}

    assert autocorrelation(Measured()) == Estimate(7.0, 1.0)


@pytest.mark.parametrize(
    ("estimates", "shift", "warnings", "apart", "fine", "words"),
    [
        (GOOD, 1e-4, (), {"chi2": 1.5}, True, "A good flow: reverse ESS 0.950 ± 0.010 and forward"),
        (GOOD, 1e-4, (), {"chi2": -1.5}, True, "no observable is more than 1.5 sigma from HMC"),
        (GOOD, 1e-4, (), None, True, "a mode that it has dropped would not show"),
        (GOOD | {"reverse_ess": Estimate(0.5, 0.1)}, 0.0, (), {}, True, "A usable flow"),
        (GOOD | {"reverse_ess": Estimate(0.2, 0.1)}, 0.0, (), {}, False, "Few of its samples count"),
        (GOOD | {"reverse_ess": Estimate(math.nan, 0.1)}, 0.0, (), {}, False, "Few of its samples count"),
        (GOOD, 0.2, (), {}, False, "a finer one moves log Z by +2.0e-01"),
        (GOOD, math.nan, (), {}, False, "The solver is too coarse"),
        (GOOD, 0.0, (), {"chi2": 9.0, "binder": -1.0}, False, "Chi2 is 9.0 sigma from HMC"),
        (GOOD, 0.0, ("log Z disagrees.", "more"), {}, False, "Not to be used as it is"),
    ],
)
def test_the_verdict_follows_from_the_numbers(estimates, shift, warnings, apart, fine, words):
    judged, sentence = verdict(estimates, shift, warnings, apart)
    assert judged is fine
    assert words in sentence
    assert sentence.endswith(".")
    assert sentence.count(". ") == 0


def test_a_report_shows_itself_in_five_lines(report):  # noqa: F811
    assert str(report).splitlines()[0].split(maxsplit=1)[1] == "Phi4 on 3 x 4, m2 = 1, lam = 0.1"
    assert len(repr(report).splitlines()) == 5
    assert "tensor" not in report._repr_html_()
