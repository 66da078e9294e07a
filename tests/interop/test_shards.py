"""Shards belong to one flow, whoever evaluates it."""

from __future__ import annotations

from equiflow import EquivariantCNF, Lattice, fused
from equiflow.interop.shards import digest


def test_shards_go_on_with_and_without_kernels():
    flow = EquivariantCNF(Lattice((4, 4)))
    with fused.switched(True):
        one = digest(flow)
    with fused.switched(False):
        assert digest(flow) == one
    flow.vector_field.ridges.omega.data[0] += 1
    assert digest(flow) != one
