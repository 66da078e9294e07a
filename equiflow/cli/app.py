"""The commands of `equiflow`, each a few lines about a run folder.

The work is done by `equiflow.cli.run.folder.Run` and `equiflow.cli.results`; `equiflow.cli.endings` says how
commands end. They are imported when a command runs: they need torch, which takes seconds, and `--help` and
the completion of the shell need none of them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from equiflow.cli.config import MOST_THREADS

if TYPE_CHECKING:
    from equiflow.cli.config.schema import Config
    from equiflow.cli.run.folder import Run

F = TypeVar("F", bound=Callable[..., Any])

app = typer.Typer(
    help="Symmetric flows for lattice field theory: from a config file to physics with error bars.",
    no_args_is_help=True,
    rich_markup_mode=None,  # help and errors as plain text: rich takes longer to import than all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
FlowName = Annotated[
    str, typer.Argument(metavar="RUN", help="run folder, file of a flow, or name of a pretrained flow")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="run folder")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...; that of the run unless given", metavar="DEVICE")
]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads; those of the run unless given", min=1, max=MOST_THREADS)
]


def start() -> None:
    """Run the command that the arguments of this process name, and end the process."""
    try:
        try:
            app(prog_name="equiflow")
        finally:
            sys.stdout.flush()
    except OSError as error:  # of the output: a command reports all others
        from equiflow.cli.endings import drop_output, of_system

        drop_output()
        sys.exit(1 if isinstance(error, BrokenPipeError) else of_system(error))


def _when_called(*, in_processes: bool = False) -> Callable[[F], F]:
    """Return a decorator of commands: what they need is imported when they are called; errors are reported.

    Args:
        in_processes: whether torchrun may start the command in several processes that work together.
    """

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def wrapped(*args: Any, **options: Any) -> Any:
            # Here and not in the command: what is missing is reported by `main`, and Ctrl-C ends all at once.
            from equiflow.cli import endings, results, training, watching  # noqa: F401

            reporting = endings.reports_errors(command)
            return (endings.in_processes(reporting) if in_processes else reporting)(*args, **options)

        return wrapped  # type: ignore[return-value]

    return decorate


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="show the version and stop")] = False,
) -> None:
    if version:
        import equiflow

        typer.echo(f"equiflow {equiflow.__version__}")
        raise typer.Exit


@app.command()
@_when_called(in_processes=True)
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
    from equiflow.cli.config.file import load_config
    from equiflow.cli.config.render import render_defaults
    from equiflow.cli.endings import fail
    from equiflow.cli.training import train_to_the_end
    from equiflow.runtime import distributed

    if show_defaults:
        typer.echo(render_defaults())
        return
    if config is None:
        fail("Which config? equiflow train config.toml. `equiflow config` prints one to start from.", 2)
    folder = run or Path("runs") / config.stem
    made = distributed.from_first(lambda: _new_or_restarted(folder, load_config(config, set_ or ())))
    train_to_the_end(made, quiet=quiet)


def _new_or_restarted(folder: Path, config: Config) -> Run:
    """Return a new run, or the existing one when torchrun repeats the command after a crash."""
    from equiflow.cli.run.folder import Run
    from equiflow.runtime import distributed

    if distributed.launched() and (folder / "config.toml").exists():
        run = Run.open(folder)
        if run.config == config:
            return run
    return Run.create(folder, config)


@app.command()
@_when_called(in_processes=True)
def resume(
    run: RunFolder,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> None:
    """Go on with a run that was stopped, from its last checkpoint."""
    from equiflow.cli.run.folder import Run
    from equiflow.cli.training import train_to_the_end
    from equiflow.runtime import distributed

    train_to_the_end(distributed.from_first(lambda: Run.open(run)), quiet=quiet)


@app.command()
@_when_called()
def config() -> None:
    """Print every key of a config file with its default and meaning."""
    from equiflow.cli.config.render import render_defaults

    typer.echo(render_defaults())


@app.command()
@_when_called()
def presets(
    name: Annotated[str | None, typer.Argument(help="preset whose config is printed")] = None,
) -> None:
    """List published set-ups, or print the config of one.

    `equiflow presets albergo-E2 > E2.toml` makes a file to train from.
    """
    from equiflow.cli import presets as known_presets
    from equiflow.cli.config.file import parse_config

    if name is None:
        known_presets.print_all()
        return
    text = known_presets.config_text(name)
    parse_config(text, source=name)
    typer.echo(text, nl=False)


@app.command()
@_when_called()
def watch(
    run: RunFolder,
    once: Annotated[bool, typer.Option("--once", help="print the state and stop")] = False,
    every: Annotated[float, typer.Option(help="seconds between updates", min=0.1)] = 2.0,
) -> None:
    """Follow a run while it trains.

    It shows loss, ESS, acceptance, gradient norm and the time to the end, and says whether a process is
    training the run. In a terminal it goes on through all stops until the last step. Into a pipe or a file it
    prints plain lines, and ends with status 1 when nobody trains the run.
    """
    from equiflow.cli import watching
    from equiflow.cli.run.folder import Run
    from equiflow.runtime import interrupts

    try:
        watching.watch(Run.open(run), once=once, every=every)
    except KeyboardInterrupt:
        raise typer.Exit(interrupts.STATUS) from None  # without a word: nothing but watching has stopped


@app.command()
@_when_called(in_processes=True)
def sample(
    run: FlowName,
    n_samples: Annotated[int, typer.Option("-n", "--samples", help="how many", min=2)] = 10_000,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="file; RUN/ensemble.npz unless given")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the samples", min=0, max=2**64 - 1)] = 1,
    batch_size: Annotated[int, typer.Option(help="samples at a time, which bounds the memory", min=1)] = 1024,
    shards: Annotated[
        int | None,
        typer.Option(help="files, in a folder; a single file unless given or under torchrun", min=1),
    ] = None,
    levels: Annotated[
        int, typer.Option(help="2: a coarse solver for all, corrected by few fine solves", min=1, max=2)
    ] = 1,
    threads: Threads = None,
    device: Device = None,
    force: Annotated[
        bool, typer.Option("--force", help="replace an ensemble of this name, or its shards")
    ] = False,
) -> None:
    """Draw samples of a flow into a file, with weights.

    The samples are independent, and the file has the certificate of the flow too.

    A file that is there already is kept: give another name, or --force.

    Large ensembles are written in shards: -o NAME.npz then means the folder NAME. The processes of
    `torchrun --nproc-per-node=4 -m -- equiflow sample RUN` share the shards. The random numbers of a shard do
    not depend on the process that draws it. The same command again keeps the shards that are there.
    """
    from equiflow.cli import ensembles
    from equiflow.cli.flow_files import flow_named
    from equiflow.runtime import distributed

    trained = distributed.from_first(lambda: flow_named(run))
    options: dict[str, Any] = {"out": out, "seed": seed, "batch_size": batch_size, "threads": threads}
    options |= {"device": device, "levels": levels, "force": force}
    by_torchrun = distributed.launched() or distributed.world_size() > 1
    if shards == 1 or (shards is None and not by_torchrun):
        distributed.by_first(lambda: ensembles.sample(trained, n_samples, **options))
    else:
        ensembles.sample_in_shards(trained, n_samples, n_shards=shards, **options)


@app.command()
@_when_called()
def measure(
    ensemble: Annotated[Path, typer.Argument(help="file or folder of `equiflow sample`, or run folder")],
    json: Annotated[Path | None, typer.Option("--json", help="also write the numbers to this file")] = None,
    z2: Annotated[
        bool | None,
        typer.Option(
            "--z2/--no-z2",
            help="whether phi -> -phi is a symmetry; else <phi> is subtracted. By default the action tells",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the observables of an ensemble with their errors.

    A run folder stands for all ensembles in it.
    """
    from equiflow.cli import results

    results.measure_files(ensemble, json, z2=z2)


