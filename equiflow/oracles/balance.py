"""Balance of the sectors `M > 0` and `M < 0`, which every exact sampler of an even action keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.samplers import Chain, Ensemble
from equiflow.statistics import Estimate, integrated_autocorrelation_time, normalised_weights
from equiflow.theories.scalar.observables import magnetisation


@dataclass(frozen=True)
class Z2Balance:
    """How far samples of an even action are from Z2 symmetry.

    Attributes:
        positive: probability of `M > 0`; its error is the one expected for a true value of 1/2.
        odd_mean: mean of an odd observable; its true value is 0.
    """

    positive: Estimate
    odd_mean: Estimate

    @property
    def sigmas(self) -> float:
        """Deviation of `positive` from 1/2 in units of its error."""
        return self.positive.sigmas_from(0.5)

    @property
    def odd_sigmas(self) -> float:
        """Deviation of `odd_mean` from 0 in units of its error; infinite for a constant other than 0."""
        if self.odd_mean.error == 0.0:
            return math.copysign(math.inf, self.odd_mean.mean) if self.odd_mean.mean else 0.0
        return self.odd_mean.sigmas_from(0.0)

    def __str__(self) -> str:
        return (
            f"P(M > 0) = {self.positive} ({self.sigmas:+.1f} sigma from 1/2), "
            f"odd mean {self.odd_mean} ({self.odd_sigmas:+.1f} sigma from 0)"
        )


def z2_balance(source: Ensemble | Chain, *, odd: Callable[[Tensor], Tensor] = magnetisation) -> Z2Balance:
    """Compare the weight of the sectors `M > 0` and `M < 0`.

    The error of the probability is the one of a balanced sampler, because samples of one sector alone have
    no spread. It is `1/2 sqrt(sum w^2) / sum w` for weighted samples, and `1/2 / sqrt(n)` for chains with
    n independent observations of the sign. A chain that never tunnels is one observation.

    Args:
        source: weighted samples of a flow, or Markov chains, of an action with `S[-phi] = S[phi]`.
        odd: observable `(batch, *lattice) -> (batch,)` that changes sign with phi.

    Returns:
        The probability of `M > 0` and the mean of `odd`.

    Raises:
        ValueError: if `odd` does not change sign with phi, or there are no samples.
    """
    phi = source.configurations
    if not len(phi):
        raise ValueError("There are no samples to balance; expected at least one.")
    if not torch.allclose(odd(-phi[:8]), -odd(phi[:8])):
        raise ValueError("The observable does not change sign with phi; expected an odd one.")
    if isinstance(source, Ensemble):
        weight = normalised_weights(source.log_weight)
        fraction = weight / weight.sum()
        probability = float(fraction @ _is_positive(phi))
        if source.correction is not None:
            probability += source.correction_of(_is_positive).mean
        of_families = normalised_weights(source.independent_log_weight)
        error = 0.5 * float((of_families / of_families.sum()).square().sum().sqrt())
    else:
        sign = source.series(_is_positive)
        probability = float(sign.mean())
        n_chains = sign.shape[1]
        tau = max(0.5, integrated_autocorrelation_time(sign).mean)
        error = 0.5 / math.sqrt(max(n_chains, sign.numel() / (2 * tau)))
    return Z2Balance(Estimate(probability, error), source.mean(odd))


def _is_positive(phi: Tensor) -> Tensor:
    """Return 1 for `M > 0`, 1/2 for `M = 0`, 0 for `M < 0`, `(batch,)`."""
    return 0.5 * (1 + magnetisation(phi).double().sign())
