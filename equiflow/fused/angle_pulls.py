"""The transposed Jacobian of fields of angles for a block, with the gradients in their tables.

It takes w and a number omega to the gradient of `sum_x w_x v_x + omega div v`. The field and the
arguments are those of `equiflow.fused.angle_fields`. With cotangents `Q = (i w - omega) u_1` of q and
`(i w - n omega) u_n` of `K_n * u_n`, a pass over the ridges of all sites computes

    F_c' = Re[conj(u_1) L_c * Q] + w m_c + omega (2 L_c(0) - e_c),
    z_j = cos theta_j sum_c B_cj F_c' - omega sin theta_j sum_p D_jp g_p,
    g_p' = omega sum_j D_jp cos theta_j,
    e_c' = sum_j pi W_jc z_j - omega F_c,
    m_c' = w F_c + sum of g_p' m over the partners of c in all pairs p,

where a prime marks a gradient. This gives cotangents `(e_c' + i m_c') u_1` of `L_c * u_1` and
`-g_p' u_2 / 2` of `M_p * u_2`. The kernels take all cotangents to cotangents of `u_n`. Their part along
`i n u_n` is a gradient in the angles.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.angle_cotangents import (
    add_turned,
    of_channels,
    of_pairs,
    of_slopes_in,
    write_cotangents,
)
from equiflow.fused.angle_fields import pull_fields, write_energies, write_rates
from equiflow.fused.angle_rows import (
    add_cross,
    add_dot,
    add_scaled,
    as_complex,
    scale,
    tile,
    transform,
    write_powers,
)
from equiflow.fused.angle_waves import turn_waves
from equiflow.fused.groups import add_over_group
from equiflow.fused.just_in_time import jit_within
from equiflow.fused.ridges import add_lanes, add_to_configurations, spread_over_row
from equiflow.fused.transforms import aligned
from equiflow.fused.vectors import flat, lanes_of, load, zero


@jit_within
def angle_pull_work_for(like: Any, now: Any) -> Any:
    """Return scratch memory of a block and of a chunk of its rows.

    Args:
        like: one field of the block, `(first, group, row)`.
        now: tables at one time.

    Returns:
        Memory for five sets of fields, and fields of a chunk.
    """
    kernels, B, D, _, _ = now
    rows, n_groups, length = like.shape
    n_channels, n_pairs = len(B), D.shape[1]
    width = n_groups * length
    n_powers = max(2, len(kernels) - n_channels - n_pairs)
    n = 2 * rows * width * max(2 * n_channels + n_pairs, n_powers + 1)
    memory = aligned(n, like), aligned(n, like), aligned(n, like), aligned(n, like), aligned(n, like)
    return memory


@jit_within
def _add_products(a: Any, i: int, b: Any, j: int, together: int, kernel: int, sums: Any) -> None:
    """Add `Re[conj(a) b]` of complex fields in modes, summed over configurations, to a kernel's gradient."""
    (rows, columns), width, lanes = sums.shape[1:], a.shape[2], lanes_of(a)
    first, second, added_to, length = flat(a), flat(b), flat(sums), columns * together
    for x in range(rows if len(sums) else 0):
        place_of_sum = (kernel * rows + x) * columns
        for y in range(0, length, lanes):
            total = zero(a)
            for part in range(2):
                at, by = (x * a.shape[1] + i + part) * width, (x * b.shape[1] + j + part) * width
                for group in range(width // length):
                    place = group * length + y
                    total += load(first, at + place) * load(second, by + place)
            add_over_group(total, added_to, place_of_sum, together)
            place_of_sum += lanes // together


@jit_within
def _carry(
    powers: Any,
    modes: Any,
    w: Any,
    weight: Any,
    kernels: Any,
    n_harmonics: int,
    n_channels: int,
    length: int,
    basis: Any,
    memory: Any,
    of_kernels: Any,
) -> Any:
    """Return the cotangents of all `K_n * u_n` in modes and `L_c * Q` on sites, and add gradients of K_n."""
    bars = as_complex(memory[0], powers.shape[1], powers)
    of_powers = as_complex(memory[1], powers.shape[1], powers)
    write_cotangents(powers, w, weight, n_harmonics, bars)
    transform(False, bars, length, basis, memory[4], of_powers)
    for n in range(n_harmonics):
        _add_products(of_powers, 2 * n, modes, 2 * n, basis[2], n, of_kernels)
    products = as_complex(memory[0], 2 * n_channels, powers)
    of_sent = as_complex(memory[2], 2 * n_channels, powers)
    for c in range(n_channels):
        scale(of_powers, 0, kernels, n_harmonics + c, products, 2 * c)
    transform(True, products, length, basis, memory[4], of_sent)
    return of_powers, of_sent


@jit_within
def _close(
    powers: Any,
    mixed: Any,
    w: Any,
    weight: Any,
    length: int,
    together: int,
    scratch: Any,
    velocity: Any,
    divergence: Any,
    out: Any,
) -> None:
    """Add the first term of velocity and divergence, and the gradients in the angles by q and all `u_n`."""
    rows, width = w.shape
    one = w.dtype.type(1)
    for x in range(rows):
        for k in range(width):
            scratch[0, k] = 0
        add_cross(powers, x, 0, mixed, x, 0, velocity, x)
        add_dot(-one, powers, x, 0, mixed, x, 0, scratch, 0)
        add_to_configurations(scratch[0], length, together, divergence)
        add_turned(one, w, weight, powers, x, 0, mixed, 0, out)
        degree = one - one
        for i in range(0, powers.shape[1], 2):
            degree += one
            for k in range(width):
                out[x, k] += degree * (
                    powers[x, i, k] * mixed[x, i + 3, k] - powers[x, i + 1, k] * mixed[x, i + 2, k]
                )


@jit_within
def angle_pull_of(
    theta: Any,
    w: Any,
    weights: Any,
    now: Any,
    ridges: Any,
    basis: Any,
    work: Any,
    memory: Any,
    velocity: Any,
    divergence: Any,
    out: Any,
    sums: Any,
) -> None:
    """Set `out` to the transposed Jacobian of `(w, omega)`, and write velocity and divergence too.

    Args:
        theta: angles in radians, `(first, group, row)`.
        w: like `theta`.
        weights: omega of each configuration, `(configuration,)`.
        now: tables at one time.
        ridges: W and phase in half turns, and pi W^T.
        basis: see `transforms.axes`.
        work: of `angle_work_for`.
        memory: of `angle_pull_work_for`.
        velocity: like `theta`, written.
        divergence: `(configuration,)` float64, written.
        out: like `theta`, written.
        sums: added to: gradients of kernels, B, D, `L_c(0)`, pi W and phase.
    """
    kernels, B, D, at_origin, constant = now
    of_kernels, of_B, of_D, of_origin, of_W, of_phase = sums
    powers, modes, tiles, own, of_chunk = work
    energies, _, slopes, grams, vectors, bent = of_chunk
    (rows, n_groups, length), together = theta.shape, basis[2]
    width, n_channels, n_pairs, n_ridges = n_groups * length, len(B), D.shape[1], len(D)
    n_harmonics, sites = len(kernels) - n_channels - n_pairs, bent.size
    of_theta, along, rate = out.reshape(rows, width), w.reshape(rows, width), velocity.reshape(rows, width)
    of_sites = np.empty(sites, w.dtype)  # omega of the sites of a chunk
    for start in range(0, sites, width):
        spread_over_row(weights, length, together, of_sites[start : start + width])
    weight = of_sites[:width]
    write_powers(theta.reshape(rows, width), powers, modes)
    tile(kernels, together, tiles)
    K = tiles.reshape(len(kernels), rows, width)
    transform(False, powers, length, basis, own[0], modes)
    pulled = pull_fields(powers, modes, K, n_channels, length, basis, own)
    carried = _carry(
        powers, modes, along, weight, K, n_harmonics, n_channels, length, basis, memory, of_kernels
    )
    of_powers, of_sent = carried
    n_fields = 2 * (2 * n_channels + n_pairs)
    fields = as_complex(memory[3], n_fields, powers)
    few = len(bent)
    of_slopes = np.empty((n_channels, few, width), w.dtype)
    tables = (
        flat(ridges[0]),
        flat(ridges[2]),
        ridges[1],
        flat(B),
        flat(np.ascontiguousarray(B.T)),
        flat(D),
        flat(np.ascontiguousarray(D.T)),
    )
    # Nobody wants gradients if there is no room for them.
    lanes = lanes_of(w) if len(of_kernels) else 0
    by_lane = (
        np.zeros(lanes * B.size, w.dtype),
        np.zeros(lanes * B.size, w.dtype),
        np.zeros(lanes * D.size, w.dtype),
        np.zeros(lanes * n_ridges, w.dtype),
    )
    of_energies, of_grams = np.empty((n_channels, sites), w.dtype), np.empty((n_pairs, sites), w.dtype)
    divergence[:] = constant
    for first in range(0, rows, few):
        write_energies(first, powers, pulled, kernels, n_harmonics - 1, of_chunk)
        of_slopes_in(first, powers, of_sent, along, weight, at_origin, of_chunk, of_slopes)
        turn_waves(
            flat(energies),
            flat(grams),
            flat(of_slopes),
            of_sites,
            tables,
            vectors,
            flat(slopes),
            flat(of_energies),
            flat(of_grams),
            flat(bent),
            by_lane,
        )
        write_rates(first, powers, pulled, at_origin, n_harmonics - 1, of_chunk, fields, rate)
        add_to_configurations(flat(bent), length, together, divergence)
        by_row = of_grams.reshape(n_pairs, few, width)
        of_e = of_energies.reshape(n_channels, few, width)
        of_channels(first, powers, of_sent, along, weight, of_chunk, of_e, by_row, fields, of_theta)
        n_skipped = n_harmonics - 1
        of_pairs(first, powers, pulled, along, weight, n_skipped, n_channels, by_row, fields, of_theta)
        _add_sums(weight, slopes, of_grams, n_harmonics + n_channels, of_origin, of_kernels)
    if lanes:
        add_lanes(by_lane[0], flat(of_B))
        add_lanes(by_lane[1], flat(of_W))
        add_lanes(by_lane[2], flat(of_D))
        add_lanes(by_lane[3], of_phase)
    mixed = _mix_back(modes, of_powers, fields, K, n_harmonics, length, basis, memory, of_kernels)
    _close(powers, mixed, along, weight, length, together, bent, rate, divergence, of_theta)


@jit_within
def _add_sums(
    weight: Any, slopes: Any, of_grams: Any, first_pair: int, of_origin: Any, of_kernels: Any
) -> None:
    """Add the gradients of `L_c(0)` and of `sum_y M_p(y)`, which is the mode 0 of M_p."""
    n_channels, few, width = slopes.shape
    half = weight.dtype.type(0.5)
    for c in range(n_channels):
        total = weight.dtype.type(0)
        for row in range(few):
            for k in range(width):
                total += weight[k] * slopes[c, row, k]
        of_origin[c] += total + total
    for pair in range(len(of_grams)):
        total = weight.dtype.type(0)
        for k in range(of_grams.shape[1]):
            total += of_grams[pair, k]
        if len(of_kernels):
            of_kernels[first_pair + pair, 0, 0] += half * total


@jit_within
def _mix_back(
    modes: Any,
    of_powers: Any,
    fields: Any,
    kernels: Any,
    n_harmonics: int,
    length: int,
    basis: Any,
    memory: Any,
    of_kernels: Any,
) -> Any:
    """Return q and the cotangents of all `u_n`, one complex field each, and add gradients of kernels."""
    n_powers, n_fields = of_powers.shape[1] // 2, fields.shape[1] // 2
    n_channels = n_fields - (len(kernels) - n_harmonics)  # there are two fields for each L_c
    n_pairs = n_fields - 2 * n_channels
    in_modes = as_complex(memory[0], 2 * n_fields, fields)
    transform(False, fields, length, basis, memory[4], in_modes)
    mixed, out = (
        as_complex(memory[2], 2 * n_powers + 2, fields),
        as_complex(memory[3], 2 * n_powers + 2, fields),
    )
    scale(modes, 0, kernels, 0, mixed, 0)
    for n in range(n_powers):
        scale(of_powers, 2 * n, kernels, min(n, n_harmonics - 1), mixed, 2 * n + 2)
    for c in range(n_channels):
        kernel = n_harmonics + c
        add_scaled(in_modes, 2 * c, kernels, kernel, mixed, 0)
        add_scaled(in_modes, 2 * (n_channels + c), kernels, kernel, mixed, 2)
        _add_products(of_powers, 0, in_modes, 2 * c, basis[2], kernel, of_kernels)
        _add_products(modes, 0, in_modes, 2 * (n_channels + c), basis[2], kernel, of_kernels)
    for pair in range(n_pairs):
        kernel, field = n_harmonics + n_channels + pair, 2 * (2 * n_channels + pair)
        add_scaled(in_modes, field, kernels, kernel, mixed, 4)
        _add_products(modes, 2, in_modes, field, basis[2], kernel, of_kernels)
    transform(True, mixed, length, basis, memory[4], out)
    return out
