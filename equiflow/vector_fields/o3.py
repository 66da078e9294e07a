"""Vector fields in three dimensions whose channels are irreps of O(3), by e3nn."""

from __future__ import annotations

from torch import Tensor

from equiflow.nn.irreps.e3nn_kernels import HarmonicBasis, HarmonicKernels
from equiflow.nn.kernels.orbits import spanning_kernel
from equiflow.nn.pointwise.gated import GatedPointwise
from equiflow.nn.time import CosineBasis
from equiflow.runtime.checks import check_type
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup, symmetry_on
from equiflow.vector_fields.two_convolutions import TwoConvolutionField, TwoKernels


class O3Field(TwoConvolutionField):
    r"""`v = K0 * phi + sum_i K2_i^T * G_i(u)` with `u_i = K1_i * phi`, irreps of O(3) on a stencil.

    The kernels are radial functions times spherical harmonics of the offset. So `u_i` transforms by the irrep
    of degree l, restricted to the point group. G scales each `u_i` by a gate made of invariants. Besides
    smeared values of the field (l = 0), its gradients (l = 1) and curvatures (l = 2) enter. The divergence is
    exact, see `TwoConvolutionField`. (arXiv:2207.09453, 1802.08219)

    The field needs e3nn: `pip install '.[o3]'`.

    Args:
        lattice: where the field lives, of three dimensions.
        group: symmetry to build in; by default translations x the full point group x Z2.
        kernel_size: offsets per axis of the kernels K1 and K2, any parity; the whole lattice if None.
        irreps: hidden channels in e3nn's notation, with the parity (-1)^l each; those whose harmonics vanish
            on the kernel are left out.
        n_radial: number of smooth functions of the distance, for large kernels; if None, there is one weight
            per orbit of offsets.
        n_time_modes: number of cosine modes in flow time of each kernel.
        max_frequency: largest initial frequency of the scalars' sines, in units of 1/phi.

    Raises:
        ImportError: if e3nn is not installed.
        ValueError: if the lattice is not three-dimensional, the group acts on another one, the kernel does
            not fit, or an irrep has the wrong parity.
    """

    group: SymmetryGroup

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        kernel_size: int | tuple[int, ...] | None = 3,
        irreps: str = "8x0e + 4x1o + 2x2e",
        n_radial: int | None = None,
        n_time_modes: int = 4,
        max_frequency: float = 8.0,
    ) -> None:
        check_type(lattice, Lattice, "lattice", "Write Lattice((8, 8, 8)).")
        if lattice.dim != 3:
            raise ValueError(
                f"O3Field needs a lattice of 3 dimensions, got {lattice.shape}; OrbitConvField takes any."
            )
        group = symmetry_on(lattice, group, "field")
        basis = HarmonicBasis(group, irreps, kernel_size, n_radial)
        gates = GatedPointwise(basis.sizes, max_frequency=max_frequency, odd=group.z2)
        super().__init__(group, gates, support=basis.support)
        self.time_basis = CosineBasis(n_time_modes)
        self.inner = HarmonicKernels(basis, n_time_modes, start="spread")
        self.outer = HarmonicKernels(basis, n_time_modes, start="zero")
        self.linear = spanning_kernel(group, n_time_modes, 1, convolution="fourier")

    def kernels(self, t: Tensor | float) -> TwoKernels:
        """See `TwoConvolutionField.kernels`."""
        time_values = self.time_basis(t)
        linear = self.lattice.ifft(self.linear(time_values).operand[0])
        return TwoKernels(self.inner(time_values), self.outer(time_values), linear)

    def resized(self, lattice: Lattice) -> O3Field:
        """See `VectorField.resized`; kernels carry over as functions of offset."""
        return self._rebuilt_on(lattice)
