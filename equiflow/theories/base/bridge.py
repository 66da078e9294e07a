"""Actions between a prior and a target: `Bridge` is one of them, `geometric_path` a whole path."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from equiflow.runtime.checks import check_count, check_type, plain
from equiflow.theories.base.action import Action
from equiflow.theories.base.prior import Prior


class Bridge(Action):
    r"""The geometric mean of a prior r and a target, `S_beta = -(1 - beta) log r + beta S`.

    Its density is the prior at beta = 0 and the target at beta = 1. Samples are moved along such paths. Where
    all actions of a path belong to one theory, a path of couplings is as good and has faster kernels,
    `[Phi4(lattice, m2=m2, lam=lam) for m2, lam in ...]`.

    Args:
        prior: the density r.
        action: the target, S.
        beta: position on the path, from 0 to 1.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if prior and action live on different spaces, or beta is not between 0 and 1.
    """

    def __init__(self, prior: Prior, action: Action, *, beta: float) -> None:
        check_type(prior, Prior, "prior", "Give an instance, such as FreeField(lattice).")
        check_type(action, Action, "action")
        check_type(beta, (float, int), "beta")
        if action.space != prior.space:
            raise ValueError(f"The action lives on {action.space}, the prior on {prior.space}.")
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be between 0 and 1, got {beta}.")
        super().__init__(action.space)
        self.prior, self.action, self.beta = prior, action, float(beta)

    def forward(self, phi: Tensor) -> Tensor:
        """Return `S_beta[phi]`, `(batch,)`."""
        if self.beta == 0.0:  # a wall of the target must not count: 0 x inf is NaN
            return -self.prior.log_prob(phi).to(phi.real.dtype)
        target: Tensor = self.beta * self.action(phi)
        return target if self.beta == 1.0 else target - (1 - self.beta) * self.prior.log_prob(phi)

    def grad(self, phi: Tensor) -> Tensor:
        """Return `-(1 - beta) d log r / dphi + beta dS/dphi`, shaped like a velocity."""
        if self.beta == 1.0:
            return self.action.grad(phi)
        force = -(1 - self.beta) * self.prior.score(phi).to(phi.real.dtype)
        return force + self.beta * self.action.grad(phi) if self.beta else force

    def check_density(self, *, device: torch.device | str = "cpu", stacklevel: int = 2) -> None:
        """See `Action.check_density`; what counts is the target."""
        self.action.check_density(device=device, stacklevel=stacklevel + 1)

    def initial(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """See `Action.initial`; the fields are those of the target."""
        return self.action.initial(n, generator, device=device, dtype=dtype)

    def __repr__(self) -> str:
        # On one line, since it names samples in files.
        return f"Bridge({type(self.prior).__name__}, {self.action!r}, beta={self.beta})"


def geometric_path(prior: Prior, action: Action, betas: int | Sequence[float] = 8) -> list[Action]:
    """Return the actions between a prior and a target, `S_beta = -(1 - beta) log r + beta S`.

    Args:
        prior: where the path starts, at beta = 0; it is no part of the list.
        action: where the path ends, the last entry.
        betas: number of equal intervals, or the schedule itself, rising from 0 to 1.

    Returns:
        One action for each interval, at its upper end.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if the schedule does not rise from 0 to 1, or prior and action live on different spaces.

    >>> from equiflow import FreeField, Lattice, Phi4
    >>> lattice = Lattice((4, 4))
    >>> path = geometric_path(FreeField(lattice), Phi4(lattice, m2=-4.0, lam=8.0), 2)
    >>> path[0].beta, path[1]
    (0.5, Phi4(shape=(4, 4), m2=-4.0, lam=8.0))
    """
    return [
        action if beta == 1.0 else Bridge(prior, action, beta=beta) for beta in rising_schedule(betas)[1:]
    ]


def rising_schedule(betas: int | Sequence[float]) -> list[float]:
    """Return a schedule that rises from 0 to 1.

    Args:
        betas: number of equal intervals, or the schedule itself.

    Returns:
        All values, with 0 and 1.

    Raises:
        TypeError: if the number of intervals is no integer.
        ValueError: if it is not positive, or the schedule does not rise from 0 to 1.
    """
    betas = plain(betas)
    if isinstance(betas, int):
        n = check_count(betas, "betas")
        return [i / n for i in range(n + 1)]
    schedule = [float(beta) for beta in betas]
    rising = all(before < after for before, after in pairwise(schedule))
    if len(schedule) < 2 or schedule[0] != 0.0 or schedule[-1] != 1.0 or not rising:
        raise ValueError(f"Expected betas that rise from 0 to 1, got {schedule}.")
    return schedule
