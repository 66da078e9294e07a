"""`check_action` passes every action of the library, and finds and names planted mistakes."""

from __future__ import annotations

import functools
import math
import re

import pytest
import torch
from torch import nn

from equiflow import (
    AngleGroup,
    CoulombGas,
    EquivariantCNF,
    ExtendedAction,
    ForwardKL,
    FreeScalar,
    Lattice,
    Particles,
    Phi4,
    Solver,
    SymmetryGroup,
    fit,
)
from equiflow.testing import check_action
from equiflow.theories.angles.space import Angles
from equiflow.theories.angles.xy import XYModel
from equiflow.theories.base.action import Action
from equiflow.theories.base.space import Space
from equiflow.theories.multiplets.on_model import ONModel
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.scalar.external_field import ExternalField

LATTICE = Lattice((4, 4))
SOUND = {
    "Phi4": Phi4(LATTICE, m2=-4.0, lam=6.0),
    "a small quartic term": Phi4(Lattice((3,)), m2=-4.0, lam=1e-4),
    "a light free field": FreeScalar(Lattice((2, 3, 2)), m2=1e-3),
    "O(3)": ONModel(Multiplet(Lattice((3, 2)), 3), m2=-1.0, lam=0.5),
    "XY": XYModel(Angles(Lattice((3, 4))), beta=-0.7),
    "charges": CoulombGas(Particles(5, 2), beta=20.0),
    "many charges on a line": CoulombGas(Particles(20, 1), beta=1.0),
    "one charge": CoulombGas(Particles(1, 2), beta=2.0),
    "one site": Phi4(Lattice((1,)), m2=1.0, lam=1.0),
}


class Quartic(Action):
    """A sound action of one's own."""

    def forward(self, phi):
        return (phi**4 - phi**2).sum(self.lattice.axes)


class SumsOverBatch(Quartic):
    def forward(self, phi):
        return (phi**4).sum()


class KeepsAnAxis(Quartic):
    def forward(self, phi):
        return super().forward(phi)[:, None]


class OtherLattice(Quartic):
    def forward(self, phi):
        return (phi * torch.ones(3, 3, dtype=phi.dtype)).sum((1, 2))


class NotANumber(Quartic):
    def forward(self, phi):
        return (phi**4).sum((1, 2)) + phi.sum((1, 2)).log()


class NoDensity(Quartic):
    def forward(self, phi):
        return super().forward(phi) + math.inf


class CentresBatch(Quartic):
    def forward(self, phi):
        return super().forward(phi - 1e-6 * phi.mean(0))


class NormalisesBatch(Quartic):
    def forward(self, phi):
        value = super().forward(phi)
        return value + 1e-6 * value.flip(0)


class HalfGradient(Quartic):
    def grad(self, phi):
        return 0.5 * super().grad(phi)


class SlightlyWrongGradient(Quartic):
    def grad(self, phi):
        return super().grad(phi) + 1e-4 * phi


class WrongSign(Quartic):
    def grad(self, phi):
        return -super().grad(phi)


class ShortGradient(Quartic):
    def grad(self, phi):
        return super().grad(phi).sum(0)


class Detaches(Quartic):
    def forward(self, phi):
        return (phi**4).sum((1, 2)) - (phi.detach() ** 2).sum((1, 2))


class NoGraph(Quartic):
    @torch.no_grad()
    def forward(self, phi):
        return super().forward(phi)


class Preferred(Quartic):
    """Couples neighbours along one axis only."""

    def forward(self, phi):
        return super().forward(phi) + 1e-6 * (phi - phi.roll(1, 1)).square().sum((1, 2))


class Odd(Quartic):
    def forward(self, phi):
        return super().forward(phi) + 1e-6 * (phi**3).sum((1, 2))


class OpenBoundary(Quartic):
    def forward(self, phi):
        return super().forward(phi) + 1e-6 * (phi[:, 1:] - phi[:, :-1]).square().sum((1, 2))


class Unbounded(Quartic):
    def forward(self, phi):
        return (phi**2 - 1e-3 * phi**4).sum((1, 2))


class WrongKinetic(Quartic):
    """Bounded for uniform fields only."""

    def forward(self, phi):
        return (phi**2 - (phi - phi.roll(1, 1)).square()).sum((1, 2))


