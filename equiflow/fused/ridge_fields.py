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
    basis: see `modes.matrices`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit
from equiflow.fused.modes import to_modes, to_sites
from equiflow.fused.ridges import (
    add_to_configurations,
    as_fields,
    put,
    take,
    waves,
    waves_and_bends,
    weighted_bends,
)


@jit
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


@jit
def _convolved(modes: Any, kernels: Any, basis: Any, channels: Any, out: Any) -> None:
    """Set `out_c` to `K_c * phi` on the sites, for phi in modes; overwrites two sets of channels."""
    rows, size, columns = modes.shape
    product = as_fields(channels[0], len(kernels), modes)
    for x in range(rows):
        for c in range(len(kernels)):
            for n in range(size):
                for y in range(columns):
                    product[x, c * size + n, y] = kernels[c, x, y] * modes[x, n, y]
    to_sites(product, basis, as_fields(channels[1], len(kernels), modes), out)


@jit
def _mixed(modes: Any, linear: Any, channels: Any, kernels: Any, out: Any) -> None:
    """Set `out = linear modes + sum_c kernels_c channels_c`."""
    rows, size, columns = modes.shape
    for x in range(rows):
        for n in range(size):
            for y in range(columns):
                out[x, n, y] = linear[x, y] * modes[x, n, y]
            for c in range(len(kernels)):
                for y in range(columns):
                    out[x, n, y] += kernels[c, x, y] * channels[x, c * size + n, y]


@jit
def velocity_of(modes: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, divergence: Any) -> None:
    """Set `out` to the modes of the velocity, and write the divergence of each configuration, in float64.

    Args:
        modes: the block in modes, `(first, configuration, second)`.
        now: the tables at one time.
        ridges: see above.
        basis: see above.
        work: see `ridges.work_for`.
        out: like `modes`, written.
        divergence: `(configuration,)`, written.
    """
    linear, inner, outer, B, _, q, trace, drift = now
    channels, u, slopes, of_ridges, bent = work
    rows, size, columns = modes.shape
    divergence[:] = trace
    on_sites, sent = as_fields(channels[2], len(inner), modes), as_fields(channels[3], len(outer), modes)
    _convolved(modes, inner, basis, channels, on_sites)
    sines = of_ridges[0]
    for first in range(0, rows, len(bent) // (size * columns)):
        take(on_sites, first, u)
        np.dot(ridges[0], u, sines)
        waves(ridges, q, sines, bent)
        np.dot(B, sines, slopes)
        put(slopes, first, sent)
        add_to_configurations(bent, columns, divergence)
    _finish(modes, linear, sent, outer, basis, channels, out)
    for n in range(size):
        out[0, n, 0] += drift


@jit
def _finish(modes: Any, linear: Any, sent: Any, kernels: Any, basis: Any, channels: Any, out: Any) -> Any:
    """Set `out = K_0 * phi + sum_c K_c * sent_c`, all but `sent` in modes, and return the modes of `sent`."""
    in_modes = as_fields(channels[1], len(kernels), modes)
    to_modes(sent, basis, as_fields(channels[0], len(kernels), modes), in_modes)
    _mixed(modes, linear, in_modes, kernels, out)
    return in_modes


@jit
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
        work: see `ridges.work_for`.
        out: like `modes`, written.
        rate: like `modes`, written.
        divergence: `(configuration,)`, written.
    """
    linear, inner, outer, B, B_transposed, q, trace, drift = now
    channels, u, slopes, of_ridges, bent = work
    rows, size, columns = modes.shape
    divergence[:] = trace
    on_sites, sent = as_fields(channels[2], len(inner), modes), as_fields(channels[3], len(outer), modes)
    _convolved(score, outer, basis, channels, sent)
    _convolved(modes, inner, basis, channels, on_sites)
    sines, bends = of_ridges[0], of_ridges[1]
    for first in range(0, rows, len(bent) // (size * columns)):
        take(sent, first, slopes)
        np.dot(B_transposed, slopes, bends)
        take(on_sites, first, u)
        np.dot(ridges[0], u, sines)
        waves_and_bends(ridges, q, sines, bends, bent)
        np.dot(B, sines, slopes)
        put(slopes, first, sent)
        np.dot(ridges[2], bends, u)
        put(u, first, on_sites)
        add_to_configurations(bent, columns, divergence)
    _finish(modes, linear, sent, outer, basis, channels, out)
    for n in range(size):
        out[0, n, 0] += drift
    _finish(score, linear, on_sites, inner, basis, channels, rate)


@jit
def pull(
    modes: Any, w: Any, weight: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, sums: Any
) -> None:
    """Set `out` to the transposed Jacobian of `(w, weight)`; add the gradients in the tables to `sums`.

    Args:
        modes: the block in modes, `(first, configuration, second)`.
        w: like `modes`.
        weight: `(configuration,)`.
        now: the tables at one time.
        ridges: see above.
        basis: see above.
        work: see `ridges.work_for`.
        out: like `modes`, written.
        sums: of linear, inner, outer, B transposed, q at this time, and of W and phase.
    """
    linear, inner, outer, B, B_transposed, q, _, _ = now
    of_linear, of_inner, of_outer, of_B, of_q, of_W, of_phase = sums
    channels, u, slopes, of_ridges, weights = work
    rows, size, columns = modes.shape
    on_sites, sent = as_fields(channels[2], len(inner), modes), as_fields(channels[3], len(outer), modes)
    _convolved(w, outer, basis, channels, sent)
    _convolved(modes, inner, basis, channels, on_sites)
    sines, bends = of_ridges[0], of_ridges[1]
    for x in range(0, len(weights), columns):
        weights[x : x + columns] = weight[x // columns % size]
    for first in range(0, rows, len(weights) // (size * columns)):
        take(sent, first, slopes)
        np.dot(B_transposed, slopes, bends)
        take(on_sites, first, u)
        np.dot(ridges[0], u, sines)
        weighted_bends(ridges, q, weights, sines, bends, of_phase, of_q)
        of_B += np.dot(sines, slopes.T)
        of_W += np.dot(bends, u.T)
        np.dot(B, sines, slopes)
        put(slopes, first, sent)
        np.dot(ridges[2], bends, u)
        put(u, first, on_sites)
    in_modes = as_fields(channels[1], len(outer), modes)
    to_modes(sent, basis, as_fields(channels[0], len(outer), modes), in_modes)
    _add_products(w, in_modes, of_outer)
    turned = _finish(w, linear, on_sites, inner, basis, channels, out)
    _add_products(modes, turned, of_inner)
    for x in range(rows):
        for n in range(size):
            for y in range(columns):
                of_linear[x, y] += w[x, n, y] * modes[x, n, y]


@jit
def _add_products(modes: Any, channels: Any, sums: Any) -> None:
    """Add the products of a field and its channels, summed over configurations, to `(channel, *lattice)`."""
    rows, size, columns = modes.shape
    for x in range(rows):
        for c in range(len(sums)):
            for n in range(size):
                for y in range(columns):
                    sums[c, x, y] += modes[x, n, y] * channels[x, c * size + n, y]
