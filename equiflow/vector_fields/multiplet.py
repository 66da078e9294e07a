"""Vector fields of multiplets: O(N)-equivariant features mixed by kernels tied on orbits."""

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

    This is the O(N) form of `OrbitConvField`, and equal to it for N = 1. The features rotate with the
    components at their site, with `r = |phi(x)|`, and kernels act on all components alike. The divergence is
    exact (a generalisation of arXiv:2207.00283):

        `div v = N V K_0(0) + sum_f K_f(0) sum_x [cos(omega_f r) + (N - 1) sin(omega_f r) / (omega_f r)]`

    If the group lacks O(N), the field also learns a uniform drift, which an external field requires.

    Args:
        multiplet: `Multiplet(lattice, N)`.
        group: by default translations x the full point group x O(N).
        n_frequencies: number of sine features.
        n_time_modes: number of cosine modes in flow time of each kernel.
        max_frequency: largest initial frequency of the features, in units of 1/phi.

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
        group = group_on(multiplet, group, "field", MultipletGroup)
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
        # The components are treated as a larger batch of scalar fields.
        linear = convolution.encode(phi.flatten(0, 1).unsqueeze(1))
        velocity = convolution.mix(linear, convolution.encode(features.flatten(0, 1)), kernel.operand)
        velocity = velocity.view_as(phi)
        if self.drift is not None:
            velocity = velocity + (self.drift @ time_values).reshape(-1, *(1,) * lattice.dim)
        at_origin = kernel.at_origin
        divergence = traces.sum(lattice.axes) @ at_origin[1:] + self.space.size * at_origin[0]
        return velocity, divergence

    def resized(self, lattice: Lattice) -> MultipletField:
        """See `VectorField.resized`; kernels carry over as functions of offset."""
        return self._rebuilt_on(lattice)
