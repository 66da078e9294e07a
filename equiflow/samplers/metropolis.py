"""Metropolis with independent proposals from a flow: exact sampling of the target."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.actions import Action
from equiflow.flows import Flow
from equiflow.lattice import check_type
from equiflow.samplers.chain import Chain
from equiflow.samplers.importance import Ensemble, importance_sample


class IndependenceMetropolis:
    """Markov chain that proposes model samples and accepts with `min(1, w' / w)` (arXiv:1904.12072).

    Args:
        flow: proposals.
        action: target, `exp(-S)`.
    """

    def __init__(self, flow: Flow, action: Action) -> None:
        self.flow = flow
        self.action = action

    def sample(
        self,
        n_samples: int,
        *,
        n_chains: int = 1,
        batch_size: int = 1024,
        generator: torch.Generator | None = None,
    ) -> Chain:
        """Run `n_chains` independent chains of `n_samples` steps on fresh proposals.

        Args:
            n_samples: steps per chain; the first proposal starts the chain.
            n_chains: number of chains.
            batch_size: proposals drawn at a time.
            generator: source of randomness, on the flow's device.
        """
        check_type(n_samples, int, "n_samples")
        check_type(n_chains, int, "n_chains")
        if n_samples < 1 or n_chains < 1:
            raise ValueError(f"Expected n_samples >= 1 and n_chains >= 1, got {n_samples} and {n_chains}.")
        proposals = importance_sample(
            self.flow, self.action, n_samples * n_chains, batch_size=batch_size, generator=generator
        )
        return self.from_ensemble(proposals, n_chains=n_chains, generator=generator)

    @staticmethod
    def from_ensemble(
        proposals: Ensemble, *, n_chains: int = 1, generator: torch.Generator | None = None
    ) -> Chain:
        """Run the chains on proposals that have been drawn already, each used once.

        Args:
            proposals: weighted samples of the flow.
            n_chains: number of chains that share them.
            generator: source of randomness. Give the one that drew the proposals, or a seed that is not
                theirs: equal seeds make acceptances depend on the proposals.

        Raises:
            ValueError: if the proposals do not fill the chains, or a weight is NaN or infinite.
        """
        n_samples = len(proposals.phi) // n_chains if n_chains >= 1 else 0
        used = n_samples * n_chains
        if n_samples < 1:
            raise ValueError(f"{len(proposals.phi)} proposals do not fill {n_chains} chains.")
        if not bool(proposals.log_weight.isfinite().all()):
            raise ValueError("Some proposals have NaN or infinite log weights; expected finite ones.")
        log_weight = proposals.log_weight[:used].reshape(n_samples, n_chains)
        uniform = torch.rand(
            log_weight.shape, generator=generator, dtype=torch.float64, device=log_weight.device
        )
        accepted = metropolis_accept(log_weight, uniform)
        steps = torch.arange(n_samples, device=accepted.device)[:, None]
        # The state after step n is the proposal that was accepted last.
        latest = torch.where(accepted, steps, 0).cummax(0).values
        index = (latest * n_chains + torch.arange(n_chains, device=accepted.device)).flatten()
        samples = proposals.phi[index].unflatten(0, (n_samples, n_chains))
        return Chain(samples, accepted[1:].double(), certificate=proposals.certificate)


def metropolis_accept(log_weight: Tensor, uniform: Tensor) -> Tensor:
    """Which proposals independence Metropolis accepts, `(n, n_chains)`; the first one always."""
    log_weight = log_weight.double().cpu()
    log_uniform = uniform.log().cpu()
    accepted = torch.ones(log_weight.shape, dtype=torch.bool)
    current = log_weight[0]
    for step in range(1, len(log_weight)):
        accepted[step] = log_uniform[step] < log_weight[step] - current
        current = torch.where(accepted[step], log_weight[step], current)
    return accepted.to(uniform.device)
