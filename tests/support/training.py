"""A small flow to train, and an objective that misbehaves on one call."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from equiflow import (
    Action,
    EquivariantCNF,
    Lattice,
    OrbitConvField,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    SymmetryGroup,
)
from equiflow.flows import Flow
from equiflow.training import History, Objective, ObjectiveValue

SQUARE = Lattice((4, 4))
ACTION = Phi4(SQUARE, m2=-4.0, lam=7.0)
FAST = Solver("rk4", steps=4)
SHORT = {"steps": 6, "batch_size": 8, "warmup": 2, "progress": False}
OBJECTIVES = [PathGradient(solver=FAST), ReverseKL()]


def build(
    lattice: Lattice = SQUARE, *, solver: Solver = FAST, group: SymmetryGroup | None = None, **options: object
) -> EquivariantCNF:
    options = {"n_frequencies": 3, "n_time_modes": 2, "max_frequency": 4.0} | options
    vector_field = OrbitConvField(lattice, group=group, **options)
    return EquivariantCNF(lattice, vector_field=vector_field, solver=solver).double()


def weights(flow: Flow) -> list[torch.Tensor]:
    return [p.detach().clone() for p in flow.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def columns(history: History) -> dict[str, list[float]]:
    """The record without the wall time."""
    return {name: column for name, column in history.to_dict().items() if name != "seconds"}


class InterruptionError(Exception):
    pass


@dataclass(frozen=True)
class Tampered:
    """An objective that misbehaves on one call; its `repr` is that of the objective inside."""

    inner: Objective
    at: int
    value: float | None = None
    calls: list[int] = field(default_factory=list)

    def __repr__(self) -> str:
        return repr(self.inner)

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        self.calls.append(1)
        result = self.inner(flow, action, batch_size, generator)
        if len(self.calls) != self.at:
            return result
        if self.value is None:
            raise InterruptionError
        return ObjectiveValue(result.surrogate * self.value, result.log_weight, result.nfe)
