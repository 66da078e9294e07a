"""The commands of `equiflow`, each a few lines about a run folder.

The work is done by `equiflow.cli.run.folder.Run` and `equiflow.cli.results`. Only this file imports typer.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import torch
import typer

import equiflow
from equiflow import SolverError, TrainingDivergedError
from equiflow.cli import ensembles, results, watching
from equiflow.cli import info as information
from equiflow.cli import presets as known_presets
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.file import load_config, parse_config
from equiflow.cli.config.render import render_defaults
from equiflow.cli.config.schema import Config
from equiflow.cli.flow_files import flow_named
from equiflow.cli.run.errors import RunError
from equiflow.cli.run.folder import Run
from equiflow.runtime import distributed
from equiflow.runtime.distributed import ElsewhereError
from equiflow.runtime.storage import CheckpointError

app = typer.Typer(
    help="Symmetric flows for lattice field theory: from a config file to physics with error bars.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
#: errors that a user can cause and mend: a command reports their message without a traceback
USER_ERRORS = (
    ElsewhereError,
    ConfigError,
    RunError,
    CheckpointError,
    SolverError,
    TrainingDivergedError,
    ImportError,
    OSError,
    ValueError,
)
#: errors that all processes of a command meet alike: only the first process reports them
SHARED_ERRORS = (ElsewhereError, CheckpointError, RunError)
F = TypeVar("F", bound=Callable[..., Any])

FlowName = Annotated[
    str, typer.Argument(metavar="RUN", help="run folder, file of a flow, or name of a pretrained flow")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="run folder")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...; that of the run unless given", metavar="DEVICE")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads; those of the run unless given", min=1)]


def reports_errors(command: F) -> F:
    """Return the command, which now reports errors that the user can mend and ends with status 1."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except USER_ERRORS as error:
            if isinstance(error, SHARED_ERRORS) and not distributed.is_first():
                raise typer.Exit(1) from None
            fail(str(error) if not isinstance(error, OSError) else _of_system(error))
        except (MemoryError, RuntimeError) as error:
            if not _is_of_memory(error):
                raise
            why = next(iter(str(error).splitlines()), "")  # torch goes on with lines of its source code
            fail(f"There is not enough memory: take smaller batches or fewer samples. {why}")
        except KeyboardInterrupt:
            if not distributed.is_first():
                raise typer.Exit(130) from None
            fail("Stopped.", 130)

    return wrapped  # type: ignore[return-value]


