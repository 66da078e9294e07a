"""Data-parallel training: the processes exchange values and gradients of their shares of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.runtime import distributed
from equiflow.runtime.distributed import ElsewhereError
from equiflow.training.objectives.base import ObjectiveValue


@dataclass(frozen=True)
class _Share:
    """What one process sends to the others: a failure, or the value of its share of the batch."""

    failure: str | None = None
    interrupted: bool = False
    n_samples: int = 0
    nfe: int = 0
    value: Tensor | None = None
    log_weight: Tensor | None = None
    target_log_weight: Tensor | None = None

    @classmethod
    def of(cls, value: ObjectiveValue, n_samples: int) -> _Share:
        """Return what a process sends about the value of its share."""
        parts = [value.value, value.log_weight, value.target_log_weight]
        mean, model, target = (None if part is None else part.detach().cpu() for part in parts)
        # An objective may split the batch further, which changes the number of samples in our share.
        weighed = next((w for w in (model, target) if w is not None), None)
        count = n_samples if weighed is None else weighed.numel()
        return cls(None, False, count, value.nfe, mean, model, target)


def exchange(
    value: ObjectiveValue | None,
    failure: BaseException | None,
    *,
    n_samples: int,
    trained: Sequence[nn.Parameter],
) -> tuple[ObjectiveValue | None, BaseException | None]:
    """Combine the shares of all processes to the value and the gradients of the whole batch.

    Args:
        value: of this process's share of the batch, after its backward pass; None if it failed.
        failure: what was raised instead of a value.
        n_samples: number of samples in this process's share.
        trained: parameters, whose gradients are replaced by their averages over the batch.

    Returns:
        The value and None, or None and a failure if any process failed; the same in all processes.
    """
    if distributed.world_size() == 1:
        return value, failure
    if value is None:
        own = _Share(f"{type(failure).__name__}: {failure}", isinstance(failure, KeyboardInterrupt))
    else:
        own = _Share.of(value, n_samples)
    shares = distributed.gather(own)
    if any(share.interrupted for share in shares):
        return None, KeyboardInterrupt()
    failures = [f"process {r}: {share.failure}" for r, share in enumerate(shares) if share.failure]
    if failures:
        return None, failure or ElsewhereError("; ".join(failures))
    assert value is not None
    # The value of each process is a mean over its own samples.
    total = sum(share.n_samples for share in shares)
    weights = [share.n_samples / total for share in shares]
    distributed.sum_gradients(trained, weights[distributed.rank()])
    return _joined(value, shares, weights), None


def _joined(own: ObjectiveValue, shares: Sequence[_Share], weights: Sequence[float]) -> ObjectiveValue:
    """Return the value of the whole batch from the shares of all processes and their weights."""
    device = own.surrogate.device

    def all_of(name: str) -> Tensor | None:
        parts = [getattr(share, name) for share in shares]
        return None if parts[0] is None else torch.cat(parts, -1).to(device)

    values = [w * share.value for w, share in zip(weights, shares, strict=True) if share.value is not None]
    return ObjectiveValue(
        own.surrogate,
        all_of("log_weight"),
        max(share.nfe for share in shares),
        value=torch.stack(values).sum().to(device) if values else None,
        target_log_weight=all_of("target_log_weight"),
    )
