"""Features of particles come with their derivatives in the particle's own position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiflow.nn.particles import Jet, Neighbourhood
from tests.support.strategies import is_there

L_MAX = [1, pytest.param(2, marks=pytest.mark.skipif(not is_there("e3nn"), reason="needs e3nn"))]


def positions() -> Tensor:
    return torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))


def own_derivatives(function, x: Tensor) -> Tensor:
    """Return `d f_i / d x_i` for `f`, `(1, particle, ...)`, by automatic differentiation."""
    J = torch.autograd.functional.jacobian(function, x)[0]
    return torch.stack([J[i, ..., 0, i, :] for i in range(x.shape[1])])[None]


@pytest.mark.parametrize("l_max", L_MAX)
def test_slopes_are_derivatives_in_the_own_position(l_max):
    seen, x = Neighbourhood(3, l_max=l_max, n_radial=2, widths=(0.5, 2.0)), positions()
    for degree, jet in enumerate(seen(x)):
        expected = own_derivatives(lambda y, n=degree: seen(y)[n].value, x)
        torch.testing.assert_close(jet.slope.detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("l_max", L_MAX)
def test_invariants_do_not_change_under_a_rotation_and_have_their_slopes(l_max):
    seen, x = Neighbourhood(3, l_max=l_max, n_radial=2, widths=(0.5, 2.0)), positions()
    rotation = torch.linalg.matrix_exp(torch.tensor([[0.0, 0.4, -0.9], [-0.4, 0.0, 0.2], [0.9, -0.2, 0.0]]))
    for degree, (jet, rotated) in enumerate(zip(seen(x), seen(x @ rotation), strict=True)):
        value, slope = jet.invariant()
        torch.testing.assert_close(rotated.invariant()[0], value, rtol=1e-12, atol=1e-12)
        expected = own_derivatives(lambda y, n=degree: seen(y)[n].invariant()[0], x)
        torch.testing.assert_close(slope.detach(), expected, rtol=1e-10, atol=1e-12)
        if degree:
            assert (rotated.value - jet.value).abs().max() > 1e-3


def test_an_invariant_is_the_logarithm_of_one_plus_the_square():
    value = torch.tensor([[[[3.0, 4.0]]]])
    jet = Jet(value, torch.eye(2).view(1, 1, 1, 2, 2))
    found, slope = jet.invariant()
    torch.testing.assert_close(found, torch.tensor([[[26.0]]]).log())
    torch.testing.assert_close(slope, 2 * value[..., 0, :].unsqueeze(2) / 26)
