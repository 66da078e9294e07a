"""Several updates in turn, as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.samplers.acceptance import Outcome, mean_outcome
from equiflow.samplers.kernel import Kernel


class Alternate(Kernel):
    """Apply one kernel after the other. Each leaves `exp(-S)` invariant, so the sequence does too.

    The sequence as a whole is not reversible, but no average needs that. A kernel given twice is applied
    twice. The acceptance is the mean over the kernels. All kernels with a flow must share one flow, because
    the certificate of a chain describes a single one.

    Args:
        kernels: in the order of their application. They must share one action object and at most one flow.

    Raises:
        TypeError: if something else than a kernel is given.
        ValueError: if there are none, or they belong to different actions or flows.

    >>> from equiflow import HMC, Lattice, Phi4, SwendsenWang
    >>> action = Phi4(Lattice((4, 4)), m2=-4.0, lam=6.0)
    >>> chain = Alternate(HMC(action), SwendsenWang(action)).sample(10, n_chains=8, n_thermalisation=20)
    >>> chain.samples.shape
    torch.Size([10, 8, 4, 4])
    """

    def __init__(self, *kernels: Kernel) -> None:
        for kernel in kernels:
            check_type(kernel, Kernel, "kernel", "Give instances, such as HMC(action).")
        if not kernels or any(kernel.action is not kernels[0].action for kernel in kernels):
            raise ValueError(
                f"Expected kernels that share one action object, got {len(kernels)} of "
                f"{len({id(kernel.action) for kernel in kernels})} actions: they would leave different "
                "densities invariant."
            )
        flows = [kernel.flow for kernel in kernels if kernel.flow is not None]
        if any(flow is not flows[0] for flow in flows):
            raise ValueError(
                f"Expected kernels that share one flow object, got {len(set(map(id, flows)))} flows: the "
                "certificate of a chain knows the solver error of one only. Make them of the same flow."
            )
        self.kernels = kernels
        self.action = kernels[0].action
        self.flow = flows[0] if flows else None
        self.note = "; ".join(dict.fromkeys(kernel.note for kernel in kernels if kernel.note))

    def _rows(self) -> dict[str, object]:
        return super()._rows() | {"in turn": ", ".join(type(kernel).__name__ for kernel in self.kernels)}

    @property
    def keeps(self) -> str:
        """See `Kernel.keeps`; empty unless all kernels keep the same."""
        kept = {kernel.keeps for kernel in self.kernels}
        return kept.pop() if len(kept) == 1 else ""

    @property
    def members(self) -> tuple[Kernel, ...]:
        """See `Kernel.members`."""
        return tuple(member for kernel in self.kernels for member in kernel.members)

    @property
    def is_tuned(self) -> bool:
        """Whether every kernel is tuned."""
        return all(kernel.is_tuned for kernel in self.kernels)

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """See `Kernel.update`; every kernel updates once, in order."""
        parts = []
        for kernel in self.kernels:
            phi, outcome = kernel.update(phi, generator)
            parts.append(outcome)
        return phi, replace(mean_outcome(parts), parts=tuple(parts))

    def proposers(self, outcome: Outcome) -> list[tuple[Kernel, Outcome]]:
        """See `Kernel.proposers`."""
        pairs = zip(self.kernels, outcome.parts, strict=True)
        return [pair for kernel, part in pairs for pair in kernel.proposers(part)]

    def adapted(self, outcome: Outcome, n: int) -> Alternate:
        """See `Kernel.adapted`; every kernel adapts to its own outcome."""
        pairs = zip(self.kernels, outcome.parts, strict=True)
        return Alternate(*(kernel.adapted(part, n) for kernel, part in pairs))

    def settled(self, history: Sequence[Outcome]) -> Alternate:
        """See `Kernel.settled`; every kernel settles with its own history."""
        return Alternate(
            *(
                kernel.settled([outcome.parts[i] for outcome in history])
                for i, kernel in enumerate(self.kernels)
            )
        )
