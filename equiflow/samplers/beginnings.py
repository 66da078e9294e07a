"""What is checked before samples are drawn: that the target is a density, and that the memory has room."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.runtime.capacity import check_samples
from equiflow.runtime.randomness import check_draw
from equiflow.theories.base.action import Action


def check_beginning(
    action: Action,
    n_samples: int,
    like: Flow | Tensor | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
    *,
    stacklevel: int,
) -> None:
    """Raise if samples of a target cannot be drawn or kept, and warn if the target seems to be no density.

    Args:
        action: the target, see `Action.check_density`.
        n_samples: number of samples that are in memory together.
        like: flow or fields that decide where the samples are, and in which dtype.
        device: where they are if nothing decides; by default where the generator is, or on the CPU.
        dtype: of the samples if nothing decides; float64 by default.
        generator: source of randomness.
        stacklevel: of the warning, 2 for the line that calls this.

    Raises:
        TypeError: if `generator` is no generator, or `dtype` neither float32 nor float64.
        ValueError: if S falls without bound, or the samples need more memory than is free.
    """
    check_draw(generator, dtype)
    if like is not None:
        device, dtype = getattr(like, "device", device), getattr(like, "dtype", dtype)
    device = device or ("cpu" if generator is None else generator.device)
    remedy = "Take fewer, or draw them in parts: sample_shards for ensembles, start=chain for chains."
    check_samples(n_samples, action.space.shape, dtype or torch.float64, remedy, device=device)
    action.check_density(device=device, stacklevel=stacklevel + 1)
