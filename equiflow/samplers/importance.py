"""Independent samples of a flow with their importance weights.

`importance_sample` draws an `Ensemble`, whose methods estimate averages over the target, log Z and the ESS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.flows import Certificate, Flow
from equiflow.runtime.checks import check_count, check_type
from equiflow.samplers.samples import (
    Samples,
    certificate_of,
    per_configuration,
    reweighted_mean,
    where_weighted,
    with_shift,
)
from equiflow.statistics import (
    Estimate,
    effective_sample_size,
    log_mean_exp,
    normalised_weights,
    warn_if_few_effective_samples,
    weighted_mean,
)
from equiflow.theories.base.action import Action


@dataclass(frozen=True)
class Ensemble(Samples):
    """Model samples weighted towards the target, `w = exp(-S) / q`.

    Attributes:
        phi: `(n_samples, *lattice)`.
        log_q: normalised log-density of the model, `(n_samples,)`.
        log_weight: `-S(phi) - log_q`, `(n_samples,)`; -inf where the target has no density.
        certificate: change of the results under a finer solve, measured on separate samples; None if
            unknown. Every estimate carries its own change as `Estimate.systematic`. The ESS of annealed
            weights is the exception: its change is unknown.
        annealed: whether the weights are work along paths, see `annealed_importance_sample`. Then `log_q` is
            no density at phi, and the weights cannot be compared with `log_weights` of other samples.
    """

    phi: Tensor
    log_q: Tensor
    log_weight: Tensor
    certificate: Certificate | None = None
    annealed: bool = False

    @property
    def configurations(self) -> Tensor:
        """All samples in one batch, `(n_samples, *lattice)`: `phi`."""
        return self.phi

    @property
    def configuration_shape(self) -> tuple[int, ...]:
        """See `Samples.configuration_shape`."""
        return tuple(self.phi.shape[1:])

    def effective_sample_size(self) -> Estimate:
        """Estimate the reverse ESS per sample, `(sum w)^2 / (N sum w^2)`."""
        estimate = effective_sample_size(self.log_weight)
        # The certificate knows the flow's own weights, which say nothing about weights of paths.
        certificate = None if self.annealed else self.certificate
        return with_shift(estimate, certificate, lambda _, log_w: _ess(log_w))

    def log_z(self) -> Estimate:
        """Estimate `log Z = log mean w` of the target."""
        estimate = log_mean_exp(self.log_weight)
        return with_shift(estimate, self.certificate, lambda _, log_w: log_w.double().logsumexp(0))

    def mean(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Estimate the reweighted mean `sum w O / sum w`, see `Samples.mean` and `statistics.weighted_mean`.

        A `LowEffectiveSampleSizeWarning` says if few samples carry the weight.

        Raises:
            ValueError: if the observable does not return one value per configuration.
        """
        values = observable(self.phi)
        if values.shape != self.log_weight.shape:
            raise ValueError(
                f"The observable returned shape {tuple(values.shape)}; expected one value per "
                f"configuration, {tuple(self.log_weight.shape)}."
            )
        warn_if_few_effective_samples(self.log_weight)
        values = where_weighted(values, self.log_weight)
        estimate = weighted_mean(values, self.log_weight)
        return with_shift(
            estimate, self.certificate, lambda phi, log_w: reweighted_mean(observable(phi), log_w)
        )

    def mean_and_fluctuations(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """See `Samples.mean_and_fluctuations`; the fluctuations are `w / mean w (O - <O>)`.

        The n samples are independent, so they count as n chains of one sample: `(1, n, k)`.
        """
        if len(self.phi) < 2:
            raise ValueError(f"An error needs at least 2 samples, got {len(self.phi)}.")
        weight = normalised_weights(self.log_weight)
        weight = (weight / weight.mean())[:, None]
        values = where_weighted(per_configuration(function, self.phi), self.log_weight)
        means = (weight * values).mean(0)
        return means, (weight * (values - means))[None]


def _ess(log_weight: Tensor) -> Tensor:
    """Return the reverse ESS per sample, 0-d."""
    return 1 / (len(log_weight) * torch.softmax(log_weight.double(), 0).square().sum())


def check_not_annealed(ensemble: Ensemble) -> None:
    """Raise unless the log weights are `-S - log q` of the samples themselves.

    Raises:
        ValueError: if they are work along paths.
    """
    if ensemble.annealed:
        raise ValueError(
            "The ensemble is annealed: its log weights are work along paths and do not compare with "
            "-S - log q of a chain. Give one of importance_sample; log Z of an annealed ensemble is "
            "ensemble.log_z()."
        )


@torch.no_grad()
def importance_sample(
    flow: Flow,
    action: Action,
    n_samples: int,
    *,
    batch_size: int = 1024,
    certify: int = 256,
    generator: torch.Generator | None = None,
) -> Ensemble:
    """Draw independent samples of a flow with their weights.

    Args:
        flow: any flow.
        action: the target, `exp(-S)`.
        n_samples: number of samples.
        batch_size: samples drawn at a time, which bounds the memory.
        certify: number of additional samples on which to measure the discretisation error; 0 skips it.
        generator: source of randomness, on the flow's device.

    Returns:
        The samples with their weights and, unless `certify` is 0, their certificate.

    Raises:
        TypeError: if `action` is not an `Action`, or a count is not an integer.
        ValueError: if `batch_size` is not positive, or another count is negative.
    """
    check_type(action, Action, "action")
    check_count(n_samples, "n_samples", minimum=0)
    check_count(batch_size, "batch_size")
    check_count(certify, "certify", minimum=0)
    drawn = []
    for start in range(0, max(n_samples, 1), batch_size):
        phi, log_q = flow.sample_and_log_prob(min(batch_size, n_samples - start), generator=generator)
        drawn.append((phi, log_q, -action(phi) - log_q))
    certificate = certificate_of(flow, action, certify, generator)
    phi, log_q, log_weight = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return Ensemble(phi, log_q, log_weight, certificate)


@torch.no_grad()
def log_weights(flow: Flow, action: Action, phi: Tensor, *, batch_size: int = 1024) -> Tensor:
    """Return the log weights `-S(phi) - log q(phi)` of given configurations, such as samples of the target.

    Args:
        flow: the model q.
        action: the target, `exp(-S)`.
        phi: `(batch, *lattice)`.
        batch_size: configurations taken through the inverse flow at a time, which bounds the memory.

    Returns:
        `(batch,)`.

    Raises:
        TypeError: if `action` is not an `Action`, or the batch size is not an integer.
        ValueError: if the batch size is not positive.
    """
    check_type(action, Action, "action")
    batch_size = check_count(batch_size, "batch_size")
    return torch.cat([-action(part) - flow.log_prob(part) for part in phi.split(batch_size)])
