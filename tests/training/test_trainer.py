from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
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
    EquivariantCNF,
    FactorisedConvField,
    FreeField,
    FreeScalar,
    Lattice,
    Mixture,
    OrbitConvField,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    SymmetryGroup,
    TrainingDivergedError,
    effective_sample_size,
    fit,
    importance_sample,
)
from equiflow.flows import Flow
from equiflow.runtime.storage import load_safely
from equiflow.testing import assert_log_density_exact, assert_vector_field, invariance_error, randomise
from equiflow.training import History, Objective, ObjectiveValue
from equiflow.training.trainer import adam

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


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_is_bitwise_reproducible_and_the_seed_matters(objective, dtype):
    runs = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        flow = build().to(dtype)
        history = fit(flow, ACTION, objective=objective, seed=seed, **SHORT)
        runs.append((columns(history), weights(flow)))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]
    assert not same(runs[0][1], runs[2][1])


def test_training_leaves_global_randomness_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(build(), ACTION, **SHORT)
    assert torch.equal(torch.get_rng_state(), before)


def test_history_has_one_entry_per_step_and_the_schedule():
    history = fit(build(), ACTION, learning_rate=0.01, objective=OBJECTIVES[0], **SHORT)
    assert history.step == [1, 2, 3, 4, 5, 6]
    assert {len(column) for column in history.to_dict().values()} == {len(history)}
    warm_up = [min(1.0, n / 2) for n in history.step]
    decay = [0.5 * (1 + math.cos(math.pi * (n - 1) / 6)) for n in history.step]
    expected = [0.01 * w * d for w, d in zip(warm_up, decay, strict=True)]
    assert history.learning_rate == pytest.approx(expected)
    assert history.seconds == sorted(history.seconds)
    assert all(0 < ess <= 1 for ess in history.ess)
    assert set(history.nfe) == {16}  # four steps of rk4


def test_loss_and_ess_of_the_history_are_those_of_the_batch():
    history = fit(
        build(), ACTION, steps=1, batch_size=64, objective=PathGradient(solver=FAST), progress=False
    )
    ensemble = importance_sample(build(), ACTION, 64, generator=torch.Generator().manual_seed(0))
    assert history.loss[0] == pytest.approx(-float(ensemble.log_weight.mean()), rel=1e-10)
    assert history.ess[0] == pytest.approx(effective_sample_size(ensemble.log_weight).mean, rel=1e-10)


def quality(flow: EquivariantCNF, action: Action = ACTION) -> tuple[float, float]:
    """Loss and reverse ESS on fresh samples."""
    ensemble = importance_sample(flow, action, 2048, generator=torch.Generator().manual_seed(99))
    return -float(ensemble.log_weight.mean()), ensemble.effective_sample_size().mean


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_training_lowers_the_loss_and_raises_the_ess(objective):
    flow = build(solver=Solver("rk4", steps=8))
    before = quality(flow)
    history = fit(flow, ACTION, steps=60, batch_size=64, warmup=10, objective=objective, progress=False)
    after = quality(flow)
    assert after[0] < before[0] - 0.5
    assert after[1] > before[1] + 0.2
    assert after[1] > 0.7
    assert sum(history.loss[-10:]) < sum(history.loss[:10])
    # Climbing instead of descending is noticed by the same numbers.
    uphill = build(solver=Solver("rk4", steps=8))
    wrong = Tampered(objective, 1, -1.0)
    for _ in range(5):
        wrong.calls.clear()
        fit(uphill, ACTION, steps=1, batch_size=64, warmup=0, objective=wrong, progress=False)
    assert quality(uphill)[0] > before[0]


def test_training_finds_the_spectrum_of_a_free_field():
    action = FreeScalar(SQUARE, m2=0.5)
    flow = build()
    fit(flow, action, steps=120, batch_size=64, warmup=10, learning_rate=0.05, progress=False)
    loss, ess = quality(flow, action)
    assert ess > 0.999
    assert loss == pytest.approx(-action.log_z(), abs=1e-3)


def kinetic_energy(penalty: float) -> float:
    flow = build()
    objective = PathGradient(kinetic_penalty=penalty, solver=FAST)
    fit(flow, ACTION, steps=40, batch_size=64, warmup=5, objective=objective, progress=False)
    path = flow.rsample_path(512, generator=torch.Generator().manual_seed(1))
    return float(path.kinetic_energy.detach().mean())


def test_kinetic_penalty_slows_the_trajectories():
    none, some, strong = (kinetic_energy(penalty) for penalty in (0.0, 0.3, 3.0))
    assert strong < 0.5 * none
    assert strong < some < none


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
        (adam, torch.optim.Adam, "optimiser was adam, now Adam"),
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


