"""Metropolis with independent proposals from a flow: exact sampling of the target (arXiv:1904.12072).

`IndependenceMetropolis` runs chains of such proposals alone, `IndependenceStep` is the same as a kernel.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.progress import progress_as, progress_bar
from equiflow.runtime.randomness import check_draw
from equiflow.samplers.acceptance import Outcome, mean_outcome, metropolis
from equiflow.samplers.beginnings import check_beginning
from equiflow.samplers.importance import Ensemble, check_one_level, importance_sample
from equiflow.samplers.kernel import Chain, Kernel
from equiflow.samplers.moves import UPDATES_BEFORE_STUCK
from equiflow.samplers.samples import certificate_of
from equiflow.samplers.weighting import log_weights
from equiflow.statistics.tables import ShownAsTable
from equiflow.theories.base.action import Action


class IndependenceMetropolis(ShownAsTable):
    """Markov chain that proposes model samples and accepts with `min(1, w' / w)` (arXiv:1904.12072).

    Args:
        flow: makes the proposals.
        action: target, `exp(-S)`.

    Raises:
        TypeError: if `flow` is not a `Flow`, or `action` not an `Action`.
    """

    def __init__(self, flow: Flow, action: Action) -> None:
        check_type(flow, Flow, "flow")
        check_type(action, Action, "action")
        self.flow = flow
        self.action = action

    def _rows(self) -> dict[str, object]:
        return {"sampler": type(self).__name__, "action": self.action, "flow": type(self.flow).__name__}

    def sample(
        self,
        n_samples: int,
        *,
        n_chains: int = 1,
        batch_size: int = 1024,
        start: Chain | None = None,
        certify: int = 256,
        generator: torch.Generator | None = None,
        progress: bool | None = None,
    ) -> Chain:
        """Run `n_chains` independent chains of `n_samples` steps on fresh proposals.

        Args:
            n_samples: steps per chain. Without `start`, the first proposal of a chain is its first sample.
            n_chains: number of chains. With `start` it is the number of chains there.
            batch_size: proposals drawn at a time, which make a block of `batch_size // n_chains` steps.
            start: a chain of this sampler to continue. If it ended with a block, then with the same
                `certify`, and the generator in the state in which that chain left it, the two chains are bit
                for bit one longer run.
            certify: number of additional samples on which to measure the discretisation error, unless `start`
                has a certificate; 0 skips it.
            generator: source of randomness, on the flow's device.
            progress: whether to show a bar, see `fit`.

        Returns:
            The chains, with the log weight of every sample. A warning says if no proposal was accepted.

        Raises:
            TypeError: if a count is not an integer, or `generator` no generator.
            ValueError: if a count is too small, `start` is no chain of this sampler, S falls without bound,
                or the memory has no room.
        """
        check_type(n_samples, int, "n_samples")
        check_type(n_chains, int, "n_chains")
        if n_samples < 1 or n_chains < 1:
            raise ValueError(f"Expected n_samples >= 1 and n_chains >= 1, got {n_samples} and {n_chains}.")
        check_count(batch_size, "batch_size")
        check_count(certify, "certify", minimum=0)
        certificate = None
        n_all = n_samples * (n_chains if start is None else start.samples.shape[1])
        check_beginning(self.action, n_all, self.flow, generator=generator, stacklevel=3)
        if start is not None:
            n_chains, certificate = start.samples.shape[1], start.certificate
        if certificate is None:
            # Before any proposal, since a chain that is continued draws nothing for its certificate.
            certificate = certificate_of(self.flow, self.action, certify, generator)
        steps = max(1, batch_size // n_chains)
        last, blocks = start, []
        with progress_as(progress), progress_bar(n_samples, f"Metropolis, {n_chains} chains", "step") as bar:
            for done in range(0, n_samples, steps):
                n_steps = min(steps, n_samples - done)
                proposals = importance_sample(
                    self.flow,
                    self.action,
                    n_steps * n_chains,
                    batch_size=batch_size,
                    certify=0,
                    generator=generator,
                )
                last = self.from_ensemble(proposals, n_chains=n_chains, start=last, generator=generator)
                blocks.append(last)
                bar.update(n_steps)
        acceptance = torch.cat([block.acceptance for block in blocks])
        if len(acceptance) >= UPDATES_BEFORE_STUCK and not bool(acceptance.any()):
            warnings.warn(
                f"No chain of {n_chains} accepted any of {len(acceptance)} proposals, so averages are those "
                "of the first fields. Train the flow longer, or draw more samples.",
                stacklevel=2,
            )
        return Chain(
            torch.cat([block.samples for block in blocks]),
            acceptance,
            certificate=certificate,
            log_weight=torch.cat([block.log_weight for block in blocks if block.log_weight is not None]),
            space=self.action.space,
        )

    @staticmethod
    def from_ensemble(
        proposals: Ensemble,
        *,
        n_chains: int = 1,
        start: Chain | None = None,
        generator: torch.Generator | None = None,
    ) -> Chain:
        """Run the chains on given proposals, each used once.

        Args:
            proposals: weighted samples of the flow.
            n_chains: number of chains that share the proposals.
            start: a chain to continue, with as many chains and the same kind of weights. Without it every
                chain accepts its first proposal, or waits at the first one whose weight is not zero.
            generator: source of randomness. Give the generator that drew the proposals, or another seed:
                with the same seed the acceptances depend on the proposals.

        Returns:
            The chains, with the log weight of every sample and the certificate of the proposals.

        Raises:
            TypeError: if `generator` is no generator.
            ValueError: if the proposals do not fill the chains, a weight is NaN or +inf, or all weights of a
                chain are zero. Also if `start` has another number of chains or no log weights, or only one
                of the two is annealed, or the proposals have two levels, whose weights are coarse.
        """
        check_draw(generator)
        check_one_level(proposals)
        n_samples = len(proposals.phi) // n_chains if n_chains >= 1 else 0
        used = n_samples * n_chains
        if n_samples < 1:
            raise ValueError(f"{len(proposals.phi)} proposals do not fill {n_chains} chains.")
        if not bool((proposals.log_weight < torch.inf).all()):
            raise ValueError(
                "Some proposals have NaN or infinite log weights; expected finite ones, or -inf for a weight "
                "of zero."
            )
        if start is not None:
            _check_continues(start, proposals, n_chains)
        phi = proposals.phi[:used].unflatten(0, (n_samples, n_chains))
        log_weight = proposals.log_weight[:used].reshape(n_samples, n_chains)
        uniform = torch.rand(
            log_weight.shape, generator=generator, dtype=torch.float64, device=log_weight.device
        )
        if start is not None:
            # The last state goes in front, as a proposal that is always accepted.
            phi, log_weight = _in_front(start, phi, log_weight)
            uniform = torch.cat([uniform[:1], uniform])
        accepted = metropolis_accept(log_weight, uniform)
        steps = torch.arange(len(accepted), device=accepted.device)[:, None]
        # The state after step n is the proposal that was accepted last.
        latest = torch.where(accepted, steps, 0).cummax(0).values
        latest = latest.maximum(_first_with_weight(log_weight))[0 if start is None else 1 :]
        chain = torch.arange(n_chains, device=accepted.device)
        return Chain(
            phi[latest, chain],
            accepted[1:].double(),
            certificate=proposals.certificate,
            log_weight=log_weight[latest, chain],
            annealed=proposals.annealed,
            space=proposals.space,
        )


class IndependenceStep(Kernel):
    """One flow proposal per update, accepted with `min(1, w' / w)`: a partner for local updates.

    The weight of the present field comes from the inverse flow, since another kernel may have moved the
    field. Without other kernels `IndependenceMetropolis` is cheaper, because it remembers the weights.

    Args:
        flow: makes the proposals.
        action: target, `exp(-S)`.
        n_proposals: proposals in a row, which share one inverse.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if `n_proposals` is not positive.
    """

    def __init__(self, flow: Flow, action: Action, *, n_proposals: int = 1) -> None:
        check_type(flow, Flow, "flow")
        check_type(action, Action, "action")
        self.flow: Flow = flow
        self.action = action
        self.n_proposals = check_count(n_proposals, "n_proposals")

    @property
    def remedy(self) -> str:
        """See `Kernel.remedy`."""
        return "Train the flow longer, or alternate with an update that moves: Alternate(HMC(action), ...)."

    @torch.no_grad()
    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """See `Kernel.update`; every chain gets proposals of the flow."""
        log_weight = log_weights(self.flow, self.action, phi, batch_size=max(1, len(phi)))
        outcomes = []
        for _ in range(self.n_proposals):
            proposal, log_q = self.flow.sample_and_log_prob(len(phi), generator=generator)
            proposed = -self.action(proposal) - log_q
            phi, outcome = metropolis(proposed - log_weight, proposal, phi, generator)
            log_weight = torch.where(outcome.accepted.bool(), proposed, log_weight)
            outcomes.append(outcome)
        return phi, mean_outcome(outcomes)


def metropolis_accept(log_weight: Tensor, uniform: Tensor) -> Tensor:
    """Decide which proposals independence Metropolis accepts, with `min(1, w' / w)`; the first one always.

    Args:
        log_weight: of the proposals, `(n, n_chains)`.
        uniform: random numbers in [0, 1), `(n, n_chains)`.

    Returns:
        Whether a proposal is accepted, `(n, n_chains)` of booleans.
    """
    log_weight = log_weight.double().cpu()
    log_uniform = uniform.log().cpu()
    accepted = torch.ones(log_weight.shape, dtype=torch.bool)
    current = log_weight[0]
    for step in range(1, len(log_weight)):
        accepted[step] = log_uniform[step] < log_weight[step] - current
        current = torch.where(accepted[step], log_weight[step], current)
    return accepted.to(uniform.device)


def _first_with_weight(log_weight: Tensor) -> Tensor:
    """Return the first step of each chain whose proposal has a weight, `(n_chains,)`; raise if none has."""
    given = ~log_weight.isneginf()
    if not bool(given.any(0).all()):
        raise ValueError(
            f"{int((~given.any(0)).sum())} of {log_weight.shape[1]} chains got no proposal whose weight is "
            f"not zero, of {len(log_weight)} each. Draw more proposals, or train the flow longer."
        )
    return given.to(torch.uint8).argmax(0)


def _check_continues(start: Chain, proposals: Ensemble, n_chains: int) -> None:
    """Raise a ValueError unless the proposals can continue the chain."""
    if start.annealed != proposals.annealed:
        raise ValueError(
            "Either the chain to start from or the proposals are annealed, not both: weights of paths "
            "and of single samples do not compare. Continue with from_ensemble on ensembles of one kind."
        )
    if start.log_weight is None or start.samples.shape[1] != n_chains:
        raise ValueError(
            f"Expected {n_chains} chains of IndependenceMetropolis to start from, got "
            f"{start.samples.shape[1]}" + ("." if start.log_weight is not None else " without log weights.")
        )


def _in_front(start: Chain, phi: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Put the last state of a chain and its log weight before the proposals."""
    assert start.log_weight is not None
    before = start.samples[-1:].to(phi), start.log_weight[-1:].to(log_weight)
    return torch.cat([before[0], phi]), torch.cat([before[1], log_weight])
