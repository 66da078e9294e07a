"""Every sampler against one transfer matrix: the same physics within errors, and no other."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from equiflow import (
    HMC,
    OMELYAN,
    AdjustedMCLMC,
    Alternate,
    Chain,
    Ensemble,
    EquivariantCNF,
    Estimate,
    IndependenceMetropolis,
    IndependenceStep,
    LatentHMC,
    Lattice,
    LocalMetropolis,
    Phi4,
    Solver,
    SwendsenWang,
    Wolff,
    annealed_importance_sample,
    importance_sample,
)
from equiflow.oracles import transfer_matrix
from equiflow.oracles.grid import POTENTIAL_CUTOFF, potential_minimum, spacing
from equiflow.oracles.site import SiteBasis
from equiflow.theories.scalar.observables import abs_magnetisation, nearest_neighbour, phi_squared
from tests.support.oracles import trained_flow

Source = Chain | Ensemble
LAM = 6.0


def phi4(lam: float = LAM) -> Phi4:
    return Phi4(Lattice((3, 3)), m2=-4.0, lam=lam)


def exact_abs_magnetisation(action: Phi4, *, n_functions: int = 7, period: float = 12.0) -> float:
    """Return `<|M|>` on 3 x 3 from the characteristic function of `T = sum_x phi_x`.

    `|T| = P/2 - (4 P / pi^2) sum_{n odd} cos(n pi T / P) / n^2` for `|T| < P`. The average of each cosine is
    a trace of transfer matrices with `exp(i k phi)` on every site.
    """
    basis = SiteBasis.build(action, spacing(action), POTENTIAL_CUTOFF, 1e-12, n_functions)
    phi = np.meshgrid(*[basis.nodes] * 3, indexing="ij", sparse=True)
    inside = np.exp(-sum((phi[x] - phi[(x + 1) % 3]) ** 2 for x in range(3)))
    pair = np.einsum("ai,aj->aij", basis.functions, basis.functions)

    def trace(k: float) -> float:
        tensor = inside * np.exp(1j * k * sum(phi))
        for _ in range(3):
            tensor = np.tensordot(tensor, pair, axes=(0, 0))
        slice_ = tensor.transpose(0, 2, 4, 1, 3, 5).reshape(pair.shape[1] ** 3, -1)
        return float(np.sum((slice_ @ slice_) * slice_.T).real)

    odd = np.arange(1, 30, 2)
    cosines = np.array([trace(n * math.pi / period) for n in odd]) / trace(0.0)
    return (period / 2 - 4 * period / math.pi**2 * float((cosines / odd**2).sum())) / 9


@cache
def truth(lam: float = LAM) -> dict[Callable, float]:
    exact = transfer_matrix(phi4(lam))
    return {
        phi_squared: exact.phi_squared,
        abs_magnetisation: exact_abs_magnetisation(phi4(lam)),
        nearest_neighbour: sum(exact.nearest_neighbour) / 2,
    }


def test_the_oracle_of_the_magnetisation_has_converged():
    value = exact_abs_magnetisation(phi4())
    assert exact_abs_magnetisation(phi4(), n_functions=6, period=14.0) == pytest.approx(value, abs=1e-5)
    assert exact_abs_magnetisation(phi4(), n_functions=2) != pytest.approx(value, abs=1e-3)
    assert potential_minimum(phi4()) < 0
    # sqrt(<M^2>) is an upper bound; a Gaussian M would have 0.8 of it.
    root = math.sqrt(transfer_matrix(phi4()).susceptibility / 9)
    assert 0.8 * root < value < root


@cache
def flow() -> EquivariantCNF:
    """Return a flow that is trained so little that its weights matter."""
    trained = trained_flow(phi4(), steps=25)
    trained.solver = Solver("rk5", steps=3)
    return trained


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(kernel: Callable, n: int = 60, n_chains: int = 256, first: int = 40) -> Callable[[Phi4], Chain]:
    return lambda action: kernel(action).sample(
        n, n_chains=n_chains, n_thermalisation=first, certify=64, generator=generator(1)
    )


SAMPLERS: dict[str, Callable[[Phi4], Source]] = {
    "importance sampling": lambda a: importance_sample(flow(), a, 5000, certify=64, generator=generator(2)),
    "annealing": lambda a: annealed_importance_sample(
        flow(), a, 2500, betas=2, certify=64, generator=generator(3)
    ),
    "independence Metropolis": lambda a: IndependenceMetropolis(flow(), a).sample(
        250, n_chains=32, batch_size=2400, certify=64, generator=generator(4)
    ),
    "HMC": run(HMC),
    "HMC, Omelyan": run(lambda a: HMC(a, integrator=OMELYAN)),
    "adjusted MCLMC": run(AdjustedMCLMC),
    "local": run(LocalMetropolis, 200),
    "HMC and Swendsen-Wang": run(lambda a: Alternate(HMC(a), SwendsenWang(a))),
    "local and Wolff": run(lambda a: Alternate(LocalMetropolis(a), LocalMetropolis(a), Wolff(a)), 100),
    "latent HMC": run(lambda a: LatentHMC(flow(), a), 16, 256, 12),
    "flow and HMC": run(lambda a: Alternate(IndependenceStep(flow(), a), HMC(a)), 40, 256, 20),
}


@cache
def estimates(name: str) -> dict[Callable, Estimate]:
    source = SAMPLERS[name](phi4())
    return {observable: source.mean(observable) for observable in truth()}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_has_the_same_physics(name):
    for observable, value in truth().items():
        estimate = estimates(name)[observable]
        assert abs(estimate.sigmas_from(value)) < 4, observable.__name__
        assert estimate.total_error < 0.025 * value, observable.__name__


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_has_the_physics_of_a_stronger_coupling(name):
    other = truth(1.25 * LAM)
    assert max(abs(estimates(name)[o].sigmas_from(value)) for o, value in other.items()) > 6
