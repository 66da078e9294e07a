"""Attention between the sites of a lattice, equivariant by construction. Start at `LatticeAttention`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from equiflow.nn.pointwise.features import SineFeatures
from equiflow.runtime.checks import check_count, check_seed
from equiflow.runtime.randomness import seeded
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.resizing import signed_offsets
from equiflow.theories.base.symmetry import SymmetryGroup

#: Most entries of the weights A that are held at a time on a CPU: 8 MiB in float32.
MAX_ATTENTION_WEIGHTS = 2**21


class Projections(NamedTuple):
    """Query, key and value of every site, or their derivatives, `(batch, head, V, component)` each."""

    query: Tensor
    key: Tensor
    value: Tensor


class LatticeAttention(nn.Module):
    r"""Attention `sum_h sum_y A_xy w(u_y)` with `A_xy = exp(s_xy) / (1 + sum_z exp(s_xz))`.

    The score is `s_xy = q(u_x) . k(u_y) + b(x - y)`, and every head h has its own s and w
    (arXiv:1706.03762). The query q, key k and value w of a site are linear in sines and cosines of its
    channels. The bias b is one number per orbit of offsets, so translations and the point group are
    symmetries. With Z2, queries and keys are made of even features and values of odd ones. The 1 in the
    denominator is a key of score zero without a value, which lets a site ignore all others.

    Every weight depends on flow time. At the start each head reaches twice as far as the one before it.

    Args:
        group: ties the biases; its Z2 chooses the features.
        n_in: number of input channels, which are scalars of the group.
        n_out: number of output channels.
        n_time_modes: size of the time basis.
        n_heads: number of attentions that are added up.
        n_score: number of components of queries and keys.
        n_frequencies: number of features of each channel, for sines and cosines each.
        max_frequency: largest initial frequency.
        kernel_size: offsets per axis that a site attends to; None for the whole lattice.
        seed: seed of the random initial weights.
        silent: whether all values are zero at the start.
    """

    def __init__(
        self,
        group: SymmetryGroup,
        n_in: int,
        n_out: int,
        n_time_modes: int,
        *,
        n_heads: int = 4,
        n_score: int = 4,
        n_frequencies: int = 4,
        max_frequency: float = 4.0,
        kernel_size: int | tuple[int, ...] | None = None,
        seed: int = 0,
        silent: bool = True,
    ) -> None:
        super().__init__()
        check_count(n_heads, "n_heads")
        check_count(n_score, "n_score")
        check_seed(seed)
        self.z2, self.lattice = group.z2, group.lattice
        self.features = SineFeatures(n_frequencies, 1, max_frequency=max_frequency, odd=False)
        n_features = n_in * n_frequencies * (1 if group.z2 else 2)
        orbits = self.orbits = group.offset_orbits(kernel_size)
        self.query = nn.Parameter(torch.zeros(n_time_modes, n_heads, n_score, n_features))
        self.key = nn.Parameter(torch.zeros(n_time_modes, n_heads, n_score, n_features))
        self.value = nn.Parameter(torch.zeros(n_time_modes, n_heads, n_out, n_features))
        self.bias = nn.Parameter(torch.zeros(n_time_modes, n_heads, len(orbits)))
        self._start(orbits.mean(_squared_distance(group.lattice)), seed, silent)
        orbit = orbits.index.flatten()[group.lattice.differences().mT]  # of x - y, at [x, y]
        self.register_buffer("_orbit", orbit.clamp(min=0), False)
        self.register_buffer("_outside", orbit < 0, False)

    _orbit: Tensor
    _outside: Tensor

    @torch.no_grad()
    def _start(self, distance2: Tensor, seed: int, silent: bool) -> None:
        """Set the initial weights."""
        generator = seeded(seed)
        for weight in [self.query, self.key] + ([] if silent else [self.value]):
            noise = torch.randn(weight.shape[1:], generator=generator, dtype=torch.float64)
            weight[0] = noise / weight.shape[-1] ** 0.5
        radius2 = 0.25 * 4.0 ** torch.arange(self.bias.shape[1], dtype=torch.float64)
        self.bias[0] = (1 - distance2 / (2 * radius2[:, None])).clamp(min=-8)

    @property
    def rows(self) -> int:
        """The number of configurations to take at a time.

        On a CPU a larger A takes twice the time, because memory blocks above 32 MiB are requested from the
        system, page by page, at every evaluation.
        """
        if self.bias.device.type != "cpu":
            return sys.maxsize
        return max(1, MAX_ATTENTION_WEIGHTS // (self.bias.shape[1] * self.lattice.volume**2))

    def in_parts(self, function: Callable[[Tensor], tuple[Tensor, ...]], u: Tensor) -> tuple[Tensor, ...]:
        """Evaluate a function for `rows` configurations at a time.

        Args:
            function: takes `(batch, ...)` and returns tensors whose first axis is the batch.
            u: `(batch, ...)`.

        Returns:
            `function(u)`.
        """
        parts = [function(part) for part in u.split(self.rows)]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def forward(self, u: Tensor, time_values: Tensor) -> Tensor:
        """Return the output channels.

        Args:
            u: input channels, `(batch, n_in, V)`.
            time_values: values of the time basis, `(time_mode,)`.

        Returns:
            `(batch, n_out, V)`.
        """
        return self.in_parts(lambda part: (self._hear(part, time_values),), u)[0]

    def _hear(self, u: Tensor, time_values: Tensor) -> Tensor:
        """Return the output channels for few configurations."""
        here = self.project(self.features(u).value, time_values)
        return (self.weights(here, time_values) @ here.value).sum(1).mT

    def with_jacobian(self, u: Tensor, time_values: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return the output channels and their Jacobian J in closed form.

        `J_xz = sum_h A_xz (w'_z + q_x . k'_z (w_z - <w>_x)) + delta_xz q'_x . (<k w>_x - <k>_x <w>_x)` with
        `<f>_x = sum_y A_xy f_y`.

        Args:
            u: input channels, `(batch, n_in, V)`.
            time_values: values of the time basis, `(time_mode,)`.

        Returns:
            `(batch, n_out, V)` and `(batch, n_out V, n_in V)`.
        """
        features = self.features(u)
        here = self.project(features.value, time_values)
        # The derivatives by each channel in turn, stacked to (batch, head, V, component, n_in).
        by_channel = [
            self.project(features.first * only.view(-1, 1, 1), time_values)
            for only in torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
        ]
        slope = Projections(*(torch.stack(parts, -1) for parts in zip(*by_channel, strict=True)))
        A = self.weights(here, time_values)
        heard = A @ here.value
        pairs = here.key.unsqueeze(-1) * here.value.unsqueeze(-2)
        products = (A @ here.key).unsqueeze(-1) * heard.unsqueeze(-2)
        covariance = (A @ pairs.flatten(-2)).view_as(pairs) - products
        own = torch.einsum("bhxci,bhxco->boix", slope.query, covariance)
        answer = torch.einsum("bhxc,bhzci->bhxiz", here.query, slope.key)
        J = u.new_zeros(())
        for head in range(A.shape[1]):  # each has (batch, n_out, V, n_in, V) numbers, too many for all heads
            w = here.value[:, head].mT[:, :, None, None, :] - heard[:, head].mT[:, :, :, None, None]
            change = slope.value[:, head].permute(0, 2, 3, 1).unsqueeze(2) + answer[:, None, head] * w
            J = J + A[:, None, head, :, None, :] * change
        J.diagonal(dim1=2, dim2=4).add_(own)
        return heard.sum(1).mT, J.flatten(3, 4).flatten(1, 2)

    def project(self, features: Tensor, time_values: Tensor) -> Projections:
        """Return query, key and value.

        Args:
            features: features of the channels, `(batch, n_in, feature, V)`.
            time_values: values of the time basis, `(time_mode,)`.

        Returns:
            `(batch, head, V, component)` each.
        """
        odd, even = (part.flatten(1, 2) for part in features.chunk(2, 2))
        if not self.z2:
            odd = even = torch.cat([odd, even], 1)
        pairs = ((self.query, even), (self.key, even), (self.value, odd))
        # Two factors at a time: for three, einsum searches for an order on every call, which takes longer.
        at_t = ((torch.tensordot(time_values, weight, 1), h) for weight, h in pairs)
        return Projections(*(torch.einsum("hcf,bfx->bhxc", weight, h) for weight, h in at_t))

    def weights(self, here: Projections, time_values: Tensor) -> Tensor:
        """Return the weights `A_xy`.

        Args:
            here: query, key and value of every site.
            time_values: values of the time basis, `(time_mode,)`.

        Returns:
            `(batch, head, V, V)`.
        """
        bias = torch.tensordot(time_values, self.bias, 1)[:, self._orbit]
        score = here.query @ here.key.mT + bias.masked_fill(self._outside, -torch.inf)
        silence = score.new_zeros(()).expand(*score.shape[:-1], 1)
        return torch.cat([score, silence], -1).softmax(-1)[..., :-1]

    @torch.no_grad()
    def resize_from(self, other: LatticeAttention) -> None:
        """Copy the weights of the same attention on another lattice.

        Biases are copied by offset. An offset that the other lattice lacks takes the bias of the nearest one.
        """
        own = {name: value for name, value in other.state_dict().items() if name != "bias"}
        self.load_state_dict(own, strict=False)
        values = other.bias[..., other.orbits.index.clamp(min=0)]
        for axis, old, new in zip(self.lattice.axes, other.lattice.shape, self.lattice.shape, strict=True):
            nearest = signed_offsets(new, values.device).clamp(-((old - 1) // 2), old // 2)
            values = values.index_select(axis, nearest % old)
        self.bias.copy_(self.orbits.mean(values))


def _squared_distance(lattice: Lattice) -> Tensor:
    """Return `|x|^2` of the nearest image of each offset, `(*lattice)` in float64."""
    per_axis = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64).square() for n in lattice.shape]
    return torch.stack(torch.meshgrid(*per_axis, indexing="ij")).sum(0)
