"""Gradients of fields of angles in what they are made of, row by row, for `equiflow.fused.angle_pulls`."""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit_within


@jit_within
def write_cotangents(powers: Any, w: Any, weight: Any, n_harmonics: int, out: Any) -> None:
    """Write `(i w - n omega) u_n` as fields, and zeros for what has no kernel.

    Args:
        powers: `u_n` on sites.
        w: `(first, column)`.
        weight: omega of each column, `(column,)`.
        n_harmonics: number of kernels `K_n`.
        out: like `powers`, written.
    """
    rows, width = w.shape
    one = w.dtype.type(1)
    for x in range(rows):
        degree = w.dtype.type(0)
        for n in range(0, out.shape[1], 2):
            degree += one
            if n < 2 * n_harmonics:
                for k in range(width):
                    out[x, n, k] = -w[x, k] * powers[x, n + 1, k] - degree * weight[k] * powers[x, n, k]
                for k in range(width):
                    out[x, n + 1, k] = w[x, k] * powers[x, n, k] - degree * weight[k] * powers[x, n + 1, k]
            else:
                for part in range(2):
                    for k in range(width):
                        out[x, n + part, k] = 0


@jit_within
def of_slopes_in(
    first: int, powers: Any, pulled: Any, w: Any, weight: Any, at_origin: Any, of_chunk: Any, out: Any
) -> None:
    """Write the gradients in F_c for a chunk of rows.

    Args:
        first: first row of the chunk.
        powers: `u_n` on sites.
        pulled: `L_c * Q` as fields.
        w: `(first, column)`.
        weight: omega of each column, `(column,)`.
        at_origin: `L_c(0)`, `(channel,)`.
        of_chunk: of `angle_work_for`.
        out: `(channel, row, column)`, written.
    """
    energies, moments, _, _, _, bent = of_chunk
    few, width = bent.shape
    for row in range(few):
        x = first + row
        for c in range(len(out)):
            twice = at_origin[c] + at_origin[c]
            for k in range(width):
                out[c, row, k] = weight[k] * (twice - energies[c, row, k]) + w[x, k] * moments[c, row, k]
            for k in range(width):
                out[c, row, k] += (
                    powers[x, 0, k] * pulled[x, 2 * c, k] + powers[x, 1, k] * pulled[x, 2 * c + 1, k]
                )


@jit_within
def of_channels(
    first: int,
    powers: Any,
    of_sent: Any,
    w: Any,
    weight: Any,
    of_chunk: Any,
    of_energies: Any,
    of_grams: Any,
    fields: Any,
    out: Any,
) -> None:
    """Write the cotangents of `L_c * u_1` as fields, and the gradient in the angles that passes by here.

    Args:
        first: first row of the chunk.
        powers: `u_n` on sites.
        of_sent: `L_c * Q` as fields.
        w: `(first, column)`.
        weight: omega of each column, `(column,)`.
        of_chunk: of `angle_work_for`.
        of_energies: gradients in e_c by the ridges, `(channel, row, column)`, completed.
        of_grams: gradients in g_p, `(pair, row, column)`.
        fields: written behind those of `F_c u_1`.
        out: `(first, column)`, written.
    """
    energies, moments, slopes, _, _, bent = of_chunk
    few, width = bent.shape
    of_moment = np.empty(width, w.dtype)
    for row in range(few):
        x = first + row
        for k in range(width):
            out[x, k] = 0
        for c in range(len(slopes)):
            for k in range(width):
                of_energies[c, row, k] -= weight[k] * slopes[c, row, k]
            _of_moment(c, x, row, w, slopes, moments, of_grams, of_moment)
            for k in range(width):
                out[x, k] += of_energies[c, row, k] * moments[c, row, k] - of_moment[k] * energies[c, row, k]
            for k in range(width):
                out[x, k] += slopes[c, row, k] * (
                    powers[x, 0, k] * of_sent[x, 2 * c + 1, k] - powers[x, 1, k] * of_sent[x, 2 * c, k]
                )
            i = 2 * (len(slopes) + c)
            for k in range(width):
                fields[x, i, k] = of_energies[c, row, k] * powers[x, 0, k] - of_moment[k] * powers[x, 1, k]
            for k in range(width):
                fields[x, i + 1, k] = (
                    of_energies[c, row, k] * powers[x, 1, k] + of_moment[k] * powers[x, 0, k]
                )


@jit_within
def _of_moment(c: int, x: int, row: int, w: Any, slopes: Any, moments: Any, of_grams: Any, out: Any) -> None:
    """Write the gradient in m_c for one row."""
    width, n_channels = len(out), len(slopes)
    for k in range(width):
        out[k] = w[x, k] * slopes[c, row, k]
    pair = 0
    for a in range(n_channels):
        for b in range(a, n_channels):
            if a == c:
                for k in range(width):
                    out[k] += of_grams[pair, row, k] * moments[b, row, k]
            if b == c:
                for k in range(width):
                    out[k] += of_grams[pair, row, k] * moments[a, row, k]
            pair += 1


@jit_within
def of_pairs(
    first: int,
    powers: Any,
    pulled: Any,
    w: Any,
    weight: Any,
    n_skipped: int,
    n_channels: int,
    of_grams: Any,
    fields: Any,
    out: Any,
) -> None:
    """Write the cotangents of `M_p * u_2` as fields, and add the gradient in the angles by u_2, u_3, ...

    Args:
        first: first row of the chunk.
        powers: `u_n` on sites.
        pulled: of `pull_fields`.
        w: `(first, column)`.
        weight: omega of each column, `(column,)`.
        n_skipped: number of kernels `K_n` with n > 1.
        n_channels: number of channels.
        of_grams: gradients in g_p, `(pair, row, column)`.
        fields: written behind those of `of_channels`.
        out: `(first, column)`, added to.
    """
    n_pairs, few, width = of_grams.shape
    half, one = w.dtype.type(0.5), w.dtype.type(1)
    for row in range(few):
        x, degree = first + row, one
        for pair in range(n_pairs):
            i, j = 2 * (2 * n_channels + pair), 2 * (n_skipped + n_channels + pair)
            for k in range(width):
                out[x, k] -= of_grams[pair, row, k] * (
                    powers[x, 2, k] * pulled[x, j + 1, k] - powers[x, 3, k] * pulled[x, j, k]
                )
            for part in range(2):
                for k in range(width):
                    fields[x, i + part, k] = -half * of_grams[pair, row, k] * powers[x, 2 + part, k]
        for n in range(n_skipped):
            degree += one
            add_turned(degree, w, weight, powers, x, 2 * n + 2, pulled, 2 * n, out)


@jit_within
def add_turned(degree: Any, w: Any, weight: Any, u: Any, x: int, i: int, p: Any, j: int, out: Any) -> None:
    """Add `n (-w Re[conj(u) p] - n omega Im[conj(u) p])` for one row.

    Args:
        degree: n.
        w: `(first, column)`.
        weight: omega of each column, `(column,)`.
        u: fields.
        x: row.
        i: field of u.
        p: fields.
        j: field of p.
        out: `(first, column)`, added to.
    """
    for k in range(out.shape[1]):
        out[x, k] -= degree * w[x, k] * (u[x, i, k] * p[x, j, k] + u[x, i + 1, k] * p[x, j + 1, k])
    for k in range(out.shape[1]):
        out[x, k] -= degree * degree * weight[k] * (u[x, i, k] * p[x, j + 1, k] - u[x, i + 1, k] * p[x, j, k])
