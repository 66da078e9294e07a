"""Tensors to differentiate with respect to, whatever made them: `detached`, `as_leaf`, `differentiable`."""

from __future__ import annotations

from torch import Tensor


def detached(phi: Tensor) -> Tensor:
    """Return `phi` without a graph, or a copy if inference mode made it.

    Autograd refuses to record operations on inference tensors, so these are copied.
    """
    return phi.clone() if phi.is_inference() else phi.detach()


def as_leaf(phi: Tensor) -> Tensor:
    """Return the values of `phi` as a new leaf that requires a gradient."""
    return detached(phi).requires_grad_()


def differentiable(phi: Tensor) -> Tensor:
    """Return `phi` itself if it requires a gradient, else its values as a new leaf."""
    return phi if phi.requires_grad else as_leaf(phi)
