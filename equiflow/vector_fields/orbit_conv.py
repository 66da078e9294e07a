"""Shallow fields: sitewise features mixed by orbit-tied kernels, with exact divergence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equiflow.nn.kernels.orbits import KernelValues, MomentumKernel, OffsetKernel, spanning_kernel
from equiflow.nn.pointwise.features import SineFeatures
from equiflow.nn.time import CosineBasis
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup, symmetry_on
from equiflow.vector_fields.shallow import ShallowField


class OrbitConvField(ShallowField):
    r"""`v(phi, t) = K_0(t) * phi + sum_f K_f(t) * h_f(phi)`, kernels tied on orbits.

    See `ShallowField` for the exact divergence (arXiv:2110.02673, 2207.00283). An evaluation is the cheapest
    of all fields; `PotentialField` gets further in the same time.

    Args:
        lattice: where the field lives.
        group: symmetry to build in; by default translations x the full point group x Z2.
        kernel_size: offsets per axis, any parity; `None` lets the kernels span the lattice.
        n_frequencies: number of sine features (as many cosine ones besides, without Z2).
        n_time_modes: number of cosine modes of the kernels' time dependence. At L = 16 six reach an
            ESS of 0.970 where four reach 0.962, but need 60 evaluations instead of 36 for the same
            accuracy of log Z.
        max_frequency: largest initial frequency of the features, in units of 1/phi.
        convolution: `"fourier"`, `"dense"` (one matrix product), `"direct"` (offset by offset, not for
            `kernel_size=None`), or `"auto"`, the fastest: dense up to 100 sites, beyond them direct up
            to three offsets per axis (`benchmarks/velocity.py`). They agree to rounding.

    Raises:
        ValueError: if the group acts on another lattice or the kernel does not fit.

    >>> field = OrbitConvField(Lattice((4, 4)))
    >>> velocity, divergence = field.velocity_and_divergence(torch.randn(3, 4, 4), 0.5)
    >>> velocity.shape, divergence.shape
    (torch.Size([3, 4, 4]), torch.Size([3]))
    """

    group: SymmetryGroup

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        kernel_size: int | tuple[int, ...] | None = None,
        n_frequencies: int = 8,
        n_time_modes: int = 4,
        max_frequency: float = 8.0,
        convolution: str = "auto",
    ) -> None:
        group = symmetry_on(lattice, group, "field")
        super().__init__(group)
        self.time_basis = CosineBasis(n_time_modes)
        self.features = SineFeatures(n_frequencies, lattice.dim, max_frequency=max_frequency, odd=group.z2)
        n_kernels = 1 + len(self.features)
        if kernel_size is None:
            self.kernel = spanning_kernel(group, n_time_modes, n_kernels, convolution=convolution)
        else:
            self.kernel = OffsetKernel(group, n_time_modes, n_kernels, kernel_size, convolution=convolution)
        # A uniform drift is the one even feature that no kernel can give: allowed only without Z2.
        self.drift = None if group.z2 else nn.Parameter(torch.zeros(n_time_modes))

    @torch.no_grad()
    def parameter_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> Tensor:
        """Closed form for kernels that span the lattice with Z2, see `VectorField.parameter_rates`."""
        kernel = self.kernel
        if not (isinstance(kernel, MomentumKernel) and self.features.odd and self._all_trained()):
            return super().parameter_rates(phi, t, score)
        time_values, omega = self.time_basis(t), self.features.omega.reshape(-1, *(1,) * self.lattice.dim)
        site, features = phi.unsqueeze(1), self.features(phi)
        slopes = torch.cat([torch.ones_like(site), features.first], 1).sum(self.lattice.axes)
        per_orbit = kernel.overlaps(score, torch.cat([site, features.value], 1), slopes)
        # dh/domega = (phi h' - h) / omega, whose slope is -phi omega h.
        slopes = -(site * omega * features.value).sum(self.lattice.axes)
        moved = kernel.overlaps(score, (site * features.first - features.value) / omega, slopes)
        weight = torch.tensordot(time_values, kernel.weight, 1)[1:]
        own = {
            "features.omega": (moved * weight).sum(-1),
            "kernel.weight": torch.einsum("j,bfo->bjfo", time_values, per_orbit).flatten(1),
        }
        return torch.cat([own[name] for name, _ in self.named_parameters()], 1)

    def _all_trained(self) -> bool:
        return all(p.requires_grad for p in self.parameters())

    def resized(self, lattice: Lattice) -> OrbitConvField:
        """Kernels as functions of offset, everything else as it is, see `VectorField.resized`."""
        return self._rebuilt_on(lattice)

    def _at(self, t: Tensor | float, scale: Tensor | None = None) -> tuple[KernelValues, Tensor | None]:
        time_values = self.time_basis(t)
        drift = None if self.drift is None else self.drift @ time_values
        return self.kernel(time_values, scale), drift
