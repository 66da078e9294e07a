"""A graph can start in any tensor, whether ordinary, with a graph, or made in inference mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiflow.runtime.autograd import all_finite, as_leaf, detached, differentiable


def with_graph() -> Tensor:
    return torch.ones(3, requires_grad=True).exp()


def of_inference() -> Tensor:
    with torch.inference_mode():
        return torch.ones(3).exp()


TENSORS = [lambda: torch.ones(3), with_graph, of_inference]


@pytest.mark.parametrize("make", TENSORS)
@pytest.mark.parametrize("function", [as_leaf, differentiable])
def test_any_tensor_can_be_differentiated(make, function):
    phi = function(make())
    (slope,) = torch.autograd.grad(phi.square().sum(), phi)
    torch.testing.assert_close(slope, 2 * make().detach())


def test_a_tensor_of_inference_mode_could_not_be_used_itself():
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):
        of_inference().requires_grad_()


@pytest.mark.parametrize("make", TENSORS)
def test_values_are_kept_without_a_graph(make):
    phi = make()
    assert torch.equal(detached(phi), phi)
    assert not detached(phi).requires_grad
    assert not detached(phi).is_inference()


def test_an_existing_graph_is_cut_by_a_leaf_and_kept_if_asked():
    phi = with_graph()
    assert as_leaf(phi).is_leaf
    assert differentiable(phi) is phi


def test_finite_values_are_known_though_their_sum_overflows():
    large = torch.full((4,), 3e38, dtype=torch.float32)
    assert not large.sum().isfinite()
    assert all_finite(large, torch.zeros(0))
    assert not all_finite(large, torch.tensor([0.0, float("nan")]))
    assert not all_finite(torch.tensor([float("inf"), -float("inf")]))
