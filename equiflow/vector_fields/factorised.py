"""The shallow vector field with factorised weights of arXiv:2207.00283."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equiflow.nn.kernels.orbits import KernelValues, OffsetKernel
from equiflow.nn.pointwise.features import SineFeatures
from equiflow.nn.time import FourierBasis, LearnedBasis, orthonormal
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_count
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup, symmetry_on
from equiflow.vector_fields.shallow import ShallowField


class FactorisedConvField(ShallowField):
    r"""`v = sum_bj T_j(t) W_jb * H_b(phi)` with learned combinations of features and of time modes.

    `H_b = F_b0 phi + sum_f F_bf sin(omega_f phi)` and `T_j = sum_i M_ji B_i(t)` with a Fourier basis B. The
    kernels `W_jb` are tied on orbits of offsets. The defaults are the values of arXiv:2207.00283;
    `equiflow.interop.load_jaxlft` loads its published weights. See `ShallowField` for the exact divergence.

    Args:
        lattice: where the field lives.
        group: symmetry to build in; by default translations x the full point group x Z2.
        kernel_size: offsets per axis of the kernels, any parity; the whole lattice if None.
        n_frequencies: number of sine features, and without Z2 as many cosine features.
        n_feature_bonds: number of learned combinations of the features.
        n_harmonics: number of harmonics of the Fourier basis in flow time, which has 2 n_harmonics + 1
            functions.
        n_time_bonds: number of learned combinations of the functions of flow time.
        max_frequency: largest initial frequency of the features, in units of 1/phi.
        convolution: how kernels are applied, "auto", "fourier", "dense" or "direct"; they agree to rounding.

    Raises:
        ValueError: if the group acts on another lattice or the kernel does not fit.
    """

    group: SymmetryGroup
    #: Frequencies multiply the weights, so the field soon becomes too stiff for five steps.
    training_solver = Solver("rk5", steps=10)

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        kernel_size: int | tuple[int, ...] | None = None,
        n_frequencies: int = 49,
        n_feature_bonds: int = 20,
        n_harmonics: int = 10,
        n_time_bonds: int = 20,
        max_frequency: float = 5.0,
        convolution: str = "auto",
    ) -> None:
        group = symmetry_on(lattice, group, "field")
        super().__init__(group)
        check_count(n_feature_bonds, "n_feature_bonds")
        check_count(n_time_bonds, "n_time_bonds")
        self.time_basis = LearnedBasis(FourierBasis(n_harmonics), n_time_bonds)
        self.features = SineFeatures(n_frequencies, lattice.dim, max_frequency=max_frequency, odd=group.z2)
        # The first column mixes phi itself, the others the features.
        self.feature_mixing = nn.Parameter(orthonormal(n_feature_bonds, 1 + len(self.features)))
        self.kernel = OffsetKernel(group, n_time_bonds, n_feature_bonds, kernel_size, convolution=convolution)
        # No kernel gives a uniform drift. It is even in phi, so Z2 forbids it.
        self.drift = None if group.z2 else nn.Parameter(torch.zeros(n_time_bonds))

    def _kernels_and_drift(
        self, t: Tensor | float, scale: Tensor | None = None
    ) -> tuple[KernelValues, Tensor | None]:
        """See `ShallowField._kernels_and_drift`."""
        time_values = self.time_basis(t)
        bonds = self.kernel(time_values)
        # `SineFeatures` are sin(omega phi) / omega, and this field is defined without the 1 / omega.
        omega = self.features.frequencies()
        mixing = self.feature_mixing * torch.cat([omega.new_ones(1), omega])
        mixing = (mixing if scale is None else mixing * scale).mT
        operand = torch.tensordot(mixing.to(bonds.operand.dtype), bonds.operand, 1)
        drift = None if self.drift is None else self.drift @ time_values
        return KernelValues(operand, mixing @ bonds.at_origin), drift

    @property
    def learning_rate(self) -> float:
        """See `VectorField.learning_rate`; small, because weights multiply each other: 2e-2 diverges."""
        return 1e-3

    def resized(self, lattice: Lattice) -> FactorisedConvField:
        """See `VectorField.resized`; kernels carry over as functions of offset."""
        return self._rebuilt_on(lattice)
