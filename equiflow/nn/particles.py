"""Features of particles, with derivatives along each particle's own coordinates in closed form.

Start at `Neighbourhood`, which describes the other particles as seen from one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.irreps.e3nn_kernels import harmonic_ladder
from equiflow.runtime.constants import RoundedConstants


@dataclass(frozen=True)
class Jet:
    """Features of each particle i, and their derivatives in the particle's own position `x_i`.

    Attributes:
        value: the features, `(batch, particle, channel, component)`.
        slope: `d value_i / d x_i`, `(batch, particle, channel, component, dim)`.
    """

    value: Tensor
    slope: Tensor

    def invariant(self) -> tuple[Tensor, Tensor]:
        """Return `log(1 + |u|^2)` and its slope.

        Returns:
            `(batch, particle, channel)` and `(batch, particle, channel, dim)`.
        """
        square = self.value.square().sum(-1)
        slope = 2 * (self.value.unsqueeze(-1) * self.slope).sum(-2)
        return square.log1p(), slope / (1 + square).unsqueeze(-1)


class Neighbourhood(nn.Module):
    r"""The features `u_i^{lc} = sum_j R_c(x_ij) Y_l(x_ij) / w_c^l` with `x_ij = x_i - x_j`.

    The radial functions are `R_c = (1 + (r / w_c)^2)^{-3/2}`. Y_l are solid harmonics, homogeneous
    polynomials of degree l: 1, the vector itself, and in three dimensions higher ones. The features are
    smooth where two particles meet. Far away the vectors fall off like the force between two charges.

    Args:
        dim: dimension of space.
        l_max: highest degree. More than 1 needs three dimensions and e3nn.
        n_radial: number of learnable widths w_c.
        widths: smallest and largest initial width. Widths are spread evenly in the logarithm.

    Raises:
        ImportError: if `l_max > 1` and e3nn is not installed.
        ValueError: if `l_max > 1` and `dim` is not 3.
    """

    def __init__(self, dim: int, *, l_max: int, n_radial: int, widths: tuple[float, float]) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        low, high = (math.log(width) for width in widths)
        self.log_width = nn.Parameter(torch.linspace(low, high, n_radial, dtype=dtype))
        self.l_max = l_max
        self._ladder = harmonic_ladder(dim, l_max)
        self._rounded = RoundedConstants()

    def ladder(self, degree: int) -> Tensor:
        """Return C in `Y_lm(x) = sum_{m'a} C_mm'a Y_{l-1,m'}(x) x_a` for degree l, see `harmonic_ladder`."""
        return self._rounded.like(self.log_width, lambda: self._ladder)[degree - 1]

    def forward(self, x: Tensor) -> list[Jet]:
        """Return the features of degree 0, 1, ... `l_max` at positions x, `(batch, particle, dim)`."""
        n, dim = x.shape[-2:]
        apart = x.unsqueeze(2) - x.unsqueeze(1)  # (batch, i, j, dim)
        harmonics = [torch.ones_like(apart[..., :1]), apart]
        for degree in range(2, self.l_max + 1):
            step = torch.einsum("mna,bijn,bija->bijm", self.ladder(degree), harmonics[-1], apart)
            harmonics.append(step)
        inverse = (-self.log_width).exp()
        others = 1 - torch.eye(n, dtype=x.dtype, device=x.device)[:, None]
        damping = 1 / (1 + apart.square().sum(-1).unsqueeze(2) * inverse.square()[:, None])
        radial = others * damping * damping.sqrt()  # (batch, i, channel, j)
        # dR/dx = -3 R / (1 + (r / w)^2) x / w^2, here without x.
        falling = -3 * radial * damping * inverse.square()[:, None]
        stacked = torch.cat(harmonics, -1)
        value = radial @ stacked
        through_radius = falling @ (stacked.unsqueeze(-1) * apart.unsqueeze(-2)).flatten(-2)
        sizes = [harmonic.shape[-1] for harmonic in harmonics]
        values = value.split(sizes, -1)
        slopes = list(through_radius.unflatten(-1, (-1, dim)).split(sizes, -2))
        for degree in range(1, self.l_max + 1):
            # grad_a Y_l = l C_a Y_{l-1}: Euler's identity x . grad Y = l Y fixes the factor.
            turning = torch.einsum("bicn,mna->bicma", values[degree - 1], self.ladder(degree))
            slopes[degree] = slopes[degree] + degree * turning
        scales = [inverse.pow(degree)[:, None] for degree in range(self.l_max + 1)]
        return [
            Jet(value * scale, slope * scale.unsqueeze(-1))
            for value, slope, scale in zip(values, slopes, scales, strict=True)
        ]


class GatedVectors(nn.Module):
    r"""Vectors scaled by a network of invariants, `G = sum_k V_k (W2 tanh(W1 s + b1) + b2)_k`.

    W2 and b2 start at zero, and so does G, but not its gradient in them. tanh is bounded, so G grows no
    faster than the vectors and a flow along it exists at all times.

    Args:
        n_vectors: number of vectors V.
        n_invariants: number of invariants s.
        n_hidden: width of the network.
        n_time_modes: size of the time basis in which all weights are expanded.
    """

    def __init__(self, n_vectors: int, n_invariants: int, n_hidden: int, n_time_modes: int) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        generator = torch.Generator().manual_seed(0)
        inner = torch.zeros(n_time_modes, n_hidden, n_invariants + 1, dtype=dtype)
        inner[0] = torch.randn(inner[0].shape, generator=generator, dtype=dtype)
        self.inner = nn.Parameter(inner)
        self.outer = nn.Parameter(torch.zeros(n_time_modes, n_vectors, n_hidden + 1, dtype=dtype))

    def forward(
        self, vectors: Jet, invariants: tuple[Tensor, Tensor], time_values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return G and its divergence in each particle's own position.

        Args:
            vectors: V, with one channel per vector and `dim` components.
            invariants: s, `(batch, particle, invariant)`, and ds/dx_i, `(batch, particle, invariant, dim)`.
            time_values: values of the time basis, `(time_mode,)`.

        Returns:
            G, `(batch, particle, dim)`, and `sum_a dG_a/dx_a`, `(batch, particle)`.
        """
        # Scaled here, so that a step of the optimiser has the same effect on G for all sizes.
        inner = torch.tensordot(time_values, self.inner, 1) / self.inner.shape[-1] ** 0.5
        outer = torch.tensordot(time_values, self.outer, 1) / self.outer[0].numel() ** 0.5
        value, slope = invariants
        hidden = torch.tanh(value @ inner[:, :-1].mT + inner[:, -1])
        gate = hidden @ outer[:, :-1].mT + outer[:, -1]
        velocity = (gate.unsqueeze(-1) * vectors.value).sum(-2)
        own = (gate * vectors.slope.diagonal(dim1=-2, dim2=-1).sum(-1)).sum(-1)
        # The gates depend on x_i, too: sum_h tanh'_h (sum_k W2_kh V_k) . (sum_s W1_hs grad s).
        along = (outer[:, :-1].mT @ vectors.value) * (inner[:, :-1] @ slope)
        return velocity, own + ((1 - hidden.square()) * along.sum(-1)).sum(-1)
