"""Maps of the field at one site, whose parameters a network chooses.

Subclass `SiteMap` for a map of your own; `CouplingFlow(lattice, site_map=...)` takes an instance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class SiteMap(ABC):
    """An increasing map `x' = f(x; even, odd)` with `f(-x; even, -odd) = -f(x; even, odd)`.

    Attributes:
        n_even: number of parameters that stay the same under `x -> -x`.
        n_odd: number of parameters that change sign.
    """

    n_even: int
    n_odd: int

    @abstractmethod
    def forward(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """Map the field.

        Args:
            x: `(batch, site)`.
            even: `(batch, n_even, site)`.
            odd: `(batch, n_odd, site)`.

        Returns:
            `x'` and `log dx'/dx`, both `(batch, site)`.
        """

    @abstractmethod
    def inverse(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """Invert the map.

        Args:
            x: `x'`, `(batch, site)`.
            even: the parameters of `forward`, `(batch, n_even, site)`.
            odd: the parameters of `forward`, `(batch, n_odd, site)`.

        Returns:
            `x` and `log dx/dx'`, both `(batch, site)`.
        """

    def config(self) -> dict[str, object]:
        """Return the keyword arguments that rebuild this map, as plain types."""
        return {}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.config().items())
        return f"{type(self).__name__}({options})"


class AffineMap(SiteMap):
    """The map `x' = exp(s) x + t` with `s = tanh(even)`, `t = tanh(odd)` (arXiv:1605.08803, 2208.08903)."""

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
