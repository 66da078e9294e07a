"""Whole updates of HMC in one kernel: momenta, trajectory, energies, and acceptance."""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit
from equiflow.fused.stencil_kernels import energies, kick_and_drift, load, store
from equiflow.fused.stencil_noise import exp_64, fill_normal, hashed, stream, uniform_64

U = np.uint64


@jit
def hmc(
    phi: Any,
    out: Any,
    accepted: Any,
    probability: Any,
    beside: Any,
    couplings: Any,
    kicks: Any,
    drifts: Any,
    side: Any,
    most_lanes: Any,
    start: Any,
    stop: Any,
    seed: Any,
    stride: Any,
) -> None:
    """Update chains `start ... stop - 1` by one trajectory each.

    Args:
        phi: fields, `(batch, size)`.
        out: where the new fields go, `(batch, size)`.
        accepted: 1 or 0 for each chain, float64.
        probability: of acceptance, float64.
        beside: see `neighbouring_rows`.
        couplings: see `Stencil.couplings`.
        kicks: coefficients times step, in their order; one more than drifts.
        drifts: the same.
        side: length of a row; uint64.
        most_lanes: chains in a block, a power of two; uint64.
        start: first chain; uint64.
        stop: the chain after the last one; uint64.
        seed: of the random numbers; uint64.
        stride: the same, odd.
    """
    size, real = U(phi.shape[1]), phi.dtype
    rows = size // side
    half = (size + U(1)) // U(2)
    length = rows * (side + U(2)) * most_lanes
    source, target = np.empty(length, real), np.empty(length, real)
    momentum = np.empty(U(2) * half * most_lanes, real)
    work, sums = np.empty((2, side * most_lanes), real), np.empty(side * most_lanes)
    before, after = np.empty(most_lanes), np.empty(most_lanes)
    none = momentum.dtype.type(0)
    first = start
    while first < stop:
        chains = min(most_lanes, stop - first)
        lanes = U(1)
        while lanes < chains:
            lanes = lanes << U(1)
        load(phi, source, first, chains, rows, side, lanes)
        fill_normal(momentum, lanes, first, half, side, seed, stride, U(0))
        energies(source, momentum, beside, couplings, side, lanes, work, sums, before)
        for step in range(len(drifts)):
            kick_and_drift(
                source, target, momentum, beside, couplings, kicks[step], drifts[step], side, lanes, work
            )
            source, target = target, source
        kick_and_drift(source, target, momentum, beside, couplings, kicks[-1], none, side, lanes, work)
        energies(source, momentum, beside, couplings, side, lanes, work, sums, after)
        for lane in range(chains):
            change, chain = after[lane] - before[lane], first + lane
            uniform = uniform_64(hashed(stream(seed, stride, chain) + U(2) * half * stride))
            # NaN, after a trajectory beyond the range of floating point, stands for zero density.
            chance = exp_64(-max(change, 0.0)) if change == change else 0.0
            accepted[chain] = 1.0 if uniform < chance else 0.0
            probability[chain] = chance
        store(out, source, first, chains, rows, side, lanes)
        for chain in range(first, first + chains):
            if accepted[chain] == 0.0:
                out[chain] = phi[chain]
        first += chains
