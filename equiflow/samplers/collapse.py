"""Why the step size of HMC collapses while it is tuned: a wrong gradient, NaN, a wall, or a stiff action."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.theories.base.action import Action
from equiflow.theories.base.action_gradients import NOWHERE_FINITE, fault_of_gradient, random_direction


def cause_of_collapse(action: Action, phi: Tensor, length: float) -> str:
    """Return in words why no step of less than a thousandth of a trajectory conserves energy.

    Args:
        action: S.
        phi: fields of the chains, `(n_chains, *lattice)`.
        length: mean molecular-dynamics time of a trajectory.

    Returns:
        The cause, and what to do.
    """
    phi = phi.double()
    direction = random_direction(action, phi)
    if not bool((action(phi).isfinite() & _all_finite(action.grad(phi))).any()):
        return NOWHERE_FINITE
    if fault := fault_of_gradient(action, phi, direction):
        return fault
    for fraction in (0.1, 0.3, 1.0):
        ahead = phi + fraction * length * direction
        if not bool((action(ahead).isfinite() & _all_finite(action.grad(ahead))).all()):
            return (
                "Trajectories reach fields where S or action.grad is NaN or infinite, such as behind a hard "
                f"wall. Give a shorter trajectory_length than {length:.2g}, or an action that rises smoothly."
            )
    period = 2 * math.pi / largest_frequency(action, phi, direction)
    return (
        f"The action is stiff: its fastest oscillation has a period of {period:.1e}, and a trajectory has "
        f"the length {length:.2g}. Give trajectory_length={period:.1e}, or rescale the field."
    )


def largest_frequency(action: Action, phi: Tensor, direction: Tensor, *, n_iterations: int = 20) -> float:
    """Return the largest frequency of small oscillations around fields, by power iteration.

    Args:
        action: S.
        phi: `(batch, *lattice)`.
        direction: start of the iteration, `(batch, *lattice)`.
        n_iterations: number of products with the Hessian.

    Returns:
        The square root of the largest eigenvalue of the Hessian, over the batch.
    """
    axes = tuple(range(1, phi.dim()))
    step = 1e-4 * float(phi.abs().mean().clamp(min=1e-8))
    eigenvalue = torch.ones(len(phi), dtype=phi.dtype, device=phi.device)
    for _ in range(n_iterations):
        direction = direction / direction.square().sum(axes, keepdim=True).sqrt()
        direction = (action.grad(phi + step * direction) - action.grad(phi - step * direction)) / (2 * step)
        eigenvalue = direction.square().sum(axes).sqrt()
    return math.sqrt(max(float(eigenvalue.nan_to_num(0.0).max()), torch.finfo(torch.float64).tiny))


def _all_finite(gradient: Tensor) -> Tensor:
    """Return whether a gradient has finite components only, `(batch,)` of booleans."""
    return gradient.isfinite().flatten(1).all(1)
