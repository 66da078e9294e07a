"""Presets agree with their sources; their phases agree with the Binder cumulant of a Markov chain."""

from __future__ import annotations

import pytest
import torch

from equiflow import HMC, Estimate, measure
from equiflow.analysis import Measurements
from equiflow.theories.scalar import presets

#: arXiv:1904.12072, all at m2 = -4
ALBERGO = {"E1": (6, 6.975), "E2": (8, 6.008), "E3": (10, 5.550), "E4": (12, 5.276), "E5": (14, 5.113)}
#: arXiv:2207.00283 beyond those, all at m2 = -4
GERDES = {"L6": (6, 6.975), "L12": (12, 5.276), "L20": (20, 4.807), "L32": (32, 4.572), "L64": (64, 4.398)}

every = pytest.mark.parametrize("name", presets.names())


@pytest.mark.parametrize(
    ("name", "side", "lam"),
    [(f"albergo-{n}", *v) for n, v in ALBERGO.items()] + [(f"gerdes-{n}", *v) for n, v in GERDES.items()],
)
def test_the_series_of_constant_mass_times_length(name, side, lam):
    preset = presets.get(name)
    assert preset.lattice.shape == (side, side)
    assert (preset.m2, preset.lam) == (-4.0, lam)
    assert name[0] == preset.name[0]
    assert preset.source.startswith("arXiv:1904.12072" if name.startswith("albergo") else "arXiv:2207.00283")


@every
def test_a_preset_holds_together(name):
    preset = presets.get(name)
    assert preset.name == name
    assert preset.action.lattice == preset.lattice
    assert (preset.action.m2, preset.action.lam) == (preset.m2, preset.lam)
    assert preset.phase in ("symmetric", "near critical", "broken")
    assert preset.description
    assert preset.source
    for figure in preset.published:
        assert preset.figure(figure.quantity) == figure
        assert figure.source
        assert str(figure.value) in str(preset) or f"{figure.value:g}" in str(preset)
    with pytest.raises(ValueError, match=f"No published 'nothing' is known for {name}; known: "):
        preset.figure("nothing")


def test_published_observables_are_named_as_they_are_measured():
    measured = set(Measurements.__dataclass_fields__) | {"acceptance_rate", "effective_sample_size"}
    assert {f.quantity for name in presets.names() for f in presets.get(name).published} <= measured


def test_figures_are_compared_in_combined_errors():
    figure = presets.Published("phi_squared", 1.0, 0.3, "somewhere")
    assert figure.sigmas_from(Estimate(2.0, 0.4)) == pytest.approx(2.0)
    assert presets.Published("phi_squared", 1.0, None, "").sigmas_from(Estimate(2.0, 0.4)) == 2.5


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("albergo-e1", "albergo-E1"),
        ("E5", "albergo-E5"),
        ("albergo_E3", "albergo-E3"),
        ("gerdes-L23", "gerdes-L32"),
        ("gomalizing-3d", "gomalizing-3d-L8-lam8"),
        ("4d", "gomalizing-4d-L4-lam5.113"),
        ("nothing like it", "albergo-E1, albergo-E2"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=f"There is no preset '{wrong}'.*{near}"):
        presets.get(wrong)


def phase(name: str, **couplings: float) -> str:
    """Return the phase by the Binder cumulant of a chain: 2/3 broken, 0.47 critical in 3D, 0 symmetric."""
    preset = presets.get(name)
    action = type(preset.action)(preset.lattice, **{"m2": preset.m2, "lam": preset.lam} | couplings)
    generator = torch.Generator().manual_seed(0)
    chain = HMC(action).sample(40, n_chains=24, n_thermalisation=80, generator=generator, dtype=torch.float32)
    binder = measure(chain).binder.mean
    return "broken" if binder > 0.6 else "near critical" if binder > 0.2 else "symmetric"


@pytest.mark.parametrize(
    "name", [n for n in presets.names() if n[11:13] == "3d" or n.endswith("4d-L4-lam5.113")]
)
def test_phases_are_those_of_the_theory_and_not_of_a_label(name):
    assert phase(name) == presets.get(name).phase


def test_another_coupling_has_another_phase():
    assert phase("gomalizing-3d-L4-lam5.113", lam=20.0) == "symmetric"
