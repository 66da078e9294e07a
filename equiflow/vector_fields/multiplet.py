"""Fields of several components: O(N)-equivariant features mixed by orbit-tied kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equiflow.nn.kernels.orbits import spanning_kernel
from equiflow.nn.pointwise.features import VectorSineFeatures
from equiflow.nn.time import CosineBasis
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_on
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.multiplets.group import MultipletGroup
from equiflow.theories.multiplets.space import Multiplet
from equiflow.vector_fields.base import VectorField


class MultipletField(VectorField):
    r"""`v_a(phi, t) = K_0(t) * phi_a + sum_f K_f(t) * h_fa(phi)` with `h_f = phi/r sin(omega_f r)/omega_f`.

    The O(N) form of `OrbitConvField`, which it is for N = 1: features turn with the components at their
    site, `r = |phi(x)|`, and kernels act on all components alike. Exact divergence:
    `N V K_0(0) + sum_f K_f(0) sum_x [cos(omega_f r) + (N - 1) sin(omega_f r) / (omega_f r)]`
    (a generalisation of arXiv:2207.00283). Where the group lacks O(N) a uniform drift is learned, as an
    external field asks for.

    Args:
        multiplet: `Multiplet(lattice, N)`.
        group: by default translations x the full point group x O(N).
        n_frequencies: number of learnable frequencies.
        n_time_modes: size of the time basis of each kernel.
        max_frequency: initial frequencies are spread evenly on (0, max_frequency].

    Raises:
        ValueError: if the group acts on another space.

    >>> field = MultipletField(Multiplet(Lattice((4, 4)), 3))
    >>> velocity, divergence = field.velocity_and_divergence(torch.randn(2, 3, 4, 4), 0.5)
    >>> velocity.shape, divergence.shape
    (torch.Size([2, 3, 4, 4]), torch.Size([2]))
    """

    group: MultipletGroup

    def __init__(
        self,
        multiplet: Multiplet,
        *,
        group: Group | None = None,
        n_frequencies: int = 8,
        n_time_modes: int = 4,
        max_frequency: float = 8.0,
    ) -> None:
        check_type(multiplet, Multiplet, "multiplet", "Write Multiplet(Lattice((16, 16)), 3).")
        group = group_on(multiplet, group, "field")
        check_type(group, MultipletGroup, "group")
        super().__init__(group)
        self.time_basis = CosineBasis(n_time_modes)
        dim = multiplet.lattice.dim
        self.features = VectorSineFeatures(n_frequencies, dim, max_frequency=max_frequency)
        self.kernel = spanning_kernel(self.group.spatial, n_time_modes, 1 + len(self.features))
        drift = torch.zeros(multiplet.n_components, n_time_modes)
        self.drift = None if self.group.rotations else nn.Parameter(drift)

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        self.space.check(phi)
        lattice, time_values = self.lattice, self.time_basis(t)
        kernel, convolution = self.kernel(time_values), self.kernel.convolution
        features, traces = self.features(phi)
        # One component after the other, as if they were a larger batch of scalar fields.
        linear = convolution.encode(phi.flatten(0, 1).unsqueeze(1))
        velocity = convolution.mix(linear, convolution.encode(features.flatten(0, 1)), kernel.operand)
        velocity = velocity.view_as(phi)
        if self.drift is not None:
            velocity = velocity + (self.drift @ time_values).reshape(-1, *(1,) * lattice.dim)
        at_origin = kernel.at_origin
        divergence = traces.sum(lattice.axes) @ at_origin[1:] + self.space.size * at_origin[0]
        return velocity, divergence

    def resized(self, lattice: Lattice) -> MultipletField:
        """Kernels as functions of offset, everything else as it is, see `VectorField.resized`."""
        return self._rebuilt_on(lattice)
