"""Rates of fields of angles for a block: velocity and divergence without a graph.

With `u_n = exp(i n theta)`, local energies e_c and their conjugates m_c, `e_c + i m_c = conj(u_1) L_c * u_1`,
and `F_c = sum_j B_cj sin theta_j`, `theta_j = pi (W_j . e + phase_j)`, they compute

    v = Im[conj(u_1) q] + sum_c F_c m_c + sum_{n > 1} Im[conj(u_n) K_n * u_n],
    q = K_1 * u_1 + sum_c L_c * (F_c u_1),
    div v = sum_x [sum_j cos theta_j sum_p D_jp g_p + sum_c F_c (2 L_c(0) - e_c) - Re[conj(u_1) q]
            - sum_{n > 1} n Re[conj(u_n) K_n * u_n]] + V sum_n n K_n(0)

where p runs over pairs of channels c <= c' with `g_p = m_c m_c' + (sum_y M_p(y) - Re[conj(u_2) M_p * u_2]) / 2`
and `M_p = L_c L_c'`. All kernels are even under the reflection of each axis. See `vector_fields.angles`.

The two parts of `u_n` are fields `2 n - 2` and `2 n - 1` of a block `(first, field, configuration and second)`.
Arguments of all kernels, with the tables at one time without their first axis:

    tables: kernels (time, kernel, first, second) in modes: K_n, then L_c, then M_p; B (time, channel, ridge);
        D (time, ridge, pair); L_c(0) (time, channel); `V sum_n n K_n(0)` (time,).
    ridges: W (ridge, channel) and phase (ridge,) in half turns.
    basis: see `modes.matrices`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit
from equiflow.fused.modes import aligned, to_modes, to_sites
from equiflow.fused.ridges import add_to_configurations, rows_per_chunk
from equiflow.fused.sine import sine_and_cosine


@jit
def angle_tables_at(tables: Any, n: int) -> Any:
    """Return the tables at the n-th time."""
    kernels, B, D, at_origin, constant = tables
    return kernels[n], B[n], D[n], at_origin[n], constant[n]


@jit
def angle_work_for(like: Any, size: int, n_kernels: int, n_channels: int, D: Any) -> Any:
    """Return scratch memory for a block of `size` configurations, and for a chunk of its ridges.

    Args:
        like: `(first, configuration, second)`.
        size: number of configurations.
        n_kernels: number of all kernels.
        n_channels: number of channels.
        D: at one time.
    """
    rows, _, columns = like.shape
    n_ridges, n_pairs = D.shape
    width = size * columns
    n_powers = max(2, n_kernels - n_channels - n_pairs)
    fields = 2 * rows * width
    powers = aligned(n_powers * fields, like).reshape(rows, 2 * n_powers, width)
    modes = aligned(n_powers * fields, like).reshape(rows, 2 * n_powers, width)
    memory = aligned(3 * (n_kernels - 1) * fields, like).reshape(3, (n_kernels - 1) * fields)
    sites = rows_per_chunk(rows, width) * width
    of_channels = aligned(3 * n_channels * sites, like).reshape(3, n_channels, sites)
    of_pairs = aligned(n_pairs * sites, like).reshape(n_pairs, sites)
    of_ridges = aligned(2 * n_ridges * sites, like).reshape(2, n_ridges, sites)
    return powers, modes, memory, of_channels, of_pairs, of_ridges, aligned(sites, like)


@jit
def _unit(theta: Any, cosine: Any, sine: Any) -> None:
    """Write cosine and sine of angles in radians."""
    to_half_turns = theta.dtype.type(1 / np.pi)
    for k in range(len(theta)):
        sine[k], cosine[k] = sine_and_cosine(theta[k] * to_half_turns)


@jit
def _dot(a: Any, b: Any, c: Any, d: Any, out: Any) -> None:
    """Set `out = Re[conj(a + i b) (c + i d)]`."""
    for k in range(len(out)):
        out[k] = a[k] * c[k] + b[k] * d[k]


@jit
def _cross(a: Any, b: Any, c: Any, d: Any, out: Any) -> None:
    """Set `out = Im[conj(a + i b) (c + i d)]`."""
    for k in range(len(out)):
        out[k] = a[k] * d[k] - b[k] * c[k]


@jit
def _add_dot(factor: Any, a: Any, b: Any, c: Any, d: Any, out: Any) -> None:
    """Add `factor Re[conj(a + i b) (c + i d)]`."""
    for k in range(len(out)):
        out[k] += factor * (a[k] * c[k] + b[k] * d[k])


@jit
def _add_cross(a: Any, b: Any, c: Any, d: Any, out: Any) -> None:
    """Add `Im[conj(a + i b) (c + i d)]`."""
    for k in range(len(out)):
        out[k] += a[k] * d[k] - b[k] * c[k]


@jit
def _multiply(factor: Any, values: Any, out: Any) -> None:
    """Set `out = factor values`, one by one."""
    for k in range(len(out)):
        out[k] = factor[k] * values[k]


@jit
def _add_product(factor: Any, values: Any, out: Any) -> None:
    """Add `factor values`, one by one."""
    for k in range(len(out)):
        out[k] += factor[k] * values[k]


@jit
def _add_overlaps(m: Any, other: Any, overlap: Any, out: Any) -> None:
    """Set `out = m other + (overlap - out) / 2`."""
    half = m.dtype.type(0.5)
    for k in range(len(out)):
        out[k] = m[k] * other[k] + half * (overlap - out[k])


@jit
def _add_slopes(slope: Any, energy: Any, twice_at_origin: Any, out: Any) -> None:
    """Add `slope (2 L(0) - energy)`."""
    for k in range(len(out)):
        out[k] += slope[k] * (twice_at_origin - energy[k])


@jit
def _powers(theta: Any, powers: Any) -> None:
    """Write `exp(i n theta)` for n = 1, 2, ... as fields."""
    for x in range(len(theta)):
        cosine, sine = powers[x, 0], powers[x, 1]
        _unit(theta[x], cosine, sine)
        for n in range(2, powers.shape[1], 2):
            c, s = powers[x, n - 2], powers[x, n - 1]
            _dot(sine, cosine, c, s, powers[x, n + 1])
            for k in range(len(c)):
                powers[x, n, k] = cosine[k] * c[k] - sine[k] * s[k]


@jit
def _of_power(kernel: int, n_harmonics: int, n_channels: int) -> int:
    """Return which `u_n` a kernel acts on, counted from 0."""
    if kernel < n_harmonics:
        return kernel
    return 0 if kernel < n_harmonics + n_channels else 1


@jit
def _scaled(modes: Any, kernels: Any, power: int, kernel: int, out: Any, field: int) -> None:
    """Write both parts of `K * u_n` in modes as fields of `out`."""
    rows, columns = kernels.shape[1:]
    for x in range(rows):
        factor = kernels[kernel, x]
        for part in range(2):
            source, target = modes[x, 2 * power + part], out[x, field + part]
            for start in range(0, len(source), columns):
                _multiply(factor, source[start : start + columns], target[start : start + columns])


@jit
def _transformed(inverse: bool, fields: Any, columns: int, basis: Any, scratch: Any, out: Any) -> None:
    """Transform fields `(first, field, configuration and second)` to modes, or back to sites."""
    rows, n_fields, width = fields.shape
    shape = (rows, n_fields * (width // columns), columns)
    memory = scratch[: fields.size].reshape(shape)
    if inverse:
        to_sites(fields.reshape(shape), basis, memory, out.reshape(shape))
    else:
        to_modes(fields.reshape(shape), basis, memory, out.reshape(shape))


@jit
def _as_fields(memory: Any, n_fields: int, like: Any) -> Any:
    """Return scratch memory as fields, `(first, field, configuration and second)`."""
    rows, size, columns = like.shape
    return memory[: rows * n_fields * size * columns].reshape(rows, n_fields, size * columns)


@jit
def _ridge_waves(phase: Any, angles: Any, bends: Any, bent: Any) -> None:
    """Turn angles into their sines, and set `bent = sum_j bends_j cos theta_j`."""
    bent[:] = 0
    for j in range(len(phase)):
        row, bend, p = angles[j], bends[j], phase[j]
        for k in range(len(row)):
            sine, cosine = sine_and_cosine(row[k] + p)
            row[k] = sine
            bent[k] += bend[k] * cosine


@jit
def _energies_of_rows(first: int, powers: Any, pulled: Any, now: Any, work: Any) -> None:
    """Write e_c, m_c and g_p of the rows of a chunk."""
    kernels, B, D, _, _ = now
    _, _, _, of_channels, of_pairs, _, bent = work
    width, n_channels = powers.shape[2], len(B)
    skipped = len(kernels) - len(B) - D.shape[1] - 1  # K_2, K_3, ... come first
    for row in range(len(bent) // width):
        u, p, at = powers[first + row], pulled[first + row], row * width
        for c in range(n_channels):
            field = 2 * (skipped + c)
            _dot(u[0], u[1], p[field], p[field + 1], of_channels[0, c, at : at + width])
            _cross(u[0], u[1], p[field], p[field + 1], of_channels[1, c, at : at + width])
        pair = 0
        for c in range(n_channels):
            for d in range(c, n_channels):
                field = 2 * (skipped + n_channels + pair)
                gram, overlap = (
                    of_pairs[pair, at : at + width],
                    kernels[skipped + 1 + n_channels + pair, 0, 0],
                )
                _dot(u[2], u[3], p[field], p[field + 1], gram)
                m = of_channels[1]
                _add_overlaps(m[c, at : at + width], m[d, at : at + width], overlap, gram)
                pair += 1


@jit
def _rates_of_rows(first: int, powers: Any, pulled: Any, now: Any, work: Any, sent: Any, out: Any) -> None:
    """Write `F_c u` and all of the velocity but its first term, and add to the divergence of the sites."""
    kernels, B, D, at_origin, _ = now
    _, _, _, of_channels, _, _, bent = work
    width, one = powers.shape[2], powers.dtype.type(1)
    for row in range(len(bent) // width):
        u, p, at = powers[first + row], pulled[first + row], row * width
        velocity, of_sites = out[first + row], bent[at : at + width]
        velocity[:] = 0
        for c in range(len(B)):
            slope = of_channels[2, c, at : at + width]
            _add_slopes(slope, of_channels[0, c, at : at + width], at_origin[c] + at_origin[c], of_sites)
            _add_product(slope, of_channels[1, c, at : at + width], velocity)
            _multiply(slope, u[0], sent[first + row, 2 * c])
            _multiply(slope, u[1], sent[first + row, 2 * c + 1])
        degree = one
        for n in range(len(kernels) - len(B) - D.shape[1] - 1):
            degree += one
            field, power = 2 * n, 2 * n + 2
            _add_cross(u[power], u[power + 1], p[field], p[field + 1], velocity)
            _add_dot(-degree, u[power], u[power + 1], p[field], p[field + 1], of_sites)


@jit
def _mix(modes: Any, sent: Any, kernels: Any, n_harmonics: int, out: Any) -> None:
    """Set `out` to `K_1 * u + sum_c L_c * sent_c`, all in modes."""
    columns = kernels.shape[2]
    _scaled(modes, kernels, 0, 0, out, 0)
    for x in range(len(out)):
        for field in range(sent.shape[1]):
            factor = kernels[n_harmonics + field // 2, x]
            source, target = sent[x, field], out[x, field % 2]
            for start in range(0, len(source), columns):
                _add_product(factor, source[start : start + columns], target[start : start + columns])


@jit
def angle_rates_of(
    theta: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, divergence: Any
) -> None:
    """Set `out` to the velocity of a block, and write the divergence of each configuration, in float64.

    Args:
        theta: angles in radians, `(first, configuration, second)`.
        now: tables at one time.
        ridges: see above.
        basis: see above.
        work: of `angle_work_for`.
        out: like `theta`, written.
        divergence: `(configuration,)`, written.
    """
    kernels, B, D, _, constant = now
    powers, modes, memory, of_channels, of_pairs, of_ridges, bent = work
    rows, size, columns = theta.shape
    width, n_harmonics = size * columns, len(kernels) - len(B) - D.shape[1]
    velocity = out.reshape(rows, width)
    divergence[:] = constant
    _powers(theta.reshape(rows, width), powers)
    _transformed(False, powers, columns, basis, memory[0], modes)
    n_fields = 2 * (len(kernels) - 1)
    products, pulled = _as_fields(memory[0], n_fields, theta), _as_fields(memory[2], n_fields, theta)
    for kernel in range(1, len(kernels)):
        power = _of_power(kernel, n_harmonics, len(B))
        _scaled(modes, kernels, power, kernel, products, 2 * kernel - 2)
    _transformed(True, products, columns, basis, memory[1], pulled)
    sent = _as_fields(memory[0], 2 * len(B), theta)
    for first in range(0, rows, len(bent) // width):
        _energies_of_rows(first, powers, pulled, now, work)
        np.dot(ridges[0], of_channels[0], of_ridges[0])
        np.dot(D, of_pairs, of_ridges[1])
        _ridge_waves(ridges[1], of_ridges[0], of_ridges[1], bent)
        np.dot(B, of_ridges[0], of_channels[2])
        _rates_of_rows(first, powers, pulled, now, work, sent, velocity)
        add_to_configurations(bent, columns, divergence)
    _finish(powers, modes, sent, now, columns, basis, memory, velocity, divergence)


@jit
def _finish(
    powers: Any,
    modes: Any,
    sent: Any,
    now: Any,
    columns: int,
    basis: Any,
    memory: Any,
    velocity: Any,
    divergence: Any,
) -> None:
    """Add `Im[conj(u) q]` to the velocity, and take `Re[conj(u) q]` from the divergence."""
    kernels, B, D, _, _ = now
    rows, n_fields, width = sent.shape
    sent_modes = memory[2][: sent.size].reshape(sent.shape)
    _transformed(False, sent, columns, basis, memory[1], sent_modes)
    pair = rows * 2 * width
    mixed, q = memory[0][:pair].reshape(rows, 2, width), memory[2][:pair].reshape(rows, 2, width)
    _mix(modes, sent_modes, kernels, len(kernels) - len(B) - D.shape[1], mixed)
    _transformed(True, mixed, columns, basis, memory[1], q)
    minus, of_sites = -velocity.dtype.type(1), mixed[0, 0]
    for x in range(rows):
        u = powers[x]
        _add_cross(u[0], u[1], q[x, 0], q[x, 1], velocity[x])
        of_sites[:] = 0
        _add_dot(minus, u[0], u[1], q[x, 0], q[x, 1], of_sites)
        add_to_configurations(of_sites, columns, divergence)
