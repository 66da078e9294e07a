"""Smooth functions of flow time in which kernels are expanded. Start at `CosineBasis`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_count, check_type


class CosineBasis(nn.Module):
    """The basis `T_j(t) = cos(pi j t)` for `j = 0 ... n_modes - 1`, complete and smooth on [0, 1].

    Args:
        n_modes: number of basis functions, >= 1. More modes are more expressive and stiffer in t.

    Raises:
        TypeError: if `n_modes` is not an int.
        ValueError: if it is less than one.
    """

    def __init__(self, n_modes: int) -> None:
        super().__init__()
        check_type(n_modes, int, "n_time_modes")
        if n_modes < 1:
            raise ValueError(f"A time basis needs at least one mode, got {n_modes}.")
        self.n_modes = n_modes
        frequency = torch.arange(n_modes, dtype=torch.get_default_dtype())
        self.register_buffer("frequency", frequency, False)

    frequency: Tensor

    def forward(self, t: Tensor | float) -> Tensor:
        """Return the values at time `t` (float or 0-d tensor), `(n_modes,)`."""
        return torch.cos(math.pi * self.frequency * t)


class ChebyshevBasis(nn.Module):
    """The Chebyshev polynomials `T_j(2t - 1)` for `j = 0 ... n_modes - 1`.

    Unlike cosines they have any slope at both ends, so that a smooth function of time needs few of them.

    Args:
        n_modes: number of polynomials, >= 1.

    Raises:
        TypeError: if `n_modes` is not an int.
        ValueError: if it is less than one.
    """

    def __init__(self, n_modes: int) -> None:
        super().__init__()
        self.n_modes = check_count(n_modes, "n_time_modes")
        self.register_buffer("one", torch.ones(1, dtype=torch.get_default_dtype()), False)

    one: Tensor

    def forward(self, t: Tensor | float) -> Tensor:
        """Return the values at time `t` (float or 0-d tensor), `(n_modes,)`."""
        x = self.one * (2 * t - 1)
        values = [self.one, x]
        for _ in range(self.n_modes - 2):
            values.append(2 * x * values[-1] - values[-2])
        return torch.cat(values[: self.n_modes])


class FourierBasis(nn.Module):
    """The periodic basis `sin(2 pi n t)`, `cos(2 pi n t)` for `n = 1 ... n_harmonics`, and 1, in this order.

    Args:
        n_harmonics: highest multiple n of the base frequency, >= 0.
    """

    def __init__(self, n_harmonics: int) -> None:
        super().__init__()
        check_count(n_harmonics, "n_harmonics", minimum=0)
        self.n_modes = 2 * n_harmonics + 1
        frequency = torch.arange(1, n_harmonics + 1, dtype=torch.get_default_dtype())
        self.register_buffer("frequency", frequency, False)

    frequency: Tensor

    def forward(self, t: Tensor | float) -> Tensor:
        """Return the values at time `t` (float or 0-d tensor), `(n_modes,)`."""
        angle = 2 * math.pi * self.frequency * t
        return torch.cat([angle.sin(), angle.cos(), self.frequency.new_ones(1)])


class LearnedBasis(nn.Module):
    """Learned combinations `T_j(t) = sum_i mixing_ji B_i(t)` of another basis.

    Args:
        basis: the functions B.
        n_modes: number of combinations. The rows of `mixing` start orthonormal.
    """

    def __init__(self, basis: FourierBasis | CosineBasis, n_modes: int) -> None:
        super().__init__()
        self.basis = basis
        self.n_modes = check_count(n_modes, "n_time_bonds")
        self.mixing = nn.Parameter(orthonormal(n_modes, basis.n_modes))

    def forward(self, t: Tensor | float) -> Tensor:
        """Return the values at time `t` (float or 0-d tensor), `(n_modes,)`."""
        return self.mixing @ self.basis(t)


def orthonormal(n_rows: int, n_columns: int) -> Tensor:
    """Return a corner of the cosine transform: its rows are orthonormal, or its columns if it has more rows.

    Args:
        n_rows: number of rows.
        n_columns: number of columns.

    Returns:
        `(n_rows, n_columns)` in the default dtype.
    """
    size = max(n_rows, n_columns)
    position = torch.arange(size, dtype=torch.float64) + 0.5
    waves = torch.cos(math.pi / size * torch.arange(size, dtype=torch.float64)[:, None] * position)
    waves /= waves.norm(dim=1, keepdim=True)
    return waves[:n_rows, :n_columns].to(torch.get_default_dtype())
