"""The convolution of features with kernels, with its backward pass in closed form.

`feature_convolution` is the velocity of all shallow vector fields.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiflow.nn.kernels.convolution import Convolution
from equiflow.nn.pointwise.features import FeatureValues
from equiflow.runtime.precision import full_precision


def feature_convolution(
    phi: Tensor, frequencies: Tensor, operand: Tensor, features: FeatureValues, convolution: Convolution
) -> Tensor:
    """Return `K_0 * phi + sum_f K_f * h_f(phi)`.

    The result can be differentiated once in phi, the frequencies and the operand. Automatic differentiation
    of the same formula costs about twice the time and the memory: it computes the cosines again and turns the
    adjoints of real FFTs into complex ones.

    Args:
        phi: `(batch, *lattice)`.
        frequencies: `(feature,)`; the features must obey `dh/domega = (phi h' - h) / omega`.
        operand: the `1 + feature` kernels, in the form that `convolution` takes.
        features: values and derivatives at phi, computed without a graph.
        convolution: applies the kernels.

    Returns:
        `(batch, *lattice)`.

    Raises:
        RuntimeError: in the backward pass with `create_graph=True`.
    """
    return _FeatureConvolution.apply(phi, frequencies, operand, features.value, features.first, convolution)


class _FeatureConvolution(torch.autograd.Function):
    """`feature_convolution` for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        phi: Tensor,
        frequencies: Tensor,
        operand: Tensor,
        value: Tensor,
        first: Tensor,
        convolution: Convolution,
    ) -> Tensor:
        linear, encoded = convolution.encode(phi.unsqueeze(1)), convolution.encode(value)
        ctx.save_for_backward(phi, frequencies, operand, value, first, linear, encoded)
        ctx.convolution = convolution
        return convolution.mix(linear, encoded, operand)

    @staticmethod
    @full_precision
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The velocity of a shallow field can be differentiated once; create_graph=True is not "
                "supported. Use path_rates for the gradient of the divergence."
            )
        phi, frequencies, operand, value, first, linear, encoded = ctx.saved_tensors
        convolution: Convolution = ctx.convolution
        sent = convolution.encode_back(gradient.unsqueeze(1))
        back = convolution.transpose(sent, operand)
        through = back[:, 1:] * first
        of_phi = through.sum(1) + back[:, 0]
        of_frequencies = of_operand = None
        if ctx.needs_input_grad[1]:
            along_phi = torch.einsum("bfx,bx->f", through.flatten(2), phi.flatten(1))
            along_value = (back[:, 1:] * value).flatten(2).sum((0, 2))
            of_frequencies = (along_phi - along_value) / frequencies
        if ctx.needs_input_grad[2]:
            parts = [convolution.overlap(linear, sent, operand[:1])]
            parts.append(convolution.overlap(encoded, sent, operand[1:]))
            of_operand = torch.cat(parts)
        return of_phi, of_frequencies, of_operand, None, None, None
