"""Training on one lattice of a run, by gradients or by least squares: `train_on`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from equiflow import Action, EquivariantCNF, fit, fit_by_continuity
from equiflow.cli import building
from equiflow.cli.config.schema import Config, GradientSection, LeastSquaresSection
from equiflow.cli.run.recorder import Recorder
from equiflow.cli.run.rungs import RunRung
from equiflow.runtime import distributed
from equiflow.training import History


def train_on(rung: RunRung, flow: EquivariantCNF, folder: Path, progress: bool | None) -> History:
    """Train on one lattice. If its last step is done already, only fill in the weights.

    Args:
        rung: the lattice.
        flow: trained in place.
        folder: of the run.
        progress: whether to show a progress bar.

    Returns:
        The history on this lattice.
    """
    action = building.build_action(rung.config)
    if isinstance(rung.config.optimiser, LeastSquaresSection):
        return _by_least_squares(rung, rung.config.optimiser, flow, action, folder, progress)
    return _by_gradients(rung, rung.config, flow, action, folder, progress)


def _by_least_squares(
    rung: RunRung,
    options: LeastSquaresSection,
    flow: EquivariantCNF,
    action: Action,
    folder: Path,
    progress: bool | None,
) -> History:
    training = rung.config.training
    with Recorder(folder, rung, flow, action) as recorder:
        return fit_by_continuity(
            flow,
            action,
            sweeps=training.steps,
            n_samples=training.batch_size,
            n_times=options.n_times,
            ridge=options.ridge,
            seed=training.seed,
            checkpoint=rung.latest,
            callback=recorder,
            progress=progress,
        )


def _by_gradients(
    rung: RunRung, config: Config, flow: EquivariantCNF, action: Action, folder: Path, progress: bool | None
) -> History:
    with distributed.all_or_none():  # one process may lack a file of samples
        objective = building.build_objective(config)
    assert isinstance(config.optimiser, GradientSection)
    with ExitStack() as stack:
        recorder = distributed.by_first(lambda: stack.enter_context(Recorder(folder, rung, flow, action)))
        return fit(
            flow,
            action,
            steps=config.training.steps,
            batch_size=config.training.batch_size,
            seed=config.training.seed,
            learning_rate=rung.learning_rate(flow),
            warmup=config.optimiser.warmup,
            clip_norm=config.optimiser.clip_norm,
            objective=objective,
            optimiser=building.build_optimiser(config, flow),
            checkpoint=rung.latest,
            checkpoint_every=config.run.checkpoint_every,
            callback=recorder,
            n_fresh=0,  # the recorder has measured it
            progress=progress,
        )
