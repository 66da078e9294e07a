"""How kernels act on fields, and features mixed by kernels with the backward pass in closed form.

Three ways that agree to rounding: by FFT, `O(V log V)`; by one dense matrix product, `O(V^2)`, which
wins on small lattices, where a processor multiplies matrices far faster than it starts FFTs; and
directly, offset by offset, which wins for kernels of three offsets per axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from equiflow.nn.constants import RoundedConstants
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import OffsetOrbits

#: Lattices up to this volume are convolved by dense products (`benchmarks/velocity.py` measures it).
DENSE_VOLUME = 100
#: Kernels of up to this many offsets per axis act directly on larger ones (the same script).
DIRECT_SIZE = 3


class Convolution(ABC):
    """Kernels `K_c` applied to fields, by way of an operand that stands for the kernels."""

    #: what `convolution_for` knows it by
    name: ClassVar[str]

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice

    @abstractmethod
    def encode(self, fields: Tensor) -> Tensor:
        """What the other methods take for fields `(batch, channel, *lattice)`."""

    def encode_back(self, fields: Tensor) -> Tensor:
        """What `transpose` and `overlap` take for what goes back through kernels, `(batch, 1, *lattice)`."""
        return self.encode(fields)

    @abstractmethod
    def mix(self, linear: Tensor, encoded: Tensor, operand: Tensor) -> Tensor:
        """`K_0 * linear + sum_f K_f * field_f`, `(batch, *lattice)`."""

    def mix_(self, linear: Tensor, encoded: Tensor, operand: Tensor) -> Tensor:
        """The same, and what is encoded may be overwritten."""
        return self.mix(linear, encoded, operand)

    @abstractmethod
    def transpose(self, encoded: Tensor, operand: Tensor) -> Tensor:
        """`K_c^T * field` for every kernel, `(batch, channel, *lattice)`, of what `encode_back` gave."""

    @abstractmethod
    def overlap(self, encoded: Tensor, gradient: Tensor, operand: Tensor) -> Tensor:
        """Gradient of `sum(g . mix(encoded, operand))` in the operand, from `encode_back` of g."""

    @abstractmethod
    def products(self, operand: Tensor) -> Tensor:
        """`<K_c, K_c'> = sum_x K_c(x) K_c'(x)` of all pairs of kernels, `(channel, channel)`."""

    @abstractmethod
    def times(self, operand: Tensor, other: Tensor) -> Tensor:
        """The operand of the kernels `K_c(x) L_c(x)`, from those of K and L."""


class FourierConvolution(Convolution):
    """The operand is the kernels' Fourier modes, `(channel, *half_shape)`, real if the kernels are even."""

    name = "fourier"

    def __init__(self, lattice: Lattice) -> None:
        super().__init__(lattice)
        self._rounded = RoundedConstants()

    def encode(self, fields: Tensor) -> Tensor:
        """See `Convolution.encode`."""
        return self.lattice.fft(fields)

    def mix(self, linear: Tensor, encoded: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.mix`."""
        return self.lattice.ifft((encoded * operand[1:]).sum(1).addcmul_(linear[:, 0], operand[0]))

    def mix_(self, linear: Tensor, encoded: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.mix_`."""
        return self.lattice.ifft(encoded.mul_(operand[1:]).sum(1).addcmul_(linear[:, 0], operand[0]))

    def transpose(self, encoded: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.transpose`."""
        return self.lattice.ifft(encoded * operand.conj())

    def overlap(self, encoded: Tensor, gradient: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.overlap`."""
        # Parseval on the half grid: sum_x a v = sum_k multiplicity Re(conj(a_k) v_k) / V.
        total = (gradient * encoded.conj()).sum(0)
        total = total if operand.is_complex() else total.real
        return total * self._measure(total)

    def products(self, operand: Tensor) -> Tensor:
        """See `Convolution.products`."""
        weighted = (operand * self._measure(operand)).flatten(1)
        product = weighted @ operand.flatten(1).mH
        return product.real

    def times(self, operand: Tensor, other: Tensor) -> Tensor:
        """See `Convolution.times`."""
        modes = self.lattice.fft(self.lattice.ifft(operand + 0j) * self.lattice.ifft(other + 0j))
        return modes if operand.is_complex() else modes.real

    def _measure(self, modes: Tensor) -> Tensor:
        """Return the weight of each mode in a sum over all momenta, over V, `(*half_shape)`."""
        lattice = self.lattice
        return self._rounded.like(modes.real, lambda: [lattice.half_multiplicity() / lattice.volume])[0]


class DenseConvolution(Convolution):
    """The operand is the kernels as matrices, `D_c(y, x) = K_c(x - y)`, `(channel, V, V)`."""

    name = "dense"

    def encode(self, fields: Tensor) -> Tensor:
        """See `Convolution.encode`: `(batch, channel, V)`."""
        return fields.flatten(2)

    def mix(self, linear: Tensor, encoded: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.mix`."""
        mixed = torch.addmm(linear[:, 0] @ operand[0], encoded.flatten(1), operand[1:].flatten(0, 1))
        return mixed.unflatten(1, self.lattice.shape)

    def transpose(self, encoded: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.transpose`."""
        back = encoded[:, 0] @ operand.flatten(0, 1).mT
        return back.view(len(encoded), len(operand), *self.lattice.shape)

    def overlap(self, encoded: Tensor, gradient: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.overlap`."""
        return (encoded.flatten(1).mT @ gradient[:, 0]).view(operand.shape)

    def products(self, operand: Tensor) -> Tensor:
        """See `Convolution.products`."""
        kernels = operand[:, 0]
        return kernels @ kernels.mT

    def times(self, operand: Tensor, other: Tensor) -> Tensor:
        """See `Convolution.times`."""
        return operand * other


class DirectConvolution(Convolution):
    """The operand is the kernels' values on each orbit of offsets, `(channel, orbit)`.

    Channels are mixed first, which leaves one field for each orbit, and only those are shifted:
    `sum_c K_c * h_c = sum_o shift_o sum_c K_c(o) h_c`.
    """

    name = "direct"

    def __init__(self, lattice: Lattice, orbits: OffsetOrbits) -> None:
        super().__init__(lattice)
        self._multiplicity: list[int] = orbits.multiplicity.tolist()
        inside = orbits.index >= 0
        sides = torch.tensor(lattice.shape)
        offsets = inside.nonzero()
        offsets = torch.where(offsets > sides // 2, offsets - sides, offsets)
        self._reach: list[int] = offsets.abs().amax(0).tolist()
        self._shifts: list[tuple[int, list[int]]] = [
            *zip(orbits.index[inside].tolist(), offsets.tolist(), strict=True)
        ]

    def encode(self, fields: Tensor) -> Tensor:
        """See `Convolution.encode`: the fields as they are."""
        return fields

    def encode_back(self, fields: Tensor) -> Tensor:
        """See `Convolution.encode_back`: `sum_(o in orbit) g(x + o)`, `(batch, orbit, *lattice)`."""
        wrapped = self._wrapped(fields[:, 0])
        total: list[Tensor | None] = [None] * len(self._multiplicity)
        for orbit, offset in self._shifts:
            ahead = self._window(wrapped, offset)
            before = total[orbit]
            total[orbit] = ahead.clone() if before is None else before.add_(ahead)
        return torch.stack([part for part in total if part is not None], 1)

    def mix(self, linear: Tensor, encoded: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.mix`."""
        per_orbit = operand[1:].mT @ encoded.flatten(2)
        per_orbit.addcmul_(operand[0].unsqueeze(1), linear.flatten(2))
        wrapped = self._wrapped(per_orbit.unflatten(2, self.lattice.shape))
        behind = [self._window(wrapped[:, orbit], [-x for x in offset]) for orbit, offset in self._shifts]
        total = behind[0].clone()
        for part in behind[1:]:
            total += part
        return total

    def transpose(self, encoded: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.transpose`."""
        return (operand @ encoded.flatten(2)).unflatten(2, self.lattice.shape)

    def overlap(self, encoded: Tensor, gradient: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.overlap`."""
        return (encoded.flatten(2) @ gradient.flatten(2).mT).sum(0)

    def products(self, operand: Tensor) -> Tensor:
        """See `Convolution.products`."""
        return (operand * operand.new_tensor(self._multiplicity)) @ operand.mT

    def times(self, operand: Tensor, other: Tensor) -> Tensor:
        """See `Convolution.times`."""
        return operand * other

    def _wrapped(self, fields: Tensor) -> Tensor:
        """The fields with a rim of their periodic images as wide as the kernels reach."""
        for axis, side, reach in zip(self.lattice.axes, self.lattice.shape, self._reach, strict=True):
            if reach:
                parts = fields.narrow(axis, side - reach, reach), fields, fields.narrow(axis, 0, reach)
                fields = torch.cat(parts, axis)
        return fields

    def _window(self, wrapped: Tensor, offset: list[int]) -> Tensor:
        """The fields at `x + offset`."""
        for axis, side, reach, step in zip(
            self.lattice.axes, self.lattice.shape, self._reach, offset, strict=True
        ):
            wrapped = wrapped.narrow(axis, reach + step, side)
        return wrapped


CONVOLUTIONS = ("dense", "direct", "fourier")


def convolution_for(lattice: Lattice, name: str = "auto", orbits: OffsetOrbits | None = None) -> Convolution:
    """The way of a name, `"dense"`, `"direct"` or `"fourier"`; `"auto"` is the fastest.

    Args:
        lattice: where the fields live.
        name: see above.
        orbits: offsets of the kernels; None if they are given by their Fourier modes.

    Raises:
        ValueError: for another name, or `"direct"` without offsets.
    """
    if name == "auto":
        few = orbits is not None and _are_few(orbits)
        name = "dense" if lattice.volume <= DENSE_VOLUME else "direct" if few else "fourier"
    if name == "direct":
        if orbits is None:
            raise ValueError(
                "Kernels that span the lattice do not act directly, and some fields always have one: take "
                '"auto", "fourier" or "dense", or give a kernel_size if the field takes it for all kernels.'
            )
        return DirectConvolution(lattice, orbits)
    if name not in CONVOLUTIONS:
        raise ValueError(f"Unknown convolution {name!r}; expected auto, {', '.join(CONVOLUTIONS)}.")
    return DenseConvolution(lattice) if name == "dense" else FourierConvolution(lattice)


def _are_few(orbits: OffsetOrbits) -> bool:
    # Not measured beyond three dimensions, where 81 offsets are no longer few.
    dim = orbits.index.dim()
    return dim <= 3 and int(orbits.multiplicity.sum()) <= DIRECT_SIZE**dim
