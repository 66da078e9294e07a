"""Families of actions: one theory for a range of its couplings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from equiflow.runtime.checks import check_count, check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class CouplingRanges:
    """A box of couplings, each with a name, `low <= coupling <= high`.

    Args:
        ranges: name to `(low, high)`, for example `{"lam": (4.0, 6.0)}`.

    Raises:
        ValueError: without couplings, or for a range that is empty or not finite.

    >>> CouplingRanges({"lam": (4.0, 6.0)}).normalised({"lam": 5.5})
    [0.5]
    """

    ranges: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        check_type(self.ranges, Mapping, "ranges", 'Write {"lam": (4.0, 6.0)}.')
        if not self.ranges:
            raise ValueError('Expected at least one coupling with a range, such as {"lam": (4.0, 6.0)}.')
        checked = {name: _range(name, limits) for name, limits in self.ranges.items()}
        object.__setattr__(self, "ranges", checked)

    def check(self, couplings: Mapping[str, float]) -> dict[str, float]:
        """The couplings in the order of the ranges.

        Raises:
            ValueError: if one is unknown, missing or outside its range.
        """
        if set(couplings) != set(self.ranges):
            raise ValueError(f"Expected a value for each of {self}; got {dict(couplings)}.")
        for name, (low, high) in self.ranges.items():
            check_type(couplings[name], (float, int), name)
            if not low <= couplings[name] <= high:  # NaN is outside
                raise ValueError(f"{name} = {couplings[name]} is outside of its range, {low} to {high}.")
        return {name: float(couplings[name]) for name in self.ranges}

    def normalised(self, couplings: Mapping[str, float]) -> list[float]:
        """Each coupling on `[-1, 1]`, in the order of the ranges."""
        values = self.check(couplings)
        return [(2 * values[name] - low - high) / (high - low) for name, (low, high) in self.ranges.items()]

    def denormalised(self, point: Sequence[float]) -> dict[str, float]:
        """The couplings at a point of `[-1, 1]^dim`, see `normalised`."""
        where = zip(self.ranges.items(), point, strict=True)
        # Rounding may leave the range by one unit in the last place.
        return {
            name: min(max(0.5 * (low * (1 - x) + high * (1 + x)), low), high)
            for (name, (low, high)), x in where
        }

    def contains(self, other: CouplingRanges) -> bool:
        """Whether the other box has the same couplings and lies inside of this one."""
        return self.ranges.keys() == other.ranges.keys() and all(
            self.ranges[name][0] <= low and high <= self.ranges[name][1]
            for name, (low, high) in other.ranges.items()
        )

    def draw(self, n_points: int, generator: torch.Generator | None = None) -> list[dict[str, float]]:
        """Points that are each uniform in the box and fill it evenly: a lattice, shifted at random.

        For one coupling they are equally spaced, for more they follow the generalised golden ratio.
        """
        check_count(n_points, "n_points")
        dim = len(self.ranges)
        device = "cpu" if generator is None else generator.device
        shift = torch.rand(dim, generator=generator, dtype=torch.float64, device=device).cpu().numpy()
        index = np.arange(n_points)[:, None]
        unit = (shift + index * np.array([1 / n_points, *_golden(dim - 1)])) % 1.0
        return [self.denormalised(point) for point in (2 * unit - 1).tolist()]

    def __str__(self) -> str:
        return ", ".join(f"{name} in [{low}, {high}]" for name, (low, high) in self.ranges.items())


class ActionFamily:
    """An action for every value of its couplings in a range.

    Args:
        kind: makes an action from the space and the couplings by name, for example `Phi4`.
        space: where the field lives, such as a `Lattice`.
        couplings: each either a number or a range `(low, high)`.

    Raises:
        ValueError: if no coupling has a range, or the actions at its ends do not exist.

    >>> from equiflow import Lattice, Phi4
    >>> family = ActionFamily(Phi4, Lattice((8, 8)), m2=-4.0, lam=(4.0, 6.0))
    >>> family.at(lam=5.0)
    Phi4(shape=(8, 8), m2=-4.0, lam=5.0)
    """

    def __init__(
        self, kind: Callable[..., Action], space: Space, **couplings: float | tuple[float, float]
    ) -> None:
        check_type(space, Space, "lattice", "Write Lattice((16, 16)).")
        self.kind = kind
        self.space = space
        self.fixed = {k: v for k, v in couplings.items() if isinstance(v, (int, float))}
        self.couplings = CouplingRanges(
            {k: v for k, v in couplings.items() if not isinstance(v, (int, float))}
        )
        for end in (0, 1):  # couplings that the action refuses are refused now, not in the middle of training
            self.at(**{name: limits[end] for name, limits in self.couplings.ranges.items()})

    def at(self, **couplings: float) -> Action:
        """The action at given couplings, one value for each range."""
        return self.kind(self.space, **self.fixed, **self.couplings.check(couplings))

    def draw(self, n_points: int, generator: torch.Generator | None = None) -> list[dict[str, float]]:
        """Couplings, see `CouplingRanges.draw`."""
        return self.couplings.draw(n_points, generator)

    def __repr__(self) -> str:
        name = getattr(self.kind, "__qualname__", repr(self.kind))
        given = {**self.fixed, **self.couplings.ranges}
        return f"ActionFamily({name}, {self.space}, {', '.join(f'{k}={v}' for k, v in given.items())})"


def _range(name: str, limits: object) -> tuple[float, float]:
    """`(low, high)` as floats, or a ValueError."""
    if not isinstance(limits, (tuple, list)) or len(limits) != 2:
        raise ValueError(f"The range of {name} must be (low, high), got {limits!r}.")
    for limit in limits:
        check_type(limit, (float, int), f"Each end of the range of {name}")
    low, high = map(float, limits)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"The range of {name} must be (low, high) with finite low < high, got {limits}.")
    return low, high


def _golden(dim: int) -> list[float]:
    """Steps of the additive recurrence of lowest discrepancy known in `dim` dimensions: `g^-1 ... g^-dim`.

    `g` solves `g^(dim + 1) = g + 1`; in one dimension it is the golden ratio.
    """
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (dim + 1))
    return [root**-power for power in range(1, dim + 1)]