@pytest.mark.parametrize(("kind", "steps"), [(OrbitConvField, 5), (FactorisedConvField, 10)])
def test_unless_told_otherwise_a_field_is_integrated_with_the_steps_that_suit_it(kind, steps):
    lattice, action = Lattice((2, 2)), Phi4(Lattice((2, 2)), m2=-4.0, lam=8.0)
    options = {"steps": 2, "batch_size": 4, "progress": False}
    losses = []
    for objective in (None, PathGradient(solver=Solver("rk5", steps=steps))):
        torch.manual_seed(0)
        flow = EquivariantCNF(lattice, vector_field=kind(lattice))
        losses.append(fit(flow, action, objective=objective, **options).loss)
    assert losses[0] == losses[1]
    assert kind.training_solver == Solver("rk5", steps=steps)


def test_unless_told_otherwise_it_is_adam_with_a_short_memory():
    runs = []
    for optimiser in (
        {},
        {"optimiser": adam},
        {"optimiser": partial(torch.optim.Adam, betas=(0.9, 0.99))},
        {"optimiser": torch.optim.Adam},
    ):
        flow = build()
        fit(flow, ACTION, objective=OBJECTIVES[0], **SHORT | optimiser)
        runs.append(weights(flow))
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    assert not same(runs[0], runs[3])


def test_an_optimiser_gets_what_is_trained_and_the_rate_and_is_scheduled_in_every_group():
    made: list[Optimizer] = []
    seen: list[tuple[list[nn.Parameter], float]] = []

    class Watching(torch.optim.SGD):
        def step(self, closure: None = None) -> None:
            rates.append([group["lr"] for group in self.param_groups])

    def make(parameters: list[nn.Parameter], learning_rate: float) -> Optimizer:
        seen.append((parameters, learning_rate))
        made.append(Watching([{"params": [p], "lr": 7.0} for p in parameters], lr=learning_rate))
        return made[-1]

    rates: list[list[float]] = []
    flow = build()
    flow.prior = FreeField(SQUARE, learnable=False).double()
    history = fit(flow, ACTION, optimiser=make, learning_rate=0.01, objective=OBJECTIVES[0], **SHORT)
    ((parameters, rate),) = seen
    assert rate == 0.01
    assert [id(p) for p in parameters] == [id(p) for p in flow.vector_field.parameters()]
    assert rates == [[rate] * len(parameters) for rate in history.learning_rate]


def test_plain_gradient_descent_is_done_by_hand():
    flow, by_hand = build(), build()
    history = fit(
        flow,
        ACTION,
        optimiser=torch.optim.SGD,
        objective=OBJECTIVES[0],
        learning_rate=1e-3,
        clip_norm=2.0,
        **SHORT,
    )
    generator = torch.Generator().manual_seed(0)
    trained = list(by_hand.parameters())
    for rate in history.learning_rate:
        value = OBJECTIVES[0](by_hand, ACTION, SHORT["batch_size"], generator)
        slopes = torch.autograd.grad(value.surrogate, trained)
        norm = torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt()
        with torch.no_grad():
            for parameter, slope in zip(trained, slopes, strict=True):
                parameter -= rate * slope * min(1.0, 2.0 / float(norm))
    for found, expected in zip(weights(flow), weights(by_hand), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-10)
    assert max(history.grad_norm) > 2.0


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


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_is_reported_with_its_history_and_leaves_flow_and_checkpoint_alone(value, tmp_path):
    path, flow, safe = tmp_path / "run.pt", build(), build()
    options = SHORT | {"checkpoint_every": 2, "objective": OBJECTIVES[0]}
    with pytest.raises(InterruptionError):
        fit(safe, ACTION, **options | {"objective": Tampered(OBJECTIVES[0], 6), "checkpoint": path})
    before = path.read_bytes()
    with pytest.raises(TrainingDivergedError, match=r"step 6.*learning_rate") as caught:
        fit(flow, ACTION, **options | {"objective": Tampered(OBJECTIVES[0], 2, value), "checkpoint": path})
    assert caught.value.history.step == [1, 2, 3, 4, 5]
    assert path.read_bytes() == before
    assert same(weights(flow), weights(safe))


def test_weights_that_are_not_finite_are_never_written_to_a_checkpoint(tmp_path):
    class Spoiling(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: None = None) -> None:
            super().step()
            self.taken = getattr(self, "taken", 0) + 1
            if self.taken == 4:
                self.param_groups[0]["params"][0].fill_(math.nan)

    options = SHORT | {"optimiser": Spoiling, "learning_rate": 1e-4, "objective": OBJECTIVES[0]}
    with pytest.raises(TrainingDivergedError, match="step 4: weights are not finite"):
        fit(build(), ACTION, checkpoint=tmp_path / "run.pt", checkpoint_every=2, **options)
    saved = load_safely(tmp_path / "run.pt", "training")
    assert saved["step"] == 2
    assert all(bool(value.isfinite().all()) for value in saved["flow"].values())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_a_huge_learning_rate_diverges_loudly(objective):
    flow = build()
    with pytest.raises(TrainingDivergedError) as caught:
        fit(flow, ACTION, objective=objective, learning_rate=1e6, **SHORT | {"steps": 50, "warmup": 0})
    history = caught.value.history
    assert 0 < len(history) < 50
    assert all(math.isfinite(loss) for loss in history.loss)


