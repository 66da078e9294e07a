"""Velocities of constant norm in a block of chains: products with forces and noise, kicks, and drifts.

The velocity u of a chain of d numbers has the norm sqrt(d). A kick turns it within the plane of u and the
gradient g, and a refreshment adds noise z and restores the norm: the new u is a combination of u, g and z,
whose coefficients follow from the products of these. So a step takes two sweeps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import inline, jit
from equiflow.fused.stencil_kernels import add_up, far_neighbours, squares, wrap

U = np.uint64
_ONE, _TWO = U(1), U(2)


@jit
def gradient(
    source: Any,
    force: Any,
    velocity: Any,
    beside: Any,
    couplings: Any,
    side: Any,
    lanes: Any,
    work: Any,
    sums: Any,
) -> None:
    """Write g = dS/dphi of a block to `force`, and the products g.g and g.u to `sums`, `(2, side lanes)`.

    Args:
        source: phi, with borders.
        force: g, without borders.
        velocity: u, without borders.
        beside: see `neighbouring_rows`.
        couplings: see `Stencil.couplings`.
        side: length of a row; uint64.
        lanes: chains in the block; uint64.
        work: two rows, `(2, side lanes)`.
        sums: where g.g and g.u go, `(2, side lanes)`.
    """
    real = source.dtype.type
    rows, components = U(len(beside)), U(len(couplings) - 3)
    n, pitch = side * lanes, (side + _TWO) * lanes
    linear, cubic = real(2) * (couplings[0] + couplings[1]), real(4) * couplings[2]
    far, square = work[0], work[1]
    sums[:2] = 0
    for r in range(rows):
        ahead, behind = beside[r, 0] * pitch + lanes, beside[r, 1] * pitch + lanes
        if components == 1 and beside.shape[1] == 2:
            constant, at, to = couplings[3], r * pitch + lanes, r * n
            for i in range(n):
                phi = source[at + i]
                near = source[at + i - lanes] + source[at + i + lanes]
                total = near + (source[ahead + i] + source[behind + i])
                g = (linear + cubic * phi * phi) * phi - real(2) * total - constant
                force[to + i] = g
                sums[0, i] += g * g
                sums[1, i] += g * velocity[to + i]
            continue
        squares(source, r * pitch + lanes, rows * pitch, n, components, square)
        for c in range(components):
            base, constant = c * rows * pitch, couplings[U(3) + c]
            at, to, up, down = base + r * pitch + lanes, (c * rows + r) * n, base + ahead, base + behind
            far_neighbours(source, beside, r, base, pitch, n, lanes, far)
            for i in range(n):
                near = source[at + i - lanes] + source[at + i + lanes]
                total = near + (source[up + i] + source[down + i]) + far[i]
                g = (linear + cubic * square[i]) * source[at + i] - real(2) * total - constant
                force[to + i] = g
                sums[0, i] += g * g
                sums[1, i] += g * velocity[to + i]


@jit
def noise_products(force: Any, velocity: Any, noise: Any, size: Any, n: Any, lanes: Any, sums: Any) -> None:
    """Write the products z.g, z.u and z.z to `sums`, `(3, side lanes)`.

    Args:
        force: g, without borders.
        velocity: u, without borders.
        noise: z, without borders.
        size: number of values of a chain; uint64.
        n: number of values of a row, sites times lanes; uint64.
        lanes: chains in the block; uint64.
        sums: where the products go, `(3, side lanes)`.
    """
    sums[:3] = 0
    for at in range(U(0), size * lanes, n):
        for i in range(n):
            z = noise[at + i]
            sums[0, i] += z * force[at + i]
            sums[1, i] += z * velocity[at + i]
            sums[2, i] += z * z


@inline
def turn(gg: Any, gu: Any, amount: Any, d: Any) -> Any:
    """Return `(a, b, change of the energy)` of a kick, `u -> a u + b g`.

    Args:
        gg: g.g, of one chain in float64.
        gu: g.u.
        amount: coefficient times step.
        d: number of values of a chain.

    Returns:
        a, b, and the change of the kinetic energy.
    """
    size, root = np.sqrt(gg), np.sqrt(d)
    if gg == 0.0:
        return 1.0, 0.0, 0.0
    cosine = -gu / (size * root)
    delta = amount * root * size / (d - 1.0)
    zeta = np.exp(-delta)
    below = (1.0 + cosine) + (1.0 - cosine) * zeta * zeta
    along = (1.0 - zeta) * (1.0 + zeta + cosine * (1.0 - zeta)) / below
    return 2.0 * zeta / below, -along * root / size, (d - 1.0) * (delta + np.log(0.5 * below))


@jit
def combine(
    source: Any,
    target: Any,
    velocity: Any,
    force: Any,
    noise: Any,
    factors: Any,
    drift: Any,
    rows: Any,
    components: Any,
    side: Any,
    lanes: Any,
) -> None:
    """Set `u = a u + b g + c z`, then `target = source + drift u`, for a whole block.

    Args:
        source: fields with borders.
        target: the same, in other memory.
        velocity: u, without borders.
        force: g, without borders.
        noise: z, without borders, or empty.
        factors: a, b and c of each element of a row, `(3, side lanes)`.
        drift: coefficient times step.
        rows: of the lattice; uint64 as all that follow.
        components: of the field.
        side: length of a row.
        lanes: chains in the block.
    """
    n, pitch = side * lanes, (side + _TWO) * lanes
    for row in range(components * rows):
        at, to = row * pitch + lanes, row * n
        if len(noise) > 0:
            for i in range(n):
                u = (
                    factors[0, i] * velocity[to + i]
                    + factors[1, i] * force[to + i]
                    + factors[2, i] * noise[to + i]
                )
                velocity[to + i] = u
                target[at + i] = source[at + i] + drift * u
        else:
            for i in range(n):
                u = factors[0, i] * velocity[to + i] + factors[1, i] * force[to + i]
                velocity[to + i] = u
                target[at + i] = source[at + i] + drift * u
        wrap(target, at, n, lanes)


@inline
def spread(values: Any, n: Any, lanes: Any) -> None:
    """Repeat the first `lanes` numbers over a row.

    Args:
        values: a row.
        n: number of values of a row, sites times lanes; uint64.
        lanes: chains in the block; uint64.
    """
    for at in range(lanes, n, lanes):
        for lane in range(lanes):
            values[at + lane] = values[lane]


@jit
def set_off(velocity: Any, size: Any, n: Any, lanes: Any, sums: Any, factors: Any, norms: Any) -> None:
    """Scale normal numbers to velocities of the norm `sqrt(d)`.

    Args:
        velocity: u, without borders.
        size: number of values of a chain; uint64.
        n: number of values of a row, sites times lanes; uint64.
        lanes: chains in the block; uint64.
        sums: room for sums, `(3, side lanes)`.
        factors: where the scale of each element goes, `(3, side lanes)`.
        norms: room for the squared norms, `(lanes,)` in float64.
    """
    noise_products(velocity, velocity, velocity, size, n, lanes, sums)
    add_up(sums[2], n, lanes, norms)
    for lane in range(lanes):
        factors[0, lane] = np.sqrt(np.float64(size) / norms[lane])
    spread(factors[0], n, lanes)
    for at in range(U(0), size * lanes, n):
        for i in range(n):
            velocity[at + i] *= factors[0, i]


@jit
def kick(
    kicks: Any, weight: Any, dots: Any, d: Any, lanes: Any, factors: Any, first: Any, second: Any
) -> None:
    """Write the coefficients of u, g and z after the kicks at a force to `factors`, and the energies of both.

    Args:
        kicks: coefficients times step before and after the noise.
        weight: of the noise z between them.
        dots: the products g.g, g.u, z.g, z.u and z.z, `(5, lanes)`.
        d: number of values of a chain, float64.
        lanes: chains in the block; uint64.
        factors: `(3, side lanes)`, of which the first lanes are written.
        first: change of the kinetic energy by the kick before the noise, `(lanes,)`.
        second: the same after the noise.
    """
    for lane in range(lanes):
        gg, gu = dots[0, lane], dots[1, lane]
        a, b, change = turn(gg, gu, kicks[0], d)
        c = 0.0
        first[lane], second[lane] = change, 0.0
        if kicks[1] > 0.0:
            zu = a * dots[3, lane] + b * dots[2, lane]
            scale = np.sqrt(d / (d + 2.0 * weight * zu + weight * weight * dots[4, lane]))
            gu = scale * (a * gu + b * gg + weight * dots[2, lane])
            more, shift, change = turn(gg, gu, kicks[1], d)
            a, b, c = more * scale * a, more * scale * b + shift, more * scale * weight
            second[lane] = change
        factors[0, lane], factors[1, lane], factors[2, lane] = a, b, c
