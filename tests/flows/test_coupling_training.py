"""Training of flows of layers on a checkerboard: gradients, objectives and the loss."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from equiflow.flows import CouplingFlow
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar.phi4 import Phi4
from equiflow.theories.scalar.priors import FreeField
from equiflow.training import InversePathGradient, Objective, PathGradient, ReverseKL, fit
from tests.support.coupling_flows import (
    drawn,
    generator,
    kinds,
    make,
    options,
    with_wrong_map,
    z2_kinds,
)


def unreached(flow: CouplingFlow) -> list[str]:
    flow.zero_grad()
    phi, log_q = flow.rsample_and_log_prob(16, generator=generator())
    (log_q + Phi4(flow.lattice, m2=1.0, lam=1.0)(phi)).mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in flow.parameters() if p.grad is not None)
    return [n for n, p in flow.named_parameters() if p.grad is None or not bool(p.grad.any())]


@kinds
@drawn
@given(options=options())
def test_gradients_reach_every_parameter(kind, options):
    flow = make(kind, **options, prior=FreeField(Lattice(options["shape"])))
    assert unreached(flow) == []


@z2_kinds
def test_a_parameter_without_a_gradient_is_seen(kind):
    assert any("odd" in name for name in unreached(with_wrong_map(make(kind), "ignores odd")))


def test_every_weight_has_a_gradient_and_one_layer_would_not():
    """Without a hidden layer, the weights at even offsets of a kernel only meet zeros of the mask."""
    flow = make("real_nvp", hidden_channels=(2,))
    unreached(flow)
    assert all(bool((p.grad != 0).all()) for p in flow.parameters())
    lone = make("real_nvp", hidden_channels=(2,))
    for layer in lone.layers:
        layer.net.layers = nn.ModuleList([layer.net._convolution(1, 2, bias=True)]).double()
    unreached(lone)
    assert not bool(lone.layers[1].net.layers[0].weight.grad[..., 1, 1].any())


class ModelAction(Action):
    """`-log q` of a fixed flow: a target that the same flow samples exactly."""

    def __init__(self, flow: CouplingFlow) -> None:
        super().__init__(flow.lattice)
        self.flow = copy.deepcopy(flow)

    def forward(self, phi: Tensor) -> Tensor:
        return -self.flow.log_prob(phi)


def gradients(flow: CouplingFlow, objective: Objective, action: Action, n: int) -> Tensor:
    flow.zero_grad()
    objective(flow, action, n, generator(5)).surrogate.backward()
    return torch.cat([parameter.grad.flatten() for parameter in flow.parameters()])


@kinds
def test_the_path_gradient_vanishes_sample_by_sample_at_the_optimum(kind):
    flow = make(kind)
    target = ModelAction(flow)
    assert gradients(flow, InversePathGradient(), target, 4).abs().max() < 1e-10
    assert gradients(flow, ReverseKL(), target, 4).abs().max() > 1e-2


@kinds
def test_both_objectives_agree_on_average(kind):
    flow = make(kind, (2, 2), n_layers=2, hidden_channels=(2,))
    action = Phi4(flow.lattice, m2=1.0, lam=1.0)
    path, plain = (gradients(flow, o, action, 4000) for o in (InversePathGradient(), ReverseKL()))
    assert float((path - plain).norm() / plain.norm()) < 0.1


@kinds
@pytest.mark.parametrize("objective", [ReverseKL(), InversePathGradient()])
def test_training_lowers_the_loss(kind, objective):
    action = Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0)
    flow = make(kind)
    history = fit(flow, action, steps=15, learning_rate=2e-2, objective=objective, progress=False)
    assert sum(history.loss[-3:]) < 0.75 * sum(history.loss[:3])
    again = make(kind)
    assert (
        history.loss
        == fit(again, action, steps=15, learning_rate=2e-2, objective=objective, progress=False).loss
    )


def test_the_path_gradient_of_continuous_flows_is_refused():
    flow = make("real_nvp")
    with pytest.raises(TypeError, match=r"use ReverseKL\(\)"):
        PathGradient()(flow, Phi4(flow.lattice, m2=1.0, lam=1.0), 4)
