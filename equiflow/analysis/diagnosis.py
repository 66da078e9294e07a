"""Does the flow cover the target? Weights of model samples and of target samples, compared.

The reverse ESS alone cannot see a mode that the flow has dropped. Start with `diagnose`, which also says what
the weights of a flow of scalar fields vary with, see `explain_weights`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from equiflow.analysis.sign import is_even
from equiflow.analysis.weight_shares import WeightShares, explain_weights, samples_to_explain
from equiflow.flows import Flow
from equiflow.runtime.checks import check_flag, check_type
from equiflow.runtime.precision import in_precision
from equiflow.runtime.progress import progress_as
from equiflow.samplers.importance import Ensemble, check_own_weights
from equiflow.samplers.kernel import Chain
from equiflow.samplers.weighting import log_weights
from equiflow.statistics import (
    Estimate,
    block_count,
    bridge_log_z,
    forward_effective_sample_size,
    jackknife_estimate,
    log_mean_exp,
    mean_of_series,
    weighted_mean,
)
from equiflow.statistics.tables import ShownAsTable
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space
from equiflow.theories.scalar import observables

#: target samples taken through the inverse flow at a time, which bounds the memory
INVERSE_BATCH_SIZE = 512
#: difference of log Z, or of a probability, that is too small for a warning even if it is significant
NEGLIGIBLE_DIFFERENCE = 0.01
#: ratio of forward to reverse ESS below which there is a warning
MIN_ESS_RATIO = 0.5
#: least error of a probability, for samples that are all in one sector
MIN_SECTOR_ERROR = 1e-12


@dataclass(frozen=True, repr=False)
class Diagnosis(ShownAsTable):
    """Weights of model samples and of target samples, compared.

    If the model covers the target, then `lower_bound <= log Z <= upper_bound` and the three estimates of
    log Z agree. A model that has dropped a mode passes the reverse ESS and fails here.

    Attributes:
        reverse_ess: `(sum w)^2 / (N sum w^2)` on model samples.
        forward_ess: `1 / (mean w mean 1/w)` on target samples.
        lower_bound: `mean log w` on model samples (the ELBO).
        upper_bound: `mean log w` on target samples (the EUBO).
        log_z_reverse: `log mean w` on model samples.
        log_z_forward: `-log mean 1/w` on target samples.
        log_z_bridge: Bennett's acceptance ratio, from both.
        positive_sector: probability of a positive magnetisation, in the reweighted model and in the target;
            of a multiplet, of its first component. None if the configurations are no real field on a
            lattice.
        warnings: disagreements beyond errors, in words; empty for a sound flow.
        shares: what explains the variance of log w on model samples, see `explain_weights`; None if that was
            not asked for, if the configurations are no scalar field, or if there are too few samples.
    """

    reverse_ess: Estimate
    forward_ess: Estimate
    lower_bound: Estimate
    upper_bound: Estimate
    log_z_reverse: Estimate
    log_z_forward: Estimate
    log_z_bridge: Estimate
    positive_sector: tuple[Estimate, Estimate] | None
    warnings: tuple[str, ...]
    shares: WeightShares | None = None

    @property
    def ok(self) -> bool:
        """Whether both directions agree within errors."""
        return not self.warnings

    def _rows(self) -> dict[str, object]:
        """Return the estimates from both directions."""
        names = ("P(M > 0), model", "P(M > 0), target")
        sectors = dict(zip(names, self.positive_sector or (), strict=False))
        estimates = {name: value for name, value in vars(self).items() if isinstance(value, Estimate)}
        return {**estimates, **sectors}

    def _below(self) -> str:
        """Return the table of the shares, and the warnings."""
        shares = [f"\n{self.shares}\n"] if self.shares is not None else []
        return "\n".join([*shares, *(f"warning: {warning}" for warning in self.warnings)])


def diagnose(
    flow: Flow,
    action: Action,
    ensemble: Ensemble,
    chain: Chain,
    *,
    threshold: float = 4.0,
    explain: bool = True,
    progress: bool | None = None,
) -> Diagnosis:
    """Compare model samples with samples of the target from a Markov chain.

    Import it by `from equiflow.analysis import diagnose`.

    Args:
        flow: the model.
        action: its target, `exp(-S)`.
        ensemble: weighted samples of the model, not annealed.
        chain: samples of the target.
        threshold: number of combined errors from which a disagreement makes a warning.
        explain: whether to add what explains the variance of log w, for scalar fields and from
            `samples_to_explain` samples on.
        progress: whether to show a bar, see `fit`.

    Returns:
        The estimates from both directions, and warnings where they disagree.

    Raises:
        TypeError: if `action` is not an `Action`, or `explain` no flag.
        ValueError: if the ensemble is annealed, since weights of paths and of samples cannot be compared.
    """
    check_type(action, Action, "action")
    explain = check_flag(explain, "explain")
    check_own_weights(ensemble)  # before the expensive inverse flow
    ensemble = replace(ensemble, space=action.space)
    target_phi = in_precision(chain.configurations, flow.dtype).to(flow.device)
    found = compare_directions(
        ensemble,
        target_phi,
        log_weights(flow, action, target_phi, batch_size=INVERSE_BATCH_SIZE, progress=progress),
        n_chains=chain.samples.shape[1],
        threshold=threshold,
    )
    with progress_as(progress):
        return replace(found, shares=_shares(flow, action, ensemble) if explain else None)


def compare_directions(
    ensemble: Ensemble,
    target_phi: Tensor,
    target_log_weight: Tensor,
    *,
    n_chains: int = 1,
    threshold: float = 4.0,
) -> Diagnosis:
    """Do what `diagnose` does, with log weights that are known already.

    Args:
        ensemble: weighted samples of the model, not annealed.
        target_phi: samples of the target, chain after chain, `(n_samples, *lattice)`.
        target_log_weight: their log weights `-S - log q`, `(n_samples,)`.
        n_chains: number of chains in `target_phi`, all of one length.
        threshold: see `diagnose`.

    Returns:
        See `diagnose`.

    Raises:
        ValueError: see `diagnose`.
    """
    check_own_weights(ensemble)
    model = ensemble.log_weight
    series = target_log_weight.reshape(n_chains, -1).T
    n_blocks = _block_count(series)
    unknown = Estimate(-math.inf, math.inf)  # a weight of zero makes the means of log w and of 1/w infinite
    possible = not bool(series.isneginf().any())
    forward_ess = forward_effective_sample_size(target_log_weight, n_blocks=n_blocks)
    log_z_forward = _log_z_forward(target_log_weight, n_blocks) if possible else unknown
    given = float((~model.isneginf()).double().mean())
    if given < 1:  # target samples do not see where the target vanishes; there 1/w has no average
        forward_ess = replace(forward_ess, mean=given * forward_ess.mean, error=given * forward_ess.error)
        of_given = math.sqrt((1 - given) / (given * len(model)))
        log_z_forward = replace(
            log_z_forward,
            mean=log_z_forward.mean + math.log(given),
            error=math.hypot(log_z_forward.error, of_given),
        )
    log_z = ensemble.log_z()
    estimates: dict[str, Estimate] = {
        "reverse_ess": ensemble.effective_sample_size(),
        "forward_ess": forward_ess,
        "lower_bound": unknown
        if bool(model.isneginf().any())
        else jackknife_estimate(lambda mean: mean, model),
        "upper_bound": mean_of_series(series) if possible else unknown,
        "log_z_reverse": log_z,
        "log_z_forward": log_z_forward,
        "log_z_bridge": bridge_log_z(model, series),
    }
    # An error of log q shifts log Z by the same amount in both directions.
    for name in ("log_z_forward", "log_z_bridge"):
        estimates[name] = replace(estimates[name], systematic=log_z.systematic)
    sectors = None
    if _has_sign(ensemble):
        target = _is_positive(target_phi, ensemble.space).reshape(n_chains, -1).T
        sectors = weighted_mean(_is_positive(ensemble.phi, ensemble.space), model), mean_of_series(target)
    warnings = _warnings(estimates, sectors, threshold)
    return Diagnosis(**estimates, positive_sector=sectors, warnings=warnings, shares=None)


def _shares(flow: Flow, action: Action, ensemble: Ensemble) -> WeightShares | None:
    """Explain the weights of scalar fields; return None for other fields, and for too few samples."""
    lattice = ensemble.space
    if not isinstance(lattice, Lattice):
        return None
    z2 = bool(getattr(getattr(flow, "group", None), "z2", False)) and is_even(action, ensemble.phi)
    enough = int((~ensemble.log_weight.isneginf()).sum()) >= samples_to_explain(lattice, z2=z2)
    return explain_weights(ensemble, z2=z2) if enough else None


def _has_sign(ensemble: Ensemble) -> bool:
    """Return whether the configurations are real fields on a lattice, whose magnetisation has a sign."""
    space = ensemble.space
    if space is None:  # see `only_lattice_of`
        return len(set(ensemble.configuration_shape)) == 1
    return space.is_real_field


def _is_positive(phi: Tensor, space: Space | None) -> Tensor:
    """Return whether the magnetisation of a field, or of its first component, is positive, `(batch,)`."""
    first = phi[:, 0] if space is not None and space.component_axes else phi
    return (observables.magnetisation(first) > 0).double()


def _log_z_forward(target_log_weight: Tensor, n_blocks: int) -> Estimate:
    """Return `-log mean 1/w` on target samples."""
    inverse = log_mean_exp(-target_log_weight, n_blocks=n_blocks)
    return replace(inverse, mean=-inverse.mean)


def _block_count(log_weight: Tensor) -> int:
    """Return how many blocks absorb the autocorrelation of log weights along chains, `(n, n_chains)`."""
    finite = log_weight[log_weight.isfinite()]
    lowest = float(finite.min()) if len(finite) else 0.0
    return block_count(log_weight.masked_fill(log_weight.isneginf(), lowest))


def _warnings(
    estimates: dict[str, Estimate], sectors: tuple[Estimate, Estimate] | None, threshold: float
) -> tuple[str, ...]:
    """Say in words what disagrees by more than `threshold` errors."""
    found = []
    reverse, forward = estimates["log_z_reverse"], estimates["log_z_forward"]
    for other in (forward, estimates["log_z_bridge"]):
        sigmas = abs(reverse.sigmas_from(other))
        if sigmas > threshold and abs(reverse.mean - other.mean) > NEGLIGIBLE_DIFFERENCE:
            found.append(
                f"log Z from model samples, {reverse}, and with target samples, {other}, differ by "
                f"{sigmas:.1f} sigma: the model misses part of the target."
            )
    ess, forward_ess = estimates["reverse_ess"], estimates["forward_ess"]
    if forward_ess.mean < MIN_ESS_RATIO * ess.mean:
        found.append(
            f"Forward ESS {forward_ess.mean:.3f} is less than half the reverse ESS {ess.mean:.3f}: "
            "target samples have weights that model samples never show."
        )
    if sectors is None:
        return tuple(found)
    distance = abs(sectors[0].mean - sectors[1].mean)
    error = max((sectors[0].error ** 2 + sectors[1].error ** 2) ** 0.5, MIN_SECTOR_ERROR)
    if distance > threshold * error and distance > NEGLIGIBLE_DIFFERENCE:
        found.append(
            f"P(M > 0) is {sectors[0]} in the reweighted model and {sectors[1]} in the target: "
            "one sign of M is over-represented."
        )
    return tuple(found)
