"""The law of saving that every family of vector fields obeys."""

from __future__ import annotations

from pathlib import Path

import torch

from equiflow import EquivariantCNF, Solver, VectorField
from tests.support.strategies import configurations


def assert_saved_flow_loads_bitwise_equal(field: VectorField, folder: Path) -> None:
    """Raise unless a saved flow with this field loads with the same config and the same density, bit for bit.

    Args:
        field: on a lattice.
        folder: where the flow is saved.
    """
    flow = EquivariantCNF(field.lattice, vector_field=field, solver=Solver("rk4", steps=2)).double()
    flow.save(folder / "flow.pt")
    loaded = EquivariantCNF.load(folder / "flow.pt")
    assert loaded.vector_field.config() == field.config()
    phi = configurations(field.lattice)
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))
