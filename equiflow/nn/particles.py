"""What a particle sees of the others, with derivatives along its own coordinates in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.constants import RoundedConstants
from equiflow.nn.irreps.e3nn_kernels import harmonic_ladder


@dataclass(frozen=True)
class Jet:
    """Features of each particle i, and their derivatives in x_i while they go on being those of i.

    Attributes:
        value: `(batch, particle, channel, component)`.
        slope: `d value / d x_i`, `(batch, particle, channel, component, dim)`.
    """

    value: Tensor
    slope: Tensor

    def square(self) -> tuple[Tensor, Tensor]:
        """`log(1 + |u|^2)`, `(batch, particle, channel)`, and its slope with `dim` behind."""
        square = self.value.square().sum(-1)
        slope = 2 * (self.value.unsqueeze(-1) * self.slope).sum(-2)
        return square.log1p(), slope / (1 + square).unsqueeze(-1)


class Neighbourhood(nn.Module):
    r"""`u_i^{lc} = sum_j R_c(x_ij) Y_l(x_ij) / w_c^l`, `x_ij = x_i - x_j`, `R_c = (1 + (r / w_c)^2)^{-3/2}`.

    Y_l are solid harmonics, homogeneous polynomials of degree l: 1, the vector itself, and in three
    dimensions those of higher degree. Everything is smooth where two particles meet; far away the vectors
    fall off as the force between two charges.

    Args:
        dim: of space.
        l_max: highest degree; more than 1 in three dimensions only, by e3nn.
        n_radial: number of widths w_c, learnable.
        widths: smallest and largest width at the start, spread evenly in the logarithm.
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
        """`C` in `Y_lm(x) = sum_{m'a} C_mm'a Y_{l-1,m'}(x) x_a`, see `harmonic_ladder`."""
        return self._rounded.like(self.log_width, lambda: self._ladder)[degree - 1]

    def forward(self, x: Tensor) -> list[Jet]:
        """The features of degree 0, 1, ... `l_max` at positions `(batch, particle, dim)`."""
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
        # d/dx R = -3 R / (1 + (r / w)^2) x / w^2, summed with each harmonic
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
    r"""`G = sum_k V_k (W2 tanh(W1 s + b1) + b2)_k`: vectors scaled by a network of invariants, and its trace.

    It starts at zero (W2 and b2 do), with a gradient. tanh is bounded, so that G grows no faster than the
    vectors do and a flow along it exists at all times.

    Args:
        n_vectors: number of vectors V.
        n_invariants: number of invariants s.
        n_hidden: width of the network.
        n_time_modes: size of the time basis that all weights are expanded in.
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
        """G, `(batch, particle, dim)`, and `sum_a dG_a/dx_a` of each particle, `(batch, particle)`."""
        # Scaled here, so that a step of the optimiser moves G as far whatever the sizes are.
        inner = torch.tensordot(time_values, self.inner, 1) / self.inner.shape[-1] ** 0.5
        outer = torch.tensordot(time_values, self.outer, 1) / self.outer[0].numel() ** 0.5
        value, slope = invariants
        hidden = torch.tanh(value @ inner[:, :-1].mT + inner[:, -1])
        gate = hidden @ outer[:, :-1].mT + outer[:, -1]
        velocity = (gate.unsqueeze(-1) * vectors.value).sum(-2)
        own = (gate * vectors.slope.diagonal(dim1=-2, dim2=-1).sum(-1)).sum(-1)
        # Through the gates: sum_h tanh'_h (sum_k W2_kh V_k) . (sum_s W1_hs grad s)
        along = (outer[:, :-1].mT @ vectors.value) * (inner[:, :-1] @ slope)
        return velocity, own + ((1 - hidden.square()) * along.sum(-1)).sum(-1)
