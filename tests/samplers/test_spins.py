"""Clusters of the spins behind a field leave the action invariant, against enumeration."""

from __future__ import annotations

import pytest
import torch

from equiflow import ContinuousIsing, Lattice, Phi4
from equiflow.oracles import ising_torus
from equiflow.samplers.spins import SpinClusters
from equiflow.theories.scalar.ising import CRITICAL_TEMPERATURE
from equiflow.theories.scalar.observables import nearest_neighbour, susceptibility
from tests.support.ising import couplings, enumerated, spins


def neighbours(phi):
    """Return the mean of `tanh phi_x tanh phi_{x+mu}`, which is that of the spins."""
    return nearest_neighbour(phi.tanh())


def chain(shape, temperature, n=400):
    kernel = SpinClusters(ContinuousIsing(Lattice(shape), temperature))
    return kernel.sample(n, n_chains=32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("shape", "temperature"), [((3, 3), 2.0), ((2, 3), 3.0), ((5,), 1.5)])
def test_chains_have_the_correlations_of_the_enumeration(shape, temperature):
    found = chain(shape, temperature)
    exact = enumerated(shape, temperature)[1]
    ours = found.mean(neighbours)
    assert ours.error < 0.01
    assert abs(ours.mean - exact) < 4 * ours.error
    # The field is K s + noise of covariance K, so that uniform modes have K(0) + K(0)^2 <M^2> / V.
    s, k0 = spins(shape).flatten(1), float(couplings(shape, temperature)[0].sum())
    links = torch.stack(
        [(spins(shape) * spins(shape).roll(-1, a)).flatten(1).sum(1) for a in range(1, len(shape) + 1)]
    )
    weight = (links.sum(0) / temperature).softmax(0)
    expected = k0 + k0**2 * float((weight * s.sum(1).square()).sum()) / s.shape[1]
    ours = found.mean(susceptibility)
    assert abs(ours.mean - expected) < 4 * ours.error


def test_chains_at_the_critical_point_move_and_agree_with_kaufman():
    found = chain((8, 8), CRITICAL_TEMPERATURE, n=200)
    ours = found.mean(neighbours)
    exact = ising_torus(ContinuousIsing(Lattice((8, 8)), CRITICAL_TEMPERATURE)).nearest_neighbour
    assert abs(ours.mean - exact) < 4 * ours.error
    assert ours.error < 0.005
    assert found.mean(susceptibility).tau_int < 10


def test_another_temperature_is_told_apart():
    ours = chain((3, 3), 2.2).mean(neighbours)
    assert abs(ours.mean - enumerated((3, 3), 2.0)[1]) > 6 * ours.error


def test_spins_and_fields_have_their_conditional_means():
    action, generator = ContinuousIsing(Lattice((2, 3)), 2.0), torch.Generator().manual_seed(1)
    phi = torch.randn(1, 2, 3, generator=generator).expand(20_000, -1, -1)
    drawn = action.spins(phi, generator)
    assert bool((drawn.abs() == 1).all())
    assert float((drawn.mean(0) - phi[0].tanh()).abs().max()) < 5 / 20_000**0.5
    s = spins((2, 3))[5:6].expand(20_000, -1, -1)
    noise = action.fields(s, generator).flatten(1) - s.flatten(1) @ couplings((2, 3), 2.0)
    k = couplings((2, 3), 2.0)
    assert float(noise.mean(0).abs().max()) < 5 * (float(k[0, 0]) / 20_000) ** 0.5
    assert float((noise.T.cov() - k).abs().max()) < 5 * 1.5 * float(k[0, 0]) / 20_000**0.5


def test_other_actions_are_refused():
    with pytest.raises(TypeError, match="ContinuousIsing"):
        SpinClusters(Phi4(Lattice((4, 4)), m2=-4.0, lam=6.0))
