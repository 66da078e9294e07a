"""Weights of jaxlft, the code of arXiv:2207.00283 (github.com/mathisgerdes/continuous-flow-lft).

`load_jaxlft` is the interface. The rest of the module reproduces how jaxlft numbers orbits of kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiflow.flows import EquivariantCNF
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_type
from equiflow.runtime.storage import CheckpointError, is_of_system
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.priors import StandardNormal
from equiflow.vector_fields import FactorisedConvField

#: names of the arrays that make up a flow
NAMES = ("phi_freq", "freq_superpos", "time_superpos", "w")


def load_jaxlft(
    source: str | Path | Mapping[str, Any],
    *,
    lattice: Lattice | None = None,
    orbits: Any = None,
) -> EquivariantCNF:
    """Return the flow that jaxlft's `Phi4CNF` makes of its parameters, equal up to rounding.

    The files `single-L*.npz` of jaxlft are pickled, and loading them would run code. Where jaxlft is
    installed, write the arrays once by `np.savez(path, **params["~"])`.

    Args:
        source: `.npz` file with the arrays `phi_freq`, `freq_superpos`, `time_superpos` and `w`, or a
            dictionary of them, nested or not. The part of a name before a slash is ignored.
        lattice: a lattice with equal sides. By default it is the square lattice with as many orbits as `w`;
            of the two such lattices, the one with even sides.
        orbits: orbit index array that `jaxlft.convolution.kernel_d4(shape)` returned where the weights were
            made. By default it is the array made with numpy before version 2, see `orbit_labels`. The order
            of the orbits is ambiguous from L = 10 on.

    Returns:
        A flow with a `FactorisedConvField` and a unit Gaussian prior, integrated in 50 equal steps as
        published.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if the file is damaged or holds pickled objects.
        TypeError: if `lattice` is not a lattice.
        ValueError: if the arrays do not fit each other or the lattice.
    """
    arrays = _arrays(source)
    n_orbits, n_bonds, n_time_bonds = _check_shapes(arrays)
    lattice = _square_with(n_orbits) if lattice is None else lattice
    check_type(lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
    labels = _labels(lattice, orbits, n_orbits)
    field = FactorisedConvField(
        lattice,
        n_frequencies=len(arrays["phi_freq"]),
        n_feature_bonds=n_bonds,
        n_harmonics=arrays["time_superpos"].shape[1] // 2,
        n_time_bonds=n_time_bonds,
    ).to(arrays["w"].dtype)
    _fill(field, arrays, labels)
    prior = StandardNormal(lattice).to(arrays["w"].dtype)
    return EquivariantCNF(lattice, vector_field=field, prior=prior, solver=Solver("classic_rk4", steps=50))


@torch.no_grad()
def _fill(field: FactorisedConvField, arrays: Mapping[str, Tensor], labels: Tensor) -> None:
    """Copy the arrays to the weights of a field.

    jaxlft divides by the number of features and of time modes on use; here the weights are divided once.
    """
    features, times = arrays["freq_superpos"], arrays["time_superpos"]
    field.features.omega.copy_(arrays["phi_freq"])
    # The linear feature is the last one in jaxlft and the first one here.
    field.feature_mixing.copy_(features.roll(1, 1) / features.shape[1])
    field.time_basis.mixing.copy_(times / times.shape[1])
    field.kernel.set_values(arrays["w"].double()[labels].movedim((-1, -2), (0, 1)))


def orbit_labels(lattice: Lattice) -> Tensor:
    """Return the number that jaxlft gives the orbit of each offset, `(*lattice)`, int64, offset 0 first.

    Orbits of the full point group are numbered by distance from the origin. Orbits of equal distance, such as
    (0, 5) and (3, 4), come in the order in which `np.argsort` left them, which depends on numpy. This is the
    order of numpy's quicksort before it was vectorised, in version 2 or, with AVX-512, in version 1.25.

    Args:
        lattice: a lattice with equal sides.
    """
    coordinates = [torch.arange(side) - side // 2 for side in lattice.shape]
    distance = torch.stack(torch.meshgrid(*coordinates, indexing="ij")).square().sum(0).flatten()
    rank = torch.empty(lattice.volume, dtype=torch.int64)
    rank[torch.tensor(quicksort_order(distance.tolist()))] = torch.arange(lattice.volume)
    rank = rank.reshape(lattice.shape).roll([-(side // 2) for side in lattice.shape], lattice.axes)
    smallest = torch.stack([g(rank) for g in SymmetryGroup(lattice).point_elements]).amin(0)
    return smallest.unique(return_inverse=True)[1]


def quicksort_order(values: Sequence[int]) -> list[int]:
    """Return the permutation that sorts `values` by numpy's quicksort.

    The pivot is the median of three, and parts of at most 16 values are sorted by insertion.
    """
    order = list(range(len(values)))
    parts = [(0, len(values) - 1)]
    while parts:
        low, high = parts.pop()
        if high - low <= 15:
            # Both insertion sort and `sorted` are stable.
            order[low : high + 1] = sorted(order[low : high + 1], key=values.__getitem__)
            continue
        middle = low + (high - low) // 2
        for a, b in ((middle, low), (high, middle), (middle, low)):
            if values[order[a]] < values[order[b]]:
                order[a], order[b] = order[b], order[a]
        pivot = values[order[middle]]
        order[middle], order[high - 1] = order[high - 1], order[middle]
        left, right = low + 1, high - 2
        while True:
            while values[order[left]] < pivot:
                left += 1
            while pivot < values[order[right]]:
                right -= 1
            if left >= right:
                break
            order[left], order[right] = order[right], order[left]
            left, right = left + 1, right - 1
        order[left], order[high - 1] = order[high - 1], order[left]
        parts += [(low, left - 1), (left + 1, high)]
    return order


def _arrays(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the four arrays by name, all of one floating-point type."""
    if not isinstance(source, Mapping):
        source = _read(source)
    found = dict(_flat(source))
    if missing := [name for name in NAMES if name not in found]:
        raise ValueError(
            f"Expected the arrays {', '.join(NAMES)} of jaxlft's Phi4CNF with both of its contractions and "
            f"the linear feature; {', '.join(missing)} missing, found {', '.join(sorted(found)) or 'none'}."
        )
    arrays = {name: torch.tensor(np.asarray(found[name])) for name in NAMES}
    wide = any(array.dtype == torch.float64 for array in arrays.values())
    dtype = torch.float64 if wide else torch.float32
    for name, array in arrays.items():
        if not (array.is_floating_point() and bool(array.isfinite().all())):
            raise ValueError(f"{name} must hold finite floating-point numbers, got {array.dtype}.")
    if bool((arrays["phi_freq"] == 0).any()):
        raise ValueError("phi_freq has a zero, whose feature sin(0) is none; drop it and its superposition.")
    return {name: array.to(dtype) for name, array in arrays.items()}


