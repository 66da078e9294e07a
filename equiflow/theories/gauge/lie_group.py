"""The abstract group in which links take values; `groups.py` has U(1) and SU(N)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from equiflow.runtime.randomness import check_draw


class LieGroup(ABC):
    """A compact group of matrices, and its arithmetic on whole lattices at once.

    Elements, as configurations hold them, are real angles `(...)` for U(1) and complex matrices `(..., N, N)`
    for SU(N). *Planes* hold the same elements with the axes of the matrix first, so that every product is a
    few operations on whole lattices: `(...)` for U(1), `(4, ...)` real for SU(2), `(N, N, ...)` complex else.

    A vector of the algebra is `v = sum_a c_a T_a` with real coefficients c, `(generator, ...)`. Generators
    are anti-Hermitian: `T = i` for U(1), `tr T_a T_b = -delta_ab / 2` for SU(N).
    """

    #: number N of rows of the matrices
    n: int
    #: number of generators, the dimension of the group
    n_generators: int
    #: shape of one element
    element_shape: tuple[int, ...]
    #: shape of the normal numbers that `from_noise` makes an element of
    noise_shape: tuple[int, ...]
    #: number of axes of planes that come before those of the lattice
    n_plane_axes: int

    @property
    def is_abelian(self) -> bool:
        """Whether all elements commute."""
        return self.n == 1

    @abstractmethod
    def generators(self) -> Tensor:
        """Return the matrices T, `(generator, N, N)` in complex128."""

    @abstractmethod
    def identity(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return unit planes.

        Args:
            shape: of the lattice, behind the axes of the matrix.
            like: a tensor of the precision and on the device of the result.

        Returns:
            Planes.
        """

    @abstractmethod
    def planes(self, elements: Tensor) -> Tensor:
        """Return elements as planes."""

    @abstractmethod
    def elements(self, planes: Tensor) -> Tensor:
        """Return planes as elements, the inverse of `planes`."""

    @abstractmethod
    def exp(self, vector: Tensor) -> Tensor:
        """Return `exp(v)` as planes, for coefficients `(generator, ...)`."""

    @abstractmethod
    def product(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the products of planes.

        Args:
            one: left factors, planes.
            other: right factors, planes.

        Returns:
            Planes.
        """

    @abstractmethod
    def dagger(self, planes: Tensor) -> Tensor:
        """Return the inverses of planes."""

    @abstractmethod
    def conjugate(self, planes: Tensor) -> Tensor:
        """Return the complex conjugates of planes."""

    @abstractmethod
    def conjugate_vector(self, vector: Tensor) -> Tensor:
        """Return the coefficients of `v*`, `(generator, ...)`."""

    @abstractmethod
    def trace(self, planes: Tensor) -> Tensor:
        """Return `Re tr U / N`, `(...)`."""

    @abstractmethod
    def complex_trace(self, planes: Tensor) -> Tensor:
        """Return `tr U / N`, `(...)` complex."""

    @abstractmethod
    def slope(self, planes: Tensor) -> Tensor:
        """Return `-d/ds Re tr(exp(s T_a) U) / N` at s = 0, `(generator, ...)`.

        For SU(N) these are the coefficients of the projection of U to the algebra, over 2N.
        """

    @abstractmethod
    def adjoint(self, planes: Tensor, vector: Tensor) -> Tensor:
        """Return the coefficients of `U v U^-1`.

        Args:
            planes: U.
            vector: coefficients of v, `(generator, ...)`.

        Returns:
            `(generator, ...)`.
        """

    @abstractmethod
    def bracket(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the coefficients of the commutator `v w - w v`.

        Args:
            one: coefficients of v, `(generator, ...)`.
            other: coefficients of w, `(generator, ...)`.

        Returns:
            `(generator, ...)`.
        """

    @abstractmethod
    def from_noise(self, noise: Tensor) -> Tensor:
        """Turn standard normal numbers `(..., *noise_shape)` into elements of the Haar measure."""

    @abstractmethod
    def to_noise(self, elements: Tensor) -> Tensor:
        """Return noise that `from_noise` turns into the elements."""

    @abstractmethod
    def nearest(self, elements: Tensor) -> Tensor:
        """Return elements without rounding: angles in [-pi, pi), or unitary matrices of determinant one."""

    @abstractmethod
    def defect(self, elements: Tensor) -> Tensor:
        """Return how far elements are from the group: `max(|U U^+ - 1|, |det U - 1|)`, `(...)`."""

    def random(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draw elements from the Haar measure.

        Args:
            shape: of the result, before the axes of the matrix.
            generator: source of randomness, on the CPU; the global one by default.

        Returns:
            Elements `(*shape, *element_shape)` in double precision.

        Raises:
            TypeError: if `generator` is no generator.
        """
        check_draw(generator)
        size = (*shape, *self.noise_shape)
        return self.from_noise(torch.randn(size, generator=generator, dtype=torch.float64, device="cpu"))
