"""Why the step size of HMC collapses while it is tuned: a wrong gradient, NaN, a wall, or a stiff action."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.theories.base.action import Action

#: relative difference between a gradient and finite differences beyond which it counts as wrong
GRADIENT_TOLERANCE = 1e-3
#: chains on which a gradient is compared with them before anything is sampled
FEW_CHAINS = 8
#: steps of the finite differences, of which the best one counts
DIFFERENCES = tuple(10.0**-k for k in range(1, 9))


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
    generator = torch.Generator("cpu").manual_seed(0)
    direction = torch.randn(phi.shape, generator=generator, dtype=torch.float64).to(phi.device)
    if not bool((action(phi).isfinite() & _all_finite(action.grad(phi))).any()):
        return "S or action.grad is NaN or infinite at every field. Give another initial field."
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


def fault_of_gradient(action: Action, phi: Tensor, direction: Tensor) -> str:
    """Return in words how a gradient differs from finite differences of the action, or nothing.

    Args:
        action: S.
        phi: `(batch, *lattice)`, float64.
        direction: `(batch, *lattice)`, float64.

    Returns:
        The difference and what to do, or an empty text if the gradient is right.
    """
    error = gradient_error(action, phi, direction)
    if error <= GRADIENT_TOLERANCE:
        return ""
    return (
        f"action.grad differs from finite differences of the action by {error:.0%}. Does action.grad "
        "match action? Leave it out, and the gradient is computed by automatic differentiation."
    )


def check_gradient(action: Action, phi: Tensor) -> None:
    """Compare the gradient with finite differences of the action on a few chains.

    Args:
        action: S.
        phi: fields of the chains, `(n_chains, *lattice)`.

    Raises:
        RuntimeError: if it is wrong.
    """
    few = phi[:FEW_CHAINS].double()
    generator = torch.Generator("cpu").manual_seed(0)
    direction = torch.randn(few.shape, generator=generator, dtype=torch.float64).to(phi.device)
    if fault := fault_of_gradient(action, few, direction):
        raise RuntimeError(fault)


def gradient_error(action: Action, phi: Tensor, direction: Tensor) -> float:
    """Return the relative difference between the slope of S along a direction and its gradient.

    Args:
        action: S.
        phi: `(batch, *lattice)`.
        direction: `(batch, *lattice)`.

    Returns:
        The median of `|slope - gradient| / (|slope| + |gradient|)` over the batch, from 0 to 1, for the step
        of the finite differences at which it is smallest.
    """
    expected = (action.grad(phi) * direction).double().flatten(1).sum(1)
    errors = []
    for step in DIFFERENCES:
        slope = (action(phi + step * direction) - action(phi - step * direction)).double() / (2 * step)
        size = (slope.abs() + expected.abs()).clamp(min=torch.finfo(torch.float64).tiny)
        error = (slope - expected).abs() / size
        if bool(error.isfinite().any()):
            errors.append(float(error[error.isfinite()].median()))
    return min(errors, default=0.0)


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
