"""Trajectories for actions that are a `Stencil`: one kernel draws, integrates, and accepts or rejects."""

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
    drawn = torch.empty(2, dtype=torch.int64, device="cpu").random_(generator=generator).tolist()
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
    from equiflow.fused.trajectories_hmc import hmc

    announce("trajectories")
    run, coefficients = Run(stencil, phi, generator), (np.array(kicks), np.array(drifts))
    all_kicks, all_drifts = (row.astype(run.real) for row in coefficients)

    def part(start: int, stop: int) -> None:
        hmc(*run.fields, run.rows, run.couplings, all_kicks, all_drifts, *run.layout,
            np.uint64(start), np.uint64(stop), *run.seeds)  # fmt: skip

    in_parallel(part, run.n_chains, stencil.size * len(drifts))
    return run.results()


def mclmc_update(
    stencil: Stencil,
    phi: Tensor,
    kicks: Sequence[tuple[float, float]],
    refreshments: Sequence[float],
    drifts: Sequence[float],
    generator: torch.Generator | None,
    *,
    forces_per_step: int,
    is_adjusted: bool,
    is_measured: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Update every chain by one microcanonical trajectory, see `equiflow.samplers.mclmc`.

    Args:
        stencil: the action.
        phi: `(n_chains, *shape)`, on the CPU.
        kicks: coefficients times step before and after the refreshment at each force.
        refreshments: weight of the noise at each force, 0 where there is none.
        drifts: coefficients times step of all drifts, one less than forces.
        generator: seeds the random numbers.
        forces_per_step: number of forces of a step of the integrator.
        is_adjusted: whether trajectories are accepted or rejected.
        is_measured: whether to measure the energy errors of steps, without adjustment.

    Returns:
        The new fields, the acceptance and its probability as in `hmc_update`; and the mean square of the
        energy error of a step, divided by the number of values, `(n_chains,)`, which is empty if not
        measured.
    """
    from equiflow.fused.trajectories_mclmc import mclmc

    announce("microcanonical trajectories")
    run = Run(stencil, phi, generator)
    errors = np.empty(run.n_chains if is_measured else 0)
    all_kicks, noise, all_drifts = np.array(kicks), np.array(refreshments), np.array(drifts, run.real)

    def part(start: int, stop: int) -> None:
        mclmc(*run.fields, errors, run.rows, run.couplings, all_kicks, noise, all_drifts,
              np.uint64(forces_per_step), is_adjusted, *run.layout,
              np.uint64(start), np.uint64(stop), *run.seeds)  # fmt: skip

    in_parallel(part, run.n_chains, stencil.size * len(drifts))
    return run.results(), torch.from_numpy(errors)


class Run:
    """What kernels take: arrays for their results, the layout of blocks, and seeds."""

    def __init__(self, stencil: Stencil, phi: Tensor, generator: torch.Generator | None) -> None:
        old, self.new = as_matrix(phi), np.empty(tuple(phi.shape), FLOATS[phi.dtype])
        self.n_chains, self.real = old.shape[0], old.dtype.type
        accepted, probability = np.empty(self.n_chains), np.empty(self.n_chains)
        self.fields = (old, self.new.reshape(old.shape), accepted, probability)
        self.rows, self.couplings = neighbouring_rows(stencil.sides), stencil.couplings(self.real)
        self.layout = (
            np.uint64(stencil.sides[-1]),
            np.uint64(stencil.lanes(self.n_chains, old.itemsize)),
        )
        self.seeds = seeds(generator)

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the new fields, the acceptance, and its probability."""
        _, _, accepted, probability = self.fields
        return torch.from_numpy(self.new), torch.from_numpy(accepted), torch.from_numpy(probability)
