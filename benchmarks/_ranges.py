"""Training of one flow for a range of lam, side after side, as two scripts need it."""

from __future__ import annotations

import time
from typing import Any

from equiflow import (
    ActionFamily,
    ConditionalFlow,
    EquivariantCNF,
    Lattice,
    OverCouplings,
    Phi4,
    PotentialField,
    fit,
)
from equiflow.training import AdaptivePathGradient, History


def trained_on(
    lattice: Lattice,
    below: ConditionalFlow | None,
    lam: tuple[float, float],
    *,
    m2: float,
    kernels: str,
    degree: int,
    n_couplings: int,
    focus: float,
    learning_rate: float | None = None,
    **options: Any,
) -> tuple[ConditionalFlow, History, float]:
    """Train a flow in lam on a lattice, from nothing or from a smaller one.

    Args:
        lattice: where.
        below: the flow of a smaller lattice, if there is one.
        lam: the range.
        m2: of all couplings.
        kernels: of a new `PotentialField`.
        degree: of a new flow in lam.
        n_couplings: per step, see `OverCouplings`.
        focus: see `OverCouplings`.
        learning_rate: by default that of the flow; half of it, if there is a smaller one.
        options: of `fit`.

    Returns:
        The flow, its history and the processor time of the training in seconds.
    """
    if below is None:
        template = EquivariantCNF(lattice, vector_field=PotentialField(lattice, kernels=kernels))
        flow = ConditionalFlow(template, {"lam": lam}, degree=degree)
    else:
        flow = below.resized(lattice)
        learning_rate = learning_rate or flow.learning_rate / 2
    start = time.process_time()
    objective = OverCouplings(AdaptivePathGradient(), n_couplings=n_couplings, focus=focus)
    family = ActionFamily(Phi4, lattice, m2=m2, lam=lam)
    history = fit(
        flow, family, learning_rate=learning_rate, objective=objective, n_fresh=0, progress=False, **options
    )
    return flow, history, time.process_time() - start


def times_set_back(history: History) -> int:
    """Return how often training went back to earlier weights."""
    return sum("set back" in note for note in history.notes)
