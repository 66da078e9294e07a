"""Networks that compute the parameters of a site map from the field around each site.

Parameters come in two sets of channels: under phi -> -phi the `even` ones should stay the same and the `odd`
ones should change sign. `PeriodicCNN` ignores this, `ParityCNN` makes it exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_count
from equiflow.theories.base.lattice import Lattice

_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Conditioner(nn.Module, ABC):
    """A network that computes parameters for every site from the field around it.

    Args:
        lattice: where the field lives, in one to three dimensions.
        n_even: number of channels that stay the same under phi -> -phi.
        n_odd: number of channels that change sign.
        hidden_channels: widths of the hidden layers, at least one.
        kernel_size: number of sites per axis of every kernel, odd.

    Raises:
        ValueError: if the lattice has four or more dimensions, the kernel is even or wraps more than
            once around the lattice, or there is no hidden layer.
    """

    def __init__(
        self,
        lattice: Lattice,
        *,
        n_even: int,
        n_odd: int,
        hidden_channels: tuple[int, ...],
        kernel_size: int,
    ) -> None:
        super().__init__()
        if lattice.dim not in _CONVOLUTIONS:
            raise ValueError(
                f"A convolutional network needs 1 to 3 dimensions (torch has no {lattice.dim}-dimensional "
                f"convolution), got lattice {lattice.shape}. Use EquivariantCNF(lattice), which takes any."
            )
        if check_count(kernel_size, "kernel_size") % 2 == 0 or kernel_size // 2 > min(lattice.shape):
            raise ValueError(
                f"kernel_size must be odd and reach at most once around the lattice {lattice.shape}, got "
                f"{kernel_size}. Use 3."
            )
        if not hidden_channels:
            raise ValueError("hidden_channels needs at least one layer, got none. Use (8, 8).")
        self._dim = lattice.dim
        self._kernel_size = kernel_size
        self.widths = (1, *(check_count(n, "hidden_channels") for n in hidden_channels))
        self.n_even = n_even
        self.n_odd = n_odd

    @abstractmethod
    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return the even and the odd channels, `(batch, channel, *lattice)` each.

        Args:
            phi: `(batch, *lattice)`.
        """

    def _convolution(self, n_in: int, n_out: int, *, bias: bool) -> nn.Module:
        """Return a periodic convolution between channels."""
        return _CONVOLUTIONS[self._dim](
            n_in, n_out, self._kernel_size, padding="same", padding_mode="circular", bias=bias
        )


class PeriodicCNN(Conditioner):
    """Convolutions with circular padding and leaky ReLU between them (arXiv:2101.08176, 2208.08903).

    Args:
        lattice: where the field lives, in one to three dimensions.
        **options: the other arguments of `Conditioner`.
    """

    def __init__(self, lattice: Lattice, **options: Any) -> None:
        super().__init__(lattice, **options)
        widths = (*self.widths, self.n_even + self.n_odd)
        self.layers = nn.ModuleList(self._convolution(a, b, bias=True) for a, b in pairwise(widths))

    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """See `Conditioner.forward`."""
        first, *others = self.layers
        hidden = first(phi[:, None])
        for layer in others:
            hidden = layer(nn.functional.leaky_relu(hidden))
        return hidden[:, : self.n_even], hidden[:, self.n_even :]


class ParityCNN(Conditioner):
    """Convolutions whose outputs are exactly even and odd in the field.

    The hidden layers `h = tanh(K * h)` have no bias and are odd. The odd channels are linear in the last
    hidden layer, the even ones in its square.

    Args:
        lattice: where the field lives, in one to three dimensions.
        **options: the other arguments of `Conditioner`.
    """

    def __init__(self, lattice: Lattice, **options: Any) -> None:
        super().__init__(lattice, **options)
        widths = self.widths
        self.layers = nn.ModuleList(self._convolution(a, b, bias=False) for a, b in pairwise(widths))
        self.even = self._convolution(widths[-1], self.n_even, bias=True)
        self.odd = self._convolution(widths[-1], self.n_odd, bias=False)

    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """See `Conditioner.forward`."""
        hidden = phi[:, None]
        for layer in self.layers:
            hidden = torch.tanh(layer(hidden))
        return self.even(hidden.square()), self.odd(hidden)
