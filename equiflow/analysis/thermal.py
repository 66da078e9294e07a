"""Thermodynamics of fermions from a density matrix, each number with its error: `thermal_averages`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.flows.thermal import ThermalState
from equiflow.runtime.checks import check_count, check_type
from equiflow.statistics import Estimate
from equiflow.statistics.tables import ShownAsTable
from equiflow.theories.fermions.electrons import TrappedElectrons
from equiflow.theories.fermions.observables import pair_density, radial_density


@dataclass(frozen=True)
class RadialProfile:
    """A density as a function of a distance.

    Attributes:
        edges: distances that bound the bins, `(bin + 1,)`.
        mean: average density in each bin, `(bin,)`.
        error: its standard error, `(bin,)`.
    """

    edges: Tensor
    mean: Tensor
    error: Tensor

    @property
    def middle(self) -> Tensor:
        """Middle of each bin, `(bin,)`."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


@dataclass(frozen=True, repr=False)
class ThermalAverages(ShownAsTable):
    """Averages over a density matrix. All samples are independent.

    Attributes:
        free_energy: `F = <log p_n / beta + H Psi_n / Psi_n>`, an upper bound of the exact one. At zero
            temperature it is the energy.
        energy: `<H>`.
        kinetic: `<-lap / 2>`.
        trap: `<sum_i x_i^2 / 2>`.
        repulsion: `<sum_{i<j} Z / |x_i - x_j|>`.
        entropy: `-sum_n p_n log p_n`; known exactly for given p_n, so its error is 0.
        density: of particles around the centre of the trap.
        pairs: of pairs as a function of their distance.
        spread: standard deviation of the terms whose mean is F; it vanishes for the exact thermal state.
    """

    free_energy: Estimate
    energy: Estimate
    kinetic: Estimate
    trap: Estimate
    repulsion: Estimate
    entropy: Estimate
    density: RadialProfile
    pairs: RadialProfile
    spread: float

    def _rows(self) -> dict[str, object]:
        names = ("free_energy", "energy", "kinetic", "trap", "repulsion", "entropy")
        return {name.replace("_", " "): getattr(self, name) for name in names}


@torch.no_grad()
def thermal_averages(
    rho: ThermalState,
    electrons: TrappedElectrons,
    n_samples: int,
    *,
    batch_size: int = 1000,
    n_bins: int = 40,
    reach: float | None = None,
    generator: torch.Generator | None = None,
) -> ThermalAverages:
    """Measure a density matrix on fresh samples.

    The systematic error of the energies is their change under a solver with twice the steps, on the samples
    of the first batch.

    Args:
        rho: the density matrix.
        electrons: the Hamiltonian.
        n_samples: number of samples, >= 2.
        batch_size: samples at a time.
        n_bins: number of bins of the densities.
        reach: largest distance of the densities; by default a little more than the largest of the first
            batch. Distances beyond are in no bin.
        generator: source of randomness, on the CPU; the global one by default.

    Returns:
        Energies, entropy and densities with their errors.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a count is out of range.
    """
    check_type(rho, ThermalState, "rho")
    check_type(electrons, TrappedElectrons, "electrons")
    check_count(n_samples, "n_samples", minimum=2)
    check_count(batch_size, "batch_size")
    check_count(n_bins, "n_bins")
    columns: list[Tensor] = []
    densities: list[Tensor] = []
    pairs: list[Tensor] = []
    edges, systematic = torch.empty(0), 0.0
    for first in range(0, n_samples, batch_size):
        state, z = rho.draw(min(batch_size, n_samples - first), generator=generator)
        sample = rho.carry(z, state)
        energy = sample.local_energy(electrons)
        if not columns:
            finer = rho.carry(z, state, solver=rho.solver.refined())
            systematic = abs(float((finer.local_energy(electrons) - energy).mean()))
            largest = 1.1 * float(sample.x.norm(dim=-1).max()) if reach is None else float(reach)
            edges = torch.linspace(0, largest, n_bins + 1, dtype=z.dtype)
        trap, repulsion = electrons.trap_energy(sample.x), electrons.repulsion(sample.x)
        local = energy + sample.log_probability / rho.beta
        columns.append(torch.stack([local, energy, energy - trap - repulsion, trap, repulsion]).cpu())
        densities.append(radial_density(sample.x.cpu(), edges))
        pairs.append(pair_density(sample.x.cpu(), 2 * edges))
    series = torch.cat(columns, 1).double()
    values = dict(zip(("free_energy", "energy", "kinetic", "trap", "repulsion"), series, strict=True))
    by_solver = {name: 0.0 if name in ("trap", "repulsion") else systematic for name in values}
    return ThermalAverages(
        **{name: _estimate(one, by_solver[name]) for name, one in values.items()},
        entropy=Estimate(float(rho.entropy()), 0.0),
        density=_profile(torch.cat(densities), edges),
        pairs=_profile(torch.cat(pairs), 2 * edges),
        spread=float(values["free_energy"].std()),
    )


def _estimate(values: Tensor, systematic: float) -> Estimate:
    """Return the mean of independent values."""
    error = float(values.std()) / len(values) ** 0.5
    return Estimate(float(values.mean()), error, 0.5, systematic)


def _profile(densities: Tensor, edges: Tensor) -> RadialProfile:
    """Return the mean of independent rows `(batch, bin)`."""
    return RadialProfile(edges, densities.mean(0), densities.std(0) / len(densities) ** 0.5)
