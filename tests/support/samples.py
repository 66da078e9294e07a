"""Small ensembles and chains, and whether two of them are equal to the last bit."""

from __future__ import annotations

import dataclasses

import torch

from equiflow import HMC, Chain, Ensemble, Lattice, Phi4, importance_sample
from tests.support.strategies import small_flow

ACTION = Phi4(Lattice((4, 4)), m2=1.0, lam=0.5)


def an_ensemble(
    n: int = 40, *, seed: int = 0, dtype: torch.dtype = torch.float64, certify: int = 8
) -> Ensemble:
    generator = torch.Generator().manual_seed(seed)
    flow = small_flow((4, 4)).to(dtype)
    return importance_sample(flow, ACTION, n, certify=certify, generator=generator)


def a_chain(n: int = 12, *, seed: int = 0) -> Chain:
    return HMC(ACTION).sample(
        n, n_chains=3, n_thermalisation=30, generator=torch.Generator().manual_seed(seed)
    )


def same(a: object, b: object) -> bool:
    """Equal to the last bit, whatever the parts are; the kernel behind a chain is not kept."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a) if f.name != "kernel"
        )
    return a == b