def test_clipping_limits_the_step_but_not_the_record():
    free, clipped = build(), build()
    options = SHORT | {"steps": 1, "objective": OBJECTIVES[0]}
    one = fit(free, ACTION, clip_norm=1e9, **options)
    other = fit(clipped, ACTION, clip_norm=1e-12, **options)
    assert one.grad_norm == other.grad_norm
    assert one.grad_norm[0] > 1e-6
    start = weights(build())
    moved = [
        max(float((a - b).abs().max()) for a, b in zip(weights(flow), start, strict=True))
        for flow in (free, clipped)
    ]
    # Adam divides by the gradient's size, up to its epsilon of 1e-8.
    assert moved[1] < 1e-3 * moved[0]


@pytest.mark.parametrize("shape", [(4, 4), (2, 4), (2, 2, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.float64, 1e-6)])
def test_symmetry_and_log_density_stay_exact_while_training(shape, dtype, tolerance):
    lattice = Lattice(shape)
    precise = Solver(rtol=1e-8, atol=1e-8) if dtype == torch.float64 else Solver(rtol=1e-5, atol=1e-5)
    flow = build(lattice, solver=precise).to(dtype)
    objective = PathGradient(solver=FAST)
    fit(flow, Phi4(lattice, m2=-4.0, lam=7.0), objective=objective, **SHORT | {"steps": 15})
    assert_vector_field(flow.vector_field, lattice)
    assert_log_density_exact(flow, tolerance=tolerance)
    assert max(invariance_error(flow, flow.group).values()) < tolerance
    # A mask on one site breaks both.
    flow.vector_field.register_buffer("mask", torch.ones(shape, dtype=dtype))
    flow.vector_field.mask.view(-1)[0] = 0.9
    inner = flow.vector_field.velocity_and_divergence

    def masked(phi: torch.Tensor, t: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
        velocity, divergence = inner(phi, t)
        return velocity * flow.vector_field.mask, divergence

    flow.vector_field.velocity_and_divergence = masked
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_vector_field(flow.vector_field, lattice)
    with pytest.raises(AssertionError, match="log q"):
        assert_log_density_exact(flow, tolerance=tolerance)


def gradients(solver: Solver, seed: int = 0) -> torch.Tensor:
    flow = build()
    fit(flow, ACTION, objective=OBJECTIVES[0], **SHORT)
    value = PathGradient(solver=solver)(flow, ACTION, 16, torch.Generator().manual_seed(seed))
    return torch.cat([g.flatten() for g in torch.autograd.grad(value.surrogate, list(flow.parameters()))])


def test_adjoint_and_backpropagation_give_one_gradient():
    tight = {"method": "dopri5", "rtol": 1e-9, "atol": 1e-9}
    expected = gradients(Solver(**tight))
    scale = float(expected.abs().max())
    torch.testing.assert_close(gradients(Solver(**tight, adjoint=True)), expected, rtol=0, atol=1e-6 * scale)
    coarse = gradients(Solver("rk4", steps=1))
    assert float((coarse - expected).abs().max()) > 1e-4 * scale


def test_adjoint_training_follows_backpropagation():
    losses = []
    for adjoint in (False, True):
        flow = build()
        # At weights of zero an adaptive solver takes steps too long for the gradient.
        randomise(flow.vector_field, scale=0.1)
        objective = PathGradient(solver=Solver(rtol=1e-9, atol=1e-9, adjoint=adjoint))
        losses.append(fit(flow, ACTION, objective=objective, **SHORT).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_is_silent_when_asked(capfd):
    fit(build(), ACTION, **SHORT)
    assert capfd.readouterr() == ("", "")
    fit(build(), ACTION, **SHORT | {"progress": True})
    assert "training" in capfd.readouterr().err


def test_training_runs_where_the_flow_lives(device):
    flow = build().to(device, torch.float32)
    history = fit(flow, ACTION, **SHORT)
    assert len(history) == 6
    assert {(p.device.type, p.dtype) for p in flow.parameters()} == {(device.type, torch.float32)}


def test_parameters_without_gradient_stay():
    flow = build()
    flow.prior = FreeField(SQUARE, learnable=False).double()
    fit(flow, ACTION, **SHORT)
    assert torch.equal(flow.prior.log_sigma, FreeField(SQUARE).double().log_sigma)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"action": Phi4(Lattice((3, 3)), m2=1.0, lam=1.0)}, r"\(3, 3\).*\(4, 4\)"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        fit(**({"flow": build(), "action": ACTION} | SHORT | bad))


@pytest.mark.parametrize("penalty", [-1.0, math.nan])
def test_bad_penalties_are_refused(penalty):
    with pytest.raises(ValueError, match="kinetic_penalty"):
        PathGradient(kinetic_penalty=penalty)
