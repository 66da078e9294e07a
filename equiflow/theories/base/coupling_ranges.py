"""Ranges of couplings, and the family of actions of one theory for all couplings in a range.

A conditional flow is trained on an `ActionFamily`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import ClassVar

import numpy as np
import torch

from equiflow.runtime.checks import check_count, check_type, is_number, plain
from equiflow.runtime.randomness import check_draw
from equiflow.theories.base.action import Action
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class CouplingRanges:
    """A box of named couplings, `low <= coupling <= high` for each.

    Args:
        ranges: `(low, high)` of each coupling by its name, for example `{"lam": (4.0, 6.0)}`.

    Raises:
        TypeError: if `ranges` is not a mapping, or an end is not a number.
        ValueError: if there is no coupling, or a range is empty or not finite.

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
        """Return the couplings as floats in the order of the ranges, else raise.

        Raises:
            TypeError: if a coupling is not a number.
            ValueError: if a coupling is unknown, missing or outside its range.
        """
        if set(couplings) != set(self.ranges):
            raise ValueError(f"Expected a value for each of {self}; got {dict(couplings)}.")
        for name, (low, high) in self.ranges.items():
            check_type(couplings[name], (float, int), name)
            if not low <= couplings[name] <= high:  # NaN is outside
                raise ValueError(f"{name} = {couplings[name]} is outside of its range, {low} to {high}.")
        return {name: float(couplings[name]) for name in self.ranges}

    def normalised(self, couplings: Mapping[str, float]) -> list[float]:
        """Return each coupling mapped from its range to `[-1, 1]`, in the order of the ranges."""
        values = self.check(couplings)
        return [(2 * values[name] - low - high) / (high - low) for name, (low, high) in self.ranges.items()]

    def denormalised(self, point: Sequence[float]) -> dict[str, float]:
        """Return the couplings at a point of `[-1, 1]^dim`, the inverse of `normalised`."""
        where = zip(self.ranges.items(), point, strict=True)
        # Rounding may leave a range by one unit in the last place.
        return {
            name: min(max(0.5 * (low * (1 - x) + high * (1 + x)), low), high)
            for (name, (low, high)), x in where
        }

    def contains(self, other: CouplingRanges) -> bool:
        """Return whether another box has the same couplings and lies inside this one."""
        return self.ranges.keys() == other.ranges.keys() and all(
            self.ranges[name][0] <= low and high <= self.ranges[name][1]
            for name, (low, high) in other.ranges.items()
        )

    def draw(self, n_points: int, generator: torch.Generator | None = None) -> list[dict[str, float]]:
        """Draw points that are each uniform in the box and together fill it evenly.

        They are a fixed set of points, shifted at random. For one coupling the points are equally spaced. For
        several couplings they follow the generalised golden ratio.

        Args:
            n_points: number of points, >= 1.
            generator: source of randomness; the global one by default.

        Returns:
            The couplings at each point.

        Raises:
            TypeError: if `n_points` is no integer or `generator` no generator.
        """
        check_count(n_points, "n_points")
        check_draw(generator)
        dim = len(self.ranges)
        device = "cpu" if generator is None else generator.device
        shift = torch.rand(dim, generator=generator, dtype=torch.float64, device=device).cpu().numpy()
        index = np.arange(n_points)[:, None]
        unit = (shift + index * np.array([1 / n_points, *_golden_ratio_steps(dim - 1)])) % 1.0
        return [self.denormalised(point) for point in (2 * unit - 1).tolist()]

    def __str__(self) -> str:
        return ", ".join(f"{name} in [{low}, {high}]" for name, (low, high) in self.ranges.items())


