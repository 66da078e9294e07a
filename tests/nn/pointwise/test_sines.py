"""Sines and cosines are those of torch to rounding, whoever computes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equiflow.nn.pointwise import sines
from equiflow.nn.pointwise.sines import sine_and_cosine, waves

SINGLE = {"dtype": torch.float32}
ANGLES = torch.cat(
    [torch.linspace(-40, 40, 20_001, **SINGLE), torch.tensor([0.0, 1e-30, 1e4, -3e5], **SINGLE)]
)


@pytest.fixture(params=[1, 4], ids=["numpy", "torch"])
def threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)


@pytest.mark.usefixtures("threads")
def test_single_precision_is_as_exact_as_it_can_be():
    exact = ANGLES.double().sin(), ANGLES.double().cos()
    for found in (sine_and_cosine(ANGLES), waves(ANGLES.clone())):
        for one, other in zip(found, exact, strict=True):
            assert float((one - other).abs().max()) < 1.2e-7


def test_numpy_computes_single_precision_on_few_threads_only(monkeypatch):
    calls = []
    monkeypatch.setattr(np, "sin", lambda *args, **options: calls.append(1))
    monkeypatch.setattr(torch, "get_num_threads", lambda: sines.MAX_THREADS)
    waves(torch.zeros(3, **SINGLE))
    assert calls == [1]
    waves(torch.zeros(3, dtype=torch.float64))
    torch.func.vmap(sine_and_cosine)(torch.zeros(3, 2, **SINGLE))
    monkeypatch.setattr(torch, "get_num_threads", lambda: sines.MAX_THREADS + 1)
    waves(torch.zeros(3, **SINGLE))
    assert calls == [1]


@pytest.mark.usefixtures("threads")
def test_an_infinite_angle_gives_nan_without_a_warning():
    for one in sine_and_cosine(torch.tensor([math.inf, math.nan], **SINGLE)):
        assert one.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_torch(dtype):
    theta = torch.linspace(-3, 3, 7, dtype=dtype).view(7, 1).expand(7, 2)[:, 1].requires_grad_()
    sin, cos = sine_and_cosine(theta)
    (found,) = torch.autograd.grad((2 * sin + 3 * cos).sum(), theta, create_graph=True)
    torch.testing.assert_close(found, 2 * theta.cos() - 3 * theta.sin())
    (second,) = torch.autograd.grad(found.sum(), theta)
    torch.testing.assert_close(second, -2 * theta.sin() - 3 * theta.cos())


def test_waves_overwrites_its_argument_with_the_cosines():
    theta = torch.ones(4)
    _, cos = waves(theta)
    assert cos.data_ptr() == theta.data_ptr()
