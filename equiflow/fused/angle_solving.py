"""Calls of the kernels of `equiflow.fused.angle_solves`, which record no graph: `rates` and `solve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.just_in_time import announce
from equiflow.fused.solving import Formula, by_blocks, flattened


@dataclass(frozen=True)
class AngleTables:
    """What the kernels know of a field of angles at several times, see `equiflow.fused.angle_fields`.

    Attributes:
        kernels: `K_n`, then `L_c`, then the products `L_c L_c'` with c <= c', in modes, `(time, kernel, V)`.
        slopes: B, `(time, channel, ridge)`.
        bends: D, `(time, ridge, pair)`.
        at_origin: `L_c(0)`, `(time, channel)`.
        constant: `V sum_n n K_n(0)`, `(time,)`.
        angles: W, `(ridge, channel)`, in half turns.
        phase: `(ridge,)`, in half turns.
    """

    kernels: Tensor
    slopes: Tensor
    bends: Tensor
    at_origin: Tensor
    constant: Tensor
    angles: Tensor
    phase: Tensor

    def arrays(self, shape: tuple[int, int]) -> tuple[Any, Any, Any]:
        """Return tables, ridges and basis as the kernels take them, on a lattice of two sides."""
        from equiflow.fused import modes

        fields = (getattr(self, name) for name in AngleTables.__dataclass_fields__)
        kernels, *others = (x.detach().contiguous().numpy() for x in fields)
        slopes, bends, at_origin, constant, angles, phase = others
        in_modes = kernels.reshape(*kernels.shape[:2], *shape)
        basis = modes.matrices(shape, self.kernels.dtype)
        return (in_modes, slopes, bends, at_origin, constant), (angles, phase), basis


def rates(theta: Tensor, shape: tuple[int, int], tables: AngleTables) -> tuple[Tensor, Tensor]:
    """Return velocity and divergence at the one time of the tables, without a graph.

    Args:
        theta: `(batch, *lattice)`.
        shape: sides of the lattice, two of them.
        tables: at one time.

    Returns:
        Velocity `(batch, *lattice)` and divergence `(batch,)`.
    """
    from equiflow.fused import angle_solves

    flat = flattened(theta)
    velocity, divergence = np.empty_like(flat), np.empty(len(flat))
    given = (flat, *tables.arrays(shape), velocity, divergence)
    by_blocks(
        flat, angle_solves.SITES_PER_BLOCK, 1, lambda first, size, _: angle_solves.rates(first, size, *given)
    )
    return torch.from_numpy(velocity).view_as(theta), torch.from_numpy(divergence).to(theta.dtype)


def solve(
    theta: Tensor, shape: tuple[int, int], tables: AngleTables, formula: Formula
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry configurations through all steps, without a graph.

    Args:
        theta: `(batch, *lattice)`.
        shape: sides of the lattice, two of them.
        tables: at the times of all evaluations, in their order.
        formula: of a step.

    Returns:
        The final angles, `int div v dt` and `int sum_x v_x^2 dt`.
    """
    from equiflow.fused import angle_solves

    announce("AngleField")
    flat = flattened(theta).copy()
    step, h = formula.arrays(flat.dtype)
    log_det, energy = np.zeros(len(flat)), np.zeros(len(flat))
    given = (flat, log_det, energy, *tables.arrays(shape), step, h)
    n_times = len(tables.constant)
    by_blocks(
        flat,
        angle_solves.SITES_PER_BLOCK,
        n_times,
        lambda first, size, _: angle_solves.solve(first, size, *given),
    )
    numbers = [torch.from_numpy(x).to(theta.dtype) for x in (log_det, energy)]
    return torch.from_numpy(flat).view_as(theta), numbers[0], numbers[1]
