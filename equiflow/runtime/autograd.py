"""Where a graph starts: tensors to differentiate in, whoever made them."""

from __future__ import annotations

from torch import Tensor


def detached(phi: Tensor) -> Tensor:
    """`phi.detach()`, or a copy where inference mode made `phi`: no graph takes such a tensor."""
    return phi.clone() if phi.is_inference() else phi.detach()


def as_leaf(phi: Tensor) -> Tensor:
    """The values of `phi` as the start of a graph of its own."""
    return detached(phi).requires_grad_()


def differentiable(phi: Tensor) -> Tensor:
    """`phi` itself if it has a graph or starts one, else its values `as_leaf`."""
    return phi if phi.requires_grad else as_leaf(phi)
