"""The shallow vector field whose kernels are tied on the orbits of the point group."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equiflow.nn.kernels.orbits import KernelValues, MomentumKernel
from equiflow.nn.pointwise.features import SineFeatures
from equiflow.nn.time import CosineBasis
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.symmetry import SymmetryGroup, symmetry_on
from equiflow.vector_fields.ridge_kernels import FusedOrbitConv, can_use_kernels
from equiflow.vector_fields.shallow import ShallowField
from equiflow.vector_fields.sized_kernels import kernel_of_size, prior_like


class OrbitConvField(ShallowField):
    r"""`v(phi, t) = K_0(t) * phi + sum_f K_f(t) * h_f(phi)`, kernels tied on orbits.

    See `ShallowField` for the exact divergence (arXiv:2110.02673, 2207.00283). The features are
    `h_f = sin(omega_f phi) / omega_f`, and without Z2 also cosines. Its evaluations are the cheapest of all
    fields, but `PotentialField` reaches a higher ESS in the same time.

    At L = 16 six time modes reach an ESS of 0.970 where four reach 0.962. They need 60 evaluations instead of
    36 for the same accuracy of log Z.

    The convolutions are `"fourier"`, `"dense"` (one matrix product) and `"direct"` (offset by offset, not for
    `kernel_size=None`). They agree to rounding. `"auto"` takes the fastest one: `"dense"` up to 100 sites,
    else `"direct"` up to three offsets per axis, else `"fourier"` (`benchmarks/velocity.py`).

    Args:
        lattice: where the field lives.
        group: symmetry to build in; by default translations x the full point group x Z2.
        kernels: what they are made of, "orbits" or "smooth", see `PotentialField`.
        kernel_size: offsets per axis of the kernels, any parity; the whole lattice if None.
        n_frequencies: number of sine features, and without Z2 as many cosine features.
        n_time_modes: number of cosine modes in flow time of each kernel.
        max_frequency: largest initial frequency of the features, in units of 1/phi.
        convolution: how kernels are applied, "auto", "fourier", "dense" or "direct"; they agree to rounding.

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
        kernels: str = "orbits",
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
        self.kernel = kernel_of_size(
            group, n_time_modes, n_kernels, kernel_size, kernels=kernels, convolution=convolution
        )
        # No kernel gives a uniform drift. It is even in phi, so Z2 forbids it.
        self.drift = None if group.z2 else nn.Parameter(torch.zeros(n_time_modes))

    def default_prior(self) -> Prior:
        """See `VectorField.default_prior`; a spectrum of the same kind as the kernels."""
        return prior_like(self.kernel) or super().default_prior()

    @torch.no_grad()
    def parameter_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> Tensor:
        """See `VectorField.parameter_rates`; in closed form if the kernels span the lattice, with Z2."""
        kernel = self.kernel
        if not (isinstance(kernel, MomentumKernel) and self.features.odd):
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
        trained = [own[name] for name, weight in self.named_parameters() if weight.requires_grad]
        return torch.cat(trained, 1) if trained else phi.new_zeros(len(phi), 0)

    @property
    def linear_parameters(self) -> tuple[nn.Parameter, ...]:
        """See `VectorField.linear_parameters`; the kernels and the drift."""
        return (self.kernel.weight,) if self.drift is None else (self.kernel.weight, self.drift)

    def fused(self, phi: Tensor) -> FusedOrbitConv | None:
        """See `VectorField.fused`."""
        fits = type(self) is OrbitConvField and can_use_kernels(self, phi)
        return FusedOrbitConv(self) if fits else None

    def extra_repr(self) -> str:
        """See `VectorField.extra_repr`; runs begun before there was a choice of kernels go on."""
        return super().extra_repr().replace(", kernels=orbits", "")

    def resized(self, lattice: Lattice) -> OrbitConvField:
        """See `VectorField.resized`; kernels carry over as functions of offset."""
        return self._rebuilt_on(lattice)

    def _kernels_and_drift(
        self, t: Tensor | float, scale: Tensor | None = None
    ) -> tuple[KernelValues, Tensor | None]:
        """See `ShallowField._kernels_and_drift`."""
        time_values = self.time_basis(t)
        drift = None if self.drift is None else self.drift @ time_values
        return self.kernel(time_values, scale), drift
