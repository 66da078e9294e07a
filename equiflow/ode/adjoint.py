"""Gradients of a solution by the adjoint equation: their memory does not grow with the number of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: `rates(t, y)` with a 0-d time and a state `(n,)`, returning `dy/dt`, `(n,)`
FlatRates: TypeAlias = Callable[[Tensor, Tensor], Tensor]
#: `solve(rates, y, t0, t1)`, returning the state at t1, `(n,)`
Solve: TypeAlias = Callable[[FlatRates, Tensor, float, float], Tensor]


def solve_with_adjoint(
    solve: Solve, rates: FlatRates, y: Tensor, t0: float, t1: float, parameters: Iterable[Tensor]
) -> Tensor:
    """Return `solve(rates, y, t0, t1)` with the gradient of the adjoint equation (arXiv:1806.07366).

    With `a = dL/dy` and `g = dL/d parameters`, the same solver integrates back from t1 to t0:

        da/dt = -(d rates / dy)^T a,    dg/dt = -(d rates / d parameters)^T a,    g(t1) = 0.

    Args:
        solve: how to integrate, forwards and backwards.
        rates: right-hand side of the equation.
        y: initial state, `(n,)`.
        t0: initial time.
        t1: final time.
        parameters: tensors that `rates` depends on and that get gradients, besides `y`.

    Returns:
        The final state, `(n,)`.
    """
    trained = tuple(p for p in parameters if p.requires_grad)
    final: Tensor = _Adjoint.apply(solve, rates, t0, t1, y, *trained)
    return final


class _Adjoint(torch.autograd.Function):
    """See `solve_with_adjoint`."""

    @staticmethod
    def forward(
        ctx: Any, solve: Solve, rates: FlatRates, t0: float, t1: float, y: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.solve, ctx.rates, ctx.times = solve, rates, (t0, t1)
        final = solve(rates, y, t0, t1)
        ctx.save_for_backward(final, *parameters)
        return final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, final_slope: Tensor) -> tuple[Tensor | None, ...]:
        final, *parameters = ctx.saved_tensors
        t0, t1 = ctx.times
        start = [final, final_slope, *(torch.zeros_like(p).flatten() for p in parameters)]
        sizes = [part.numel() for part in start]

        def adjoint_rates(t: Tensor, flat: Tensor) -> Tensor:
            y, slope, *_ = flat.split_with_sizes(sizes)
            with torch.enable_grad():
                leaf = y.detach().requires_grad_()
                rate = ctx.rates(t, leaf)
                # The graph is kept: rates may share kernels that were computed from the parameters once.
                products = torch.autograd.grad(
                    rate, (leaf, *parameters), -slope, allow_unused=True, retain_graph=True
                )
            pairs = zip(products, start[1:], strict=True)
            return torch.cat(
                [rate.detach(), *(torch.zeros_like(p) if v is None else v.flatten() for v, p in pairs)]
            )

        end = ctx.solve(adjoint_rates, torch.cat(start), t1, t0)
        _, slope, *gradients = end.split_with_sizes(sizes)
        pairs = zip(gradients, parameters, strict=True)
        return (None, None, None, None, slope, *(g.view_as(p) for g, p in pairs))
