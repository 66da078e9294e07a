"""`measure` where phi -> -phi is no symmetry: free fields in an external field, whose averages are exact.

With `S = S_0 - h sum_x phi_x` and a free `S_0`, `<phi> = h / (2 m2)`, and what is connected is as for h = 0.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equiflow import (
    Action,
    Angles,
    Chain,
    Ensemble,
    FreeScalar,
    Lattice,
    Multiplet,
    Phi4,
    XYModel,
    measure,
)
from equiflow.analysis.sign import is_even
from equiflow.statistics import jackknife_estimate
from equiflow.theories.scalar.external_field import ExternalField
from tests.support.free_field import as_chain, as_ensemble, free_correlator, free_truth
from tests.support.oracles import free_samples
from tests.support.strategies import configurations

LATTICE = Lattice((8, 8))
FREE = FreeScalar(LATTICE, m2=0.6)
H = 1.8
TILTED = ExternalField(FREE, h=H)
#: what knows nothing of h
CONNECTED = ("connected_susceptibility", "correlation_length", "pole_mass", "mass_times_length", "binder")


def weighted(n: int, seed: int = 0) -> Ensemble:
    """Return samples of a heavier free field with a smaller mean, and their weights for `TILTED`."""
    heavy = FreeScalar(LATTICE, m2=0.65)
    noise = free_samples(heavy, n, seed=seed)
    phi = noise + 0.97 * H / (2 * FREE.m2)
    return as_ensemble(phi, heavy(noise) - TILTED(phi))


def autoregressive(n: int, seed: int = 0) -> Chain:
    """Return a chain of `TILTED` in which neighbours have a correlation of 0.5, so that tau_int = 1.5."""
    noise = free_samples(FREE, n, seed=seed).unflatten(0, (-1, 50))
    steps = [noise[0]]
    for one in noise[1:]:
        steps.append(0.5 * steps[-1] + math.sqrt(0.75) * one)
    return Chain(torch.stack(steps) + H / (2 * FREE.m2), torch.ones(len(noise), 50))


SOURCES = {"ensemble": weighted, "chain": autoregressive}


@pytest.mark.parametrize("source", SOURCES)
def test_connected_quantities_in_an_external_field_are_those_of_the_free_field(source):
    measured = measure(SOURCES[source](20_000), action=TILTED)
    truth = free_truth(FREE) | {"magnetisation": H / 1.2, "connected_susceptibility": 1 / 1.2}
    assert not measured.z2
    for name in ("magnetisation", "structure_factor", *CONNECTED):
        found = measured[name]
        assert abs(found.sigmas_from(truth[name])) < 4, name
        assert 0 < found.error < 0.1 * (1 + abs(truth[name])), name
    exact = free_correlator(8, FREE.m2).tolist()
    for found, value in zip(measured.connected_correlator, exact, strict=True):
        assert abs(found.sigmas_from(value)) < 4
    total = sum(found.mean for found in measured.connected_correlator)
    assert total == pytest.approx(measured.connected_susceptibility.mean, rel=1e-9)
    assert measured.decaying_correlator == measured.connected_correlator
    assert abs(measured.effective_mass[0].sigmas_from(truth["pole_mass"])) < 4
    assert str(measured.component_means[0]) == str(measured.moments[0]) == str(measured.magnetisation)
    if source == "chain":
        assert abs(measured.magnetisation.tau_int - 1.5) < 0.2


@pytest.mark.parametrize("source", SOURCES)
def test_the_correlator_with_its_constant_part_has_other_masses_and_the_table_says_so(source):
    samples = SOURCES[source](5000)
    wrong, truth = measure(samples, action=TILTED, z2=True), free_truth(FREE)
    assert wrong.z2
    for name in ("correlation_length", "pole_mass", "binder"):
        # A correlator that does not decay has perhaps no mass at all.
        assert not abs(wrong[name].sigmas_from(truth[name])) < 20, name
    assert "z2=False" in wrong.correlation_length.note
    assert "z2=False" in str(measure(samples))  # nothing tells of h
    right = measure(samples, z2=False)
    assert "z2=False" not in str(right)
    assert "<M> is subtracted" in str(right)
    for name in CONNECTED:
        assert right[name] == measure(samples, action=TILTED)[name]
    # The error of the whole is mostly that of <M>^2.
    assert right.susceptibility.error > 3 * right.connected_susceptibility.error


def test_errors_contain_that_of_the_mean_that_is_subtracted():
    phi = free_samples(FREE, 2000) + H
    measured = measure(as_ensemble(phi), z2=False)
    volume, m = LATTICE.volume, phi.mean((1, 2))
    slices = phi.sum(2)
    first = (slices * slices.roll(1, 1)).sum(1) / volume

    def connected(averages: Tensor) -> Tensor:
        return averages[0] - 8 * averages[1].square()

    # The second axis is as long as the first, so that `measure` averages over both.
    across = (phi.sum(1) * phi.sum(1).roll(1, 1)).sum(1) / volume
    expected = jackknife_estimate(connected, torch.stack([(first + across) / 2, m], 1), n_blocks=500)
    found = measured.connected_correlator[1]
    assert found.mean == pytest.approx(expected.mean, abs=0.1 * expected.error)
    assert found.error == pytest.approx(expected.error, rel=0.15)


def test_errors_of_connected_quantities_are_their_scatter():
    action = FreeScalar(Lattice((4, 4)), m2=1.0)
    runs = [measure(as_ensemble(free_samples(action, 400, seed=s) + 3.0), z2=False) for s in range(50)]
    for name in ("magnetisation", "connected_susceptibility", "correlation_length", "pole_mass"):
        scatter = torch.tensor([run[name].mean for run in runs]).std()
        claimed = torch.tensor([run[name].error for run in runs]).mean()
        # The scatter of 50 values is known to 10 %.
        assert float(claimed / scatter) == pytest.approx(1, abs=0.4), name


@pytest.mark.parametrize("n_components", [1, 3])
def test_the_cumulant_without_z2_is_that_of_the_fluctuations(n_components):
    space = Multiplet(Lattice((3, 3)), n_components)
    mean = torch.linspace(0.4, 1.2, n_components)[:, None, None]
    phi = (configurations(space, 300) + mean).exp()  # skewed
    m = phi.mean((2, 3))
    square = (m - m.mean(0)).square().sum(1)
    measured = measure(as_chain(phi), space=space, z2=False)
    assert measured.binder.mean == pytest.approx(
        float(1 - square.square().mean() / (3 * square.mean() ** 2)), rel=1e-7
    )
    assert measured.connected_susceptibility.mean == pytest.approx(9 * float(square.mean()), rel=1e-9)
    found = [one.mean for one in measured.component_means]
    assert found == pytest.approx(m.mean(0).tolist(), rel=1e-9)


class Walled(Action):
    """A quartic action that is infinite for a negative magnetisation."""

    def forward(self, phi: Tensor) -> Tensor:
        value = (phi**4).sum((1, 2))
        return torch.where(phi.mean((1, 2)) < 0, torch.full_like(value, math.inf), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("action", "even"),
    [
        (Phi4(LATTICE, m2=-4.0, lam=5.0), True),
        (ExternalField(FREE, h=0.0), True),
        (ExternalField(FREE, h=0.01), False),
        (Walled(LATTICE), False),
    ],
)
def test_an_action_is_asked_whether_it_is_even(action, even, dtype):
    phi = configurations(LATTICE, 80).to(dtype)
    assert is_even(action, phi) == even
    phi[:3] = math.nan
    assert is_even(action.__class__.forward.__get__(action), phi) == even


def test_angles_have_no_sign():
    angles = Angles(Lattice((4, 4)))
    chain = Chain(torch.zeros(20, 2, 4, 4), torch.ones(20, 2), space=angles)
    with pytest.raises(TypeError, match="z2 is for"):
        measure(chain, action=XYModel(angles, beta=0.5), z2=False)
    with pytest.raises(TypeError, match="z2"):
        measure(autoregressive(500), z2="no")
