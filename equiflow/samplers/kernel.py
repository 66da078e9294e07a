"""Markov chains: `Kernel` is one update of many chains, `Kernel.sample` runs it, `Chain` holds the samples.

Every sampler of this kind is a `Kernel`, in a file of its own beside this one. A new one fills in `update`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from equiflow.flows import Certificate, Flow
from equiflow.runtime.checks import check_count
from equiflow.samplers.acceptance import Outcome, mean_acceptance, summed
from equiflow.samplers.beginnings import check_beginning
from equiflow.samplers.moves import UPDATES_BEFORE_STUCK, check_moves, warn_of_what_stays
from equiflow.samplers.samples import (
    Samples,
    certificate_of,
    per_configuration,
    reweighted_mean,
    values_of,
    with_shift,
)
from equiflow.statistics import Estimate, integrated_autocorrelation_time, mean_of_series, noted
from equiflow.theories.base.action import Action
from equiflow.theories.base.space import Space

#: outcomes of updates are added up when there are more, since a sum of many costs little more than of two
OUTCOMES_KEPT = 256


class Kernel(ABC):
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
            phi, kernel, outcomes = _thermalise(self, phi, n_thermalisation, generator)
        n_updates = n_samples * thin + (n_thermalisation - n_thermalisation // 2 if outcomes else 0)
        samples, acceptance = [], []
        for _ in range(n_samples):
            for _ in range(thin):
                phi, outcome = kernel.update(phi, generator)
                outcomes.append(outcome)
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
        if type(kernel) is not type(self) or kernel.action is not self.action or kernel.flow is not self.flow:
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
    kernel: Kernel, phi: Tensor, n_updates: int, generator: torch.Generator | None
) -> tuple[Tensor, Kernel, list[Outcome]]:
    """Return the fields, the kernel that is tuned, and the sum of the outcomes of the second half, if any."""
    history = []
    for n in range(n_updates):
        phi, outcome = kernel.update(phi, generator)
        kernel = kernel.adapted(outcome, n)
        if n >= n_updates // 2:
            history.append(outcome)
    kernel = kernel.settled(history)
    total = [summed(history)] if history else []
    if len(history) >= UPDATES_BEFORE_STUCK:
        kernel._check_moves(total[0], len(history), warn=False)
    return phi, kernel, total


@dataclass(frozen=True)
class Chain(Samples):
    """Samples of independent Markov chains, in the order they were drawn.

    Attributes:
        samples: `(n_samples, n_chains, *lattice)`.
        acceptance: accepted fraction of the proposals before each sample, `(n_samples, n_chains)`. The first
            sample of independence Metropolis has no proposals before it, so its `acceptance` is shorter by
            one.
        step_size: integration step, for samplers that have one.
        certificate: of the flow that made the proposals, for samplers that have one.
        log_weight: `-S - log q` of each sample, for independence Metropolis, `(n_samples, n_chains)`.
        kernel: the update that made the chains, tuned; `chain.kernel.sample(n, start=chain)` continues them.
        annealed: whether the log weights come from an annealed ensemble, as work along paths.
        space: of the configurations, see `Samples`.
    """

    samples: Tensor
    acceptance: Tensor
    step_size: float | None = None
    certificate: Certificate | None = None
    log_weight: Tensor | None = None
    kernel: Kernel | None = field(default=None, repr=False, compare=False)
    annealed: bool = False
    space: Space | None = None

    def followed_by(self, more: Chain) -> Chain:
        """Join this chain and its continuation, sampled with `start=` this chain.

        Args:
            more: the continuation.

        Returns:
            One chain. Its certificate is this chain's, or the continuation's if this chain has none.
        """
        log_weight = None
        if self.log_weight is not None and more.log_weight is not None:
            log_weight = torch.cat([self.log_weight, more.log_weight])
        samples = torch.cat([self.samples, more.samples])
        acceptance = torch.cat([self.acceptance, more.acceptance])
        certificate = more.certificate if self.certificate is None else self.certificate
        return replace(
            self, samples=samples, acceptance=acceptance, log_weight=log_weight, certificate=certificate
        )

    @property
    def acceptance_rate(self) -> Estimate:
        """Fraction of accepted proposals, with autocorrelations in its error.

        The solver error is known for `IndependenceMetropolis` only; other chains leave it out.
        """
        certificate = None if self.log_weight is None or self.annealed else self.certificate
        return with_shift(mean_of_series(self.acceptance), certificate, mean_acceptance)

    @property
    def configurations(self) -> Tensor:
        """All samples in one batch, chain after chain, `(n_samples * n_chains, *lattice)`.

        Each chain stays contiguous, so that jackknife blocks absorb autocorrelations.
        """
        return self.samples.transpose(0, 1).flatten(0, 1)

    @property
    def configuration_shape(self) -> tuple[int, ...]:
        """See `Samples.configuration_shape`."""
        return tuple(self.samples.shape[2:])

    def series(self, observable: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the values of an observable along the chains, `(n_samples, n_chains)`."""
        return values_of(observable, self.samples.flatten(0, 1)).unflatten(0, self.samples.shape[:2])

    def mean(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Estimate the mean of an observable, with autocorrelations in its error. See `Samples.mean`."""
        mean = noted(mean_of_series(self.series(observable)), self.note)
        return with_shift(mean, self.certificate, lambda phi, log_w: reweighted_mean(observable(phi), log_w))

    def mean_and_fluctuations(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """See `Samples.mean_and_fluctuations`; the fluctuations are `O - <O>`."""
        n, n_chains = self.samples.shape[:2]
        if n < 4 and n_chains < 2:
            raise ValueError(
                f"An error needs n >= 4 samples of a chain, or several chains; got n = {n} of one."
            )
        values = per_configuration(function, self.samples.flatten(0, 1)).unflatten(0, (n, n_chains))
        means = values.mean((0, 1))
        return means, values - means

    def tau_int(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Estimate the integrated autocorrelation time of an observable, in units of samples."""
        return integrated_autocorrelation_time(self.series(observable))
