"""Smooth functions of flow time that kernels are expanded in."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from equiflow.lattice import check_type


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
