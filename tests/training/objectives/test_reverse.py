"""The reverse divergence: its penalty and its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import (
    PathGradient,
    Solver,
    fit,
)
from equiflow.testing import randomise
from tests.support.training import ACTION, FAST, OBJECTIVES, SHORT, build


def kinetic_energy(penalty: float) -> float:
    flow = build()
    objective = PathGradient(kinetic_penalty=penalty, solver=FAST)
    fit(flow, ACTION, steps=40, batch_size=64, warmup=5, objective=objective, progress=False)
    path = flow.rsample_path(512, generator=torch.Generator().manual_seed(1))
    return float(path.kinetic_energy.detach().mean())


def test_kinetic_penalty_slows_the_trajectories():
    none, some, strong = (kinetic_energy(penalty) for penalty in (0.0, 0.3, 3.0))
    assert strong < 0.5 * none
    assert strong < some < none


def gradients(solver: Solver, seed: int = 0) -> torch.Tensor:
    flow = build()
    fit(flow, ACTION, objective=OBJECTIVES[0], **SHORT)
    value = PathGradient(solver=solver)(flow, ACTION, 16, torch.Generator().manual_seed(seed))
    return torch.cat([g.flatten() for g in torch.autograd.grad(value.surrogate, list(flow.parameters()))])


def test_adjoint_and_backpropagation_give_one_gradient():
    tight = {"method": "dopri5", "rtol": 1e-9, "atol": 1e-9}
    expected = gradients(Solver(**tight))
    scale = float(expected.abs().max())
    torch.testing.assert_close(gradients(Solver(**tight, adjoint=True)), expected, rtol=0, atol=1e-6 * scale)
    coarse = gradients(Solver("rk4", steps=1))
    assert float((coarse - expected).abs().max()) > 1e-4 * scale


def test_adjoint_training_follows_backpropagation():
    losses = []
    for adjoint in (False, True):
        flow = build()
        # At weights of zero an adaptive solver takes steps too long for the gradient.
        randomise(flow.vector_field, scale=0.1)
        objective = PathGradient(solver=Solver(rtol=1e-9, atol=1e-9, adjoint=adjoint))
        losses.append(fit(flow, ACTION, objective=objective, **SHORT).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("penalty", [-1.0, math.nan])
def test_bad_penalties_are_refused(penalty):
    with pytest.raises(ValueError, match="kinetic_penalty"):
        PathGradient(kinetic_penalty=penalty)
