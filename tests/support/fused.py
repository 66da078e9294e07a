"""The random numbers of fused kernels in plain torch and numpy, and actions that kernels know."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from equiflow import ExternalField, FreeScalar, Lattice, Multiplet, ONModel, Phi4
from equiflow.fused.trajectories import seeds
from equiflow.theories.base.action import Action
from tests.support.strategies import needs

needs_numba = needs("numba")

#: one of every kind: dimensions, odd and single sides, components, external fields, free fields
ACTIONS: dict[str, Action] = {
    "1d": Phi4(Lattice((5,)), m2=-1.0, lam=0.8),
    "1 site": Phi4(Lattice((1,)), m2=-1.0, lam=0.8),
    "2d": Phi4(Lattice((4, 6)), m2=-4.0, lam=5.0),
    "2d odd": Phi4(Lattice((3, 5)), m2=-1.0, lam=1.0),
    "2d narrow": Phi4(Lattice((6, 1)), m2=1.0, lam=0.5),
    "3d": Phi4(Lattice((2, 3, 4)), m2=-2.0, lam=1.5),
    "4d": Phi4(Lattice((2, 3, 2, 3)), m2=-2.0, lam=1.5),
    "free": FreeScalar(Lattice((4, 4)), m2=0.7),
    "O(3)": ONModel(Multiplet(Lattice((3, 4)), 3), m2=-1.0, lam=0.6),
    "O(2) in 3d": ONModel(Multiplet(Lattice((2, 2, 3)), 2), m2=-1.0, lam=0.6),
    "external field": ExternalField(Phi4(Lattice((4, 3)), m2=-1.0, lam=1.0), h=0.7),
    "O(2), external field": ExternalField(
        ExternalField(ONModel(Multiplet(Lattice((3, 3)), 2), m2=-1.0, lam=1.0), h=(0.2, 0.1)), h=(0.5, -0.3)
    ),
}
_MASK = 2**64 - 1


def hashed(z: np.ndarray) -> np.ndarray:
    """Return the finaliser of SplitMix64."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Streams:
    """The numbers that one update of fused kernels draws, chain by chain.

    Args:
        generator: in the state in which the update finds it when it draws its seeds.
        n_chains: number of chains.
    """

    def __init__(self, generator: torch.Generator, n_chains: int) -> None:
        seed, self.stride = (int(number) for number in seeds(generator))
        self.origin = hashed(np.array([(seed + c * self.stride) & _MASK for c in range(n_chains)], np.uint64))

    def bits(self, start: int, n: int) -> np.ndarray:
        """Return numbers `start ... start + n - 1` of each chain, `(n_chains, n)` uint64."""
        steps = np.array([(j * self.stride) & _MASK for j in range(start, start + n)], np.uint64)
        return hashed(self.origin[:, None] + steps)

    def uniform(self, start: int, n: int) -> Tensor:
        """Return uniform numbers of 53 bits, `(n_chains, n)` in float64."""
        return torch.from_numpy((self.bits(start, n) >> np.uint64(11)) * 2.0**-53 + 2.0**-54)

    def normal(self, size: int, dtype: torch.dtype, start: int = 0) -> Tensor:
        """Return standard normal numbers by Box and Muller, `(n_chains, size)`, two of two numbers."""
        half = (size + 1) // 2
        if dtype == torch.float64:
            radial, angular = self.uniform(start, 2 * half).unflatten(1, (half, 2)).unbind(-1)
        else:
            bits = self.bits(start, 2 * half)[:, ::2]
            parts = (bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF))
            radial, angular = (torch.from_numpy(part * 2.0**-32 + 2.0**-33) for part in parts)
        radius, angle = (-2 * radial.log()).sqrt(), 2 * math.pi * (angular - 0.5)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :size].to(dtype)
