"""The periodic hypercubic lattice: sites, momenta and the Fourier transform between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

FIELD_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Lattice:
    """A periodic lattice with any number of dimensions and any sides.

    Args:
        shape: number of sites along each direction, for example `(16, 16)`.

    Raises:
        TypeError: if `shape` is not a sequence of integers.
        ValueError: if it is empty or a side is smaller than 1.

    >>> Lattice((4, 6)).volume
    24
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.shape, Iterable) or isinstance(self.shape, str):
            raise TypeError(
                f"Lattice shape must be a sequence of sides, got {self.shape!r}. "
                "Write Lattice((16, 16)) for two dimensions, Lattice((16,)) for one."
            )
        sides = tuple(self.shape)
        if any(isinstance(side, bool) or not isinstance(side, int) for side in sides):
            raise TypeError(f"Lattice sides must be integers, got {sides}.")
        if not sides or min(sides) < 1:
            raise ValueError(f"A lattice needs at least one side, each at least 1; got {sides}.")
        object.__setattr__(self, "shape", sides)

    @property
    def dim(self) -> int:
        """Number of space-time dimensions."""
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
        """Shape of the momentum grid that a real field needs (the last side is halved)."""
        return (*self.shape[:-1], self.shape[-1] // 2 + 1)

    def fft(self, phi: Tensor) -> Tensor:
        """Momentum modes `phi_k = sum_x exp(-ikx) phi_x`, shape `(..., *half_shape)`."""
        if phi.numel() == 0:  # MKL refuses an empty transform
            return torch.complex(phi, phi)[..., : self.half_shape[-1]]
        return torch.fft.rfftn(phi, dim=self.axes)

    def ifft(self, phi_k: Tensor) -> Tensor:
        """Real field whose momentum modes are `phi_k`: the inverse of `fft`."""
        if phi_k.numel() == 0:
            return phi_k.real.new_zeros((*phi_k.shape[: -self.dim], *self.shape))
        return torch.fft.irfftn(phi_k, s=self.shape, dim=self.axes)

    def half(self, values: Tensor) -> Tensor:
        """Restrict values on all momenta, `(..., *shape)`, to the grid that `fft` returns."""
        return values[..., : self.half_shape[-1]]

    def half_multiplicity(self) -> Tensor:
        """How often each mode of `fft` occurs on the full momentum grid (1, or 2 with its conjugate).

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
        """Eigenvalues of minus the lattice Laplacian, `sum_mu 4 sin^2(p_mu / 2)`.

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
        """Flat index of `x - y` modulo the lattice for all pairs of sites, `(V, V)` int64, at [y, x]."""
        site = torch.arange(self.volume)
        flat, stride = torch.zeros(self.volume, self.volume, dtype=torch.int64), 1
        for side in reversed(self.shape):
            along = site // stride % side
            flat += (along[None, :] - along[:, None]) % side * stride
            stride *= side
        return flat

    def check(self, phi: Tensor, name: str = "phi") -> Tensor:
        """Return `phi` if it is a real batch of configurations `(batch, *lattice)`, else raise.

        Raises:
            TypeError: if it is not a float32 or float64 tensor.
            ValueError: if its shape is not `(batch, *lattice)`.
        """
        if not isinstance(phi, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(phi).__name__}.")
        if phi.dtype not in FIELD_DTYPES:
            raise TypeError(
                f"{name} has dtype {phi.dtype}; expected torch.float32 or torch.float64. "
                "Convert it with .float() or .double()."
            )
        if phi.is_meta:
            raise ValueError(f"{name} lives on the meta device and has no values; expected cpu or cuda.")
        if phi.dim() != self.dim + 1 or tuple(phi.shape[1:]) != self.shape:
            expected = ", ".join(map(str, ("batch", *self.shape)))
            raise ValueError(
                f"{name} has shape {tuple(phi.shape)}; expected ({expected}). "
                "Put the batch axis first; a single configuration is phi[None]."
            )
        return phi

    def check_finite(self, phi: Tensor, name: str = "phi") -> Tensor:
        """`check`, and raise a ValueError if any value is NaN or infinite."""
        self.check(phi, name)
        finite = phi.isfinite()
        if not bool(finite.all()):
            bad = int((~finite.flatten(1).all(1)).sum())
            raise ValueError(
                f"{name} has NaN or infinite values in {bad} of {len(phi)} configurations; "
                "expected finite fields. Drop them or look at where they come from."
            )
        return phi


def check_type(value: object, expected: type | tuple[type, ...], name: str, remedy: str = "") -> None:
    """Raise a TypeError unless `value` is an instance of what is expected; a class is not."""
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        kinds = expected if isinstance(expected, tuple) else (expected,)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be of type {wanted}, got {value!r}. {remedy}".rstrip())


def check_count(value: object, name: str, *, minimum: int = 1) -> int:
    """Return `value` if it is an integer of at least `minimum`, else raise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value}.")
    return value
