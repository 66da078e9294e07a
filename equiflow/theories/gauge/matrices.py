"""Closed forms behind SU(2) and SU(3): exponentials by Cayley-Hamilton, rows made orthonormal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.autograd import is_transformed
from equiflow.runtime.compilation import is_compiling

#: most squarings of an exponential, which are made where no value can be looked at: for |Q| up to 2^6
SQUARINGS_WITHOUT_VALUES = 6
#: largest `tr Q^2 / 2` for which no eigenvalue of Q exceeds that
LARGEST_SQUARE = 0.75 * 4.0**SQUARINGS_WITHOUT_VALUES
#: squared half angle below which cosine and sine are summed as series, which have derivatives at zero
SMALL_ANGLE_SQUARED = 1e-4


def cos_and_sinc(squared: Tensor) -> tuple[Tensor, Tensor]:
    """Return `cos x` and `sin(x) / x` as functions of `x^2`, smooth at zero.

    Args:
        squared: `x^2 >= 0`, `(...)`.

    Returns:
        Two tensors `(...)`.
    """
    small = squared < SMALL_ANGLE_SQUARED
    y = torch.where(small, squared, torch.zeros_like(squared))
    x = torch.where(small, torch.ones_like(squared), squared).sqrt()
    cosine = 1 - y / 2 * (1 - y / 12 * (1 - y / 30))
    sinc = 1 - y / 6 * (1 - y / 20 * (1 - y / 42))
    return torch.where(small, cosine, x.cos()), torch.where(small, sinc, x.sin() / x)


def matrix_product(one: Tensor, other: Tensor) -> Tensor:
    """Multiply matrices whose axes come first, `(N, N, ...)`: N multiply-adds of whole lattices.

    Args:
        one: left factors.
        other: right factors.

    Returns:
        `(N, N, ...)`.
    """
    total = one[:, 0, None] * other[None, 0]
    for k in range(1, len(other)):
        if is_transformed():  # vmap warns of addcmul
            total = total + one[:, k, None] * other[None, k]
        else:
            total.addcmul_(one[:, k, None], other[None, k])
    return total


def exp_su3(q: Tensor, c1: Tensor) -> Tensor:
    """Return `exp(i Q)` of Hermitian, traceless 3 x 3 matrices.

    By `Q^3 = c1 Q + c0` every power of Q is a combination of 1, Q and Q^2 with real coefficients, and so is
    every term of the series. Q is halved until the series converges fast, and the sum squared as often.
    Unlike formulas with the eigenvalues of Q it needs no care where these coincide, and has derivatives
    there.

    Args:
        q: Q, `(3, 3, ...)`.
        c1: `tr Q^2 / 2`, `(...)` real.

    Returns:
        `(3, 3, ...)`.
    """
    if is_compiling() or is_transformed():
        return _exp_of_moderate(q, c1)
    # One link that is far away, or NaN, must not change how the others are computed.
    far = ~(c1 <= LARGEST_SQUARE)
    if not bool(far.any()):
        return _exp_of_moderate(q, c1)
    nothing = torch.zeros_like(c1)
    result = _exp_of_moderate(torch.where(far, nothing, q), torch.where(far, nothing, c1))
    result[:, :, far] = torch.linalg.matrix_exp(1j * q[:, :, far].movedim(-1, 0)).movedim(0, -1)
    return result


def _exp_of_moderate(q: Tensor, c1: Tensor) -> Tensor:
    """Return `exp(i Q)` where no eigenvalue of Q exceeds 2^`SQUARINGS_WITHOUT_VALUES`."""
    n_squarings, n_terms = _effort(c1)
    q, c1 = q * 0.5**n_squarings, c1 * 0.25**n_squarings
    q2 = matrix_product(q, q)
    c0 = (q * q2.transpose(0, 1)).sum((0, 1)).real / 3
    f0, f1, f2 = _series(c0, c1, n_terms)
    for _ in range(n_squarings):
        cross, square = 2 * f1 * f2, f2 * f2
        f0, f1, f2 = (
            f0 * f0 + cross * c0,
            2 * f0 * f1 + cross * c1 + square * c0,
            f1 * f1 + 2 * f0 * f2 + square * c1,
        )
    result = f1 * q + f2 * q2
    one = torch.eye(3, dtype=result.dtype, device=result.device).reshape(3, 3, *(1,) * f0.dim())
    return result + one * f0


def _effort(c1: Tensor) -> tuple[int, int]:
    """Return how often Q is halved, and the number of terms of the series."""
    eps = torch.finfo(c1.dtype).eps / 16
    if is_compiling() or is_transformed():
        n_squarings, size = SQUARINGS_WITHOUT_VALUES, 1.0
    else:
        # No eigenvalue is larger than this, since the three add up to zero.
        largest = math.sqrt(4 / 3 * float(c1.detach().max())) if c1.numel() else 0.0
        n_squarings = max(0, math.ceil(math.log2(largest))) if largest > 0 else 0
        size = largest * 0.5**n_squarings
    n_terms, term = 1, size
    while term > eps:
        n_terms += 1
        term *= size / n_terms
    return n_squarings, n_terms + 2


def _series(c0: Tensor, c1: Tensor, n_terms: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the complex f of `sum_{k < n_terms} (i Q)^k / k! = f_0 + f_1 Q + f_2 Q^2`."""
    zero = torch.zeros_like(c1)
    power = (torch.ones_like(c1), zero, zero)
    parts: list[list[Tensor]] = [[power[0], zero], [zero, zero], [zero, zero]]
    factor = 1.0
    for k in range(1, n_terms):
        power = (c0 * power[2], power[0] + c1 * power[2], power[1])
        factor = factor / k if k % 2 else -factor / k  # i^k / k! without the i of odd k
        for f, part in zip(parts, power, strict=True):
            f[k % 2] = f[k % 2].add(part, alpha=factor)
    f0, f1, f2 = (torch.complex(real, imaginary) for real, imaginary in parts)
    return f0, f1, f2


def orthonormal(matrix: Tensor) -> Tensor:
    """Return matrices with orthonormal rows and determinant one, by the method of Gram and Schmidt.

    Applied to matrices of independent complex normal numbers the result is distributed by the Haar measure of
    SU(N); matrices of SU(N) lose their rounding. The rows are made orthogonal twice, else nearly parallel
    ones would stay so by rounding. The phase of the last row makes the determinant one.

    Args:
        matrix: `(N, N, ...)` complex.

    Returns:
        `(N, N, ...)`.
    """
    rows: list[Tensor] = []
    for row in matrix.unbind(0):
        for _ in range(2):
            for done in rows:
                row = row - (done.conj() * row).sum(0) * done
            row = row / (row.real.square() + row.imag.square()).sum(0).sqrt()
        rows.append(row)
    if len(rows) == 3:
        a, b = rows[:2]
        rows[2] = (
            torch.roll(a, -1, 0) * torch.roll(b, 1, 0) - torch.roll(a, 1, 0) * torch.roll(b, -1, 0)
        ).conj()
        return torch.stack(rows).resolve_conj()
    result = torch.stack(rows)
    determinant = torch.linalg.det(result.movedim((0, 1), (-2, -1)))
    rows[-1] = rows[-1] * (determinant.conj() / determinant.abs())
    return torch.stack(rows)
