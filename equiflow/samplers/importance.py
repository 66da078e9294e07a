"""Independent samples of a flow with their importance weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equiflow.flows import Certificate, Flow
from equiflow.runtime.checks import check_count
from equiflow.statistics import (
    Estimate,
    effective_sample_size,
    jackknife_estimate,
    log_mean_exp,
    normalised_weights,
)
from equiflow.theories.base.action import Action


@dataclass(frozen=True)
class Ensemble:
    """Model samples weighted towards the target, `w = exp(-S) / q`.

    Attributes:
        phi: `(n_samples, *lattice)`.
        log_q: absolute model log-density, `(n_samples,)`.
        log_weight: `-S(phi) - log_q`, `(n_samples,)`.
        certificate: what a finer solve changes, measured on samples drawn besides; None if unknown.
            Every estimate carries its share of it as `Estimate.systematic`; not so the ESS of annealed
            weights, whose share is unknown.
        annealed: whether the weights are work along paths, see `annealed_importance_sample`. Then log_q is
            no density at phi, and the weights do not compare with `log_weights` of other samples.
    """

    phi: Tensor
    log_q: Tensor
    log_weight: Tensor
    certificate: Certificate | None = None
    annealed: bool = False

    def effective_sample_size(self) -> Estimate:
        """Reverse ESS per sample."""
        estimate = effective_sample_size(self.log_weight)
        # That of the flow's own weights says nothing about those of paths.
        certificate = None if self.annealed else self.certificate
        return with_shift(estimate, certificate, lambda _, log_w: _ess(log_w))

    def log_z(self) -> Estimate:
        """`log Z` of the target."""
        estimate = log_mean_exp(self.log_weight)
        return with_shift(estimate, self.certificate, lambda _, log_w: log_w.double().logsumexp(0))

    def mean(self, observable: Callable[[Tensor], Tensor]) -> Estimate:
        """Reweighted mean `sum w O / sum w` with jackknife error."""
        values = observable(self.phi)
        if values.shape != self.log_weight.shape:
            raise ValueError(
                f"The observable returned shape {tuple(values.shape)}; expected one value per "
                f"configuration, {tuple(self.log_weight.shape)}."
            )
        weight = normalised_weights(self.log_weight)
        estimate = jackknife_estimate(lambda wo, w: wo / w, weight * values.double(), weight)
        return with_shift(
            estimate, self.certificate, lambda phi, log_w: reweighted_mean(observable(phi), log_w)
        )


def with_shift(
    estimate: Estimate,
    certificate: Certificate | None,
    functional: Callable[[Tensor, Tensor], Tensor],
) -> Estimate:
    """The estimate with the size of its change under a finer solve as its systematic error.

    Args:
        estimate: value with its statistical error.
        certificate: of the flow behind it; None leaves the estimate as it is.
        functional: the same quantity as a function of `phi` and `log_weight`.
    """
    if certificate is None:
        return estimate
    return replace(estimate, systematic=abs(certificate.shift_of(functional)))


def reweighted_mean(values: Tensor, log_weight: Tensor) -> Tensor:
    """`sum w O / sum w` of the values of an observable, `(n_samples,)`."""
    return torch.softmax(log_weight.double(), 0) @ values.double()


def _ess(log_weight: Tensor) -> Tensor:
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
        n_samples: how many.
        batch_size: how many at a time, which bounds the memory.
        certify: on how many further samples to measure the discretisation error; 0 skips it.
        generator: source of randomness, on the flow's device.

    Raises:
        ValueError: if `batch_size` is not positive.
    """
    check_count(n_samples, "n_samples", minimum=0)
    if batch_size < 1 or certify < 0:
        raise ValueError(f"Expected batch_size >= 1 and certify >= 0, got {batch_size} and {certify}.")
    drawn = []
    for start in range(0, max(n_samples, 1), batch_size):
        phi, log_q = flow.sample_and_log_prob(min(batch_size, n_samples - start), generator=generator)
        drawn.append((phi, log_q, -action(phi) - log_q))
    certificate = flow.certificate(certify, action=action, generator=generator) if certify else None
    phi, log_q, log_weight = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return Ensemble(phi, log_q, log_weight, certificate)


@torch.no_grad()
def log_weights(flow: Flow, action: Action, phi: Tensor, *, batch_size: int = 1024) -> Tensor:
    """`-S(phi) - log q(phi)` of given configurations, for instance of the target, `(batch,)`."""
    return torch.cat([-action(part) - flow.log_prob(part) for part in phi.split(batch_size)])