class OddHighest(Quartic):
    def forward(self, phi):
        return (phi**4 + 1e-2 * phi**5).sum((1, 2))


class OverflowsDownwards(Quartic):
    """`log cosh` by its definition is infinite from 711 on."""

    def forward(self, phi):
        return (phi**2 - phi.cosh().log()).sum((1, 2))


MISTAKES = {
    SumsOverBatch: ("one value per configuration", r"returned shape \(\)"),
    KeepsAnAxis: ("one value per configuration", r"returned shape \(1, 1\)"),
    OtherLattice: ("one value per configuration", "RuntimeError: The size of tensor"),
    NotANumber: ("one value per configuration", "returned NaN"),
    NoDensity: ("one value per configuration", " inf "),
    CentresBatch: ("one configuration at a time", "batch norms"),
    NormalisesBatch: ("one configuration at a time", "batch norms"),
    HalfGradient: ("grad = finite differences", "5.0e-01"),
    SlightlyWrongGradient: ("grad = finite differences", "sign and factors"),
    WrongSign: ("grad = finite differences", r"2.0e\+00"),
    ShortGradient: ("grad = finite differences", r"grad returned shape \(4, 4\)"),
    Detaches: ("grad = finite differences", "detaches phi"),
    NoGraph: ("grad = finite differences", "ValueError: The value of NoGraph does not depend on phi diff"),
    Preferred: ("S invariant", "violated by only reflection, rotation; obeyed by translation, Z2"),
    Odd: ("S invariant", "violated by only Z2; obeyed by translation, reflection, rotation"),
    OpenBoundary: ("S invariant", "violated by only translation, reflection, rotation; obeyed by Z2"),
    Unbounded: ("bounded below", r"FAIL  bounded below +1.0e\+00"),
    WrongKinetic: ("bounded below", r"1.0e\+00"),
    OddHighest: ("bounded below", "sign of the highest power"),
    OverflowsDownwards: ("bounded below", "returned -inf"),
}

#: what these mistakes break besides
ALSO = {
    CentresBatch: {"grad = finite differences"},
    NormalisesBatch: {"grad = finite differences"},
    WrongKinetic: {"S invariant"},
    OddHighest: {"S invariant"},
}


@pytest.mark.parametrize("name", SOUND)
def test_the_actions_of_the_library_obey_every_law(name):
    report = check_action(SOUND[name])
    assert report.ok, str(report)
    assert "all laws hold" in str(report)


@pytest.mark.parametrize("kind", MISTAKES, ids=lambda kind: kind.__name__)
def test_a_mistake_is_found_and_named_and_nothing_else(kind):
    report = check_action(kind(LATTICE))
    law, text = MISTAKES[kind]
    assert {law} == {check.law for check in report.violations} - ALSO.get(kind, set()), str(report)
    assert f"FAIL  {law}" in str(report)
    assert "\n-> " in str(report)
    assert re.search(text, str(report)), str(report)


def test_an_action_of_one_s_own_passes_in_any_precision():
    class Weighted(Quartic):
        def __init__(self, lattice):
            super().__init__(lattice)
            self.weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float32))

        def forward(self, phi):
            return self.weight * super().forward(phi)

    action = Weighted(LATTICE)
    report = check_action(action)
    assert report.ok, str(report)
    assert action.weight.dtype == torch.float32  # the action itself is left as it was
    assert str(check_action(action.double())) == str(report)


def test_the_group_is_the_one_that_the_flow_will_have():
    bent = ExternalField(Phi4(LATTICE, m2=-4.0, lam=6.0), h=0.3)
    report = check_action(bent)
    assert "violated by only Z2; obeyed by translation, reflection, rotation" in str(report)
    assert check_action(bent, SymmetryGroup(LATTICE, z2=False)).ok
    assert check_action(Preferred(LATTICE), SymmetryGroup(LATTICE, "trivial")).ok
    with pytest.raises(ValueError, match="group acts on lattice"):
        check_action(bent, SymmetryGroup(Lattice((3, 3))))


