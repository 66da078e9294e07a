"""What every family of fields owes to those who save a flow."""

from __future__ import annotations

from pathlib import Path

import torch

from equiflow import EquivariantCNF, Solver, VectorField
from tests.support.strategies import configurations


def assert_saved_flow_loads_bitwise_equal(field: VectorField, folder: Path) -> None:
    """A flow of the field, saved and loaded, has the same config and the same density to the last bit."""
    flow = EquivariantCNF(field.lattice, vector_field=field, solver=Solver("rk4", steps=2)).double()
    flow.save(folder / "flow.pt")
    loaded = EquivariantCNF.load(folder / "flow.pt")
    assert loaded.vector_field.config() == field.config()
    phi = configurations(field.lattice)
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))
