"""Vector fields of identical particles, equivariant under permutations and all rigid motions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.nn.particles import GatedVectors, Jet, Neighbourhood
from equiflow.nn.time import CosineBasis
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_on
from equiflow.theories.particles.group import EuclideanGroup
from equiflow.theories.particles.space import Particles
from equiflow.vector_fields.base import VectorField


class ParticleField(VectorField):
    r"""`v_i = G(u_i, t) - 1/N sum_k G(u_k, t)`, where `u_i` describes the surroundings of particle i.

    `u_i` holds densities and vectors around particle i as functions of the differences `x_i - x_j`, and its
    position relative to the centre of mass. With `l_max = 2` in three dimensions it also holds tensors. G
    combines them to a vector, scaled by a network of invariants, so that v goes beyond pair forces. The
    centre of mass never moves. The divergence has a closed form, `sum_i DG(u_i) . du_i/dx_i`.
    (arXiv:2006.02425, 1802.08219)

    Args:
        particles: `Particles(N, dim)`.
        group: by default permutations x E(dim).
        l_max: highest degree of the surroundings, 1 for densities and vectors in any dimension, more for
            tensors in three dimensions (needs e3nn).
        n_radial: number of radial functions.
        n_hidden: width of the network of invariants.
        n_time_modes: number of cosine modes in flow time of the network's weights.
        widths: smallest and largest initial width of the radial functions, in units of length.

    Raises:
        ImportError: for `l_max > 1` if e3nn is not installed.
        ValueError: if the group acts on another space, `l_max > 1` without three dimensions, or a number
            is out of range.

    >>> field = ParticleField(Particles(6, 2))
    >>> velocity, divergence = field.velocity_and_divergence(torch.randn(4, 6, 2), 0.5)
    >>> velocity.shape, divergence.shape
    (torch.Size([4, 6, 2]), torch.Size([4]))
    """

    group: EuclideanGroup

    def __init__(
        self,
        particles: Particles,
        *,
        group: Group | None = None,
        l_max: int = 1,
        n_radial: int = 8,
        n_hidden: int = 32,
        n_time_modes: int = 4,
        widths: tuple[float, float] = (0.3, 3.0),
    ) -> None:
        check_type(particles, Particles, "particles", "Write Particles(6, dim=2).")
        group = EuclideanGroup(particles, translations=True) if group is None else group
        group = group_on(particles, group, "field", EuclideanGroup)
        super().__init__(group)
        for name, count in (("l_max", l_max), ("n_radial", n_radial), ("n_hidden", n_hidden)):
            check_count(count, name)
        low, high = widths
        if not 0 < low < high < math.inf:
            raise ValueError(f"widths must be (smallest, largest) with 0 < smallest < largest, got {widths}.")
        self._record(widths=[low, high])
        self.time_basis = CosineBasis(n_time_modes)
        self.neighbourhood = Neighbourhood(particles.dim, l_max=l_max, n_radial=n_radial, widths=(low, high))
        self.gates = GatedVectors(1 + l_max * n_radial, 1 + (l_max + 1) * n_radial, n_hidden, n_time_modes)

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        self.space.check(phi)
        density, *seen = self.neighbourhood(phi)
        relative = self._relative(phi)
        squares = [relative.invariant(), *(jet.invariant() for jet in seen)]
        value = torch.cat([density.value.squeeze(-1), *(value for value, _ in squares)], -1)
        slope = torch.cat([density.slope.squeeze(-2), *(slope for _, slope in squares)], -2)
        velocity, trace = self.gates(self._vectors(relative, seen), (value, slope), self.time_basis(t))
        # The subtracted mean has no divergence: sum_i d/dx_i generates translations of all particles, and
        # they leave every G(u_k) unchanged.
        return velocity - velocity.mean(1, keepdim=True), trace.sum(1)

    def _relative(self, x: Tensor) -> Jet:
        """Return `x_i - X` with one channel, where X is the centre of mass."""
        n, dim = self.space.shape
        slope = (1 - 1 / n) * torch.eye(dim, dtype=x.dtype, device=x.device)
        return Jet((x - x.mean(1, keepdim=True)).unsqueeze(2), slope.expand(*x.shape[:2], 1, dim, dim))

    def _vectors(self, relative: Jet, seen: list[Jet]) -> Jet:
        """Return `x_i - X`, `u^1`, and `C_a u^l u^(l-1)` for each l > 1."""
        vectors = [relative, seen[0]]
        for degree in range(2, len(seen) + 1):
            low, high, step = seen[degree - 2], seen[degree - 1], self.neighbourhood.ladder(degree)
            value = torch.einsum("mna,bicm,bicn->bica", step, high.value, low.value)
            slope = torch.einsum("mna,bicmd,bicn->bicad", step, high.slope, low.value)
            slope = slope + torch.einsum("mna,bicm,bicnd->bicad", step, high.value, low.slope)
            vectors.append(Jet(value, slope))
        return Jet(torch.cat([jet.value for jet in vectors], 2), torch.cat([jet.slope for jet in vectors], 2))
