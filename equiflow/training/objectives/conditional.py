"""Training a conditional flow: `OverCouplings` averages an objective over couplings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from equiflow.flows import ConditionalFlow
from equiflow.runtime import distributed
from equiflow.runtime.checks import check_count, check_type, make_plain
from equiflow.theories.base.coupling_ranges import ActionFamily
from equiflow.training.objectives.adaptive import Adaptation, AdaptivePathGradient, Check
from equiflow.training.objectives.base import Objective, ObjectiveValue
from equiflow.training.objectives.focus import Focus

#: couplings at which an adaptive objective measures the error of its solver and the variance of log w
CHECKED_COUPLINGS = 6


@dataclass(frozen=True, repr=False)
class OverCouplings:
    r"""An objective of ordinary flows, averaged over couplings that are drawn anew at each step.

    The objective is evaluated on an ordinary flow at each coupling. The weights are linear in the modes,
    `theta(c) = sum_k P_k(c) theta_k`, so that the chain rule is `d/dtheta_k = sum_c P_k(c) d/dtheta(c)`.

    An `AdaptivePathGradient` takes as many steps of the solver as the worst of six couplings needs. It can
    also choose the couplings while it trains. With `focus`, they are drawn with a density that goes as the
    variance of log w to this power, so that the average counts hard couplings more. The checks of the solver
    measure the variance.

    Args:
        objective: objective of one flow and one action, such as `PathGradient()`.
        n_couplings: number of couplings per step; each gets the same number of samples.
        focus: power of the variance of log w in the density of couplings; 0 draws all alike.

    Raises:
        ValueError: if `n_couplings` is not positive, `focus` is negative, or it is given with an objective
            that does not adapt.

    >>> OverCouplings(AdaptivePathGradient(), n_couplings=8, focus=1.0).focus
    1.0
    """

    objective: Objective
    n_couplings: int = 4
    focus: float = 0.0

    def __post_init__(self) -> None:
        make_plain(self, "n_couplings", "focus")
        check_count(self.n_couplings, "n_couplings")
        check_type(self.focus, (float, int), "focus")
        if not 0 <= self.focus < float("inf"):
            raise ValueError(f"focus must be >= 0 and finite, got {self.focus}.")
        if self.focus and not isinstance(self.objective, AdaptivePathGradient):
            raise ValueError(
                f"focus = {self.focus} needs an objective that measures the variance of log w, got "
                f"{self.objective!r}. Write OverCouplings(AdaptivePathGradient(), focus={self.focus})."
            )

    def __repr__(self) -> str:
        # A checkpoint identifies its objective by this text; those of old had no focus.
        focus = f", focus={self.focus!r}" if self.focus else ""
        return f"OverCouplings(objective={self.objective!r}, n_couplings={self.n_couplings!r}{focus})"

    def adaptation(self) -> Adaptation | None:
        """Return the state with which a training run begins; None if the objective does not adapt."""
        return AdaptationOverCouplings(self) if isinstance(self.objective, AdaptivePathGradient) else None

    def __call__(
        self,
        flow: ConditionalFlow,
        action: ActionFamily,
        batch_size: int,
        generator: torch.Generator | None = None,
    ) -> ObjectiveValue:
        """Evaluate on fresh batches.

        The loss is the average over the couplings, and the ESS is the harmonic mean.

        Args:
            flow: the flow to be trained.
            action: its targets.
            batch_size: number of samples at all couplings together.
            generator: source of randomness, on the flow's device.

        Returns:
            A value whose `log_weight` is `(coupling, batch)`.

        Raises:
            TypeError: if the flow is not conditional, the action no `ActionFamily`, or the objective draws
                no model samples.
            ValueError: if the couplings cannot share the batch evenly.
        """
        check_type(flow, ConditionalFlow, "flow", "OverCouplings is for conditional flows.")
        check_type(action, ActionFamily, "action")
        return self.average(self.objective, Focus(0.0), flow, action, batch_size, generator)

    def average(
        self,
        objective: Objective,
        focus: Focus,
        flow: ConditionalFlow,
        action: ActionFamily,
        batch_size: int,
        generator: torch.Generator | None = None,
    ) -> ObjectiveValue:
        """Evaluate an objective on fresh batches at couplings with a density; see `__call__`.

        Args:
            objective: of one flow and one action.
            focus: the density of couplings.
            flow: the flow to be trained.
            action: its targets.
            batch_size: number of samples at all couplings together.
            generator: source of randomness, on the flow's device.

        Returns:
            A value whose `log_weight` is `(coupling, batch)`.

        Raises:
            TypeError: if the objective draws no model samples.
            ValueError: if the couplings cannot share the batch evenly.
        """
        each, rest = divmod(batch_size, self.n_couplings)
        if rest or not each:
            raise ValueError(
                f"batch_size = {batch_size} cannot be shared evenly by {self.n_couplings} couplings; "
                f"give a multiple of {self.n_couplings}."
            )
        modes = flow.modes()
        gradients = {name: torch.zeros_like(torch.cat([z[None], s])) for name, (z, s) in modes.items()}
        log_weights, nfe = [], 0
        for couplings in focus.draw(action, self.n_couplings, generator):
            flow_here = flow.sharing(**couplings)
            value = objective(flow_here, action.at(**couplings), each, generator)
            if value.log_weight is None:
                raise TypeError(
                    f"OverCouplings needs an objective on model samples, got {objective!r}, whose "
                    "target samples belong to one coupling. Use PathGradient() or ReverseKL()."
                )
            weights = dict(flow_here.named_parameters())
            # One coupling after the other, so that only one graph is in memory.
            found = torch.autograd.grad(
                value.surrogate, [weights[name] for name in modes], allow_unused=True, materialize_grads=True
            )
            basis = flow.basis(**couplings)
            for name, gradient in zip(modes, found, strict=True):
                gradients[name] += torch.tensordot(gradient.new_tensor(basis), gradient / self.n_couplings, 0)
            log_weights.append(value.log_weight)
            nfe = max(nfe, value.nfe)
        # A surrogate that is linear in the modes and has these gradients.
        terms = [
            (zero * gradients[name][0]).sum() + (stack * gradients[name][1:]).sum()
            for name, (zero, stack) in modes.items()
        ]
        return ObjectiveValue(torch.stack(terms).sum(), torch.stack(log_weights), nfe)


class AdaptationOverCouplings(Adaptation):
    """How an `AdaptivePathGradient` over couplings stands in one training run.

    Args:
        over: the objective over couplings, which does not change.
    """

    def __init__(self, over: OverCouplings) -> None:
        assert isinstance(over.objective, AdaptivePathGradient)
        assert over.objective.solver.steps is not None
        super().__init__(over.objective, over.objective.solver.steps)
        self.over, self.focus = over, Focus(over.focus)

    def at(self, progress: float) -> Callable[..., ObjectiveValue]:
        """Return what is minimised after a part of the training, from 0 to 1."""
        return partial(self.over.average, super().at(progress), self.focus)

    def check(self, flow: Any, action: Any, *, step: int, seed: int) -> Check:
        """See `Adaptation.check`; also learn where log w varies."""
        found = super().check(flow, action, step=step, seed=seed)
        # The first process alone has measured.
        self.focus.restore(distributed.from_first(self.focus.state))
        return found

    def error(self, flow: Any, action: Any, *, seed: int) -> float:
        """Return the largest error of the solver at six couplings, and learn the variance of log w there.

        Args:
            flow: the conditional flow.
            action: its targets.
            seed: of the couplings and samples.

        Returns:
            What `Adaptation.error` gives, at the worst coupling.
        """
        points = action.draw(CHECKED_COUPLINGS, torch.Generator().manual_seed(seed % 2**63))
        found = [
            self.error_and_variance(flow.sharing(**point), action.at(**point), seed=seed + 1 + index)
            for index, point in enumerate(points)
        ]
        self.focus.learn(action, points, torch.tensor([variance for _, variance in found]))
        return max(error for error, _ in found)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return super().state() | {"focus": self.focus.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        super().restore(state)
        self.focus.restore(state["focus"])
