"""Log weights of given configurations: `log_weights`."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.progress import progress_as, progress_bar
from equiflow.theories.base.action import Action


@torch.no_grad()
def log_weights(
    flow: Flow, action: Action, phi: Tensor, *, batch_size: int = 1024, progress: bool | None = None
) -> Tensor:
    """Return the log weights `-S(phi) - log q(phi)` of given configurations, such as samples of the target.

    Args:
        flow: the model q.
        action: the target, `exp(-S)`.
        phi: `(batch, *lattice)`.
        batch_size: configurations taken through the inverse flow at a time, which bounds the memory.
        progress: whether to show a bar, see `fit`.

    Returns:
        `(batch,)`.

    Raises:
        TypeError: if `action` is not an `Action`, or the batch size is not an integer.
        ValueError: if the batch size is not positive.
    """
    check_type(action, Action, "action")
    batch_size = check_count(batch_size, "batch_size")
    found = []
    with progress_as(progress), progress_bar(len(phi), "inverse flow", "configuration") as bar:
        for part in phi.split(batch_size):
            found.append(-action(part) - flow.log_prob(part))
            bar.update(len(part))
    return torch.cat(found)
