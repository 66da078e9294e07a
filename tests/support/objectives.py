"""Small flows, samples, and one objective of each kind."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from equiflow import (
    AugmentedFlow,
    EquivariantCNF,
    Flow,
    FlowMatching,
    ForwardKL,
    Lattice,
    Mixture,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
)
from equiflow.testing import randomise
from equiflow.training import History, Objective, ObjectiveValue
from tests.support.strategies import configurations, small_flow

RECTANGLE = Lattice((2, 3))
ACTION = Phi4(RECTANGLE, m2=-4.0, lam=7.0)
FAST = Solver("rk4", steps=3)
SHORT = {"steps": 6, "batch_size": 8, "warmup": 2, "learning_rate": 1e-2, "progress": False}
PHI = 0.5 * configurations(RECTANGLE, n=20, seed=3)
FORWARD, MATCHING = ForwardKL(PHI, solver=FAST), FlowMatching(PHI, n_times=3)
PATH = PathGradient(solver=FAST)
OBJECTIVES: dict[str, Objective] = {
    "forward": FORWARD,
    "independent": FlowMatching(PHI, pairing="independent", sigma=0.1),
    "matching": MATCHING,
    "mixture": Mixture((PATH, 0.25), (FORWARD, 0.75)),
    "nested": Mixture((MATCHING, 0.5), (Mixture((ReverseKL(), 0.5), (FORWARD, 0.5)), 0.5)),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(lattice: Lattice = RECTANGLE) -> EquivariantCNF:
    return small_flow(lattice.shape, solver=FAST)


def exact_map() -> AugmentedFlow:
    flow = AugmentedFlow(RECTANGLE, n_steps=1, n_channels=1, n_frequencies=1).double()
    randomise(flow, scale=0.1)
    return flow


def gradient(value: ObjectiveValue, flow: Flow) -> Tensor:
    trained = [p for p in flow.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(value.surrogate, trained, allow_unused=True, materialize_grads=True)
    return torch.cat([slope.flatten() for slope in slopes])


def weights(flow: Flow) -> Tensor:
    return nn.utils.parameters_to_vector(flow.parameters()).detach().clone()


@dataclass(frozen=True)
class Interrupted:
    """Stops at one call; its `repr` and its name are those of the objective inside."""

    inner: Objective
    at: int
    calls: list[int] = field(default_factory=list)

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def __name__(self) -> str:
        return type(self.inner).__name__

    def __call__(self, *arguments: object) -> ObjectiveValue:
        self.calls.append(1)
        if len(self.calls) == self.at:
            raise KeyboardInterrupt
        return self.inner(*arguments)


def record(history: History) -> dict[str, list[float | None]]:
    return {name: column for name, column in history.to_dict().items() if name != "seconds"}
