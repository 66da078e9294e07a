"""What a run writes while it trains: metrics, evaluations on fresh samples, the best flow, old checkpoints.

`Recorder` is the callback of `fit`; `evaluate` measures a flow.
"""

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

    If several processes train, only the first one has a recorder. The others wait while it evaluates.

    Args:
        folder: of the run.
        rung: the lattice that is trained on.
        flow: in training.
        action: its target.
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
        # flow.pt says that training is done. It must go before this step has a checkpoint, but a run that
        # takes no step keeps it.
        (self.folder / "flow.pt").unlink(missing_ok=True)
        row: dict[str, Any] = {name: column[-1] for name, column in history.to_dict().items()}
        append_line(self.folder / "metrics.jsonl", {"rung": self.rung.number, **row})
        self._show("training", row)
        if self._due(row["step"], self.config.run.evaluate_every):
            self._evaluate(row["step"])
        if self._due(row["step"], self.config.run.checkpoint_every):
            self._keep_latest(row["step"])

    def _due(self, step: int, every: int) -> bool:
        """Whether something that happens every so many steps, and after the last one, happens now."""
        return step % every == 0 or step == self.config.training.steps

    def _show(self, group: str, row: dict[str, Any]) -> None:
        """Log numbers for TensorBoard, whose steps count through all lattices."""
        if self.board is not None:
            self.board.add(group, {**row, "step": self.rung.before + row["step"]})

    def _evaluate(self, step: int) -> None:
        """Measure the flow on fresh samples, and keep it if it is the best so far."""
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
    """Measure a flow on fresh samples; each step has its own stream of random numbers.

    Args:
        flow: with an exact divergence.
        action: its target.
        config: says how many samples, and the seed.
        step: number of the step, counted through all lattices.

    Returns:
        ESS, log Z with errors, and Metropolis acceptance; or only `error`, why there are none.
    """
    generator = stream(config.training.seed, "evaluation", step, device=flow.device)
    try:
        ensemble = importance_sample(
            flow, action, config.run.evaluation_samples, batch_size=512, certify=0, generator=generator
        )
        ess, log_z = ensemble.effective_sample_size(), ensemble.log_z()
        chain = IndependenceMetropolis.from_ensemble(ensemble, n_chains=4, generator=generator)
    except (SolverError, ValueError) as error:  # an unfinished flow may be too stiff; training goes on
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
    """Give a file a second name; make a copy where the file system has no links."""
    # A link is safe: checkpoints are never written to, only replaced.
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
