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

from equiflow.fused.just_in_time import jit_within
from equiflow.fused.ridges import add_lanes, add_to_configurations, waves, waves_and_bends
from equiflow.fused.solves import Kernels, pull_back_by, rates_by, solve_by
from equiflow.fused.transforms import (
    aligned,
    to_modes,
    to_sites,
    transform_first,
    transform_second,
)
from equiflow.fused.vectors import flat, lanes_of, load, stay_apart, store


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
        like: the block, `(first, configuration, second)`.
        now: the tables at one time.

    Returns:
        Scratch memory for any channels, twice; linear, inner and outer kernels for all configurations; inner
        and outer channels; two vectors for each ridge and four more; two numbers for each site of a row.
    """
    _, size, columns = like.shape
    n_inner, n_outer, n_ridges = len(now[1]), len(now[2]), len(now[5])
    n, inner, outer = like.size, n_inner * like.size, n_outer * like.size
    most, channels = max(inner, outer), (aligned(inner, like), aligned(outer, like))
    scratch = aligned(most, like), aligned(most, like)
    tiles = aligned(n, like), aligned(inner, like), aligned(outer, like)
    vectors = aligned((2 * n_ridges + 4) * lanes_of(like), like)
    of_row = aligned(size * columns, like), aligned(size * columns, like)
    return scratch, tiles, channels, vectors, of_row


@jit_within
def _for_vectors(kernels: Any, size: int, tile: Any) -> Any:
    """Return kernels, flat, so that vectors do not cross the ends of rows, and the length of a row."""
    columns, values = kernels.shape[-1], flat(kernels)
    if columns % lanes_of(values) == 0:
        return values, columns
    for row in range(len(values) // columns):
        for n in range(size):
            for y in range(columns):
                tile[(row * size + n) * columns + y] = values[row * columns + y]
    return tile, size * columns


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
    K, period, n_channels = kernels
    rows, size, columns = modes.shape
    scaled, half_way = work[0]
    width, lanes, phi = size * columns, lanes_of(K), flat(modes)
    scaled, half_way = scaled[: n_channels * phi.size], half_way[: n_channels * phi.size]
    for x in range(rows):
        for c in range(n_channels):
            for first in range(0, width, period):
                place, to = x * width + first, (x * n_channels + c) * width + first
                for y in range(0, period, lanes):
                    store(load(K, (c * rows + x) * period + y) * load(phi, place + y), scaled, to + y)
    transform_first(scaled, rows, basis[0], True, half_way)
    transform_second(half_way, columns, basis[1], True, out)


@jit_within
def _mixed(modes: Any, linear: Any, sent: Any, kernels: Any, basis: Any, work: Any, out: Any) -> None:
    """Set `out = K_0 * phi + sum_c K_c * sent_c`, all but `sent` in modes; turn `sent` into modes."""
    stay_apart()
    (K, period, n_channels), K_0 = kernels, linear[0]
    rows, size, columns = modes.shape
    half_way, width, lanes = work[0][0], size * columns, lanes_of(K)
    phi, total, half_way = flat(modes), flat(out), half_way[: n_channels * out.size]
    transform_second(sent, columns, basis[1], False, half_way)
    transform_first(half_way, rows, basis[0], False, sent)
    for x in range(rows):
        for first in range(0, width, period):
            place = x * width + first
            for y in range(0, period, lanes):
                mixed = load(K_0, x * period + y) * load(phi, place + y)
                for c in range(n_channels):
                    factor = load(K, (c * rows + x) * period + y)
                    mixed += factor * load(sent, (x * n_channels + c) * width + first + y)
                store(mixed, total, place + y)


@jit_within
def _kernels(now: Any, size: int, work: Any) -> Any:
    """Return linear, inner and outer kernels for vectors, each with the length of a row and their number."""
    (linear, inner, outer), (of_linear, of_inner, of_outer) = now[:3], work[1]
    one, two = _for_vectors(inner, size, of_inner), _for_vectors(outer, size, of_outer)
    return (*_for_vectors(linear, size, of_linear), 1), (*one, len(inner)), (*two, len(outer))


@jit_within
def _finish(out: Any, drift: Any, bent: Any, trace: Any, divergence: Any) -> None:
    """Add the drift to the modes of a velocity, and write the divergence of each configuration."""
    for n in range(out.shape[1]):
        out[0, n, 0] += drift
    divergence[:] = trace
    add_to_configurations(bent, out.shape[2], divergence)


@jit_within
def velocity_of(modes: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, divergence: Any) -> None:
    """Set `out` to the modes of the velocity, and write the divergence of each configuration, in float64.

    Args:
        modes: the block in modes, `(first, configuration, second)`.
        now: the tables at one time.
        ridges: see above.
        basis: see above.
        work: see `work_for`.
        out: like `modes`, written.
        divergence: `(configuration,)`, written.
    """
    stay_apart()
    _, _, _, B, _, q, trace, drift = now
    (u, sent), vectors, (bent, _) = work[2:]
    linear, inner, outer = _kernels(now, modes.shape[1], work)
    bent[:] = 0
    _convolved(modes, inner, basis, work, u)
    waves(u, len(bent), ridges[0], ridges[1], B, q, vectors, sent, bent)
    _mixed(modes, linear, sent, outer, basis, work, out)
    _finish(out, drift, bent, trace, divergence)


@jit_within
def velocity_and_score_of(
    modes: Any, score: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, rate: Any, divergence: Any
) -> None:
    """Do what `velocity_of` does, and set `rate` to the modes of minus the rate of the score.

    Args:
        modes: the block in modes, `(first, configuration, second)`.
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
    B, B_transposed, q, trace, drift = now[3:]
    (u, sent), vectors, (bent, weight) = work[2:]
    linear, inner, outer = _kernels(now, modes.shape[1], work)
    bent[:], weight[:] = 0, 1
    _convolved(score, outer, basis, work, sent)
    _convolved(modes, inner, basis, work, u)
    waves_and_bends(u, sent, weight, len(bent), ridges, (B, B_transposed), q, vectors, bent, None)
    _mixed(modes, linear, sent, outer, basis, work, out)
    _mixed(score, linear, u, inner, basis, work, rate)
    _finish(out, drift, bent, trace, divergence)


