"""Training on one lattice after another."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from equiflow import (
    Action,
    CheckpointError,
    EquivariantCNF,
    ForwardKL,
    FreeField,
    Lattice,
    Links,
    Mixture,
    NaturalGradient,
    PathGradient,
    Phi4,
    Solver,
    SUNField,
    WilsonAction,
    fit,
    fit_ladder,
    importance_sample,
)
from equiflow.flows import Flow
from equiflow.testing import randomise
from equiflow.training import History, Objective, ObjectiveValue, Rung
from equiflow.vector_fields import OrbitConvField
from tests.support.strategies import small_flow

FAST = Solver("rk4", steps=3)
OBJECTIVE = PathGradient(solver=FAST)
ACTIONS = [
    Phi4(Lattice(shape), m2=-4.0, lam=lam) for shape, lam in (((3, 3), 9.0), ((4, 4), 8.0), ((4, 6), 7.0))
]
SHORT = {"steps": 5, "batch_size": 8, "warmup": 2, "progress": False, "objective": OBJECTIVE}


def start(shape: tuple[int, ...] = (3, 3)) -> EquivariantCNF:
    return small_flow(shape, solver=FAST, scale=0.02)


def weights(flow: Flow) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in flow.state_dict().items()}


def same(one: Flow, other: Flow) -> bool:
    values = other.state_dict()
    return all(torch.equal(value, values[name]) for name, value in one.state_dict().items())


def columns(history: History) -> dict[str, list[float]]:
    return {name: column for name, column in history.to_dict().items() if name != "seconds"}


def assert_same_ladder(found: list[Rung], expected: list[Rung]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.action is other.action
        assert one.flow.lattice == other.flow.lattice == other.action.lattice
        assert columns(one.history) == columns(other.history)
        assert same(one.flow, other.flow)


@dataclass(frozen=True)
class Counting:
    """An objective that counts its calls and interrupts one; its `repr` is that of the objective inside."""

    inner: Objective = OBJECTIVE
    interrupt_at: int = 0
    calls: list[tuple[int, ...]] = field(default_factory=list)

    def __repr__(self) -> str:
        return repr(self.inner)

    def __call__(
        self, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
    ) -> ObjectiveValue:
        self.calls.append(flow.lattice.shape)
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        return self.inner(flow, action, batch_size, generator)


def by_hand(flow: EquivariantCNF, rates: tuple[float, ...], **options: object) -> list[Rung]:
    rungs = []
    for action, rate in zip(ACTIONS, rates, strict=True):
        flow = flow if flow.lattice == action.lattice else flow.resized(action.lattice)
        rungs.append(Rung(action, flow, fit(flow, action, learning_rate=rate, **SHORT | options)))
    return rungs


def test_a_ladder_is_fit_and_resized_in_turn():
    expected = by_hand(start(), (0.02, 0.01, 0.01))
    assert_same_ladder(fit_ladder(ACTIONS, flow=start(), **SHORT), expected)
    assert len({id(rung.flow) for rung in expected}) == 3
    assert not same(start(), expected[0].flow)


def test_a_ladder_is_deterministic_and_the_seed_matters():
    torch.manual_seed(1)
    one = fit_ladder(ACTIONS, flow=start(), seed=3, **SHORT)
    torch.manual_seed(2)
    assert_same_ladder(fit_ladder(ACTIONS, flow=start(), seed=3, **SHORT), one)
    other = fit_ladder(ACTIONS, flow=start(), seed=4, **SHORT)
    assert not any(same(a.flow, b.flow) for a, b in zip(one, other, strict=True))


def test_settings_may_differ_from_rung_to_rung():
    rungs = fit_ladder(
        ACTIONS, flow=start(), **SHORT | {"steps": [3, 2, 4], "learning_rate": (0.03, None, 0.005)}
    )
    assert [len(rung.history) for rung in rungs] == [3, 2, 4]
    # The first step is at half the rate: the warm-up takes two.
    assert [rung.history.learning_rate[0] for rung in rungs] == pytest.approx([0.015, 0.005, 0.0025])
    counted = [Counting(), Counting()]
    sizes = fit_ladder(ACTIONS[:2], flow=start(), **SHORT | {"batch_size": [4, 16], "objective": counted[0]})
    whole = fit_ladder(ACTIONS[:2], flow=start(), **SHORT | {"batch_size": 4, "objective": counted[1]})
    assert same(sizes[0].flow, whole[0].flow)
    assert not same(sizes[1].flow, whole[1].flow)


def test_the_first_rung_takes_the_rate_of_fit_and_the_others_half_of_it():
    alone = fit(start(), ACTIONS[0], **SHORT)
    rungs = fit_ladder(ACTIONS, flow=start(), **SHORT)
    assert rungs[0].history.learning_rate == alone.learning_rate
    for rung in rungs[1:]:
        assert rung.history.learning_rate == pytest.approx([rate / 2 for rate in alone.learning_rate])
    given = fit_ladder(ACTIONS, flow=start(), learning_rate=0.004, **SHORT)
    assert {rung.history.learning_rate[0] for rung in given} == {0.002}


def test_the_rate_of_a_rung_is_that_of_its_own_lattice():
    actions = [Phi4(Lattice(shape), m2=-1.0, lam=1.0) for shape in ((4, 4), (20, 20))]
    flow = EquivariantCNF(actions[0].lattice)
    rungs = fit_ladder(actions, flow=flow, **SHORT | {"steps": 1, "batch_size": 2, "warmup": 0})
    assert [rung.history.learning_rate[0] for rung in rungs] == pytest.approx([0.08, 0.04 * 256 / 400])


def test_the_flow_that_is_given_becomes_the_first_rung_s():
    flow = start()
    before = weights(flow)
    rungs = fit_ladder(ACTIONS[:2], flow=flow, **SHORT)
    assert rungs[0].flow is flow
    assert any(not torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    trained = weights(flow)
    fit(rungs[1].flow, ACTIONS[1], **SHORT)
    assert all(torch.equal(value, trained[name]) for name, value in flow.state_dict().items())


def test_what_a_flow_is_made_of_climbs_with_it():
    solver = Solver("dopri8", rtol=1e-3, atol=1e-4)
    prior = FreeField(Lattice((3, 3)), m2=2.0, learnable=False)
    flow = small_flow((3, 3), solver=solver, prior=prior, kernel_size=3, scale=0.02).float()
    rungs = fit_ladder(ACTIONS, flow=flow, **SHORT)
    for rung in rungs:
        assert rung.flow.solver == solver
        assert rung.flow.vector_field.config() == flow.vector_field.config()
        assert rung.flow.prior.config() == {"m2": 2.0, "learnable": False}
        assert not rung.flow.prior.log_sigma.requires_grad
        assert rung.flow.dtype == torch.float32


def test_natural_gradient_climbs_with_the_flow(tmp_path):
    flow = start()
    options = SHORT | {"learning_rate": 0.5, "optimiser": NaturalGradient.of(flow, rows=4)}
    rungs = fit_ladder(ACTIONS[:2], flow=flow, checkpoint=tmp_path / "run.pt", **options)
    small = start()
    options |= {"optimiser": NaturalGradient.of(small, rows=4)}
    fit(small, ACTIONS[0], **options)
    large = small.resized(ACTIONS[1].lattice)
    fit(large, ACTIONS[1], **options | {"optimiser": NaturalGradient.of(large, rows=4)})
    assert same(rungs[1].flow, large)
    again = start()
    options |= {"optimiser": NaturalGradient.of(again, rows=4)}
    assert_same_ladder(fit_ladder(ACTIONS[:2], flow=again, checkpoint=tmp_path / "run.pt", **options), rungs)


def samples_of(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(20, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_objectives_on_samples_are_given_one_for_each_rung():
    objectives = [ForwardKL(samples_of(action.lattice.shape), solver=FAST) for action in ACTIONS]
    rungs = fit_ladder(ACTIONS, flow=start(), **SHORT | {"objective": objectives})
    alone = start()
    fit(alone, ACTIONS[0], **SHORT | {"objective": objectives[0]})
    assert same(rungs[0].flow, alone)
    with pytest.raises(ValueError, match="objective has 2 entries for 3 actions"):
        fit_ladder(ACTIONS, flow=start(), **SHORT | {"objective": objectives[:2]})


@pytest.mark.parametrize("mixed", [False, True])
def test_samples_of_one_rung_are_refused_for_another_before_anything_is_trained(mixed):
    flow, objective = start(), ForwardKL(samples_of((3, 3)), solver=FAST)
    before = weights(flow)
    objective = Mixture((OBJECTIVE, 0.5), (objective, 0.5)) if mixed else objective
    with pytest.raises(ValueError, match=r"rung \(4, 4\).*one objective for each action"):
        fit_ladder(ACTIONS, flow=flow, **SHORT | {"objective": objective})
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_an_objective_of_your_own_may_refuse_a_rung_before_anything_is_trained():
    class OnlySmall(Counting):
        def check_suits(self, flow: Flow, action: Action) -> None:
            if flow.lattice.volume > 12:
                raise ValueError("the lattice is large.")

    flow, objective = start(), OnlySmall()
    with pytest.raises(ValueError, match=r"rung \(4, 4\) does not fit: the lattice is large"):
        fit_ladder(ACTIONS, flow=flow, **SHORT | {"objective": objective})
    assert objective.calls == []
    # Without the method it is a plain callable, which is not asked.
    plain = Counting()
    fit_ladder(ACTIONS[:2], flow=flow, **SHORT | {"objective": plain})
    assert set(plain.calls) == {(3, 3), (4, 4)}


def test_without_a_flow_it_starts_from_a_new_one():
    options = SHORT | {"steps": 2, "batch_size": 4}
    (rung,) = fit_ladder(ACTIONS[:1], **options)
    flow = EquivariantCNF(ACTIONS[0].lattice)
    history = fit(flow, ACTIONS[0], **options)
    assert columns(rung.history) == columns(history)
    assert same(rung.flow, flow)


def starting_loss(flow: EquivariantCNF, action: Action) -> tuple[float, float]:
    """`mean(log q + S)` and reverse ESS on fresh samples."""
    ensemble = importance_sample(flow, action, 1024, generator=torch.Generator().manual_seed(99))
    return -float(ensemble.log_weight.mean()), ensemble.effective_sample_size().mean


def test_what_was_learned_on_small_lattices_is_a_head_start_on_a_large_one():
    solver = Solver("rk4", steps=6)
    actions = [Phi4(Lattice((L, L)), m2=-4.0, lam=lam) for L, lam in ((4, 8.0), (6, 6.975))]

    def new(lattice: Lattice) -> EquivariantCNF:
        vector_field = OrbitConvField(lattice, n_frequencies=4, n_time_modes=2, max_frequency=4.0)
        return EquivariantCNF(lattice, vector_field=vector_field, solver=solver)

    options = {"batch_size": 64, "warmup": 10, "progress": False, "objective": PathGradient(solver=solver)}
    small = new(actions[0].lattice)
    fit(small, actions[0], steps=60, **options)
    loss, ess = starting_loss(small.resized(actions[1].lattice), actions[1])
    from_nothing = starting_loss(new(actions[1].lattice), actions[1])
    assert loss < from_nothing[0] - 2.0
    assert ess > 3 * from_nothing[1]
    rungs = fit_ladder(actions, flow=new(actions[0].lattice), steps=[60, 20], **options)
    assert same(rungs[0].flow, small)
    scratch = new(actions[1].lattice)
    fit(scratch, actions[1], steps=20, **options)
    climbed, alone = (starting_loss(flow, actions[1]) for flow in (rungs[1].flow, scratch))
    assert climbed[0] < min(loss, alone[0])
    assert climbed[1] > max(ess, alone[1])


# --- checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("run.pt", ["run-3x3.pt", "run-4x4.pt", "run-4x6.pt"]),
        ("deep/run", ["deep/run-3x3", "deep/run-4x4", "deep/run-4x6"]),
        ("run.v2.pt", ["run.v2-3x3.pt", "run.v2-4x4.pt", "run.v2-4x6.pt"]),
    ],
)
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_each_rung_writes_a_checkpoint_of_its_shape(name, written, kind, tmp_path):
    fit_ladder(ACTIONS, flow=start(), checkpoint=kind(tmp_path / name), **SHORT)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == written


@pytest.mark.parametrize(
    ("at", "files", "again"),
    [
        (2, [], 15),
        (4, ["run-3x3.pt"], 13),
        (6, ["run-3x3.pt"], 10),
        (14, ["run-3x3.pt", "run-4x4.pt", "run-4x6.pt"], 3),
    ],
)
def test_an_interrupted_ladder_goes_on_as_if_nothing_had_happened(at, files, again, tmp_path):
    options = SHORT | {"checkpoint_every": 2}
    expected = fit_ladder(ACTIONS, flow=start(), **options)
    options["checkpoint"] = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        fit_ladder(ACTIONS, flow=start(), **options | {"objective": Counting(interrupt_at=at)})
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    counting = Counting()
    found = fit_ladder(ACTIONS, flow=start(), **options | {"objective": counting})
    assert len(counting.calls) == again
    assert_same_ladder(found, expected)


def test_a_finished_ladder_is_returned_from_its_checkpoints(tmp_path):
    options = SHORT | {"checkpoint": tmp_path / "run.pt"}
    expected = fit_ladder(ACTIONS, flow=start(), **options)
    counting = Counting()
    assert_same_ladder(fit_ladder(ACTIONS, flow=start(), **options | {"objective": counting}), expected)
    assert counting.calls == []


def test_a_ladder_grows_by_a_rung_without_training_the_others_again(tmp_path):
    options = SHORT | {"checkpoint": tmp_path / "run.pt"}
    expected = fit_ladder(ACTIONS, flow=start(), **SHORT)
    fit_ladder(ACTIONS[:2], flow=start(), **options)
    counting = Counting()
    found = fit_ladder(ACTIONS, flow=start(), **options | {"objective": counting})
    assert counting.calls == [(4, 6)] * 5
    assert_same_ladder(found, expected)


def test_the_checkpoints_of_another_ladder_are_refused(tmp_path):
    options = SHORT | {"checkpoint": tmp_path / "run.pt"}
    fit_ladder(ACTIONS[:2], flow=start(), **options)
    other = [ACTIONS[0], Phi4(ACTIONS[1].lattice, m2=-4.0, lam=8.5)]
    with pytest.raises(CheckpointError, match=r"another run: action was .*lam=8\.0.*lam=8\.5"):
        fit_ladder(other, flow=start(), **options)


# --- what is refused --------------------------------------------------------------------------------


def test_a_flow_on_another_lattice_than_the_first_action_is_refused():
    flow = start((4, 4))
    before = weights(flow)
    with pytest.raises(ValueError, match=r"action lives on lattice \(3, 3\), the flow on \(4, 4\)"):
        fit_ladder(ACTIONS, flow=flow, **SHORT)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


@pytest.mark.parametrize("actions", [[], ()])
def test_a_ladder_needs_an_action(actions):
    with pytest.raises(ValueError, match="at least one action"):
        fit_ladder(actions, **SHORT)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": [5, 5]}, "steps has 2 entries for 3 actions"),
        ({"batch_size": (8, 8, 8, 8)}, "batch_size has 4 entries for 3 actions"),
        ({"learning_rate": []}, "learning_rate has 0 entries for 3 actions"),
    ],
)
def test_sequences_of_another_length_are_refused_before_anything_is_trained(bad, message):
    counting = Counting()
    with pytest.raises(ValueError, match=message):
        fit_ladder(ACTIONS, flow=start(), **SHORT | bad | {"objective": counting})
    assert counting.calls == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"actions": [ACTIONS[0], Lattice((4, 4))]}, "Each of actions must be of type Action"),
        ({"actions": [Phi4]}, "Each of actions must be of type Action"),
        ({"flow": EquivariantCNF}, "flow must be of type EquivariantCNF"),
        ({"flow": OrbitConvField(Lattice((3, 3)))}, "flow must be of type EquivariantCNF"),
        ({"steps": 2.0}, "steps must be of type int"),
        ({"steps": [2, True, 2]}, "steps must be of type int"),
        ({"momentum": 0.9}, "unexpected keyword argument 'momentum'"),
    ],
)
def test_wrong_types_are_refused(bad, message):
    with pytest.raises(TypeError, match=message):
        fit_ladder(**{"actions": ACTIONS, "flow": start()} | SHORT | bad)


@pytest.mark.parametrize("actions", [ACTIONS[0], iter(ACTIONS)], ids=["one action", "iterator"])
def test_actions_that_are_no_sequence_are_refused(actions):
    with pytest.raises(TypeError):
        fit_ladder(actions, **SHORT)


def test_an_action_of_another_dimension_is_refused():
    actions = [ACTIONS[0], Phi4(Lattice((4,)), m2=-4.0, lam=8.0)]
    with pytest.raises(ValueError, match="2D lattice to a 1D one"):
        fit_ladder(actions, flow=start(), **SHORT)


def test_rungs_that_cannot_be_climbed_are_refused_before_anything_is_trained():
    counting = Counting()
    actions = [ACTIONS[0], Phi4(Lattice((4,)), m2=-4.0, lam=8.0)]
    with pytest.raises(ValueError, match="2D lattice to a 1D one"):
        fit_ladder(actions, flow=start(), **SHORT | {"objective": counting})
    assert counting.calls == []


def test_two_rungs_on_one_lattice_have_a_checkpoint_each(tmp_path):
    actions = [Phi4(Lattice((3, 3)), m2=-4.0, lam=lam) for lam in (9.0, 8.0)]
    expected = fit_ladder(actions, flow=start(), **SHORT)
    found = fit_ladder(actions, flow=start(), checkpoint=tmp_path / "run.pt", **SHORT)
    assert_same_ladder(found, expected)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_field_that_carries_over_roughly_is_advised_against_other_lattices():
    ladders = {}
    for reach in (0, 1):
        links = Links(Lattice((2, 2)), "SU(2)")
        field = SUNField(links, shapes=("plaquette",), degree=1, reach=reach, n_time_modes=1)
        randomise(field)
        ladders[reach] = EquivariantCNF(links, vector_field=field, solver=Solver("rk4", steps=1))
    options = {"steps": 1, "batch_size": 2, "n_fresh": 0, "progress": False}

    def climb(reach: int, *sides: int) -> None:
        spaces = [Links(Lattice((side, side)), "SU(2)") for side in sides]
        fit_ladder([WilsonAction(links, beta=0.5) for links in spaces], flow=ladders[reach], **options)

    with pytest.warns(UserWarning, match="SUNField carries over to other lattices only roughly"):
        climb(1, 2, 3)
    climb(1, 2, 2)  # warnings are errors here
    climb(0, 2, 3)
