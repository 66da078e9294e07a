"""Features mixed by kernels in momentum space, with the backward pass in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiflow.lattice import Lattice
from equiflow.nn.features import FeatureValues
from equiflow.precision import full_precision


def feature_convolution(
    phi: Tensor, frequencies: Tensor, modes: Tensor, features: FeatureValues, lattice: Lattice
) -> Tensor:
    """`K_0 * phi + sum_f K_f * h_f(phi)`, differentiable once in phi, the frequencies and the modes.

    Automatic differentiation of the same formula costs about twice the time and the memory: it
    recomputes the cosines and turns the real FFTs' adjoints into complex ones.

    Args:
        phi: `(batch, *lattice)`.
        frequencies: `(feature,)`, of features that obey `dh/domega = (phi h' - h) / omega`.
        modes: `(1 + feature, *half_shape)`, Fourier modes of the kernels.
        features: values and derivatives at phi, computed without a graph.
        lattice: gives the Fourier transform.
    """
    return _FeatureConvolution.apply(phi, frequencies, modes, features.value, features.first, lattice)


def transposed_convolution(field: Tensor, modes: Tensor, lattice: Lattice) -> Tensor:
    """`K_f^T * field` for every kernel, `(batch, kernel, *lattice)`."""
    return lattice.ifft(lattice.fft(field).unsqueeze(1) * modes.conj())


class _FeatureConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        phi: Tensor,
        frequencies: Tensor,
        modes: Tensor,
        value: Tensor,
        first: Tensor,
        lattice: Lattice,
    ) -> Tensor:
        value_k = lattice.fft(value)
        ctx.save_for_backward(phi, frequencies, modes, value, first, value_k)
        ctx.lattice = lattice
        return lattice.ifft((value_k * modes[1:]).sum(1).addcmul_(lattice.fft(phi), modes[0]))

    @staticmethod
    @full_precision
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The velocity of an OrbitConvField can be differentiated once; create_graph=True is not "
                "supported. Use path_rates for the gradient of the divergence."
            )
        phi, frequencies, modes, value, first, value_k = ctx.saved_tensors
        lattice: Lattice = ctx.lattice
        gradient_k = lattice.fft(gradient)
        back = lattice.ifft(gradient_k.unsqueeze(1) * modes.conj())
        through = back[:, 1:] * first
        of_phi = through.sum(1) + back[:, 0]
        of_frequencies = of_modes = None
        if ctx.needs_input_grad[1]:
            along_phi = torch.einsum("bfx,bx->f", through.flatten(2), phi.flatten(1))
            along_value = (back[:, 1:] * value).flatten(2).sum((0, 2))
            of_frequencies = (along_phi - along_value) / frequencies
        if ctx.needs_input_grad[2]:
            # Parseval on the half grid: sum_x a v = sum_k multiplicity Re(conj(a_k) v_k) / V.
            measure = lattice.half_multiplicity().to(phi) / lattice.volume
            overlap_phi = (gradient_k * lattice.fft(phi).conj()).sum(0, keepdim=True)
            overlap = (gradient_k.unsqueeze(1) * value_k.conj()).sum(0)
            of_modes = torch.cat([overlap_phi, overlap]) * measure
            of_modes = of_modes if modes.is_complex() else of_modes.real
        return of_phi, of_frequencies, of_modes, None, None, None
