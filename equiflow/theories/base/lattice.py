"""The periodic hypercubic lattice: sites, momenta and the Fourier transform between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equiflow.runtime.checks import is_integer
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class Lattice(Space):
    """A periodic lattice with any number of dimensions and any sides, and the scalar fields on it.

    Configurations are `(batch, *lattice)`, one real number for each site.

    Args:
        shape: number of sites along each direction, for example `(16, 16)`.

    Raises:
        TypeError: if `shape` is not a sequence of integers.
        ValueError: if it is empty or a side is smaller than 1.

    >>> Lattice((4, 6)).volume
    24
    """

    kind: ClassVar[str] = "lattice"
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        a_single_number = getattr(self.shape, "ndim", 1) == 0  # an array that iterates over nothing
        if not isinstance(self.shape, Iterable) or isinstance(self.shape, str) or a_single_number:
            raise TypeError(
                f"Lattice shape must be a sequence of sides, got {self.shape!r}. "
                "Write Lattice((16, 16)) for two dimensions, Lattice((16,)) for one."
            )
        sides = tuple(self.shape)
        if not all(map(is_integer, sides)):
            raise TypeError(f"Lattice sides must be integers, got {sides}.")
        sides = tuple(map(int, sides))
        if not sides or min(sides) < 1:
            raise ValueError(f"A lattice needs at least one side, each at least 1; got {sides}.")
        object.__setattr__(self, "shape", sides)

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Lattice:
        """See `Space.of_shape`."""
        return cls(tuple(shape))

    @property
    def sites(self) -> Lattice:
        """The lattice itself."""
        return self

    def on(self, lattice: Lattice) -> Lattice:
        """See `Space.on`; the result is `lattice` itself."""
        return lattice

    @property
    def dim(self) -> int:
        """Number of space-time dimensions d."""
        return len(self.shape)

    @property
    def volume(self) -> int:
        """Number of sites V."""
        return math.prod(self.shape)

    @property
    def axes(self) -> tuple[int, ...]:
        """Tensor axes of the lattice directions, counted from the end: `(-d, ..., -1)`."""
        return tuple(range(-self.dim, 0))

    @property
    def half_shape(self) -> tuple[int, ...]:
        """Shape of the momentum grid that a real field needs: the last side is halved."""
        return (*self.shape[:-1], self.shape[-1] // 2 + 1)

    def fft(self, phi: Tensor) -> Tensor:
        """Return the momentum modes `phi_k = sum_x exp(-ikx) phi_x`, `(..., *half_shape)`."""
        if phi.numel() == 0:  # MKL refuses an empty transform
            return torch.complex(phi, phi)[..., : self.half_shape[-1]]
        modes: Tensor = torch.fft.rfftn(phi, dim=self.axes)
        return modes

    def ifft(self, phi_k: Tensor) -> Tensor:
        """Return the real field with the momentum modes `phi_k`, `(..., *shape)`: the inverse of `fft`."""
        if phi_k.numel() == 0:
            return phi_k.real.new_zeros((*phi_k.shape[: -self.dim], *self.shape))
        phi: Tensor = torch.fft.irfftn(phi_k, s=self.shape, dim=self.axes)
        return phi

    def half(self, values: Tensor) -> Tensor:
        """Restrict values on all momenta, `(..., *shape)`, to the momenta of `fft`, `(..., *half_shape)`."""
        return values[..., : self.half_shape[-1]]

    def half_multiplicity(self) -> Tensor:
        """Return how often each mode of `fft` occurs among all momenta: 1, or 2 with its conjugate.

        Returns:
            `(*half_shape,)` in float64; `(half_multiplicity * |fft(phi)|^2).sum() / V = sum_x phi_x^2`.
        """
        last = self.shape[-1]
        count = torch.full(self.half_shape, 2.0, dtype=torch.float64)
        count[..., 0] = 1.0
        if last % 2 == 0:
            count[..., last // 2] = 1.0
        return count

    def squared_momenta(self) -> Tensor:
        """Return the eigenvalues of minus the lattice Laplacian, `sum_mu 4 sin^2(p_mu / 2)`.

        Returns:
            `(*shape,)` in float64, indexed by the integer momenta of a full FFT.
        """
        total = torch.zeros(self.shape, dtype=torch.float64)
        for axis, side in zip(self.axes, self.shape, strict=True):
            momentum = 2 * math.pi * torch.arange(side, dtype=torch.float64) / side
            along = (1,) * (self.dim + axis) + (side,) + (1,) * (-axis - 1)
            total = total + (4 * torch.sin(momentum / 2) ** 2).reshape(along)
        return total

    def differences(self) -> Tensor:
        """Return the flat index of `x - y` modulo the lattice for all pairs of sites.

        Returns:
            `(V, V)` int64, with the index of `x - y` at [y, x].
        """
        site = torch.arange(self.volume)
        flat, stride = torch.zeros(self.volume, self.volume, dtype=torch.int64), 1
        for side in reversed(self.shape):
            along = site // stride % side
            flat += (along[None, :] - along[:, None]) % side * stride
            stride *= side
        return flat


def lattice_of(space: Space) -> Lattice:
    """Return the lattice on whose sites the configurations of a space live.

    Raises:
        TypeError: if they do not live on a lattice.
    """
    if not isinstance(space.sites, Lattice):
        raise TypeError(f"{space} has no lattice; use .space instead of .lattice.")
    return space.sites
