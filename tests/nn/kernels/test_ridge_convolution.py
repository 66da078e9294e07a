"""The closed derivatives of ridges of convolved fields are those of automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiflow import Lattice, PotentialField, SymmetryGroup
from equiflow.nn.kernels import ridge_convolution as module
from equiflow.nn.kernels.ridge_convolution import RidgeWeights, ridge_convolution, ridge_path
from equiflow.testing import randomise
from equiflow.vector_fields import chunks
from tests.support.strategies import configurations

CASES = pytest.mark.parametrize(
    ("point", "z2", "convolution"),
    [("full", True, "fourier"), ("trivial", False, "fourier"), ("trivial", False, "dense")],
)
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def example(point: str, z2: bool, convolution: str) -> tuple[PotentialField, RidgeWeights, Tensor]:
    """Return a field, its weights as leaves, and configurations."""
    lattice = Lattice((4, 4) if point == "full" else (4, 5))
    group = SymmetryGroup(lattice, point, z2)
    field = PotentialField(lattice, group=group, n_ridges=5, convolution=convolution).double()
    randomise(field)
    values = (
        None if x is None else x.detach().requires_grad_() for x in field._coefficients(0.3).weights.all()
    )
    return field, RidgeWeights(*values), configurations(lattice).requires_grad_()


def inputs(phi: Tensor, weights: RidgeWeights) -> list[Tensor]:
    return [x for x in (phi, *weights.all()) if x is not None]


@CASES
def test_values_and_gradients_are_those_of_the_formula(point, z2, convolution):
    field, weights, phi = example(point, z2, convolution)
    acts = field.kernel.convolution
    found, expected = ridge_convolution(phi, weights, acts), module._formula(phi, weights, acts)[:2]
    torch.testing.assert_close(found, expected, **CLOSE)
    slopes = configurations(field.lattice, seed=1), torch.arange(1.0, len(phi) + 1, dtype=phi.dtype)
    for outputs in (slice(0, 1), slice(1, 2), slice(0, 2)):
        gradients = [
            torch.autograd.grad(
                result[outputs],
                inputs(phi, weights),
                slopes[outputs],
                retain_graph=True,
                materialize_grads=True,
                allow_unused=True,
            )
            for result in (found, expected)
        ]
        torch.testing.assert_close(*gradients, **CLOSE)


@CASES
def test_the_gradient_can_be_differentiated_again(point, z2, convolution):
    field, weights, phi = example(point, z2, convolution)
    acts = field.kernel.convolution

    def outputs(phi: Tensor) -> tuple[Tensor, Tensor]:
        return ridge_convolution(phi, weights, acts)

    assert torch.autograd.gradgradcheck(outputs, phi[:1].detach().requires_grad_())
    twice = []
    for function in (ridge_convolution, module._formula):
        (first,) = torch.autograd.grad(function(phi, weights, acts)[1].sum(), phi, create_graph=True)
        twice.append(torch.autograd.grad(first.square().sum(), inputs(phi, weights)[2:3]))
    torch.testing.assert_close(*twice, **CLOSE)


@CASES
def test_the_rate_of_a_score_is_a_gradient(point, z2, convolution):
    field, weights, phi = example(point, z2, convolution)
    acts, score = field.kernel.convolution, configurations(field.lattice, seed=2)
    velocity, laplacian, pulled = ridge_path(phi, score, weights, acts)
    assert velocity.requires_grad
    assert not laplacian.requires_grad
    assert not pulled.requires_grad
    expected = module._formula(phi, weights, acts)
    (gradient,) = torch.autograd.grad((expected[0] * score).sum() + expected[1].sum(), phi)
    torch.testing.assert_close(pulled, gradient, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(
            ridge_path(phi, score, weights, acts), (velocity, laplacian, pulled), rtol=0.0, atol=0.0
        )


def test_without_a_graph_blocks_change_nothing_and_see_all_sites(monkeypatch):
    field, weights, phi = example("trivial", False, "fourier")
    acts = field.kernel.convolution
    expected = module._formula(phi, weights, acts)[:2]
    sizes = []
    waves = module.waves
    monkeypatch.setattr(module, "waves", lambda theta, sin: sizes.append(theta.shape[1]) or waves(theta, sin))
    monkeypatch.setattr(module, "BLOCK", phi.numel() // 2 + 1)  # the second block is smaller
    with torch.no_grad():
        torch.testing.assert_close(ridge_convolution(phi, weights, acts), expected, **CLOSE)
        assert sizes == [module.BLOCK, phi.numel() - module.BLOCK]
        # Counter-example: waves of other angles.
        monkeypatch.setattr(module, "waves", lambda theta, sin: waves(theta.zero_(), sin))
        with pytest.raises(AssertionError):
            torch.testing.assert_close(ridge_convolution(phi, weights, acts), expected, **CLOSE)


def test_chunks_change_nothing(monkeypatch):
    field, _, phi = example("full", True, "fourier")
    whole = field.path_rates(phi, 0.3, phi.detach())
    monkeypatch.setattr(chunks, "SITES", 2 * field.lattice.volume)
    assert len(chunks.in_chunks(field.lattice, phi)) > 1
    parts = field.path_rates(phi, 0.3, phi.detach())
    for name in ("velocity", "divergence", "score_rate"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), **CLOSE)
    velocity, divergence = field.velocity_and_divergence(phi, 0.3)
    torch.testing.assert_close(velocity, whole.velocity, **CLOSE)
    torch.testing.assert_close(divergence.detach(), whole.divergence, **CLOSE)
