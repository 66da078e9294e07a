"""Sitewise features have the derivatives and the parity that they claim."""

from __future__ import annotations

import pytest
import torch

from equiflow import Lattice
from equiflow.nn.pointwise.features import SineFeatures
from equiflow.testing import randomise
from tests.support.strategies import configurations


@pytest.mark.parametrize("odd", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 1, 3)])
def test_feature_derivatives_are_those_of_autograd(odd, shape):
    features = SineFeatures(3, len(shape), odd=odd).double()
    randomise(features)
    phi = configurations(Lattice(shape)).requires_grad_()
    values = features(phi)
    weight = configurations(Lattice((len(features),)), 1)[0]
    weighted = weight.reshape(-1, *(1,) * len(shape))
    (first,) = torch.autograd.grad((values.value * weighted).sum(), phi, retain_graph=True)
    (second,) = torch.autograd.grad((values.first * weighted).sum(), phi)
    torch.testing.assert_close((values.first * weighted).sum(1), first)
    torch.testing.assert_close(features.weighted_second(values.value, weight), second)


@pytest.mark.parametrize("odd", [True, False])
def test_only_odd_features_are_odd(odd):
    features = SineFeatures(3, 1, odd=odd)
    phi = configurations(Lattice((5,)))
    assert torch.equal(features(-phi).value, -features(phi).value) == odd
