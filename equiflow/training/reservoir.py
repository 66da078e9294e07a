"""Samples of an action in the place of a prior, so that a flow can be trained to carry them elsewhere."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.runtime.randomness import own_rows
from equiflow.theories.base.action import Action
from equiflow.theories.base.group import Group
from equiflow.theories.base.prior import Prior
from equiflow.training.objectives.samples import digest

F = TypeVar("F", bound=Flow)


class Reservoir(Prior):
    """Weighted samples of `exp(-S)` as the density that a flow starts from, up to its normalisation.

    Draws are taken from the samples with replacement. The log-density is `-S` without `-log Z`, a constant
    that no training needs.

    Args:
        action: S.
        samples: `(n_samples, *lattice)`.
        log_weight: `(n_samples,)`; -inf is a weight of zero.
        group: symmetry of the density.
    """

    def __init__(self, action: Action, samples: Tensor, log_weight: Tensor, *, group: Group) -> None:
        super().__init__(action.space, group=group)
        self.action = action
        self.register_buffer("samples", samples.detach(), False)
        self.register_buffer("weight", torch.softmax(log_weight.double(), 0), False)
        self.to(samples.device, samples.real.dtype)

    samples: Tensor
    weight: Tensor

    def noise(self, n_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """See `Prior.noise`; here the draws themselves, `(n_samples, *lattice)`."""
        if not n_samples:
            return self.samples[:0]
        rows = torch.multinomial(self.weight, n_samples, replacement=True, generator=generator)
        return self.samples[own_rows(rows, generator)]

    def colour(self, noise: Tensor) -> Tensor:
        """Return the draws as they are."""
        return noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Return `-S(z)`, `(batch,)`."""
        return -self.action(z)

    def score(self, z: Tensor) -> Tensor:
        """Return `-dS/dz`."""
        return -self.action.grad(z)

    def extra_repr(self) -> str:
        """Return what the samples are, so that a checkpoint of training notices others."""
        return digest(self.samples)


def starting_from(flow: F, prior: Prior) -> F:
    """Return a flow with another prior that shares everything else, so that training it trains the first.

    Args:
        flow: keeps its prior.
        prior: of the other one.

    Returns:
        A flow of the same class, with the same parameters but those of the prior.
    """
    twin = copy.copy(flow)
    twin._modules = {**flow._modules, "prior": prior}
    return twin