def test_hard_walls_pass_and_their_zero_weights_are_left_out():
    class Walled(Quartic):
        def forward(self, phi):
            wall = phi.abs().flatten(1).amax(1) > 2.0
            return torch.where(wall, math.inf, super().forward(phi))

    assert check_action(Walled(LATTICE)).ok


def test_a_period_that_is_broken_is_found():
    class HalfTurn(Action):
        def forward(self, phi):
            return -(0.5 * (phi - phi.roll(1, 1))).cos().sum((1, 2))

    report = check_action(HalfTurn(Angles(LATTICE)))
    assert "periodicity" in {check.law for check in report.violations}
    assert "bounded below" not in {check.law for check in report.checks}


def test_what_is_no_action_is_refused():
    with pytest.raises(TypeError, match=r"Derive a class from equiflow\.Action"):
        check_action(lambda phi: phi.square().sum((1, 2)))


class Line(Space):
    kind = "line"
    shape = (3,)


class OnLine(Action):
    def forward(self, x):
        return x.square().sum(1)


def test_without_a_known_group_all_other_laws_are_checked_and_the_report_says_what_to_do():
    for action in (OnLine(Line()), ExtendedAction(SOUND["Phi4"])):
        report = check_action(action)
        assert report.ok, str(report)
        assert "S invariant" not in {check.law for check in report.checks}
        assert {"bounded below", "rises on large fields", "grad = finite differences"} <= {
            check.law for check in report.checks
        }
        name = type(action.space).__name__
        start = (
            "note: no symmetry was tested, since no group was given. No kind of configurations is registered"
        )
        assert f"{start} for {name};" in str(report)
        assert "equiflow.theories.register(Kind(space=MySpace" in str(report)

    class Wrong(OnLine):
        def grad(self, x):
            return -super().grad(x)

    assert {check.law for check in check_action(Wrong(Line())).violations} == {"grad = finite differences"}


class Massless(Quartic):
    """Uniform fields cost nothing."""

    def forward(self, phi):
        return sum((phi - phi.roll(1, mu)).square() for mu in (1, 2)).sum((1, 2))


class Staggered(Quartic):
    """The alternating field costs nothing."""

    def forward(self, phi):
        return sum((phi + phi.roll(1, mu)).square() for mu in (1, 2)).sum((1, 2))


class ForgetsASite(Quartic):
    def forward(self, phi):
        there = torch.ones(4, 4).index_put((torch.tensor(2), torch.tensor(3)), torch.tensor(0.0))
        return ((phi**4 - phi**2) * there.to(phi)).sum((1, 2))


class SlowlyRising(Quartic):
    """A density like `1 / |phi|^0.8` at every site, whose integral is infinite."""

    def forward(self, phi):
        return 0.4 * (1 + phi.square()).log().sum((1, 2))


class Cauchy(Quartic):
    """A density like `1 / phi^2` at every site, whose integral is finite."""

    def forward(self, phi):
        return (1 + phi.square()).log().sum((1, 2))


@pytest.mark.parametrize("kind", [Massless, Staggered, ForgetsASite, SlowlyRising])
def test_an_infinite_partition_function_is_found_along_flat_directions(kind):
    report = check_action(kind(LATTICE), SymmetryGroup(LATTICE, "trivial", z2=False))
    laws = {check.law for check in report.violations} - {"S invariant"}
    assert laws == {"rises on large fields"}, str(report)
    assert "-> Z is infinite: along some ray" in str(report)


def test_the_lack_of_rise_is_the_one_of_the_power_of_the_density():
    error = {check.law: check.error for check in check_action(SlowlyRising(LATTICE)).checks}
    assert error["rises on large fields"] == pytest.approx(0.2, abs=1e-3)  # |phi|^-0.8 lacks |phi|^-0.2
    assert check_action(Cauchy(LATTICE)).ok
    error = {check.law: check.error for check in check_action(Massless(LATTICE)).checks}
    assert error["rises on large fields"] == pytest.approx(1.0, abs=1e-6)


