"""Ridges of the sites of a block: sines and bends by chunks that stay in the fastest cache."""

from __future__ import annotations

from typing import Any

from equiflow.fused.just_in_time import jit
from equiflow.fused.modes import aligned
from equiflow.fused.sine import sine_and_cosine

#: Sites whose ridges are computed together; their sines stay in the fastest cache.
SITES_PER_CHUNK = 256


@jit
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


@jit
def work_for(like: Any, size: int, n_inner: int, n_outer: int, n_ridges: int) -> Any:
    """Return scratch memory for a block of `size` configurations: channels, and a chunk of ridges.

    Args:
        like: the block, `(first, configuration, second)`.
        size: number of configurations.
        n_inner: number of inner kernels.
        n_outer: number of outer kernels.
        n_ridges: number of ridges.

    Returns:
        Four sets of channels, a chunk of inner and outer channels, two of ridges, and one number per site.
    """
    rows, _, columns = like.shape
    largest = rows * max(n_inner, n_outer) * size * columns
    channels = aligned(4 * largest, like).reshape(4, largest)
    sites = rows_per_chunk(rows, size * columns) * size * columns
    of_inner = aligned(n_inner * sites, like).reshape(n_inner, sites)
    of_outer = aligned(n_outer * sites, like).reshape(n_outer, sites)
    of_ridges = aligned(2 * n_ridges * sites, like).reshape(2, n_ridges, sites)
    return channels, of_inner, of_outer, of_ridges, aligned(sites, like)


@jit
def as_fields(memory: Any, n_channels: int, like: Any) -> Any:
    """Return scratch memory as channels of a block, `(first, channel and configuration, second)`.

    Args:
        memory: at least as many numbers, flat.
        n_channels: number of channels.
        like: the block, `(first, configuration, second)`.

    Returns:
        A view.
    """
    rows, size, columns = like.shape
    return memory[: rows * n_channels * size * columns].reshape(rows, n_channels * size, columns)


@jit
def copy(values: Any, out: Any) -> None:
    """Copy values one by one, which is faster than assigning a slice: numba allows for overlaps there.

    Args:
        values: `(n,)`.
        out: `(n,)`, written.
    """
    for k in range(len(values)):
        out[k] = values[k]


@jit
def take(channels: Any, first: int, out: Any) -> None:
    """Copy rows from `first` on to a chunk `(channel, site)`.

    Args:
        channels: `(first, channel and configuration, second)`.
        first: the first row.
        out: `(channel, site)`, written.
    """
    n_channels, width = len(out), channels.shape[1] * channels.shape[2] // len(out)
    rows = channels.reshape(len(channels), n_channels, width)
    for x in range(out.shape[1] // width):
        for c in range(n_channels):
            copy(rows[first + x, c], out[c, x * width : (x + 1) * width])


@jit
def put(chunk: Any, first: int, channels: Any) -> None:
    """Copy a chunk `(channel, site)` to the rows from `first` on.

    Args:
        chunk: `(channel, site)`.
        first: the first row.
        channels: `(first, channel and configuration, second)`, written.
    """
    n_channels, width = len(chunk), channels.shape[1] * channels.shape[2] // len(chunk)
    rows = channels.reshape(len(channels), n_channels, width)
    for x in range(chunk.shape[1] // width):
        for c in range(n_channels):
            copy(chunk[c, x * width : (x + 1) * width], rows[first + x, c])


@jit
def add_to_configurations(of_sites: Any, columns: int, sums: Any) -> None:
    """Add the sites of a chunk, ordered by row, configuration, column, to `(configuration,)`, float64.

    Args:
        of_sites: `(site,)`.
        columns: number of columns.
        sums: `(configuration,)`, added to.
    """
    size = len(sums)
    for start in range(0, len(of_sites), size * columns):
        for n in range(size):
            total = of_sites.dtype.type(0)
            for y in range(columns):
                total += of_sites[start + n * columns + y]
            sums[n] += total


@jit
def waves(ridges: Any, q: Any, sines: Any, bent: Any) -> None:
    """Turn angles into `sines_j = sin theta_j`, and set `bent = sum_j q_j cos theta_j`.

    Args:
        ridges: see `ridge_fields`.
        q: `(ridge,)`.
        sines: angles in half turns, `(ridge, site)`, overwritten.
        bent: `(site,)`, written.
    """
    for x in range(len(bent)):
        bent[x] = 0
    for j in range(len(q)):
        row, p, curvature = sines[j], ridges[1][j], q[j]
        for x in range(len(row)):
            sine, cosine = sine_and_cosine(row[x] + p)
            row[x] = sine
            bent[x] += curvature * cosine


@jit
def waves_and_bends(ridges: Any, q: Any, sines: Any, bends: Any, bent: Any) -> None:
    """Do what `waves` does, and turn `bends_j = z_j` into `z_j cos theta_j - q_j sin theta_j`.

    Args:
        ridges: see `ridge_fields`.
        q: `(ridge,)`.
        sines: angles in half turns, `(ridge, site)`, overwritten.
        bends: z, `(ridge, site)`, overwritten.
        bent: `(site,)`, written.
    """
    for x in range(len(bent)):
        bent[x] = 0
    for j in range(len(q)):
        row, bend, p, curvature = sines[j], bends[j], ridges[1][j], q[j]
        for x in range(len(row)):
            sine, cosine = sine_and_cosine(row[x] + p)
            row[x] = sine
            bend[x] = bend[x] * cosine - curvature * sine
            bent[x] += curvature * cosine


@jit
def weighted_bends(
    ridges: Any, q: Any, weight: Any, sines: Any, bends: Any, of_phase: Any, of_q: Any
) -> None:
    """Set sines and bends with a weight for each site, and add the gradients in phases and curvatures.

    Args:
        ridges: see `ridge_fields`.
        q: `(ridge,)`.
        weight: `(site,)`.
        sines: angles in half turns, `(ridge, site)`, overwritten.
        bends: z, `(ridge, site)`, overwritten.
        of_phase: `(ridge,)`, added to.
        of_q: `(ridge,)`, added to.
    """
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
