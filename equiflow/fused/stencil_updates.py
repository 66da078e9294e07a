"""Local and cluster updates of scalar fields by fused kernels."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.just_in_time import announce, in_parallel
from equiflow.fused.stencil import Stencil, as_matrix
from equiflow.fused.trajectories import Run, seeds


def metropolis_update(
    stencil: Stencil, phi: Tensor, colours: Tensor, width: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Update every site of every chain once, as `equiflow.samplers.LocalMetropolis` does.

    Args:
        stencil: the action, of a scalar field without external field.
        phi: `(n_chains, *lattice)`, on the CPU.
        colours: of the sites, `(*lattice)`.
        width: largest change of a site.
        generator: seeds the random numbers.

    Returns:
        The new fields, the fraction of sites that moved, and the mean probability of that, `(n_chains,)` each
        in float64.
    """
    from equiflow.fused.stencil_metropolis import sweep

    announce("local updates")
    run = Run(stencil, phi, generator)
    linked = sum(side > 1 for side in stencil.sides)
    scalars = [run.real(value) for value in (2 * linked + stencil.m2, stencil.lam, width)]
    rows, numbers = linked_rows(stencil.sides), colours.numpy().astype(np.uint8).ravel()

    def part(start: int, stop: int) -> None:
        sweep(
            *run.fields, rows, numbers, *scalars, *run.layout, np.uint64(start), np.uint64(stop), *run.seeds
        )

    in_parallel(part, run.n_chains, stencil.size)
    return run.results()


def cluster_update(
    stencil: Stencil, phi: Tensor, generator: torch.Generator | None, *, is_single: bool
) -> Tensor:
    """Flip clusters of every chain, as `equiflow.samplers.Wolff` and `SwendsenWang` do.

    Args:
        stencil: the action, of a scalar field without external field.
        phi: `(n_chains, *lattice)`, on the CPU.
        generator: seeds the random numbers.
        is_single: whether to flip the cluster of a random site; otherwise each cluster flips with probability
            1/2.

    Returns:
        The new fields.
    """
    from equiflow.fused.stencil_clusters import flip

    announce("clusters")
    old, new = as_matrix(phi), torch.empty_like(phi, memory_format=torch.contiguous_format)
    out, (ahead, behind), numbers = as_matrix(new), next_sites(stencil.sides), seeds(generator)

    def part(start: int, stop: int) -> None:
        flip(old, out, ahead, behind, is_single, start, stop, *numbers)

    in_parallel(part, old.shape[0], stencil.size)
    return new


@cache
def linked_rows(sides: tuple[int, ...]) -> Any:
    """Return the numbers of the rows to which each row is linked, without links of a row to itself.

    Args:
        sides: of the lattice.

    Returns:
        `(rows, links)` uint64.
    """
    row = np.arange(math.prod(sides[:-1]), dtype=np.uint64).reshape(sides[:-1])
    axes = [axis for axis, side in enumerate(sides[:-1]) if side > 1]
    found = [np.roll(row, shift, axis).ravel() for axis in axes for shift in (-1, 1)]
    return np.ascontiguousarray(np.array(found, np.uint64).reshape(len(found), row.size).T)


@cache
def next_sites(sides: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the number of the site ahead and behind along each axis, `(d, size)` int64 each."""
    site = np.arange(math.prod(sides)).reshape(sides)
    ahead, behind = (
        np.ascontiguousarray([np.roll(site, shift, axis).ravel() for axis in range(len(sides))])
        for shift in (-1, 1)
    )
    return ahead, behind