def test_a_flat_direction_of_components_or_of_particles_is_found():
    class OneMassless(Action):
        def forward(self, phi):
            kinetic = sum((phi - phi.roll(1, mu)).square() for mu in (2, 3)).sum((1, 2, 3))
            return kinetic + phi[:, 0].square().sum((1, 2))

    class NoTrap(Action):
        def forward(self, x):
            return (x[:, 0] - x[:, 1]).square().sum(1) + (x[:, 1] - x[:, 2]).square().sum(1)

    for action in (OneMassless(Multiplet(Lattice((2, 3)), 2)), NoTrap(Particles(3, 2))):
        laws = {check.law for check in check_action(action).violations}
        assert "rises on large fields" in laws


def test_an_action_of_chance_is_found():
    class Noisy(Quartic):
        def forward(self, phi):
            return super().forward(phi) + 1e-8 * torch.rand(len(phi), dtype=phi.dtype)

    report = check_action(Noisy(LATTICE))
    assert [check.law for check in report.violations] == ["the same value twice"]
    assert "draw random numbers once" in str(report)


def test_elements_without_a_name_of_their_own_are_shown_readably():
    def flip(phi):
        return -phi

    class Turned:
        def __call__(self, phi):
            return phi.flip(1)

    class Plain(SymmetryGroup):
        def random_element(self, generator=None):
            return made.pop()

    made = [flip, Turned(), functools.partial(torch.roll, shifts=1), functools.partial(torch.mul, 3.0)]
    report = str(check_action(OddHighest(LATTICE), Plain(LATTICE)))
    assert "<" not in report.replace("<=", "")
    assert "random element 3: test_elements_without_a_name_of_their_own_are_shown_readably.flip" in report
    assert "mul(3.0,)" in report


def test_an_action_that_raises_or_knows_no_empty_batch_is_measured_all_the_same():
    class Raises(Quartic):
        def forward(self, phi):
            return phi.missing

    report = check_action(Raises(LATTICE))
    assert "AttributeError: 'Tensor' object has no attribute 'missing'" in str(report)

    class Loops(Quartic):
        def forward(self, phi):
            return torch.stack([(one**4 - one**2).sum() for one in phi])

    assert check_action(Loops(LATTICE)).ok


def test_a_singular_density_is_found():
    class Singular(Quartic):
        """`exp(-S)` has `1 / phi^2` at zero, whose integral is infinite."""

        def forward(self, phi):
            return (phi**4 + 2 * phi.abs().log()).sum((1, 2))

    report = check_action(Singular(LATTICE))
    assert "ValueError: S is -inf at the field zero, where the density is singular." in str(report)


def test_values_that_differ_by_rounding_only_break_no_symmetry():
    class Flat(Action):
        def forward(self, theta):
            return 7 + (theta.sin().square() + theta.cos().square()).sum((1, 2))

    action = Flat(Angles(Lattice((3, 5))))
    assert check_action(action).ok, str(check_action(action))
    for dtype in (torch.float32, torch.float64):
        changes = action.asymmetry(AngleGroup(action.space), dtype=dtype)
        assert max(changes.values()) < 1e-3


def test_symmetry_is_seen_within_hard_walls_too():
    class Walled(Quartic):
        def forward(self, phi):
            wall = phi.abs().flatten(1).amax(1) > 0.5
            return torch.where(wall, math.inf, super().forward(phi) + phi.sum((1, 2)))

    changes = Walled(LATTICE).asymmetry(SymmetryGroup(LATTICE))
    assert changes["Z2 phi -> -phi"] > 0.1
    assert changes["translation along axis 0"] < 1e-10
    with pytest.warns(UserWarning, match="it changes under Z2"):
        fit_once(Walled(LATTICE))


def fit_once(action):
    flow = EquivariantCNF(LATTICE, solver=Solver("rk4", steps=1))
    samples = 0.01 * torch.randn(16, 4, 4)
    fit(flow, action, steps=1, batch_size=4, objective=ForwardKL(samples), progress=False)


def test_a_long_list_of_broken_symmetries_is_cut():
    cube = Lattice((2, 2, 2))

    class Along(Action):
        def forward(self, phi):
            return (phi**4 + phi * phi.roll(1, 1)).flatten(1).sum(1)

    flow = EquivariantCNF(cube, solver=Solver("rk4", steps=1))
    with pytest.warns(UserWarning, match=r"changes under (reflection|rotation) [^.]* and \d\d others\."):
        fit(flow, Along(cube), steps=1, batch_size=4, progress=False)
