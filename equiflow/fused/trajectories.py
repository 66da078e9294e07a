"""Trajectories of HMC for actions that are a `Stencil`, by one kernel for momenta, integration and acceptance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.just_in_time import announce, in_parallel
from equiflow.fused.stencil import Stencil, as_matrix, neighbouring_rows

FLOATS = {torch.float32: np.float32, torch.float64: np.float64}


def seeds(generator: torch.Generator | None) -> tuple[np.uint64, np.uint64]:
    """Draw what makes a stream of random numbers within a kernel: a seed and an odd stride."""
    drawn = torch.empty(2, dtype=torch.int64).random_(generator=generator).tolist()
    return np.uint64(drawn[0]), np.uint64(2 * drawn[1] + 1)


def hmc_update(
    stencil: Stencil,
    phi: Tensor,
    kicks: Sequence[float],
    drifts: Sequence[float],
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Update every chain by one trajectory with unit mass.

    Args:
        stencil: the action.
        phi: `(n_chains, *shape)`, on the CPU.
        kicks: coefficients times step of all kicks of the trajectory, one more than drifts.
        drifts: the same of all drifts.
        generator: seeds the random numbers.

    Returns:
        The new fields; 1 or 0 for each chain, whether its trajectory was accepted, `(n_chains,)` in float64;
        and the probability that it is.
    """
    from equiflow.fused.trajectory_kernels import hmc

    announce("trajectories")
    old, new = as_matrix(phi), np.empty(tuple(phi.shape), FLOATS[phi.dtype])
    n_chains, real = old.shape[0], old.dtype.type
    accepted, probability = np.empty(n_chains), np.empty(n_chains)
    lanes, side = np.uint64(stencil.lanes(n_chains, old.itemsize)), np.uint64(stencil.sides[-1])
    rows, couplings = neighbouring_rows(stencil.sides), stencil.couplings(real)
    all_kicks, all_drifts = np.array(kicks, real), np.array(drifts, real)
    out, (seed, stride) = new.reshape(n_chains, -1), seeds(generator)

    def part(start: int, stop: int) -> None:
        hmc(old, out, accepted, probability, rows, couplings, all_kicks, all_drifts, side, lanes,
            np.uint64(start), np.uint64(stop), seed, stride)  # fmt: skip

    in_parallel(part, n_chains, stencil.size * len(drifts))
    return torch.from_numpy(new), torch.from_numpy(accepted), torch.from_numpy(probability)
