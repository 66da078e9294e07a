"""What a run writes while it trains: metrics, fresh evaluations, the best flow, earlier checkpoints."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from equiflow import Action, EquivariantCNF, IndependenceMetropolis, SolverError, importance_sample
from equiflow.cli.building import with_exact_trace
from equiflow.cli.config.schema import Config
from equiflow.cli.run.journal import append_line, of_rung, read_lines
from equiflow.cli.run.rungs import RunRung
from equiflow.runtime.randomness import stream
from equiflow.training import History


class Recorder:
    """The callback of `fit`: called after each step, before the checkpoint of that step is written.

    Of several processes the first one records, and the others wait while it evaluates the flow.
    """

    def __init__(self, folder: Path, rung: RunRung, flow: EquivariantCNF, action: Action) -> None:
        self.folder, self.rung, self.flow, self.action = folder, rung, flow, action
        self.config = rung.config
        evaluations = of_rung(read_lines(folder / "evaluations.jsonl"), rung.number)
        self.best = max((line["ess"] for line in evaluations if "ess" in line), default=0.0)
        self.board: Any = None
        if self.config.run.tensorboard:
            from equiflow.cli.run.tensorboard import Board

            self.board = Board(folder / "tensorboard", from_step=len(read_lines(folder / "metrics.jsonl")))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.board is not None:
            self.board.close()

    def __call__(self, history: History) -> None:
        """Record the last step of the history."""
        # It says that training is done: gone before the step has a checkpoint, but not before there is one.
        (self.folder / "flow.pt").unlink(missing_ok=True)
        row = {name: column[-1] for name, column in vars(history).items()}
        append_line(self.folder / "metrics.jsonl", {"rung": self.rung.number, **row})
        self._show("training", row)
        if self._due(row["step"], self.config.run.evaluate_every):
            self._evaluate(row["step"])
        if self._due(row["step"], self.config.run.checkpoint_every):
            self._keep_latest(row["step"])

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.config.training.steps

    def _show(self, group: str, row: dict[str, Any]) -> None:
        if self.board is not None:
            self.board.add(group, {**row, "step": self.rung.before + row["step"]})

    def _evaluate(self, step: int) -> None:
        flow = with_exact_trace(self.flow)
        measured = evaluate(flow, self.action, self.config, self.rung.before + step)
        row = {"rung": self.rung.number, "step": step, **measured}
        append_line(self.folder / "evaluations.jsonl", row)
        self._show("fresh samples", measured | {"step": step})
        if row.get("ess", 0.0) > self.best:
            self.best = row["ess"]
            flow.about = {"action": repr(self.action), **row}
            flow.save(self.rung.best)

    def _keep_latest(self, step: int) -> None:
        """Give the checkpoint that is about to be replaced a name of its own; forget the oldest."""
        folder, every = self.rung.folder, self.config.run.checkpoint_every
        latest, before = self.rung.latest, (step - 1) // every * every
        if self.config.run.keep and latest.exists():
            named = folder / f"step-{before:06d}.pt"
            named.unlink(missing_ok=True)
            _link(latest, named)
        for old in sorted(folder.glob("step-*.pt"))[: -self.config.run.keep or None]:
            old.unlink()


def evaluate(flow: EquivariantCNF, action: Action, config: Config, step: int) -> dict[str, Any]:
    """ESS, log Z and Metropolis acceptance on fresh samples of a stream of their own for each step."""
    generator = stream(config.training.seed, "evaluation", step, device=flow.device)
    try:
        ensemble = importance_sample(
            flow, action, config.run.evaluation_samples, batch_size=512, certify=0, generator=generator
        )
        ess, log_z = ensemble.effective_sample_size(), ensemble.log_z()
        chain = IndependenceMetropolis.from_ensemble(ensemble, n_chains=4, generator=generator)
    except (SolverError, ValueError) as error:  # an unfinished flow may be too stiff: no reason to stop
        return {"error": str(error)}
    return {
        "ess": ess.mean,
        "ess_error": ess.error,
        "log_z": log_z.mean,
        "log_z_error": log_z.error,
        "acceptance": chain.acceptance_rate.mean,
        "n_samples": config.run.evaluation_samples,
    }


def _link(source: Path, target: Path) -> None:
    """A second name for a file that is never written to, only replaced; a copy where there are no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
