"""Vector fields whose sites attend to each other: message passing with relative positions.

Start at `AttentionField`, one layer of attention; `DeepAttentionField` has several.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from equiflow.nn.attention import LatticeAttention
from equiflow.nn.kernels.orbits import convolved, spanning_kernel
from equiflow.nn.time import CosineBasis
from equiflow.runtime.checks import check_count, check_seed
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup, symmetry_on
from equiflow.vector_fields.base import VectorField
from equiflow.vector_fields.estimated import EstimatedField, Parts


class AttentionField(VectorField):
    r"""`v_x = (K_0 * phi)_x + sum_h sum_y A_xy w(phi_y)`, one layer of attention, with exact divergence.

    `A_xy = exp(s_xy) / (1 + sum_z exp(s_xz))` and `s_xy = q(phi_x) . k(phi_y) + b(x - y)` for each head,
    see `LatticeAttention` (arXiv:1706.03762). Unlike a kernel, A depends on the configuration. The
    divergence needs only the diagonal of the Jacobian, which has a closed form,

        `div v = V K_0(0) + sum_h sum_x [A_xx w'_x + q'_x . cov_x(k, w) + A_xx q_x . k'_x (w_x - <w>_x)]`

    with `<w>_x = sum_y A_xy w_y` and `cov_x(k, w) = <k w>_x - <k>_x <w>_x`. It costs `O(V^2)`, like the
    velocity. The field lives in any dimension. Untrained it stands still, because its values w are zero.

    Args:
        lattice: where the field lives.
        group: symmetry to build in; by default translations x the full point group x Z2.
        n_time_modes: number of cosine modes in flow time of each weight.
        kernel_size: offsets per axis at which sites attend to each other, any parity; the whole lattice if
            None.
        n_heads: number of attentions that are added up.
        n_score: number of components of queries and keys.
        n_frequencies: number of sine and of cosine features that make up queries, keys and values.
        max_frequency: largest initial frequency of the features, in units of 1/phi.
        seed: seed of the random queries and keys at the start.

    Raises:
        ValueError: if the group acts on another lattice or the kernel does not fit.

    >>> field = AttentionField(Lattice((4, 4)))
    >>> velocity, divergence = field.velocity_and_divergence(torch.randn(3, 4, 4), 0.5)
    >>> velocity.shape, divergence.shape
    (torch.Size([3, 4, 4]), torch.Size([3]))
    """

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        n_time_modes: int = 4,
        kernel_size: int | tuple[int, ...] | None = None,
        n_heads: int = 4,
        n_score: int = 4,
        n_frequencies: int = 6,
        max_frequency: float = 4.0,
        seed: int = 0,
    ) -> None:
        group = symmetry_on(lattice, group, "field")
        super().__init__(group)
        self.time_basis = CosineBasis(n_time_modes)
        self.linear = spanning_kernel(group, n_time_modes, 1, convolution="fourier")
        self.attention = LatticeAttention(
            group,
            1,
            1,
            n_time_modes,
            kernel_size=kernel_size,
            n_heads=n_heads,
            n_score=n_score,
            n_frequencies=n_frequencies,
            max_frequency=max_frequency,
            seed=seed,
        )

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        self.lattice.check(phi)
        time_values = self.time_basis(t)
        attended, trace = self.attention.in_parts(lambda part: self._attended(part, time_values), phi)
        linear, linear_trace = convolved(self.linear, phi, time_values)
        return attended + linear, trace + linear_trace

    def _attended(self, phi: Tensor, time_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of the attention, and the trace of its Jacobian."""
        attention = self.attention
        features = attention.features(phi.flatten(1).unsqueeze(1))
        here = attention.project(features.value, time_values)
        slope = attention.project(features.first, time_values)
        A = attention.weights(here, time_values)
        n = here.key.shape[-1]
        averaged = A @ torch.cat([here.value, here.key, here.key * here.value], -1)
        mean_value, mean_key, mean_product = averaged.split([1, n, n], -1)
        own = A.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        answer = (here.query * slope.key).sum(-1, keepdim=True)
        trace = own * slope.value + own * answer * (here.value - mean_value)
        trace = trace + (slope.query * (mean_product - mean_key * mean_value)).sum(-1, keepdim=True)
        return mean_value.sum(1).view_as(phi), trace.flatten(1).sum(1)

    def resized(self, lattice: Lattice) -> AttentionField:
        """See `VectorField.resized`; biases and `K_0` carry over as functions of offset."""
        return self._rebuilt_on(lattice)


