"""Orthogonal matrices: generators of O(N) and draws from its Haar measure."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def generators_of_rotations(n: int) -> dict[str, Tensor]:
    """A mirror and a rotation in each plane of neighbouring axes, n x n in float64."""
    mirror = torch.eye(n, dtype=torch.float64, device="cpu")
    mirror[0, 0] = -1
    named = {"mirror of axis 0": mirror}
    for a in range(n - 1):
        turn = torch.eye(n, dtype=torch.float64, device="cpu")
        # One radian is no rational part of a turn: its powers come close to every angle.
        turn[a, a] = turn[a + 1, a + 1] = math.cos(1.0)
        turn[a + 1, a] = math.sin(1.0)
        turn[a, a + 1] = -math.sin(1.0)
        named[f"rotation of axes {a} and {a + 1}"] = turn
    return named


def random_rotation(n: int, generator: torch.Generator | None = None) -> Tensor:
    """An orthogonal n x n matrix drawn by the Haar measure, in float64."""
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64, device="cpu"))
    return q * r.diagonal().sign()  # without the signs the measure is not Haar's
