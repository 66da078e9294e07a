"""Kernel between neighbouring sites in time, as a sum over few functions: `SiteBasis`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from equiflow.oracles.grid import potential_minimum, reach
from equiflow.theories.scalar.phi4 import Phi4


@dataclass(frozen=True)
class SiteBasis:
    """Eigenfunctions of `k(a, b) = exp(-V(a)/2 - (a - b)^2 - V(b)/2) = sum_i u_i(a) u_i(b)` on a grid.

    Attributes:
        nodes: values of the field, `(n,)`.
        functions: `u_i` times the square root of the measure of the grid, `(n, r)`.
        weight: eigenvalue of each function, relative to the largest, `(r,)`.
        odd: whether each function is odd, `(r,)`.
    """

    nodes: np.ndarray
    functions: np.ndarray
    weight: np.ndarray
    odd: np.ndarray

    @classmethod
    def build(
        cls, action: Phi4, step: float, cutoff: float, min_weight: float, max_functions: int
    ) -> SiteBasis:
        """Diagonalise the kernel on the midpoints of cells of width `step`, for `V - min V < cutoff`.

        Args:
            action: its `m2` and `lam` count.
            step: width of a cell. The midpoint rule converges exponentially for densities that decay.
            cutoff: height of the potential, above its minimum, where the field is cut off.
            min_weight: eigenvalues below this fraction of the largest are dropped.
            max_functions: largest number of functions to keep.

        Returns:
            The functions with the largest eigenvalues.
        """
        half = step * (np.arange(math.ceil(reach(action, cutoff) / step)) + 0.5)
        potential = (action.m2 + action.lam * half**2) * half**2 - potential_minimum(action)
        measure = np.exp(-0.5 * potential) * math.sqrt(step)
        straight = measure[:, None] * np.exp(-((half[:, None] - half) ** 2)) * measure
        mirrored = measure[:, None] * np.exp(-((half[:, None] + half) ** 2)) * measure
        values, functions, odd = [], [], []
        # Each parity is solved on the half axis: on the full axis, tunnelling pairs would mix their parities.
        for sign in (1, -1):
            spectrum, vectors = np.linalg.eigh(straight + sign * mirrored)
            full = np.concatenate([sign * vectors[::-1], vectors]) / math.sqrt(2)
            values.append(spectrum)
            functions.append(full * np.sqrt(spectrum.clip(0)))
            odd.append(np.full(len(spectrum), sign < 0))
        weight = np.concatenate(values) / max(v.max() for v in values)
        best = np.argsort(-weight)[:max_functions]
        best = best[weight[best] > min_weight]
        nodes = np.concatenate([-half[::-1], half])
        return cls(nodes, np.hstack(functions)[:, best], weight[best], np.hstack(odd)[best])