def _read(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name."""
    try:
        # Opened here, because numpy does not close a damaged file that it opened itself.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy and zipfile raise many kinds of errors on damaged files
        if is_of_system(error):
            raise
        raise CheckpointError(
            f"{path} cannot be read as arrays: it is damaged, no .npz file, or holds pickled objects, which "
            'could run code. Where jaxlft is installed, write np.savez(path, **params["~"]) first.'
        ) from error


def _flat(source: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return names without prefix, and values, of nested dictionaries."""
    pairs: list[tuple[str, Any]] = []
    for name, value in source.items():
        nested = isinstance(value, Mapping)
        pairs += _flat(value) if nested else [(str(name).rpartition("/")[2], value)]
    return pairs


def _check_shapes(arrays: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """Return the numbers of orbits, of combined features and of combined time modes."""
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    dims = tuple(len(shapes[name]) for name in NAMES)
    if dims == (1, 2, 2, 3):
        n_orbits, n_bonds, n_time_bonds = shapes["w"]
        n_modes = shapes["time_superpos"][1]
        expected = {
            "phi_freq": shapes["phi_freq"],
            "freq_superpos": (n_bonds, shapes["phi_freq"][0] + 1),
            "time_superpos": (n_time_bonds, n_modes),
            "w": shapes["w"],
        }
        if shapes == expected and n_modes % 2 and min(min(s) for s in shapes.values()) > 0:
            return n_orbits, n_bonds, n_time_bonds
    raise ValueError(
        f"The arrays do not fit each other, got {shapes}; expected phi_freq (f,), freq_superpos (b, f + 1), "
        "time_superpos (t, an odd number) and w (orbits, b, t). Other forms of Phi4CNF and the conditional "
        "one are not read."
    )


def _square_with(n_orbits: int) -> Lattice:
    """Return the square lattice with even sides whose point group has `n_orbits` orbits of offsets."""
    half = _largest_half(n_orbits)
    if _n_orbits_of(half) != n_orbits:
        below, above = _n_orbits_of(half), _n_orbits_of(half + 1)
        raise ValueError(
            f"w has {n_orbits} orbits, which no square lattice has: {below} belong to {_sides(half)}, "
            f"{above} to {_sides(half + 1)}. For another dimension give the lattice."
        )
    return Lattice((max(2 * half - 2, 1),) * 2)


def _n_orbits_of(half: int) -> int:
    """Return the number of orbits of offsets on a square of side L, where `half = L // 2 + 1`."""
    return half * (half + 1) // 2


def _largest_half(n_orbits: int) -> int:
    """Return the largest `half` of squares with at most `n_orbits` orbits."""
    return (math.isqrt(8 * n_orbits + 1) - 1) // 2


def _sides(half: int) -> str:
    """Return the sides of the squares with a given `half`, as text."""
    return f"L = {2 * half - 2} and {2 * half - 1}" if half > 1 else "L = 1"


def _labels(lattice: Lattice, orbits: Any, n_orbits: int) -> Tensor:
    """Return the row of `w` for each offset, `(*lattice)`, offset 0 first."""
    if len(set(lattice.shape)) > 1:
        raise ValueError(f"jaxlft's kernels need equal sides, got the lattice {lattice.shape}.")
    own = orbit_labels(lattice)
    if (count := int(own.max()) + 1) != n_orbits:
        half = _largest_half(n_orbits)
        is_square = _n_orbits_of(half) == n_orbits
        fits = f"w fits {_sides(half)} in two dimensions" if is_square else "w fits no square"
        raise ValueError(f"A lattice {lattice.shape} has {count} orbits, w has {n_orbits}: {fits}.")
    if orbits is None:
        return own
    given = torch.as_tensor(np.asarray(orbits))
    centred = [-(side // 2) for side in lattice.shape]
    labels = given.roll(centred, lattice.axes) if tuple(given.shape) == lattice.shape else given
    pairs = set(zip(own.flatten().tolist(), labels.flatten().tolist(), strict=False))
    matched = len(pairs) == count and {there for _, there in pairs} == set(range(count))
    if labels.shape != own.shape or not matched or (0, 0) not in pairs:
        raise ValueError(
            f"orbits must number the {count} orbits of the full point group on {lattice.shape}, offset 0 at "
            f"the site L // 2, as kernel_d4 does; got an array of shape {tuple(given.shape)}."
        )
    return labels
