"""Trained flows that commands take besides run folders: files of `flow.save`, and pretrained ones by name.

`flow_named` finds what a name stands for, and `record_of` says how it was trained.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equiflow import Action, EquivariantCNF, ExternalField
from equiflow.cli.building import build_action
from equiflow.cli.config.render import render
from equiflow.cli.config.schema import GradientSection
from equiflow.cli.run.errors import RunError
from equiflow.cli.run.folder import Run
from equiflow.cli.run.journal import of_rung
from equiflow.flows.parts import pretrained_file
from equiflow.runtime.storage import real_path
from equiflow.theories.base.kind import kinds
from equiflow.theories.base.space import Space
from equiflow.training import History, Rung


@dataclass(frozen=True)
class FlowFile:
    """A trained flow in a file, with the parts of a `Run` that sampling and checks need.

    Attributes:
        path: the file.
        source: how the flow was named.
    """

    path: Path
    source: str
    # Where an ensemble without a name goes, and what is taken unless it is given.
    folder = Path()
    device = "cpu"
    threads = 1

    def trained(self, *, device: str | None = None) -> tuple[EquivariantCNF, str]:
        """Return the flow and its name.

        Args:
            device: where the flow goes; by default the CPU.

        Returns:
            The flow, and how it was named.

        Raises:
            CheckpointError: if the file is damaged or holds no such flow.
            ValueError: if this machine lacks the device.
        """
        return EquivariantCNF.load(self.path, device=device or self.device), self.source

    @property
    def action(self) -> Action:
        """The action that the flow was trained for."""
        flow, _ = self.trained()
        text = str(flow.about.get("action", ""))
        action = action_from(text, flow.space)
        if action is None:
            known = f"names {text}, which is none that can be built from its text" if text else "names none"
            raise RunError(f"{self.source} has to say its action in flow.about['action'], but it {known}.")
        return action


def flow_named(name: str) -> Run | FlowFile:
    """Return what a command takes its flow from.

    Args:
        name: a run folder, a file of a flow, or the name of a pretrained flow.

    Returns:
        The run, or the file.

    Raises:
        RunError: if there is none.
        OSError: if a symbolic link leads back to itself.
    """
    path = Path(name)
    real_path(path)
    if path.is_file():
        return FlowFile(path, name)
    if not path.exists():
        try:
            return FlowFile(pretrained_file(name), name)
        except ValueError as error:
            raise RunError(f"{name} holds no run, and is no file of a flow. {error}") from error
    return Run.open(path)


@dataclass(frozen=True)
class Record:
    """What a report says about the training of a flow, besides the flow itself.

    Attributes:
        title: name of the flow or the run.
        folder: where the report is written.
        seed: of what the report draws.
        history: of the training on the last lattice; empty if none is known.
        config: text of the resolved config; empty if there is none.
        evaluations: measurements on fresh samples during training on the last lattice.
        sessions: start and versions of each session of training.
        below: the lattices of a ladder before the last one.
        minimises_reverse_kl: whether the loss in `history` is `<log q + S>`, where it does not say it itself.
    """

    title: str
    folder: Path
    seed: int = 0
    history: History = field(default_factory=History)
    config: str = ""
    evaluations: Sequence[dict[str, Any]] = ()
    sessions: Sequence[dict[str, Any]] = ()
    below: Sequence[Rung] = ()
    minimises_reverse_kl: bool = True


def record_of(run: Run | FlowFile) -> Record:
    """Return what is known about the training of a flow: all of it for a run, nothing for a file.

    The report about a file goes into a folder of its own, `NAME-report` in the working directory.
    """
    if isinstance(run, FlowFile):
        name = Path(run.source).stem
        return Record(name, Path(f"{name}-report"))
    *below, history = run.histories()
    return Record(
        title=run.folder.resolve().name,
        folder=run.folder,
        seed=run.config.training.seed,
        history=history,
        config=render(run.config),
        evaluations=of_rung(run.evaluations, len(run.rungs)),
        sessions=run.sessions,
        below=[
            Rung(build_action(rung.config), EquivariantCNF.load(rung.best), history)
            for rung, history in zip(run.rungs[:-1], below, strict=True)
            if rung.best.exists()
        ],
        minimises_reverse_kl=isinstance(run.config.optimiser, GradientSection)
        and run.config.objective.kind in ("path", "reverse"),
    )


def action_from(text: str, space: Space) -> Action | None:
    """Return the action whose `repr` is a text, without running the text.

    Args:
        text: such as `Phi4(shape=(8, 8), m2=-4.0, lam=6.008)`.
        space: of its configurations.

    Returns:
        The action; None if no registered action has this `repr`.
    """
    classes = {action.__name__: action for kind in kinds() for action in kind.actions.values()}
    try:
        call = ast.parse(text, mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            return None
        inner = call.args[0] if call.args else None
        if inner is not None:  # of `ExternalField(Phi4(...), h=[...])`
            without = action_from(ast.get_source_segment(text, inner) or "", space)
            words = _literals(call, inspect.signature(ExternalField).parameters)
            action = None if without is None else ExternalField(without, **words)
        else:
            kind = classes[call.func.id]
            # The space itself says its shape, and the group of links.
            action = kind(space, **_literals(call, inspect.signature(kind).parameters))
    except (SyntaxError, KeyError, TypeError, ValueError):
        return None
    return action if repr(action) == text else None


def _literals(call: ast.Call, names: Container[str]) -> dict[str, Any]:
    """Return the keyword arguments of a call that have one of the names; they must be plain values."""
    words = {word.arg: word.value for word in call.keywords if word.arg and word.arg in names}
    return {name: ast.literal_eval(value) for name, value in words.items()}
