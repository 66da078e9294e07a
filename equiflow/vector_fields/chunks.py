"""Batches in chunks that stay in the caches of a processor: `in_chunks` cuts, `joined` puts together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equiflow.runtime.autograd import is_transformed
from equiflow.runtime.compilation import is_compiling
from equiflow.theories.base.lattice import Lattice

#: Sites of a chunk (measured). The ridges of this many sites take two megabytes in single precision.
SITES = 2**15
#: Sites of a chunk where only a few numbers for each site are kept: every call has its price (measured).
MANY_SITES = 2**18


def in_chunks(lattice: Lattice, phi: Tensor, sites: int | None = None) -> Sequence[Tensor]:
    """Return the configurations in chunks on a CPU, all at once elsewhere.

    Args:
        lattice: where they live.
        phi: `(batch, *lattice)`.
        sites: number of sites of a chunk; `SITES` by default.

    Returns:
        At least one tensor `(part of the batch, *lattice)`.
    """
    if phi.device.type != "cpu" or is_compiling() or is_transformed():
        return (phi,)
    return phi.split(max(1, (sites or SITES) // lattice.volume))


def joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return the results for all configurations from those for the chunks."""
    if len(parts) == 1:
        return parts[0]
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))
