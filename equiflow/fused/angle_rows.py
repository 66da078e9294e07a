"""Operations on fields of unit vectors of a block, for `equiflow.fused.angle_fields`.

Fields have the layout `(first axis, field, column)`, where columns run over all groups of configurations, and
fastest over the row of each, see `equiflow.fused.transforms`. A complex field is two fields, real and
imaginary part. Loops index whole arrays: a view of each row would cost more than the work on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.groups import load_for_all
from equiflow.fused.just_in_time import inline, jit_within
from equiflow.fused.sine import sine_and_cosine
from equiflow.fused.transforms import to_modes, to_sites
from equiflow.fused.vectors import flat, lanes_of, store


@inline
def dot(a: Any, x: int, i: int, b: Any, y: int, j: int, out: Any, z: int, f: int) -> None:
    """Set `out = Re[conj(a) b]` for two rows of complex fields.

    Args:
        a: fields, `(first, field, column)`.
        x: row of a.
        i: field of a.
        b: fields.
        y: row of b.
        j: field of b.
        out: `(., ., column)`, written.
        z: first index of out.
        f: second index of out.
    """
    for k in range(out.shape[2]):
        out[z, f, k] = a[x, i, k] * b[y, j, k] + a[x, i + 1, k] * b[y, j + 1, k]


@inline
def add_dot(factor: Any, a: Any, x: int, i: int, b: Any, y: int, j: int, out: Any, z: int) -> None:
    """Add `factor Re[conj(a) b]` for two rows of complex fields.

    Args:
        factor: a number.
        a: fields, `(first, field, column)`.
        x: row of a.
        i: field of a.
        b: fields.
        y: row of b.
        j: field of b.
        out: `(first, column)`, added to.
        z: row of out.
    """
    for k in range(out.shape[1]):
        out[z, k] += factor * (a[x, i, k] * b[y, j, k] + a[x, i + 1, k] * b[y, j + 1, k])


@inline
def add_cross(a: Any, x: int, i: int, b: Any, y: int, j: int, out: Any, z: int) -> None:
    """Add `Im[conj(a) b]` for two rows of complex fields.

    Args:
        a: fields, `(first, field, column)`.
        x: row of a.
        i: field of a.
        b: fields.
        y: row of b.
        j: field of b.
        out: `(first, column)`, added to.
        z: row of out.
    """
    for k in range(out.shape[1]):
        out[z, k] += a[x, i, k] * b[y, j + 1, k] - a[x, i + 1, k] * b[y, j, k]


@jit_within
def write_powers(theta: Any, powers: Any, copy: Any) -> None:
    """Write `exp(i n theta)`, n = 1, 2, ..., as fields twice: loops within one array would stay scalar.

    Args:
        theta: angles in radians, `(first, column)`.
        powers: fields, written.
        copy: like `powers`, written.
    """
    to_half_turns = theta.dtype.type(1 / np.pi)
    rows, width = theta.shape
    for x in range(rows):
        for k in range(width):
            sine, cosine = sine_and_cosine(theta[x, k] * to_half_turns)
            powers[x, 0, k] = cosine
            copy[x, 1, k] = sine
        for k in range(width):
            copy[x, 0, k] = powers[x, 0, k]
        for k in range(width):
            powers[x, 1, k] = copy[x, 1, k]
        for n in range(2, powers.shape[1], 2):
            for k in range(width):
                powers[x, n, k] = copy[x, 0, k] * copy[x, n - 2, k] - copy[x, 1, k] * copy[x, n - 1, k]
            for k in range(width):
                powers[x, n + 1, k] = copy[x, 0, k] * copy[x, n - 1, k] + copy[x, 1, k] * copy[x, n - 2, k]
            for part in range(2):
                for k in range(width):
                    copy[x, n + part, k] = powers[x, n + part, k]


@jit_within
def tile(kernels: Any, together: int, tiles: Any) -> None:
    """Repeat kernels for all configurations of a block.

    Args:
        kernels: `(kernel, first, second)`.
        together: configurations of a group.
        tiles: `(kernel, first, group, row)`, written.
    """
    (n_kernels, rows, n_groups, length), lanes = tiles.shape, lanes_of(tiles)
    K, written, at, per_vector = flat(kernels), flat(tiles), 0, lanes // together
    for row in range(n_kernels * rows):
        for y in range(0, length, lanes):
            factor = load_for_all(K, at, together)
            at += per_vector
            for group in range(n_groups):
                store(factor, written, (row * n_groups + group) * length + y)


@jit_within
def scale(modes: Any, i: int, kernels: Any, kernel: int, out: Any, j: int) -> None:
    """Set a complex field to a kernel times another one, all in modes.

    Args:
        modes: fields.
        i: which field is taken.
        kernels: repeated, `(kernel, first, column)`.
        kernel: which kernel.
        out: fields, written.
        j: which field is set.
    """
    for x in range(len(out)):
        for part in range(2):
            for k in range(out.shape[2]):
                out[x, j + part, k] = kernels[kernel, x, k] * modes[x, i + part, k]


@jit_within
def add_scaled(modes: Any, i: int, kernels: Any, kernel: int, out: Any, j: int) -> None:
    """Add a kernel times a complex field to another one, all in modes.

    Args:
        modes: fields.
        i: which field is taken.
        kernels: repeated, `(kernel, first, column)`.
        kernel: which kernel.
        out: fields, added to.
        j: which field is added to.
    """
    for x in range(len(out)):
        for part in range(2):
            for k in range(out.shape[2]):
                out[x, j + part, k] += kernels[kernel, x, k] * modes[x, i + part, k]


@jit_within
def transform(inverse: bool, fields: Any, length: int, basis: Any, scratch: Any, out: Any) -> None:
    """Transform fields to modes, or back to sites.

    Args:
        inverse: whether to sites.
        fields: `(first, field, column)`.
        length: of a row of one group.
        basis: see `transforms.axes`.
        scratch: at least as many numbers, flat.
        out: like `fields`, written.
    """
    rows, n_fields, width = fields.shape
    shape = (rows, n_fields * (width // length), length)
    if inverse:
        to_sites(fields.reshape(shape), basis, scratch, out.reshape(shape))
    else:
        to_modes(fields.reshape(shape), basis, scratch, out.reshape(shape))


@jit_within
def as_complex(memory: Any, n_fields: int, like: Any) -> Any:
    """Return scratch memory as fields.

    Args:
        memory: at least as many numbers, flat.
        n_fields: number of fields, two of each complex one.
        like: other fields of the block.

    Returns:
        A view, `(first, field, column)`.
    """
    rows, _, width = like.shape
    return memory[: rows * n_fields * width].reshape(rows, n_fields, width)
