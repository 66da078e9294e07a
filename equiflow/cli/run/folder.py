"""A run is a folder. Killed between any two writes, it goes on bit for bit from its last checkpoint.

    config.toml         every key, resolved
    run.json            versions and start of every session
    metrics.jsonl       a line per optimiser step
    evaluations.jsonl   ESS, log Z and acceptance on fresh samples
    checkpoints/        latest.pt, step-*.pt before it, best.pt: the flow of the best evaluation
    rungs/1-8x8/ ...    the same for each lattice of a ladder before the last
    flow.pt             best.pt with the solver that `run.accuracy` asks for, from the last step on
    start.pt            the flow that training started from, if the config names one

Start with `Run.create`, `Run.open` and `Run.train`. The checkpoint counts: when a run resumes, lines about
later steps are dropped, and those steps are taken again with the same random numbers.

Several processes can train a run together, see `equiflow.distributed`. Only the first one writes to the
folder. All read the files of samples that an objective names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from equiflow import Action, EquivariantCNF, SolverError, TrainingDivergedError
from equiflow.cli import building
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.file import load_config
from equiflow.cli.config.render import render
from equiflow.cli.config.schema import Config
from equiflow.cli.run.errors import RunError
from equiflow.cli.run.journal import of_rung, read_lines
from equiflow.cli.run.locking import is_locked, locked
from equiflow.cli.run.rewinding import rewind
from equiflow.cli.run.rungs import RunRung, check_shares, rungs_of
from equiflow.cli.run.training import train_on
from equiflow.cli.versions import versions
from equiflow.runtime import distributed
from equiflow.runtime.randomness import stream
from equiflow.runtime.storage import load_safely, real_path, written_atomically
from equiflow.training import History


@dataclass(frozen=True)
class Run:
    """A run folder and its config.

    Attributes:
        folder: where everything is written.
        config: every key of the run.
    """

    folder: Path
    config: Config

    @classmethod
    def create(cls, folder: str | Path, config: Config) -> Run:
        """Make the folder of a new run. Everything that can be refused is refused before it exists.

        Args:
            folder: made if it is missing.
            config: of the run.

        Returns:
            The run, of which no step has been taken.

        Raises:
            ConfigError: if the config cannot be built.
            RunError: if the folder holds a run already.
            OSError: if a symbolic link leads back to itself.
        """
        folder = Path(folder)
        real_path(folder)
        _refuse_another_run(folder, in_training=bool(is_locked(folder)))
        check_shares(config)
        start, run = start_flow(config), cls(folder, config)
        for rung, flow in zip(run.rungs, run._flows(start), strict=True):
            building.check_training(rung.config, flow)
            building.build_action(rung.config)
            building.check_memory_for(rung.config, flow)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _refuse_another_run(folder, in_training=False)  # two commands may make it at the same time
            if start is not None:
                start.save(run.start)
            # Last: a folder without it holds no run.
            with written_atomically(folder / "config.toml") as temporary:
                temporary.write_text(render(config), encoding="utf-8")
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Return the run in a folder.

        Raises:
            RunError: if there is none.
            OSError: if a symbolic link leads back to itself.
        """
        folder = Path(folder)
        real_path(folder)
        if not (folder / "config.toml").exists():
            raise RunError(
                f"{folder} holds no run: it has no config.toml. `equiflow train config.toml` makes one."
            )
        return cls(folder, load_config(folder / "config.toml"))

    @property
    def rungs(self) -> list[RunRung]:
        """The lattices of the run, in the order of training; one unless there is a ladder."""
        return rungs_of(self.config, self.folder)

    @property
    def current(self) -> RunRung:
        """The lattice that training is on."""
        begun = [rung for rung in self.rungs if rung.latest.exists()]
        return begun[-1] if begun else self.rungs[0]

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints on the last lattice."""
        return self.folder / "checkpoints"

    @property
    def latest(self) -> Path:
        """Checkpoint that training goes on from."""
        return self.current.latest

    @property
    def start(self) -> Path:
        """File of the flow that training starts from, if the config names one."""
        return self.folder / "start.pt"

    @property
    def is_finished(self) -> bool:
        """Whether the last step is taken."""
        return (self.folder / "flow.pt").exists()

    @property
    def device(self) -> str:
        """The device of the config."""
        return self.config.compute.device

    @property
    def threads(self) -> int:
        """The CPU threads of the config."""
        return self.config.compute.threads

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of all steps so far."""
        return read_lines(self.folder / "metrics.jsonl")

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The measurements on fresh samples so far."""
        return read_lines(self.folder / "evaluations.jsonl")

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The versions and the start of each time that training was begun or resumed."""
        path = self.folder / "run.json"
        return json.loads(path.read_text(encoding="utf-8"))["sessions"] if path.exists() else []

    @property
    def action(self) -> Action:
        """The target, on the last lattice."""
        return building.build_action(self.config)

    def untrained(self) -> EquivariantCNF:
        """Return the flow that training starts from."""
        return next(self._flows(_rebuilt(self._start_content())))

    def _start_content(self) -> dict[str, Any] | None:
        """Return the content of `start.pt`; None if the config names no flow to start from."""
        return None if self.config.start.flow is None else load_safely(self.start, "flow", map_location="cpu")

    def _flows(self, flow: EquivariantCNF | None) -> Iterator[EquivariantCNF]:
        """Yield a flow for each lattice; it starts from the one before, which is trained in between."""
        for rung in self.rungs:
            flow = building.build_flow(rung.config, start=flow)
            yield flow

    def trained(self, *, device: str | None = None) -> tuple[EquivariantCNF, str]:
        """Return the best flow so far on the last lattice, and the name of the file that it is from.

        Args:
            device: where the flow goes; by default the device of the config.

        Returns:
            The flow with an exact divergence, and the name of its file.

        Raises:
            RunError: if there is no checkpoint of it yet.
            ValueError: if this machine lacks the device.
        """
        if device is not None:
            compute = self.config.compute.model_copy(update={"device": device})
            return Run(self.folder, self.config.model_copy(update={"compute": compute})).trained()
        device, last = self.config.compute.device, self.rungs[-1]
        for path in (self.folder / "flow.pt", last.best):
            if path.exists():
                return EquivariantCNF.load(path, device=device), path.name
        if not last.latest.exists():
            below = f" of {last.shape}" if last.before else ""
            raise RunError(
                f"{self.folder} has no checkpoint yet{below}: the first is written after step "
                f"{self.config.run.checkpoint_every}{' on that lattice' if below else ''}."
            )
        *_, flow = self._flows(_rebuilt(self._start_content()))
        flow.load_state_dict(load_safely(last.latest, "training", map_location=device)["flow"])
        return building.with_exact_trace(flow), last.latest.name

    def histories(self) -> list[History]:
        """Return the record of training so far on each lattice."""
        lines, histories = self.metrics, []
        for rung in self.rungs:
            histories.append(History())
            for line in of_rung(lines, rung.number):
                histories[-1].append(**line)
        return histories

    def train(self, *, progress: bool | None = None) -> History:
        """Train, or go on training, to the last step; then choose the solver and write `flow.pt`.

        Args:
            progress: whether to show a progress bar; by default in a terminal.

        Returns:
            The history of the last lattice.

        Raises:
            ConfigError: if there are more processes than samples in a batch.
            RunError: if another process is training this run.
            CheckpointError: if the checkpoint is damaged.
            TrainingDivergedError: naming the lattice.
        """
        with ExitStack() as stack:
            distributed.by_first(lambda: check_shares(self.config))
            distributed.by_first(lambda: stack.enter_context(locked(self.folder)))
            torch.set_num_threads(self.config.compute.threads)
            flows = self._flows(_rebuilt(distributed.from_first(self._start_content)))
            done = distributed.from_first(lambda: rewind(self.folder, self.rungs))
            distributed.by_first(lambda: self._note_session(sum(done)))
            for rung, steps in zip(self.rungs, done, strict=True):
                with distributed.all_or_none():  # one process may lack the device
                    flow = next(flows)
                # The bar of a rung that was climbed before would only flash by.
                shown = progress if steps < rung.config.training.steps or rung.number == len(done) else False
                try:
                    history = train_on(rung, flow, self.folder, shown)
                except TrainingDivergedError as error:
                    raise TrainingDivergedError(f"On {rung.shape}: {error}", error.history) from error
            distributed.by_first(self._finish)
        return history

    def _finish(self) -> None:
        """Write `flow.pt`: the flow of the best evaluation with a solver of the accuracy asked for."""
        if self.is_finished:  # no step was taken since: `Recorder` would have removed it
            return
        flow, _ = self.trained()
        if self.config.run.accuracy:
            generator = stream(self.config.training.seed, "solver", device=flow.device)
            try:
                flow.tune_solver(self.config.run.accuracy, action=self.action, generator=generator)
            except SolverError as error:
                flow.about["solver"] = f"not tuned: {error}"
        flow.save(self.folder / "flow.pt")

    def _note_session(self, step: int) -> None:
        """Add to `run.json` that training goes on from a step."""
        session = {"from_step": step, "started": time.strftime("%Y-%m-%d %H:%M:%S %z"), **versions()}
        content = {"seed": self.config.training.seed, "sessions": [*self.sessions, session]}
        with written_atomically(self.folder / "run.json") as temporary:
            temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _refuse_another_run(folder: Path, *, in_training: bool) -> None:
    """Raise if a folder holds a run already."""
    if not (folder / "config.toml").exists():
        return
    if in_training:
        raise RunError(f"Another process is training {folder}. Give another folder by --run.")
    raise RunError(
        f"{folder} holds a run already. Go on with it by `equiflow resume {folder}`, or give another folder "
        "by --run."
    )


def _rebuilt(start: dict[str, Any] | None) -> EquivariantCNF | None:
    return None if start is None else EquivariantCNF.from_dict(start)


def start_flow(config: Config) -> EquivariantCNF | None:
    """Return the trained flow that a config starts from; None if it names none.

    It is the flow of a run folder, of a file, or a pretrained one.

    Raises:
        ConfigError: if there is none of that name, or the config also says how to build a new one.
    """
    name = config.start.flow
    if name is None:
        return None
    given = {"field", "prior", "symmetry"} & config.model_fields_set
    if given:
        raise ConfigError(
            f"[start] flow = {name!r} brings its own field, prior and symmetry: remove "
            f"{', '.join(f'[{part}]' for part in sorted(given))}."
        )
    with building.section("start"):
        if Path(name).is_dir():
            return Run.open(name).trained(device="cpu")[0]
        if Path(name).exists():
            return EquivariantCNF.load(name)
        return EquivariantCNF.pretrained(name)
