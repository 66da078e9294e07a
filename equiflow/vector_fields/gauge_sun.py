"""Vector fields of SU(N) links: gradients of functions of Wilson loops, with closed divergence.

Start at `SUNField`, the default on links in SU(N).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from equiflow.nn.time import ChebyshevBasis
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_on
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.loops import Step, add_loop_gradient, loop_rate, rectangle, transporter
from equiflow.vector_fields.base import VectorField

#: sides of the rectangles that have a name
_RECTANGLES = {"plaquette": ((1, 1),), "rectangle": ((1, 2), (2, 1)), "square": ((2, 2),)}
#: the loops whose functions a potential can contain
SHAPES = (*_RECTANGLES, "chair")


class SUNField(VectorField):
    r"""`v = grad Phi`, the gradient of a sum of functions of Wilson loops of SU(N) links.

    With `w + i z = tr(loop) / N` for the loops of each shape s,

        Phi = sum_s sum_(loops of shape s) F_s(w, z; t),
        F_s = sum_jk a_sjk(t) w^j z^2k,    1 <= j + 2k <= degree.

    Loops see no gauge transformation, and even powers of z no charge conjugation. `w^2 + z^2` and `w^2 - z^2`
    are `|tr P|^2` and, for N = 2 and 3, `Re tr P^2` but for lower powers. For SU(2), `z = 0`.

    With `sum_a T_a T_a = -C` and `C = (N^2 - 1) / (2N)`, each of the l links of a loop contributes alike to
    the divergence, which is the Laplacian of Phi:

        div v = sum_s l_s sum_loops [ -C (F_w w + F_z z) + F_ww |dw|^2 + 2 F_wz dw . dz + F_zz |dz|^2 ]

    with the derivatives dw and dz by one link. It is exact and costs O(V). The term w of plaquettes contains
    the gradient flow of the Wilson action, a trivialising map to first order in beta. An untrained field
    stands still, `a = 0`.

    Args:
        links: `Links(lattice, "SU(N)")`.
        group: by default the whole symmetry group of the links.
        shapes: names of the loops, of "plaquette", "rectangle" (1 x 2), "square" (2 x 2) and, from three
            dimensions on, "chair" (a bent rectangle).
        degree: largest degree of the polynomials F.
        n_time_modes: number of cosine modes in flow time of the coefficients.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the links are not in SU(N), the group acts on other links, a shape is unknown, a side
            of the lattice is so short that a loop meets itself, or a number is out of range.

    References:
        arXiv:2212.08469 (gradients of Wilson loops as flows), arXiv:0907.5491 (trivialising maps).

    >>> field = SUNField(Links(Lattice((4, 4)), "SU(2)"))
    >>> links = field.space.probes(3).to(torch.complex64)
    >>> velocity, divergence = field.velocity_and_divergence(links, 0.5)
    >>> velocity.shape, divergence.shape
    (torch.Size([3, 2, 3, 4, 4]), torch.Size([3]))
    """

    space: Links

    def __init__(
        self,
        links: Links,
        *,
        group: Group | None = None,
        shapes: tuple[str, ...] = ("plaquette", "rectangle"),
        degree: int = 3,
        n_time_modes: int = 4,
    ) -> None:
        check_type(links, Links, "links", 'Write Links(Lattice((8, 8)), "SU(3)").')
        if links.is_flat:
            raise ValueError(f"SUNField moves links in SU(N), got {links.group}; use U1Field.")
        super().__init__(group_on(links, group, "field"))
        self.shapes = tuple(shapes)
        self._record(shapes=self.shapes)
        self.loops = [_loops(links.lattice, shape) for shape in self.shapes]
        if not self.shapes:
            raise ValueError(f"Expected at least one shape of {', '.join(SHAPES)}, got none.")
        self.powers = _powers(check_count(degree, "degree"), with_imaginary=links.lie.n > 2)
        self.time_basis = ChebyshevBasis(n_time_modes)
        self.amplitude = nn.Parameter(torch.zeros(n_time_modes, len(self.shapes), len(self.powers)))

    @classmethod
    def suits(cls, space: Space) -> bool:
        """See `VectorField.suits`; links in SU(N)."""
        return isinstance(space, Links) and not space.is_flat

    @property
    def learning_rate(self) -> float:
        """See `VectorField.learning_rate`."""
        return 2e-2

    @property
    def training_batch_size(self) -> int:
        """See `VectorField.training_batch_size`."""
        return 64

    @property
    def linear_parameters(self) -> tuple[nn.Parameter, ...]:
        """See `VectorField.linear_parameters`; all weights."""
        return (self.amplitude,)

    @full_precision
    def potential(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """Return `Phi(U, t)`, whose gradient is the velocity.

        Args:
            phi: links, `(batch, *shape)`.
            t: float or 0-d tensor in [0, 1].

        Returns:
            `(batch,)`.
        """
        planes, total = self.space.planes(self.space.check(phi)), phi.real.new_zeros(len(phi))
        for path, amplitude in self._paths(t):
            w, z = self._traces(transporter(self.space.lie, planes, path))
            values = sum(a * w**j * z**k for a, (j, k) in zip(amplitude, self.powers, strict=True))
            assert isinstance(values, Tensor)
            total = total + values.sum(self.lattice.axes)
        return total

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        lie, planes = self.space.lie, self.space.planes(self.space.check(phi))
        casimir = (lie.n**2 - 1) / (2 * lie.n)
        gradient: list[Any] = [0.0] * len(planes)
        divergence = phi.real.new_zeros(len(phi))
        for path, amplitude in self._paths(t):
            loop = transporter(lie, planes, path)
            w, z = self._traces(loop)
            of_w, of_z, of_ww, of_wz, of_zz = _derivatives(w, z, self.powers, amplitude)
            dw = -lie.slope(loop)
            vector = of_w * dw
            bend = of_ww * dw.square().sum(0) - casimir * of_w * w
            if lie.n > 2:
                dz = -lie.slope(-1j * loop)
                vector = vector + of_z * dz
                mixed = 2 * of_wz * (dw * dz).sum(0) + of_zz * dz.square().sum(0)
                bend = bend + mixed - casimir * of_z * z
            add_loop_gradient(lie, planes, path, vector, gradient)
            divergence = divergence + len(path) * bend.sum(self.lattice.axes)
        return self.space.from_vectors(tuple(gradient)), divergence

    @torch.no_grad()
    def parameter_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> Tensor:
        """See `VectorField.parameter_rates`; in closed form."""
        lie, planes = self.space.lie, self.space.planes(self.space.check(phi))
        vectors, casimir, rates = self.space.vectors(score), (lie.n**2 - 1) / (2 * lie.n), []
        for paths in self.loops:
            of_shape = [phi.real.new_zeros(len(phi)) for _ in self.powers]
            for path in paths:
                loop, turn = transporter(lie, planes, path), loop_rate(lie, planes, path, vectors)
                w, z = self._traces(loop)
                dw, dz = -lie.slope(loop), -lie.slope(-1j * loop) if lie.n > 2 else None
                by_w = (dw * turn).sum(0) - len(path) * casimir * w
                ww = len(path) * dw.square().sum(0)
                if dz is not None:
                    by_z = (dz * turn).sum(0) - len(path) * casimir * z
                    wz, zz = 2 * len(path) * (dw * dz).sum(0), len(path) * dz.square().sum(0)
                for n, (j, k) in enumerate(self.powers):
                    slopes = _monomial(w, z, j, k)
                    value = slopes[0] * by_w + slopes[2] * ww
                    if dz is not None:
                        value = value + slopes[1] * by_z + slopes[3] * wz + slopes[4] * zz
                    of_shape[n] = of_shape[n] + value.sum(self.lattice.axes)
            rates.append(torch.stack(of_shape, 1))
        return torch.einsum("j,bsp->bjsp", self.time_basis(t), torch.stack(rates, 1)).flatten(1)

    def resized(self, lattice: Lattice) -> SUNField:
        """See `VectorField.resized`; the coefficients are the same on every lattice."""
        field: SUNField = self._rebuilt_on(lattice)
        return field

    def _paths(self, t: Tensor | float) -> Iterable[tuple[tuple[Step, ...], Tensor]]:
        """Yield every loop from one site, with the coefficients of its polynomial at flow time `t`."""
        amplitude = torch.tensordot(self.time_basis(t), self.amplitude, 1)
        for paths, its in zip(self.loops, amplitude, strict=True):
            for path in paths:
                yield path, its

    def _traces(self, loop: Tensor) -> tuple[Tensor, Tensor]:
        """Return real and imaginary part of `tr(loop) / N`."""
        if self.space.lie.n == 2:
            w = self.space.lie.trace(loop)
            return w, torch.zeros_like(w)
        trace = self.space.lie.complex_trace(loop)
        return trace.real, trace.imag


def _loops(lattice: Lattice, shape: str) -> list[tuple[Step, ...]]:
    """Return the loops of a shape from one site, each once, or raise if it is unknown or meets itself."""
    if shape not in SHAPES:
        raise ValueError(f"Unknown shape {shape!r}; expected one of {', '.join(SHAPES)}.")
    longest = max(map(max, _RECTANGLES.get(shape, ((1, 1),))))
    if min(lattice.shape) <= longest:
        raise ValueError(
            f"The loops of shape {shape!r} meet themselves on the lattice {lattice.shape}; expected sides of "
            f"{longest + 1} or more."
        )
    if shape != "chair":
        planes = itertools.combinations(range(lattice.dim), 2)
        return [rectangle(mu, nu, r, t) for mu, nu in planes for r, t in _RECTANGLES[shape]]
    if lattice.dim < 3:
        raise ValueError(f"A chair needs three dimensions or more, got the lattice {lattice.shape}.")
    # Two plaquettes at a right angle, without the link (of direction nu) that they share.
    return [
        ((mu, s), (nu, 1), (mu, -s), (rho, r), (nu, -1), (rho, -r))
        for nu in range(lattice.dim)
        for mu, rho in itertools.combinations([k for k in range(lattice.dim) if k != nu], 2)
        for s, r in itertools.product((1, -1), repeat=2)
    ]


def _powers(degree: int, *, with_imaginary: bool) -> list[tuple[int, int]]:
    """Return the powers of w and z in the polynomials, without the constant."""
    largest = degree if with_imaginary else 0
    pairs = itertools.product(range(degree + 1), range(0, largest + 1, 2))
    return [(j, k) for j, k in pairs if 1 <= j + k <= degree]


def _derivatives(w: Tensor, z: Tensor, powers: list[tuple[int, int]], amplitude: Tensor) -> list[Tensor]:
    """Return `F_w, F_z, F_ww, F_wz, F_zz` of `F = sum_jk a_jk w^j z^k`."""
    found = [torch.zeros_like(w) for _ in range(5)]
    orders = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
    for a, (j, k) in zip(amplitude, powers, strict=True):
        for n, (of_w, of_z) in enumerate(orders):
            factor = _falling(j, of_w) * _falling(k, of_z)
            if factor:
                found[n] = found[n] + factor * a * w ** (j - of_w) * z ** (k - of_z)
    return found


def _monomial(w: Tensor, z: Tensor, j: int, k: int) -> list[Any]:
    """Return `F_w, F_z, F_ww, F_wz, F_zz` of `F = w^j z^k`."""
    orders = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
    found: list[Any] = []
    for of_w, of_z in orders:
        factor = _falling(j, of_w) * _falling(k, of_z)
        found.append(factor * w ** (j - of_w) * z ** (k - of_z) if factor else 0.0)
    return found


def _falling(power: int, order: int) -> int:
    """Return the factor that a derivative of this order brings down from a power."""
    return 1 if order == 0 else power if order == 1 else power * (power - 1)
