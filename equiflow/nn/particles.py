"""What a particle sees of the others, with derivatives along its own coordinates in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.o3 import harmonic_ladder


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
    r"""`u_i^{lc} = sum_j R_c(q) Y_l(y)` with `y = (x_i - x_j) / w_c`, `q = y^2` and `R_c = (1 + q)^{-p}`.

    Y_l are solid harmonics, homogeneous polynomials of degree l: 1, the vector y, and in three dimensions
    those of higher degree. Everything is smooth where two particles meet. At large distances the vectors
    fall off as the force of a charge does (p = 3/2).

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
        for degree, step in enumerate(harmonic_ladder(dim, l_max), 1):
            self.register_buffer(f"ladder_{degree}", step.to(dtype), False)

    def ladder(self, degree: int) -> Tensor:
        """`C` in `Y_lm(x) = sum_{m'a} C_mm'a Y_{l-1,m'}(x) x_a`, see `harmonic_ladder`."""
        return self.get_buffer(f"ladder_{degree}")

    def forward(self, x: Tensor) -> list[Jet]:
        """The features of degree 0, 1, ... `l_max` at positions `(batch, particle, dim)`."""
        n = x.shape[-2]
        inverse = (-self.log_width).exp()
        y = (x.unsqueeze(2) - x.unsqueeze(1)).unsqueeze(3) * inverse[:, None]  # (batch, i, j, channel, dim)
        others = 1 - torch.eye(n, dtype=x.dtype, device=x.device)[:, :, None]
        damping = 1 / (1 + y.square().sum(-1))
        radial = others * damping * damping.sqrt()
        # d/dx_a R(q) = 2 R'(q) y_a / w = -3 R / (1 + q) y_a / w
        falling = (-3 * radial * damping).unsqueeze(-1) * y
        scale = inverse[:, None, None]
        harmonic = y.new_ones(*y.shape[:-1], 1)
        jets = [Jet(radial.sum(2).unsqueeze(-1), falling.sum(2).unsqueeze(-2) * scale)]
        for degree in range(1, self.l_max + 1):
            step = self.ladder(degree)
            # Euler's identity x . grad Y = l Y fixes the factor in grad_a Y_l = l C_a Y_{l-1}.
            weighted = radial.unsqueeze(-1) * harmonic
            slope = degree * torch.einsum("bicn,mna->bicma", weighted.sum(2), step)
            harmonic = y if degree == 1 else torch.einsum("mna,bijcn,bijca->bijcm", step, harmonic, y)
            value = (radial.unsqueeze(-1) * harmonic).sum(2)
            slope = slope + torch.einsum("bijcm,bijca->bicma", harmonic, falling)
            jets.append(Jet(value, slope * scale))
        return jets


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
        noise = torch.randn(n_hidden, n_invariants + 1, generator=torch.Generator().manual_seed(0), dtype=dtype)
        inner = torch.zeros(n_time_modes, n_hidden, n_invariants + 1, dtype=dtype)
        inner[0] = noise / (n_invariants + 1) ** 0.5
        self.inner = nn.Parameter(inner)
        self.outer = nn.Parameter(torch.zeros(n_time_modes, n_vectors, n_hidden + 1, dtype=dtype))

    def forward(
        self, vectors: Jet, invariants: tuple[Tensor, Tensor], time_values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """G, `(batch, particle, dim)`, and `sum_a dG_a/dx_a` of each particle, `(batch, particle)`."""
        inner = torch.tensordot(time_values, self.inner, 1)
        outer = torch.tensordot(time_values, self.outer, 1)
        value, slope = invariants
        hidden = torch.tanh(value @ inner[:, :-1].mT + inner[:, -1])
        gate = hidden @ outer[:, :-1].mT + outer[:, -1]
        velocity = (gate.unsqueeze(-1) * vectors.value).sum(-2)
        own = (gate * vectors.slope.diagonal(dim1=-2, dim2=-1).sum(-1)).sum(-1)
        # Through the gates: sum_h tanh'_h (sum_k W2_kh V_k) . (sum_s W1_hs grad s)
        along = (outer[:, :-1].mT @ vectors.value) * (inner[:, :-1] @ slope)
        return velocity, own + ((1 - hidden.square()) * along.sum(-1)).sum(-1)
