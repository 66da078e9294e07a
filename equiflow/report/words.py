"""What a report says in words: the title of its figures, where a chain comes from, and the verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from equiflow.analysis import Measurements, StandardMeasurements
from equiflow.samplers import Chain
from equiflow.statistics import Estimate
from equiflow.statistics.tables import without_shared_notes
from equiflow.theories.base.action import Action

#: what `measure` returns
Measured = Measurements | StandardMeasurements
#: reverse ESS from which a flow is called good, and below which, within its error, it is called poor
GOOD, POOR = 0.9, 0.3
#: difference from a reference, in joint errors, that the verdict calls one
MANY_SIGMAS = 4.0


def heading(action: Action) -> str:
    """Return theory, lattice and couplings for the title of a figure.

    Args:
        action: of the target.

    Returns:
        A few words.

    >>> from equiflow import Lattice, Phi4
    >>> heading(Phi4(Lattice((8, 8)), m2=-4.0, lam=6.008))
    'Phi4 on 8 x 8, m2 = -4, lam = 6.008'
    """
    inner = getattr(action, "action", action)  # of a field with momenta
    sites = inner.space.sites
    where = str(inner.space) if sites is None else " x ".join(map(str, sites.shape))
    found = re.fullmatch(r"\w+\(shape=\([^)]*\), ([^()]*(?:\([^()]*\)[^()]*)*)\)", str(inner).strip())
    couplings = "" if found is None else re.sub(r"(\w)=", r"\1 = ", found[1])
    couplings = re.sub(r"(?<=\d)\.0\b", "", couplings)
    return f"{type(inner).__name__} on {where}" + (f", {couplings}" if couplings else "")


def provenance(name: str, chain: Chain, tau: Estimate | None) -> str:
    """Return where reference samples come from, for the legend of a figure.

    Args:
        name: of the sampler.
        chain: what it gave.
        tau: integrated autocorrelation time of the slowest observable that is shown; None if unknown.

    Returns:
        Number and length of the chains, acceptance, autocorrelation.
    """
    length, number = chain.samples.shape[:2]
    words = [f"{number} chains of {length}"]
    if math.isfinite(rate := chain.acceptance_rate.mean):
        words.append(f"acceptance {rate:.2f}")
    if tau is not None and math.isfinite(tau.mean):
        words.append(
            rf"$\tau_{{int}}$ = {tau}" if math.isfinite(tau.error) else rf"$\tau_{{int}}$ = {tau.mean:.2g}"
        )
    return f"{name} ({', '.join(words)})"


def name_of_correlator(measured: Measurements) -> str:
    """Return what `Measurements.decaying_correlator` is called in titles and on axes."""
    return "C(t)" if measured.z2 else "C(t), connected"


def autocorrelation(measured: Measured) -> Estimate | None:
    """Return the largest tau_int of what was measured along a chain; None if no series is behind it."""
    found = [
        Estimate(one.tau_int, math.nan if one.tau_int_error is None else one.tau_int_error)
        for one in measured.scalars().values()
        if one.tau_int is not None and math.isfinite(one.tau_int)
    ]
    return max(found, key=lambda tau: tau.mean, default=None)


def verdict(
    estimates: Mapping[str, Estimate],
    shift: float,
    warnings: Sequence[str],
    differences: Mapping[str, float] | None,
) -> tuple[bool, str]:
    """Return whether a flow can be used as it is, and one sentence that says why.

    Args:
        estimates: `reverse_ess`, `log_z`, and `forward_ess` if it is known.
        shift: change of log Z by a finer solver.
        warnings: of the diagnosis.
        differences: from the reference in joint errors, by name; None without a reference.

    Returns:
        The judgement and the sentence.
    """
    ess, log_z = estimates["reverse_ess"], estimates["log_z"]
    of_both = f" and forward {estimates['forward_ess']}" if "forward_ess" in estimates else ""
    share = f"reverse ESS {replace(ess, note='')}{of_both}"
    if warnings:
        return False, f"Not to be used as it is ({share}): {warnings[0].rstrip('.')}."
    if not abs(shift) <= max(3 * log_z.error, 1e-3):  # also if it is NaN
        return False, f"The solver is too coarse: a finer one moves log Z by {shift:+.1e} ({share})."
    worst = max((differences or {"": 0.0}).items(), key=lambda item: abs(item[1]))
    if abs(worst[1]) > MANY_SIGMAS:
        return False, f"{worst[0].capitalize()} is {abs(worst[1]):.1f} sigma from HMC ({share})."
    if not ess.mean - ess.error >= POOR:
        return False, f"Few of its samples count ({share}): train longer before results are taken from it."
    quality = "A good flow" if ess.mean >= GOOD else "A usable flow"
    agree = (
        "a mode that it has dropped would not show here, for want of samples of the target"
        if differences is None
        else f"no observable is more than {max(abs(worst[1]), 0.1):.1f} sigma from HMC"
    )
    return True, f"{quality}: {share}, log Z = {replace(log_z, note='')}; {agree}."


def differences(flow: Measured, reference: Measured) -> dict[str, float]:
    """Return how far each number is from a reference, in joint errors, where both are known.

    Args:
        flow: observables from the reweighted flow.
        reference: the same observables from another sampler.

    Returns:
        The signed differences by name.
    """
    other = reference.scalars()
    found = {name.replace("_", " "): value.sigmas_from(other[name]) for name, value in flow.scalars().items()}
    return {name: sigmas for name, sigmas in found.items() if math.isfinite(sigmas)}


def comparison_rows(flow: Measured, reference: Measured) -> list[tuple[str, ...]]:
    """Return rows `observable, flow, reference, difference in sigma` for `print_table`.

    Args:
        flow: observables from the reweighted flow.
        reference: the same observables from another sampler.

    Returns:
        One row of four texts for each observable of the flow.
    """
    other, _ = without_shared_notes(reference.scalars())  # `Report.warnings` tells them once
    return [
        (name.replace("_", " "), str(value), str(other[name]), f"{value.sigmas_from(other[name]):+.1f}")
        for name, value in flow.scalars().items()
    ]
