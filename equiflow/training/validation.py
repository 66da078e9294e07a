"""Checks of the flow and the action that `fit` is given; `TrainingOptions` checks the numbers."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from equiflow.flows import ConditionalFlow, Flow
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import doubled, in_double
from equiflow.theories.base.action import Action
from equiflow.theories.base.action_gradients import FEW_FIELDS, fault_of_gradient, random_direction
from equiflow.theories.base.coupling_ranges import ActionFamily
from equiflow.theories.base.group import Group

#: relative change of an action under a symmetry above which `fit` warns that the action lacks it
BROKEN_SYMMETRY = 1e-3


def check_target(flow: Flow | ConditionalFlow, action: Action | ActionFamily) -> None:
    """Raise unless an action is a target for a flow, and warn if it lacks a symmetry of the flow.

    Args:
        flow: what is to be trained.
        action: an `Action`, or an `ActionFamily` for a `ConditionalFlow`.

    Raises:
        TypeError: if either is of the wrong type.
        ValueError: if they live on different spaces, or the couplings of the family are outside of the
            flow's ranges, or S falls without bound.
    """
    check_type(flow, (Flow, ConditionalFlow), "flow")
    if isinstance(flow, ConditionalFlow):
        _check_family(flow, action)
    else:
        check_type(action, Action, "action")
        assert isinstance(action, Action)
        _warn_of_symmetry(flow, action)
    _one_of(flow, action)[1].check_density(device=flow.device, stacklevel=5)
    if action.space != flow.space:
        raise ValueError(
            f"The action lives on {action.space.kind} {action.space.shape}, the flow on {flow.space.shape}. "
            f"Build both from the same {type(flow.space).__name__}."
        )


def check_gradient_of_target(flow: Flow | ConditionalFlow, action: Action | ActionFamily) -> None:
    """Raise unless the gradient of an action is that of its values, on a few samples of the flow's prior.

    An action without a gradient passes, as an objective that needs none can train on it.

    Args:
        flow: what is to be trained.
        action: its target.

    Raises:
        ValueError: if it differs from finite differences of the values.
    """
    flow, action = _one_of(flow, action)
    generator = torch.Generator(flow.device).manual_seed(0)
    phi = flow.prior.rsample(FEW_FIELDS, generator).detach()
    # Some actions compute in single precision alone.
    fault = _fault_of_gradient(lambda: in_double(action), doubled(phi))
    if fault is None:
        fault = _fault_of_gradient(lambda: action, phi)
    if fault:
        raise ValueError(fault)


def _fault_of_gradient(make: Callable[[], Action], phi: Tensor) -> str | None:
    """Return what `fault_of_gradient` says; None if S or its gradient cannot be computed on these fields."""
    try:
        action = make()
        return fault_of_gradient(action, phi, random_direction(action, phi))
    except Exception:  # an action of somebody may raise anything; it had values on the first batch
        return None


def _one_of(flow: Flow | ConditionalFlow, action: Action | ActionFamily) -> tuple[Flow, Action]:
    """Return an ordinary flow and its action: those given, or those amid the couplings of a family."""
    if not isinstance(flow, ConditionalFlow):
        assert isinstance(action, Action)
        return flow, action
    assert isinstance(action, ActionFamily)
    couplings = action.couplings.denormalised([0.0] * len(action.couplings.ranges))
    return flow.sharing(**couplings), action.at(**couplings)


def _check_family(flow: ConditionalFlow, action: Action | ActionFamily) -> None:
    """Raise unless the couplings of a family lie in the flow's ranges."""
    check_type(action, ActionFamily, "action", f"This flow is conditional. {ActionFamily.how_to_give}")
    assert isinstance(action, ActionFamily)
    if not flow.couplings.contains(action.couplings):
        raise ValueError(
            f"The flow is for {flow.couplings}, the actions have {action.couplings}. Give both the same "
            "couplings, and the actions ranges inside of the flow's."
        )


def _warn_of_symmetry(flow: Flow, action: Action) -> None:
    """Warn if the action lacks a symmetry that the flow has by construction."""
    group = getattr(flow, "group", None)
    if not isinstance(group, Group) or group.space != action.space:
        return
    changes = action.asymmetry(group, device=flow.device, dtype=flow.dtype)
    broken = [name for name, change in changes.items() if change > BROKEN_SYMMETRY]
    if broken:
        warnings.warn(
            f"The flow is symmetric under {group}, the action is not: it changes under {_first(broken)}. "
            f"The flow cannot reach it. {_smaller(flow, group, broken)}",
            stacklevel=5,  # where `fit` was called
        )


def _first(names: Sequence[str], n: int = 6) -> str:
    """Return the first names in a list as text, and how many more there are."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} others" if len(names) > n else "")


def _smaller(flow: Flow, group: Group, broken: Sequence[str]) -> str:
    """Return which part of a group an action has, and how to build the flow with it, as sentences."""
    kept = next((g for g in group.subgroups() if not {*broken} & {*g.generators()}), None)
    if kept is None:
        return "No group that can be built in leaves these out; give a field and a prior of your own."
    known = inspect.signature(type(flow)).parameters
    options = _changed(kept, group)
    if "group" in known:
        make: Any = type(kept)
        inner = ", ".join([kept.space.kind, *_changed(kept, make(kept.space))])
        options = [f"group={type(kept).__name__}({inner})"]
    call = f"{type(flow).__name__}({', '.join([flow.space.kind, *options])})"
    return f"The largest group that can be built in and that both have is {kept}: write {call}."


def _changed(group: Any, other: Any) -> list[str]:
    """Return the options of a group that differ from those of another one, as text."""
    now, before = group.config(), other.config()
    return [f"{name}={value!r}" for name, value in now.items() if value != before[name]]
