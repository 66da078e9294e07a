"""Whether the gradient of an action is that of its values: a comparison with finite differences."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.runtime.precision import doubled
from equiflow.theories.base.action import Action

#: relative difference between a gradient and finite differences beyond which it counts as wrong
GRADIENT_TOLERANCE = {torch.float64: 1e-3, torch.float32: 0.05}
#: fields on which a gradient is compared with them before anything is sampled or trained
FEW_FIELDS = 8
#: what is said where no chain can start
NOWHERE_FINITE = "S or action.grad is NaN or infinite at every field. Give another initial field."
#: steps of the finite differences, of which the best one counts
DIFFERENCES = tuple(10.0**-k for k in range(1, 9))


def check_gradient(action: Action, phi: Tensor) -> None:
    """Compare the gradient with finite differences of the action on a few fields.

    Args:
        action: S.
        phi: fields, `(batch, *lattice)`.

    Raises:
        RuntimeError: if it is wrong, or S is infinite or NaN at all fields.
    """
    if not bool(action(doubled(phi)).isfinite().any()):
        raise RuntimeError(NOWHERE_FINITE)
    few = doubled(phi[:FEW_FIELDS])
    if fault := fault_of_gradient(action, few, random_direction(action, few)):
        raise RuntimeError(fault)


def random_direction(action: Action, phi: Tensor) -> Tensor:
    """Return the same random velocities in every call, see `Space.move`.

    Args:
        action: whose space says which shape a velocity has.
        phi: configurations, `(batch, *shape)`.

    Returns:
        `(batch, *tangent_shape)`, on the device and in the precision of `phi`.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (len(phi), *action.space.tangent_shape)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(phi.real)


def fault_of_gradient(action: Action, phi: Tensor, direction: Tensor) -> str:
    """Return in words how a gradient differs from finite differences of the action, or nothing.

    Args:
        action: S.
        phi: `(batch, *lattice)`; in float32 only a large difference is seen.
        direction: a velocity, of the same precision, see `Space.move`.

    Returns:
        The difference and what to do, or an empty text if the gradient is right.
    """
    error = gradient_error(action, phi, direction)
    if error <= GRADIENT_TOLERANCE[direction.dtype]:
        return ""
    percent = f"{error:.0%}" if error >= 0.01 else f"{100 * error:.1g}%"  # "0%" would mislead
    found = f"action.grad differs from finite differences of the action by {percent}."
    if type(action).grad is not Action.grad:
        return (
            f"{found} Does action.grad match action? Leave it out, and the gradient is computed by automatic "
            "differentiation."
        )
    return (
        f"{found} It is computed by automatic differentiation: is a part of S detached, rounded or turned "
        "into numbers of Python? Compute S by torch operations on phi itself."
    )


def gradient_error(action: Action, phi: Tensor, direction: Tensor) -> float:
    """Return the relative difference between the slope of S along a direction and its gradient.

    Args:
        action: S.
        phi: `(batch, *lattice)`.
        direction: a velocity, see `Space.move`.

    Returns:
        The median of `|slope - gradient| / (|slope| + |gradient|)` over the batch, from 0 to 1, for the step
        of the finite differences at which it is smallest.
    """
    expected = (action.grad(phi).detach() * direction).double().flatten(1).sum(1)
    errors, move = [], action.space.move
    for step in DIFFERENCES:
        ahead, behind = move(phi, step * direction), move(phi, -step * direction)
        slope = (action(ahead) - action(behind)).detach().double() / (2 * step)
        size = (slope.abs() + expected.abs()).clamp(min=torch.finfo(torch.float64).tiny)
        error = (slope - expected).abs() / size
        if bool(error.isfinite().any()):
            errors.append(float(error[error.isfinite()].median()))
    return min(errors, default=0.0)
