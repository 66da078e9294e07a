"""What the path gradient asks of a flow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PathSample:
    """Model samples with what the path gradient needs. Only `phi` and `kinetic_energy` keep a graph.

    Attributes:
        phi: `(batch, *lattice)`.
        log_q: `(batch,)`; an estimate if the trace of the vector field is one.
        score: `grad log q(phi)`, `(batch, *lattice)`; likewise.
        kinetic_energy: `int_0^1 sum_x v_x^2 dt` along each trajectory, `(batch,)`.
        nfe: evaluations of the vector field.
    """

    phi: Tensor
    log_q: Tensor
    score: Tensor
    kinetic_energy: Tensor
    nfe: int
