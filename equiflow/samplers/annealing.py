"""Annealed importance sampling from a flow to the target: more work per sample makes better weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.runtime.checks import check_count, check_type, plain
from equiflow.samplers.beginnings import check_beginning
from equiflow.samplers.hmc import HMC
from equiflow.samplers.importance import Ensemble
from equiflow.samplers.kernel import Kernel
from equiflow.samplers.latent import LatentAction
from equiflow.samplers.samples import certificate_of
from equiflow.theories.base.action import Action


def trajectory(action: LatentAction) -> HMC:
    """Return HMC with about three leapfrog steps of 0.3.

    The step is fixed, since a step that is tuned on the samples it moves biases log Z.
    """
    return HMC(action, step_size=0.3, trajectory_length=0.9)


@torch.no_grad()
def annealed_importance_sample(
    flow: Flow,
    action: Action,
    n_samples: int,
    *,
    betas: int | Sequence[float] = 8,
    kernel: Callable[[LatentAction], Kernel] = trajectory,
    batch_size: int = 1024,
    certify: int = 256,
    generator: torch.Generator | None = None,
) -> Ensemble:
    r"""Move flow samples to the target along `(1 - beta) log q + beta (-S)` (physics/9803008).

    A sample collects `log w = sum_n (beta_{n+1} - beta_n) (-S - log q)(phi_n)`. Between two increments a
    kernel that leaves the current density invariant moves the sample. `mean w` is an unbiased estimate of Z
    for any schedule and any kernel (Jarzynski 1997, cond-mat/9610209). With one interval this is
    `importance_sample`. All updates act on the white noise of the flow, where the path needs no inverse, see
    `LatentAction`.

    Args:
        flow: where the path starts.
        action: where it ends, `exp(-S)`.
        n_samples: number of samples.
        betas: number of equal intervals, or the schedule itself, rising from 0 to 1.
        kernel: makes the update for the density at one beta. It must not be tuned on these samples.
        batch_size: samples moved at a time, which bounds the memory.
        certify: number of additional samples on which to measure the discretisation error; 0 skips it.
        generator: source of randomness, on the flow's device.

    Returns:
        An `Ensemble`, marked as `annealed` unless there is only one interval. Its `log_q` is
        `-S - log_weight`, which describes the path as a whole and is no density at phi.

    Raises:
        TypeError: if a count is not an integer, or `flow`, `action` or `generator` is of another type.
        ValueError: if a count is too small, or the schedule does not rise from 0 to 1. Also if S falls
            without bound, or the memory has no room for the samples.
    """
    check_count(n_samples, "n_samples", minimum=0)
    check_count(batch_size, "batch_size")
    check_count(certify, "certify", minimum=0)
    check_type(action, Action, "action")
    check_beginning(action, n_samples, flow, generator=generator, stacklevel=4)
    path = [LatentAction(flow, action, beta=beta) for beta in _schedule(betas)]
    drawn = [
        _driven(path, min(batch_size, n_samples - done), kernel, generator)
        for done in range(0, max(n_samples, 1), batch_size)
    ]
    phi = torch.cat([batch[0] for batch in drawn])
    log_weight = torch.cat([batch[1] for batch in drawn])
    certificate = certificate_of(flow, action, certify, generator)
    # A weight of zero is one of log q = inf, also where S is infinite itself.
    log_q = torch.where(log_weight.isneginf(), torch.inf, -action(phi.double()) - log_weight)
    return Ensemble(phi, log_q, log_weight, certificate, annealed=len(path) > 2, space=action.space)


def _driven(
    path: Sequence[LatentAction],
    n_samples: int,
    kernel: Callable[[LatentAction], Kernel],
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Return samples at the end of the path and their log weights."""
    noise = path[0].flow.prior.noise(n_samples, generator)
    phi, potential = path[0].configurations(noise)
    log_weight = torch.zeros_like(potential)
    for before, after in pairwise(path):
        log_weight += (after.beta - before.beta) * potential
        if after is not path[-1]:
            noise, _ = kernel(after).update(noise, generator)
            phi, potential = after.configurations(noise)
    return phi, log_weight


def _schedule(betas: int | Sequence[float]) -> list[float]:
    """Return the schedule, rising from 0 to 1."""
    betas = plain(betas)
    if isinstance(betas, int):
        n = check_count(betas, "betas")
        return [i / n for i in range(n + 1)]
    schedule = [float(beta) for beta in betas]
    rising = all(before < after for before, after in pairwise(schedule))
    if len(schedule) < 2 or schedule[0] != 0.0 or schedule[-1] != 1.0 or not rising:
        raise ValueError(f"Expected betas that rise from 0 to 1, got {schedule}.")
    return schedule
