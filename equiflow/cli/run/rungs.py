"""A ladder as one config for each lattice, with a folder for its checkpoints. Start with `rungs_of`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equiflow import EquivariantCNF
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.schema import COUPLINGS, Config, GradientSection, LeastSquaresSection, RungSection
from equiflow.runtime import distributed


@dataclass(frozen=True)
class RunRung:
    """One lattice of a run; most runs have one.

    Attributes:
        number: counts the lattices from 1.
        config: the config of a run on this lattice alone.
        folder: the folder of its checkpoints.
        before: number of steps on the lattices before it.
        rate: the learning rate of this rung, if the config gives it one.
    """

    number: int
    config: Config
    folder: Path
    before: int
    rate: float | None = None

    def learning_rate(self, flow: EquivariantCNF) -> float:
        """Return the learning rate at the top of the schedule.

        It is the rate of the rung, or else of [optimiser], or else of the flow. The last two are multiplied
        by `fine_tuning` after the first rung.
        """
        optimiser = self.config.optimiser
        assert isinstance(optimiser, GradientSection)
        rate = flow.learning_rate if optimiser.learning_rate is None else optimiser.learning_rate
        tuned = rate * (optimiser.fine_tuning if self.number > 1 else 1)
        return tuned if self.rate is None else self.rate

    @property
    def latest(self) -> Path:
        """Checkpoint that training goes on from."""
        return self.folder / "latest.pt"

    @property
    def best(self) -> Path:
        """The flow of the best evaluation."""
        return self.folder / "best.pt"

    @property
    def shape(self) -> str:
        """The sides of the lattice in words, such as `8 x 8`."""
        return " x ".join(map(str, self.config.lattice.shape))


def rungs_of(config: Config, folder: Path) -> list[RunRung]:
    """Return the lattices of a run in the order of training; the last is the one in [lattice].

    Args:
        config: of the run.
        folder: of the run.

    Returns:
        One entry per lattice; a run without a ladder has one.

    Raises:
        ConfigError: if a rung has a coupling that the action lacks.
    """
    rungs: list[RunRung] = []
    before = 0
    for number, entry in enumerate(config.ladder, 1):
        own = _on_rung(config, entry, number)
        name = f"{number}-{'x'.join(map(str, entry.shape))}"
        rungs.append(RunRung(number, own, folder / "rungs" / name, before, entry.learning_rate))
        before += own.training.steps
    own = config.model_copy(update={"ladder": []})
    return [*rungs, RunRung(len(rungs) + 1, own, folder / "checkpoints", before)]


def check_shares(config: Config) -> None:
    """Refuse batches that leave a process without samples, on any lattice.

    Raises:
        ConfigError: if there are more processes than samples.
    """
    if isinstance(config.optimiser, LeastSquaresSection) and distributed.world_size() > 1:
        raise ConfigError('[optimiser]: kind = "least_squares" trains in one process; start one.')
    batches = {"training.batch_size": config.training.batch_size}
    for number, entry in enumerate(config.ladder, 1):
        if entry.batch_size is not None:
            batches[f"ladder.{number}.batch_size"] = entry.batch_size
    if "rows" in config.optimiser.option_names:
        batches["optimiser.rows"] = config.optimiser.options()["rows"]
    try:
        for name, batch_size in batches.items():
            distributed.check_share(batch_size, name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _on_rung(config: Config, entry: RungSection, number: int) -> Config:
    """Return the config of one lattice before the last."""
    given = entry.model_dump(exclude_none=True)
    couplings = {name: given[name] for name in COUPLINGS if name in given}
    training: dict[str, int] = {name: given[name] for name in ("steps", "batch_size") if name in given}
    try:
        action = type(config.action).model_validate({**config.action.model_dump(), **couplings})
    except ValueError as error:
        wrong = ", ".join(f"{name} = {value}" for name, value in couplings.items())
        raise ConfigError(
            f"[[ladder]] {number}: {wrong} are no couplings of action.kind = {config.action.kind!r}."
        ) from error
    update: dict[str, Any] = {
        "lattice": config.lattice.model_copy(update={"shape": entry.shape}),
        "action": action,
        "training": config.training.model_copy(update=training),
        "ladder": [],
    }
    return config.model_copy(update=update)
