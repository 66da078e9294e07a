"""Orthogonal matrices: generators of O(N) and draws from its Haar measure."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.randomness import check_draw


def generators_of_rotations(n: int) -> dict[str, Tensor]:
    """Return named n x n matrices in float64 that generate O(n) up to closure.

    They are a mirror and a rotation in each plane of neighbouring axes.
    """
    mirror = torch.eye(n, dtype=torch.float64, device="cpu")
    mirror[0, 0] = -1
    named = {"mirror of axis 0": mirror}
    for a in range(n - 1):
        turn = torch.eye(n, dtype=torch.float64, device="cpu")
        # One radian is not a rational part of a turn: its powers come close to every angle.
        turn[a, a] = turn[a + 1, a + 1] = math.cos(1.0)
        turn[a + 1, a] = math.sin(1.0)
        turn[a, a + 1] = -math.sin(1.0)
        named[f"rotation of axes {a} and {a + 1}"] = turn
    return named


def random_rotation(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw an orthogonal matrix from the Haar measure of O(n).

    Args:
        n: number of rows.
        generator: source of randomness, on the CPU; the global one by default.

    Returns:
        `(n, n)` in float64.

    Raises:
        TypeError: if `generator` is no generator.
    """
    check_draw(generator)
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64, device="cpu"))
    # Without the signs the matrix would not be distributed by the Haar measure.
    rotation: Tensor = q * r.diagonal().sign()
    return rotation
