"""Second derivatives of a vector field, which carry the Hessian of a log-density along a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.runtime.autograd import differentiable


@dataclass(frozen=True)
class CurvatureRates:
    """Rates of change of a log-density with two derivatives along a trajectory, all detached.

    Attributes:
        velocity: v, `(batch, *lattice)`.
        divergence: `tr dv/dphi`, `(batch,)`.
        score_rate: `d/dt grad log q = -(dv/dphi)^T s - grad div v`, `(batch, *lattice)`.
        jacobian: `J_ij = dv_i / dphi_j` of the flattened configuration, `(batch, size, size)`.
        bending: Hessian of `v . s + div v` with s held fixed, `(batch, size, size)`.
    """

    velocity: Tensor
    divergence: Tensor
    score_rate: Tensor
    jacobian: Tensor
    bending: Tensor

    def hessian_rate(self, hessian: Tensor) -> Tensor:
        """Return `dH/dt = -J^T H - H J - K` for the Hessian H of log q and the bending K.

        Args:
            hessian: symmetric, `(batch, size, size)`.
        """
        turned = hessian @ self.jacobian
        return -turned - turned.mT - self.bending


def curvature_by_autograd(
    rates: Callable[[Tensor], tuple[Tensor, Tensor]], phi: Tensor, score: Tensor
) -> CurvatureRates:
    """Return curvature rates by nested automatic differentiation, a backward pass for each coordinate.

    Args:
        rates: velocity and divergence of configurations, twice differentiable.
        phi: `(batch, *lattice)`.
        score: `grad log q(phi)`, `(batch, *lattice)`.

    Returns:
        The rates, detached.
    """
    with torch.enable_grad():
        leaf = differentiable(phi.detach())
        velocity, divergence = rates(leaf)
        total = (velocity * score.detach()).sum() + divergence.sum()
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
        jacobian = _rows(velocity.flatten(1), leaf)
        bending = _rows(gradient.flatten(1), leaf)
    return CurvatureRates(velocity.detach(), divergence.detach(), -gradient.detach(), jacobian, bending)


def _rows(values: Tensor, leaf: Tensor) -> Tensor:
    """Return the derivatives of values `(batch, size)` in the same configuration, `(batch, size, size)`."""
    if not values.requires_grad:
        return values.new_zeros(*values.shape, values.shape[1])
    rows = [
        torch.autograd.grad(column.sum(), leaf, retain_graph=True, allow_unused=True, materialize_grads=True)[
            0
        ].flatten(1)
        for column in values.unbind(1)
    ]
    return torch.stack(rows, 1)
