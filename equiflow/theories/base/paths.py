"""Paths of densities `exp(-S_t) / Z_t` from a prior at t = 0 to a target at t = 1.

`path_between` returns the path that suits an action, by default a `StraightPath`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

from torch import Tensor

from equiflow.theories.base.action import Action
from equiflow.theories.base.bridge import Bridge
from equiflow.theories.base.prior import Prior


class ActionPath(ABC):
    """A differentiable family of actions `S_t`, with `S_0 = -log r` of a prior r, and the target `S_1 = S`.

    Args:
        prior: the density r.
        action: the target, S.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if prior and action live on different spaces.
    """

    def __init__(self, prior: Prior, action: Action) -> None:
        Bridge(prior, action, beta=0.5)  # checks both
        self.prior, self.action = prior, action

    @abstractmethod
    def at(self, t: float) -> Action:
        """Return the action `S_t` at a time from 0 to 1."""

    @abstractmethod
    def rate(self, phi: Tensor, t: float) -> Tensor:
        """Return `d S_t[phi] / dt` at fixed phi.

        Args:
            phi: `(batch, *lattice)`.
            t: from 0 to 1.

        Returns:
            `(batch,)`.
        """


class StraightPath(ActionPath):
    """The geometric path `S_t = -(1 - t) log r + t S`, see `Bridge`.

    Args:
        prior: the density r.
        action: the target, S.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if prior and action live on different spaces.

    >>> import torch
    >>> from equiflow import FreeField, Lattice, Phi4
    >>> lattice = Lattice((2, 2))
    >>> path = StraightPath(FreeField(lattice), Phi4(lattice, m2=1.0, lam=1.0))
    >>> path.at(0.5), path.rate(torch.zeros(3, 2, 2), 0.5).shape
    (Bridge(FreeField, Phi4(shape=(2, 2), m2=1.0, lam=1.0), beta=0.5), torch.Size([3]))
    """

    def at(self, t: float) -> Action:
        """See `ActionPath.at`."""
        return self.action if t == 1.0 else Bridge(self.prior, self.action, beta=t)

    def rate(self, phi: Tensor, t: float) -> Tensor:
        """See `ActionPath.rate`; it does not depend on t."""
        rate: Tensor = self.action(phi) + self.prior.log_prob(phi)
        return rate

    def __repr__(self) -> str:
        return "StraightPath()"


@runtime_checkable
class HasPath(Protocol):
    """An action that knows a better path from a prior than the straight one."""

    def path_from(self, prior: Prior) -> ActionPath | None:
        """Return the path from a prior, or None for the straight one."""


def path_between(prior: Prior, action: Action) -> ActionPath:
    """Return the path that suits an action, by default the straight one.

    Args:
        prior: where the path begins.
        action: where it ends.

    Returns:
        The path.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if prior and action live on different spaces.
    """
    own = action.path_from(prior) if isinstance(action, HasPath) else None
    return StraightPath(prior, action) if own is None else own
