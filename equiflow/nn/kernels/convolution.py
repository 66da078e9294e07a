"""Three implementations of the convolution of fields with kernels, which agree to rounding.

`FourierConvolution` uses FFTs, at a cost of O(V log V). `DenseConvolution` is one matrix product, O(V^2). It
wins on small lattices, where a matrix product takes less time than starting an FFT. `DirectConvolution` adds
shifted fields and wins for kernels of three offsets per axis. Start at `convolution_for`, which chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import OffsetOrbits

#: Largest number of sites for which dense products are the fastest (measured by `benchmarks/velocity.py`).
DENSE_VOLUME = 100
#: Most offsets per axis for which a kernel acts fastest directly, on larger lattices (the same script).
DIRECT_SIZE = 3


class Convolution(ABC):
    """A way to apply kernels `K_c` to fields.

    The kernels are given as an operand: modes, matrices or values on orbits, as the implementation needs
    them. Fields are encoded first, so that a backward pass can use the encoded fields again.

    Args:
        lattice: where the fields live.
    """

    #: the name by which `convolution_for` finds it
    name: ClassVar[str]

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice

    @abstractmethod
    def encode(self, fields: Tensor) -> Tensor:
        """Return fields `(batch, channel, *lattice)` in the form that `mix` takes."""

    def encode_back(self, fields: Tensor) -> Tensor:
        """Return one field `(batch, 1, *lattice)` in the form that `transpose` and `overlap` take."""
        return self.encode(fields)

    @abstractmethod
    def mix(self, linear: Tensor, encoded: Tensor, operand: Tensor) -> Tensor:
        """Return `K_0 * linear + sum_f K_f * field_f`.

        Args:
            linear: one encoded field, for the first kernel.
            encoded: encoded fields, one for each of the other kernels.
            operand: the `1 + field` kernels.

        Returns:
            `(batch, *lattice)`.
        """

    def mix_(self, linear: Tensor, encoded: Tensor, operand: Tensor) -> Tensor:
        """See `mix`. `encoded` may be overwritten, which saves memory."""
        return self.mix(linear, encoded, operand)

    @abstractmethod
    def transpose(self, encoded: Tensor, operand: Tensor) -> Tensor:
        """Return `K_c^T * field` for every kernel.

        Args:
            encoded: a field after `encode_back`.
            operand: the kernels.

        Returns:
            `(batch, channel, *lattice)`.
        """

    @abstractmethod
    def overlap(self, encoded: Tensor, gradient: Tensor, operand: Tensor) -> Tensor:
        """Return the gradient of `sum_f g . (K_f * field_f)` in the operand.

        Args:
            encoded: the fields after `encode`.
            gradient: g after `encode_back`.
            operand: the kernels, one for each field.

        Returns:
            Shaped like `operand`.
        """

    @abstractmethod
    def products(self, operand: Tensor) -> Tensor:
        """Return `<K_c, K_c'> = sum_x K_c(x) K_c'(x)` for all pairs of kernels, `(channel, channel)`."""

    @abstractmethod
    def times(self, operand: Tensor, other: Tensor) -> Tensor:
        """Multiply kernels pointwise.

        Args:
            operand: the kernels K.
            other: the kernels L.

        Returns:
            The operand of the kernels `K_c(x) L_c(x)`.
        """


class FourierConvolution(Convolution):
    """Convolution by FFT: the operand is the modes of the kernels, `(channel, *half_shape)`.

    The modes are real if all kernels are even, else complex.

    Args:
        lattice: where the fields live.
    """

    name = "fourier"

    def __init__(self, lattice: Lattice) -> None:
        super().__init__(lattice)
        # The weight of each mode in a sum over all momenta, divided by V. It is converted on every use:
        # torch.compile refuses a cache that is filled in the backward pass.
        self._measure = lattice.half_multiplicity() / lattice.volume

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
        # Channels come first in memory, so that they are rows of a matrix without a copy.
        modes = encoded.transpose(0, 1) * operand.conj().unsqueeze(1)
        return self.lattice.ifft(modes).transpose(0, 1)

    def overlap(self, encoded: Tensor, gradient: Tensor, operand: Tensor) -> Tensor:
        """See `Convolution.overlap`."""
        # Parseval on the half grid: sum_x a v = sum_k multiplicity Re(conj(a_k) v_k) / V.
        if operand.is_complex():
            total = (gradient * encoded.conj()).sum(0)
        else:  # Only the real part is wanted, in a quarter of the operations.
            total = (torch.view_as_real(gradient) * torch.view_as_real(encoded)).sum(0).sum(-1)
        return total * self._measure.to(total.real)

    def products(self, operand: Tensor) -> Tensor:
        """See `Convolution.products`."""
        weighted = (operand * self._measure.to(operand.real)).flatten(1)
        product = weighted @ operand.flatten(1).mH
        return product.real

    def times(self, operand: Tensor, other: Tensor) -> Tensor:
        """See `Convolution.times`."""
        modes = self.lattice.fft(self.lattice.ifft(operand + 0j) * self.lattice.ifft(other + 0j))
        return modes if operand.is_complex() else modes.real


class DenseConvolution(Convolution):
    """Convolution by a matrix product: the operand is `D_c(y, x) = K_c(x - y)`, `(channel, V, V)`."""

    name = "dense"

    def encode(self, fields: Tensor) -> Tensor:
        """See `Convolution.encode`. The result is `(batch, channel, V)`."""
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
    """Convolution offset by offset: the operand is the kernels' values on orbits, `(channel, orbit)`.

    Channels are mixed first, which leaves one field for each orbit. Only those fields are shifted:
    `sum_c K_c * h_c = sum_o shift_o sum_c K_c(o) h_c`.

    Args:
        lattice: where the fields live.
        orbits: the offsets of the kernels.
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
        """See `Convolution.encode`. The fields are returned unchanged."""
        return fields

    def encode_back(self, fields: Tensor) -> Tensor:
        """See `Convolution.encode_back`. Return `sum_(o in orbit) g(x + o)`, `(batch, orbit, *lattice)`."""
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
        """Return the fields with a rim of periodic images, as wide as the kernels reach."""
        for axis, side, reach in zip(self.lattice.axes, self.lattice.shape, self._reach, strict=True):
            if reach:
                parts = fields.narrow(axis, side - reach, reach), fields, fields.narrow(axis, 0, reach)
                fields = torch.cat(parts, axis)
        return fields

    def _window(self, wrapped: Tensor, offset: list[int]) -> Tensor:
        """Return the fields at `x + offset`, from fields with a rim."""
        for axis, side, reach, step in zip(
            self.lattice.axes, self.lattice.shape, self._reach, offset, strict=True
        ):
            wrapped = wrapped.narrow(axis, reach + step, side)
        return wrapped


#: Names that `convolution_for` knows besides "auto".
CONVOLUTIONS = (DenseConvolution.name, DirectConvolution.name, FourierConvolution.name)


def convolution_for(lattice: Lattice, name: str = "auto", orbits: OffsetOrbits | None = None) -> Convolution:
    """Return the convolution implementation called `name`.

    Args:
        lattice: where the fields live.
        name: `"dense"`, `"direct"`, `"fourier"`, or `"auto"` for the fastest one.
        orbits: offsets of the kernels; None if they are given by their Fourier modes.

    Returns:
        An instance for this lattice.

    Raises:
        ValueError: if the name is unknown, or `"direct"` is asked for without offsets.
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
    """Tell whether the kernels have so few offsets that they act fastest directly."""
    # Not measured beyond three dimensions, where 81 offsets are no longer few.
    dim = orbits.index.dim()
    return dim <= 3 and int(orbits.multiplicity.sum()) <= DIRECT_SIZE**dim
