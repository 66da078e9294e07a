"""The Ising model as a theory of a field: it is the sum over spins, and its integral is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow import ContinuousIsing, ExternalField, Lattice, SymmetryGroup
from equiflow.oracles import ising_torus
from equiflow.testing import check_action
from equiflow.theories import kinds
from tests.support.ising import couplings, enumerated, spins
from tests.support.strategies import configurations, lattices, seeds

temperatures = st.floats(0.8, 6.0)


@given(lattices(max_volume=10), temperatures, seeds)
def test_the_action_is_the_sum_over_spins(lattice, temperature, seed):
    phi = 2 * configurations(lattice, seed=seed)
    s = spins(lattice.shape).flatten(1)
    k = couplings(lattice.shape, temperature)
    flat = phi.flatten(1)
    gaussian = 0.5 * (flat @ torch.linalg.inv(k) * flat).sum(1)
    log_weight = (flat @ s.mT).logsumexp(1) - lattice.volume * math.log(2) - gaussian
    action = ContinuousIsing(lattice, temperature)
    torch.testing.assert_close(action(phi), -log_weight, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("shape", "temperature"), [((1, 1), 3.0), ((1, 2), 3.0), ((3,), 2.5), ((2, 2), 8.0)])
def test_quadrature_gives_the_exact_partition_function_and_neighbours(shape, temperature):
    action = ContinuousIsing(Lattice(shape), temperature)
    n_points = {1: 161, 2: 121, 3: 81, 4: 37}[math.prod(shape)]
    # The field is K s + noise of covariance K; the trapezoid rule converges exponentially.
    k = couplings(shape, temperature)
    reach = float(k.sum(0).max()) + 6 * float(k[0, 0].sqrt())
    line = torch.linspace(-reach, reach, n_points)
    phi = torch.cartesian_prod(*[line] * math.prod(shape)).reshape(-1, *shape)
    log_weight = -action(phi)
    log_z = float(log_weight.logsumexp(0)) + math.prod(shape) * math.log(line[1] - line[0])
    log_z_spins, nearest_neighbour = enumerated(shape, temperature)
    assert log_z == pytest.approx(log_z_spins + action.log_z_of_field(), abs=1e-6)
    if len(shape) == 2:
        assert log_z == pytest.approx(ising_torus(action).log_z, abs=1e-6)
    if min(shape) > 1:
        spin, axes = phi.tanh(), range(1, phi.dim())
        links = torch.stack([(spin * spin.roll(-1, axis)).flatten(1).mean(1) for axis in axes]).mean(0)
        mean = float((log_weight.softmax(0) * links).sum())
        assert mean == pytest.approx(nearest_neighbour, abs=1e-6)


@pytest.mark.parametrize("shape", [(5,), (2, 2), (3, 4), (1, 4), (2, 3, 2)])
def test_every_law_of_an_action_holds(shape):
    report = check_action(ContinuousIsing(Lattice(shape), 2.3))
    assert report.ok, str(report)


def test_the_smallest_eigenvalue_is_a_tenth_on_sides_of_any_parity():
    for shape in ((3,), (4,), (3, 4), (2, 5), (1, 3)):
        action = ContinuousIsing(Lattice(shape), 1.3)
        dense = torch.linalg.eigvalsh(couplings(shape, 1.3))
        torch.testing.assert_close(action.eigenvalues().flatten().sort().values, dense)
        assert float(dense[0]) == pytest.approx(0.1)


def test_the_derivative_in_the_temperature():
    lattice, step = Lattice((3, 4)), 1e-5
    phi = 3 * configurations(lattice)
    high, low = (ContinuousIsing(lattice, 2.0 + sign * step)(phi) for sign in (1, -1))
    action = ContinuousIsing(lattice, 2.0)
    torch.testing.assert_close(
        action.coupling_grad(phi, "T"), (high - low) / (2 * step), rtol=1e-7, atol=1e-7
    )
    with pytest.raises(ValueError, match="coupling T, not 'beta'"):
        action.coupling_grad(phi, "beta")


def test_large_fields_do_not_overflow():
    action = ContinuousIsing(Lattice((4, 4)), 2.0).float()
    phi = torch.full((1, 4, 4), 1e4, dtype=torch.float32)
    assert bool(action(phi).isfinite().all())
    assert bool(action.grad(phi).isfinite().all())


def test_an_external_field_breaks_the_sign():
    lattice = Lattice((3, 3))
    action = ContinuousIsing(lattice, 2.0)
    assert max(action.asymmetry(SymmetryGroup(lattice)).values()) < 1e-12
    broken = ExternalField(action, h=0.3).asymmetry(SymmetryGroup(lattice))
    assert {name for name, change in broken.items() if change > 1e-3} == {"Z2 phi -> -phi"}


def test_it_is_registered_and_says_what_it_is():
    assert kinds.KINDS[0].actions["ising"] is ContinuousIsing
    assert repr(ContinuousIsing(Lattice((2, 2)), 2)) == "ContinuousIsing(shape=(2, 2), T=2.0)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ContinuousIsing((4, 4), 2.0), TypeError, "Lattice"),
        (lambda: ContinuousIsing(Lattice((4, 4)), "critical"), TypeError, "T must be"),
        (lambda: ContinuousIsing(Lattice((4, 4)), 0.0), ValueError, "T"),
        (lambda: ContinuousIsing(Lattice((4, 4)), math.inf), ValueError, "T"),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
