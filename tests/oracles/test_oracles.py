"""Quadrature, transfer matrix and closed forms agree, and their errors bound the truth."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from equiflow.oracles import Exact, free_field, free_two_point, quadrature, transfer_matrix
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar.phi4 import FreeScalar, Phi4

couplings = st.tuples(st.floats(-4, 4), st.floats(0.1, 10))
masses = st.floats(0.5, 4)
few = settings(max_examples=5)


class DoubledLink(Phi4):
    """Counts one link of the lattice twice."""

    def forward(self, phi):
        return super().forward(phi) + (phi.flatten(1)[:, 0] - phi.flatten(1)[:, 1]).square()


class HalfKinetic(Phi4):
    """The kinetic term with the factor 1/2 of other conventions."""

    def forward(self, phi):
        links = sum((phi.roll(-1, mu) - phi).square() for mu in self.lattice.axes)
        return super().forward(phi) - 0.5 * links.sum(self.lattice.axes)


def phi4(shape: tuple[int, ...], m2: float, lam: float) -> Phi4:
    return Phi4(Lattice(shape), m2=m2, lam=lam)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2,), (3,), (7,), (64,), (2, 2), (5, 2), (2, 1, 2)])
@few
@given(m2=masses)
def test_transfer_matrix_solves_the_free_field(shape, m2):
    action = FreeScalar(Lattice(shape), m2=m2)
    assert free_field(action).distance(transfer_matrix(action)) < 1e-8


def test_transfer_matrix_solves_a_wider_free_strip():
    for shape in [(3, 3), (4, 3), (3, 1, 5)]:
        action = FreeScalar(Lattice(shape), m2=1.5)
        assert free_field(action).distance(transfer_matrix(action)) < 1e-8


@given(couplings)
def test_one_site_is_an_integral(couplings):
    m2, lam = couplings
    shift = m2**2 / (4 * lam) if m2 < 0 else 0.0

    def moment(power: int) -> float:
        weight = lambda x: x**power * math.exp(-m2 * x**2 - lam * x**4 - shift)  # noqa: E731
        return 2 * quad(weight, 0, 8, epsabs=0, epsrel=1e-12, limit=200, points=[0.5, 1, 2, 4])[0]

    expected = (math.log(moment(0)) + shift, moment(2) / moment(0), moment(4) / moment(0))
    action = phi4((1,), m2, lam)
    for exact in (quadrature(action), transfer_matrix(action)):
        assert (exact.log_z, exact.phi_squared, exact.phi_fourth) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2,), (1, 2), (3,), (3, 1), (1, 3, 1)])
@few
@given(couplings=couplings)
def test_transfer_matrix_is_the_direct_integral(shape, couplings):
    action = phi4(shape, *couplings)
    assert quadrature(action).distance(transfer_matrix(action)) < 1e-9


@pytest.mark.parametrize("length", [2, 5])
@given(couplings=couplings)
def test_a_strip_of_width_one_is_the_chain(length, couplings):
    chain = transfer_matrix(phi4((length,), *couplings))
    for shape in [(length, 1), (1, length)]:
        strip = transfer_matrix(phi4(shape, *couplings))
        assert strip.log_z == pytest.approx(chain.log_z, abs=1e-8)
        assert sum(strip.nearest_neighbour) == pytest.approx(chain.nearest_neighbour[0] + chain.phi_squared)


@pytest.mark.parametrize(
    ("shape", "couplings"),
    [*itertools.product([(2, 2), (2, 3), (2, 6), (3, 3)], [(-3.5, 0.9), (0.8, 3.0)]), ((3, 4), (-1.0, 1.5))],
)
def test_a_transposed_strip_is_the_same_theory(shape, couplings):
    # On a square, one direction has the links inside a slice, the other the links between slices.
    exact = transfer_matrix(phi4(shape, *couplings))
    if shape[0] == shape[1]:
        assert exact.nearest_neighbour[0] == pytest.approx(exact.nearest_neighbour[1], abs=1e-7)
    else:
        other = transfer_matrix(phi4(shape[::-1], *couplings))
        assert exact.nearest_neighbour == pytest.approx(other.nearest_neighbour[::-1], abs=1e-12)
    assert exact.error < 1e-6


@given(st.sampled_from([(1,), (4,), (2, 3), (2, 2)]), couplings)
def test_couplings_generate_the_moments(shape, couplings):
    # d log Z / d m2 = -V <phi^2>, d log Z / d lam = -V <phi^4>.
    m2, lam = couplings
    volume, step = math.prod(shape), 1e-3
    exact = transfer_matrix(phi4(shape, m2, lam))
    for value, (a, b) in [(exact.phi_squared, (step, 0)), (exact.phi_fourth, (0, step))]:
        up, down = (transfer_matrix(phi4(shape, m2 + s * a, lam + s * b)).log_z for s in (1, -1))
        slope = (down - up) / (2 * step * volume)
        assert slope == pytest.approx(value, rel=2e-3)


@given(st.sampled_from([(3,), (6,), (2, 2), (4, 2)]), couplings)
def test_schwinger_dyson_equation_holds(shape, couplings):
    # <phi_x dS/dphi_x> = 1 connects the links, the mass and the quartic term.
    m2, lam = couplings
    exact = transfer_matrix(phi4(shape, m2, lam))
    kinetic = sum(4 * (exact.phi_squared - nn) for nn in exact.nearest_neighbour)
    terms = kinetic + 2 * m2 * exact.phi_squared + 4 * lam * exact.phi_fourth
    assert terms == pytest.approx(1.0, abs=1e-7)


def test_a_long_chain_does_not_leave_floating_point():
    # Both sectors of a broken chain have the same free energy, so each Z is twice the Z of one sector.
    one, two = (transfer_matrix(phi4((n,), -4.0, 0.2)) for n in (1000, 2000))
    assert one.log_z > 10_000
    assert 2 * one.log_z - two.log_z == pytest.approx(math.log(2), abs=1e-6)


def test_unaffordable_or_coarse_solutions_are_refused():
    with pytest.raises(ValueError, match="at most 3"):
        transfer_matrix(phi4((4, 4), 1.0, 1.0))
    with pytest.raises(ValueError, match="at most 3 sites"):
        quadrature(phi4((2, 2), 1.0, 1.0))
    with pytest.raises(RuntimeError, match="not converged"):
        transfer_matrix(phi4((3,), -4.0, 1.0), tolerance=1e-18)
    with pytest.raises(RuntimeError, match="not converged"):
        free_field(FreeScalar(Lattice((2,)), m2=1.0)).checked_against(
            Exact(math.nan, 0.0, 0.0, (0.0,), (0.0, 0.0)), 1.0
        )
    with pytest.raises(ValueError, match="one lattice"):
        transfer_matrix(phi4((3,), 1.0, 1.0)).distance(transfer_matrix(phi4((4,), 1.0, 1.0)))


@pytest.mark.parametrize("m2", [-4.0, 1.0])
def test_error_shrinks_with_the_grid_and_bounds_the_truth(m2, monkeypatch):
    action = phi4((2, 3), m2, 2.0)
    best = transfer_matrix(action)
    errors = []
    for factor in (2.4, 1.9, 1.5):
        monkeypatch.setattr("equiflow.oracles.transfer.spacing", lambda action, f=factor: f * 0.09)
        rough = transfer_matrix(action, tolerance=math.inf)
        errors.append(rough.error)
        assert rough.distance(best) <= 1.5 * rough.error + 1e-11
    assert errors == sorted(errors, reverse=True)


def test_error_sees_a_basis_that_is_too_small(monkeypatch):
    action = FreeScalar(Lattice((3, 3)), m2=1.5)
    for most, worst in [(60, math.inf), (400, 1e-3)]:
        monkeypatch.setattr("equiflow.oracles.transfer.MAX_STATES", most)
        rough = transfer_matrix(action, tolerance=math.inf)
        assert rough.error < worst
        assert 1e-12 < rough.distance(free_field(action)) <= rough.error


@pytest.mark.parametrize("wrong", [DoubledLink, HalfKinetic])
@pytest.mark.parametrize("shape", [(2,), (3,), (1, 3)])
def test_a_wrong_factor_in_the_action_is_seen(wrong, shape):
    action = wrong(Lattice(shape), m2=-1.0, lam=1.0)
    assert quadrature(action).distance(transfer_matrix(action)) > 1e-2


def test_dtype_default_does_not_matter():
    action = phi4((2, 1), -1.0, 1.0)
    expected = quadrature(action), transfer_matrix(action)
    torch.set_default_dtype(torch.float32)
    try:
        assert (quadrature(action), transfer_matrix(action)) == expected
        assert free_two_point(FreeScalar(Lattice((3,)), m2=1.0)).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float64)
