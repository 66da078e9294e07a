"""Markov chains: `Kernel` is one update of many chains, `Kernel.sample` runs it, `Chain` holds the samples.

Every sampler of this kind is a `Kernel`, in a file of its own beside this one. A new one fills in `update`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from equiflow.flows import Certificate, Flow
from equiflow.runtime.checks import check_count
from equiflow.runtime.progress import Bar, progress_as, progress_bar
from equiflow.samplers.acceptance import Outcome, summed
from equiflow.samplers.beginnings import check_beginning
from equiflow.samplers.chains import Chain
from equiflow.samplers.moves import UPDATES_BEFORE_STUCK, check_moves, warn_of_what_stays
from equiflow.samplers.samples import certificate_of
from equiflow.statistics.tables import ShownAsTable
from equiflow.theories.base.action import Action

#: outcomes of updates are added up when there are more, since a sum of many costs little more than of two
OUTCOMES_KEPT = 256


class Kernel(ShownAsTable, ABC):
    """One update of a batch of chains that leaves `exp(-S)` invariant.

    Subclasses fill in `update`. A subclass with a parameter to tune also overrides `is_tuned`, `adapted` and
    `settled`. Since every update leaves `exp(-S)` invariant, updates of one action can follow each other in
    any order, see `Alternate`.
    """

    #: S, whose density `exp(-S)` the update leaves invariant
    action: Action
    #: the flow behind the update, if any: the chains start from its samples, on its device and in its dtype
    flow: Flow | None = None
    #: what messages call a proposal
    proposal: ClassVar[str] = "proposal"
    #: integration step, for kernels that have one
    step_size: float | None = None
    #: what to know about every average over the chains, see `Estimate.note`
    note: str = ""

    @abstractmethod
    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """Update every chain once.

        Args:
            phi: `(n_chains, *lattice)`; not modified.
            generator: source of randomness, on the device of `phi`.

        Returns:
            The new fields `(n_chains, *lattice)`, and what happened to the proposals.
        """

    @property
    def keeps(self) -> str:
        """What of a field no update changes, in words; empty if nothing. Then an average needs a partner."""
        return ""

    @property
    def members(self) -> tuple[Kernel, ...]:
        """The kernels that update in turn; by default this one alone."""
        return (self,)

    @property
    def remedy(self) -> str:
        """What to do if chains do not move, a sentence."""
        return "Give another initial field, or alternate with another kernel."

    def proposers(self, outcome: Outcome) -> list[tuple[Kernel, Outcome]]:
        """Return the kernels that make proposals, each with its part of an outcome; by default this one.

        Args:
            outcome: of an update, or a sum of several.

        Returns:
            The pairs.
        """
        return [(self, outcome)]

    def _rows(self) -> dict[str, object]:
        rows: dict[str, object] = {"sampler": type(self).__name__, "action": self.action}
        if self.flow is not None:
            rows["flow"] = type(self.flow).__name__
        for name, value in vars(self).items():
            if isinstance(value, bool | int | float | str) and name[0] != "_" and value != "":
                shown = f"{value:.4g}" if isinstance(value, float) else value
                rows[name.replace("_", " ")] = shown
        return rows if self.is_tuned else rows | {"step": "tuned while the chains thermalise"}

    @property
    def is_tuned(self) -> bool:
        """Whether nothing is left to tune during the thermalisation."""
        return True

    def adapted(self, outcome: Outcome, n: int) -> Kernel:
        """Return the kernel for the next update of the thermalisation; by default this one.

        Args:
            outcome: of the last update.
            n: number of the last update, from 0.

        Returns:
            The kernel.
        """
        return self

    def settled(self, history: Sequence[Outcome]) -> Kernel:
        """Return the kernel that draws the samples, after the thermalisation; by default this one.

        Args:
            history: outcomes of the second half of the thermalisation.

        Returns:
            The kernel.
        """
        return self

    @torch.inference_mode(False)
    @torch.no_grad()
    def sample(
        self,
        n_samples: int,
        *,
        n_chains: int = 64,
        n_thermalisation: int = 200,
        thin: int = 1,
        initial: Tensor | None = None,
        start: Chain | None = None,
        certify: int = 256,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        progress: bool | None = None,
    ) -> Chain:
        """Run the chains.

        Args:
            n_samples: samples kept per chain.
            n_chains: number of chains, updated together. With `start` it is the number of chains there.
            n_thermalisation: updates before the first sample. They also tune the kernel.
            thin: updates per kept sample.
            initial: first fields, `(n_chains, *lattice)`; by default samples of the flow, or
                `action.initial` if there is none.
            start: a chain to continue without thermalisation, made by this kernel. With the same `certify`,
                and the generator in the state in which that chain left it, the two chains are bit for bit one
                longer run.
            certify: number of flow samples on which to measure the discretisation error, if there is a flow
                and `start` has no certificate of it; 0 skips it.
            generator: source of randomness, on the device of the chains.
            device: where the chains live, unless a flow, `initial` or `start` decides. By default it is the
                device of the generator, or the CPU without one.
            dtype: of the fields, unless a flow, `initial` or `start` decides; float64 by default.
            progress: whether to show a bar, see `fit`.

        Returns:
            The samples, with the tuned kernel that drew them.

        Raises:
            TypeError: if a count is no integer, `generator` no generator, or `dtype` not float32 or float64.
            ValueError: if a count is too small, `initial` and `start` do not fit, both are given, S falls
                without bound, or the memory has no room.
            RuntimeError: if tuning fails, or most chains do not move. A warning tells of single chains that
                do not, and of a kernel that never changes part of a field.
        """
        n_samples = check_count(n_samples, "n_samples")
        n_chains = check_count(n_chains, "n_chains")
        thin = check_count(thin, "thin")
        n_thermalisation = check_count(n_thermalisation, "n_thermalisation", minimum=0)
        certify = check_count(certify, "certify", minimum=0)
        if self.keeps:
            warn_of_what_stays([type(one).__name__ for one in self.members], self.keeps, stacklevel=5)
        like = self.flow if initial is None else initial
        check_beginning(self.action, n_samples * n_chains, like, device, dtype, generator, stacklevel=5)
        outcomes: list[Outcome] = []
        if start is not None:
            if initial is not None:
                raise ValueError("Expected either initial fields or a chain to start from, got both.")
            kernel = self._tuned_as_in(start)
            certificate = kernel._certificate_after(start, certify, generator)
            phi = self.action.space.check_finite(start.samples[-1], "start.samples")
        else:
            # First of all draws, since a chain that is continued draws nothing for its certificate.
            certificate = certificate_of(self.flow, self.action, certify, generator)
            phi = self._initial(n_chains, initial, generator, device, dtype)
        samples, acceptance = [], []
        n_all, what = n_samples * thin + (n_thermalisation if start is None else 0), type(self).__name__
        with progress_as(progress), progress_bar(n_all, f"{what}, {n_chains} chains", "update") as bar:
            if start is None:
                phi, kernel, outcomes = _thermalise(self, phi, n_thermalisation, generator, bar)
            n_updates = n_samples * thin + (n_thermalisation - n_thermalisation // 2 if outcomes else 0)
            for _ in range(n_samples):
                for _ in range(thin):
                    phi, outcome = kernel.update(phi, generator)
                    outcomes.append(outcome)
                    bar.update()
                accepted = summed(outcomes[-thin:]).accepted / thin if thin > 1 else outcome.accepted
                if len(outcomes) > OUTCOMES_KEPT:
                    outcomes = [summed(outcomes)]
                phi = self.action.space.nearest(phi)
                samples.append(phi)
                acceptance.append(accepted)
        kernel._check_moves(summed(outcomes), n_updates, warn=True)
        drawn = torch.stack(samples), torch.stack(acceptance)
        return Chain(*drawn, kernel.step_size, certificate, kernel=kernel, space=self.action.space)

    def _check_moves(self, total: Outcome, n_updates: int, *, warn: bool) -> None:
        """Raise if most chains of a kernel that makes proposals have not moved, see `check_moves`."""
        for kernel, part in self.proposers(total):
            who = f"{type(kernel).__name__} chains accepted no {kernel.proposal}"
            check_moves(part, n_updates, who=who, remedy=kernel.remedy, warn=warn, stacklevel=6)

    def _tuned_as_in(self, chain: Chain) -> Kernel:
        """Return this kernel if it is tuned, else the tuned kernel of a chain."""
        if self.is_tuned:
            return self
        kernel = chain.kernel
        if (
            not isinstance(kernel, Kernel)
            or type(kernel) is not type(self)
            or kernel.action is not self.action
            or kernel.flow is not self.flow
        ):
            raise ValueError(
                f"This {type(self).__name__} is not tuned, and the chain to start from was not made by one "
                "for the same action and flow. Use chain.kernel.sample(..., start=chain), or give a "
                "step_size."
            )
        return kernel

    def _certificate_after(
        self, start: Chain, n_samples: int, generator: torch.Generator | None
    ) -> Certificate | None:
        """Return the certificate of the chain to continue, or a new one if it has none of this flow."""
        other = self.flow is not None and start.kernel is not None and start.kernel.flow is not self.flow
        if start.certificate is not None and not other:
            return start.certificate
        return certificate_of(self.flow, self.action, n_samples, generator)

    def _initial(
        self,
        n_chains: int,
        initial: Tensor | None,
        generator: torch.Generator | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> Tensor:
        """Return the first fields, `(n_chains, *lattice)`, see `sample`."""
        if initial is not None:
            if len(self.action.space.check_finite(initial, "initial")) != n_chains:
                raise ValueError(
                    f"initial holds {len(initial)} fields for n_chains={n_chains}; expected one each."
                )
            return initial.clone()
        if self.flow is not None:
            return self.flow.sample(n_chains, generator=generator)
        if device is None:
            device = "cpu" if generator is None else generator.device
        return self.action.initial(n_chains, generator, device=device, dtype=dtype or torch.float64)


def _thermalise(
    kernel: Kernel, phi: Tensor, n_updates: int, generator: torch.Generator | None, bar: Bar
) -> tuple[Tensor, Kernel, list[Outcome]]:
    """Return the fields, the kernel that is tuned, and the sum of the outcomes of the second half, if any."""
    history = []
    for n in range(n_updates):
        phi, outcome = kernel.update(phi, generator)
        kernel = kernel.adapted(outcome, n)
        bar.update()
        if n >= n_updates // 2:
            history.append(outcome)
    kernel = kernel.settled(history)
    total = [summed(history)] if history else []
    if len(history) >= UPDATES_BEFORE_STUCK:
        kernel._check_moves(total[0], len(history), warn=False)
    return phi, kernel, total
