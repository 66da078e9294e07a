"""Slater determinants of trap orbitals: `SlaterStates`, with densities, their derivatives, exact samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_type
from equiflow.theories.fermions.orbitals import (
    HermiteSampler,
    OrbitalJet,
    orbital_values,
    quantum_numbers,
)
from equiflow.theories.particles.space import Particles


@dataclass(frozen=True)
class DensityJet:
    """A log-density with its derivatives at configurations.

    Attributes:
        value: `log q`, `(batch,)`.
        score: `grad log q`, `(batch, particle, dim)`.
        hessian: of log q, `(batch, particle * dim, particle * dim)`.
    """

    value: Tensor
    score: Tensor
    hessian: Tensor

    @property
    def laplacian(self) -> Tensor:
        """The trace of the Hessian, `(batch,)`."""
        return self.hessian.diagonal(dim1=1, dim2=2).sum(-1)


class SlaterStates(nn.Module):
    r"""Eigenstates of ideal fermions in a trap, `Phi_n(z) = det phi_j(z_i) / sqrt(N!)` for j occupied in n.

    All determinants with an energy up to a cutoff are listed, the lowest first. They are orthonormal.
    Determinants of one energy span a space that O(d) maps to itself.

    Args:
        particles: `Particles(N, dim)`.
        cutoff: largest energy of a determinant, in quanta of the trap; by default that of the ground state.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the cutoff is below the energy of the filled Fermi sea.

    >>> states = SlaterStates(Particles(2, 2), cutoff=4.0)
    >>> states.energies.tolist()
    [3.0, 3.0, 4.0, 4.0, 4.0, 4.0]
    """

    orbitals: Tensor
    energies: Tensor

    def __init__(self, particles: Particles, *, cutoff: float | None = None) -> None:
        super().__init__()
        check_type(particles, Particles, "particles", "Write Particles(6, dim=2).")
        least = fermi_sea_energy(particles)
        if cutoff is not None:
            check_type(cutoff, (float, int), "cutoff")
            if not least <= cutoff < math.inf:
                raise ValueError(
                    f"cutoff={cutoff} is below the energy {least:g} of the Fermi sea of {particles.number} "
                    f"fermions in {particles.dim} dimensions, or not finite; give {least:g} or more."
                )
        # The highest orbital is reached by lifting the particle at the Fermi surface.
        spare = math.floor((least if cutoff is None else cutoff) - least + 1e-9)
        surface = int(_levels(particles)[-1])
        table = quantum_numbers(particles.dim, surface + spare)
        chosen = list(_subsets(table.sum(1).tolist(), particles.number, spare))
        self._keep(particles, table[torch.tensor(chosen)])

    @classmethod
    def of_orbitals(cls, particles: Particles, states: Sequence[Sequence[Sequence[int]]]) -> SlaterStates:
        """Return given determinants.

        Args:
            particles: `Particles(N, dim)`.
            states: for each determinant the quantum numbers of its N orbitals, `dim` integers each.

        Returns:
            The determinants, in the given order.

        Raises:
            TypeError: if `particles` has the wrong type.
            ValueError: if two fermions are in one orbital, or the numbers do not fit the particles.

        >>> SlaterStates.of_orbitals(Particles(2, 1), [[[0], [2]]]).energies.tolist()
        [3.0]
        """
        check_type(particles, Particles, "particles", "Write Particles(6, dim=2).")
        given = [[tuple(orbital) for orbital in state] for state in states]
        shapes = {(len(state), len(orbital)) for state in given for orbital in state}
        if shapes != {particles.shape} or any(n < 0 for state in given for o in state for n in o):
            raise ValueError(
                f"Each state must have {particles.number} orbitals of {particles.dim} quantum numbers >= 0, "
                f"got {given}."
            )
        for state in given:
            if len(set(state)) < len(state):
                raise ValueError(
                    f"Two fermions are in one orbital: {state}; expected {particles.number} different ones, "
                    "by the exclusion principle."
                )
        found = cls.__new__(cls)
        nn.Module.__init__(found)
        found._keep(particles, torch.tensor(given))
        return found

    def _keep(self, particles: Particles, orbitals: Tensor) -> None:
        """Keep determinants, given by the quantum numbers of their orbitals, `(state, particle, dim)`."""
        self.particles = particles
        self.register_buffer("orbitals", orbitals, False)
        energies = orbitals.sum((1, 2)).double() + 0.5 * particles.size
        self.register_buffer("energies", energies, False)
        self._sampler = HermiteSampler(int(orbitals.max()))

    def __len__(self) -> int:
        return len(self.orbitals)

    def log_density(self, z: Tensor, state: Tensor) -> Tensor:
        """Return `log |Phi_n(z)|^2`, normalised over all of space, differentiable in `z`.

        Args:
            z: positions, `(batch, particle, dim)`.
            state: index n of each configuration, `(batch,)`, int64.

        Returns:
            `(batch,)`.
        """
        self.particles.check(z, "z")
        log_det = torch.linalg.slogdet(orbital_values(z, self.orbitals[state]))[1]
        return 2 * log_det - z.square().sum((1, 2)) - math.lgamma(self.particles.number + 1)

    @torch.no_grad()
    def jet(self, z: Tensor, state: Tensor) -> DensityJet:
        r"""Return `log |Phi_n|^2` with its gradient and Hessian in closed form.

        With the matrix `D_ij = phi_j(z_i)` and `G^a = (d_a D) D^-1`: `grad_ia log |det D| = G^a_ii` and
        `grad_ia grad_kb log |det D| = delta_ik ((d_a d_b D) D^-1)_ii - G^a_ik G^b_ki`.

        Args:
            z: positions, `(batch, particle, dim)`.
            state: index n of each configuration, `(batch,)`, int64.

        Returns:
            The derivatives, detached.
        """
        self.particles.check(z, "z")
        jet = OrbitalJet.at(z, self.orbitals[state])
        inverse = torch.linalg.inv(jet.value)
        value = 2 * torch.linalg.slogdet(jet.value)[1] - z.square().sum((1, 2))
        moved = jet.slope @ inverse[:, None]  # G, (batch, a, i, k)
        score = 2 * moved.diagonal(dim1=2, dim2=3).transpose(1, 2) - 2 * z
        own = torch.einsum("zabij,zji->ziab", jet.curvature, inverse)
        hessian = -torch.einsum("zaik,zbki->ziakb", moved, moved)
        hessian.diagonal(dim1=1, dim2=3).add_(own.permute(0, 2, 3, 1))
        hessian = 2 * hessian.flatten(3).flatten(1, 2)
        hessian.diagonal(dim1=1, dim2=2).sub_(2)
        return DensityJet(value - math.lgamma(self.particles.number + 1), score, hessian)

    @torch.no_grad()
    def sample(self, state: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r"""Draw one configuration from `|Phi_n|^2` for each n, exactly and independently.

        The particles are placed one after another. With the vector `phi(x)` of the occupied orbitals at x,
        and the projector P orthogonal to those of the particles before, particle k has the conditional
        density `|P phi(x)|^2 / (N - k + 1)`. It is drawn by rejection from `|phi(x)|^2 / N`.

        Args:
            state: index n of each configuration, `(batch,)`, int64.
            generator: source of randomness, on the CPU; the global one by default.

        Returns:
            Positions in float64, `(batch, particle, dim)`.
        """
        number, dim = self.particles.shape
        orbitals = self.orbitals[state].cpu()
        z = torch.empty(len(state), number, dim, dtype=torch.float64)
        basis = torch.zeros(len(state), number, number, dtype=torch.float64)  # orthonormal rows
        for k in range(number):
            waiting = torch.arange(len(state))
            while len(waiting):
                # As long as few wait, each gets several candidates at once, of which the first one counts.
                tries = max(1, min(16, len(state) // len(waiting)))
                rows = waiting.repeat_interleave(tries)
                x, direction, accepted = self._propose(orbitals[rows], basis[rows, :k], generator)
                good = accepted.view(-1, tries)
                first = good.byte().argmax(1) + tries * torch.arange(len(waiting))
                placed = good.any(1)
                done, first = waiting[placed], first[placed]
                z[done, k], basis[done, k] = x[first], direction[first]
                waiting = waiting[~placed]
        # The labels are random already: every conditional density is that of a symmetric density.
        return z.to(self.energies.device)

    def _propose(
        self, orbitals: Tensor, basis: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return candidates `(batch, dim)`, the unit vectors along `P phi(x)`, and which are accepted."""
        n, number, _ = orbitals.shape
        pick = torch.randint(number, (n,), generator=generator)
        x, fine = self._sampler.propose(orbitals[torch.arange(n), pick], generator)
        phi = orbital_values(x[:, None], orbitals)[:, 0]
        left = phi
        for _ in range(2):  # Twice is enough for orthogonality to rounding.
            left = left - torch.einsum("zk,zkj->zj", torch.einsum("zkj,zj->zk", basis, left), basis)
        share = left.square().sum(1) / phi.square().sum(1)
        keep = torch.rand(n, generator=generator, dtype=torch.float64) < share
        return x, left / left.norm(dim=1, keepdim=True), keep & fine.all(1)

    def extra_repr(self) -> str:
        """Return what `repr` shows: particles and number of states."""
        return f"particles={self.particles.shape}, states={len(self)}, cutoff={float(self.energies.max()):g}"


def fermi_sea_energy(particles: Particles) -> float:
    """Return the ground-state energy of ideal fermions in the trap.

    >>> fermi_sea_energy(Particles(6, 2))
    14.0
    """
    return float(_levels(particles).sum()) + 0.5 * particles.size


def _levels(particles: Particles) -> Tensor:
    """Return `sum_a n_a` of the lowest N orbitals, ascending."""
    level = 0
    while math.comb(level + particles.dim, particles.dim) < particles.number:
        level += 1
    return quantum_numbers(particles.dim, level).sum(1)[: particles.number]


def _subsets(levels: list[int], number: int, spare: int) -> list[tuple[int, ...]]:
    """Return the sets of `number` orbitals, at most `spare` quanta above the lowest, in order of energy."""
    limit = sum(levels[:number]) + spare

    def extend(chosen: tuple[int, ...], total: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        missing = number - len(chosen)
        if not missing:
            yield total, chosen
            return
        for next_one in range(chosen[-1] + 1 if chosen else 0, len(levels) - missing + 1):
            if total + sum(levels[next_one : next_one + missing]) > limit:
                return
            yield from extend((*chosen, next_one), total + levels[next_one])

    return [chosen for _, chosen in sorted(extend((), 0))]
