"""Weighted samples that are driven to the target along a path: more work per sample makes better weights.

`annealed_importance_sample` starts from a flow and trains nothing, `stochastic_importance_sample` follows a
`StochasticFlow`. Both collect the work by `flows.journeys.travel`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from equiflow.flows import Certificate, Flow, StochasticFlow
from equiflow.flows.journeys import Arrival, Leg, State, check_resample, travel
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import doubled
from equiflow.samplers.beginnings import check_beginning
from equiflow.samplers.families import joined_families, joined_surplus
from equiflow.samplers.hmc import HMC
from equiflow.samplers.importance import Ensemble
from equiflow.samplers.kernel import Kernel
from equiflow.samplers.latent import LatentAction
from equiflow.samplers.samples import certificate_of
from equiflow.theories.base.action import Action
from equiflow.theories.base.bridge import rising_schedule


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
    resample: float | None = None,
    batch_size: int = 1024,
    certify: int = 256,
    generator: torch.Generator | None = None,
) -> Ensemble:
    r"""Move flow samples to the target along `(1 - beta) log q + beta (-S)` (physics/9803008).

    A sample collects `log w = sum_n (beta_{n+1} - beta_n) (-S - log q)(phi_n)`. Between two increments a
    kernel that leaves the current density invariant moves the sample. `mean w` is an unbiased estimate of Z
    for any schedule and any kernel (Jarzynski 1997, cond-mat/9610209). With one interval this is
    `importance_sample`. All updates act on the white noise of the flow, where the path needs no inverse, see
    `LatentAction`. A `StochasticFlow` has trained layers along the path besides.

    Args:
        flow: where the path starts.
        action: where it ends, `exp(-S)`.
        n_samples: number of samples.
        betas: number of equal intervals, or the schedule itself, rising from 0 to 1.
        kernel: makes the update for the density at one beta. It must not be tuned on these samples.
        resample: effective sample size per sample below which the samples of a batch are drawn anew, see
            `stochastic_importance_sample`; None for never.
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
    check_resample(resample)
    path = [LatentAction(flow, action, beta=beta) for beta in rising_schedule(betas)]
    legs = [_LatentLeg(*pair, kernel, is_last=pair[1] is path[-1]) for pair in pairwise(path)]

    def arrive(n: int) -> Arrival:
        noise = flow.prior.noise(n, generator)
        start = noise, *path[0].configurations(noise)
        return travel(legs, start, resample=resample, generator=generator)

    arrivals = [arrive(n) for n in _batches(n_samples, batch_size)]
    certificate = certificate_of(flow, action, certify, generator)
    # The state of a leg is the noise, then the configurations.
    phi = torch.cat([arrival.state[1] for arrival in arrivals])
    annealed, drawn_anew = len(legs) > 1, resample is not None
    return _ensemble(phi, arrivals, action, certificate, annealed=annealed, drawn_anew=drawn_anew)


@torch.inference_mode(False)
@torch.no_grad()
def stochastic_importance_sample(
    flow: StochasticFlow,
    n_samples: int,
    *,
    resample: float | None = None,
    batch_size: int = 1024,
    certify: int = 256,
    generator: torch.Generator | None = None,
) -> Ensemble:
    r"""Draw weighted samples of the end of a `StochasticFlow`, whose weights are work along its path.

    `mean w` is an unbiased estimate of Z, with resampling or without. Resampling drops samples on their way
    whose weights have become small, and repeats others (sequential Monte Carlo, Del Moral et al. 2006;
    arXiv:2201.13117). It keeps the weights of long paths even, and cannot repair a leg that misses its
    density. Samples of one batch that descend from one sample of the prior are a family: they depend on each
    other, and all errors and the ESS count families instead of samples (arXiv:1312.5114).

    Args:
        flow: the path. Its kernels must be tuned.
        n_samples: number of samples.
        resample: effective sample size per sample below which the samples of a batch are drawn anew, such as
            0.5; None for never.
        batch_size: samples driven at a time. Only samples of one batch are resampled together.
        certify: number of additional samples on which to measure the discretisation error of the layers; 0
            skips it.
        generator: source of randomness, on the flow's device.

    Returns:
        An `Ensemble`, marked as `annealed` unless the path is one layer without updates. Its `log_q` is
        `-S - log_weight`, which describes the path as a whole and is no density at phi.

    Raises:
        TypeError: if a count is not an integer, or `flow` is of another type.
        ValueError: if a count is too small, a kernel is not tuned, or `resample` is not between 0 and 1. Also
            if S falls without bound, or the memory has no room for the samples.
    """
    check_type(flow, StochasticFlow, "flow")
    check_count(n_samples, "n_samples", minimum=0)
    check_count(batch_size, "batch_size")
    check_count(certify, "certify", minimum=0)
    check_beginning(flow.target, n_samples, device=flow.device, dtype=flow.dtype, stacklevel=5)
    arrivals = [
        flow.travel(n, resample=resample, generator=generator) for n in _batches(n_samples, batch_size)
    ]
    certificate = flow.certificate(certify, generator=generator) if certify else None
    phi = torch.cat([arrival.state[0] for arrival in arrivals])
    annealed, drawn_anew = len(flow.legs) > 1 or flow.legs[0].n_updates > 0, resample is not None
    return _ensemble(phi, arrivals, flow.target, certificate, annealed=annealed, drawn_anew=drawn_anew)


@dataclass(frozen=True)
class _LatentLeg(Leg):
    """The way from one `LatentAction` to the next; the state is noise, configurations and `-S - log q`."""

    before: LatentAction
    after: LatentAction
    kernel: Callable[[LatentAction], Kernel]
    is_last: bool

    def work(self, state: State) -> tuple[State, Tensor]:
        """See `Leg.work`."""
        return state, (self.after.beta - self.before.beta) * state[2]

    def move(self, state: State, generator: torch.Generator | None) -> State:
        """See `Leg.move`; nothing is left to gain at the end of the path."""
        if self.is_last:
            return state
        noise, _ = self.kernel(self.after).update(state[0], generator)
        return noise, *self.after.configurations(noise)


def _batches(n_samples: int, batch_size: int) -> list[int]:
    """Return the sizes of batches; a single empty one for no samples."""
    return [min(batch_size, n_samples - done) for done in range(0, max(n_samples, 1), batch_size)]


def _ensemble(
    phi: Tensor,
    arrivals: Sequence[Arrival],
    action: Action,
    certificate: Certificate | None,
    *,
    annealed: bool,
    drawn_anew: bool,
) -> Ensemble:
    """Return the samples of all batches as one ensemble."""
    log_weight = torch.cat([arrival.log_weight for arrival in arrivals])
    # A weight of zero is one of log q = inf, also where S is infinite itself.
    log_q = torch.where(log_weight.isneginf(), torch.inf, -action(doubled(phi)) - log_weight)
    family = surplus = None
    if drawn_anew:
        family = joined_families([arrival.family for arrival in arrivals])
        surplus = joined_surplus(*zip(*((a.surplus, a.log_weight) for a in arrivals), strict=True))
    ensemble = Ensemble(phi, log_q, log_weight, certificate, annealed=annealed, space=action.space)
    return replace(ensemble, family=family, surplus=surplus)
