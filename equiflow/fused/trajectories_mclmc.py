"""Whole updates of microcanonical Monte Carlo in one kernel: velocities, trajectory, and acceptance."""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit
from equiflow.fused.stencil_kernels import add_up, energies, load, store
from equiflow.fused.stencil_noise import exp_64, fill_normal, hashed, stream, uniform_64
from equiflow.fused.stencil_velocities import combine, gradient, kick, noise_products, set_off, spread

U = np.uint64
_ONE, _TWO = U(1), U(2)


@jit
def conclude(total: Any, is_adjusted: Any, uniform: Any) -> Any:
    """Return whether a trajectory is accepted, as 1 or 0, and the probability of that.

    Args:
        total: change of the energy.
        is_adjusted: whether trajectories can be rejected.
        uniform: a random number in (0, 1).

    Returns:
        1 or 0, and the probability.
    """
    chance = 0.0
    if np.isfinite(total):
        chance = exp_64(-max(total, 0.0)) if is_adjusted else 1.0
    return (1.0 if uniform < chance else 0.0), chance


@jit
def mclmc(  # noqa: C901 (a kernel calls no methods)
    phi: Any,
    out: Any,
    accepted: Any,
    probability: Any,
    errors: Any,
    beside: Any,
    couplings: Any,
    kicks: Any,
    refreshments: Any,
    drifts: Any,
    steps: Any,
    is_adjusted: Any,
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
        accepted: 1 or 0 for each chain, float64. Without adjustment 0 stands for a trajectory that overflows.
        probability: of acceptance, float64.
        errors: mean square of the energy error of a step, divided by d; not measured if it is empty, and only
            without adjustment.
        beside: see `neighbouring_rows`.
        couplings: see `Stencil.couplings`.
        kicks: coefficients times step before and after the refreshment at each force, `(forces, 2)` in
            float64.
        refreshments: weight of the noise between both kicks at each force; 0 for none.
        drifts: coefficients times step after each force but the last, in the dtype of the fields.
        steps: number of forces after each of which a step of the integrator is complete.
        is_adjusted: whether trajectories are accepted or rejected by their energy error.
        side: length of a row; uint64 as all that follow.
        most_lanes: chains in a block, a power of two.
        start: first chain.
        stop: the chain after the last one.
        seed: of the random numbers.
        stride: the same, odd.
    """
    size, kind = U(phi.shape[1]), phi.dtype
    rows, components, d = U(len(beside)), U(len(couplings) - 3), np.float64(size)
    half = (size + _ONE) // _TWO
    length = components * rows * (side + _TWO) * most_lanes
    source, target = np.empty(length, kind), np.empty(length, kind)
    velocity, drawn = np.empty(_TWO * half * most_lanes, kind), np.empty(_TWO * half * most_lanes, kind)
    force, nothing = np.zeros(size * most_lanes, kind), np.empty(0, kind)
    work, sums = np.empty((2, side * most_lanes), kind), np.empty(side * most_lanes)
    partial, factors = np.empty((3, side * most_lanes), kind), np.empty((3, side * most_lanes), kind)
    dots, energy = np.zeros((5, most_lanes)), np.zeros((2, most_lanes))
    since, total, square = np.empty(most_lanes), np.empty(most_lanes), np.empty(most_lanes)
    changes, is_measured = np.empty((2, most_lanes)), len(errors) > 0
    first = start
    while first < stop:
        chains = min(most_lanes, stop - first)
        lanes = _ONE
        while lanes < chains:
            lanes = lanes << _ONE
        n = side * lanes
        load(phi, source, first, chains, components * rows, side, lanes)
        fill_normal(velocity, lanes, first, half, side, seed, stride, U(0))
        set_off(velocity, size, n, lanes, partial, factors, dots[0])
        since[:], total[:], square[:] = 0.0, 0.0, 0.0
        if is_measured or is_adjusted:
            energies(source, nothing, beside, couplings, side, lanes, work, sums, energy[0])
        for site in range(len(kicks)):
            noise = nothing
            gradient(source, force, velocity, beside, couplings, side, lanes, work, partial)
            add_up(partial[0], n, lanes, dots[0])
            add_up(partial[1], n, lanes, dots[1])
            if refreshments[site] > 0.0:
                fill_normal(drawn, lanes, first, half, side, seed, stride, _TWO * half * U(site))
                noise = drawn
                noise_products(force, velocity, noise, size, n, lanes, partial)
                for k in range(3):
                    add_up(partial[k], n, lanes, dots[2 + k])
            else:
                dots[2:] = 0.0
            kick(kicks[site], refreshments[site], dots, d, lanes, factors, changes[0], changes[1])
            if is_measured and site > 0 and U(site) % steps == U(0):
                energies(source, nothing, beside, couplings, side, lanes, work, sums, energy[1])
                for lane in range(lanes):
                    square[lane] += (energy[1, lane] - energy[0, lane] + since[lane] + changes[0, lane]) ** 2
                    energy[0, lane], since[lane] = energy[1, lane], -changes[0, lane]
            for lane in range(lanes):
                since[lane] += changes[0, lane] + changes[1, lane]
                total[lane] += changes[0, lane] + changes[1, lane]
            if site < len(drifts):
                for k in range(3):
                    spread(factors[k], n, lanes)
                combine(
                    source,
                    target,
                    velocity,
                    force,
                    noise,
                    factors,
                    drifts[site],
                    rows,
                    components,
                    side,
                    lanes,
                )
                source, target = target, source
        if is_adjusted:
            energies(source, nothing, beside, couplings, side, lanes, work, sums, energy[1])
        for lane in range(chains):
            chain = first + lane
            if is_adjusted:
                total[lane] += energy[1, lane] - energy[0, lane]
            if is_measured:
                errors[chain] = square[lane] * np.float64(steps) / (d * np.float64(len(drifts)))
            # Adjusted trajectories draw no noise on their way, so this number is new.
            uniform = uniform_64(hashed(stream(seed, stride, chain) + _TWO * half * stride))
            accepted[chain], probability[chain] = conclude(total[lane], is_adjusted, uniform)
        store(out, source, first, chains, components * rows, side, lanes)
        for chain in range(first, first + chains):
            if accepted[chain] == 0.0:
                out[chain] = phi[chain]
        first += chains
