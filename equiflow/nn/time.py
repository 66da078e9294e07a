"""Smooth functions of flow time that kernels are expanded in."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_count, check_type


class CosineBasis(nn.Module):
    """`T_j(t) = cos(pi j t)` for `j = 0 ... n_modes - 1`: complete and infinitely smooth on [0, 1].

    Args:
        n_modes: number of basis functions, >= 1. More modes are more expressive and stiffer in t.
    """

    def __init__(self, n_modes: int) -> None:
        super().__init__()
        check_type(n_modes, int, "The number of time modes")
        if n_modes < 1:
            raise ValueError(f"A time basis needs at least one mode, got {n_modes}.")
        self.n_modes = n_modes
        frequency = torch.arange(n_modes, dtype=torch.get_default_dtype())
        self.register_buffer("frequency", frequency, False)

    frequency: Tensor

    def forward(self, t: Tensor | float) -> Tensor:
        """Values at time `t` (float or 0-d tensor), shape `(n_modes,)`."""
        return torch.cos(math.pi * self.frequency * t)


class FourierBasis(nn.Module):
    """`sin(2 pi n t)`, then `cos(2 pi n t)` for `n = 1 ... n_harmonics`, then 1: periodic in t.

    Args:
        n_harmonics: >= 0.
    """

    def __init__(self, n_harmonics: int) -> None:
        super().__init__()
        check_count(n_harmonics, "n_harmonics", minimum=0)
        self.n_modes = 2 * n_harmonics + 1
        frequency = torch.arange(1, n_harmonics + 1, dtype=torch.get_default_dtype())
        self.register_buffer("frequency", frequency, False)

    frequency: Tensor

    def forward(self, t: Tensor | float) -> Tensor:
        """Values at time `t` (float or 0-d tensor), shape `(n_modes,)`."""
        angle = 2 * math.pi * self.frequency * t
        return torch.cat([angle.sin(), angle.cos(), self.frequency.new_ones(1)])


class LearnedBasis(nn.Module):
    """`T_j(t) = sum_i mixing_ji B_i(t)`: combinations of another basis, which are learned.

    Args:
        basis: the other one, with `n_modes` functions.
        n_modes: number of combinations, orthonormal to start with.
    """

    def __init__(self, basis: FourierBasis | CosineBasis, n_modes: int) -> None:
        super().__init__()
        self.basis = basis
        self.n_modes = check_count(n_modes, "The number of time modes")
        self.mixing = nn.Parameter(orthonormal(n_modes, basis.n_modes))

    def forward(self, t: Tensor | float) -> Tensor:
        """Values at time `t` (float or 0-d tensor), shape `(n_modes,)`."""
        return self.mixing @ self.basis(t)


def orthonormal(n_rows: int, n_columns: int) -> Tensor:
    """A matrix whose rows are orthonormal (its columns, if it has more rows): a cosine transform cut off."""
    size = max(n_rows, n_columns)
    position = torch.arange(size, dtype=torch.float64) + 0.5
    waves = torch.cos(math.pi / size * torch.arange(size, dtype=torch.float64)[:, None] * position)
    waves /= waves.norm(dim=1, keepdim=True)
    return waves[:n_rows, :n_columns].to(torch.get_default_dtype())
