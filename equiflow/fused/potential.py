"""The kernels of `PotentialField`: rates, whole solves, and gradients, for one block after the other.

A block of a few configurations stays in the cache from the first step to the last. Its state is kept in modes,
where convolutions are products, so an evaluation takes two transforms per channel. The formulas are those of
`equiflow.vector_fields.potential`, with `theta_j = pi (W_j . u + phase_j)`, `dF/du_c = sum_j B_cj sin theta_j`,
and the divergence `trace + sum_x sum_j q_j cos theta_j`. The transposed Jacobian of (velocity, divergence)
takes a field w and a number to

    K_0 * w + sum_c K_c * sum_j pi W_jc (z_j cos theta_j - weight q_j sin theta_j),  z = B^T (K * w).

The rate of the score is its negative at weight 1, and gradients follow from it too.

Arguments of all kernels, with the tables at one time without their first axis:

    tables: linear (time, first, second) and kernels (time, channel, first, second) in modes, B (time, channel,
        ridge), its transpose (time, ridge, channel), q (time, ridge), trace (time,), drift (time,) as an amplitude
        of the uniform mode.
    ridges: W (ridge, channel) and phase (ridge,) in half turns, pi W^T (channel, ridge).
    basis: see `modes.matrices`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit
from equiflow.fused.modes import aligned, load, store, to_modes, to_sites
from equiflow.fused.sine import sine_and_cosine

#: sites of a block, unless a configuration has more
SITES_PER_BLOCK = 1024
#: Sites whose ridges are computed together; their sines stay in the fastest cache.
SITES_PER_CHUNK = 256


@jit
def _at(tables: Any, n: int) -> Any:
    """Return the tables at the n-th time."""
    linear, kernels, B, B_transposed, q, trace, drift = tables
    return linear[n], kernels[n], B[n], B_transposed[n], q[n], trace[n], drift[n]


@jit
def _rows_per_chunk(rows: int, sites_per_row: int) -> int:
    """Return the largest divisor of the number of rows for which a chunk is not too large, at least 1."""
    best = 1
    for n in range(1, rows + 1):
        if rows % n == 0 and n * sites_per_row <= SITES_PER_CHUNK:
            best = n
    return best


@jit
def _work(like: Any, size: int, n_channels: int, n_ridges: int) -> Any:
    """Return scratch memory for a block of `size` configurations: four sets of channels, and a chunk of ridges."""
    rows, _, columns = like.shape
    of_all = rows * n_channels * size * columns
    channels = aligned(4 * of_all, like).reshape(4, rows, n_channels * size, columns)
    sites = _rows_per_chunk(rows, size * columns) * size * columns
    of_channels = aligned(3 * n_channels * sites, like).reshape(3, n_channels, sites)
    of_ridges = aligned(2 * n_ridges * sites, like).reshape(2, n_ridges, sites)
    return channels, of_channels, of_ridges, aligned(sites, like)


@jit
def _convolved(modes: Any, kernels: Any, basis: Any, scratch: Any, out: Any) -> None:
    """Set `out_c` to `K_c * phi` on the sites, for fields given by their modes; `scratch` has two sets."""
    rows, size, columns = modes.shape
    for x in range(rows):
        for c in range(len(kernels)):
            for n in range(size):
                for y in range(columns):
                    scratch[0, x, c * size + n, y] = kernels[c, x, y] * modes[x, n, y]
    to_sites(scratch[0], basis, scratch[1], out)


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
def _copy(values: Any, out: Any) -> None:
    """Copy values one by one, which is faster than assigning a slice: numba allows for overlaps there."""
    for k in range(len(values)):
        out[k] = values[k]


@jit
def _take(channels: Any, first: int, out: Any) -> None:
    """Copy rows from `first` on to a chunk `(channel, site)`."""
    n_channels, width = len(out), channels.shape[1] * channels.shape[2] // len(out)
    rows = channels.reshape(len(channels), n_channels, width)
    for x in range(out.shape[1] // width):
        for c in range(n_channels):
            _copy(rows[first + x, c], out[c, x * width : (x + 1) * width])


@jit
def _put(chunk: Any, first: int, channels: Any) -> None:
    """Copy a chunk `(channel, site)` to the rows from `first` on."""
    n_channels, width = len(chunk), channels.shape[1] * channels.shape[2] // len(chunk)
    rows = channels.reshape(len(channels), n_channels, width)
    for x in range(chunk.shape[1] // width):
        for c in range(n_channels):
            _copy(chunk[c, x * width : (x + 1) * width], rows[first + x, c])


@jit
def _add_to_configurations(of_sites: Any, columns: int, sums: Any) -> None:
    """Add the sites of a chunk, ordered by row, configuration, column, to `sums` `(configuration,)`, float64."""
    size = len(sums)
    for start in range(0, len(of_sites), size * columns):
        for n in range(size):
            total = of_sites.dtype.type(0)
            for y in range(columns):
                total += of_sites[start + n * columns + y]
            sums[n] += total


@jit
def _waves(ridges: Any, q: Any, sines: Any, bent: Any) -> None:
    """Turn angles into `sines_j = sin theta_j`, and set `bent = sum_j q_j cos theta_j`."""
    bent[:] = 0
    for j in range(len(q)):
        row, p, curvature = sines[j], ridges[1][j], q[j]
        for x in range(len(row)):
            sine, cosine = sine_and_cosine(row[x] + p)
            row[x] = sine
            bent[x] += curvature * cosine


@jit
def _waves_and_bends(ridges: Any, q: Any, sines: Any, bends: Any, bent: Any) -> None:
    """Do what `_waves` does, and turn `bends_j = z_j` into `z_j cos theta_j - q_j sin theta_j`."""
    bent[:] = 0
    for j in range(len(q)):
        row, bend, p, curvature = sines[j], bends[j], ridges[1][j], q[j]
        for x in range(len(row)):
            sine, cosine = sine_and_cosine(row[x] + p)
            row[x] = sine
            bend[x] = bend[x] * cosine - curvature * sine
            bent[x] += curvature * cosine


@jit
def _weighted_bends(
    ridges: Any, q: Any, weight: Any, sines: Any, bends: Any, of_phase: Any, of_q: Any
) -> None:
    """Set sines and bends with a weight for each site, and add the gradients in phases and curvatures."""
    for j in range(len(q)):
        row, bend, p, curvature = sines[j], bends[j], ridges[1][j], q[j]
        of_ridge, of_bend = sines.dtype.type(0), sines.dtype.type(0)
        for x in range(len(row)):
            sine, cosine = sine_and_cosine(row[x] + p)
            row[x] = sine
            turned = bend[x] * cosine - curvature * (weight[x] * sine)
            bend[x] = turned
            of_ridge += weight[x] * cosine
            of_bend += turned
        of_phase[j] += of_bend
        of_q[j] += of_ridge


@jit
def _velocity(modes: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, divergence: Any) -> None:
    """Set `out` to the modes of the velocity, and write the divergence of each configuration, in float64."""
    linear, kernels, B, _, q, trace, drift = now
    channels, of_channels, of_ridges, bent = work
    rows, size, columns = modes.shape
    divergence[:] = trace
    _convolved(modes, kernels, basis, channels[:2], channels[2])
    chunk, sines = of_channels[0], of_ridges[0]
    for first in range(0, rows, len(bent) // (size * columns)):
        _take(channels[2], first, chunk)
        np.dot(ridges[0], chunk, sines)
        _waves(ridges, q, sines, bent)
        np.dot(B, sines, chunk)
        _put(chunk, first, channels[2])
        _add_to_configurations(bent, columns, divergence)
    to_modes(channels[2], basis, channels[0], channels[1])
    _mixed(modes, linear, channels[1], kernels, out)
    for n in range(size):
        out[0, n, 0] += drift


@jit
def _velocity_and_score(
    modes: Any, score: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, rate: Any, divergence: Any
) -> None:
    """Do what `_velocity` does, and set `rate` to the modes of minus the rate of the score."""
    linear, kernels, B, B_transposed, q, trace, drift = now
    channels, of_channels, of_ridges, bent = work
    rows, size, columns = modes.shape
    divergence[:] = trace
    _convolved(score, kernels, basis, channels[:2], channels[3])
    _convolved(modes, kernels, basis, channels[:2], channels[2])
    chunk, sines, bends = of_channels[0], of_ridges[0], of_ridges[1]
    for first in range(0, rows, len(bent) // (size * columns)):
        _take(channels[3], first, chunk)
        np.dot(B_transposed, chunk, bends)
        _take(channels[2], first, chunk)
        np.dot(ridges[0], chunk, sines)
        _waves_and_bends(ridges, q, sines, bends, bent)
        np.dot(B, sines, chunk)
        _put(chunk, first, channels[2])
        np.dot(ridges[2], bends, chunk)
        _put(chunk, first, channels[3])
        _add_to_configurations(bent, columns, divergence)
    to_modes(channels[2], basis, channels[0], channels[1])
    _mixed(modes, linear, channels[1], kernels, out)
    for n in range(size):
        out[0, n, 0] += drift
    to_modes(channels[3], basis, channels[0], channels[1])
    _mixed(score, linear, channels[1], kernels, rate)


@jit
def _pull(
    modes: Any, w: Any, weight: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, sums: Any
) -> None:
    """Set `out` to the transposed Jacobian of `(w, weight)`, and add to `sums` the gradients in the tables."""
    linear, kernels, B, B_transposed, q, _, _ = now
    of_linear, of_kernels, of_B, of_q, of_W, of_phase = sums
    channels, of_channels, of_ridges, weights = work
    rows, size, columns = modes.shape
    _convolved(w, kernels, basis, channels[:2], channels[3])
    _convolved(modes, kernels, basis, channels[:2], channels[2])
    u, y, chunk = of_channels[0], of_channels[1], of_channels[2]
    sines, bends = of_ridges[0], of_ridges[1]
    for x in range(0, len(weights), columns):
        weights[x : x + columns] = weight[x // columns % size]
    for first in range(0, rows, len(weights) // (size * columns)):
        _take(channels[3], first, y)
        np.dot(B_transposed, y, bends)
        _take(channels[2], first, u)
        np.dot(ridges[0], u, sines)
        _weighted_bends(ridges, q, weights, sines, bends, of_phase, of_q)
        of_B += np.dot(sines, y.T)
        of_W += np.dot(bends, u.T)
        np.dot(B, sines, chunk)
        _put(chunk, first, channels[2])
        np.dot(ridges[2], bends, chunk)
        _put(chunk, first, channels[3])
    to_modes(channels[2], basis, channels[0], channels[1])
    to_modes(channels[3], basis, channels[0], channels[2])
    _mixed(w, linear, channels[2], kernels, out)
    for x in range(rows):
        for n in range(size):
            for y in range(columns):
                of_linear[x, y] += w[x, n, y] * modes[x, n, y]
            for c in range(len(kernels)):
                sent, turned = channels[1, x, c * size + n], channels[2, x, c * size + n]
                for y in range(columns):
                    of_kernels[c, x, y] += w[x, n, y] * sent[y] + turned[y] * modes[x, n, y]


@jit
def _advanced(y: Any, row: Any, stages: Any, n: int, h: Any, out: Any) -> None:
    """Set `out = y + h sum_{i<n} row_i stages_i`, all flat."""
    out[:] = y
    for i in range(n):
        if row[i] != 0:
            factor, stage = h * row[i], stages[i]
            for k in range(len(y)):
                out[k] += factor * stage[k]


@jit
def _energies(velocity: Any, factor: Any, first: int, energy: Any) -> None:
    """Add `factor sum_x v_x^2` of each configuration of a block."""
    rows, size, columns = velocity.shape
    for n in range(size):
        total = velocity.dtype.type(0)
        for x in range(rows):
            for y in range(columns):
                total += velocity[x, n, y] * velocity[x, n, y]
        energy[first + n] += factor * total


@jit
def rates(
    first: int,
    size: int,
    phi: Any,
    score: Any,
    tables: Any,
    ridges: Any,
    basis: Any,
    velocity: Any,
    rate: Any,
    divergence: Any,
) -> None:
    """Write velocity and divergence at one time for a block, and the rate of the score if one is given.

    Args:
        first: first configuration of the block.
        size: number of configurations.
        phi: `(batch, V)`.
        score: `(batch, V)`, or without elements.
        tables: at one time.
        ridges: see above.
        basis: see above.
        velocity: `(batch, V)`, written.
        rate: like `score`, written.
        divergence: `(batch,)` float64, written.
    """
    now = _at(tables, 0)
    rows, columns = now[0].shape
    blocks = aligned(5 * rows * size * columns, phi).reshape(5, rows, size, columns)
    work = _work(blocks[0], size, *now[2].shape)
    load(phi, first, blocks[4])
    to_modes(blocks[4], basis, blocks[0], blocks[1])
    total = divergence[first : first + size]
    if score.size:
        load(score, first, blocks[4])
        to_modes(blocks[4], basis, blocks[0], blocks[2])
        _velocity_and_score(blocks[1], blocks[2], now, ridges, basis, work, blocks[3], blocks[4], total)
        to_sites(blocks[4], basis, blocks[0], blocks[1])
        store(-blocks[1], first, rate)
    else:
        _velocity(blocks[1], now, ridges, basis, work, blocks[3], total)
    to_sites(blocks[3], basis, blocks[0], blocks[1])
    store(blocks[1], first, velocity)


@jit
def solve(
    first: int,
    size: int,
    phi: Any,
    score: Any,
    log_det: Any,
    energy: Any,
    tables: Any,
    ridges: Any,
    basis: Any,
    formula: Any,
    h: Any,
    states: Any,
    stages_kept: Any,
) -> None:
    """Carry a block through all steps, in place; `energy` becomes `int sum_x v_x^2 dt`.

    Args:
        first: first configuration of the block.
        size: number of configurations.
        phi: `(batch, V)`.
        score: `(batch, V)` to carry the score along, or without elements.
        log_det: `(batch,)`, float64.
        energy: `(batch,)`, float64.
        tables: at the times of all evaluations, in their order.
        ridges: see above.
        basis: see above.
        formula: matrix and weights of the Runge-Kutta method.
        h: length of a step, with its sign.
        states: `(batch, step, V)` for the modes at the beginning of each step, or without elements.
        stages_kept: `(batch, evaluation, V)` for the modes of each velocity, or without elements.
    """
    matrix, weights = formula
    n_stages, n_times = len(weights), len(tables[5])
    rows, columns = tables[0].shape[1:]
    shape, V = (rows, size, columns), size * rows * columns
    stages = aligned(n_stages * V, phi).reshape(n_stages, V)
    of_score = aligned(n_stages * V, phi).reshape(n_stages, V)
    y, s, moved = aligned(V, phi), aligned(V, phi), aligned(V, phi)
    at, of_score_at = aligned(V, phi), aligned(V, phi)
    work = _work(y.reshape(shape), size, *tables[2].shape[1:])
    divergence = np.empty(size)
    load(phi, first, moved.reshape(shape))
    to_modes(moved.reshape(shape), basis, at.reshape(shape), y.reshape(shape))
    if score.size:
        load(score, first, moved.reshape(shape))
        to_modes(moved.reshape(shape), basis, at.reshape(shape), s.reshape(shape))
    for time in range(n_times):
        i = time % n_stages
        now, rate = _at(tables, time), stages[i].reshape(shape)
        _advanced(y, matrix[i], stages, i, h, at)
        if score.size:
            _advanced(s, matrix[i], of_score, i, -h, of_score_at)
            _velocity_and_score(
                at.reshape(shape),
                of_score_at.reshape(shape),
                now,
                ridges,
                basis,
                work,
                rate,
                of_score[i].reshape(shape),
                divergence,
            )
        else:
            _velocity(at.reshape(shape), now, ridges, basis, work, rate, divergence)
        for n in range(size):
            log_det[first + n] += h * weights[i] * divergence[n]
        _energies(rate, h * weights[i], first, energy)
        if states.size:
            stages_kept[first : first + size].reshape(n_times, V)[time] = stages[i]
        if i == n_stages - 1:
            if states.size:
                states[first : first + size].reshape(n_times // n_stages, V)[time // n_stages] = y
            _advanced(y, weights, stages, n_stages, h, moved)
            y[:] = moved
            if score.size:
                _advanced(s, weights, of_score, n_stages, -h, moved)
                s[:] = moved
    to_sites(y.reshape(shape), basis, at.reshape(shape), moved.reshape(shape))
    store(moved.reshape(shape), first, phi)
    if score.size:
        to_sites(s.reshape(shape), basis, at.reshape(shape), moved.reshape(shape))
        store(moved.reshape(shape), first, score)


@jit
def pull_back(
    first: int,
    size: int,
    of_phi: Any,
    of_log_det: Any,
    of_energy: Any,
    tables: Any,
    ridges: Any,
    basis: Any,
    formula: Any,
    h: Any,
    states: Any,
    stages_kept: Any,
    gradients: Any,
) -> None:
    """Turn gradients with respect to the results of `solve` into those of its arguments.

    Args:
        first: first configuration of the block.
        size: number of configurations.
        of_phi: gradient of the final phi, overwritten by that of the initial one, `(batch, V)`.
        of_log_det: gradient of `log_det`, `(batch,)`.
        of_energy: gradient of `energy`, `(batch,)`.
        tables: see `solve`.
        ridges: see above.
        basis: see above.
        formula: see `solve`.
        h: see `solve`.
        states: written by `solve`.
        stages_kept: written by `solve`.
        gradients: added to: of linear, kernels, B transposed, q, trace, drift; of W and phase, divided by pi.
    """
    matrix, weights = formula
    n_stages, n_times = len(weights), len(tables[5])
    rows, columns = tables[0].shape[1:]
    shape, V = (rows, size, columns), size * rows * columns
    of_linear, of_kernels, of_B, of_q, of_trace, of_drift, of_W, of_phase = gradients
    pulled = aligned(n_stages * V, of_phi).reshape(n_stages, V)
    end, moved, at, w = aligned(V, of_phi), aligned(V, of_phi), aligned(V, of_phi), aligned(V, of_phi)
    work = _work(end.reshape(shape), size, *tables[2].shape[1:])
    weight, two = np.empty(size, of_phi.dtype), of_phi.dtype.type(2)
    load(of_phi, first, moved.reshape(shape))
    to_modes(moved.reshape(shape), basis, at.reshape(shape), end.reshape(shape))
    begun = states[first : first + size].reshape(n_times // n_stages, V)
    kept = stages_kept[first : first + size].reshape(n_times, V)
    for time in range(n_times - 1, -1, -1):
        i = time % n_stages
        stages = kept[time - i : time - i + n_stages]
        _advanced(begun[time // n_stages], matrix[i], stages, i, h, at)
        velocity, total = stages[i].reshape(shape), w.reshape(shape)
        for n in range(size):
            weight[n] = h * weights[i] * of_log_det[first + n]
            of_velocity = two * h * weights[i] * of_energy[first + n]
            of_trace[time] += weight[n]
            for x in range(rows):
                for y in range(columns):
                    total[x, n, y] = of_velocity * velocity[x, n, y]
        factor = h * weights[i]
        for k in range(V):
            w[k] += factor * end[k]
        for later in range(i + 1, n_stages):
            factor = h * matrix[later, i]
            for k in range(V):
                w[k] += factor * pulled[later, k]
        for n in range(size):
            of_drift[time] += total[0, n, 0]
        sums = (of_linear[time], of_kernels[time], of_B[time], of_q[time], of_W, of_phase)
        _pull(
            at.reshape(shape),
            total,
            weight,
            _at(tables, time),
            ridges,
            basis,
            work,
            pulled[i].reshape(shape),
            sums,
        )
        if i == 0:
            for stage in range(n_stages):
                for k in range(V):
                    end[k] += pulled[stage, k]
    to_sites(end.reshape(shape), basis, at.reshape(shape), moved.reshape(shape))
    store(moved.reshape(shape), first, of_phi)
