"""Increasing maps of one number, with parameters from elsewhere: what a coupling does to each site."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class SiteMap(ABC):
    """`x' = f(x; even, odd)`, increasing in x; `f(-x; even, -odd) = -f(x; even, odd)`.

    Attributes:
        n_even: parameters that stay under `x -> -x`.
        n_odd: parameters that change sign.
    """

    n_even: int
    n_odd: int

    @abstractmethod
    def forward(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """`x'` and `log dx'/dx`.

        Args:
            x: `(batch, site)`.
            even: `(batch, n_even, site)`.
            odd: `(batch, n_odd, site)`.
        """

    @abstractmethod
    def inverse(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """`x` and `log dx/dx'` from `x'` and the same parameters."""

    def config(self) -> dict[str, object]:
        """Keyword arguments that rebuild this map (plain types only)."""
        return {}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.config().items())
        return f"{type(self).__name__}({options})"


class AffineMap(SiteMap):
    """`x' = exp(s) x + t` with `s = tanh(even)`, `t = tanh(odd)` (arXiv:1605.08803, 2208.08903)."""

    n_even = 1
    n_odd = 1

    def forward(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """See `SiteMap.forward`."""
        log_scale, shift = torch.tanh(even[:, 0]), torch.tanh(odd[:, 0])
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """See `SiteMap.inverse`."""
        log_scale, shift = torch.tanh(even[:, 0]), torch.tanh(odd[:, 0])
        return (x - shift) * (-log_scale).exp(), -log_scale
