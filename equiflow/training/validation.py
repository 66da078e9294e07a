"""What `fit` refuses, and what it warns of, before the first step."""

from __future__ import annotations

import math
import warnings

from equiflow.flows import ConditionalFlow, Flow
from equiflow.runtime import distributed
from equiflow.runtime.checks import check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.coupling_ranges import ActionFamily
from equiflow.theories.base.group import Group


def check_inputs(
    flow: Flow | ConditionalFlow,
    action: Action | ActionFamily,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup: int,
    clip_norm: float,
    checkpoint_every: int,
) -> None:
    """Raise unless flow, action and numbers fit; see `fit` for what they are."""
    check_type(flow, (Flow, ConditionalFlow), "flow")
    _check_target(flow, action)
    for name, count in (("steps", steps), ("batch_size", batch_size), ("checkpoint_every", checkpoint_every)):
        check_type(count, int, name)
    if action.space != flow.space:
        raise ValueError(
            f"The action lives on {action.space.kind} {action.space.shape}, the flow on {flow.space.shape}. "
            f"Build both from the same {type(flow.space).__name__}."
        )
    if min(steps, batch_size, checkpoint_every) < 1 or warmup < 0:
        raise ValueError(
            f"Expected counts >= 1, got steps={steps}, batch_size={batch_size}, "
            f"checkpoint_every={checkpoint_every}, warmup={warmup}."
        )
    distributed.check_share(batch_size, "batch_size")
    if not (0 < learning_rate < math.inf and clip_norm > 0):
        raise ValueError(
            f"Expected positive learning_rate and clip_norm, got {learning_rate} and {clip_norm}."
        )


def _check_target(flow: Flow | ConditionalFlow, action: Action | ActionFamily) -> None:
    """An action for a flow, a family of actions inside of its ranges for a conditional one."""
    if not isinstance(flow, ConditionalFlow):
        check_type(action, Action, "action")
        assert isinstance(action, Action)
        _warn_of_symmetry(flow, action)
        return
    remedy = "Write ActionFamily(Phi4, lattice, m2=-4.0, lam=(4.0, 6.0))."
    check_type(action, ActionFamily, "The action of a conditional flow", remedy)
    assert isinstance(action, ActionFamily)
    if not flow.couplings.contains(action.couplings):
        raise ValueError(
            f"The flow is for {flow.couplings}, the actions have {action.couplings}. Give both the same "
            "couplings, and the actions ranges inside of the flow's."
        )


def _warn_of_symmetry(flow: Flow, action: Action) -> None:
    """Warn where the target lacks a symmetry that the flow has by construction."""
    group = getattr(flow, "group", None)
    if (
        not isinstance(group, Group)
        or group.space != action.space
        or flow.prior.event_shape != group.space.shape
    ):
        return
    changes = action.asymmetry(group, device=flow.device, dtype=flow.dtype)
    broken = [name for name, change in changes.items() if change > 1e-3]
    if broken:
        warnings.warn(
            f"The flow is symmetric under {group}, the action is not: it changes under {', '.join(broken)}. "
            "The flow cannot reach it. Give the field and the prior a smaller group, such as "
            "SymmetryGroup(lattice, z2=False).",
            stacklevel=4,
        )