@jit_within
def pull(
    modes: Any, w: Any, weights: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, sums: Any
) -> None:
    """Set `out` to the transposed Jacobian of `(w, weight)`; add the gradients in the tables to `sums`.

    Args:
        modes: the block in modes, `(first, configuration, second)`.
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
    B, B_transposed, q = now[3:6]
    of_linear, of_inner, of_outer, of_B, of_q, of_trace, of_drift, of_W, of_phase = sums
    (u, sent), vectors, (bent, weight) = work[2:]
    linear, inner, outer = _kernels(now, modes.shape[1], work)
    _convolved(w, outer, basis, work, sent)
    _convolved(modes, inner, basis, work, u)
    columns = modes.shape[2]
    for x in range(len(weight)):
        weight[x], bent[x] = weights[x // columns], 0
    for n in range(len(weights)):
        of_trace[0] += weights[n]
        of_drift[0] += w[0, n, 0]
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
    to_modes(sent.reshape(len(modes), -1, columns), basis, work[0][0], sent.reshape(len(modes), -1, columns))
    _add_products(w, sent, of_outer)
    _mixed(w, linear, u, inner, basis, work, out)
    _add_products(modes, u, of_inner)
    _add_products(w, flat(modes), of_linear.reshape(1, *of_linear.shape))


@jit_within
def _add_products(modes: Any, channels: Any, sums: Any) -> None:
    """Add the products of a field and its channels, summed over configurations, to `(channel, *lattice)`."""
    rows, size, columns = modes.shape
    fields = channels.reshape(rows, len(sums) * size, columns)
    for x in range(rows):
        for c in range(len(sums)):
            for n in range(size):
                for y in range(columns):
                    sums[c, x, y] += modes[x, n, y] * fields[x, c * size + n, y]


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
