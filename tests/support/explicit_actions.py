"""phi^4 actions written out site by site, in any convention."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def site_by_site(
    phi: Tensor, *, hop: float = 0.0, kinetic: float = 0.0, square: float = 0.0, quartic: float = 0.0
) -> Tensor:
    """Return `sum_x [sum_mu (hop phi phi' + kinetic (phi' - phi)^2) + square phi^2 + quartic phi^4]`."""
    total = torch.zeros(len(phi))
    shape = phi.shape[1:]
    for x in itertools.product(*map(range, shape)):
        here = phi[(slice(None), *x)]
        for mu, side in enumerate(shape):
            there = phi[(slice(None), *x[:mu], (x[mu] + 1) % side, *x[mu + 1 :])]
            total += hop * here * there + kinetic * (there - here) ** 2
        total += square * here**2 + quartic * here**4
    return total
