"""Rates of fields of angles for a block: velocity and divergence without a graph.

With `u_n = exp(i n theta)`, local energies e_c and their conjugates m_c, `e_c + i m_c = conj(u_1) L_c * u_1`,
and `F_c = sum_j B_cj sin theta_j`, `theta_j = pi (W_j . e + phase_j)`, they compute

    v = Im[conj(u_1) q] + sum_c F_c m_c + sum_{n > 1} Im[conj(u_n) K_n * u_n],
    q = K_1 * u_1 + sum_c L_c * (F_c u_1),
    div v = sum_x [sum_j cos theta_j sum_p D_jp g_p + sum_c F_c (2 L_c(0) - e_c) - Re[conj(u_1) q]
            - sum_{n > 1} n Re[conj(u_n) K_n * u_n]] + V sum_n n K_n(0)

where p runs over pairs of channels c <= c' with `M_p = L_c L_c'` and

    g_p = m_c m_c' + (sum_y M_p(y) - Re[conj(u_2) M_p * u_2]) / 2.

All kernels are even under the reflection of each axis. See `equiflow.vector_fields.angles`.

The parts of `u_n` are fields `2 n - 2` and `2 n - 1` of a block, see `equiflow.fused.angle_rows`. Arguments
of all kernels, with the tables at one time without their first axis:

    tables: kernels (time, kernel, first, second) in modes: K_n, then L_c, then M_p; B (time, channel, ridge);
        D (time, ridge, pair); L_c(0) (time, channel); `V sum_n n K_n(0)` (time,).
    ridges: W (ridge, channel) and phase (ridge,) in half turns.
    basis: see `transforms.axes`.
"""

from __future__ import annotations

from typing import Any

from equiflow.fused.angle_rows import (
    add_cross,
    add_dot,
    add_scaled,
    as_complex,
    dot,
    scale,
    tile,
    transform,
    write_powers,
)
from equiflow.fused.angle_waves import angle_waves
from equiflow.fused.just_in_time import jit_within
from equiflow.fused.ridges import add_to_configurations
from equiflow.fused.transforms import aligned
from equiflow.fused.vectors import flat, lanes_of

#: Sites whose ridges are computed together; their energies stay in the fastest cache.
SITES_PER_CHUNK = 256


@jit_within
def angle_tables_at(tables: Any, n: int) -> Any:
    """Return the tables at one time.

    Args:
        tables: see above.
        n: number of the time.

    Returns:
        The tables without their first axis.
    """
    kernels, B, D, at_origin, constant = tables
    return kernels[n], B[n], D[n], at_origin[n], constant[n]


@jit_within
def rows_per_chunk(rows: int, sites_per_row: int) -> int:
    """Return the largest divisor of the number of rows for which a chunk is not too large, at least 1.

    Args:
        rows: number of rows.
        sites_per_row: of all configurations of a block.

    Returns:
        How many rows make a chunk.
    """
    best = 1
    for n in range(1, rows + 1):
        if rows % n == 0 and n * sites_per_row <= SITES_PER_CHUNK:
            best = n
    return best


@jit_within
def angle_work_for(like: Any, now: Any) -> Any:
    """Return scratch memory of a block and of a chunk of its rows.

    Args:
        like: one field of the block, `(first, group, row)`.
        now: tables at one time.

    Returns:
        `u_n` on sites and in modes, repeated kernels, memory for three sets of fields, and fields of a chunk.
    """
    kernels, B, D, _, _ = now
    rows, n_groups, length = like.shape
    width, n_kernels, n_channels = n_groups * length, len(kernels), len(B)
    n_ridges, n_pairs = D.shape
    n_powers = max(2, n_kernels - n_channels - n_pairs)
    n, many = 2 * n_powers * rows * width, 2 * (n_kernels - 1) * rows * width
    powers = aligned(n, like).reshape(rows, 2 * n_powers, width)
    modes = aligned(n, like).reshape(rows, 2 * n_powers, width)
    tiles = aligned(n_kernels * rows * width, like).reshape(n_kernels, rows, n_groups, length)
    memory = aligned(many, like), aligned(many, like), aligned(many, like)
    few = rows_per_chunk(rows, width)
    sites = few * width
    energies = aligned(n_channels * sites, like).reshape(n_channels, few, width)
    moments = aligned(n_channels * sites, like).reshape(n_channels, few, width)
    slopes = aligned(n_channels * sites, like).reshape(n_channels, few, width)
    grams = aligned(n_pairs * sites, like).reshape(n_pairs, few, width)
    vectors = aligned(3 * n_ridges * lanes_of(like), like)
    bent = aligned(sites, like).reshape(few, width)
    return powers, modes, tiles, memory, (energies, moments, slopes, grams, vectors, bent)


