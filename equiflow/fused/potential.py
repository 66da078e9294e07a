"""The kernels of `PotentialField`: the solve of one configuration after the other, and its gradient.

A configuration stays in the cache from the first step to the last. The state is kept in modes, where
convolutions are products, so an evaluation takes two transforms per channel. The formulas are those of
`equiflow.vector_fields.potential`, with `theta_j = pi (W_j . u + phase_j)`, `dF/du_c = sum_j B_cj sin theta_j`,
and the divergence `trace + sum_x sum_j q_j cos theta_j`. The transposed Jacobian of (velocity, divergence)
takes a field w and a number to

    K_0 * w + sum_c K_c * sum_j pi W_jc (z_j cos theta_j - weight q_j sin theta_j),  z = B^T (K * w).

The rate of the score is its negative at weight 1, and gradients follow from it too.

Arguments of all kernels, with the tables at one time without their first axis:

    tables: linear (time, V) and kernels (time, channel, V) in modes, B (time, channel, ridge), its transpose
        (time, ridge, channel), q (time, ridge), trace (time,), drift (time,) as an amplitude of mode 0.
    ridges: W (ridge, channel) and phase (ridge,) in half turns, pi W^T (channel, ridge).
    basis: see `modes.matrices`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit
from equiflow.fused.modes import to_modes, to_sites
from equiflow.fused.sine import sine_and_cosine


@jit
def _at(tables: Any, n: int) -> Any:
    """Return the tables at the n-th time."""
    linear, kernels, B, B_transposed, q, trace, drift = tables
    return linear[n], kernels[n], B[n], B_transposed[n], q[n], trace[n], drift[n]


@jit
def _work(like: Any, n_channels: int, n_ridges: int) -> Any:
    """Return scratch fields of channels and of ridges."""
    V, dtype = like.shape[-1], like.dtype
    channels = np.empty((4, n_channels, V), dtype)
    of_ridges = np.empty((2, n_ridges, V), dtype)
    return channels[0], channels[1], channels[2], channels[3], of_ridges[0], of_ridges[1]


@jit
def _convolved(modes: Any, kernels: Any, basis: Any, work: Any, out: Any) -> None:
    """Set `out_c` to `K_c * phi` on the sites, for a field given by its modes."""
    product, scratch = work[1], work[2]
    for c in range(len(kernels)):
        for k in range(len(modes)):
            product[c, k] = kernels[c, k] * modes[k]
    to_sites(product, basis, scratch, out)


@jit
def _mixed(modes: Any, linear: Any, channels: Any, kernels: Any, out: Any) -> None:
    """Set `out = linear modes + sum_c kernels_c channels_c`."""
    for k in range(len(modes)):
        out[k] = linear[k] * modes[k]
    for c in range(len(kernels)):
        for k in range(len(modes)):
            out[k] += kernels[c, k] * channels[c, k]


@jit
def _waves(u: Any, ridges: Any, q: Any, sines: Any) -> float:
    """Set `sines_j = sin theta_j`, and return `sum_x sum_j q_j cos theta_j`."""
    W, phase, _ = ridges
    np.dot(W, u, sines)
    total = 0.0
    for j in range(len(q)):
        row, p = sines[j], phase[j]
        of_ridge = sines.dtype.type(0)
        for x in range(len(row)):
            sine, cosine = sine_and_cosine(row[x] + p)
            row[x] = sine
            of_ridge += cosine
        total += q[j] * of_ridge
    return total


@jit
def _waves_and_bends(u: Any, ridges: Any, q: Any, weight: Any, sines: Any, bends: Any, sums: Any) -> float:
    """Do what `_waves` does, and turn `bends_j = z_j` into `z_j cos theta_j - weight q_j sin theta_j`.

    The sums over sites of the bends and of `cos theta_j` are written to `sums`, `(2, ridge)`.
    """
    W, phase, _ = ridges
    np.dot(W, u, sines)
    total = 0.0
    for j in range(len(q)):
        row, bend, p, curving = sines[j], bends[j], phase[j], weight * q[j]
        of_ridge, of_bend = sines.dtype.type(0), sines.dtype.type(0)
        for x in range(len(row)):
            sine, cosine = sine_and_cosine(row[x] + p)
            row[x] = sine
            bent = bend[x] * cosine - curving * sine
            bend[x] = bent
            of_ridge += cosine
            of_bend += bent
        sums[0, j], sums[1, j] = of_bend, of_ridge
        total += q[j] * of_ridge
    return total


@jit
def _velocity(modes: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any) -> float:
    """Set `out` to the modes of the velocity, and return the divergence."""
    linear, kernels, B, _, q, trace, drift = now
    u, slopes, scratch, _, sines, _ = work
    _convolved(modes, kernels, basis, work, u)
    bent = _waves(u, ridges, q, sines)
    np.dot(B, sines, slopes)
    to_modes(slopes, basis, scratch, u)
    _mixed(modes, linear, u, kernels, out)
    out[0] += drift
    return trace + bent


@jit
def _velocity_and_pull(
    modes: Any,
    w: Any,
    weight: Any,
    now: Any,
    ridges: Any,
    basis: Any,
    work: Any,
    sums: Any,
    out: Any,
    pulled: Any,
) -> float:
    """Do what `_velocity` does, and set `pulled` to the transposed Jacobian of `(w, weight)`, in modes."""
    linear, kernels, B, B_transposed, q, trace, drift = now
    u, slopes, scratch, turned, sines, bends = work
    _convolved(w, kernels, basis, work, turned)
    np.dot(B_transposed, turned, bends)
    _convolved(modes, kernels, basis, work, u)
    bent = _waves_and_bends(u, ridges, q, weight, sines, bends, sums)
    np.dot(ridges[2], bends, slopes)
    to_modes(slopes, basis, scratch, turned)
    _mixed(w, linear, turned, kernels, pulled)
    np.dot(B, sines, slopes)
    to_modes(slopes, basis, scratch, u)
    _mixed(modes, linear, u, kernels, out)
    out[0] += drift
    return trace + bent


@jit
def _advanced(y: Any, row: Any, stages: Any, n: int, h: Any, out: Any) -> None:
    """Set `out = y + h sum_{i<n} row_i stages_i`."""
    for k in range(len(y)):
        out[k] = y[k]
    for i in range(n):
        if row[i] != 0:
            factor = h * row[i]
            for k in range(len(y)):
                out[k] += factor * stages[i, k]


@jit
def rates(
    start: int, stop: int, phi: Any, tables: Any, ridges: Any, basis: Any, velocity: Any, divergence: Any
) -> None:
    """Write velocity and divergence at one time for the configurations from `start` to `stop`."""
    now = _at(tables, 0)
    work = _work(phi, *now[2].shape)
    modes = np.empty((2, 1, phi.shape[1]), phi.dtype)
    for n in range(start, stop):
        to_modes(phi[n : n + 1], basis, work[2], modes[0])
        divergence[n] = _velocity(modes[0, 0], now, ridges, basis, work, modes[1, 0])
        to_sites(modes[1], basis, work[2], velocity[n : n + 1])


@jit
def path_rates(
    start: int,
    stop: int,
    phi: Any,
    score: Any,
    tables: Any,
    ridges: Any,
    basis: Any,
    velocity: Any,
    divergence: Any,
    rate: Any,
) -> None:
    """Write what `rates` writes, and the rate of the score."""
    now = _at(tables, 0)
    work = _work(phi, *now[2].shape)
    one = phi.dtype.type(1)
    sums = np.empty((2, len(now[4])), phi.dtype)
    modes = np.empty((4, 1, phi.shape[1]), phi.dtype)
    for n in range(start, stop):
        to_modes(phi[n : n + 1], basis, work[2], modes[0])
        to_modes(score[n : n + 1], basis, work[2], modes[1])
        divergence[n] = _velocity_and_pull(
            modes[0, 0], modes[1, 0], one, now, ridges, basis, work, sums, modes[2, 0], modes[3, 0]
        )
        to_sites(modes[2], basis, work[2], velocity[n : n + 1])
        to_sites(modes[3], basis, work[2], rate[n : n + 1])
        rate[n] *= -one


@jit
def solve(
    start: int,
    stop: int,
    phi: Any,
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
    """Carry `phi` and `log_det` through all steps, in place; `energy` becomes `int sum_x v_x^2 dt`.

    Args:
        start: first configuration.
        stop: first configuration that is left alone.
        phi: `(batch, V)`.
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
    n_stages = len(weights)
    n_steps = len(tables[5]) // n_stages
    V = phi.shape[1]
    work = _work(phi, *tables[2].shape[1:])
    y, at, moved = np.empty((1, V), phi.dtype), np.empty(V, phi.dtype), np.empty(V, phi.dtype)
    stages = np.empty((n_stages, V), phi.dtype)
    for n in range(start, stop):
        to_modes(phi[n : n + 1], basis, work[2], y)
        for step in range(n_steps):
            if states.size:
                states[n, step] = y[0]
            for i in range(n_stages):
                _advanced(y[0], matrix[i], stages, i, h, at)
                now = _at(tables, step * n_stages + i)
                divergence = _velocity(at, now, ridges, basis, work, stages[i])
                log_det[n] += h * weights[i] * divergence
                energy[n] += h * weights[i] * np.dot(stages[i], stages[i])
                if stages_kept.size:
                    stages_kept[n, step * n_stages + i] = stages[i]
            _advanced(y[0], weights, stages, n_stages, h, moved)
            y[0] = moved
        to_sites(y, basis, work[2], phi[n : n + 1])


