"""Groups of operators of a scalar lattice field, summed over the lattice, as regressors of log weights.

Start with `OperatorGroups`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.theories.base.lattice import Lattice

#: nodes of a function of one site
N_NODES = 24
#: nodes, along either axis, of a function of a site and the mean of its neighbours
N_JOINT_NODES = 12
#: of all momenta that are not zero; beyond it neighbouring shells are taken together
MOST_SHELLS = 32
#: lowest shells that have a group of their own
N_LOWEST_SHELLS = 3
#: part of all sites that lies between the nodes; beyond them functions go on as straight lines
PART_BETWEEN_NODES = 0.999
#: numbers that the nodes are placed by, and sites that are taken at a time, which bounds the memory
NUMBERS_FOR_NODES, SITES_PER_BATCH = 2**20, 2**18


@dataclass(frozen=True)
class OperatorGroups:
    """Operators of scalar fields on a lattice, in groups: sums over all sites, or moments of the mean field.

    Functions without a formula are piecewise linear: `f(phi) = sum_i f_i h_i(phi)` with hats `h_i` at equally
    spaced nodes, so their operators are `sum_x h_i(phi_x)`. They are even in phi: `h_i(|phi|)` of one site,
    and of a site and the mean m of its neighbours `h_i(|phi|) h_j(sign(phi) m)`.

    Attributes:
        lattice: where the fields live.
        span: the nodes of |phi| reach from 0 to here.
        neighbour_span: the nodes of `sign(phi) m` reach from minus this number to it.
        z2: whether only even operators take part; otherwise odd ones join each group.
    """

    lattice: Lattice
    span: float
    neighbour_span: float
    z2: bool

    @classmethod
    def of(cls, phi: Tensor, lattice: Lattice, *, z2: bool) -> OperatorGroups:
        """Return the groups with nodes where given configurations are.

        Args:
            phi: configurations, `(batch, *lattice)`.
            lattice: where they live.
            z2: whether only even operators take part.

        Returns:
            The groups.
        """
        few = phi[: max(1, NUMBERS_FOR_NODES // lattice.volume)].double()
        return cls(lattice, _span(few), _span(_mean_of_neighbours(few)), z2)

    def evaluate(self, phi: Tensor) -> dict[str, Tensor]:
        """Return the values of all operators by group, in float64.

        Args:
            phi: configurations, `(batch, *lattice)`.

        Returns:
            Name of the group -> `(batch, n_operators)`, on the device of phi. Columns of one group that are
            functions without a formula have a common scale, all others the variance 1.
        """
        size = max(1, SITES_PER_BATCH // self.lattice.volume)
        batches = [dict(self._groups(part.double())) for part in phi.split(size)]
        found = {}
        for name in batches[0]:
            columns = torch.cat([batch[name] for batch in batches])
            spread = (columns - columns.mean(0)).square().mean(0)
            # Nodes where few fields are would be too loud if each had the variance 1.
            spread = spread.mean() if name.startswith("function") else spread
            found[name] = columns / torch.where(spread > 0, spread, 1.0).sqrt()
        return found

    def _groups(self, phi: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the groups of one batch in the order of tables."""
        axes = self.lattice.axes
        diagonals = [((1, sign), (mu, nu)) for mu in axes for nu in axes if mu < nu for sign in (1, -1)]
        m = phi.flatten(1).mean(1)
        size = m.abs()
        yield "zero mode", torch.stack([size, m**2, size**3, m**4, *([] if self.z2 else [m, m**3])], 1)
        if self.lattice.volume > 1:
            shells = self._shells(phi)
            yield "lowest momenta", shells[:, :N_LOWEST_SHELLS]
            yield "all momenta", shells
        powers = (2, 4, 6, 8) if self.z2 else range(1, 9)
        yield "powers of phi", self._sums(*(phi**n for n in powers))
        yield "function of phi", self._function(phi)
        pairs = [(phi, phi.roll(-1, axis)) for axis in axes]
        yield "neighbours", torch.cat([self._kinetic(pairs), self._pairs(pairs)], 1)
        yield "function of phi and neighbours", self._joint_function(phi)
        far = [self._pairs([(phi, phi.roll(-2, axis)) for axis in axes])]
        if diagonals:
            far.append(self._pairs([(phi, phi.roll(shift, plane)) for shift, plane in diagonals]))
        yield "second neighbours", torch.cat(far, 1)

    def _sums(self, *densities: Tensor) -> Tensor:
        """Return the sums of densities over the lattice as columns, `(batch, n)`."""
        return torch.stack([density.flatten(1).sum(1) for density in densities], 1)

    def _kinetic(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return `sum (x - y)^2` over pairs, `(batch, 1)`."""
        return self._sums(sum(((x - y).square() for x, y in pairs), torch.zeros_like(pairs[0][0])))

    def _pairs(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return sums of `x y, x^2 y^2, x^3 y + x y^3` and, without Z2, of `x^2 y + x y^2` over pairs."""
        zero = torch.zeros_like(pairs[0][0])
        product, square, cubic, odd = zero, zero, zero, zero
        for x, y in pairs:
            xy = x * y
            product, square = product + xy, square + xy.square()
            cubic = cubic + xy * (x.square() + y.square())
            odd = odd if self.z2 else odd + xy * (x + y)
        return self._sums(product, square, cubic, *([] if self.z2 else [odd]))

    def _shells(self, phi: Tensor) -> Tensor:
        """Return `sum |phi_k|^2` over the momenta of each shell but k = 0, `(batch, n_shells)`."""
        power = torch.fft.fftn(phi, dim=self.lattice.axes).abs().square().flatten(1)
        momenta = self.lattice.squared_momenta().flatten().to(phi.device, phi.dtype)
        # Sums of sines that are equal by symmetry differ by rounding.
        distinct, shell = (momenta * 1e9).round().unique(return_inverse=True)
        n_shells = len(distinct) - 1
        own = min(n_shells, N_LOWEST_SHELLS)
        if n_shells > MOST_SHELLS:
            merged = (shell - own - 1) * (MOST_SHELLS - own) // (n_shells - own)
            shell = torch.where(shell > own, own + 1 + merged, shell)
        shells = power.new_zeros(len(phi), int(shell.max()) + 1).index_add_(1, shell, power)
        return shells[:, 1:]

    def _function(self, phi: Tensor) -> Tensor:
        """Return `sum_x h_i(|phi_x|)` and, without Z2, `sum_x sign(phi_x) h_i(|phi_x|)`."""
        node, fraction = _position(phi.abs(), 0.0, self.span, N_NODES)
        hats = [(node, 1 - fraction), (node + 1, fraction)]
        return self._gathered(hats, N_NODES, phi.sign())

    def _joint_function(self, phi: Tensor) -> Tensor:
        """Return `sum_x h_i(|phi_x|) h_j(sign(phi_x) m_x)`; without Z2 also times `sign(phi_x)`."""
        sign = 1 - 2 * (phi < 0).to(phi)
        own, own_fraction = _position(phi.abs(), 0.0, self.span, N_JOINT_NODES)
        reach = self.neighbour_span
        other, fraction = _position(sign * _mean_of_neighbours(phi), -reach, reach, N_JOINT_NODES)
        hats = [
            (N_JOINT_NODES * (own + i) + other + j, weight * (fraction if j else 1 - fraction))
            for i, weight in enumerate((1 - own_fraction, own_fraction))
            for j in (0, 1)
        ]
        return self._gathered(hats, N_JOINT_NODES**2, sign)

    def _gathered(self, hats: list[tuple[Tensor, Tensor]], count: int, sign: Tensor) -> Tensor:
        """Add up the values of hats by node over the lattice, `(batch, count)`, or twice that without Z2."""
        columns = []
        for factor in (None,) if self.z2 else (None, sign):
            total = sign.new_zeros(len(sign), count)
            for node, weight in hats:
                weight = weight if factor is None else weight * factor
                total.scatter_add_(1, node.flatten(1), weight.flatten(1))
            columns.append(total)
        return torch.cat(columns, 1)


def _mean_of_neighbours(phi: Tensor) -> Tensor:
    """Return the mean of the nearest neighbours of each site, of the shape of phi, `(batch, *lattice)`."""
    axes = range(1, phi.dim())
    total = torch.zeros_like(phi)
    for axis in axes:
        total = total + phi.roll(1, axis) + phi.roll(-1, axis)
    return total / (2 * len(axes))


def _span(numbers: Tensor) -> float:
    """Return the size below which nearly all numbers are; 1 if they are zero."""
    sizes = numbers.abs().flatten()
    span = float(sizes.kthvalue(max(1, int(PART_BETWEEN_NODES * len(sizes)))).values)
    return span if span > 0 else 1.0


def _position(x: Tensor, first: float, last: float, n_nodes: int) -> tuple[Tensor, Tensor]:
    """Return the node on the left of x, and how far x is from it in units of the spacing.

    Beyond the outer nodes the distance is below 0 or above 1, so that functions go on as straight lines.
    """
    place = (x - first) * ((n_nodes - 1) / (last - first))
    node = place.floor().clamp(0, n_nodes - 2)
    return node.long(), place - node
