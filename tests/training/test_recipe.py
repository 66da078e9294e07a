"""What `fit` takes for what it is not told; what it is told wins."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from equiflow import (
    ActionFamily,
    ConditionalFlow,
    CouplingFlow,
    EquivariantCNF,
    FactorisedConvField,
    Lattice,
    OrbitConvField,
    OverCouplings,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    fit,
)
from equiflow.training import AdaptivePathGradient
from equiflow.training.recipe import Recipe
from equiflow.training.trainer import adam
from tests.support.training import SQUARE, columns, same, weights

ACTION = Phi4(Lattice((3, 3)), m2=-4.0, lam=8.0)


def new() -> EquivariantCNF:
    return EquivariantCNF(ACTION.lattice).double()


def test_fit_alone_follows_the_recipe():
    recipe = Recipe.of(new())
    short = Recipe.of(new()).steps // 30
    told, untold = new(), new()
    one = fit(untold, ACTION, steps=short, progress=False)
    other = fit(
        told,
        ACTION,
        steps=short,
        batch_size=recipe.batch_size,
        learning_rate=told.learning_rate,
        objective=AdaptivePathGradient(),
        optimiser=partial(torch.optim.Adam, betas=(0.9, 0.99), eps=1e-5),
        progress=False,
    )
    assert columns(one) == columns(other)
    assert same(weights(told), weights(untold))


def test_fit_alone_takes_the_steps_of_the_recipe():
    flow = EquivariantCNF(Lattice((2, 2)), vector_field=OrbitConvField(Lattice((2, 2)), n_frequencies=1))
    type(flow.vector_field).training_steps = property(lambda field: 4)
    try:
        assert len(fit(flow, Phi4(Lattice((2, 2)), m2=1.0, lam=1.0), batch_size=2, progress=False)) == 4
    finally:
        del type(flow.vector_field).training_steps


@pytest.mark.parametrize(
    ("shape", "steps"), [((4, 4), 300), ((8, 8), 300), ((16, 16), 600), ((32, 32), 1200), ((64, 64), 2400)]
)
def test_the_default_field_takes_as_many_steps_as_the_lattice_is_wide(shape, steps):
    flow = EquivariantCNF(Lattice(shape))
    assert (flow.training_steps, flow.training_batch_size) == (steps, 16)


def test_large_batches_are_trained_with_checkpoints_in_the_solver():
    for side, sparing in ((64, False), (96, True), (128, True)):
        flow = EquivariantCNF(Lattice((side, side)))
        assert Recipe.of(flow).objective.solver == Solver("rk4", steps=3, checkpoint=sparing)
    # A run of version 2 goes on without, or its settings would differ.
    assert Recipe.to_go_on(flow, {"version": 2}).objective == AdaptivePathGradient()
    assert Recipe.to_go_on(flow, {"version": 3}) == Recipe.of(flow) == Recipe.to_go_on(flow, None)


def test_what_is_given_wins():
    told = {"steps": 3, "batch_size": 5, "learning_rate": 0.01, "objective": ReverseKL(), "warmup": 0}
    sizes: list[int] = []

    class Seen(PathGradient):
        def __call__(self, flow, action, batch_size, generator=None):
            sizes.append(batch_size)
            return super().__call__(flow, action, batch_size, generator)

    objective = Seen(kinetic_penalty=0.5, solver=Solver("rk5", steps=2))
    history = fit(new(), ACTION, **told | {"objective": objective}, progress=False)
    assert sizes == [5, 5, 5]
    assert set(history.nfe) == {12}
    assert max(history.learning_rate) == 0.01
    assert history.notes == []


@pytest.mark.parametrize(
    ("objective", "optimiser", "batch_size"),
    [
        (PathGradient(), adam, 16),
        (PathGradient(), torch.optim.SGD, 128),
        (AdaptivePathGradient(), adam, 16),
        (ReverseKL(), adam, 128),  # its variance does not vanish at the optimum
    ],
    ids=["path", "own optimiser", "adaptive", "reverse"],
)
def test_few_samples_are_for_path_gradients_with_adam(objective, optimiser, batch_size, monkeypatch):
    drawn: list[int] = []
    kind = ReverseKL if isinstance(objective, ReverseKL) else PathGradient
    compute = kind.__call__

    def recorded(self, flow, action, n, generator=None):
        drawn.append(n)
        return compute(self, flow, action, n, generator)

    monkeypatch.setattr(kind, "__call__", recorded)
    fit(new(), ACTION, steps=1, objective=objective, optimiser=optimiser, progress=False)
    assert drawn == [batch_size]


@pytest.mark.parametrize(("kind", "steps"), [(OrbitConvField, 5), (FactorisedConvField, 10)])
def test_where_nothing_adapts_the_solver_is_the_one_that_suits_the_field(kind, steps):
    solver = Solver("rk5", steps=steps)
    flow = EquivariantCNF(SQUARE, vector_field=kind(SQUARE))
    assert kind.training_solver == solver
    assert Recipe.of(flow).objective == AdaptivePathGradient()
    assert Recipe.of_version_0_1(flow) == Recipe(600, 128, PathGradient(solver=solver), eps=1e-8)
    conditional = Recipe.of(ConditionalFlow(flow, {"lam": (6.0, 9.0)}))
    assert conditional.objective == OverCouplings(PathGradient(kinetic_penalty=1e-2, solver=solver))
    assert (conditional.steps, conditional.batch_size) == (600, 128)


def test_flows_of_other_kinds_take_many_samples():
    recipe = Recipe.of(CouplingFlow(SQUARE, n_layers=2))
    assert (recipe.steps, recipe.batch_size) == (600, 128)


def test_a_family_of_actions_is_trained_by_the_solver_that_suits_the_field():
    flow = ConditionalFlow(EquivariantCNF(Lattice((2, 2))), {"lam": (6.0, 9.0)})
    family = ActionFamily(Phi4, Lattice((2, 2)), m2=-4.0, lam=(6.0, 9.0))
    history = fit(flow, family, steps=1, progress=False)
    assert history.nfe == [6 * 5]  # rk5 in five steps


def test_a_checkpoint_says_which_recipe_it_follows(tmp_path):
    flow = new()
    fit(flow, ACTION, steps=2, batch_size=2, checkpoint=tmp_path / "run.pt", progress=False)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    assert Recipe.to_go_on(flow, saved) == Recipe.to_go_on(flow, None) == Recipe.of(flow)
    saved.pop("version")
    assert Recipe.to_go_on(flow, saved) == Recipe.of_version_0_1(flow)
