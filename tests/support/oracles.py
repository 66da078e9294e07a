"""References for physics: quadrature, a second transfer matrix, series with known autocorrelations.

`transfer_matrix` shares no code with `equiflow.oracles`, so that each can judge the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import quad
from scipy.signal import lfilter
from torch import Tensor

from equiflow import (
    Action,
    EquivariantCNF,
    FreeField,
    FreeScalar,
    Lattice,
    OrbitConvField,
    PathGradient,
    Phi4,
    Solver,
    fit,
)


def one_site_moment(action: Phi4, power: int) -> float:
    """Return `<|phi|^power>` for the density `exp(-m2 phi^2 - lam phi^4)` on a lattice of one site."""

    def weight(x: float, n: int) -> float:
        return abs(x) ** n * math.exp(-action.m2 * x**2 - action.lam * x**4)

    moments = [quad(weight, 0, math.inf, args=(n,), epsabs=1e-13, epsrel=1e-11)[0] for n in (power, 0)]
    return moments[0] / moments[1]


def ar1(a: float, n: int, n_chains: int = 1, *, seed: int = 0) -> Tensor:
    """Return a stationary series `x' = a x + noise` of unit variance, `(n, n_chains)`.

    Its integrated autocorrelation time is `tau_int = (1 + a) / (2 (1 - a))`.
    """
    noise = np.random.default_rng(seed).standard_normal((n, n_chains))
    noise[1:] *= math.sqrt(1 - a * a)
    return torch.from_numpy(lfilter([1.0], [1.0, -a], noise, axis=0))


def free_samples(action: FreeScalar, n: int, *, seed: int = 0) -> Tensor:
    """Return n independent samples of a free field, `(n, *lattice)`."""
    prior = FreeField(action.lattice, m2=action.m2).double()
    return prior.rsample(n, torch.Generator().manual_seed(seed)).detach()


@dataclass(frozen=True)
class Exact:
    """Numerically exact results on a small two-dimensional lattice."""

    log_z: float
    phi_squared: float
    susceptibility: float
    nearest_neighbour: float
    nearest_neighbour_across: float


def transfer_matrix(
    n_slices: int, width: int, *, m2: float, lam: float, n_grid: int = 30, reach: float = 4.5, rank: int = 10
) -> Exact:
    """Solve phi^4 on a `(n_slices, width)` lattice by `Z = tr T^n_slices`, each site on a uniform grid.

    The trapezoid rule converges exponentially. The kernel of one site,
    `k(a, b) = exp(-V(a)/2 - (a - b)^2 - V(b)/2)`, has few eigenvalues that matter: `k = sum_i u_i u_i^T`.
    With `U = u x u x ...` and the links W inside a slice, `Z = tr B^n_slices` for `B = U^T W U`. There must
    be two slices or more: the eigenvalues left out are small enough if they are squared (1e-9).
    """
    phi = np.linspace(-reach, reach, n_grid)
    half = np.exp(-0.5 * (m2 * phi**2 + lam * phi**4)) * math.sqrt(phi[1] - phi[0])
    kernel = half[:, None] * np.exp(-((phi[:, None] - phi) ** 2)) * half
    values, vectors = np.linalg.eigh(kernel)
    u = vectors[:, -rank:] * np.sqrt(values[-rank:])
    pair = np.einsum("ai,aj->aij", u, u)

    sites = np.meshgrid(*[phi] * width, indexing="ij")
    bonds = sum((sites[(x + 1) % width] - sites[x]) ** 2 for x in range(width))
    # The kernel contains the measure, half from each of its slices, so W has none.
    inside = np.exp(-bonds)

    def slice_matrix(insertion: np.ndarray | float) -> np.ndarray:
        tensor = inside * insertion
        for _ in range(width):  # each turn sums over the first axis and appends (i, j)
            tensor = np.tensordot(tensor, pair, axes=(0, 0))
        order = [*range(0, 2 * width, 2), *range(1, 2 * width, 2)]
        return tensor.transpose(order).reshape(u.shape[1] ** width, -1)

    plain, total = slice_matrix(1.0), sum(sites)
    power = [np.linalg.matrix_power(plain, n) for n in range(n_slices)]
    z = float(np.sum(power[n_slices - 1] * plain.T))

    def average(insertion: np.ndarray) -> float:
        return float(np.sum(slice_matrix(insertion) * power[n_slices - 1].T)) / z

    def average_of_two(insertion: np.ndarray, distance: int) -> float:
        matrix = slice_matrix(insertion)
        there = matrix @ power[distance - 1] @ matrix
        return float(np.sum(there * power[n_slices - distance - 1].T)) / z

    squares = average(total**2) + sum(average_of_two(total, t) for t in range(1, n_slices))
    return Exact(
        log_z=math.log(z),
        phi_squared=average(sites[0] ** 2),
        susceptibility=squares / width,
        nearest_neighbour=average(sites[0] * sites[1 % width]),
        nearest_neighbour_across=average_of_two(sites[0], 1),
    )


def trained_flow(action: Action, *, steps: int = 60, batch_size: int = 96) -> EquivariantCNF:
    """Return a small flow after a short, reproducible training."""
    field = OrbitConvField(action.lattice, n_frequencies=4, n_time_modes=3, max_frequency=4.0)
    flow = EquivariantCNF(action.lattice, vector_field=field).double()
    objective = PathGradient(solver=Solver("rk4", steps=8))
    fit(flow, action, steps=steps, batch_size=batch_size, warmup=10, objective=objective, progress=False)
    return flow


def flat(lattice: Lattice, value: float, n: int = 1) -> Tensor:
    """Return n configurations with the same value at every site."""
    return torch.full((n, *lattice.shape), value, dtype=torch.float64)
