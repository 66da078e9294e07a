"""Tensors to differentiate with respect to, whatever made them: `detached`, `as_leaf`, `differentiable`.

`is_transformed` and `holds` serve code that also runs within the transformations of `torch.func`.
"""

from __future__ import annotations

import torch
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


def is_transformed() -> bool:
    """Return whether `torch.func` (vmap, grad, jvp and others) transforms the running code."""
    # torch asks the same before it applies a function of `torch.autograd`; there is no public name for it.
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def holds(condition: Tensor) -> bool:
    """Return whether a 0-d condition is true; True within `torch.func.vmap`, where no value is known."""
    if not is_transformed():
        return bool(condition)
    try:
        return bool(condition)
    except RuntimeError:  # vmap refuses to look at a value
        return True


def all_finite(*tensors: Tensor) -> bool:
    """Return whether no value is NaN or infinite; True within `torch.func.vmap`, see `holds`.

    Args:
        tensors: one at least, on one device.

    Returns:
        Whether all values are finite.
    """
    # The sum of finite values may overflow, but it is cheap and settles nearly all cases.
    if holds(torch.stack([x.sum().isfinite() for x in tensors]).all()):
        return True
    return holds(torch.stack([x.isfinite().all() for x in tensors]).all())
