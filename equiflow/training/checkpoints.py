"""Checkpoints of training: reading them, and refusing those that belong to another run or are unsound.

`TrainingRun.state` and `TrainingRun.restore` say what a checkpoint holds. `settings_today` lets checkpoints
of earlier versions go on, whose settings call some things by other names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from equiflow.flows.kernels import without_evaluator
from equiflow.runtime.checks import check_count
from equiflow.runtime.storage import CheckpointError, load_safely
from equiflow.training.history import History

#: words of version 0.1 in settings, as patterns, and what they are called today
RENAMED_SINCE_0_1 = {
    "optimiser": [(r"^adam$", "adam(eps=1e-08)")],
    "objective": [(r"\bcoupling='", "pairing='")],
    "flow": [
        (r"\(couplings\): ModuleList\(", "(layers): ModuleList("),
        (r"\bMaskedCoupling\(", "CheckerboardLayer("),
        (r"\bShear\(", "ShearLayer("),
        (r"\bAffineCoupling\(", "AffineLayer("),
    ],
}


def read_checkpoint(path: str | Path | None) -> dict[str, Any] | None:
    """Return the saved state of a run, or None if there is no path or no file.

    Raises:
        CheckpointError: if the file is damaged or not a training checkpoint.
    """
    if path is None or not Path(path).exists():
        return None
    return load_safely(path, "training", map_location="cpu")


def without_addresses(settings: dict[str, Any]) -> dict[str, Any]:
    """Remove from settings what says nothing of a run.

    That is addresses in memory, which objects without a `repr` of their own show, and who computes the field
    of a flow: a run may go on where there are no kernels.
    """
    addresses = " at 0x[0-9a-f]+"
    return {
        k: re.sub(addresses, "", without_evaluator(v)) if isinstance(v, str) else v
        for k, v in settings.items()
    }


def settings_today(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace the words of version 0.1 in settings by today's; settings of today stay as they are."""
    translated = dict(settings)
    for name, renamed in RENAMED_SINCE_0_1.items():
        for old, new in renamed:
            if isinstance(translated.get(name), str):
                translated[name] = re.sub(old, new, translated[name])
    return translated


def check_same_settings(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise unless two runs have the same settings.

    Args:
        saved: settings from a checkpoint, possibly of an earlier version.
        current: settings of the run that wants to go on from it.

    Raises:
        CheckpointError: if they differ; the message lists the differences.
    """
    saved = without_addresses(saved)
    # Both sides are translated, so that an old word in the `repr` of a user's objective does no harm.
    old, new = settings_today(saved), settings_today(current)
    changed = [k for k, v in new.items() if type(old.get(k)) is not type(v) or old[k] != v]
    if changed:
        raise CheckpointError(
            "The checkpoint belongs to another run: "
            + ", ".join(f"{k} was {saved.get(k)}, now {current[k]}" for k in changed)
            + ". Give another checkpoint file, or the same settings."
        )


def sound_history(state: dict[str, Any], steps: int) -> History:
    """Return the history in a saved state, after checking that it is one of at most `steps` steps.

    Args:
        state: as read from a checkpoint.
        steps: number of steps of the whole run.

    Returns:
        The history, with one entry per step taken.

    Raises:
        TypeError: if the number of steps taken is not an integer, or a column is missing or unknown.
        ValueError: if a column has another length, or holds something else than numbers, or texts.
    """
    history = History(**state["history"])
    step = check_count(state["step"], "step", minimum=0)
    if "loss_name" not in state["history"]:  # of an earlier version
        history.loss_name = [""] * step
    if not isinstance(history.notes, list) or not all(isinstance(note, str) for note in history.notes):
        raise ValueError("history.notes is not a list of texts")
    if history.fresh_ess is not None:
        raise ValueError("history.fresh_ess is measured anew, and does not belong into a checkpoint")
    for name, column in vars(history).items():
        if name in ("notes", "fresh_ess"):
            continue
        if not isinstance(column, list) or len(column) != step:
            raise ValueError(f"history.{name} is not a list of {step} steps")
        allowed = {"ess": (int, float, type(None)), "loss_name": (str,)}.get(name, (int, float))
        if not all(isinstance(entry, allowed) for entry in column):
            raise ValueError(
                f"history.{name} holds something else than {'texts' if name == 'loss_name' else 'numbers'}"
            )
    if history.step != list(range(1, step + 1)) or step > steps:
        raise ValueError(f"its history does not count the steps from 1 to {step}")
    return history


def check_moments(moments: dict[int, Any], trained: Sequence[Tensor]) -> None:
    """Raise unless Adam's moments are shaped like the parameters that they belong to.

    Args:
        moments: the entry `"state"` of the saved state of an Adam optimiser.
        trained: its parameters, in the order of its groups.

    Raises:
        ValueError: if a moment is missing, unknown, or has another shape.
    """
    for index, found in moments.items():
        two = {"step", "exp_avg", "exp_avg_sq"}
        if not two <= set(found) <= two | {"max_exp_avg_sq"}:
            raise ValueError(f"the optimiser's state of parameter {index} is not Adam's")
        for name in sorted(set(found) - {"step"}):
            if found[name].shape != trained[index].shape:
                raise ValueError(f"{name} of parameter {index} has shape {tuple(found[name].shape)}")


def with_all_options(saved: dict[str, Any], optimiser: Optimizer) -> dict[str, Any]:
    """Return the saved state of an optimiser with the options that its version of torch did not have.

    An option that the state lacks is filled in, if `optimiser` has the default value of its class. So
    `decoupled_weight_decay` of Adam, which torch has since version 2.7, is no reason to refuse older states.

    Args:
        saved: `state_dict` of the saved optimiser.
        optimiser: the optimiser that is to go on from it.

    Returns:
        The state with the options of `optimiser`, up to the learning rate.

    Raises:
        ValueError: if options or parameters differ.
    """
    groups, defaults = optimiser.state_dict()["param_groups"], _defaults_of(type(optimiser))
    if len(saved["param_groups"]) != len(groups):
        raise ValueError(f"the optimiser had {len(saved['param_groups'])} groups of parameters")
    completed = []
    for now, old in zip(groups, saved["param_groups"], strict=True):
        added = {k: v for k, v in now.items() if k not in old and k in defaults and v == defaults[k]}
        complete = added | old
        names = sorted((now.keys() | complete.keys()) - {"lr"})
        changed = [name for name in names if now.get(name, ...) != complete.get(name, ...)]
        if changed:
            raise ValueError(f"the optimiser had other options or parameters: {', '.join(changed)}")
        completed.append(complete)
    return {**saved, "param_groups": completed}


def _defaults_of(cls: type[Optimizer]) -> dict[str, Any]:
    """Return the default options of a class of optimisers; empty if parameters and rate do not make one."""
    try:
        return cls([torch.zeros((), requires_grad=True)], lr=1e-3).defaults  # type: ignore[call-arg]
    except Exception:  # the constructor of somebody's optimiser may raise anything
        return {}


def optimiser_name(optimiser: Callable[..., Optimizer]) -> str:
    """Return a name of an optimiser's constructor that is the same in every process."""
    if isinstance(optimiser, partial):
        given = [*map(repr, optimiser.args), *(f"{k}={v!r}" for k, v in sorted(optimiser.keywords.items()))]
        return f"{optimiser_name(optimiser.func)}({', '.join(given)})"
    return getattr(optimiser, "__qualname__", repr(optimiser))