@jit_within
def pull_fields(
    powers: Any, modes: Any, tiles: Any, n_channels: int, length: int, basis: Any, memory: Any
) -> Any:
    """Return `K_n * u_n` for n > 1, then `L_c * u_1`, then `M_p * u_2`, on sites.

    Args:
        powers: `u_n` on sites.
        modes: `u_n` in modes.
        tiles: repeated kernels, `(kernel, first, column)`.
        n_channels: number of `L_c`.
        length: of a row of one group.
        basis: see above.
        memory: for three sets of fields; the last one is returned.

    Returns:
        Fields `(first, field, column)`.
    """
    n_kernels, n_pairs = len(tiles), n_channels * (n_channels + 1) // 2
    n_harmonics = n_kernels - n_channels - n_pairs
    products = as_complex(memory[0], 2 * (n_kernels - 1), powers)
    pulled = as_complex(memory[2], 2 * (n_kernels - 1), powers)
    for kernel in range(1, n_kernels):
        power = kernel  # counted from 0, which is u_1
        if kernel >= n_harmonics:
            power = 0 if kernel < n_harmonics + n_channels else 1
        scale(modes, 2 * power, tiles, kernel, products, 2 * kernel - 2)
    transform(True, products, length, basis, memory[1], pulled)
    return pulled


@jit_within
def write_energies(first: int, powers: Any, pulled: Any, kernels: Any, n_skipped: int, of_chunk: Any) -> None:
    """Write e_c, m_c and g_p of a chunk of rows.

    Args:
        first: first row of the chunk.
        powers: `u_n` on sites.
        pulled: of `pull_fields`.
        kernels: at one time, in modes.
        n_skipped: number of kernels `K_n` with n > 1.
        of_chunk: of `angle_work_for`, written.
    """
    energies, moments, _, grams, _, bent = of_chunk
    half = powers.dtype.type(0.5)
    few, width = bent.shape
    for row in range(few):
        x = first + row
        for c in range(len(energies)):
            field = 2 * (n_skipped + c)
            dot(powers, x, 0, pulled, x, field, energies, c, row)
            for k in range(width):
                moments[c, row, k] = (
                    powers[x, 0, k] * pulled[x, field + 1, k] - powers[x, 1, k] * pulled[x, field, k]
                )
        pair = 0
        for c in range(len(energies)):
            for d in range(c, len(energies)):
                kernel = n_skipped + len(energies) + pair
                overlap = half * kernels[kernel + 1, 0, 0]
                dot(powers, x, 2, pulled, x, 2 * kernel, grams, pair, row)
                for k in range(width):
                    product = moments[c, row, k] * moments[d, row, k]
                    grams[pair, row, k] = product + (overlap - half * grams[pair, row, k])
                pair += 1


