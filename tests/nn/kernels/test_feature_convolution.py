"""The convolution of features has a gradient in closed form, once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiflow import FactorisedConvField, Lattice, OrbitConvField, SymmetryGroup
from equiflow.nn.kernels.convolution import Convolution, DenseConvolution, FourierConvolution
from equiflow.nn.kernels.feature_convolution import feature_convolution
from equiflow.nn.kernels.orbits import OffsetKernel
from equiflow.nn.pointwise.features import FeatureValues, SineFeatures

LATTICE = Lattice((3, 4))
INPUTS = ("phi", "frequencies", "weight")


def inputs() -> tuple[OffsetKernel, list[Tensor]]:
    """A kernel that is not symmetric, and phi, frequencies and weights to differentiate in."""
    generator = torch.Generator().manual_seed(0)
    kernel = OffsetKernel(SymmetryGroup(LATTICE, "trivial"), 1, 3, 3, convolution="fourier")
    phi = torch.randn(2, *LATTICE.shape, generator=generator)
    frequencies = torch.tensor([0.7, 1.9])
    weight = torch.randn(kernel.weight.shape, generator=generator)
    return kernel, [x.requires_grad_() for x in (phi, frequencies, weight)]


def by_hand(kernel: OffsetKernel, phi: Tensor, frequencies: Tensor, weight: Tensor) -> Tensor:
    """Return `K_0 * phi + sum_f K_f * sin(omega_f phi) / omega_f` by automatic differentiation."""
    omega = frequencies.view(-1, 1, 1)
    features = (omega * phi.unsqueeze(1)).sin() / omega
    operand = kernel._modes(weight[0]).operand
    encoded = LATTICE.fft(torch.cat([phi.unsqueeze(1), features], 1))
    return LATTICE.ifft((encoded * operand).sum(1))


def in_closed_form(
    kernel: OffsetKernel, phi: Tensor, frequencies: Tensor, weight: Tensor, convolution: Convolution
) -> Tensor:
    with torch.no_grad():
        omega = frequencies.view(-1, 1, 1)
        angle = omega * phi.unsqueeze(1)
        features = FeatureValues(angle.sin() / omega, angle.cos())
    operand = kernel._modes(weight[0]).operand
    return feature_convolution(phi, frequencies, operand, features, convolution)


def gradients(value: Tensor, variables: list[Tensor]) -> list[Tensor]:
    probe = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)
    return list(torch.autograd.grad((probe * value).sum(), variables))


def test_value_and_gradients_are_those_of_automatic_differentiation():
    kernel, variables = inputs()
    convolution = FourierConvolution(LATTICE)
    expected, found = by_hand(kernel, *variables), in_closed_form(kernel, *variables, convolution)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    for name, a, b in zip(INPUTS, gradients(found, variables), gradients(expected, variables), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    ("method", "wrong"), [("transpose", ["phi", "frequencies"]), ("overlap", ["weight"])]
)
def test_a_wrong_adjoint_is_seen_in_the_gradients_it_enters(method, wrong, monkeypatch):
    right = getattr(FourierConvolution, method)
    monkeypatch.setattr(FourierConvolution, method, lambda self, *args: 1.01 * right(self, *args))
    kernel, variables = inputs()
    expected = gradients(by_hand(kernel, *variables), variables)
    found = gradients(in_closed_form(kernel, *variables, FourierConvolution(LATTICE)), variables)
    differ = [
        name for name, a, b in zip(INPUTS, found, expected, strict=True) if not torch.allclose(a, b, 1e-6)
    ]
    assert differ == wrong


@pytest.mark.parametrize("kind", [OrbitConvField, FactorisedConvField])
def test_a_second_derivative_is_refused_without_naming_another_field(kind):
    field = kind(LATTICE)
    phi = torch.ones(1, *LATTICE.shape, requires_grad=True)
    velocity = field.velocity(phi, 0.3)
    with pytest.raises(RuntimeError, match="velocity of a shallow field can be differentiated once"):
        torch.autograd.grad(velocity.sum(), phi, create_graph=True)


def test_features_of_the_library_obey_the_identity_that_the_backward_pass_uses():
    features = SineFeatures(2, LATTICE.dim, odd=False)
    phi = torch.randn(2, *LATTICE.shape, generator=torch.Generator().manual_seed(3))
    values = features(phi)
    omega = features.frequencies().detach()
    step = 1e-6
    with torch.no_grad():
        features.omega += step
        above = features(phi).value
        features.omega -= 2 * step
        below = features(phi).value
    expected = (phi.unsqueeze(1) * values.first - values.value) / omega.view(-1, 1, 1)
    torch.testing.assert_close((above - below) / (2 * step), expected.detach(), rtol=1e-8, atol=1e-8)


def test_dense_products_refuse_a_second_derivative_too():
    field = OrbitConvField(LATTICE, convolution="dense")
    assert isinstance(field.kernel.convolution, DenseConvolution)
    phi = torch.ones(1, *LATTICE.shape, requires_grad=True)
    with pytest.raises(RuntimeError, match="create_graph=True is not supported"):
        torch.autograd.grad(field.velocity(phi, 0.3).sum(), phi, create_graph=True)