@jit
def solve_with_score(
    start: int,
    stop: int,
    phi: Any,
    log_det: Any,
    energy: Any,
    score: Any,
    tables: Any,
    ridges: Any,
    basis: Any,
    formula: Any,
    h: Any,
    states: Any,
    stages_kept: Any,
) -> None:
    """Do what `solve` does, and carry the score `(batch, V)` along."""
    matrix, weights = formula
    n_stages = len(weights)
    n_steps = len(tables[5]) // n_stages
    V = phi.shape[1]
    one = phi.dtype.type(1)
    work = _work(phi, *tables[2].shape[1:])
    sums = np.empty((2, tables[4].shape[1]), phi.dtype)
    y, s = np.empty((1, V), phi.dtype), np.empty((1, V), phi.dtype)
    at, moved = np.empty((2, V), phi.dtype), np.empty(V, phi.dtype)
    stages, of_score = np.empty((n_stages, V), phi.dtype), np.empty((n_stages, V), phi.dtype)
    for n in range(start, stop):
        to_modes(phi[n : n + 1], basis, work[2], y)
        to_modes(score[n : n + 1], basis, work[2], s)
        for step in range(n_steps):
            if states.size:
                states[n, step] = y[0]
            for i in range(n_stages):
                _advanced(y[0], matrix[i], stages, i, h, at[0])
                _advanced(s[0], matrix[i], of_score, i, -h, at[1])
                now = _at(tables, step * n_stages + i)
                divergence = _velocity_and_pull(
                    at[0], at[1], one, now, ridges, basis, work, sums, stages[i], of_score[i]
                )
                log_det[n] += h * weights[i] * divergence
                energy[n] += h * weights[i] * np.dot(stages[i], stages[i])
                if stages_kept.size:
                    stages_kept[n, step * n_stages + i] = stages[i]
            _advanced(y[0], weights, stages, n_stages, h, moved)
            y[0] = moved
            _advanced(s[0], weights, of_score, n_stages, -h, moved)
            s[0] = moved
        to_sites(y, basis, work[2], phi[n : n + 1])
        to_sites(s, basis, work[2], score[n : n + 1])


