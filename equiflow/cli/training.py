"""The end of `equiflow train` and `equiflow resume`: trained, stopped or failed, and how to go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from equiflow import SolverError, TrainingDivergedError
from equiflow.cli import results
from equiflow.cli.endings import fail, of_system
from equiflow.cli.run.errors import RunError
from equiflow.cli.run.folder import Run
from equiflow.report.terminal import print_line
from equiflow.runtime import distributed, interrupts
from equiflow.runtime.distributed import ElsewhereError
from equiflow.runtime.storage import CheckpointError


def train_to_the_end(run: Run, *, quiet: bool) -> None:
    """Train a run to its end, and say what came of it.

    Args:
        run: to be trained, or trained on.
        quiet: whether to show no progress bar.
    """
    before = _steps(run) if run.is_finished else None
    try:
        with _terminated_like_interrupted():
            run.train(progress=False if quiet else None)
    except (KeyboardInterrupt, TrainingDivergedError) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        if not distributed.is_first():  # all processes stop alike, and one says so
            raise typer.Exit(interrupts.STATUS if stopped else 1) from None
        if stopped:
            fail(f"Stopped. {_go_on(run)}", interrupts.STATUS)
        fail(f"{error} The last checkpoint is intact.")
    except (OSError, RuntimeError) as error:
        if isinstance(error, (ElsewhereError, RunError, CheckpointError, SolverError)):
            raise
        fail(f"{of_system(error) if isinstance(error, OSError) else error} {_go_on(run)}")
    if not distributed.is_first():
        return
    histories, last = run.histories(), run.evaluations[-1] if run.evaluations else {}
    ess = f", ESS {last['ess']:.4f} on fresh samples" if "ess" in last else ""
    steps, seconds = sum(map(len, histories)), sum(history.seconds[-1] for history in histories)
    ladder = f" on {len(histories)} lattices" if len(histories) > 1 else ""
    trained = f"{steps} steps{ladder} in {seconds:.0f} s{ess}: {run.folder}"
    if steps == before:
        print_line(f"Nothing to do, this run is finished: {trained}")
        print_line(f"A new run goes on from its flow by --set start.flow={run.folder}")
    else:
        print_line(f"Trained {trained}")
    command = "report" if results.has_observables(run.action.space) else "sample"
    print_line(f"Next: equiflow {command} {run.folder}")


def _steps(run: Run) -> int:
    """Return the number of steps that are on record, on all lattices."""
    return sum(map(len, run.histories()))


def _go_on(run: Run) -> str:
    """Return the sentence that says what is safe, and how to go on."""
    if not run.latest.exists():
        return f"There was no checkpoint yet; `equiflow resume {run.folder}` starts again."
    return f"The last checkpoint is intact: `equiflow resume {run.folder}` goes on from there."


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Stop a run on SIGTERM, which batch systems send, as on Ctrl-C."""
    try:
        before = signal.signal(signal.SIGTERM, interrupts.raise_interrupt)
    except ValueError:  # not the main thread, as in a notebook's server
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
