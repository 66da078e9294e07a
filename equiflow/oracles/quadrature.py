"""Direct Gauss-Legendre quadrature of any phi^4-like action on one, two or three sites: `quadrature`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from equiflow.oracles.exact import Exact, longest_axis
from equiflow.oracles.grid import check_solvable, reach, spacing
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar import observables
from equiflow.theories.scalar.phi4 import Phi4

MAX_SITES = 3


def quadrature(action: Phi4, *, tolerance: float = 1e-8) -> Exact:
    """Integrate `Z = int d^V phi exp(-S[phi])` and its moments, with a check of convergence.

    The integrand calls `action(phi)`, so a subclass with another `S` gets its own results. The range of the
    field follows from `m2` and `lam`.

    Args:
        action: an action on at most three sites, arranged in any dimension.
        tolerance: largest accepted `Exact.error`.

    Returns:
        All numbers of `Exact`.

    Raises:
        TypeError: if it is no `Phi4`.
        ValueError: if the lattice has more than three sites.
        RuntimeError: if a finer grid moves a result by more than `tolerance`.
    """
    check_solvable(action, "quadrature")
    if action.lattice.volume > MAX_SITES:
        raise ValueError(
            f"Quadrature is for at most {MAX_SITES} sites, got lattice {action.lattice.shape} with "
            f"{action.lattice.volume}. Use transfer_matrix for chains and strips."
        )
    # Gauss-Legendre needs pi / 2 times the nodes of a uniform grid.
    n_nodes = 24 + math.ceil(math.pi * reach(action) / spacing(action))
    fine = _integrate(action, n_nodes)
    return fine.checked_against(_integrate(action, 3 * n_nodes // 4), tolerance)


@torch.no_grad()
def _integrate(action: Phi4, n_nodes: int) -> Exact:
    """Integrate with `n_nodes` nodes per site."""
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    line = torch.from_numpy(reach(action) * nodes)
    log_weight = torch.from_numpy(np.log(reach(action) * weights))
    lattice, rest = action.lattice, action.lattice.volume - 1
    others, log_cell = _product(line, rest), _product(log_weight, rest).sum(1)
    measure = _measure(lattice)
    log_norms, means = [], []
    for first, log_first in zip(line, log_weight, strict=True):  # one value of the first site at a time
        phi = torch.cat([first.expand(len(others), 1), others], dim=1).reshape(-1, *lattice.shape)
        log_p = -action(phi) + log_cell + log_first
        log_norms.append(log_p.logsumexp(0))
        means.append(log_p.softmax(0) @ measure(phi))
    log_norm = torch.stack(log_norms)
    values = (log_norm.softmax(0) @ torch.stack(means)).tolist()
    neighbours, correlator = values[2 : 2 + lattice.dim], values[2 + lattice.dim :]
    log_z = float(log_norm.logsumexp(0))
    return Exact(log_z, values[0], values[1], tuple(neighbours), tuple(correlator))


def _measure(lattice: Lattice) -> Callable[[Tensor], Tensor]:
    """Return a function that measures the numbers of `Exact` side by side, `(batch, n_numbers)`."""
    time = longest_axis(lattice)

    def measure(phi: Tensor) -> Tensor:
        local = [observables.phi_squared(phi), observables.phi_fourth(phi)]
        neighbours = [(phi * phi.roll(-1, axis)).mean(lattice.axes) for axis in lattice.axes]
        correlator = observables.zero_momentum_correlator(phi, time)
        return torch.cat([torch.stack(local + neighbours, 1), correlator], 1)

    return measure


def _product(values: Tensor, times: int) -> Tensor:
    """Return all tuples of `times` values, `(n^times, times)`; for `times = 0` the empty tuple."""
    return torch.cartesian_prod(*[values] * times).reshape(-1, times) if times else values.new_zeros(1, 0)
