"""The phi^4 action: its sum over sites, gradient, symmetry and free limit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.phi4 import FreeScalar, Phi4
from tests.support.explicit_actions import site_by_site
from tests.support.strategies import configurations, lattices, log_integral, seeds

couplings = st.tuples(st.floats(-4, 4), st.floats(0.1, 8))


@st.composite
def actions(draw, **options) -> Action:
    lattice = draw(lattices(**options))
    if draw(st.booleans()):
        return FreeScalar(lattice, m2=draw(st.floats(0.1, 4)))
    m2, lam = draw(couplings)
    return Phi4(lattice, m2=m2, lam=lam)


def gradient_mismatch(action: Action, phi: Tensor) -> float:
    automatic = Action.grad(action, phi)
    return float((action.grad(phi) - automatic).abs().max() / automatic.abs().max())


class WrongGradient(Phi4):
    def grad(self, phi: Tensor) -> Tensor:
        return super().grad(phi) - 2 * self.m2 * phi


class Anisotropic(Phi4):
    def forward(self, phi: Tensor) -> Tensor:
        return super().forward(phi) + (phi.roll(-1, -1) - phi).square().sum(self.lattice.axes)


def invariance_violation(action: Action, group: SymmetryGroup, phi: Tensor) -> float:
    reference = action(phi)
    return max(
        float((action(g(phi)) - reference).abs().max() / reference.abs().max())
        for g in group.generators().values()
    )


@given(actions(max_volume=30), seeds)
def test_action_is_the_sum_over_sites(action, seed):
    phi = configurations(action.lattice, seed=seed)
    expected = site_by_site(phi, kinetic=1.0, square=action.m2, quartic=action.lam)
    torch.testing.assert_close(action(phi), expected, rtol=1e-12, atol=1e-12)


@given(actions(), seeds)
def test_gradient_is_the_derivative_of_the_action(action, seed):
    assert gradient_mismatch(action, configurations(action.lattice, seed=seed)) < 1e-12


@given(actions(), seeds)
def test_gradient_agrees_with_finite_differences(action, seed):
    phi = configurations(action.lattice, seed=seed)
    along = configurations(action.lattice, seed=seed + 1)
    step = 1e-5
    difference = (action(phi + step * along) - action(phi - step * along)) / (2 * step)
    exact = (action.grad(phi) * along).sum(action.lattice.axes)
    torch.testing.assert_close(difference, exact, rtol=1e-6, atol=1e-6)


def test_the_gradient_by_automatic_differentiation_takes_tensors_of_inference_mode():
    action = Phi4(Lattice((3, 3)), m2=-1.0, lam=1.0)
    phi = configurations(action.lattice)
    with torch.inference_mode():
        made_there = phi.clone()
    assert torch.equal(Action.grad(action, made_there), Action.grad(action, phi))


def test_a_wrong_gradient_is_seen():
    action = WrongGradient(Lattice((3, 4)), m2=-1.0, lam=1.0)
    assert gradient_mismatch(action, configurations(action.lattice)) > 1e-2


@given(actions(), seeds)
def test_action_is_invariant_under_every_generator(action, seed):
    phi = configurations(action.lattice, seed=seed)
    assert invariance_violation(action, SymmetryGroup(action.lattice), phi) < 1e-12


def test_an_anisotropic_action_is_not_invariant():
    lattice = Lattice((4, 4))
    action = Anisotropic(lattice, m2=1.0, lam=1.0)
    phi = configurations(lattice)
    assert invariance_violation(action, SymmetryGroup(lattice), phi) > 1e-2
    assert invariance_violation(action, SymmetryGroup(lattice, "reflections"), phi) < 1e-12


@given(lattices(max_volume=30), st.floats(0.1, 4))
def test_free_log_z_is_that_of_the_dense_gaussian(lattice, m2):
    action = FreeScalar(lattice, m2=m2)
    sites = torch.eye(lattice.volume).reshape(-1, *lattice.shape)
    hessian = action.grad(sites).flatten(1)
    dense = 0.5 * (lattice.volume * math.log(2 * math.pi) - torch.linalg.slogdet(hessian)[1])
    assert action.log_z() == pytest.approx(float(dense), abs=1e-10)
    # S = 1/2 phi H phi: a half in front of the action would miss V/2 log 2.
    assert abs(action.log_z() - float(dense) - 0.5 * lattice.volume * math.log(2)) > 0.3


@pytest.mark.parametrize("shape", [(1,), (2,), (1, 2)])
def test_free_log_z_agrees_with_quadrature(shape):
    lattice = Lattice(shape)
    action = FreeScalar(lattice, m2=0.7)
    by_quadrature = log_integral(action.log_prob_unnormalised, lattice)
    assert action.log_z() == pytest.approx(by_quadrature, abs=1e-10)


def test_the_trapezoid_rule_agrees_with_an_adaptive_one():
    action = Phi4(Lattice((1,)), m2=-2.0, lam=1.0)
    density = lambda x: math.exp(-float(action(torch.tensor([[x]]))))  # noqa: E731
    adaptive = math.log(quad(density, -6, 6, epsabs=1e-12, epsrel=1e-12)[0])
    assert log_integral(lambda phi: -action(phi), action.lattice) == pytest.approx(adaptive, abs=1e-10)


@given(lattices(max_volume=30), st.floats(0.1, 4))
def test_free_mode_variance_is_the_spectrum_of_the_covariance(lattice, m2):
    action = FreeScalar(lattice, m2=m2)
    sites = torch.eye(lattice.volume).reshape(-1, *lattice.shape)
    covariance = torch.linalg.inv(action.grad(sites).flatten(1))
    spectrum = action.mode_variance().flatten().sort().values
    torch.testing.assert_close(spectrum, torch.linalg.eigvalsh(covariance))


@pytest.mark.parametrize(
    ("m2", "lam"),
    [(1.0, -0.1), (0.0, 0.0), (-1.0, 0.0), (math.nan, 1.0), (1.0, math.inf), (math.inf, 1.0)],
)
def test_couplings_without_a_density_are_refused(m2, lam):
    with pytest.raises(ValueError, match=r"cannot be normalised|must be finite"):
        Phi4(Lattice((4, 4)), m2=m2, lam=lam)


@pytest.mark.parametrize("m2", [0.0, -1.0, math.nan])
def test_free_field_needs_a_positive_mass(m2):
    with pytest.raises(ValueError, match=r"m2 > 0|must be finite"):
        FreeScalar(Lattice((4,)), m2=m2)


@pytest.mark.parametrize("call", [lambda s, phi: s(phi), lambda s, phi: s.grad(phi)])
def test_wrong_fields_are_refused(call):
    action = Phi4(Lattice((3, 4)), m2=1.0, lam=1.0)
    with pytest.raises(ValueError, match=r"expected \(batch, 3, 4\)"):
        call(action, torch.zeros(2, 4, 3))
    with pytest.raises(TypeError, match="dtype"):
        call(action, torch.zeros(2, 3, 4, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 4])
def test_shapes_dtype_and_device_follow_the_field(device, dtype, n):
    action = Phi4(Lattice((3, 4)), m2=-1.0, lam=1.0).to(device)
    phi = configurations(action.lattice, n, dtype=dtype).to(device)
    assert (action(phi).shape, action(phi).dtype, action(phi).device.type) == (
        (n,), dtype, device.type,
    )  # fmt: skip
    assert (action.grad(phi).shape, action.grad(phi).dtype) == (phi.shape, dtype)
    torch.testing.assert_close(action.log_prob_unnormalised(phi), -action(phi))


def test_non_contiguous_fields_give_the_same_action():
    action = Phi4(Lattice((3, 4)), m2=-1.0, lam=1.0)
    phi = configurations(Lattice((4, 3))).transpose(1, 2)
    torch.testing.assert_close(action(phi), action(phi.contiguous()))
    torch.testing.assert_close(action.grad(phi), action.grad(phi.contiguous()))