@app.command()
@_when_called()
def report(
    run: FlowName,
    n_samples: Annotated[int, typer.Option("-n", "--samples", help="fresh samples", min=64)] = 4096,
    hmc: Annotated[
        int, typer.Option(help="HMC samples to compare with; 0 takes those in the folder, if any", min=0)
    ] = 4096,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="RUN/report.html unless given; NAME-report/report.html for a flow"),
    ] = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Measure a trained flow and write a report.

    It is one self-contained HTML page, beside plots and results.json. That of a file of a flow, or of a
    pretrained flow, goes into the folder NAME-report.
    """
    from equiflow.cli import results
    from equiflow.cli.flow_files import flow_named

    results.report(flow_named(run), n_samples=n_samples, n_hmc=hmc, out=out, threads=threads, device=device)


@app.command()
@_when_called()
def check(run: FlowName, device: Device = None) -> None:
    """Check the laws that a trained flow must obey.

    They are symmetry, divergence, density and inverse, each in float64.
    """
    from equiflow.cli import results
    from equiflow.cli.flow_files import flow_named

    outcome = results.check(flow_named(run), device=device)
    typer.echo(str(outcome))
    if not outcome.ok:
        raise typer.Exit(1)


@app.command()
@_when_called()
def info() -> None:
    """Print versions, devices, and which optional parts are installed."""
    from equiflow.cli import info as information

    information.print_info()
