"""`fit` compares the gradient of an action with its values before it takes a step."""

from __future__ import annotations

import pytest
import torch

from equiflow import Action, EquivariantCNF, ForwardKL, Lattice, Mixture, PathGradient, ReverseKL, Solver, fit
from equiflow.training.validation import check_gradient_of_target
from tests.support.strategies import configurations

LATTICE = Lattice((4, 4))
SAMPLES = configurations(LATTICE, 8)


class Formula(Action):
    def __init__(self, space, formula):
        super().__init__(space)
        self.formula = formula

    def forward(self, phi):
        return self.formula(phi).flatten(1).sum(1)


def neighbours(phi, seen):
    """Return phi^4 with a kinetic term, whose neighbours are seen by `seen`."""
    return phi**4 + (phi - seen(phi.roll(1, -1))).square() + (phi - seen(phi.roll(1, -2))).square()


class HalfGradient(Formula):
    def grad(self, phi):
        return 0.5 * super().grad(phi)


class Single(Formula):
    """An action that computes in float32 alone."""

    def forward(self, phi):
        return super().forward(phi.float())


WRONG_GRADIENTS = {
    "a detached neighbour": (Formula, lambda phi: neighbours(phi, torch.detach), "part of S detached"),
    "a rounded mean": (
        Formula,
        lambda phi: neighbours(phi, lambda x: x) + phi**2 * phi.detach().square().mean((1, 2), keepdim=True),
        "part of S detached",
    ),
    "a factor": (HalfGradient, lambda phi: neighbours(phi, lambda x: x), "Does action.grad match action"),
    "in float32 alone": (Single, lambda phi: neighbours(phi, torch.detach), "part of S detached"),
}
GRADIENT_USERS = {
    "by default": lambda: None,
    "ReverseKL": ReverseKL,
    "Mixture": lambda: Mixture((PathGradient(), 0.5), (ForwardKL(SAMPLES), 0.5)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objective", GRADIENT_USERS)
@pytest.mark.parametrize("mistake", WRONG_GRADIENTS)
def test_fit_refuses_a_gradient_that_is_not_that_of_the_values_before_it_takes_a_step(
    mistake, objective, dtype
):
    kind, formula, words = WRONG_GRADIENTS[mistake]
    if kind is Single and dtype is torch.float64:
        pytest.skip("such an action is refused for its values")
    flow = EquivariantCNF(LATTICE, solver=Solver("euler", steps=1)).to(dtype=dtype)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        fit(
            flow,
            kind(LATTICE, formula),
            steps=1,
            batch_size=4,
            objective=GRADIENT_USERS[objective](),
            progress=False,
        )
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_right_gradient_passes_also_of_stiff_actions_and_behind_walls(dtype):
    def kept(phi):
        return neighbours(phi, lambda x: x)

    sound = {
        "own": Formula(LATTICE, kept),
        "stiff": Formula(LATTICE, lambda phi: 1e8 * kept(phi)),
        "with kinks": Formula(LATTICE, lambda phi: kept(phi) + phi.abs()),
        "with a wall": Formula(LATTICE, lambda phi: torch.where(phi.abs() < 0.5, kept(phi), torch.inf)),
    }
    if dtype is torch.float32:
        sound["in float32 alone"] = Single(LATTICE, kept)
    for action in sound.values():
        check_gradient_of_target(EquivariantCNF(LATTICE).to(dtype=dtype), action)


def test_an_objective_that_needs_no_gradient_trains_without_one():
    @torch.no_grad()
    def formula(phi):
        return phi**4

    flow = EquivariantCNF(LATTICE)
    fit(flow, Formula(LATTICE, formula), steps=1, batch_size=4, objective=ForwardKL(SAMPLES), progress=False)
    detached = Formula(LATTICE, lambda phi: neighbours(phi, torch.detach))
    fit(flow, detached, steps=1, batch_size=4, objective=ForwardKL(SAMPLES), progress=False)
