"""What the adversarial tests share: a small theory, short trainings, and every call that takes a field."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equiflow import (
    EquivariantCNF,
    FreeScalar,
    Lattice,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    fit,
    importance_sample,
    log_weights,
)
from tests.support.strategies import configurations

RK4 = Solver("rk4", steps=4)
SQUARE = Lattice((3, 3))
ACTION = Phi4(SQUARE, m2=1.0, lam=1.0)
SHORT = {"steps": 2, "batch_size": 4, "warmup": 0, "progress": False}
REFUSED = (TypeError, ValueError)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(flow: EquivariantCNF) -> list[Tensor]:
    return [p.detach().clone() for p in flow.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(one, other, strict=True)
    )


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


CALLS: dict[str, Callable[[EquivariantCNF, Tensor], Any]] = {
    "log_prob": lambda flow, phi: flow.log_prob(phi),
    "transform": lambda flow, phi: flow.transform_and_log_det(phi),
    "inverse": lambda flow, phi: flow.inverse_and_log_det(phi),
    "velocity": lambda flow, phi: flow.vector_field.velocity_and_divergence(phi, 0.3),
    "path rates": lambda flow, phi: list(vars(flow.vector_field.path_rates(phi, 0.3, phi)).values()),
    "prior": lambda flow, phi: (flow.prior.log_prob(phi), flow.prior.score(phi)),
    "action": lambda flow, phi: (lambda s: (s(phi), s.grad(phi)))(Phi4(flow.lattice, m2=-1.0, lam=1.0)),
    "observed": lambda flow, phi: log_weights(flow, FreeScalar(flow.lattice, m2=1.0), phi),
}


def everything(flow: EquivariantCNF) -> list[Tensor]:
    phi = configurations(flow.lattice, dtype=flow.dtype)
    found = [part for call in CALLS.values() for part in tensors(call(flow, phi))]
    path = flow.rsample_path(3, generator=generator())
    found += [path.phi, path.log_q, path.score, *flow.sample_and_log_prob(3, generator=generator())]
    found.append(importance_sample(flow, ACTION, 4, certify=2, generator=generator()).log_weight)
    for objective in (PathGradient(), ReverseKL()):
        trained = copy.deepcopy(flow)
        fit(trained, ACTION, objective=objective, **SHORT)
        found += weights(trained)
    return [part.detach() for part in found]
