"""Small density matrices of trapped fermions."""

from __future__ import annotations

from equiflow import BackflowField, ParticleField, Particles, SlaterStates, Solver, ThermalState
from equiflow.testing import randomise
from equiflow.vector_fields import VectorField


def random_field(particles: Particles, family: type[VectorField] = BackflowField) -> VectorField:
    """Return a field with random weights, small enough that E_loc is smooth."""
    small = {"n_hidden": 3} if family is ParticleField else {}
    field = family(particles, n_radial=2, n_time_modes=2, **small).double()
    randomise(field, scale=0.1)
    return field


def thermal_state(
    particles: Particles,
    *,
    excitations: int = 1,
    beta: float = 2.0,
    family: type[VectorField] = BackflowField,
    steps: int = 8,
) -> ThermalState:
    """Return determinants up to some quanta above the Fermi sea, carried by a random flow."""
    cutoff = float(SlaterStates(particles).energies[0]) + excitations
    states, field = SlaterStates(particles, cutoff=cutoff), random_field(particles, family)
    return ThermalState(states, beta=beta, vector_field=field, solver=Solver("rk5", steps=steps))
