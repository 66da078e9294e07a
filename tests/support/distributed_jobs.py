"""Jobs for the processes of `test_distributed.py`, importable without pytest."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from typer.testing import CliRunner

from equiflow import (
    ActionFamily,
    ConditionalFlow,
    EquivariantCNF,
    FlowMatching,
    ForwardKL,
    InversePathGradient,
    Lattice,
    Mixture,
    NaturalGradient,
    OverCouplings,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    SymplecticFlow,
    fit,
    fit_ladder,
)
from equiflow.cli.app import app
from equiflow.flows import ExtendedAction
from equiflow.interop import sample_shards
from equiflow.interop import shards as sharded
from equiflow.runtime import distributed
from equiflow.testing import randomise
from equiflow.training import AdaptivePathGradient
from equiflow.training.objectives.focus import Focus
from equiflow.training.run import TrainingRun
from equiflow.vector_fields import DeepAttentionField, OrbitConvField
from tests.support.cli_runs import TINY

LATTICE = Lattice((3, 3))
ACTION = Phi4(LATTICE, m2=-4.0, lam=8.0)
COARSE = Solver("rk4", steps=2)
SAMPLES = torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
#: a batch that two or three processes cannot share evenly
UNEVEN_BATCH = 7


def untouched(field: Any = None) -> EquivariantCNF:
    """Return a small flow with the weights that it is built with."""
    field = OrbitConvField(LATTICE, n_frequencies=2, n_time_modes=2) if field is None else field
    return EquivariantCNF(LATTICE, vector_field=field, solver=COARSE)


def a_flow(field: Any = None) -> EquivariantCNF:
    """Return a small flow with random weights."""
    return randomised(untouched(field))


def randomised(flow: Any) -> Any:
    """Give a flow random weights, in place, and return it."""
    randomise(flow, seed=1)
    return flow


def deep() -> EquivariantCNF:
    """Return a flow whose divergence is estimated with random probes."""
    return a_flow(DeepAttentionField(LATTICE, trace="hutchinson", n_probes=2))


def conditional() -> ConditionalFlow:
    """Return a flow for a range of couplings."""
    return randomised(ConditionalFlow(a_flow(), {"lam": (6.0, 9.0)}))


PATH = PathGradient(solver=COARSE)
#: for each case: how to build the flow, its action, and options of fit
CASES: dict[str, tuple[Callable[[], Any], Any, dict[str, Any]]] = {
    "path": (a_flow, ACTION, {"objective": PATH}),
    "reverse": (a_flow, ACTION, {"objective": ReverseKL()}),
    "forward": (a_flow, ACTION, {"objective": ForwardKL(SAMPLES)}),
    "matching": (a_flow, ACTION, {"objective": FlowMatching(SAMPLES, sigma=0.1, n_times=3)}),
    "mixture": (a_flow, ACTION, {"objective": Mixture((PATH, 0.5), (FlowMatching(SAMPLES), 0.5))}),
    "probes": (deep, ACTION, {"objective": ReverseKL()}),
    "couplings": (
        conditional,
        ActionFamily(Phi4, LATTICE, m2=-4.0, lam=(6.0, 9.0)),
        {"objective": OverCouplings(PATH, n_couplings=3), "batch_size": 9},
    ),
    "momenta": (
        lambda: randomised(SymplecticFlow(LATTICE, n_steps=1, n_frequencies=2)),
        ExtendedAction(ACTION),
        {"objective": Mixture((InversePathGradient(), 0.5), (ForwardKL(SAMPLES), 0.5))},
    ),
    "natural": (a_flow, ACTION, {"objective": PATH}),
}


def train(case: str, **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train for some steps; return the columns of the history without times, and the weights."""
    build, action, given = CASES[case]
    flow = build()
    if case == "natural":
        given = given | {"optimiser": NaturalGradient.of(flow, rows=5), "learning_rate": 1.0}
    history = fit(flow, action, **({"steps": 3, "batch_size": UNEVEN_BATCH, "warmup": 0} | given | options))
    columns = {name: column for name, column in vars(history).items() if name != "seconds"}
    return columns, flow.state_dict()


def train_all() -> dict[str, Any]:
    """Train every case."""
    return {case: train(case) for case in CASES}


def train_on(case: str, options: dict[str, Any]) -> Any:
    """Train with options in one positional argument."""
    return train(case, **options)


def train_with_focus() -> Any:
    """Train over couplings that are drawn where log w varies most, through two checks of the solver."""
    focused = OverCouplings(AdaptivePathGradient(), n_couplings=3, focus=2.0)
    return train("couplings", objective=focused, steps=12)


def train_with_a_focus_of_its_own() -> Any:
    """Do the same, but let each process learn from its own samples where log w varies."""
    learn = Focus.learn

    def own(focus: Any, family: Any, points: Any, variance: Tensor) -> None:
        learn(focus, family, points, variance * torch.arange(1, 1 + len(variance)) ** distributed.rank())

    Focus.learn = own
    distributed.from_first = lambda make: make()
    return train_with_focus()


def climb() -> Any:
    """Train on two lattices in turn by default; return history and weights of the last."""
    actions = [Phi4(Lattice((n, n)), m2=-4.0, lam=8.0) for n in (2, 3)]
    torch.manual_seed(0)
    last = fit_ladder(actions, batch_size=UNEVEN_BATCH, steps=8, seed=3, n_fresh=0, progress=False)[-1]
    columns = {name: column for name, column in vars(last.history).items() if name != "seconds"}
    return columns, last.flow.state_dict()


