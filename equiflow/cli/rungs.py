"""A ladder as one config for each lattice, with a folder for its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from equiflow.cli.config import Config, RungSection
from equiflow.cli.config_file import ConfigError


@dataclass(frozen=True)
class RunRung:
    """One lattice of a run; most runs have one.

    Attributes:
        number: from 1.
        config: of a run on this lattice alone.
        folder: of its checkpoints.
        before: steps on the lattices before it.
    """

    number: int
    config: Config
    folder: Path
    before: int

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
        """Of the lattice, such as `8 x 8`."""
        return " x ".join(map(str, self.config.lattice.shape))


def rungs_of(config: Config, folder: Path) -> list[RunRung]:
    """The lattices of a run in the order of training; the last is the one in [lattice].

    Raises:
        ConfigError: if a rung has a coupling that the action has not.
    """
    tuned = config.optimiser.learning_rate * config.optimiser.fine_tuning
    rungs: list[RunRung] = []
    before = 0
    for number, entry in enumerate(config.ladder, 1):
        rate = config.optimiser.learning_rate if number == 1 else tuned
        own = _on_rung(config, entry, number, rate)
        name = f"{number}-{'x'.join(map(str, entry.shape))}"
        rungs.append(RunRung(number, own, folder / "rungs" / name, before))
        before += own.training.steps
    own = _with_rate(config, tuned) if rungs else config
    return [*rungs, RunRung(len(rungs) + 1, own, folder / "checkpoints", before)]


def _on_rung(config: Config, entry: RungSection, number: int, rate: float) -> Config:
    """The config of one lattice before the last."""
    given = entry.model_dump(exclude_none=True)
    couplings = {name: given[name] for name in ("m2", "lam", "h") if name in given}
    training: dict[str, int] = {name: given[name] for name in ("steps", "batch_size") if name in given}
    try:
        action = type(config.action).model_validate({**config.action.model_dump(), **couplings})
    except ValueError as error:
        wrong = ", ".join(f"{name} = {value}" for name, value in couplings.items())
        raise ConfigError(
            f"[[ladder]] {number}: {wrong} are no couplings of action.kind = {config.action.kind!r}."
        ) from error
    update = {
        "lattice": config.lattice.model_copy(update={"shape": entry.shape}),
        "action": action,
        "training": config.training.model_copy(update=training),
    }
    return _with_rate(config.model_copy(update=update), given.get("learning_rate", rate))


def _with_rate(config: Config, rate: float) -> Config:
    """Without the ladder."""
    optimiser = config.optimiser.model_copy(update={"learning_rate": rate})
    return config.model_copy(update={"optimiser": optimiser, "ladder": []})
