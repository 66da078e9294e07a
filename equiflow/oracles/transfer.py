"""Transfer matrices of phi^4 chains and narrow strips: log Z and moments to many digits.

A slice is all sites at one time. With `V` the potential and `w(a) = exp(-bonds inside the slice)`,

    Z = tr T^N,    T(a, b) = prod_x k(a_x, b_x) w(b),    k(a, b) = exp(-V(a)/2 - (a - b)^2 - V(b)/2).

One site's kernel has few eigenvalues that matter: `k = sum_i u_i u_i^T`, u_i even or odd. In the basis
`u_i u_j ...` of products `T` is the symmetric `B = U^T w U`, one block per Z2 sector, and everything is
a sum over its spectrum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from equiflow.oracles.exact import Exact, longest_axis
from equiflow.oracles.grid import DROP, potential_minimum, spacing
from equiflow.oracles.site import SiteBasis
from equiflow.theories.scalar.phi4 import Phi4

MAX_WIDTH = 3
#: products of site functions to keep at most
MAX_STATES = 2000
#: per width of the slice: relative size of the kernel eigenvalues that are dropped, most functions per site
TRUNCATION = {1: (1e-15, 400), 2: (1e-11, 40), 3: (1e-8, 24)}


def transfer_matrix(action: Phi4, *, tolerance: float = 1e-6) -> Exact:
    """Solve a chain `(T,)` or a strip whose slices have at most three sites, such as `(3, T)`.

    Built from the lattice and the couplings alone: `action(phi)` is never called, so the result is a
    judge of its implementation. On a periodic side of 2 both links between two sites count, on a side
    of 1 a site is its own neighbour.

    Milliseconds for chains and strips of width 2. With three sites to a slice up to 5 s, longest for
    light, weakly coupled fields: a free one with m2 < 0.4 is refused.

    Args:
        action: `Phi4` (or `FreeScalar`); the longest axis is time, and may have any length.
        tolerance: largest accepted `Exact.error`.

    Raises:
        ValueError: if a slice across the longest axis has more than three sites.
        RuntimeError: if a finer grid and a larger basis move a result by more than `tolerance`.

    >>> from equiflow import Lattice
    >>> strip = transfer_matrix(Phi4(Lattice((3, 3)), m2=-4.0, lam=8.0))
    >>> strip.error < 1e-6
    True
    """
    width = action.lattice.volume // max(action.lattice.shape)
    if width > MAX_WIDTH:
        raise ValueError(
            f"A slice of lattice {action.lattice.shape} across its longest axis has {width} sites; "
            f"transfer_matrix handles at most {MAX_WIDTH}."
        )
    cut, most = TRUNCATION[width]
    step = spacing(action)
    fine = SiteBasis.build(action, step, DROP, cut, most)
    coarse = SiteBasis.build(action, 1.25 * step, 0.9 * DROP, 30 * cut, 7 * most // 8)
    # Every limit is tighter in the coarse one, also those that bind: else they would hide from the error.
    rough = _Strip(action, coarse, 30 * cut, MAX_STATES // 2).solve()
    return _Strip(action, fine, cut, MAX_STATES).solve().checked_against(rough, tolerance)


class _Strip:
    """The blocks of `B` and of operators on a slice, at one resolution.

    Args:
        action: whose lattice and couplings count.
        basis: functions of one site.
        cut: products of functions whose weight is below this are dropped.
        most: products to keep at most.
    """

    def __init__(self, action: Phi4, basis: SiteBasis, cut: float, most: int) -> None:
        shape, time = action.lattice.shape, longest_axis(action.lattice)
        self.time = time
        self.n_slices = shape[time]
        self.width = action.lattice.volume // self.n_slices
        self.log_scale = -action.lattice.volume * potential_minimum(action)
        number = np.arange(self.width).reshape(*shape[:time], 1, *shape[time + 1 :])
        #: for each axis the neighbour of every site of the slice; along time a site is its own
        self.neighbours = [np.roll(number, -1, axis).ravel() for axis in range(len(shape))]
        self.phi = np.meshgrid(*[basis.nodes] * self.width, indexing="ij", sparse=True)
        links = ((self.phi[x] - self.phi[y]) ** 2 for there in self.neighbours for x, y in enumerate(there))
        self.inside = np.exp(-sum(links, np.zeros((len(basis.nodes),) * self.width)))
        first, second = np.triu_indices(len(basis.weight))
        #: number of the pair {i, j}, and the products `u_i u_j`
        self.pair = np.zeros((len(basis.weight),) * 2, dtype=np.int64)
        self.pair[first, second] = self.pair[second, first] = np.arange(len(first))
        self.products = basis.functions[:, first] * basis.functions[:, second]
        states = np.indices(self.pair.shape[:1] * self.width).reshape(self.width, -1).T
        weight = basis.weight[states].prod(1)
        best = np.argsort(-weight)[:most]
        states = states[best[weight[best] > cut]]
        odd = basis.odd[states].sum(1) % 2 == 1
        self.sectors = states[~odd], states[odd]

    def solve(self) -> Exact:
        """All numbers as sums over the spectrum of `B`, `log Z` scaled by its largest eigenvalue."""
        identity = self._blocks(1.0, even=True)
        spectra, vectors = zip(*(np.linalg.eigh(block) for block in identity), strict=True)
        top = max(spectrum[-1] for spectrum in spectra)
        spectra = [spectrum.clip(0) / top for spectrum in spectra]
        n = self.n_slices
        z = sum(float((spectrum**n).sum()) for spectrum in spectra)

        def mean(operator: Any) -> float:
            # The operator's block stands for a factor B, in units of its largest eigenvalue like the rest.
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
        """`U^T w operator U` within each sector if the operator is even, from one to the other if odd."""
        integral = self.inside * operator
        for _ in range(self.width):  # consumes the first site, appends its pairs
            integral = np.tensordot(integral, self.products, axes=(0, 0))
        ends = zip(self.sectors, self.sectors, strict=True) if even else [self.sectors]
        return [
            integral[tuple(self.pair[np.ix_(bra[:, x], ket[:, x])] for x in range(self.width))]
            for bra, ket in ends
        ]