class ActionFamily:
    """One theory for every value of its couplings in a range.

    Args:
        kind: class of the actions, for example `Phi4`; it is called with the space and the couplings by name.
        space: of the configurations, such as a `Lattice`.
        couplings: by name, each a number or a range `(low, high)`.

    Raises:
        TypeError: if `space` is not a `Space`, or `kind` makes no `Action` from the space and the couplings.
        ValueError: if no coupling has a range, or no action exists at the ends of the ranges.

    >>> from equiflow import Lattice, Phi4
    >>> family = ActionFamily(Phi4, Lattice((8, 8)), m2=-4.0, lam=(4.0, 6.0))
    >>> family.at(lam=5.0)
    Phi4(shape=(8, 8), m2=-4.0, lam=5.0)
    """

    #: ends the message of an error where something else is given, see `check_type`
    how_to_give: ClassVar[str] = (
        "Write ActionFamily(Phi4, lattice, m2=-4.0, lam=(4.0, 6.0)), or a class of your own derived from "
        "equiflow.Action in place of Phi4."
    )

    def __init__(
        self, kind: Callable[..., Action], space: Space, **couplings: float | tuple[float, float]
    ) -> None:
        check_type(space, Space, "space", "Write Lattice((16, 16)).")
        self.kind = kind
        self.space = space
        self.fixed = {k: plain(v) for k, v in couplings.items() if is_number(v)}
        self.couplings = CouplingRanges({k: v for k, v in couplings.items() if not is_number(v)})  # type: ignore[misc]
        _check_kind(kind, space, list(couplings))
        for end in (0, 1):  # couplings without a density are refused now, not in the middle of training
            self.at(**{name: limits[end] for name, limits in self.couplings.ranges.items()})

    def at(self, **couplings: float) -> Action:
        """Return the action at the given couplings, one value for each range.

        Raises:
            TypeError: if `kind` makes no `Action`, or a coupling is not a number.
            ValueError: if a coupling is unknown, missing or outside its range.
        """
        action = self.kind(self.space, **self.fixed, **self.couplings.check(couplings))
        check_type(action, Action, "What kind returns")
        return action

    def draw(self, n_points: int, generator: torch.Generator | None = None) -> list[dict[str, float]]:
        """Draw couplings that are uniform in their ranges, see `CouplingRanges.draw`.

        Args:
            n_points: number of points, >= 1.
            generator: source of randomness; the global one by default.

        Returns:
            The couplings at each point.
        """
        return self.couplings.draw(n_points, generator)

    def __repr__(self) -> str:
        name = getattr(self.kind, "__qualname__", repr(self.kind))
        given = {**self.fixed, **self.couplings.ranges}
        return f"ActionFamily({name}, {self.space}, {', '.join(f'{k}={v}' for k, v in given.items())})"


def _check_kind(kind: object, space: Space, couplings: list[str]) -> None:
    """Raise a TypeError unless `kind` is no action and can be called with a space and the couplings."""
    given = ", ".join(["space", *couplings])
    if not isinstance(kind, Action) and callable(kind):
        try:
            signature(kind).bind(space, **dict.fromkeys(couplings))
            return
        except TypeError as error:
            reason = f"{kind!r}, which takes other arguments ({error})"
        except ValueError:  # the signature of some callables is unknown
            return
    else:
        reason = repr(kind)
    raise TypeError(
        f"kind must be a class of actions that is called as kind({given}), got {reason}. "
        f"{ActionFamily.how_to_give}"
    )


def _range(name: str, limits: object) -> tuple[float, float]:
    """Return `(low, high)` as floats, else raise."""
    if not isinstance(limits, (tuple, list, np.ndarray)) or len(limits) != 2:
        raise ValueError(f"The range of {name} must be (low, high), got {limits!r}.")
    for limit in limits:
        check_type(limit, (float, int), f"Each end of the range of {name}")
    low, high = map(float, limits)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"The range of {name} must be (low, high) with finite low < high, got {limits}.")
    return low, high


def _golden_ratio_steps(dim: int) -> list[float]:
    """Return the steps `g^-1 ... g^-dim` of an additive recurrence with low discrepancy in `dim` dimensions.

    `g` solves `g^(dim + 1) = g + 1`; in one dimension it is the golden ratio.
    """
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (dim + 1))
    return [root**-power for power in range(1, dim + 1)]