def train_without_sum() -> Any:
    """Train with each process following its own gradient."""
    distributed.sum_gradients = lambda *_: None
    return train("path")


def train_with_equal_weights() -> Any:
    """Train with processes that count alike, although their shares of the batch differ."""
    average = distributed.sum_gradients
    distributed.sum_gradients = lambda trained, _: average(trained, 1 / distributed.world_size())
    return train("path")


def train_with_noise_of_its_own() -> Any:
    """Train with another unbiased estimate of the gradient for every number of processes."""

    class Own(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + distributed.rank())

    distributed.generator = Own
    return train("path")


def train_from_weights_of_its_own() -> Any:
    """Train from different weights in each process."""
    build, action, options = CASES["path"]
    CASES["path"] = lambda: build() if distributed.is_first() else untouched(), action, options
    return train("path")


def resume_on_disks_of_their_own() -> tuple[Any, list[str], int]:
    """Resume from a checkpoint with a relative name, where each process has its own disk.

    Returns:
        History and weights, the files of this process, and the number of calls of its callback.
    """
    calls: list[int] = []
    options = {"checkpoint": "run.pt", "checkpoint_every": 1, "callback": lambda h: calls.append(h.step[-1])}
    stop_at(2, lambda: train("natural", **options))
    return train("natural", **options), sorted(os.listdir()), len(calls)


def stop_at(step: int, job: Callable[[], Any]) -> None:
    """Run a training job, but leave it before the step after `step`."""
    advance = TrainingRun.advance

    def stopping(run: Any, *arguments: Any) -> None:
        if run.step == step:
            raise StopAsyncIteration
        advance(run, *arguments)

    TrainingRun.advance = stopping
    try:
        job()
    except StopAsyncIteration:
        pass
    finally:
        TrainingRun.advance = advance


class Failing:
    """A path gradient that raises `error` in one process at its call number `at`."""

    def __init__(self, error: BaseException, *, process: int, at: int) -> None:
        self.error, self.process, self.at, self.calls = error, process, at, 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == self.at and distributed.rank() == self.process:
            raise self.error
        return PATH(*arguments)


def outcome(job: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """Return `done`, or the error that a job raised, in one line."""
    try:
        job(*arguments, **options)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def fail_in(process: int, error: BaseException, at: int) -> str:
    """Return how training ends if one process fails."""
    return outcome(train, "path", objective=Failing(error, process=process, at=at))


def fail_in_callback() -> str:
    """Return how training ends if its callback fails, which the first process calls."""

    def callback(history: Any) -> None:
        raise OSError("the disk is full")

    return outcome(train, "path", callback=callback)


def train_with_a_seed_of_its_own() -> str:
    """Return how training ends if the seeds differ."""
    return outcome(train, "path", seed=distributed.rank())


def train_on_less_than_a_sample_each() -> str:
    """Return how training ends with more processes than samples."""
    return outcome(train, "path", batch_size=1)


def climb_to_less_than_a_sample_each() -> str:
    """Return how a ladder ends and which files it has left: none if it stopped before the first lattice."""
    actions = [Phi4(Lattice((n, n)), m2=-4.0, lam=8.0) for n in (2, 3)]
    end = outcome(fit_ladder, actions, batch_size=[UNEVEN_BATCH, 1], steps=1, checkpoint="run.pt")
    return f"{end} {os.listdir()}"


def shards(folder: Path, n_shards: int | None, seed: int = 0, **options: Any) -> Tensor:
    """Draw 103 samples into shards and return their log weights."""
    return sample_shards(
        a_flow(), ACTION, 103, folder, n_shards=n_shards, seed=seed, batch_size=16, certify=4, **options
    )


def shards_drawn(folder: Path, n_shards: int | None) -> list[str]:
    """Return the names of the shards that this process has drawn."""
    drawn: list[str] = []
    save = sharded.save_samples
    sharded.save_samples = lambda samples, path, **options: (
        drawn.append(path.name),
        save(samples, path, **options),
    )
    shards(folder, n_shards)
    return drawn


def collective_timeout() -> float:
    """Return how many seconds a collective operation waits in a session that torchrun has started."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    with distributed.session():
        group = dist.distributed_c10d._get_default_group()
        return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()


def shards_outcome(folder: Path, n_shards: int, seed: int) -> str:
    """Return how sampling into shards ends."""
    return outcome(shards, folder, n_shards, seed)


def command(*arguments: str) -> tuple[int, str]:
    """Run a command of `equiflow`, whose config only the first process has; return exit code and output."""
    torch.set_default_dtype(torch.float32)
    if distributed.is_first():
        Path("config.toml").write_text(TINY)
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def elastic(victim: int, *arguments: str) -> None:
    """Do the same as `torchrun --nproc-per-node=2 --max-restarts=1`, and kill one process on the way."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        max_restarts=1,
        monitor_interval=0.05,
        start_method="fork",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="tests",
    )
    elastic_launch(config, _killed_once)(victim, *arguments)


def _killed_once(victim: int, *arguments: str) -> None:
    """Run a command of `equiflow`; one process dies before its fifth step, unless it is restarted."""
    torch.set_default_dtype(torch.float32)
    advance = TrainingRun.advance

    def advance_or_die(run: Any, *given: Any) -> None:
        first_time = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first_time and run.step == 4 and distributed.rank() == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        advance(run, *given)

    TrainingRun.advance = advance_or_die
    assert not app(list(arguments), standalone_mode=False)
