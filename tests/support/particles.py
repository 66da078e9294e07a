"""Small fields of particles."""

from __future__ import annotations

from equiflow import ParticleField, Particles
from equiflow.testing import randomise

PLANE = Particles(3, 2)


def random_field(space: Particles = PLANE, **options: object) -> ParticleField:
    field = ParticleField(space, n_radial=2, n_hidden=3, n_time_modes=2, **options).double()
    randomise(field, scale=0.5)
    return field
