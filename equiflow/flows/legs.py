"""The legs of a stochastic flow: `PlainLeg` is one, `make_legs` checks the parts of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from equiflow.flows.base import Flow
from equiflow.flows.journeys import Leg, State
from equiflow.runtime.checks import check_count, check_type, plain
from equiflow.runtime.precision import doubled
from equiflow.theories.base.action import Action
from equiflow.theories.base.prior import Prior


class Update(Protocol):
    """An update that leaves `exp(-S)` of its action invariant, such as an exact `samplers.Kernel`."""

    action: Action
    note: str

    @property
    def is_tuned(self) -> bool:
        """Whether nothing is left to tune."""

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Any]:
        """Update every sample once.

        Args:
            phi: `(n_samples, *lattice)`; not modified.
            generator: source of randomness.

        Returns:
            The new fields, and what happened to the proposals.
        """

    def adapted(self, outcome: Any, n: int) -> Any:
        """Return the update for the next step of tuning.

        Args:
            outcome: of the last update.
            n: number of the last update, from 0.

        Returns:
            The update.
        """

    def settled(self, history: Any) -> Any:
        """Return the tuned update, from the outcomes of the second half of tuning."""


@dataclass
class PlainLeg(Leg):
    """A map, then updates at the action S_k; the state is the configurations and their `S_k`.

    The change of the log weight is `S_{k-1}(x) - S_k(f(x)) + log |det df/dx|`.

    Attributes:
        action: S_k.
        layer: the map f; None for the identity.
        kernel: leaves `exp(-S_k)` invariant; None for no updates.
        n_updates: number of updates.
    """

    action: Action
    layer: Flow | None
    kernel: Update | None = field(repr=False)
    n_updates: int

    def work(self, state: State) -> tuple[State, Tensor]:
        """See `Leg.work`."""
        phi, before = state
        log_det = torch.zeros_like(before)
        if self.layer is not None:
            phi, log_det = self.layer.transform_and_log_det(phi)
            phi = self.action.space.nearest(phi)
        after = energy(self.action, phi)
        change = before - after + log_det.double()
        # Where both actions are infinite, the difference is NaN.
        return (phi, after), torch.where(after.isposinf(), -torch.inf, change)

    def move(self, state: State, generator: torch.Generator | None) -> State:
        """See `Leg.move`."""
        phi = state[0]
        if self.kernel is None or not self.n_updates:
            return state
        for _ in range(self.n_updates):
            phi, _ = self.kernel.update(phi, generator)
        phi = self.action.space.nearest(phi)
        return phi, energy(self.action, phi)


def make_legs(
    prior: Prior,
    actions: Sequence[Action],
    *,
    layers: Sequence[Flow | None] | None,
    kernel: Callable[[Action], Update] | None,
    n_updates: int | Sequence[int],
) -> list[PlainLeg]:
    """Return the legs of a path, see `StochasticFlow`.

    Args:
        prior: where it starts.
        actions: S_1 to S_K.
        layers: one flow or None for each action; None for no layers.
        kernel: makes the updates of an action; None for none.
        n_updates: one number for all actions but the last, or one each.

    Returns:
        One leg for each action.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if parts do not fit each other, or a kernel does not leave its action invariant.
    """
    check_type(actions, Sequence, "actions", "Give a list, such as geometric_path(prior, action, 8).")
    if not actions:
        raise ValueError("A path needs at least one action, its target.")
    layers = [None] * len(actions) if layers is None else list(layers)
    updates = _counts(n_updates, len(actions))
    if not len(layers) == len(updates) == len(actions):
        raise ValueError(
            f"Expected one layer and one number of updates for each action, got {len(layers)} and "
            f"{len(updates)} for {len(actions)} actions. Write None where there is no layer."
        )
    for action, layer in zip(actions, layers, strict=True):
        _check_part(prior, action, layer)
    kernels = [None if kernel is None else _checked(kernel(action), action) for action in actions]
    return [PlainLeg(*parts) for parts in zip(actions, layers, kernels, updates, strict=True)]


def tune_leg(
    leg: PlainLeg, phi: Tensor, n_tuning: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Tune the kernel of a leg in place, on samples of its action.

    Args:
        leg: has a kernel.
        phi: the samples, `(n_samples, *lattice)`.
        n_tuning: number of updates, of which the second half decides.
        generator: source of randomness.

    Returns:
        The state of the samples after all updates.
    """
    kernel, history = leg.kernel, []
    assert kernel is not None
    for n in range(n_tuning):
        phi, outcome = kernel.update(phi, generator)
        kernel = kernel.adapted(outcome, n)
        history.append(outcome)
    leg.kernel = kernel.settled(history[n_tuning // 2 :])
    phi = leg.action.space.nearest(phi)
    return phi, energy(leg.action, phi)


def energy(action: Action, phi: Tensor) -> Tensor:
    """Return the action of configurations, always summed in float64.

    Args:
        action: S.
        phi: `(batch, *lattice)`.

    Returns:
        `S[phi]`, `(batch,)` in float64.
    """
    return action(doubled(phi)).double()


def _counts(n_updates: int | Sequence[int], n_actions: int) -> list[int]:
    """Return the number of updates at each action."""
    n_updates = plain(n_updates)
    if isinstance(n_updates, Sequence):
        return [check_count(n, "n_updates", minimum=0) for n in n_updates]
    return [check_count(n_updates, "n_updates", minimum=0)] * (n_actions - 1) + [0]


def _check_part(prior: Prior, action: Action, layer: Flow | None) -> None:
    """Raise unless an action and a layer fit a prior."""
    check_type(action, Action, "Each of actions")
    if action.space != prior.space:
        raise ValueError(f"The prior lives on {prior.space}, an action on {action.space}.")
    if layer is None:
        return
    check_type(layer, Flow, "Each of layers")
    if layer.space != prior.space or layer.dtype != prior.dtype:
        raise ValueError(
            f"The prior lives on {prior.space} in {prior.dtype}, a layer on {layer.space} in {layer.dtype}. "
            "Build both from one space and convert them with .float() or .double()."
        )


def _checked(kernel: Update, action: Action) -> Update:
    """Return a kernel that leaves `exp(-S)` invariant, or raise."""
    if not callable(getattr(kernel, "update", None)):
        raise TypeError(f"kernel must make a Kernel of an action, such as HMC; it made {kernel!r}.")
    if kernel.action is not action:
        raise ValueError(
            f"{type(kernel).__name__} belongs to another action than the one that `kernel` was called with. "
            "Write lambda action: HMC(action)."
        )
    # An update with a bias has a note that says so.
    if kernel.note:
        raise ValueError(f"{type(kernel).__name__} does not leave exp(-S) invariant: {kernel.note}.")
    return kernel
