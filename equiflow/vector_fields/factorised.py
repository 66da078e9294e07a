"""Shallow fields with factorised weights, as arXiv:2207.00283 has them."""

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

    `H_b = F_b0 phi + sum_f F_bf sin(omega_f phi)` and `T_j = sum_i M_ji B_i(t)` with a Fourier basis B; the
    kernels `W_jb` are tied on orbits of offsets. The defaults are those of arXiv:2207.00283; its published
    weights come in by `equiflow.interop.load_jaxlft`.

    Args:
        lattice: where the field lives.
        group: symmetry to build in; by default translations x the full point group x Z2.
        kernel_size: offsets per axis, any parity; `None` lets the kernels span the lattice.
        n_frequencies: number of sine features (as many cosine ones besides, without Z2).
        n_feature_bonds: number of combinations `H_b`.
        n_harmonics: of the Fourier basis in time, which has `2 n_harmonics + 1` functions.
        n_time_bonds: number of combinations `T_j`.
        max_frequency: largest initial frequency of the features, in units of 1/phi.
        convolution: see `OrbitConvField`.

    Raises:
        ValueError: if the group acts on another lattice or the kernel does not fit.
    """

    group: SymmetryGroup
    #: Frequencies multiply the weights, and the field is soon too stiff for five steps.
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
        self.time_basis = LearnedBasis(FourierBasis(n_harmonics), n_time_bonds)
        self.features = SineFeatures(n_frequencies, lattice.dim, max_frequency=max_frequency, odd=group.z2)
        # The first column is the linear term's.
        self.feature_mixing = nn.Parameter(orthonormal(n_feature_bonds, 1 + len(self.features)))
        self.kernel = OffsetKernel(group, n_time_bonds, n_feature_bonds, kernel_size, convolution=convolution)
        # A uniform drift is the one even feature that no kernel can give: allowed only without Z2.
        self.drift = None if group.z2 else nn.Parameter(torch.zeros(n_time_bonds))

    def _at(self, t: Tensor | float, scale: Tensor | None = None) -> tuple[KernelValues, Tensor | None]:
        time_values = self.time_basis(t)
        bonds = self.kernel(time_values)
        # The features are sin(omega phi) / omega, so that omega is theirs to give back.
        omega = self.features.frequencies()
        mixing = self.feature_mixing * torch.cat([omega.new_ones(1), omega])
        mixing = (mixing if scale is None else mixing * scale).mT
        operand = torch.tensordot(mixing.to(bonds.operand.dtype), bonds.operand, 1)
        drift = None if self.drift is None else self.drift @ time_values
        return KernelValues(operand, mixing @ bonds.at_origin), drift

    @property
    def learning_rate(self) -> float:
        """Small, since weights are multiplied with each other: at 2e-2 training diverges."""
        return 1e-3

    def resized(self, lattice: Lattice) -> FactorisedConvField:
        """Kernels as functions of offset, everything else as it is, see `VectorField.resized`."""
        return self._rebuilt_on(lattice)