class DeepAttentionField(EstimatedField):
    r"""Layers of attention between channels: `u_{l+1} = u_l + attention_l(u_l)`.

    The first layer is `u_1 = attention_0(phi)`, and `v = K_0 * phi + attention_n(u_n)`. The channels are
    scalars of the point group and odd under Z2, see `LatticeAttention` (arXiv:1706.03762). Sites also affect
    each other by way of third ones. The divergence therefore takes whole Jacobians, in closed form:
    `trace="dense"` costs `O(n_channels V^2)` with two layers, and `O(n_channels^2 V^3)` for each further
    layer. In training an estimate is cheaper, see `EstimatedField`. An untrained field stands still, because
    the values of its last layer are zero.

    Args:
        lattice: where the field lives.
        group: symmetry to build in; by default translations x the full point group x Z2.
        n_channels: number of channels between the layers.
        n_layers: number of attentions in all, at least 2.
        n_time_modes: number of cosine modes in flow time of each weight.
        seed: seed of the random weights at the start.
        kernel_size: offsets per axis at which sites attend to each other in a layer, any parity; the whole
            lattice if None.
        n_heads: number of attentions that are added up in each layer.
        n_score: number of components of queries and keys.
        n_frequencies: number of sine and of cosine features of each channel.
        max_frequency: largest initial frequency of the features, in units of 1/phi.
        trace: how the divergence is computed, "dense" (exact), "hutchinson" or "hutch++" (estimates, to
            train with).
        n_probes: number of probes of an estimated divergence, for each configuration.

    Raises:
        ValueError: if the group acts on another lattice, the kernel does not fit, or there are too few
            layers.

    >>> field = DeepAttentionField(Lattice((4, 4)), trace="hutchinson")
    >>> field.trace_is_exact, field.with_trace("dense").trace_is_exact
    (False, True)
    """

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        n_channels: int = 4,
        n_layers: int = 2,
        n_time_modes: int = 4,
        seed: int = 0,
        kernel_size: int | tuple[int, ...] | None = None,
        n_heads: int = 4,
        n_score: int = 4,
        n_frequencies: int = 3,
        max_frequency: float = 4.0,
        trace: str = "dense",
        n_probes: int = 1,
    ) -> None:
        group = symmetry_on(lattice, group, "field")
        super().__init__(group, trace=trace, n_probes=n_probes)
        check_count(n_channels, "n_channels")
        check_count(n_layers, "n_layers", minimum=2)
        self.time_basis = CosineBasis(n_time_modes)
        self.linear = spanning_kernel(group, n_time_modes, 1, convolution="fourier")
        widths = [1, *[n_channels] * (n_layers - 1), 1]
        self.layers = nn.ModuleList(
            LatticeAttention(
                group,
                n_in,
                n_out,
                n_time_modes,
                kernel_size=kernel_size,
                n_heads=n_heads,
                n_score=n_score,
                n_frequencies=n_frequencies,
                max_frequency=max_frequency,
                seed=(check_seed(seed) + n) % 2**64,
                silent=n_out == 1,
            )
            for n, (n_in, n_out) in enumerate(pairwise(widths))
        )

    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""
        return self.velocity_in_parts(phi, t).velocity

    @full_precision
    def velocity_in_parts(self, phi: Tensor, t: Tensor | float) -> Parts:
        """See `EstimatedField.velocity_in_parts`; the trace of `K_0` is `V K_0(0)`."""
        self.lattice.check(phi)
        time_values = self.time_basis(t)
        first, *between, last = self.layers
        u = first(phi.flatten(1).unsqueeze(1), time_values)
        for layer in between:
            u = u + layer(u, time_values)
        return Parts(last(u, time_values).view_as(phi), *convolved(self.linear, phi, time_values))

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`; the dense trace multiplies the layers' Jacobians."""
        if not self.trace_is_exact:
            return super().velocity_and_divergence(phi, t)
        self.lattice.check(phi)
        time_values = self.time_basis(t)
        first = cast(LatticeAttention, self.layers[0])
        attended, trace = first.in_parts(lambda part: self._attended(part, time_values), phi)
        linear, linear_trace = convolved(self.linear, phi, time_values)
        return attended + linear, trace + linear_trace

    def _attended(self, phi: Tensor, time_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of the layers, and the trace of its Jacobian."""
        first, *between, last = cast(list[LatticeAttention], self.layers)
        u, jacobian = first.with_jacobian(phi.flatten(1).unsqueeze(1), time_values)
        for layer in between:
            change, rates = layer.with_jacobian(u, time_values)
            u, jacobian = u + change, jacobian + rates @ jacobian
        out, rates = last.with_jacobian(u, time_values)
        return out.view_as(phi), (rates.mT * jacobian).sum((1, 2))

    def resized(self, lattice: Lattice) -> DeepAttentionField:
        """See `VectorField.resized`; biases and `K_0` carry over as functions of offset."""
        return self._rebuilt_on(lattice)
