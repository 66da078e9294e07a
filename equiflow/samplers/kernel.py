"""One update of many chains: what every Markov chain here is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from equiflow.flows import Certificate, Flow
from equiflow.runtime.checks import check_type
from equiflow.samplers.importance import reweighted_mean, with_shift
from equiflow.statistics import Estimate, integrated_autocorrelation_time, mean_of_series
from equiflow.theories.base.action import Action
from equiflow.theories.scalar.phi4 import Phi4


@dataclass(frozen=True)
class Outcome:
    """How an update went.

    Attributes:
        accepted: fraction of its proposals that were accepted, `(n_chains,)` in float64.
        probability: mean of their acceptance probabilities: the same with less noise, for tuning.
        parts: outcomes of the updates that it consists of, if any.
    """

    accepted: Tensor
    probability: Tensor
    parts: tuple[Outcome, ...] = ()


class Kernel(ABC):
    """One update of a batch of chains that leaves `exp(-S)` invariant.

    Subclasses fill in `update`; one with a parameter to tune also overrides `adapted` and `settled`. Updates
    of one action can follow each other in any order (`Alternate`), since each leaves `exp(-S)` as it is.
    """

    #: what the update leaves invariant, `exp(-S)`
    action: Action
    #: the flow behind the update, if any: it starts the chains, on its device and in its dtype
    flow: Flow | None = None
    #: integration step, for kernels that have one
    step_size: float | None = None

    @abstractmethod
    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """Update every chain once.

        Args:
            phi: `(n_chains, *lattice)`; left alone.
            generator: source of randomness, on the device of `phi`.

        Returns:
            The new fields, like `phi`, and how it went.
        """

    @property
    def is_tuned(self) -> bool:
        """Whether nothing is left to tune while thermalising."""
        return True

    def adapted(self, outcome: Outcome, n: int) -> Kernel:
        """The kernel to go on with after update number `n` of the thermalisation. Here: the same."""
        return self

    def settled(self, history: Sequence[Outcome]) -> Kernel:
        """The kernel as it stays from the first sample on. Here: the same.

        Args:
            history: outcomes in the second half of the thermalisation.
        """
        return self

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
            n_chains: number of chains, updated together; with `start`, as many as it has.
            n_thermalisation: updates before the first sample; what can be tuned is tuned in them.
            thin: updates per kept sample.
            initial: `(n_chains, *lattice)` to start from; by default samples of the flow, weak Gaussian
                noise where there is none.
            start: a chain to continue, with the kernel it was made with and without thermalisation. With
                the same `certify` and the generator as that chain left it, both are bit for bit one longer
                run.
            certify: on how many samples to measure the discretisation error of a flow, if there is one and
                `start` does not know it; 0 skips it.
            generator: source of randomness, on the device of the chains.
            device: where the chains live, unless a flow or their start says it; by default where the
                generator does, without one the CPU.
            dtype: of the field, unless a flow or their start says it; float64 by default.

        Raises:
            RuntimeError: if tuning fails, or HMC chains get stuck while thermalising.
        """
        counts = {"n_samples": n_samples, "n_chains": n_chains, "thin": thin}
        for name, count in counts.items():
            check_type(count, int, name)
        if min(counts.values()) < 1 or n_thermalisation < 0 or certify < 0:
            raise ValueError(
                f"Expected counts >= 1, got n_samples={n_samples}, n_chains={n_chains}, thin={thin}, "
                f"n_thermalisation={n_thermalisation}, certify={certify}."
            )
        if start is not None:
            if initial is not None:
                raise ValueError("Expected either initial fields or a chain to start from, got both.")
            kernel = self._as_in(start)
            certificate = kernel._certificate_after(start, certify, generator)
            phi = self.action.space.check_finite(start.samples[-1], "start.samples")
        else:
            # Before the chains draw anything: a continued run draws none of it.
            certificate = self._certificate(certify, generator)
            phi = self._first(n_chains, initial, generator, device, dtype)
            phi, kernel = _thermalised(self, phi, n_thermalisation, generator)
        samples, acceptance = [], []
        for _ in range(n_samples):
            accepted = torch.zeros(len(phi), dtype=torch.float64, device=phi.device)
            for _ in range(thin):
                phi, outcome = kernel.update(phi, generator)
                accepted += outcome.accepted / thin
            phi = self.action.space.nearest(phi)
            samples.append(phi)
            acceptance.append(accepted)
        return Chain(
            torch.stack(samples), torch.stack(acceptance), kernel.step_size, certificate, kernel=kernel
        )

    def _as_in(self, chain: Chain) -> Kernel:
        """This kernel, or the one tuned in a chain if this one still has to be tuned."""
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
        self, start: Chain, n: int, generator: torch.Generator | None
    ) -> Certificate | None:
        """The certificate of the chain to continue, or a new one if it has none of this flow."""
        other = self.flow is not None and start.kernel is not None and start.kernel.flow is not self.flow
        if start.certificate is not None and not other:
            return start.certificate
        return self._certificate(n, generator)

    def _certificate(self, n: int, generator: torch.Generator | None) -> Certificate | None:
        if self.flow is None or n == 0:
            return None
        return self.flow.certificate(n, action=self.action, generator=generator)

    def _first(
        self,
        n_chains: int,
        initial: Tensor | None,
        generator: torch.Generator | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> Tensor:
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
        # Weak: a strong fluctuation of a phi^4 field is too stiff for any sensible step size.
        shape = (n_chains, *self.action.space.shape)
        return 0.1 * torch.randn(shape, generator=generator, device=device, dtype=dtype or torch.float64)


def _thermalised(
    kernel: Kernel, phi: Tensor, n_updates: int, generator: torch.Generator | None
) -> tuple[Tensor, Kernel]:
    history = []
    for n in range(n_updates):
        phi, outcome = kernel.update(phi, generator)
        kernel = kernel.adapted(outcome, n)
        if n >= n_updates // 2:
            history.append(outcome)
    return phi, kernel.settled(history)


def towards(outcome: Outcome, target: float, n: int) -> float:
    """By how much the log of a step should change after update number n to reach a target acceptance."""
    # Robbins-Monro: changes that shrink, so that the step settles.
    return (float(outcome.probability.mean()) - target) / (1 + n / 10) ** 0.6


def metropolis(
    log_ratio: Tensor, proposal: Tensor, phi: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Outcome]:
    """Accept `proposal` with probability `min(1, exp(log_ratio))`, chain by chain.

    Args:
        log_ratio: `(n_chains,)`; a NaN is a proposal of zero density.
        proposal: `(n_chains, *lattice)`.
        phi: `(n_chains, *lattice)`, kept where the proposal is rejected.
        generator: source of randomness.
    """
    probability = torch.nan_to_num(log_ratio.double(), nan=-torch.inf).clamp(max=0.0).exp()
    uniform = torch.rand(len(phi), generator=generator, dtype=torch.float64, device=phi.device)
    moved = uniform < probability
    chosen = torch.where(moved.reshape(-1, *(1,) * (phi.dim() - 1)), proposal, phi)
    return chosen, Outcome(moved.double(), probability)


def check_phi4(action: Action, name: str) -> Phi4:
    """Return the action if its links and potential are those of `Phi4`, else raise."""
    check_type(action, Phi4, "action", f"{name} is made for the links of Phi4.")
    if type(action).forward is not Phi4.forward:
        raise TypeError(
            f"{type(action).__name__} changes the action of Phi4, which {name} would not notice; expected "
            "Phi4 or FreeScalar."
        )
    return action  # type: ignore[return-value]


@dataclass(frozen=True)
class Chain:
    """Samples of independent Markov chains, in the order they were drawn.

    Attributes:
        samples: `(n_samples, n_chains, *lattice)`.
        acceptance: accepted fraction of the proposals behind each sample, `(n_samples, n_chains)`. Where
            independence Metropolis starts, the sample has none, and there are as many fewer.
        step_size: integration step that was used, for samplers that have one.
        certificate: of the flow that made the proposals, for samplers that have one.
        log_weight: `-S - log q` of each sample, for independence Metropolis, `(n_samples, n_chains)`.
        kernel: the update that made the chains, as tuned; `chain.kernel.sample(n, start=chain)` goes on.
        annealed: whether the log weights are those of an annealed ensemble, work along paths.
    """

    samples: Tensor
    acceptance: Tensor
    step_size: float | None = None
    certificate: Certificate | None = None
    log_weight: Tensor | None = None
    kernel: Kernel | None = field(default=None, repr=False, compare=False)
    annealed: bool = False

    def followed_by(self, more: Chain) -> Chain:
        """One chain of this one and its continuation, which was sampled with `start=` this one.

        Its certificate is that of the first of the two that has one.
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
        """Fraction of accepted proposals, its error including autocorrelations.

        The solver error is known for independence Metropolis with the flow alone; elsewhere it is left out.
        """
        known = self.log_weight is not None and not self.annealed
        return with_shift(mean_of_series(self.acceptance), self.certificate if known else None, _acceptance)

    @property
    def configurations(self) -> Tensor:
        """All samples in one batch, chain after chain, `(n_samples * n_chains, *lattice)`.

        Each chain stays contiguous, so that jackknife blocks absorb autocorrelations.
        """
        return self.samples.transpose(0, 1).flatten(0, 1)

    def series(self, observable: Callable[[Tensor], Tensor]) -> Tensor:
        """Values of an observable along the chains, `(n_samples, n_chains)`."""
        return observable(self.samples.flatten(0, 1)).unflatten(0, self.samples.shape[:2])

    def mean(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Mean of an observable with autocorrelations in its error."""
        return with_shift(
            mean_of_series(self.series(observable)),
            self.certificate,
            lambda phi, log_w: reweighted_mean(observable(phi), log_w),
        )

    def tau_int(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Integrated autocorrelation time of an observable, in units of samples."""
        return integrated_autocorrelation_time(self.series(observable))


def _acceptance(phi: Tensor, log_weight: Tensor) -> Tensor:
    """Mean of `min(1, w'/w)` when `w` is drawn from the target and `w'` from the model."""
    log_weight = log_weight.double()
    ratio = (log_weight[None, :] - log_weight[:, None]).clamp(max=0.0).exp()
    return torch.softmax(log_weight, 0) @ ratio.mean(1)
