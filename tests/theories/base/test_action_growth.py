"""An action without a density is told of where work begins, and no sound action is."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from equiflow import (
    HMC,
    MCLMC,
    Action,
    ActionFamily,
    ConditionalFlow,
    CoulombGas,
    EquivariantCNF,
    ExtendedAction,
    FreeScalar,
    IndependenceMetropolis,
    LatentHMC,
    Lattice,
    Particles,
    Phi4,
    Solver,
    annealed_importance_sample,
    fit,
    importance_sample,
)
from equiflow.theories.angles.space import Angles
from equiflow.theories.angles.xy import XYModel
from equiflow.theories.base.action import NoDensityWarning
from equiflow.theories.base.action_growth import directions, growth_along_rays
from equiflow.theories.multiplets.on_model import ONModel
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.scalar.external_field import ExternalField

LATTICE = Lattice((4, 4))


class Of(Action):
    """The action that a function gives."""

    def __init__(self, function, space=LATTICE):
        super().__init__(space)
        self.function = function

    def forward(self, phi):
        return self.function(phi).flatten(1).sum(1)


class Wall(Action):
    """Flat between two hard walls."""

    def forward(self, phi):
        return torch.where(phi.abs().flatten(1).amax(1) < 1.0, 0.0 * phi.flatten(1).sum(1), math.inf)


def kinetic(phi):
    return sum((phi - phi.roll(1, axis)).square() for axis in (1, 2))


def expanded(phi):
    """The same up to rounding: large terms cancel for uniform fields."""
    return 4 * phi.square() - 2 * sum(phi * phi.roll(1, axis) for axis in (1, 2))


class Rough(Action):
    """`sum ln cosh`, which overflows for fields that are right."""

    def forward(self, phi):
        return (phi.square() - phi.cosh().log()).sum((1, 2))


class Untrapped(CoulombGas):
    def forward(self, x):
        return super().forward(x) - 0.5 * self.beta * x.square().sum((1, 2))


SOUND = {
    "phi^4": Phi4(LATTICE, m2=-4.0, lam=6.0),
    "a broken phase whose minimum is far": Phi4(LATTICE, m2=-4.0, lam=1e-12),
    "a stiff action": Phi4(LATTICE, m2=1e9, lam=1e8),
    "a light free field": FreeScalar(Lattice((8, 8)), m2=1e-10),
    "an external field": ExternalField(FreeScalar(LATTICE, m2=1e-3), h=1e3),
    "field and momentum": ExtendedAction(Phi4(LATTICE, m2=-4.0, lam=6.0)),
    "O(3)": ONModel(Multiplet(LATTICE, 3), m2=-1.0, lam=0.5),
    "XY": XYModel(Angles(LATTICE), beta=-0.7),
    "charges in a trap": CoulombGas(Particles(5, 2), beta=0.01),
    "hard walls": Wall(LATTICE),
    "Student's t": Of(lambda phi: 3 * (1 + phi**2).log()),
    "Cauchy": Of(lambda phi: (1 + phi**2).log()),
    "Cauchy and a stiff kinetic term": Of(lambda phi: kinetic(phi).square() + 1.5 * (1 + phi**2).log()),
    "exponential tails": Of(torch.abs),
    "an exponential of the field": Of(lambda phi: phi.cosh()),
    "cosines and a light mass": Of(lambda phi: kinetic(phi) + 1e-3 * phi**2 + 5 * phi.cos()),
    "cosines and Student's t": Of(lambda phi: 3 * (1 + phi**2).log() + 10 * phi.cos()),
    "overflow to inf - inf": Of(lambda phi: phi.exp() + (-phi).exp() - phi.cosh()),
    "a logarithm that overflows": Rough(LATTICE),
    "NaN for large fields": Of(lambda phi: phi**2 + (50 - phi.abs()).sqrt()),
}
UNSOUND = {
    "zero": (Of(lambda phi: 0 * phi), "S stays flat"),
    "a constant": (Of(lambda phi: 0 * phi + 1e6), "S stays flat"),
    "massless": (Of(kinetic), "along uniform fields S stays flat"),
    "massless, with large terms that cancel": (Of(expanded), "along uniform fields S stays flat"),
    "massless, quartic": (Of(lambda phi: kinetic(phi).square()), "along uniform fields S stays flat"),
    "angles as real numbers": (Of(lambda phi: -(phi - phi.roll(1, 1)).cos()), "Angles"),
    "sine-Gordon": (Of(lambda phi: kinetic(phi) + phi.cos()), "along .* S stays flat"),
    "sine-Gordon, steep": (Of(lambda phi: kinetic(phi) - 1e3 * phi.cos()), "along .* S stays flat"),
    "slow cosines": (Of(lambda phi: kinetic(phi) + 50 * (0.01 * phi).cos()), "along .* S stays flat"),
    "fast cosines": (Of(lambda phi: kinetic(phi) + 50 * (37 * phi).cos()), "along .* S stays flat"),
    "bounded": (Of(lambda phi: phi**2 / (1 + phi**2)), "S stays flat"),
    "rises too slowly": (Of(lambda phi: 0.02 * (1 + phi**2).log()), "slower than the logarithm"),
    "only one site": (Of(lambda phi: phi[:, :1, :1] ** 2), "one large number, the last"),
    "charges without a trap": (Untrapped(Particles(3, 2), beta=1.0), "S stays flat"),
    "massless, with momenta": (ExtendedAction(Of(kinetic)), "first component alone is uniform S stays flat"),
    "one component without a mass": (
        Of(
            lambda phi: (phi - phi.roll(1, -1)).square() + (phi * torch.tensor([[0.0], [1.0], [1.0]])) ** 2,
            Multiplet(Lattice((4,)), 3),
        ),
        "first component alone is uniform S stays flat",
    ),
    "the wrong sign": (Of(lambda phi: phi**2 - 0.01 * phi**4), "falls without bound along"),
    "a wrong kinetic sign": (Of(lambda phi: phi**2 - kinetic(phi)), "along fields of alternating signs"),
    "a cubic term": (Of(lambda phi: phi**2 + phi**3), "falls without bound along"),
    "linear": (Of(lambda phi: kinetic(phi) + phi), "falls without bound along uniform fields"),
    "exp(+S)": (Of(lambda phi: -(phi**2)), "falls without bound"),
}


@pytest.mark.parametrize("action", SOUND.values(), ids=list(SOUND))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sound_action_passes_without_a_word(action, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        action.to(dtype).check_density()


@pytest.mark.parametrize(("action", "words"), UNSOUND.values(), ids=list(UNSOUND))
def test_an_action_without_a_density_is_named_with_the_direction(action, words):
    if "falls" in words or "alternating" in words:
        for _ in range(2):
            with pytest.raises(ValueError, match=words):
                action.check_density()
    else:
        with pytest.warns(NoDensityWarning, match=words):
            action.check_density()
        action.check_density()  # once for each action


def zero():
    return Of(lambda phi: 0 * phi)


def falling():
    return Of(lambda phi: phi**2 - 0.01 * phi**4)


def flow():
    return EquivariantCNF(LATTICE, solver=Solver("euler", steps=1)).double()


BEGINNINGS = {
    "HMC": lambda action: HMC(action, step_size=0.1).sample(1, n_chains=2, n_thermalisation=0),
    "MCLMC": lambda action: MCLMC(action, step_size=0.1).sample(1, n_chains=2, n_thermalisation=0),
    "importance sampling": lambda action: importance_sample(flow(), action, 2),
    "annealing": lambda action: annealed_importance_sample(flow(), action, 2, betas=2),
    "independent proposals": lambda action: IndependenceMetropolis(flow(), action).sample(2, certify=0),
    "latent HMC": lambda action: LatentHMC(flow(), action, step_size=0.1).sample(
        1, n_chains=2, n_thermalisation=0, certify=0
    ),
    "fit": lambda action: fit(flow(), action, steps=1, batch_size=2, progress=False),
}


@pytest.mark.parametrize("begin", BEGINNINGS.values(), ids=list(BEGINNINGS))
def test_where_work_begins_the_warning_names_the_line_of_the_caller(begin):
    with pytest.warns(NoDensityWarning, match="no finite integral") as caught:
        begin(zero())
    told = [one for one in caught if one.category is NoDensityWarning]
    assert [one.filename for one in told] == [__file__]
    with pytest.raises(ValueError, match=r"falls without bound along .* so exp"):
        begin(falling())
    begin(Of(lambda phi: phi**4))


def test_a_family_of_actions_is_followed_amid_its_couplings():
    class Massless(Phi4):
        def forward(self, phi):
            return self.lam * kinetic(phi).sum((1, 2))

        grad = Action.grad

    family = ActionFamily(Massless, LATTICE, m2=-4.0, lam=(4.0, 6.0))
    conditional = ConditionalFlow(flow(), {"lam": (4.0, 6.0)})
    with pytest.warns(NoDensityWarning, match="Massless"):
        fit(conditional, family, steps=1, batch_size=4, progress=False)


def test_a_check_draws_nothing_from_the_global_generator():
    class Draws(Phi4):
        def initial(self, n, generator=None, **options):
            return torch.randn(n, 4, 4, dtype=torch.float64)

    before = torch.get_rng_state()
    Draws(LATTICE, m2=1.0, lam=1.0).check_density()
    assert torch.equal(torch.get_rng_state(), before)


def test_an_action_that_cannot_be_followed_is_left_to_its_first_call():
    def fails(phi):
        raise RuntimeError("only small fields")

    Of(fails).check_density()


def test_many_rays_of_a_large_lattice_are_followed_in_parts(monkeypatch):
    sizes = []

    def forward(phi):
        sizes.append(len(phi))
        return kinetic(phi).sum((1, 2))

    base = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = growth_along_rays(forward, LATTICE, base)
    monkeypatch.setattr("equiflow.theories.base.action_growth.NUMBERS_AT_ONCE", 50)
    assert growth_along_rays(forward, LATTICE, base) == whole
    assert {*sizes} == {2 * len(directions(LATTICE)), 3, 1}
