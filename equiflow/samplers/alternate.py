"""Several updates in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.samplers.kernel import Kernel, Outcome


class Alternate(Kernel):
    """One kernel after the other: each leaves `exp(-S)` invariant, so all of them do.

    Not reversible as a whole, which no average needs. A kernel given twice is applied twice. The
    acceptance is the mean over the kernels. Those with a flow share it, for a chain has one certificate.

    Args:
        kernels: of one action object and at most one flow, in the order of their application.

    Raises:
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

    @property
    def is_tuned(self) -> bool:
        """Whether every kernel is."""
        return all(kernel.is_tuned for kernel in self.kernels)

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """All kernels once, see `Kernel.update`."""
        parts = []
        for kernel in self.kernels:
            phi, outcome = kernel.update(phi, generator)
            parts.append(outcome)
        accepted = torch.stack([part.accepted for part in parts]).mean(0)
        probability = torch.stack([part.probability for part in parts]).mean(0)
        return phi, Outcome(accepted, probability, tuple(parts))

    def adapted(self, outcome: Outcome, n: int) -> Alternate:
        """With every kernel adapted to its own outcome, see `Kernel.adapted`."""
        pairs = zip(self.kernels, outcome.parts, strict=True)
        return Alternate(*(kernel.adapted(part, n) for kernel, part in pairs))

    def settled(self, history: Sequence[Outcome]) -> Alternate:
        """With every kernel settled, see `Kernel.settled`."""
        return Alternate(
            *(
                kernel.settled([outcome.parts[i] for outcome in history])
                for i, kernel in enumerate(self.kernels)
            )
        )
