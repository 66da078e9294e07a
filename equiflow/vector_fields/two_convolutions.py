"""Vector fields with a pointwise function between two convolutions, and their exact divergence.

Start at `TwoConvolutionField`; `O3Field` and `SteerableField` derive from it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from equiflow.nn.kernels.stencil import stencil_for
from equiflow.nn.pointwise.base import Pointwise
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.vector_fields.base import VectorField


@dataclass(frozen=True)
class TwoKernels:
    """Kernels of a `TwoConvolutionField` at one time, as functions of the offset modulo the lattice.

    Attributes:
        inner: `K1`, `(channel, *lattice)`, with offset 0 at index 0.
        outer: `K2`, `(channel, *lattice)`.
        linear: `K0`, `(*lattice)`, or None.
    """

    inner: Tensor
    outer: Tensor
    linear: Tensor | None = None


class TwoConvolutionField(VectorField):
    r"""`v = K0 * phi + sum_c K2_c^T * G_c(u)` with `u_c = K1_c * phi` and a pointwise function G.

    The Jacobian's trace is exact for every pointwise G, at the cost of one sum over sites:
    `div v = V K0(0) + sum_x sum_cc' dG_c/du_c'(u_x) <K2_c, K1_c'>`, with `<a, b> = sum_offsets a b`.
    Here `(K * h)_x = sum_y K(x - y) h_y` and `(K^T * h)_x = sum_y K(y - x) h_y`.

    A subclass fills in `kernels`. The field is equivariant if, under the point group, `u` transforms by a
    representation and G commutes with it.

    Args:
        group: the symmetry that the field claims to respect.
        pointwise: the function G.
        support: offsets at which K1 and K2 may be nonzero, `(*lattice)` bool; if they are few, evaluation
            gets faster. A subclass that finds them later sets `stencil` by `stencil_for`.
    """

    def __init__(self, group: SymmetryGroup, pointwise: Pointwise, *, support: Tensor | None = None) -> None:
        super().__init__(group)
        self.pointwise = pointwise
        #: applies K1 and K2; if None, FFTs do
        self.stencil = None if support is None else stencil_for(group.lattice, support)

    @abstractmethod
    def kernels(self, t: Tensor | float) -> TwoKernels:
        """Return the kernels at flow time `t`."""

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        lattice = self.lattice
        lattice.check(phi)
        kernels = self.kernels(t)
        overlap = kernels.outer.flatten(1) @ kernels.inner.flatten(1).mT
        velocity, trace = (self._by_fft if self.stencil is None else self._by_stencil)(phi, kernels, overlap)
        divergence = trace.sum(lattice.axes)
        if kernels.linear is not None:
            divergence = divergence + lattice.volume * kernels.linear[(0,) * lattice.dim]
        return velocity, divergence

    def _by_fft(self, phi: Tensor, kernels: TwoKernels, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity and the trace of each site; sums over channels are taken in momentum space."""
        lattice = self.lattice
        phi_k = lattice.fft(phi)
        u = lattice.ifft(phi_k.unsqueeze(1) * lattice.fft(kernels.inner))
        value, trace = self.pointwise(u, overlap)
        velocity_k = (lattice.fft(value) * lattice.fft(kernels.outer).conj()).sum(1)
        if kernels.linear is not None:
            velocity_k = velocity_k + phi_k * lattice.fft(kernels.linear)
        return lattice.ifft(velocity_k), trace

    def _by_stencil(self, phi: Tensor, kernels: TwoKernels, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `_by_fft` for K1 and K2 with few offsets; K0 may span the lattice."""
        assert self.stencil is not None
        lattice = self.lattice
        inner, outer = (self.stencil.restrict(k).unsqueeze(1) for k in (kernels.inner, kernels.outer))
        value, trace = self.pointwise(self.stencil.convolve(phi.unsqueeze(1), inner), overlap)
        velocity = self.stencil.transpose(value, outer).squeeze(1).contiguous()
        if kernels.linear is not None:
            velocity = velocity + lattice.ifft(lattice.fft(phi) * lattice.fft(kernels.linear))
        return velocity, trace
