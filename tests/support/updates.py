"""What tests of updates share: small actions, flows on them, and bonds of any strength."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equiflow import Flow, FreeField, Lattice, Phi4, Solver
from tests.support.strategies import small_flow

CHAIN, SITE = Phi4(Lattice((3,)), m2=-1.0, lam=0.8), Phi4(Lattice((1,)), m2=-1.0, lam=0.8)


def generator(seed: int = 0) -> torch.Generator:
    """Return a generator with a fixed seed."""
    return torch.Generator().manual_seed(seed)


def flow_on(lattice: Lattice, solver: Solver = Solver("rk5", steps=2)) -> Flow:  # noqa: B008 (frozen)
    """Return an untrained flow that moves its samples."""
    prior = FreeField(lattice, m2=0.3).double()
    return small_flow(lattice.shape, prior=prior, scale=0.3, solver=solver)


def coarse_flow(lattice: Lattice) -> Flow:
    """Return a cheap flow, for tests that do not depend on its accuracy."""
    return flow_on(lattice, Solver("euler", steps=2))


def bonds_of(factor: float) -> Callable[..., Tensor]:
    """Return `bonds` with the probability `1 - exp(-factor phi_x phi_y)`; 4 is right."""

    def bonds(phi: Tensor, generator: torch.Generator | None) -> Tensor:
        products = torch.stack([phi * phi.roll(-1, mu) for mu in range(1, phi.dim())], 1)
        return torch.rand(products.shape, generator=generator) < -torch.expm1(-factor * products.clamp(min=0))

    return bonds
