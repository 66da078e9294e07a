"""Fields of two convolutions about a pointwise function: exact divergence for any such function."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from equiflow.nn.pointwise import Pointwise
from equiflow.precision import full_precision
from equiflow.symmetry import SymmetryGroup
from equiflow.vector_fields.base import VectorField


@dataclass(frozen=True)
class TwoKernels:
    """Kernels of a `TwoConvolutionField` at one time, as functions of the offset modulo the lattice.

    Attributes:
        inner: `K1`, `(channel, *lattice)`, offset 0 at index 0.
        outer: `K2`, the same.
        linear: `K0`, `(*lattice)`, or None.
    """

    inner: Tensor
    outer: Tensor
    linear: Tensor | None = None


class TwoConvolutionField(VectorField):
    r"""`v = K0 * phi + sum_c K2_c^T * G_c(u)` with `u_c = K1_c * phi` and a pointwise function G.

    The Jacobian's trace is exact, whatever G does at a site, at the cost of one sum over sites:
    `div v = V K0(0) + sum_x sum_cc' dG_c/du_c'(u_x) <K2_c, K1_c'>`, with `<a, b> = sum_offsets a b`.
    Here `(K * h)_x = sum_y K(x - y) h_y` and `(K^T * h)_x = sum_y K(y - x) h_y`.

    Subclasses say what the kernels are and set `pointwise`. The field is equivariant if, under the point
    group, `u` transforms by some representation and G commutes with it.

    Args:
        group: the symmetry that the field claims to respect.
        pointwise: the function G.
    """

    def __init__(self, group: SymmetryGroup, pointwise: Pointwise) -> None:
        super().__init__(group)
        self.pointwise = pointwise

    @abstractmethod
    def kernels(self, t: Tensor | float) -> TwoKernels:
        """The kernels at flow time `t`."""

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        lattice = self.lattice
        lattice.check(phi)
        kernels = self.kernels(t)
        phi_k = lattice.fft(phi)
        u = lattice.ifft(phi_k.unsqueeze(1) * lattice.fft(kernels.inner))
        overlap = kernels.outer.flatten(1) @ kernels.inner.flatten(1).mT
        value, trace = self.pointwise(u, overlap)
        velocity_k = (lattice.fft(value) * lattice.fft(kernels.outer).conj()).sum(1)
        divergence = trace.sum(lattice.axes)
        if kernels.linear is not None:
            velocity_k = velocity_k + phi_k * lattice.fft(kernels.linear)
            divergence = divergence + lattice.volume * kernels.linear[(0,) * lattice.dim]
        return lattice.ifft(velocity_k), divergence
