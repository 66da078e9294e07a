"""The kernel between one site and the next, as a sum over few functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from equiflow.oracles.grid import potential_minimum, reach
from equiflow.theories.scalar.phi4 import Phi4


@dataclass(frozen=True)
class SiteBasis:
    """`k(a, b) = exp(-V(a)/2 - (a - b)^2 - V(b)/2) = sum_i u_i(a) u_i(b)` on a grid.

    Attributes:
        nodes: `(n,)`.
        functions: `u_i` times the root of the grid's measure, `(n, r)`.
        weight: eigenvalue of each, relative to the largest, `(r,)`.
        odd: parity of each, `(r,)`.
    """

    nodes: np.ndarray
    functions: np.ndarray
    weight: np.ndarray
    odd: np.ndarray

    @classmethod
    def build(cls, action: Phi4, step: float, drop: float, cut: float, most: int) -> SiteBasis:
        """Diagonalise the kernel on midpoints of cells of width `step`, where `V - min V < drop`.

        Args:
            action: whose couplings count.
            step: width of a cell; midpoints converge exponentially for densities that decay.
            drop: where the field is cut off.
            cut: eigenvalues below this fraction of the largest are dropped.
            most: functions to keep at most.
        """
        half = step * (np.arange(math.ceil(reach(action, drop) / step)) + 0.5)
        potential = (action.m2 + action.lam * half**2) * half**2 - potential_minimum(action)
        measure = np.exp(-0.5 * potential) * math.sqrt(step)
        straight = measure[:, None] * np.exp(-((half[:, None] - half) ** 2)) * measure
        mirrored = measure[:, None] * np.exp(-((half[:, None] + half) ** 2)) * measure
        values, functions, odd = [], [], []
        for sign in (1, -1):  # folded on the half axis, or tunnelling pairs would mix their parity
            spectrum, vectors = np.linalg.eigh(straight + sign * mirrored)
            full = np.concatenate([sign * vectors[::-1], vectors]) / math.sqrt(2)
            values.append(spectrum)
            functions.append(full * np.sqrt(spectrum.clip(0)))
            odd.append(np.full(len(spectrum), sign < 0))
        weight = np.concatenate(values) / max(v.max() for v in values)
        best = np.argsort(-weight)[:most]
        best = best[weight[best] > cut]
        nodes = np.concatenate([-half[::-1], half])
        return cls(nodes, np.hstack(functions)[:, best], weight[best], np.hstack(odd)[best])
