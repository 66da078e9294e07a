"""As many solver steps as the flow needs, and training that is set back when it runs away."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
import torch

from equiflow import (
    Action,
    CouplingFlow,
    DeepAttentionField,
    EquivariantCNF,
    Lattice,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    TrainingDivergedError,
    fit,
)
from equiflow.flows import Flow
from equiflow.training import AdaptivePathGradient, ObjectiveValue
from equiflow.training.objectives.adaptive import Adaptation
from equiflow.training.recipe import Recipe
from tests.support.training import (
    ACTION,
    FAST,
    SHORT,
    SQUARE,
    InterruptionError,
    build,
    columns,
    same,
    weights,
)

OBJECTIVE = AdaptivePathGradient(solver=FAST, last_steps=1)


def stiff(scale: float) -> EquivariantCNF:
    """A flow with random kernels of a given size."""
    flow = build(solver=Solver("rk5", steps=40))
    with torch.no_grad():
        for parameter in flow.vector_field.kernel.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return flow


def spread_by_hand(flow: EquivariantCNF, steps: int, seed: int) -> float:
    z = flow.prior.rsample(8, torch.Generator().manual_seed(seed))
    found = []
    for n in (steps, 2 * steps):
        flow.solver = Solver("rk4", steps=n)
        phi, log_det = flow.transform_and_log_det(z)
        found.append(log_det.detach() - ACTION(phi.detach()))
    return float((found[1] - found[0]).std())


def test_the_error_is_the_scatter_of_log_weights_in_twice_the_steps():
    flow = stiff(0.3)
    found = Adaptation(OBJECTIVE, 3).error(flow, ACTION, seed=5)
    assert found == pytest.approx(spread_by_hand(flow, 3, 5), rel=1e-10)
    assert found > 1e-4
    # It falls as the order of the method says, up to higher orders.
    finer = Adaptation(OBJECTIVE, 12).error(flow, ACTION, seed=5)
    assert Adaptation(OBJECTIVE, 24).error(flow, ACTION, seed=5) < finer / 8


def test_steps_grow_until_the_error_is_tolerable_and_shrink_when_fewer_would_do():
    flow = stiff(0.5)
    objective = replace(OBJECTIVE, tolerance=1e-3, max_steps=64)
    adaptation = objective.adaptation()
    assert not adaptation.check(flow, ACTION, step=5, seed=0).is_small
    numbers = [adaptation.steps]
    for step in range(6, 30):
        adaptation.check(flow, ACTION, step=step, seed=0)
        numbers.append(adaptation.steps)
    assert objective.solver.steps < numbers[0] < 64
    assert adaptation.check(flow, ACTION, step=30, seed=0).is_small
    still = build()
    for step in range(31, 31 + 64):
        adaptation.check(still, ACTION, step=step, seed=0)
    assert adaptation.steps == objective.solver.steps


def test_at_most_so_many_steps_are_taken():
    adaptation = AdaptivePathGradient(tolerance=1e-12, max_steps=6).adaptation()
    for step in range(5):
        adaptation.check(stiff(1.0), ACTION, step=step, seed=0)
    assert adaptation.steps == 6


def test_where_the_most_steps_are_too_few_the_weights_are_lost():
    flow = stiff(0.5)
    tolerance = Adaptation(OBJECTIVE, 6).error(flow, ACTION, seed=0) / 2
    found = []
    for max_steps in (6, 7):
        adaptation = Adaptation(replace(OBJECTIVE, tolerance=tolerance, max_steps=max_steps), 6)
        found.append(adaptation.check(flow, ACTION, step=0, seed=0).is_lost)
    assert found == [True, False]


def test_the_fewest_steps_grow_toward_the_end():
    objective = AdaptivePathGradient(solver=Solver("rk4", steps=3), last_steps=7, max_steps=9)
    assert [objective.fewest_steps(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == [3, 4, 5, 7]
    assert replace(objective, last_steps=20).fewest_steps(1.0) == 9
    assert replace(objective, last_steps=2).fewest_steps(1.0) == 3
    adaptation, still = objective.adaptation(), build()
    for progress, steps in ((0.0, 3), (0.5, 5), (1.0, 7)):
        assert adaptation.at(progress).solver == Solver("rk4", steps=steps)
        # An accurate solver does not become coarser than that.
        assert adaptation.check(still, ACTION, step=1, seed=0).is_small
        assert adaptation.steps == steps


def test_a_restored_adaptation_knows_the_fewest_steps():
    objective = AdaptivePathGradient(last_steps=7)
    adaptation, restored, old = (objective.adaptation() for _ in range(3))
    adaptation.at(1.0)
    restored.restore(adaptation.state())
    assert restored.state() == adaptation.state()
    restored.check(build(), ACTION, step=1, seed=0)
    assert restored.steps == 7
    # A file of the first recipe has no such entry.
    old.restore({"steps": 4, "due": 5, "between": 5})
    assert (old.steps, old.fewest) == (4, 3)


def test_calm_training_is_checked_less_and_less_often():
    adaptation, due = OBJECTIVE.adaptation(), []
    for step in range(1, 120):
        if adaptation.is_due(step):
            due.append(step)
            adaptation.check(build(), ACTION, step=step, seed=0)
    assert due == [5, 15, 30, 50, 75, 100]
    adaptation.hasten()
    assert adaptation.is_due(101)


def test_a_solve_without_a_finite_end_is_an_infinite_error():
    check = OBJECTIVE.adaptation().check(stiff(1e30), ACTION, step=5, seed=0)
    assert math.isinf(check.error)
    assert check.is_lost
    assert not check.is_small


def test_the_penalty_decays_exponentially():
    objective = AdaptivePathGradient(first_penalty=1e-1, last_penalty=1e-5)
    assert [objective.penalty(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1e-1, 1e-2, 1e-3, 1e-5])
    assert objective.at(0.5, steps=7) == PathGradient(
        kinetic_penalty=objective.penalty(0.5), solver=Solver("rk4", steps=7)
    )


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"solver": Solver()}, ValueError),
        ({"solver": Solver("rk4", steps=33)}, ValueError),
        ({"solver": "rk4"}, TypeError),
        ({"first_penalty": 0.0}, ValueError),
        ({"last_penalty": -1.0}, ValueError),
        ({"last_steps": 0}, ValueError),
        ({"last_steps": 2.5}, TypeError),
        ({"tolerance": math.inf}, ValueError),
        ({"max_steps": 8.0}, TypeError),
    ],
)
def test_bad_settings_are_refused(bad, error):
    with pytest.raises(error):
        AdaptivePathGradient(**bad)


def test_flows_that_do_not_integrate_are_refused():
    with pytest.raises(TypeError, match="ReverseKL"):
        fit(CouplingFlow(SQUARE, n_layers=2), ACTION, objective=OBJECTIVE, **SHORT)


def test_estimated_traces_are_refused():
    flow = EquivariantCNF(SQUARE, vector_field=DeepAttentionField(SQUARE, trace="hutchinson"))
    with pytest.raises(ValueError, match="only estimated"):
        OBJECTIVE.adaptation().check(flow, ACTION, step=5, seed=0)
    with pytest.raises(ValueError, match="only estimated"):
        OBJECTIVE.check_suits(flow, ACTION)
    assert Recipe.of(flow).objective == PathGradient(solver=flow.training_solver)


@dataclass(frozen=True)
class Running:
    """An adaptive objective that runs away at some calls; its `repr` is that of the objective inside."""

    inner: AdaptivePathGradient
    away: tuple[int, ...]
    how: float = math.nan
    interrupted: int = 0
    calls: list[int] = field(default_factory=list)
    seen: list[PathGradient] = field(default_factory=list)

    def __repr__(self) -> str:
        return repr(self.inner)

    def at(self, progress: float, *, steps: int | None = None) -> Running:
        self.seen.append(self.inner.at(progress, steps=steps))
        return self

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def adaptation(self) -> Adaptation:
        return Adaptation(self, self.inner.solver.steps)

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        self.calls.append(1)
        value = self.seen[-1](flow, action, batch_size, generator)
        if len(self.calls) == self.interrupted:
            raise InterruptionError
        if len(self.calls) in self.away:
            return ObjectiveValue(value.surrogate * self.how, value.log_weight, value.nfe)
        return value


def test_training_that_has_run_away_is_set_back_with_half_the_rate_and_a_finer_solver():
    objective, flow = Running(OBJECTIVE, away=(7,)), build()
    history = fit(flow, ACTION, objective=objective, **SHORT | {"steps": 10})
    assert history.step == list(range(1, 11))
    assert len(objective.calls) == 11
    (note,) = history.notes
    assert "step 7: set back to the weights of step 1, with half the learning rate and 6 steps of rk4" in note
    assert history.nfe == [16] * 6 + [24] * 4
    calm = fit(build(), ACTION, objective=OBJECTIVE, **SHORT | {"steps": 10})
    assert calm.notes == []
    rates = [1.0] * 6 + [0.5] * 4
    assert history.learning_rate == pytest.approx(
        [r * f for r, f in zip(calm.learning_rate, rates, strict=True)]
    )
    # The loss goes on from that of the start.
    assert history.loss[:6] == calm.loss[:6]
    assert abs(history.loss[6] - calm.loss[0]) < abs(history.loss[6] - calm.loss[5])


def test_what_is_set_back_are_the_weights_and_the_memory_of_the_optimiser():
    """A run that is set back to its start and one that begins with half the rate differ by noise alone."""

    @dataclass(frozen=True)
    class Still(Running):
        """Always the same noise."""

        def __call__(
            self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
        ) -> ObjectiveValue:
            return super().__call__(flow, action, batch_size, torch.Generator().manual_seed(7))

    options = SHORT | {"warmup": 0, "steps": 3, "learning_rate": 0.01}
    finer = replace(OBJECTIVE, solver=Solver("rk4", steps=6))
    back, fresh = build(), build()
    fit(back, ACTION, objective=Still(OBJECTIVE, away=(3,)), **options)
    rates = fit(
        fresh, ACTION, objective=Still(finer, away=()), **options | {"learning_rate": 0.005}
    ).learning_rate
    expected = build()
    optimiser = torch.optim.Adam(expected.parameters(), lr=1.0, betas=(0.9, 0.99), eps=1e-5)
    optimiser.param_groups[0]["lr"] = rates[2]
    value = finer.at(2 / 3)(expected, ACTION, 8, torch.Generator().manual_seed(7))
    value.surrogate.backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 10.0)
    optimiser.step()
    for found, wanted in zip(weights(back), weights(expected), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_a_run_that_runs_away_again_and_again_diverges():
    with pytest.raises(TrainingDivergedError, match="gradient norm nan") as caught:
        fit(build(), ACTION, objective=Running(OBJECTIVE, away=tuple(range(3, 99))), **SHORT)
    assert len(caught.value.history) == 2
    assert len(caught.value.history.notes) == 8


@pytest.mark.parametrize("at", [4, 9, 13])
def test_a_run_that_was_set_back_goes_on_as_if_it_had_not_been_interrupted(at, tmp_path):
    options = SHORT | {"steps": 12, "checkpoint_every": 2, "learning_rate": 0.05}
    objective = replace(OBJECTIVE, tolerance=1e-6)
    whole, resumed = build(), build()
    expected = fit(whole, ACTION, objective=Running(objective, away=(8,)), **options)
    assert len(expected.notes) > 1
    stopping = Running(objective, away=(8,), interrupted=at)
    with pytest.raises(InterruptionError):
        fit(build(), ACTION, objective=stopping, checkpoint=tmp_path / "run.pt", **options)
    # Calls before the checkpoint are not repeated.
    taken = torch.load(tmp_path / "run.pt", weights_only=True)["step"]
    left = (8 - taken,) if taken < 8 else ()
    history = fit(
        resumed, ACTION, objective=Running(objective, away=left), checkpoint=tmp_path / "run.pt", **options
    )
    assert columns(history) == columns(expected)
    assert history.notes == expected.notes
    assert same(weights(resumed), weights(whole))


def test_training_whose_gradients_stay_large_is_set_back_from_where_it_went_well():
    objective = Running(OBJECTIVE, away=tuple(range(28, 33)), how=1e3)
    history = fit(build(), ACTION, objective=objective, **SHORT | {"steps": 40, "learning_rate": 1e-4})
    assert history.notes[0].startswith("step 31: set back to the weights of step 15, ")
    assert sum("set back" in note for note in history.notes) == 1
    assert history.step == list(range(1, 41))


def test_a_gradient_that_jumps_lets_the_solver_be_checked_at_once():
    options = SHORT | {"steps": 9, "learning_rate": 1e-9}
    flow = stiff(0.5)
    calm = fit(flow, ACTION, objective=replace(OBJECTIVE, tolerance=1e-3), **options)
    flow = stiff(0.5)
    jumping = Running(replace(OBJECTIVE, tolerance=1e-3), away=(2,), how=1e3)
    history = fit(flow, ACTION, objective=jumping, **options)
    assert [n > 16 for n in calm.nfe] == [False] * 4 + [True] * 5
    assert [n > 16 for n in history.nfe] == [False] * 2 + [True] * 7
    assert history.notes[0].startswith("step 3: ")


def test_a_field_too_stiff_for_the_first_solver_trains():
    """Without more steps, this training runs away."""
    lattice = Lattice((8, 8))
    action = Phi4(lattice, m2=-4.0, lam=3.5)
    options = {"steps": 40, "batch_size": 16, "progress": False, "learning_rate": 0.2}
    last = []
    for objective in (AdaptivePathGradient(), PathGradient(solver=FAST)):
        flow = EquivariantCNF(lattice).double()
        try:
            history = fit(flow, action, objective=objective, **options)
            last.append(sum(history.loss[-10:]) / 10)
        except TrainingDivergedError:
            last.append(math.inf)
    assert last[0] < last[1] - 1


def test_a_loop_of_ones_own_gets_the_objective_of_the_end():
    generators = (torch.Generator().manual_seed(0) for _ in range(2))
    one = OBJECTIVE(build(), ACTION, 8, next(generators))
    other = PathGradient(kinetic_penalty=1e-4, solver=FAST)(build(), ACTION, 8, next(generators))
    assert torch.equal(one.surrogate, other.surrogate)


def test_objectives_that_do_not_change_have_no_such_state(tmp_path):
    fit(build(), ACTION, objective=ReverseKL(), checkpoint=tmp_path / "run.pt", **SHORT)
    assert "adaptation" not in torch.load(tmp_path / "run.pt", weights_only=True)
