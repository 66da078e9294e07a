"""Small fields and flows of angles."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from equiflow import AngleField, Angles, EquivariantCNF, Lattice, PathGradient, Solver, XYModel, fit
from equiflow.testing import randomise
from tests.support.strategies import lattices

SQUARE = Angles(Lattice((3, 3)))
TURN = 2 * math.pi
spaces = st.builds(Angles, lattices(max_volume=24))


def random_field(angles: Angles = SQUARE, **options: object) -> AngleField:
    options = {"n_ridges": 3, "n_time_modes": 2} | options
    field = AngleField(angles, **options).double()
    randomise(field, scale=0.3)
    return field


def small_flow(angles: Angles = SQUARE, *, scale: float = 0.1) -> EquivariantCNF:
    flow = EquivariantCNF(
        angles, vector_field=random_field(angles), solver=Solver("dopri5", rtol=1e-7, atol=1e-7)
    ).double()
    with torch.no_grad():
        for parameter in (flow.vector_field.amplitude, flow.vector_field.harmonics.weight):
            parameter.mul_(scale / 0.3)
    return flow


def trained(angles: Angles, beta: float, steps: int) -> EquivariantCNF:
    """Return a flow of angles after a short training."""
    field = AngleField(angles, n_ridges=4, n_time_modes=2)
    flow = EquivariantCNF(angles, vector_field=field, solver=Solver("rk5", steps=4)).double()
    options = {"batch_size": 64, "learning_rate": 8e-2, "warmup": 5, "progress": False}
    objective = PathGradient(solver=Solver("rk4", steps=2))
    fit(flow, XYModel(angles, beta=beta), steps=steps, objective=objective, **options)
    return flow
