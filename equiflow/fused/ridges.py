"""Ridges of the sites of a block: a vector of sites passes through all ridges before the next one is loaded.

Fields of a block have the layout `(row, channel, site of the row)`, flat, where sites of a row run over all
groups of configurations, see `equiflow.fused.transforms`. Angles, sines and bends of a vector of sites stay
in registers and in the fastest cache.
"""

from __future__ import annotations

from typing import Any

from equiflow.fused.groups import add_over_sites, spread_group
from equiflow.fused.just_in_time import inline, jit_within
from equiflow.fused.sine import sine_and_cosine, sine_and_cosine_of, split
from equiflow.fused.vectors import (
    flat,
    lanes_of,
    load,
    load_fixed,
    spread,
    stay_apart,
    store,
    zero,
)


@jit_within
def copy(values: Any, out: Any) -> None:
    """Copy values one by one, which is faster than assigning a slice: numba allows for overlaps there.

    Args:
        values: `(n,)`.
        out: `(n,)`, written.
    """
    for k in range(len(values)):
        out[k] = values[k]


@jit_within
def add_to_configurations(of_sites: Any, length: int, together: int, sums: Any) -> None:
    """Add the sites of rows of groups to `(configuration,)`, float64.

    Args:
        of_sites: rows of all groups, one after the other, flat.
        length: of a row of one group.
        together: configurations of a group.
        sums: `(configuration,)`, added to.
    """
    n_groups, lanes = len(sums) // together, lanes_of(of_sites)
    for start in range(0, len(of_sites), length):
        total = zero(of_sites)
        for y in range(start, start + length, lanes):
            total += load(of_sites, y)
        add_over_sites(total, sums, start // length % n_groups * together, together)


@jit_within
def spread_over_row(of_configurations: Any, length: int, together: int, out: Any) -> None:
    """Repeat a number of each configuration for all sites of a row of all groups.

    Args:
        of_configurations: `(configuration,)`.
        length: of a row of one group.
        together: configurations of a group.
        out: `(site,)`, written.
    """
    lanes = lanes_of(out)
    for start in range(0, len(out), length):
        of_group = spread_group(of_configurations, start // length * together, together)
        for y in range(start, start + length, lanes):
            store(of_group, out, y)


@inline
def combined(weights: Any, first: int, n: int, values: Any, start: int, stride: int) -> Any:
    """Return the vector `sum_i weights_{first + i} values_{start + i stride}`.

    Args:
        weights: flat.
        first: number of the first weight.
        n: number of terms.
        values: flat.
        start: where the first vector of values begins.
        stride: from one vector to the next.

    Returns:
        A vector.
    """
    total = spread(weights, first) * load(values, start)
    for i in range(1, n):
        total += spread(weights, first + i) * load(values, start + i * stride)
    return total


@jit_within
def waves(u: Any, width: int, W: Any, phase: Any, B: Any, q: Any, sines: Any, out: Any, bent: Any) -> None:
    """Set `out_f = sum_j B_fj sin theta_j`, and add `sum_j q_j cos theta_j` to `bent`, summed over rows.

    The angles are `theta_j = pi (W_j . u + phase_j)`.

    Args:
        u: `(row, inner channel, site)`, flat.
        width: number of sites of a row.
        W: `(ridge, inner channel)`.
        phase: `(ridge,)`.
        B: `(outer channel, ridge)`.
        q: `(ridge,)`.
        sines: scratch memory for a vector of each ridge.
        out: `(row, outer channel, site)`, flat, written.
        bent: `(site,)`, added to.
    """
    stay_apart()
    if W.shape[1] == 3 and len(B) == 3:  # as in default fields
        _waves_of_three(u, width, W, phase, B, q, sines, out, bent)
    else:
        _waves(u, width, W, phase, B, q, W.shape[1], len(B), sines, out, bent)


@inline
def _waves_of_three(
    u: Any, width: int, W: Any, phase: Any, B: Any, q: Any, memory: Any, out: Any, bent: Any
) -> None:
    """Do what `waves` does for three inner and outer channels, with all sums in registers.

    The angles of the next two ridges are computed beside the polynomials of these two. One after the other
    they would make a chain so long that processors, which look ahead by some hundred operations, wait for it.
    """
    n_ridges, lanes = len(phase), lanes_of(u)
    for j in range(n_ridges):  # what belongs to a ridge side by side, for one pointer
        for c in range(3):
            memory[8 * j + c], memory[8 * j + 5 + c] = W[j, c], B[c, j]
        memory[8 * j + 3], memory[8 * j + 4] = phase[j], q[j]
    memory[8 * n_ridges : 8 * n_ridges + 24] = 0  # ridges that add nothing
    for row in range(len(u) // (3 * width)):
        start = 3 * row * width
        for x in range(start, start + width, lanes):
            u_0, u_1, u_2 = load(u, x), load(u, x + width), load(u, x + 2 * width)
            curved, first, second, third = load(bent, x - start), zero(u), zero(u), zero(u)
            n, r = split(_angle_of_three(memory, 0, u_0, u_1, u_2))
            m, s = split(_angle_of_three(memory, 8, u_0, u_1, u_2))
            for j in range(0, 8 * n_ridges, 16):
                next_n, next_r = split(_angle_of_three(memory, j + 16, u_0, u_1, u_2))
                next_m, next_s = split(_angle_of_three(memory, j + 24, u_0, u_1, u_2))
                (sine, cosine), (other, its_cosine) = sine_and_cosine_of(n, r), sine_and_cosine_of(m, s)
                n, r, m, s = next_n, next_r, next_m, next_s
                curved += spread(memory, j + 4) * cosine
                first += spread(memory, j + 5) * sine
                second += spread(memory, j + 6) * sine
                third += spread(memory, j + 7) * sine
                curved += spread(memory, j + 12) * its_cosine
                first += spread(memory, j + 13) * other
                second += spread(memory, j + 14) * other
                third += spread(memory, j + 15) * other
            store(curved, bent, x - start)
            store(first, out, x)
            store(second, out, x + width)
            store(third, out, x + 2 * width)


@inline
def _angle_of_three(memory: Any, place: int, u_0: Any, u_1: Any, u_2: Any) -> Any:
    t = spread(memory, place + 3) + spread(memory, place) * u_0
    t += spread(memory, place + 1) * u_1
    return t + spread(memory, place + 2) * u_2


@inline
def _waves(
    u: Any,
    width: int,
    W: Any,
    phase: Any,
    B: Any,
    q: Any,
    n_inner: int,
    n_outer: int,
    sines: Any,
    out: Any,
    bent: Any,
) -> None:
    n_ridges, lanes = len(phase), lanes_of(u)
    weights, slopes = flat(W), flat(B)
    for row in range(len(u) // (n_inner * width)):
        for x in range(0, width, lanes):
            curved, start = load(bent, x), row * n_inner * width + x
            for j in range(n_ridges):
                t = spread(phase, j)
                for c in range(n_inner):
                    t += spread(weights, j * n_inner + c) * load_fixed(u, start + c * width)
                sine, cosine = sine_and_cosine(t)
                curved += spread(q, j) * cosine
                store(sine, sines, j * lanes)
            store(curved, bent, x)
            for f in range(n_outer):
                slope = combined(slopes, f * n_ridges, n_ridges, sines, 0, lanes)
                store(slope, out, (row * n_outer + f) * width + x)


@jit_within
def waves_and_bends(
    u: Any,
    w: Any,
    weight: Any,
    width: int,
    ridges: Any,
    slopes: Any,
    q: Any,
    memory: Any,
    bent: Any,
    sums: Any,
) -> None:
    """Turn `w_f` into `sum_j B_fj sin theta_j`, and `u_c` into `sum_j pi W_jc z_j`; add to `bent` as `waves`.

    Here `z_j = cos theta_j sum_f B_fj w_f - weight q_j sin theta_j`. With `sums`, gradients in B, W, q and
    phase are added: `w_f sin theta_j`, `u_c z_j`, `weight cos theta_j` and `z_j`.

    Args:
        u: `(row, inner channel, site)`, flat, overwritten.
        w: `(row, outer channel, site)`, flat, overwritten.
        weight: `(site,)`.
        width: number of sites of a row.
        ridges: W, phase and pi W^T.
        slopes: B, `(outer channel, ridge)`, and transposed.
        q: `(ridge,)`.
        memory: scratch memory for two vectors of each ridge.
        bent: `(site,)`, added to.
        sums: None, or a flat vector for each entry of B^T, W, q and phase, added to.
    """
    stay_apart()
    if len(ridges[2]) == 3 and len(slopes[0]) == 3:
        _waves_and_bends(u, w, weight, width, ridges, slopes, q, 3, 3, memory, bent, sums)
    else:
        sizes = len(ridges[2]), len(slopes[0])
        _waves_and_bends(u, w, weight, width, ridges, slopes, q, *sizes, memory, bent, sums)


@inline
def _waves_and_bends(
    u: Any,
    w: Any,
    weight: Any,
    width: int,
    ridges: Any,
    slopes: Any,
    q: Any,
    n_inner: int,
    n_outer: int,
    memory: Any,
    bent: Any,
    sums: Any,
) -> None:
    (W, phase, steep), (B, transposed) = ridges, slopes
    n_ridges, lanes = len(phase), lanes_of(u)
    of_angles, of_sines, of_w, of_bends = flat(W), flat(B), flat(transposed), flat(steep)
    behind = n_ridges * lanes
    for row in range(len(u) // (n_inner * width)):
        for x in range(0, width, lanes):
            at_u, at_w = row * n_inner * width + x, row * n_outer * width + x
            curved, omega = load(bent, x), load(weight, x)
            for j in range(n_ridges):
                t = spread(phase, j) + combined(of_angles, j * n_inner, n_inner, u, at_u, width)
                z = combined(of_w, j * n_outer, n_outer, w, at_w, width)
                sine, cosine = sine_and_cosine(t)
                curvature = spread(q, j)
                curved += curvature * cosine
                z = z * cosine - curvature * (omega * sine)
                store(sine, memory, j * lanes)
                store(z, memory, behind + j * lanes)
                if sums is not None:
                    of_B, of_W, of_q, of_phase = sums
                    for f in range(n_outer):
                        add_vector(sine * load(w, at_w + f * width), of_B, (j * n_outer + f) * lanes)
                    for c in range(n_inner):
                        add_vector(z * load(u, at_u + c * width), of_W, (j * n_inner + c) * lanes)
                    add_vector(omega * cosine, of_q, j * lanes)
                    add_vector(z, of_phase, j * lanes)
            store(curved, bent, x)
            for f in range(n_outer):
                slope = combined(of_sines, f * n_ridges, n_ridges, memory, 0, lanes)
                store(slope, w, at_w + f * width)
            for c in range(n_inner):
                bend = combined(of_bends, c * n_ridges, n_ridges, memory, behind, lanes)
                store(bend, u, at_u + c * width)


@inline
def add_vector(vector: Any, values: Any, index: int) -> None:
    """Add a vector to values.

    Args:
        vector: what to add.
        values: flat, added to.
        index: where the vector begins.
    """
    store(load(values, index) + vector, values, index)


@jit_within
def add_lanes(vectors: Any, sums: Any) -> None:
    """Add the sum over the lanes of each vector.

    Args:
        vectors: flat, a vector for each number.
        sums: flat, added to.
    """
    lanes = lanes_of(vectors)
    for i in range(len(sums)):
        total = sums.dtype.type(0)
        for lane in range(lanes):
            total += vectors[i * lanes + lane]
        sums[i] += total
