"""Transfer matrices of phi^4 chains and narrow strips, with log Z and moments to many digits.

A slice is all sites at one time. With the potential `V` and `w(a) = exp(-links inside the slice)`,

    Z = tr T^N,    T(a, b) = prod_x k(a_x, b_x) w(b),    k(a, b) = exp(-V(a)/2 - (a - b)^2 - V(b)/2).

The kernel of one site has few eigenvalues that matter: `k = sum_i u_i u_i^T` with even and odd `u_i`. In the
basis of products `u_i u_j ...`, T becomes the symmetric matrix `B = U^T w U` with one block per Z2 sector.
`transfer_matrix` returns sums over the spectrum of B.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from equiflow.oracles.exact import Exact, longest_axis
from equiflow.oracles.grid import POTENTIAL_CUTOFF, check_solvable, potential_minimum, spacing
from equiflow.oracles.site import SiteBasis
from equiflow.theories.scalar.phi4 import Phi4

#: largest number of sites in a slice
MAX_WIDTH = 3
#: largest number of products of site functions
MAX_STATES = 2000
#: for each width of a slice: smallest relative eigenvalue of the kernel, largest number of functions per site
TRUNCATION = {1: (1e-15, 400), 2: (1e-11, 40), 3: (1e-8, 24)}


def transfer_matrix(action: Phi4, *, tolerance: float = 1e-6) -> Exact:
    """Solve a chain `(T,)` or a strip whose slices have at most three sites, such as `(3, T)`.

    Only the lattice, `m2` and `lam` are used. `action(phi)` is never called, so the result can judge it. On a
    periodic side of 2, both links between two sites count. On a side of 1, a site is its own neighbour.

    Chains and strips of width 2 take milliseconds. Slices of three sites take up to 5 s, longest for light
    and weakly coupled fields; a free field with m2 < 0.4 does not converge.

    Args:
        action: `Phi4` (or `FreeScalar`); the longest axis is time, and may have any length.
        tolerance: largest accepted `Exact.error`.

    Returns:
        All numbers of `Exact`.

    Raises:
        TypeError: if it is no `Phi4`.
        ValueError: if a slice across the longest axis has more than three sites.
        RuntimeError: if a finer grid and a larger basis move a result by more than `tolerance`.

    >>> from equiflow import Lattice
    >>> strip = transfer_matrix(Phi4(Lattice((3, 3)), m2=-4.0, lam=8.0))
    >>> strip.error < 1e-6
    True
    """
    check_solvable(action, "transfer_matrix")
    width = action.lattice.volume // max(action.lattice.shape)
    if width > MAX_WIDTH:
        raise ValueError(
            f"A slice of lattice {action.lattice.shape} across its longest axis has {width} sites; "
            f"transfer_matrix handles at most {MAX_WIDTH}."
        )
    min_weight, max_functions = TRUNCATION[width]
    step = spacing(action)
    fine = SiteBasis.build(action, step, POTENTIAL_CUTOFF, min_weight, max_functions)
    # Every limit is tighter for the coarse solution, so that the error sees each of them.
    coarse = SiteBasis.build(
        action, 1.25 * step, 0.9 * POTENTIAL_CUTOFF, 30 * min_weight, 7 * max_functions // 8
    )
    rough = _Strip(action, coarse, 30 * min_weight, MAX_STATES // 2).solve()
    return _Strip(action, fine, min_weight, MAX_STATES).solve().checked_against(rough, tolerance)


class _Strip:
    """Blocks of `B` and of operators on a slice, at one resolution.

    Args:
        action: its lattice, `m2` and `lam` count.
        basis: functions of one site.
        min_weight: products of functions with a smaller weight are dropped.
        max_states: largest number of products.
    """

    def __init__(self, action: Phi4, basis: SiteBasis, min_weight: float, max_states: int) -> None:
        shape, time = action.lattice.shape, longest_axis(action.lattice)
        self.time = time
        self.n_slices = shape[time]
        self.width = action.lattice.volume // self.n_slices
        self.log_scale = -action.lattice.volume * potential_minimum(action)
        number = np.arange(self.width).reshape(*shape[:time], 1, *shape[time + 1 :])
        # For each axis, the neighbour of every site of the slice. Along time a site is its own neighbour.
        self.neighbours = [np.roll(number, -1, axis).ravel() for axis in range(len(shape))]
        self.phi = np.meshgrid(*[basis.nodes] * self.width, indexing="ij", sparse=True)
        links = ((self.phi[x] - self.phi[y]) ** 2 for there in self.neighbours for x, y in enumerate(there))
        self.inside = np.exp(-sum(links, np.zeros((len(basis.nodes),) * self.width)))
        first, second = np.triu_indices(len(basis.weight))
        # The number of each pair {i, j}, and the products u_i u_j.
        self.pair = np.zeros((len(basis.weight),) * 2, dtype=np.int64)
        self.pair[first, second] = self.pair[second, first] = np.arange(len(first))
        self.products = basis.functions[:, first] * basis.functions[:, second]
        states = np.indices(self.pair.shape[:1] * self.width).reshape(self.width, -1).T
        weight = basis.weight[states].prod(1)
        best = np.argsort(-weight)[:max_states]
        states = states[best[weight[best] > min_weight]]
        odd = basis.odd[states].sum(1) % 2 == 1
        self.sectors = states[~odd], states[odd]

    def solve(self) -> Exact:
        """Return all numbers as sums over the spectrum of `B`, in units of its largest eigenvalue."""
        identity = self._blocks(1.0, even=True)
        spectra, vectors = zip(*(np.linalg.eigh(block) for block in identity), strict=True)
        top = max(spectrum[-1] for spectrum in spectra)
        spectra = [spectrum.clip(0) / top for spectrum in spectra]
        n = self.n_slices
        z = sum(float((spectrum**n).sum()) for spectrum in spectra)

        def mean(operator: Any) -> float:
            # The block of the operator replaces one factor B, so it is scaled like B.
            blocks = zip(self._blocks(operator / top, even=True), vectors, spectra, strict=True)
            traces = (((block @ q) * q).sum(0) @ spectrum ** (n - 1) for block, q, spectrum in blocks)
            return float(sum(traces)) / z

        def correlator(operator: Any) -> list[float]:
            (block,) = self._blocks(operator / top, even=False)
            square = (vectors[0].T @ block @ vectors[1]) ** 2
            pairs = ((spectra[0], square, spectra[1]), (spectra[1], square.T, spectra[0]))
            later = [
                float(sum(a ** (t - 1) @ m @ b ** (n - t - 1) for a, m, b in pairs)) / z for t in range(1, n)
            ]
            return [mean(operator**2), *later]

        here, total = self.phi[0], sum(self.phi[1:], self.phi[0])
        along = correlator(here)[1 % n]
        return Exact(
            log_z=self.log_scale + n * math.log(top) + math.log(z),
            phi_squared=mean(here**2),
            phi_fourth=mean(here**4),
            nearest_neighbour=tuple(
                along if axis == self.time else mean(here * self.phi[there[0]])
                for axis, there in enumerate(self.neighbours)
            ),
            correlator=tuple(c / self.width for c in correlator(total)),
        )

    def _blocks(self, operator: Any, *, even: bool) -> list[np.ndarray]:
        """Return `U^T w operator U`: a block per sector for an even operator, else one across the sectors."""
        integral = self.inside * operator
        for _ in range(self.width):  # each turn sums over the first site and appends its pairs
            integral = np.tensordot(integral, self.products, axes=(0, 0))
        ends = zip(self.sectors, self.sectors, strict=True) if even else [self.sectors]
        return [
            integral[tuple(self.pair[np.ix_(bra[:, x], ket[:, x])] for x in range(self.width))]
            for bra, ket in ends
        ]
