"""Slow modes of a mechanical system, read off a flow whose prior is independent oscillators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equiflow.runtime.checks import check_count

#: states whose modes are computed at once
CHUNK = 4096


@dataclass(frozen=True)
class SlowModes:
    """The slowest latent oscillators of given states.

    Attributes:
        frequencies: ascending, `(mode,)`.
        positions: Q of each mode in each state, `(batch, mode)`.
        momenta: P of each mode in each state, `(batch, mode)`.
        patterns: `dq / dQ`, how the physical positions move with each mode, `(batch, mode, *lattice)`; the
            same for all states if the flow is linear.
    """

    frequencies: Tensor
    positions: Tensor
    momenta: Tensor
    patterns: Tensor

    def __str__(self) -> str:
        shown = ", ".join(f"{float(omega):.4g}" for omega in self.frequencies)
        return f"{len(self.frequencies)} slow modes of {len(self.positions)} states, omega = {shown}"


@torch.no_grad()
def sorted_frequencies(prior: Any) -> Tensor:
    """Return the frequencies of a prior with `frequencies()`, ascending, `(V,)`."""
    frequencies: Tensor = prior.frequencies().flatten().sort().values
    return frequencies


@torch.no_grad()
def slow_modes_of(flow: Any, data: Tensor, n: int) -> SlowModes:
    """Return the slowest oscillators behind given states.

    The flow is canonical, `J^-1 = -Omega J^T Omega`, so `dq / dQ_k = dP_k / dp`: one gradient per mode gives
    its pattern.

    Args:
        flow: a canonical map from a prior that has `frequencies()` and `oscillators(z)`.
        data: states, `(batch, 2, *lattice)`.
        n: number of modes.

    Returns:
        The modes, slowest first.

    Raises:
        TypeError: if the states are no tensor of the flow's dtype, or n is no integer.
        ValueError: if the states have another shape, or there are fewer than n oscillators.
    """
    volume = flow.space.lattice.volume
    if check_count(n, "n") > volume:
        raise ValueError(f"The flow has {volume} oscillators, got n={n}; expected at most as many.")
    flow._check_input(data, "data")
    omega, order = flow.prior.frequencies().flatten().sort()
    parts = [_modes(flow, part, order[:n]) for part in torch.split(data, CHUNK)]
    positions, momenta, patterns = (torch.cat(one) for one in zip(*parts, strict=True))
    return SlowModes(omega[:n], positions, momenta, patterns)


def _modes(flow: Any, data: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return positions, momenta and patterns of chosen oscillators in states of one chunk."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = data.detach().clone().requires_grad_()
        q, p = (
            part.flatten(1)[:, chosen] for part in flow.prior.oscillators(flow.inverse_and_log_det(leaf)[0])
        )
        rows = [
            torch.autograd.grad(p[:, k].sum(), leaf, retain_graph=True)[0][:, 1] for k in range(len(chosen))
        ]
    return q.detach(), p.detach(), torch.stack(rows, 1)
