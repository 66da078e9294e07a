"""Ridges of local energies of the sites of a chunk, for `equiflow.fused.angle_fields` and `angle_pulls`."""

from __future__ import annotations

from typing import Any

from equiflow.fused.just_in_time import jit_within
from equiflow.fused.ridges import add_vector, combined
from equiflow.fused.sine import sine_and_cosine
from equiflow.fused.vectors import lanes_of, load, spread, store, zero


@jit_within
def angle_waves(
    energies: Any, grams: Any, W: Any, phase: Any, B: Any, D: Any, sines: Any, slopes: Any, bent: Any
) -> None:
    """Set `F_c = sum_j B_cj sin theta_j` and `bent = sum_j cos theta_j sum_p D_jp g_p`.

    The angles are `theta_j = pi (W_j . e + phase_j)`.

    Args:
        energies: e, `(channel, site)`, flat as all that follow.
        grams: g, `(pair, site)`.
        W: `(ridge, channel)`.
        phase: `(ridge,)`.
        B: `(channel, ridge)`.
        D: `(ridge, pair)`.
        sines: scratch memory for a vector of each ridge.
        slopes: F, `(channel, site)`, written.
        bent: `(site,)`, written.
    """
    sites, lanes, n_ridges = len(bent), lanes_of(bent), len(phase)
    n_channels, n_pairs = len(energies) // sites, len(grams) // sites
    for x in range(0, sites, lanes):
        total = zero(bent)
        for j in range(n_ridges):
            t = spread(phase, j) + combined(W, j * n_channels, n_channels, energies, x, sites)
            sine, cosine = sine_and_cosine(t)
            total += cosine * combined(D, j * n_pairs, n_pairs, grams, x, sites)
            store(sine, sines, j * lanes)
        store(total, bent, x)
        for c in range(n_channels):
            store(combined(B, c * n_ridges, n_ridges, sines, 0, lanes), slopes, c * sites + x)


@jit_within
def turn_waves(
    energies: Any,
    grams: Any,
    of_slopes: Any,
    weight: Any,
    tables: Any,
    memory: Any,
    slopes: Any,
    of_energies: Any,
    of_grams: Any,
    bent: Any,
    sums: Any,
) -> None:
    """Do what `angle_waves` does, write gradients in e and g, and add gradients in the tables.

    With `z_j = cos theta_j sum_c B_cj F_c' - omega sin theta_j sum_p D_jp g_p` they are `sum_j pi W_jc z_j`
    and `omega sum_j D_jp cos theta_j`; in B, W, D and phase `F_c' sin theta_j`, `e_c z_j`,
    `omega g_p cos theta_j` and `z_j`.

    Args:
        energies: e, `(channel, site)`, flat as all that follow.
        grams: g, `(pair, site)`.
        of_slopes: F', `(channel, site)`.
        weight: omega, `(site,)`.
        tables: W `(ridge, channel)`, pi W^T, phase, B `(channel, ridge)`, B^T, D `(ridge, pair)`, D^T.
        memory: scratch memory for three vectors of each ridge.
        slopes: F, `(channel, site)`, written.
        of_energies: `(channel, site)`, written.
        of_grams: `(pair, site)`, written.
        bent: `(site,)`, written.
        sums: a vector for each entry of B, W, D and phase, added to; nothing is added if they are empty.
    """
    W, steep, phase, B, B_transposed, D, D_transposed = tables
    of_B, of_W, of_D, of_phase = sums
    sites, lanes, n_ridges = len(bent), lanes_of(bent), len(phase)
    n_channels, n_pairs = len(energies) // sites, len(grams) // sites
    bends, weights = n_ridges * lanes, 2 * n_ridges * lanes
    for x in range(0, sites, lanes):
        total, omega = zero(bent), load(weight, x)
        for j in range(n_ridges):
            t = spread(phase, j) + combined(W, j * n_channels, n_channels, energies, x, sites)
            sine, cosine = sine_and_cosine(t)
            bend = combined(D, j * n_pairs, n_pairs, grams, x, sites)
            z = combined(B_transposed, j * n_channels, n_channels, of_slopes, x, sites)
            total += bend * cosine
            z = z * cosine - omega * sine * bend
            weighted = omega * cosine
            store(sine, memory, j * lanes)
            store(z, memory, bends + j * lanes)
            store(weighted, memory, weights + j * lanes)
            if len(of_phase) > 0:
                for c in range(n_channels):
                    add_vector(sine * load(of_slopes, c * sites + x), of_B, (c * n_ridges + j) * lanes)
                    add_vector(z * load(energies, c * sites + x), of_W, (j * n_channels + c) * lanes)
                for pair in range(n_pairs):
                    add_vector(weighted * load(grams, pair * sites + x), of_D, (j * n_pairs + pair) * lanes)
                add_vector(z, of_phase, j * lanes)
        store(total, bent, x)
        for c in range(n_channels):
            store(combined(B, c * n_ridges, n_ridges, memory, 0, lanes), slopes, c * sites + x)
            turned = combined(steep, c * n_ridges, n_ridges, memory, bends, lanes)
            store(turned, of_energies, c * sites + x)
        for pair in range(n_pairs):
            turned = combined(D_transposed, pair * n_ridges, n_ridges, memory, weights, lanes)
            store(turned, of_grams, pair * sites + x)