@jit
def pull_back(
    start: int,
    stop: int,
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
        start: first configuration.
        stop: first configuration that is left alone.
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
    n_stages = len(weights)
    n_steps = len(tables[5]) // n_stages
    V, dtype = of_phi.shape[1], of_phi.dtype
    work = _work(of_phi, *tables[2].shape[1:])
    u, slopes, scratch, turned, sines, bends = work
    n_channels, n_ridges = tables[2].shape[1:]
    sums = np.empty((2, n_ridges), dtype)
    small = np.empty((n_ridges, n_channels), dtype)
    two = of_phi.dtype.type(2)
    end, at, w = np.empty((1, V), dtype), np.empty(V, dtype), np.empty(V, dtype)
    pulled = np.empty((n_stages, V), dtype)
    fields = np.empty((n_channels, V), dtype)
    sites = np.empty((V, n_channels), dtype)
    of_linear, of_kernels, of_B, of_q, of_trace, of_drift, of_W, of_phase = gradients
    for n in range(start, stop):
        to_modes(of_phi[n : n + 1], basis, scratch, end)
        for step in range(n_steps - 1, -1, -1):
            stages = stages_kept[n, step * n_stages : (step + 1) * n_stages]
            for i in range(n_stages - 1, -1, -1):
                time = step * n_stages + i
                now = _at(tables, time)
                _advanced(states[n, step], matrix[i], stages, i, h, at)
                of_velocity = two * of_energy[n] * h * weights[i]
                for k in range(V):
                    w[k] = h * weights[i] * end[0, k] + of_velocity * stages[i, k]
                for later in range(i + 1, n_stages):
                    factor = h * matrix[later, i]
                    for k in range(V):
                        w[k] += factor * pulled[later, k]
                weight = of_log_det[n] * h * weights[i]
                kernels = now[1]
                # Fields on the sites that the gradients of the ridges need, before work is overwritten.
                _convolved(w, kernels, basis, work, turned)
                np.dot(now[3], turned, bends)
                for c in range(n_channels):
                    for x in range(V):
                        sites[x, c] = turned[c, x]
                _convolved(at, kernels, basis, work, u)
                _waves_and_bends(u, ridges, now[4], weight, sines, bends, sums)
                np.dot(sines, sites, small)
                of_B[time] += small
                for c in range(n_channels):
                    for x in range(V):
                        sites[x, c] = u[c, x]
                np.dot(bends, sites, small)
                of_W += small
                for j in range(n_ridges):
                    of_phase[j] += sums[0, j]
                    of_q[time, j] += weight * sums[1, j]
                np.dot(ridges[2], bends, slopes)
                to_modes(slopes, basis, scratch, fields)
                _mixed(w, now[0], fields, kernels, pulled[i])
                np.dot(now[2], sines, slopes)
                to_modes(slopes, basis, scratch, u)
                for c in range(n_channels):
                    for k in range(V):
                        of_kernels[time, c, k] += w[k] * u[c, k] + fields[c, k] * at[k]
                for k in range(V):
                    of_linear[time, k] += w[k] * at[k]
                of_trace[time] += weight
                of_drift[time] += w[0]
            for i in range(n_stages):
                for k in range(V):
                    end[0, k] += pulled[i, k]
        to_sites(end, basis, scratch, of_phi[n : n + 1])
