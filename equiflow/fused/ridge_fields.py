"""Rates of potential and shallow fields for a block, and the transposed Jacobian.

They know fields of the form

    v = K_0 * phi + sum_f Q_f * g_f + drift,  g_f = sum_j B_fj sin theta_j,
    theta_j = pi (W_j . u + phase_j),  u_c = P_c * phi,  div v = trace + sum_x sum_j q_j cos theta_j,

with inner kernels P and outer kernels Q that are even under the reflection of each axis. A `PotentialField`
has P = Q, an `OrbitConvField` P = 1. The transposed Jacobian of both rates takes w and a weight to

    K_0 * w + sum_c P_c * sum_j pi W_jc (z_j cos theta_j - weight q_j sin theta_j),  z_j = sum_f B_fj Q_f * w.

The rate of the score is its negative at weight 1, and gradients follow from it too.

Arguments of all kernels, with the tables at one time without their first axis:

    tables: linear (time, first, second), inner and outer (time, channel, first, second) in modes, B (time,
        outer channel, ridge), its transpose, q (time, ridge), trace (time,), drift (time,) of mode 0.
    ridges: W (ridge, inner channel) and phase (ridge,) in half turns, pi W^T.
    basis: see `transforms.axes`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.groups import add_over_group, load_for_all
from equiflow.fused.just_in_time import inline, jit_within
from equiflow.fused.ridges import (
    add_lanes,
    add_to_configurations,
    spread_over_row,
    waves,
    waves_and_bends,
)
from equiflow.fused.solves import Kernels, pull_back_by, rates_by, solve_by
from equiflow.fused.transforms import (
    aligned,
    to_modes,
    to_sites,
    transform_first,
    transform_second,
)
from equiflow.fused.vectors import flat, lanes_of, load, stay_apart, store, zero


@jit_within
def at_time(tables: Any, n: int) -> Any:
    """Return the tables at the n-th time.

    Args:
        tables: see above.
        n: number of the time.

    Returns:
        The tables without their first axis.
    """
    linear, inner, outer, B, B_transposed, q, trace, drift = tables
    return linear[n], inner[n], outer[n], B[n], B_transposed[n], q[n], trace[n], drift[n]


@jit_within
def work_for(like: Any, now: Any) -> Any:
    """Return scratch memory of a block.

    Args:
        like: the block, `(first, group, row)`.
        now: the tables at one time.

    Returns:
        Scratch memory for any channels, twice; inner and outer channels; two vectors for each ridge and four
        more; two numbers for each site of all groups of a row.
    """
    _, n_groups, length = like.shape
    n_inner, n_outer, n_ridges = len(now[1]), len(now[2]), len(now[5])
    inner, outer = n_inner * like.size, n_outer * like.size
    most, channels = max(inner, outer), (aligned(inner, like), aligned(outer, like))
    scratch = aligned(most, like), aligned(most, like)
    vectors = aligned((2 * n_ridges + 4) * lanes_of(like), like)
    of_row = aligned(n_groups * length, like), aligned(n_groups * length, like)
    return scratch, channels, vectors, of_row


@jit_within
def sums_at(gradients: Any, n: int) -> Any:
    """Return what `pull` adds to at the n-th time.

    Args:
        gradients: in the tables, with B transposed only, then in W and phase over pi.
        n: number of the time.

    Returns:
        The gradients without their first axis, and with one entry where there is no other axis.
    """
    linear, inner, outer, B, q, trace, drift, W, phase = gradients
    of_time = linear[n], inner[n], outer[n], B[n], q[n], trace[n : n + 1], drift[n : n + 1]
    return (*of_time, W, phase)


@jit_within
def _convolved(modes: Any, kernels: Any, basis: Any, work: Any, out: Any) -> None:
    """Set channels `out_c` to `K_c * phi` on the sites, for phi in modes."""
    stay_apart()
    n_channels, length, together, (scaled, half_way) = len(kernels), modes.shape[2], basis[2], work[0]
    scaled, half_way = scaled[: n_channels * modes.size], half_way[: n_channels * modes.size]
    if together == 1:  # common numbers: LLVM writes out what depends on them
        _scale(modes, kernels, 1, scaled)
    elif together == 4:
        _scale(modes, kernels, 4, scaled)
    else:
        _scale(modes, kernels, lanes_of(scaled), scaled)
    transform_first(scaled, len(modes), basis[0], True, half_way)
    transform_second(half_way, length, together, basis[1], True, out)


@inline
def _scale(modes: Any, kernels: Any, together: int, out: Any) -> None:
    """Set channels `out_c` to `K_c phi`, all in modes."""
    (rows, n_groups, length), n_channels, lanes = modes.shape, len(kernels), lanes_of(modes)
    phi, K, width, columns = flat(modes), flat(kernels), n_groups * length, length // together
    for x in range(rows):
        for c in range(n_channels):
            for group in range(n_groups):
                at, place = (c * rows + x) * columns, x * width + group * length
                to = (x * n_channels + c) * width + group * length
                for y in range(0, length, lanes):
                    store(load_for_all(K, at, together) * load(phi, place + y), out, to + y)
                    at += lanes // together


@jit_within
def _mixed(modes: Any, linear: Any, sent: Any, kernels: Any, basis: Any, work: Any, out: Any) -> None:
    """Set `out = K_0 * phi + sum_c K_c * sent_c`, all but `sent` in modes; turn `sent` into modes."""
    stay_apart()
    n_channels, length, together, half_way = len(kernels), modes.shape[2], basis[2], work[0][0]
    half_way = half_way[: n_channels * out.size]
    transform_second(sent, length, together, basis[1], False, half_way)
    transform_first(half_way, len(modes), basis[0], False, sent)
    if together == 1:
        _mix(modes, linear, sent, kernels, 1, out)
    elif together == 4:
        _mix(modes, linear, sent, kernels, 4, out)
    else:
        _mix(modes, linear, sent, kernels, lanes_of(sent), out)


@inline
def _mix(modes: Any, linear: Any, sent: Any, kernels: Any, together: int, out: Any) -> None:
    """Set `out = K_0 phi + sum_c K_c sent_c`, all in modes."""
    (rows, n_groups, length), n_channels, lanes = modes.shape, len(kernels), lanes_of(modes)
    phi, K_0, K, total = flat(modes), flat(linear), flat(kernels), flat(out)
    width, columns = n_groups * length, length // together
    for x in range(rows):
        for group in range(n_groups):
            at, place = x * columns, x * width + group * length
            start = x * n_channels * width + group * length
            for y in range(0, length, lanes):
                mixed = load_for_all(K_0, at, together) * load(phi, place + y)
                for c in range(n_channels):
                    factor = load_for_all(K, c * rows * columns + at, together)
                    mixed += factor * load(sent, start + c * width + y)
                store(mixed, total, place + y)
                at += lanes // together


@jit_within
def _finish(out: Any, drift: Any, bent: Any, trace: Any, together: int, divergence: Any) -> None:
    """Add the drift to the modes of a velocity, and write the divergence of each configuration."""
    for group in range(out.shape[1]):
        for lane in range(together):
            out[0, group, lane] += drift
    divergence[:] = trace
    add_to_configurations(bent, out.shape[2], together, divergence)


@jit_within
def velocity_of(modes: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, divergence: Any) -> None:
    """Set `out` to the modes of the velocity, and write the divergence of each configuration, in float64.

    Args:
        modes: the block in modes, `(first, group, row)`.
        now: the tables at one time.
        ridges: see above.
        basis: see above.
        work: see `work_for`.
        out: like `modes`, written.
        divergence: `(configuration,)`, written.
    """
    stay_apart()
    linear, inner, outer, B, _, q, trace, drift = now
    (u, sent), vectors, (bent, _) = work[1:]
    bent[:] = 0
    _convolved(modes, inner, basis, work, u)
    waves(u, len(bent), ridges[0], ridges[1], B, q, vectors, sent, bent)
    _mixed(modes, linear, sent, outer, basis, work, out)
    _finish(out, drift, bent, trace, basis[2], divergence)


@jit_within
def velocity_and_score_of(
    modes: Any, score: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, rate: Any, divergence: Any
) -> None:
    """Do what `velocity_of` does, and set `rate` to the modes of minus the rate of the score.

    Args:
        modes: the block in modes, `(first, group, row)`.
        score: like `modes`.
        now: the tables at one time.
        ridges: see above.
        basis: see above.
        work: see `work_for`.
        out: like `modes`, written.
        rate: like `modes`, written.
        divergence: `(configuration,)`, written.
    """
    stay_apart()
    linear, inner, outer, B, B_transposed, q, trace, drift = now
    (u, sent), vectors, (bent, weight) = work[1:]
    bent[:], weight[:] = 0, 1
    _convolved(score, outer, basis, work, sent)
    _convolved(modes, inner, basis, work, u)
    waves_and_bends(u, sent, weight, len(bent), ridges, (B, B_transposed), q, vectors, bent, None)
    _mixed(modes, linear, sent, outer, basis, work, out)
    _mixed(score, linear, u, inner, basis, work, rate)
    _finish(out, drift, bent, trace, basis[2], divergence)


@jit_within
def pull(
    modes: Any, w: Any, weights: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, sums: Any
) -> None:
    """Set `out` to the transposed Jacobian of `(w, weight)`; add the gradients in the tables to `sums`.

    Args:
        modes: the block in modes, `(first, group, row)`.
        w: like `modes`.
        weights: `(configuration,)`.
        now: the tables at one time.
        ridges: see above.
        basis: see above.
        work: see `work_for`.
        out: like `modes`, written.
        sums: of `sums_at`.
    """
    stay_apart()
    linear, inner, outer, B, B_transposed, q, _, _ = now
    of_linear, of_inner, of_outer, of_B, of_q, of_trace, of_drift, of_W, of_phase = sums
    (u, sent), vectors, (bent, weight) = work[1:]
    _convolved(w, outer, basis, work, sent)
    _convolved(modes, inner, basis, work, u)
    length, together = modes.shape[2], basis[2]
    spread_over_row(weights, length, together, weight)
    bent[:] = 0
    for n in range(len(weights)):
        of_trace[0] += weights[n]
        of_drift[0] += w[0, n // together, n % together]
    lanes = lanes_of(weight)
    by_lane = (
        np.zeros(lanes * of_B.size, weight.dtype),
        np.zeros(lanes * of_W.size, weight.dtype),
        np.zeros(lanes * len(q), weight.dtype),
        np.zeros(lanes * len(q), weight.dtype),
    )
    waves_and_bends(u, sent, weight, len(bent), ridges, (B, B_transposed), q, vectors, bent, by_lane)
    add_lanes(by_lane[0], flat(of_B))
    add_lanes(by_lane[1], flat(of_W))
    add_lanes(by_lane[2], of_q)
    add_lanes(by_lane[3], of_phase)
    sent_rows = sent.reshape(len(modes), -1, length)
    to_modes(sent_rows, basis, work[0][0], sent_rows)
    _add_products(w, sent, together, of_outer)
    _mixed(w, linear, u, inner, basis, work, out)
    _add_products(modes, u, together, of_inner)
    _add_products(w, flat(modes), together, of_linear.reshape(1, *of_linear.shape))


@jit_within
def _add_products(modes: Any, channels: Any, together: int, sums: Any) -> None:
    """Add the products of a field and its channels, summed over configurations, to `(channel, *lattice)`."""
    (rows, n_groups, length), n_channels, lanes = modes.shape, len(sums), lanes_of(modes)
    fields, added_to, width = flat(modes), flat(sums), n_groups * length
    for x in range(rows):
        for c in range(n_channels):
            start, at = (x * n_channels + c) * width, (c * rows + x) * (length // together)
            for y in range(0, length, lanes):
                total = zero(fields)
                for group in range(n_groups):
                    place = group * length + y
                    total += load(fields, x * width + place) * load(channels, start + place)
                add_over_group(total, added_to, at, together)
                at += lanes // together


RIDGES = Kernels(
    name="ridges",
    at_time=at_time,
    enter=to_modes,
    leave=to_sites,
    work_for=work_for,
    velocity=velocity_of,
    velocity_and_score=velocity_and_score_of,
    pull=pull,
    sums_at=sums_at,
)
rates, solve, pull_back = rates_by(RIDGES), solve_by(RIDGES), pull_back_by(RIDGES)