def in_processes(command: F) -> F:
    """Return the command, which torchrun may now start in several processes that work together."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        with distributed.session():
            return command(*args, **options)

    return wrapped  # type: ignore[return-value]


def fail(message: str, status: int = 1) -> NoReturn:
    """End the command with a message.

    Args:
        message: printed to stderr.
        status: exit status of the command.
    """
    who = "" if distributed.is_first() else f"process {distributed.rank()}: "
    colourless = bool(os.environ.get("NO_COLOR"))
    typer.echo(who + message if colourless else typer.style(who + message, fg=typer.colors.RED), err=True)
    raise typer.Exit(status)


def _of_system(error: OSError) -> str:
    """Return the message of an error of the operating system."""
    if error.filename is None:
        return f"The system refused: {error.strerror or error}."
    return f"{error.filename}: {error.strerror}."


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory has run out, of the CPU or of a GPU."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "allocate memory" in str(error)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="show the version and stop")] = False,
) -> None:
    if version:
        typer.echo(f"equiflow {equiflow.__version__}")
        raise typer.Exit


@app.command()
@in_processes
@reports_errors
def train(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="TOML file")] = None,
    run: Annotated[Path | None, typer.Option(help="run folder; runs/NAME-OF-CONFIG unless given")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="overrides the file; none means no value"),
    ] = None,
    show_defaults: Annotated[
        bool, typer.Option("--show-defaults", help="print every key with its default and stop")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> None:
    """Train a flow from a config file, in a new run folder.

    `torchrun --nproc-per-node=4 -m -- equiflow train config.toml` trains in four processes (without the --,
    torchrun takes --run for its own option). If torchrun starts the command again, the run goes on.
    """
    if show_defaults:
        typer.echo(render_defaults())
        return
    if config is None:
        fail("Which config? equiflow train config.toml. `equiflow config` prints one to start from.", 2)
    folder = run or Path("runs") / config.stem
    _train(distributed.from_first(lambda: _new_or_restarted(folder, load_config(config, set_ or ()))), quiet)


def _new_or_restarted(folder: Path, config: Config) -> Run:
    """Return a new run, or the existing one when torchrun repeats the command after a crash."""
    if distributed.launched() and (folder / "config.toml").exists():
        run = Run.open(folder)
        if run.config == config:
            return run
    return Run.create(folder, config)


@app.command()
@in_processes
@reports_errors
def resume(
    run: RunFolder,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> None:
    """Go on with a run that was stopped, from its last checkpoint."""
    _train(distributed.from_first(lambda: Run.open(run)), quiet)


def _train(run: Run, quiet: bool) -> None:
    """Train a run to its end, and say what came of it."""
    try:
        with _terminated_like_interrupted():
            run.train(progress=False if quiet else None)
    except (KeyboardInterrupt, TrainingDivergedError) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        if not distributed.is_first():  # all processes stop alike, and one says so
            raise typer.Exit(130 if stopped else 1) from None
        if stopped:
            fail(f"Stopped. {_go_on(run)}", 130)
        fail(f"{error} The last checkpoint is intact.")
    except (OSError, RuntimeError) as error:
        if isinstance(error, (ElsewhereError, RunError, CheckpointError, SolverError)):
            raise
        fail(f"{_of_system(error) if isinstance(error, OSError) else error} {_go_on(run)}")
    if not distributed.is_first():
        return
    histories, last = run.histories(), run.evaluations[-1] if run.evaluations else {}
    ess = f", ESS {last['ess']:.4f} on fresh samples" if "ess" in last else ""
    steps, seconds = sum(map(len, histories)), sum(history.seconds[-1] for history in histories)
    ladder = f" on {len(histories)} lattices" if len(histories) > 1 else ""
    typer.echo(f"Trained {steps} steps{ladder} in {seconds:.0f} s{ess}: {run.folder}")
    command = "report" if results.has_field_observables(run.action.space) else "sample"
    typer.echo(f"Next: equiflow {command} {run.folder}")


def _go_on(run: Run) -> str:
    """Return the sentence that says what is safe, and how to go on."""
    if not run.latest.exists():
        return f"There was no checkpoint yet; `equiflow resume {run.folder}` starts again."
    return f"The last checkpoint is intact: `equiflow resume {run.folder}` goes on from there."


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Stop a run on SIGTERM, which batch systems send, as on Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, as in a notebook's server
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command()
@reports_errors
def config() -> None:
    """Print every key of a config file with its default and meaning."""
    typer.echo(render_defaults())


@app.command()
@reports_errors
def presets(
    name: Annotated[str | None, typer.Argument(help="preset whose config is printed")] = None,
) -> None:
    """List published set-ups, or print the config of one: equiflow presets albergo-E2 > E2.toml."""
    if name is None:
        known_presets.print_all()
        return
    text = known_presets.config_text(name)
    parse_config(text, source=name)
    typer.echo(text, nl=False)


@app.command()
@reports_errors
def watch(
    run: RunFolder,
    once: Annotated[bool, typer.Option("--once", help="print the state and stop")] = False,
    every: Annotated[float, typer.Option(help="seconds between updates", min=0.1)] = 2.0,
) -> None:
    """Follow a run while it trains: loss, ESS, acceptance, gradient norm, time to the end.

    It also says whether a process is training the run, and goes on through all stops until the last step.
    """
    try:
        watching.watch(Run.open(run), once=once, every=every)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command()
@in_processes
@reports_errors
def sample(
    run: FlowName,
    n_samples: Annotated[int, typer.Option("-n", "--samples", help="how many", min=2)] = 10_000,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="file; RUN/ensemble.npz unless given")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the samples", min=0)] = 1,
    batch_size: Annotated[int, typer.Option(help="samples at a time, which bounds the memory", min=1)] = 1024,
    shards: Annotated[
        int | None,
        typer.Option(help="files, in a folder; a single file unless given or under torchrun", min=1),
    ] = None,
    threads: Threads = None,
    device: Device = None,
    force: Annotated[
        bool, typer.Option("--force", help="replace an ensemble of this name, or its shards")
    ] = False,
) -> None:
    """Draw independent samples of a trained flow, with weights and certificate, into a file.

    A file that is there already is kept: give another name, or --force.

    Large ensembles are written in shards: -o NAME.npz then means the folder NAME. The processes of
    `torchrun --nproc-per-node=4 -m -- equiflow sample RUN` share the shards. The random numbers of a shard do
    not depend on the process that draws it. The same command again keeps the shards that are there.
    """
    trained = distributed.from_first(lambda: flow_named(run))
    options: dict[str, Any] = {"out": out, "seed": seed, "batch_size": batch_size, "threads": threads}
    options |= {"device": device, "force": force}
    by_torchrun = distributed.launched() or distributed.world_size() > 1
    if shards == 1 or (shards is None and not by_torchrun):
        distributed.by_first(lambda: ensembles.sample(trained, n_samples, **options))
    else:
        ensembles.sample_in_shards(trained, n_samples, n_shards=shards, **options)


@app.command()
@reports_errors
def measure(
    ensemble: Annotated[Path, typer.Argument(help="file or folder of `equiflow sample`, or run folder")],
    json: Annotated[Path | None, typer.Option("--json", help="also write the numbers to this file")] = None,
) -> None:
    """Print the observables of an ensemble, or of all those in a run folder, with their errors."""
    results.measure_files(ensemble, json)


@app.command()
@reports_errors
def report(
    run: RunFolder,
    n_samples: Annotated[int, typer.Option("-n", "--samples", help="fresh samples", min=64)] = 4096,
    hmc: Annotated[
        int, typer.Option(help="HMC samples to compare with; 0 takes those in the folder, if any", min=0)
    ] = 4096,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="RUN/report.html unless given")] = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Measure a trained flow and write one self-contained HTML page, plots and results.json."""
    results.report(Run.open(run), n_samples=n_samples, n_hmc=hmc, out=out, threads=threads, device=device)


@app.command()
@reports_errors
def check(run: FlowName, device: Device = None) -> None:
    """Run every law on a trained flow in float64: symmetry, divergence, density, inverse."""
    outcome = results.check(flow_named(run), device=device)
    typer.echo(str(outcome))
    if not outcome.ok:
        raise typer.Exit(1)


@app.command()
@reports_errors
def info() -> None:
    """Print versions, devices, and which optional parts are installed."""
    information.print_info()
