"""The public harness finds planted mistakes, names them, and passes what is right."""

import math
import runpy
from pathlib import Path

import pytest
import torch

from equiflow import EquivariantCNF, Lattice, OrbitConvField, StandardNormal, SymmetryGroup, fit
from equiflow.flows import SymplecticFlow
from equiflow.ode.solver import Solver
from equiflow.testing import check_flow, check_vector_field, randomise
from equiflow.testing.reports import checks_by_kind
from equiflow.theories.scalar.phi4 import Phi4
from equiflow.vector_fields import PathRates, VectorField

LATTICE = Lattice((4, 4))


class Good(OrbitConvField):
    """A small field with random weights."""

    def __init__(self, lattice=LATTICE, **options):
        super().__init__(lattice, n_frequencies=2, n_time_modes=2, **options)
        randomise(self)


class WrongSign(Good):
    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        return velocity, -divergence


class NotANumber(Good):
    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        return velocity, divergence * float("nan")


class WrongRates(Good):
    def path_rates(self, phi, t, score):
        rates = super().path_rates(phi, t, score)
        return PathRates(rates.velocity, rates.divergence, -rates.score_rate)


class Preferred(Good):
    """Pushes along one axis more than along the other."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        return velocity + 1e-6 * (phi.roll(1, 1) + phi.roll(-1, 1)), divergence

    velocity = VectorField.velocity
    path_rates = VectorField.path_rates


class Even(Preferred):
    """Adds an even feature to a field that claims Z2."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = Good.velocity_and_divergence(self, phi, t)
        return velocity + 1e-6 * phi.square(), divergence + 2e-6 * phi.sum((1, 2))


class Inhomogeneous(Preferred):
    """Singles out the site at the origin."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = Good.velocity_and_divergence(self, phi, t)
        origin = torch.zeros_like(phi[0])
        origin[0, 0] = 1e-6
        return velocity + origin * phi, divergence + 1e-6


class DeadParameter(Good):
    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.ones(2))


class MixesBatch(Preferred):
    """Centres the batch: a sample depends on its neighbours in the batch."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = Good.velocity_and_divergence(self, phi, t)
        return velocity + 1e-3 * phi.mean(0), divergence


MISTAKES = {
    WrongSign: "divergence = dense trace",
    NotANumber: "divergence = dense trace",
    WrongRates: "path_rates = autograd",
    Preferred: "equivariance",
    Even: "equivariance",
    Inhomogeneous: "equivariance",
    DeadParameter: "gradients reach every parameter",
    MixesBatch: "one configuration at a time",
}


@pytest.mark.parametrize(
    "field", [Good(), Good(kernel_size=2), Good(Lattice((3, 2, 2))), Good(Lattice((5,)))]
)
def test_a_sound_field_passes_every_law(field):
    report = check_vector_field(field, field.lattice)
    assert report.ok, str(report)
    assert "all laws hold" in str(report)


@pytest.mark.parametrize(("kind", "law"), MISTAKES.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_a_mistake_is_found_and_named(kind, law):
    report = check_vector_field(kind())
    assert not report.ok
    assert law in {check.law for check in report.violations}
    assert f"FAIL  {law}" in str(report)
    assert "->" in str(report)  # and a remedy is offered


def test_the_violated_generators_are_named_and_the_kept_ones_pass():
    cases = {check.case: check.ok for check in check_vector_field(Preferred()).checks}
    assert not cases["rotation x -> (y, -x)"]
    assert cases["Z2 phi -> -phi"]
    assert check_vector_field(Preferred(), group=SymmetryGroup(LATTICE, "reflections")).violations == tuple(
        check for check in check_vector_field(Preferred()).violations if check.law != "equivariance"
    )


def test_a_zero_field_is_refused():
    with pytest.raises(AssertionError, match="randomise"):
        check_vector_field(OrbitConvField(LATTICE))


def test_another_lattice_is_refused():
    with pytest.raises(ValueError, match="lattice"):
        check_vector_field(Good(), Lattice((3, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 4), (2, 4), (6,)])
def test_a_trained_flow_keeps_every_law(dtype, shape):
    lattice = Lattice(shape)
    flow = EquivariantCNF(lattice, vector_field=OrbitConvField(lattice, n_frequencies=2)).to(dtype)
    fit(flow, Phi4(lattice, m2=-1.0, lam=2.0), steps=8, batch_size=16, warmup=2, progress=False)
    report = check_flow(flow)
    assert report.ok, str(report)


def test_a_discrete_flow_passes_at_rounding():
    flow = SymplecticFlow(Lattice((3, 3)))
    randomise(flow, scale=0.1)
    report = check_flow(flow, tolerance=1e-10)
    assert report.ok, str(report)


def test_a_flow_with_a_wrong_density_or_prior_is_found_out():
    class WrongScore(StandardNormal):
        def score(self, z):
            return z

    flow = EquivariantCNF(LATTICE, vector_field=WrongSign(), prior=WrongScore(LATTICE), solver=Solver())
    laws = {check.law for check in check_flow(flow).violations}
    assert {"log q = prior - dense slogdet", "prior score = grad log_prob"} <= laws


def test_the_example_shows_a_sound_field_and_finds_the_planted_mistakes(capsys, monkeypatch):
    monkeypatch.setattr("equiflow.fit", lambda flow, action, **options: randomise(flow, scale=0.01))
    path = Path(__file__).parents[2] / "examples" / "custom_field.py"
    monkeypatch.setattr("sys.argv", [path.name])
    runpy.run_path(str(path), run_name="__main__")
    out = capsys.readouterr().out
    assert "DiffusionField on (4, 4): all laws hold" in out
    assert "EquivariantCNF on (4, 4): all laws hold" in out
    mistaken = out.split("MistakenField")[1].split("EquivariantCNF")[0]
    assert "FAIL  divergence = dense trace" in mistaken
    assert "FAIL  equivariance" in mistaken


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        (Even, "equivariance: violated by only Z2; obeyed by translation, reflection, rotation."),
        (Preferred, "equivariance: violated by only reflection, rotation; obeyed by translation, Z2."),
        (Inhomogeneous, "equivariance: violated by only translation"),
    ],
)
def test_the_hint_says_which_symmetry_fails(kind, hint):
    hints = [line for line in str(check_vector_field(kind())).splitlines() if line.startswith("-> equi")]
    assert len(hints) == 1
    assert hint in hints[0]


def test_the_hint_of_a_flow_says_which_symmetry_fails():
    prior = StandardNormal(LATTICE, group=SymmetryGroup(LATTICE, z2=False))
    field = Good(group=SymmetryGroup(LATTICE, z2=False))
    flow = EquivariantCNF(LATTICE, vector_field=field, prior=prior).double()
    assert check_flow(flow).ok
    report = str(check_flow(flow, group=SymmetryGroup(LATTICE)))
    assert "-> log q invariant: violated by only Z2; obeyed by translation, reflection, rotation." in report


def test_a_group_that_random_elements_alone_violate_says_so():
    errors = {"Z2 phi -> -phi": 0.0, "random element 0: g": 1.0}
    (kept, broken) = checks_by_kind("law", errors, 0.5, "Look here.")
    assert (kept.ok, broken.ok) == (True, False)
    assert (
        broken.remedy
        == "law: violated by random elements of the group only, not by its generators. Look here."
    )
    (all_broken,) = checks_by_kind("law", {"Z2 phi -> -phi": math.nan}, 0.5, "Look here.")
    assert all_broken.remedy == "law: violated by all: Z2. Look here."
