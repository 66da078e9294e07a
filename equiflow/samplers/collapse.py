"""Why the step of HMC collapses while it is tuned: a wrong gradient, NaN, a wall, jumps, or stiffness."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.precision import doubled
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
    phi, move = doubled(phi), action.space.move
    direction = random_direction(action, phi)
    if not bool((action(phi).isfinite() & _all_finite(action.grad(phi))).any()):
        return NOWHERE_FINITE
    if fault := fault_of_gradient(action, phi, direction):
        return fault
    for fraction in (0.1, 0.3, 1.0):
        ahead = move(phi, fraction * length * direction)
        if not bool((action(ahead).isfinite() & _all_finite(action.grad(ahead))).all()):
            return (
                "Trajectories reach fields where S or action.grad is NaN or infinite, such as behind a hard "
                f"wall. Give a shorter trajectory_length than {length:.2g}, or an action that rises smoothly."
            )
    if _jumps(action, phi, length * direction):
        return (
            "S jumps along trajectories, which action.grad does not tell, as with an imaginary theta. "
            "No step makes the errors of the energy small. Give a step_size, such as 0.1."
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
    axes = tuple(range(1, direction.dim()))
    step = 1e-4 * float(phi.abs().mean().clamp(min=1e-8))
    eigenvalue = direction.new_ones(len(phi))
    for _ in range(n_iterations):
        direction = direction / direction.square().sum(axes, keepdim=True).sqrt()
        ahead, behind = (action.grad(action.space.move(phi, sign * step * direction)) for sign in (1, -1))
        direction = (ahead - behind) / (2 * step)
        eigenvalue = direction.square().sum(axes).sqrt()
    return math.sqrt(max(float(eigenvalue.nan_to_num(0.0).max()), torch.finfo(torch.float64).tiny))


def _jumps(action: Action, phi: Tensor, velocity: Tensor) -> bool:
    """Return whether S changes along a path by more than its gradient adds up to, however fine the steps."""
    errors = []
    for n_steps in (64, 256):
        s = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
        along = [action.space.move(phi, float(one) * velocity) for one in s]
        value = torch.stack([action(one) for one in along])
        slope = torch.stack([(action.grad(one) * velocity).flatten(1).sum(1) for one in along])
        # A trapezoid rule is 16 times as good with a quarter of the step, where nothing jumps.
        rest = value[1:] - value[:-1] - (slope[1:] + slope[:-1]) / (2 * n_steps)
        errors.append(float(rest.abs().amax(0).median()))
    return errors[1] > max(0.1, 0.5 * errors[0])


def _all_finite(gradient: Tensor) -> Tensor:
    """Return whether a gradient has finite components only, `(batch,)` of booleans."""
    return gradient.isfinite().flatten(1).all(1)
