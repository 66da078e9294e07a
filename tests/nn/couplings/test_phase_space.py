"""Layers on phase space are invertible in the moved field, with the determinant that they state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiflow import Lattice, SymmetryGroup
from equiflow.nn.couplings.phase_space import MAX_LOG_SCALE, AffineLayer, PhaseSpaceLayer, ShearLayer
from equiflow.testing import randomise

LATTICE = Lattice((3, 4))
LAYERS = [ShearLayer, AffineLayer]


def random_layer(kind: type[PhaseSpaceLayer], **options: int) -> PhaseSpaceLayer:
    layer = kind(SymmetryGroup(LATTICE), linear=torch.zeros(LATTICE.shape), **options)
    randomise(layer, seed=1, scale=0.3)
    return layer


def fields(n: int = 2) -> tuple[Tensor, Tensor]:
    """Return a moved field and its driver."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, *LATTICE.shape, generator=generator),
        torch.randn(n, *LATTICE.shape, generator=generator),
    )


def log_det_of_jacobian(layer: PhaseSpaceLayer, moved: Tensor, driver: Tensor) -> Tensor:
    found = []
    for x, u in zip(moved, driver, strict=True):
        J = torch.autograd.functional.jacobian(lambda y, u=u: layer(y[None], u[None])[0][0], x)
        found.append(torch.linalg.slogdet(J.reshape(x.numel(), -1))[1])
    return torch.stack(found)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_inverted_with_the_opposite_log_det(kind):
    layer, (moved, driver) = random_layer(kind), fields()
    after, log_det = layer(moved, driver)
    before, back = layer.inverse(after, driver)
    assert (after - moved).abs().max() > 0.1
    torch.testing.assert_close(before, moved, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(back, -log_det, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_log_det_is_the_one_of_the_dense_jacobian(kind):
    layer, (moved, driver) = random_layer(kind), fields()
    expected = log_det_of_jacobian(layer, moved, driver)
    torch.testing.assert_close(layer(moved, driver)[1], expected, rtol=1e-10, atol=1e-10)
    assert bool(expected.abs().max() > 0.1) is (kind is AffineLayer)


def test_the_kick_of_a_shear_is_a_gradient_and_the_shift_of_an_affine_layer_is_not():
    curls = []
    for kind in LAYERS:
        layer, (moved, driver) = random_layer(kind), fields(1)
        J = torch.autograd.functional.jacobian(lambda u, f=layer, x=moved: f(x, u)[0], driver)
        J = J.reshape(LATTICE.volume, -1)
        curls.append(float((J - J.mT).abs().max()))
    assert curls[0] < 1e-12
    assert curls[1] > 1e-2


def test_the_scale_of_an_affine_layer_is_bounded_for_any_driver():
    layer, (moved, driver) = random_layer(AffineLayer), fields()
    with torch.no_grad():
        layer.scale_weight += 1e6
    _, log_scale, _ = layer._read(driver)
    assert MAX_LOG_SCALE / 2 < log_scale.abs().max() <= MAX_LOG_SCALE
    assert layer(moved, driver)[0].isfinite().all()


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_without_channels_is_refused(kind):
    with pytest.raises(ValueError, match="at least one channel, got 0"):
        random_layer(kind, n_channels=0)
