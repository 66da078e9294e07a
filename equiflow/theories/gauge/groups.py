"""U(1) and SU(N), the groups in which links take values. Start with `lie_group("SU(3)")`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.gauge.lie_group import LieGroup
from equiflow.theories.gauge.matrices import cos_and_sinc, exp_su3, matrix_product, orthonormal
from equiflow.theories.gauge.u1 import U1


@dataclass(frozen=True)
class SUN(LieGroup):
    """The group SU(N) of unitary matrices of determinant one, with generators `T_a = i lambda_a / 2`.

    The lambda are those of Gell-Mann, in his order, for every N. Exponentials are a closed form for N = 3.

    Args:
        n: number N of rows, at least 2.
    """

    n: int
    n_plane_axes = 2

    @property
    def n_generators(self) -> int:  # type: ignore[override]
        """Number of generators, `N^2 - 1`."""
        return self.n**2 - 1

    @property
    def element_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of one element, `(N, N)`."""
        return (self.n, self.n)

    @property
    def noise_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of the noise of one element: real and imaginary parts of `(N, N)` numbers."""
        return (self.n, self.n, 2)

    def generators(self) -> Tensor:
        """See `LieGroup.generators`."""
        unit = torch.eye(self.n_generators, dtype=torch.float64, device="cpu")
        return self.matrix(unit).movedim(-1, 0)

    def matrix(self, vector: Tensor) -> Tensor:
        """Return the anti-Hermitian matrices `v = sum_a c_a T_a` as planes, for `(generator, ...)`."""
        half = 0.5 * vector
        zero = torch.zeros_like(half[0])
        diagonal, entries, a = [zero] * self.n, {}, 0
        for k in range(1, self.n):
            for j in range(k):
                entries[j, k] = torch.complex(half[a + 1], half[a])
                entries[k, j] = torch.complex(-half[a + 1], half[a])
                a += 2
            scale = math.sqrt(2 / (k * (k + 1)))
            diagonal = (
                [d + scale * half[a] for d in diagonal[:k]] + [-k * scale * half[a]] + diagonal[k + 1 :]
            )
            a += 1
        entries |= {(k, k): torch.complex(zero, d) for k, d in enumerate(diagonal)}
        rows = [torch.stack([entries[j, k] for k in range(self.n)]) for j in range(self.n)]
        return torch.stack(rows)

    def vector(self, matrix: Tensor) -> Tensor:
        """Return the coefficients `-2 Re tr(T_a M)` of the projection of planes to the algebra."""
        real, imaginary, found = matrix.real, matrix.imag, []
        for k in range(1, self.n):
            for j in range(k):
                found += [imaginary[j, k] + imaginary[k, j], real[j, k] - real[k, j]]
            scale = math.sqrt(2 / (k * (k + 1)))
            found.append(scale * (sum(imaginary[j, j] for j in range(k)) - k * imaginary[k, k]))
        return torch.stack(found)

    def identity(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """See `LieGroup.identity`."""
        dtype = torch.complex(like.real.new_zeros(()), like.real.new_zeros(())).dtype
        one = torch.eye(self.n, dtype=dtype, device=like.device)
        return one.reshape(self.n, self.n, *(1,) * len(shape)).repeat(1, 1, *shape)

    def planes(self, elements: Tensor) -> Tensor:
        """See `LieGroup.planes`."""
        return elements.movedim((-2, -1), (0, 1)).contiguous()

    def elements(self, planes: Tensor) -> Tensor:
        """See `LieGroup.elements`."""
        return planes.movedim((0, 1), (-2, -1)).contiguous()

    def exp(self, vector: Tensor) -> Tensor:
        """See `LieGroup.exp`."""
        matrix = self.matrix(vector)
        if self.n == 3:
            return exp_su3(-1j * matrix, vector.square().sum(0) / 4)
        return self.planes(torch.linalg.matrix_exp(self.elements(matrix)))

    def product(self, one: Tensor, other: Tensor) -> Tensor:
        """See `LieGroup.product`."""
        return matrix_product(one, other)

    def dagger(self, planes: Tensor) -> Tensor:
        """See `LieGroup.dagger`."""
        return planes.transpose(0, 1).conj()

    def conjugate(self, planes: Tensor) -> Tensor:
        """See `LieGroup.conjugate`."""
        return planes.conj()

    def conjugate_vector(self, vector: Tensor) -> Tensor:
        """See `LieGroup.conjugate_vector`."""
        return self.vector(self.matrix(vector).conj())

    def trace(self, planes: Tensor) -> Tensor:
        """See `LieGroup.trace`."""
        return torch.stack([planes[k, k].real for k in range(self.n)]).sum(0) / self.n

    def complex_trace(self, planes: Tensor) -> Tensor:
        """See `LieGroup.complex_trace`."""
        return torch.stack([planes[k, k] for k in range(self.n)]).sum(0) / self.n

    def slope(self, planes: Tensor) -> Tensor:
        """See `LieGroup.slope`."""
        return self.vector(planes) / (2 * self.n)

    def adjoint(self, planes: Tensor, vector: Tensor) -> Tensor:
        """See `LieGroup.adjoint`."""
        moved = matrix_product(planes, self.matrix(vector))
        return self.vector(matrix_product(moved, self.dagger(planes)))

    def bracket(self, one: Tensor, other: Tensor) -> Tensor:
        """See `LieGroup.bracket`."""
        v, w = self.matrix(one), self.matrix(other)
        return self.vector(matrix_product(v, w) - matrix_product(w, v))

    def from_noise(self, noise: Tensor) -> Tensor:
        """See `LieGroup.from_noise`."""
        return self.nearest(torch.view_as_complex(noise.contiguous()))

    def to_noise(self, elements: Tensor) -> Tensor:
        """See `LieGroup.to_noise`; a matrix of the group is its own noise."""
        return torch.view_as_real(elements.resolve_conj())

    def nearest(self, elements: Tensor) -> Tensor:
        """See `LieGroup.nearest`, and `orthonormal`."""
        return self.elements(orthonormal(self.planes(elements)))

    def defect(self, elements: Tensor) -> Tensor:
        """See `LieGroup.defect`."""
        one = torch.eye(self.n, dtype=elements.dtype, device=elements.device)
        unitary = (elements @ elements.mH - one).abs().flatten(-2).amax(-1)
        return torch.maximum(unitary, (torch.linalg.det(elements) - 1).abs())

    def __str__(self) -> str:
        return f"SU({self.n})"


@dataclass(frozen=True)
class SU2(SUN):
    """The group SU(2), computed with quaternions: planes hold a of `U = a_0 + i a . sigma`, `(4, ...)`."""

    n: int = 2
    n_plane_axes = 1
    noise_shape = (4,)

    def identity(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """See `LieGroup.identity`."""
        one = like.real.new_zeros((4, *shape))
        one[0] = 1
        return one

    def planes(self, elements: Tensor) -> Tensor:
        """See `LieGroup.planes`; the second row of a matrix of SU(2) follows from the first."""
        first, second = elements[..., 0, 0], elements[..., 0, 1]
        return torch.stack([first.real, second.imag, second.real, first.imag])

    def elements(self, planes: Tensor) -> Tensor:
        """See `LieGroup.elements`."""
        first, second = torch.complex(planes[0], planes[3]), torch.complex(planes[2], planes[1])
        rows = torch.stack([first, second, -second.conj(), first.conj()], -1)
        return rows.reshape(*rows.shape[:-1], 2, 2)

    def exp(self, vector: Tensor) -> Tensor:
        """See `LieGroup.exp`."""
        cosine, sinc = cos_and_sinc(vector.square().sum(0) / 4)
        return torch.cat([cosine[None], 0.5 * sinc * vector])

    def product(self, one: Tensor, other: Tensor) -> Tensor:
        """See `LieGroup.product`."""
        a, b, c, d = one
        e, f, g, h = other
        return torch.stack(
            [
                a * e - b * f - c * g - d * h,
                a * f + b * e - c * h + d * g,
                a * g + c * e - d * f + b * h,
                a * h + d * e - b * g + c * f,
            ]
        )

    def dagger(self, planes: Tensor) -> Tensor:
        """See `LieGroup.dagger`."""
        return torch.cat([planes[:1], -planes[1:]])

    def conjugate(self, planes: Tensor) -> Tensor:
        """See `LieGroup.conjugate`."""
        return torch.stack([planes[0], -planes[1], planes[2], -planes[3]])

    def trace(self, planes: Tensor) -> Tensor:
        """See `LieGroup.trace`."""
        return planes[0]

    def complex_trace(self, planes: Tensor) -> Tensor:
        """See `LieGroup.complex_trace`; a real number."""
        return torch.complex(planes[0], torch.zeros_like(planes[0]))

    def slope(self, planes: Tensor) -> Tensor:
        """See `LieGroup.slope`."""
        return 0.5 * planes[1:]

    def adjoint(self, planes: Tensor, vector: Tensor) -> Tensor:
        """See `LieGroup.adjoint`; a rotation of three components."""
        scalar, axis = planes[0], planes[1:]
        axis = axis.expand_as(vector)
        turned: Tensor = scalar * vector - torch.linalg.cross(axis, vector, dim=0)
        around: Tensor = torch.linalg.cross(turned, axis, dim=0)
        return (axis * vector).sum(0) * axis + scalar * turned + around

    def bracket(self, one: Tensor, other: Tensor) -> Tensor:
        """See `LieGroup.bracket`."""
        result: Tensor = torch.linalg.cross(other, one, dim=0)
        return result

    def from_noise(self, noise: Tensor) -> Tensor:
        """See `LieGroup.from_noise`; normal numbers scaled to length one."""
        return self.elements((noise / noise.square().sum(-1, keepdim=True).sqrt()).movedim(-1, 0))

    def to_noise(self, elements: Tensor) -> Tensor:
        """See `LieGroup.to_noise`."""
        return self.planes(elements).movedim(0, -1)

    def nearest(self, elements: Tensor) -> Tensor:
        """See `LieGroup.nearest`."""
        return self.from_noise(self.to_noise(elements))


def lie_group(name: str) -> LieGroup:
    """Return the group of this name.

    Args:
        name: `"U(1)"`, or `"SU(N)"` with a number N >= 2.

    Returns:
        The group.

    Raises:
        TypeError: if `name` is no text.
        ValueError: if there is no such group.

    >>> str(lie_group("SU(3)"))
    'SU(3)'
    """
    check_type(name, str, "group", 'Write "U(1)", "SU(2)" or "SU(3)".')
    found = re.fullmatch(r"SU\(([1-9]\d*)\)", name)
    if name == "U(1)":
        return U1()
    if found is None or int(found[1]) < 2:
        raise ValueError(f'group must be "U(1)" or "SU(N)" with N >= 2, such as "SU(3)"; got {name!r}.')
    return SU2() if name == "SU(2)" else SUN(int(found[1]))
