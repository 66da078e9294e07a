"""Samples that an objective is given: how they are drawn, and which are refused."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import (
    EquivariantCNF,
    ExtendedAction,
    FlowMatching,
    ForwardKL,
    Lattice,
    Links,
    WilsonAction,
    fit,
)
from equiflow.training.objectives.samples import draw
from tests.support.objectives import ACTION, PHI, SHORT, build, exact_map, generator


@pytest.mark.parametrize("make", [ForwardKL, FlowMatching])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_are_brought_to_the_flow_and_get_no_gradient(make, dtype, device):
    flow = build().to(device, dtype)
    samples = PHI.clone().requires_grad_()
    value = make(samples)(flow, ACTION, 6, torch.Generator(device).manual_seed(0))
    assert (value.surrogate.dtype, value.surrogate.device.type) == (dtype, device.type)
    value.surrogate.backward()
    assert samples.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_links_stay_complex_in_the_precision_of_the_flow(dtype):
    links = Links(Lattice((3, 3)), "SU(2)")
    flow, action = EquivariantCNF(links).to(dtype), WilsonAction(links, beta=1.0)
    samples = links.probes(20, torch.Generator().manual_seed(1))  # of twice the precision of float32
    for parameter in flow.parameters():
        torch.nn.init.constant_(parameter, 0.05)
    drawn = draw(samples, flow, action, 50, generator())
    assert drawn.real.dtype == dtype
    distance = (drawn[:, None] - samples).abs().flatten(2).amax(2).amin(1)
    assert float(distance.max()) < 1e-6
    # Without their imaginary parts these are no matrices of the group at all.
    assert float(links.lie.defect(drawn).max()) < 1e-5 < float(links.lie.defect(samples.real).max())
    assert math.isfinite(ForwardKL(samples)(flow, action, 4, generator()).loss)
    with pytest.raises(TypeError, match=r"samples has dtype torch.float64; expected one of torch.complex64"):
        fit(flow, action, objective=ForwardKL(samples.real), **SHORT)


def test_complex_samples_are_refused_by_real_fields():
    with pytest.raises(TypeError, match=r"samples has dtype torch.complex64; expected one of torch.float32"):
        fit(build(), ACTION, objective=ForwardKL(PHI.to(torch.complex64)), **SHORT)


def test_batches_are_drawn_evenly():
    numbered = torch.arange(20.0)[:, None, None].expand(20, 2, 3)
    flow, seen = build(), []

    def watch(phi: torch.Tensor, **_: object) -> tuple[torch.Tensor, int]:
        seen.append(phi[:, 0, 0])
        return phi.sum((1, 2)), 0

    flow.log_prob_to_train = watch
    ForwardKL(numbered)(flow, ACTION, 20_000, generator())
    counts = torch.cat(seen).long().bincount(minlength=20)
    assert float(((counts - 1000).square() / 1000).sum()) < 45  # chi^2 of 19 degrees of freedom


BAD_SAMPLES = [
    (PHI[0, 0], ValueError, "n_samples"),
    (PHI[:0], ValueError, "shape"),
    (PHI.long(), TypeError, "int64"),
    (PHI.tolist(), TypeError, "Tensor"),
    (torch.full_like(PHI, math.nan), ValueError, "NaN"),
]


@pytest.mark.parametrize(("samples", "error", "message"), BAD_SAMPLES)
@pytest.mark.parametrize("make", [ForwardKL, FlowMatching])
def test_bad_samples_are_refused(make, samples, error, message):
    with pytest.raises(error, match=message):
        make(samples)


@pytest.mark.parametrize("make", [ForwardKL, FlowMatching])
def test_samples_of_another_lattice_are_refused(make):
    with pytest.raises(ValueError, match=r"\(20, 3, 3\).*\(2, 3\)"):
        fit(build(), ACTION, objective=make(torch.zeros(20, 3, 3)), **SHORT)


def test_fields_are_joined_by_fresh_momenta_for_a_flow_of_both():
    flow, target = exact_map(), ExtendedAction(ACTION)
    one = ForwardKL(PHI)(flow, target, 4, generator())
    again, other = (ForwardKL(PHI)(flow, target, 4, generator(seed)) for seed in (0, 1))
    assert torch.equal(one.loss, again.loss)
    assert not torch.equal(one.loss, other.loss)
    history = fit(flow, target, objective=ForwardKL(PHI), **SHORT)
    assert len(history) == 6
    phi, momentum = draw(PHI, flow, target, 4000, generator()).unbind(1)
    assert {tuple(row) for row in phi.flatten(1).tolist()} == {tuple(row) for row in PHI.flatten(1).tolist()}
    covariance = momentum.flatten(1).T.cov(correction=0)
    assert float((covariance - torch.eye(6)).abs().max()) < 5 * math.sqrt(2 / 4000)
    # Without the target's momenta in the action there is nothing that says how to draw them.
    with pytest.raises(ValueError, match=r"\(2, 2, 3\)"):
        ForwardKL(PHI)(flow, ACTION, 4, generator())
