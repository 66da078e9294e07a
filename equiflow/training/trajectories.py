"""Learning a mechanical system from its trajectories alone: `fit_trajectories`, by maximum likelihood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from equiflow.flows import CanonicalFlow, Flow, PhaseSpace, SymplecticFlow
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import in_precision
from equiflow.runtime.randomness import own_rows
from equiflow.theories.base.action import Action
from equiflow.training.history import History
from equiflow.training.objectives.base import ObjectiveValue
from equiflow.training.objectives.samples import check_samples, digest
from equiflow.training.trainer import fit


def fit_trajectories(
    flow: CanonicalFlow | SymplecticFlow,
    trajectories: Tensor,
    *,
    steps: int | None = None,
    batch_size: int = 256,
    learning_rate: float | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    callback: Callable[[History], None] | None = None,
    progress: bool | None = None,
) -> History:
    r"""Train a canonical flow in place on states of a system in equilibrium, `max mean log q(q, p)`.

    No Hamiltonian is needed. Since the map is canonical, what the states tell of the learned frequencies is
    their spread in phase space: the order of states in time has no effect, and momenta must be those of the
    positions, `p = m dq/dt`, at the temperature `1 / beta` of the flow's prior.

    Args:
        flow: trained in place.
        trajectories: states `(..., 2, *lattice)`, such as `(time, 2, n)` or `(trajectory, time, 2, n)`; see
            `equiflow.interop.load_trajectories` for files.
        steps: optimiser steps in all, see `fit`.
        batch_size: states per step, drawn with replacement.
        learning_rate: see `fit`.
        seed: of the batches.
        checkpoint: see `fit`.
        callback: see `fit`.
        progress: see `fit`.

    Returns:
        The history; its loss is `-mean log q` of the batches.

    Raises:
        TypeError: if the flow has no momenta, or the trajectories are no tensor of floats.
        ValueError: if the trajectories have the wrong shape or values that are not finite, or an option is
            out of range.
        TrainingDivergedError: if the loss or the gradient is not finite.
    """
    check_type(flow, (CanonicalFlow, SymplecticFlow), "flow")
    assert isinstance(flow.space, PhaseSpace)
    return fit(
        flow,
        _UnknownAction(flow.space),
        objective=_Likelihood(as_states(trajectories, flow.space)),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        checkpoint=checkpoint,
        callback=callback,
        progress=progress,
    )


def as_states(trajectories: Tensor, space: PhaseSpace) -> Tensor:
    """Return trajectories of any number of leading axes as one batch of states.

    Args:
        trajectories: `(..., 2, *lattice)`.
        space: of the states.

    Returns:
        `(batch, 2, *lattice)`.

    Raises:
        TypeError: if it is not a float32 or float64 tensor.
        ValueError: if it has another shape, is empty, or has values that are not finite.
    """
    check_type(
        trajectories, Tensor, "trajectories", "Give a tensor of floats, such as torch.from_numpy(array)."
    )
    wanted = tuple(space.shape)
    if trajectories.is_complex():
        raise TypeError(
            f"trajectories has dtype {trajectories.dtype}; expected torch.float32 or torch.float64."
        )
    if trajectories.dim() <= len(wanted) or tuple(trajectories.shape[-len(wanted) :]) != wanted:
        raise ValueError(
            f"trajectories has shape {tuple(trajectories.shape)}; expected (..., "
            f"{', '.join(map(str, wanted))}): positions and momenta of {space.lattice.volume} degrees of "
            "freedom in each state. Join them by torch.stack([q, p], 1)."
        )
    states = trajectories.reshape(-1, *wanted)
    check_samples(states)
    return states


class _UnknownAction(Action):
    """A target of which nothing but samples is known."""

    def forward(self, phi: Tensor) -> Tensor:
        """Raise a TypeError."""
        raise TypeError("The Hamiltonian behind the trajectories is not known.")


@dataclass(frozen=True, eq=False, repr=False)
class _Likelihood:
    """The objective `-mean log q` on given states, without a Hamiltonian."""

    states: Tensor

    def __repr__(self) -> str:
        return f"trajectories({digest(self.states)})"

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        """See `Objective.__call__`."""
        index = torch.randint(len(self.states), (batch_size,), generator=generator, device=flow.device)
        index = own_rows(index, generator).to(self.states.device)
        log_q = flow.log_prob(in_precision(self.states[index], flow.dtype).to(flow.device))
        return ObjectiveValue(-log_q.mean(), None, 0, value=-log_q.detach().mean())
