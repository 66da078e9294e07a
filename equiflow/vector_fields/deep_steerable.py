"""Vector fields that are deep networks of steerable channels, in two dimensions.

Start at `DeepSteerableField`; `SteerableField` is the shallow one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from equiflow.nn.irreps.escnn_kernels import channel_field, representation_names
from equiflow.nn.irreps.steerable_convolution import SteerableConvolution
from equiflow.nn.kernels.orbits import convolved, spanning_kernel
from equiflow.nn.pointwise.representations import FieldwisePointwise
from equiflow.nn.time import CosineBasis
from equiflow.runtime.checks import check_count, check_seed
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.vector_fields.estimated import EstimatedField, Parts
from equiflow.vector_fields.steerable import check_reached, group_in_the_plane, same_group_on, size_on

DEFAULT_KERNEL_SIZE = 3


class DeepSteerableField(EstimatedField):
    r"""A residual network of steerable channels: `u_0 = K * phi`, `u_{l+1} = u_l + W_l * G_l(u_l)`.

    Then `v = K_0 * phi + K' * G_n(u_n)`. The channels transform by any representation of the point group.
    K, W and K' are escnn's steerable kernels (arXiv:1911.08251), symmetric to rounding in every precision.
    G commutes with the group, see `FieldwisePointwise`. With Z2, G is odd and nothing has a bias. `K_0` spans
    the lattice. All kernels depend on flow time. At the start K and W are random, K' and `K_0` zero, so that
    the field stands still.

    The divergence has no closed form; `trace` says how it is computed, see `EstimatedField`. The field
    without the layers W has a closed form, see `SteerableField`.

    The field lives in two dimensions and needs escnn: `pip install '.[steerable]'`.

    Args:
        lattice: where the field lives, of two dimensions.
        group: symmetry to build in; by default translations x the full point group x Z2.
        representation: how the channels transform, "trivial", "regular", "vector", an irrep such as
            "irrep_1,2", a list of them, or an `escnn.nn.FieldType`.
        multiplicity: number of copies of the representations.
        n_layers: number of convolutions W between channels.
        kernel_size: offsets per axis of the kernels K, W and K', any parity; 3, or as many as fit, if None.
        n_time_modes: number of cosine modes in flow time of each kernel.
        max_frequency: largest initial frequency of the nonlinearities, in units of 1/phi.
        seed: seed of the random kernels K and W at the start.
        trace: how the divergence is computed, "dense" (exact), "hutchinson" or "hutch++" (estimates, to
            train with).
        n_probes: number of probes of an estimated divergence, for each configuration.

    Raises:
        ValueError: if the lattice is not two-dimensional, the group acts on another one, the kernel does
            not fit, or a representation is unknown or has no kernel of that size.
        ImportError: if escnn is not installed.
    """

    group: SymmetryGroup

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        representation: object = "regular",
        multiplicity: int = 2,
        n_layers: int = 2,
        kernel_size: int | tuple[int, int] | None = None,
        n_time_modes: int = 4,
        max_frequency: float = 4.0,
        seed: int = 0,
        trace: str = "dense",
        n_probes: int = 1,
    ) -> None:
        group = group_in_the_plane(lattice, group)
        super().__init__(group, trace=trace, n_probes=n_probes)
        check_count(multiplicity, "multiplicity")
        check_count(n_layers, "n_layers")
        check_seed(seed)
        size = size_on(lattice, group, kernel_size, DEFAULT_KERNEL_SIZE)
        names = representation_names(group, representation)
        self._record(representation=list(names), kernel_size=size)
        self.time_basis = CosineBasis(n_time_modes)
        self.linear = spanning_kernel(group, n_time_modes, 1, convolution="fourier")
        scalar, m = ("trivial",), multiplicity
        self.lift = SteerableConvolution(group, scalar, names, size, n_time_modes, copies=(1, m), seed=seed)
        check_reached(names, self.lift.reached, size, lattice)
        self.layers = nn.ModuleList(
            SteerableConvolution(
                group, names, names, size, n_time_modes, copies=(m, m), seed=(seed + n) % 2**64
            )
            for n in range(1, n_layers + 1)
        )
        self.descend = SteerableConvolution(group, names, scalar, size, n_time_modes, copies=(m, 1))
        fields = [channel_field(group, name) for name in names]
        sizes, permutes = [field.size for field in fields], [field.permutes for field in fields]
        options: dict[str, Any] = {"copies": m, "max_frequency": max_frequency, "odd": group.z2}
        self.pointwise = nn.ModuleList(
            FieldwisePointwise(sizes, permutes, lattice.dim, **options) for _ in range(n_layers + 1)
        )

    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""
        return self.velocity_in_parts(phi, t).velocity

    @full_precision
    def velocity_in_parts(self, phi: Tensor, t: Tensor | float) -> Parts:
        """See `EstimatedField.velocity_in_parts`; the trace of `K_0` is `V K_0(0)`."""
        self.lattice.check(phi)
        time_values = self.time_basis(t)
        u = self.lift(phi.unsqueeze(1), time_values)
        no_overlap = u.new_zeros(u.shape[1], u.shape[1])
        *between, last = self.pointwise
        for G, W in zip(between, self.layers, strict=True):
            u = u + W(G(u, no_overlap)[0], time_values)
        coupled = self.descend(last(u, no_overlap)[0], time_values).squeeze(1)
        return Parts(coupled, *convolved(self.linear, phi, time_values))

    @property
    def reach(self) -> tuple[int, ...]:
        """See `EstimatedField.reach`; the sum over all convolutions."""
        convolutions = [self.lift, *self.layers, self.descend]
        return tuple(map(sum, zip(*(K.reach for K in convolutions), strict=True)))

    def resized(self, lattice: Lattice) -> DeepSteerableField:
        """See `VectorField.resized`; K, W and K' stay the same, `K_0` carries over as a function of offset.

        Raises:
            ValueError: also if the kernels do not fit or the lattices have different point groups.
        """
        same_group_on(lattice, self.group)
        return self._rebuilt_on(lattice)
