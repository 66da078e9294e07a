"""An interrupted run goes on from its checkpoint bit for bit, or is refused."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import Optimizer

from equiflow import (
    Action,
    CheckpointError,
    CouplingFlow,
    EquivariantCNF,
    Lattice,
    Mixture,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    SymmetryGroup,
    fit,
)
from equiflow.flows import Flow
from equiflow.fused import switched
from equiflow.runtime.storage import load_safely
from equiflow.training import History, Objective, ObjectiveValue
from equiflow.training.checkpoints import check_same_settings, settings_today
from equiflow.training.trainer import adam
from tests.support.training import (
    ACTION,
    OBJECTIVES,
    SHORT,
    SQUARE,
    InterruptionError,
    Tampered,
    build,
    columns,
    same,
    weights,
)

#: files that version 0.1 wrote
OLD = Path(__file__).parents[1] / "data" / "version_0_1"


@settings(max_examples=6)
@given(st.integers(2, 9), st.integers(1, 4), st.sampled_from(OBJECTIVES))
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(at, every, objective):
    options = SHORT | {"steps": 9, "checkpoint_every": every}
    whole, stopped = build(), build()
    expected = fit(whole, ACTION, objective=objective, **options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep" / "run.pt"
        with pytest.raises(InterruptionError):
            fit(stopped, ACTION, objective=Tampered(objective, at), checkpoint=path, **options)
        assert path.exists() == (at > every)
        resumed, counting = build(), Tampered(objective, 0)
        history = fit(resumed, ACTION, objective=counting, checkpoint=path, **options)
        assert len(counting.calls) == 9 - (at - 1) // every * every
        assert [p.name for p in path.parent.iterdir()] == ["run.pt"]
    assert columns(history) == columns(expected)
    assert history.seconds == sorted(history.seconds)
    assert same(weights(resumed), weights(whole))


def test_a_callback_sees_every_step_before_its_checkpoint(tmp_path):
    path, seen = tmp_path / "run.pt", []

    def callback(history: History) -> None:
        saved = load_safely(path, "training")["step"] if path.exists() else 0
        seen.append((len(history), saved))

    fit(build(), ACTION, checkpoint=path, checkpoint_every=2, callback=callback, **SHORT)
    assert seen == [(1, 0), (2, 0), (3, 2), (4, 2), (5, 4), (6, 4)]
    fit(build(), ACTION, checkpoint=path, checkpoint_every=2, callback=callback, **SHORT)
    assert len(seen) == 6  # nothing was left to do


def test_resuming_without_the_state_of_optimiser_and_noise_would_be_noticed(tmp_path):
    whole, path = build(), tmp_path / "run.pt"
    options = SHORT | {"checkpoint": path, "checkpoint_every": 3}
    with pytest.raises(InterruptionError):
        fit(build(), ACTION, objective=Tampered(OBJECTIVES[0], 5), **options)
    fit(whole, ACTION, objective=OBJECTIVES[0], **SHORT)
    content = torch.load(path, weights_only=True)
    for forgotten in (
        {"generator": torch.Generator().manual_seed(0).get_state()},
        {"optimiser": content["optimiser"] | {"state": {}}},
    ):
        torch.save(content | forgotten, path)
        resumed = build()
        fit(resumed, ACTION, objective=OBJECTIVES[0], **options)
        assert not same(weights(resumed), weights(whole))


def test_a_finished_run_is_returned_from_its_checkpoint(tmp_path):
    options = SHORT | {"checkpoint": tmp_path / "run.pt"}
    one, other, counting = build(), build(), Tampered(OBJECTIVES[0], 0)
    first = fit(one, ACTION, objective=OBJECTIVES[0], **options)
    assert fit(other, ACTION, objective=counting, **options) == first
    assert not counting.calls
    assert same(weights(one), weights(other))


CHANGES = {
    "steps": {"steps": 7},
    "batch_size": {"batch_size": 9},
    "learning_rate": {"learning_rate": 1e-3},
    "warmup": {"warmup": 3},
    "clip_norm": {"clip_norm": 1.0},
    "seed": {"seed": 1},
    "objective": {"objective": ReverseKL()},
    "action": {"action": Phi4(SQUARE, m2=-4.0, lam=7.1)},
    "flow": {"flow": build(n_frequencies=4)},
    "group": {"flow": build(group=SymmetryGroup(SQUARE, "rotations"))},
    "kernel_size": {"flow": build(kernel_size=4)},
    "dtype": {"flow": build().float()},
}


@pytest.mark.parametrize("changed", CHANGES)
def test_the_checkpoint_of_another_run_is_refused(changed, tmp_path):
    run = {"flow": build(), "action": ACTION, "objective": OBJECTIVES[0], "seed": 0}
    options = SHORT | {"checkpoint": tmp_path / "run.pt"}
    fit(**run, **options)
    other = run | {"flow": build()} | options | CHANGES[changed]
    before = weights(other["flow"])
    named = "flow" if changed in ("group", "kernel_size", "dtype") else changed
    with pytest.raises(CheckpointError, match=f"{named}|{changed}"):
        fit(**other)
    assert same(weights(other["flow"]), before)


def heavy_ball(parameters: list[nn.Parameter], learning_rate: float) -> Optimizer:
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, nesterov=True)


def amsgrad(parameters: list[nn.Parameter], learning_rate: float) -> Optimizer:
    return torch.optim.Adam(parameters, lr=learning_rate, amsgrad=True)


def group_each(parameters: list[nn.Parameter], learning_rate: float) -> Optimizer:
    return torch.optim.RMSprop([{"params": [p]} for p in parameters], lr=learning_rate, centered=True)


def last_first(parameters: list[nn.Parameter], learning_rate: float) -> Optimizer:
    return torch.optim.AdamW([{"params": parameters[1:]}, {"params": parameters[:1]}], lr=learning_rate)


OPTIMISERS = [
    torch.optim.SGD,
    heavy_ball,
    torch.optim.AdamW,
    torch.optim.RMSprop,
    group_each,
    partial(torch.optim.RMSprop, momentum=0.5),
    torch.optim.NAdam,
    torch.optim.Adafactor,
    amsgrad,
    last_first,
]


def name_of(optimiser: object) -> str:
    return getattr(optimiser, "__name__", "partial")


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=name_of)
@pytest.mark.parametrize("at", [3, 6, 8])
def test_any_optimiser_goes_on_from_its_checkpoint_as_if_nothing_had_happened(optimiser, at, tmp_path):
    options = SHORT | {"steps": 8, "checkpoint_every": 2, "optimiser": optimiser, "learning_rate": 1e-3}
    whole, resumed, counting = build(), build(), Tampered(OBJECTIVES[0], 0)
    expected = fit(whole, ACTION, objective=OBJECTIVES[0], **options)
    options["checkpoint"] = tmp_path / "run.pt"
    with pytest.raises(InterruptionError):
        fit(build(), ACTION, objective=Tampered(OBJECTIVES[0], at), **options)
    history = fit(resumed, ACTION, objective=counting, **options)
    assert len(counting.calls) == 8 - (at - 1) // 2 * 2
    assert columns(history) == columns(expected)
    assert same(weights(resumed), weights(whole))
    assert not same(weights(whole), weights(build()))


@pytest.mark.parametrize("optimiser", [heavy_ball, torch.optim.AdamW, group_each], ids=name_of)
def test_resuming_without_the_state_of_another_optimiser_would_be_noticed(optimiser, tmp_path):
    path = tmp_path / "run.pt"
    options = SHORT | {"optimiser": optimiser, "objective": OBJECTIVES[0], "learning_rate": 1e-3}
    whole, resumed = build(), build()
    fit(whole, ACTION, **options)
    options |= {"checkpoint": path, "checkpoint_every": 3}
    with pytest.raises(InterruptionError):
        fit(build(), ACTION, **options | {"objective": Tampered(OBJECTIVES[0], 5)})
    content = torch.load(path, weights_only=True)
    torch.save(content | {"optimiser": content["optimiser"] | {"state": {}}}, path)
    fit(resumed, ACTION, **options)
    assert not same(weights(resumed), weights(whole))


def one_of_many(**settings: object) -> Callable[[list[nn.Parameter], float], Optimizer]:
    return lambda parameters, learning_rate: torch.optim.SGD(parameters, lr=learning_rate, **settings)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (adam, torch.optim.Adam, r"optimiser was adam.*, now Adam"),
        (torch.optim.Adam, torch.optim.AdamW, "optimiser was Adam, now AdamW"),
        (torch.optim.SGD, torch.optim.RMSprop, "optimiser was SGD, now RMSprop"),
        (heavy_ball, torch.optim.SGD, "optimiser was heavy_ball, now SGD"),
        (one_of_many(momentum=0.9), one_of_many(momentum=0.8), "other options"),
        (one_of_many(), one_of_many(weight_decay=1e-3), "other options"),
        (
            partial(torch.optim.SGD, momentum=0.9),
            partial(torch.optim.SGD, momentum=0.8),
            r"momentum=0\.9.*momentum=0\.8",
        ),
    ],
)
def test_a_run_does_not_go_on_with_another_optimiser(first, second, message, tmp_path):
    options = SHORT | {"objective": OBJECTIVES[0], "checkpoint": tmp_path / "run.pt", "learning_rate": 1e-3}
    fit(build(), ACTION, optimiser=first, **options)
    other, before = build(), (tmp_path / "run.pt").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        fit(other, ACTION, optimiser=second, **options)
    assert same(weights(other), weights(build()))
    assert (tmp_path / "run.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("optimiser", "added"),
    [
        (adam, "decoupled_weight_decay"),  # torch has it since version 2.7
        (torch.optim.Adam, "decoupled_weight_decay"),
        (torch.optim.AdamW, "decoupled_weight_decay"),  # whose default is not Adam's
        (torch.optim.SGD, "fused"),
        (torch.optim.RMSprop, "capturable"),
    ],
)
def test_a_run_of_an_older_torch_without_an_option_goes_on(optimiser, added, tmp_path):
    options = SHORT | {"checkpoint_every": 2, "learning_rate": 1e-3}
    expected, path, stopping = build(), tmp_path / "run.pt", Tampered(OBJECTIVES[0], 4)
    fit(expected, ACTION, optimiser=optimiser, objective=OBJECTIVES[0], **options)
    with pytest.raises(InterruptionError):
        fit(build(), ACTION, optimiser=optimiser, objective=stopping, checkpoint=path, **options)
    content = torch.load(path, weights_only=True)
    for group in content["optimiser"]["param_groups"]:
        del group[added]
    torch.save(content, path)
    resumed = build()
    objective = OBJECTIVES[0]
    history = fit(resumed, ACTION, optimiser=optimiser, objective=objective, checkpoint=path, **options)
    assert len(history) == options["steps"]
    assert same(weights(resumed), weights(expected))


def test_a_run_without_an_option_does_not_go_on_if_it_is_no_default_today(tmp_path):
    options = SHORT | {"checkpoint": tmp_path / "run.pt", "learning_rate": 1e-3, "optimiser": one_of_many()}
    fit(build(), ACTION, **options)
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    for group in content["optimiser"]["param_groups"]:
        del group["nesterov"]
    torch.save(content, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="other options or parameters: momentum, nesterov"):
        fit(build(), ACTION, **options | {"optimiser": one_of_many(momentum=0.9, nesterov=True)})


def test_a_run_goes_on_with_a_partial_of_a_function_that_was_imported_anew(tmp_path):
    def imported() -> Callable[..., Optimizer]:
        def sgd(parameters: list[nn.Parameter], learning_rate: float, *, momentum: float) -> Optimizer:
            return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)

        return partial(sgd, momentum=0.9)

    options = SHORT | {"checkpoint": tmp_path / "run.pt", "learning_rate": 1e-3}
    once, again = imported(), imported()
    expected = fit(build(), ACTION, optimiser=once, **options)
    assert fit(build(), ACTION, optimiser=again, **options) == expected


@pytest.mark.parametrize("wrapped", [lambda own: own, lambda own: Mixture((own, 0.5), (OBJECTIVES[0], 0.5))])
def test_a_run_goes_on_with_an_objective_that_was_imported_anew(wrapped, tmp_path):
    def imported() -> Objective:
        def own(
            flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None = None
        ) -> ObjectiveValue:
            return OBJECTIVES[0](flow, action, batch_size, generator)

        return own

    options = SHORT | {"checkpoint": tmp_path / "run.pt"}
    once, again = imported(), imported()  # both are alive, at two addresses
    expected = fit(build(), ACTION, objective=wrapped(once), **options)
    assert fit(build(), ACTION, objective=wrapped(again), **options) == expected
    assert "0x" not in load_safely(tmp_path / "run.pt", "training")["settings"]["objective"]
    with pytest.raises(CheckpointError, match=r"objective was .*own.*, now ReverseKL"):
        fit(build(), ACTION, objective=ReverseKL(), **options)


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all"])
def test_a_damaged_checkpoint_is_refused_and_kept(content, tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        fit(build(), ACTION, checkpoint=path, **SHORT)
    assert path.read_bytes() == content


def test_a_saved_flow_is_no_checkpoint(tmp_path):
    build().save(tmp_path / "flow.pt")
    with pytest.raises(CheckpointError, match="not an equiflow training"):
        fit(build(), ACTION, checkpoint=tmp_path / "flow.pt", **SHORT)


def old_flow(kind: str) -> Flow:
    """A flow like those of the checkpoints of version 0.1."""
    lattice = Lattice((4, 4))
    if kind == "cnf":
        return EquivariantCNF(lattice).float()
    return CouplingFlow(lattice, n_layers=2, hidden_channels=(4,)).float()


OLD_RUN = {"steps": 6, "batch_size": 16, "checkpoint_every": 4, "progress": False}
OLD_ACTION = Phi4(Lattice((4, 4)), m2=-1.0, lam=2.0)


@pytest.mark.parametrize(("kind", "objective"), [("cnf", None), ("coupling", ReverseKL())])
def test_an_interrupted_run_of_version_0_1_goes_on_to_the_weights_it_was_to_reach(kind, objective, tmp_path):
    path = shutil.copy(OLD / f"training_{kind}.pt", tmp_path)
    expected = torch.load(OLD / f"training_{kind}_expected.pt", weights_only=True)
    flow, whole, aimless = (old_flow(kind) for _ in range(3))
    history = fit(flow, OLD_ACTION, objective=objective, checkpoint=path, **OLD_RUN)
    assert history.loss == pytest.approx(expected["loss"], rel=1e-4)
    end, start = old_flow(kind), expected["start"]
    end.load_state_dict(expected["end"])  # under the names of version 0.1
    for found, wanted in zip(weights(flow), weights(end), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    # A whole run from the same start, told what version 0.1 did, takes the same course, and with other noise
    # another one. At the start some gradients are pure rounding, which a small eps turns into full steps, so
    # weights agree on one machine only.
    told = OLD_RUN | {"optimiser": partial(torch.optim.Adam, betas=(0.9, 0.99), eps=1e-8)}
    objective = objective or PathGradient(solver=Solver("rk5", steps=5))
    courses = []
    for flow, seed in ((whole, 0), (aimless, 1)):
        flow.load_state_dict(start)
        courses.append(fit(flow, OLD_ACTION, objective=objective, seed=seed, **told).loss)
    assert courses[0] == pytest.approx(expected["loss"], abs=0.01)
    assert courses[1] != pytest.approx(expected["loss"], abs=0.1)


def test_a_run_of_version_0_1_does_not_go_on_with_other_layers(tmp_path):
    path = shutil.copy(OLD / "training_coupling.pt", tmp_path)
    other = CouplingFlow(Lattice((4, 4)), n_layers=2, hidden_channels=(4, 4)).float()
    with pytest.raises(CheckpointError, match=r"another run: flow was torch\.float32 CouplingFlow"):
        fit(other, OLD_ACTION, objective=ReverseKL(), checkpoint=path, **OLD_RUN)


OLD_OBJECTIVE = (
    "Mixture((FlowMatching(samples=(9, 4), coupling='minibatch', sigma=0.0), 0.5), (ReverseKL(), 0.5))"
)
OLD_EXACT_MAP = "AugmentedFlow(\n  (couplings): ModuleList(\n    (0-1): 2 x AffineCoupling(\n"


def test_settings_of_version_0_1_are_read_in_the_words_of_today():
    old = {"steps": 6, "objective": OLD_OBJECTIVE, "flow": OLD_EXACT_MAP, "action": "Mine(coupling='strong')"}
    today = {
        "steps": 6,
        "objective": OLD_OBJECTIVE.replace("coupling=", "pairing="),
        "flow": "AugmentedFlow(\n  (layers): ModuleList(\n    (0-1): 2 x AffineLayer(\n",
        "action": "Mine(coupling='strong')",
    }
    assert settings_today(old) == today
    assert settings_today(today) == today
    check_same_settings(old, today)
    for name in ("objective", "flow"):
        with pytest.raises(CheckpointError, match=f"{name} was"):
            check_same_settings(old, today | {name: today[name].replace("2", "3").replace("0.5", "0.4")})


@pytest.mark.parametrize(("begun", "continued"), [(True, False), (False, True)])
def test_a_run_goes_on_with_or_without_kernels(begun, continued, tmp_path):
    options = SHORT | {"checkpoint": tmp_path / "run.pt", "objective": OBJECTIVES[0]}
    stopping = {"objective": Tampered(OBJECTIVES[0], 5), "checkpoint_every": 2}
    with switched(begun), pytest.raises(InterruptionError):
        fit(EquivariantCNF(SQUARE), ACTION, **options | stopping)
    with switched(continued):
        assert len(fit(EquivariantCNF(SQUARE), ACTION, **options)) == 6


def test_the_words_of_version_0_1_may_be_words_of_a_user(tmp_path):
    mine = {"objective": "MyObjective(coupling='strong')", "flow": "MyFlow((couplings): ModuleList())"}
    check_same_settings(mine, dict(mine))
    with pytest.raises(CheckpointError, match=r"coupling='strong'.*coupling='weak'"):
        check_same_settings(mine, mine | {"objective": "MyObjective(coupling='weak')"})