@jit_within
def write_rates(
    first: int, powers: Any, pulled: Any, at_origin: Any, n_skipped: int, of_chunk: Any, sent: Any, out: Any
) -> None:
    """Write `F_c u` and all of the velocity but its first term, and add to the divergence of the sites.

    Args:
        first: first row of the chunk.
        powers: `u_n` on sites.
        pulled: of `pull_fields`.
        at_origin: `L_c(0)`, `(channel,)`.
        n_skipped: number of kernels `K_n` with n > 1.
        of_chunk: of `angle_work_for`; the last entry is added to.
        sent: fields, written.
        out: velocity, `(first, column)`, written.
    """
    energies, moments, slopes, _, _, bent = of_chunk
    few, width = bent.shape
    for row in range(few):
        x, minus_n = first + row, -powers.dtype.type(1)
        for k in range(width):
            out[x, k] = 0
        for c in range(len(slopes)):
            twice = at_origin[c] + at_origin[c]
            for k in range(width):
                bent[row, k] += slopes[c, row, k] * (twice - energies[c, row, k])
            for k in range(width):
                out[x, k] += slopes[c, row, k] * moments[c, row, k]
            for part in range(2):
                for k in range(width):
                    sent[x, 2 * c + part, k] = slopes[c, row, k] * powers[x, part, k]
        for n in range(n_skipped):
            minus_n -= powers.dtype.type(1)
            add_cross(powers, x, 2 * n + 2, pulled, x, 2 * n, out, x)
            add_dot(minus_n, powers, x, 2 * n + 2, pulled, x, 2 * n, bent, row)


@jit_within
def _finish(
    powers: Any, modes: Any, sent: Any, tiles: Any, n_harmonics: int, length: int, basis: Any, memory: Any
) -> Any:
    """Return `q = K_1 * u_1 + sum_c L_c * sent_c`, one complex field."""
    sent_modes = as_complex(memory[2], sent.shape[1], powers)
    transform(False, sent, length, basis, memory[1], sent_modes)
    mixed = as_complex(memory[0], 2, powers)
    scale(modes, 0, tiles, 0, mixed, 0)
    for c in range(sent.shape[1] // 2):
        add_scaled(sent_modes, 2 * c, tiles, n_harmonics + c, mixed, 0)
    q = as_complex(memory[2], 2, powers)
    transform(True, mixed, length, basis, memory[1], q)
    return q


@jit_within
def angle_rates_of(
    theta: Any, now: Any, ridges: Any, basis: Any, work: Any, out: Any, divergence: Any
) -> None:
    """Set `out` to the velocity of a block, and write the divergence of each configuration, in float64.

    Args:
        theta: angles in radians, `(first, group, row)`.
        now: tables at one time.
        ridges: see above.
        basis: see above.
        work: of `angle_work_for`.
        out: like `theta`, written.
        divergence: `(configuration,)`, written.
    """
    kernels, B, D, at_origin, constant = now
    powers, modes, tiles, memory, of_chunk = work
    energies, _, slopes, grams, vectors, bent = of_chunk
    rows, n_groups, length = theta.shape
    width, n_channels, minus = n_groups * length, len(B), -theta.dtype.type(1)
    n_harmonics = len(kernels) - n_channels - D.shape[1]
    velocity = out.reshape(rows, width)
    write_powers(theta.reshape(rows, width), powers, modes)
    tile(kernels, basis[2], tiles)
    tiles_of_rows = tiles.reshape(len(kernels), rows, width)
    transform(False, powers, length, basis, memory[0], modes)
    pulled = pull_fields(powers, modes, tiles_of_rows, n_channels, length, basis, memory)
    sent = as_complex(memory[0], 2 * n_channels, powers)
    divergence[:] = constant
    for first in range(0, rows, len(bent)):
        write_energies(first, powers, pulled, kernels, n_harmonics - 1, of_chunk)
        angle_waves(
            flat(energies),
            flat(grams),
            flat(ridges[0]),
            ridges[1],
            flat(B),
            flat(D),
            vectors,
            flat(slopes),
            flat(bent),
        )
        write_rates(first, powers, pulled, at_origin, n_harmonics - 1, of_chunk, sent, velocity)
        add_to_configurations(flat(bent), length, basis[2], divergence)
    q = _finish(powers, modes, sent, tiles_of_rows, n_harmonics, length, basis, memory)
    for x in range(rows):
        for k in range(width):
            bent[0, k] = 0
        add_cross(powers, x, 0, q, x, 0, velocity, x)
        add_dot(minus, powers, x, 0, q, x, 0, bent, 0)
        add_to_configurations(bent[0], length, basis[2], divergence)
