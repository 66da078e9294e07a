"""Where does a flow fail? The variance of its log weights, divided among groups of operators.

Start with `explain_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.analysis.local_operators import OperatorGroups
from equiflow.runtime.checks import check_flag, check_type
from equiflow.samplers.importance import Ensemble, check_own_weights
from equiflow.samplers.samples import only_lattice_of
from equiflow.statistics import Estimate, jackknife_estimate
from equiflow.statistics.tables import ShownAsTable
from equiflow.theories.base.lattice import Lattice

#: fewest samples for each operator
SAMPLES_PER_OPERATOR = 20
#: part of the samples that count as extreme
EXTREME_PART = 0.01
#: strengths of the ridge that are tried, in units of the mean eigenvalue of the operators' covariance
RIDGES = torch.logspace(-10, 4, 29, dtype=torch.float64)
#: name of all groups in one regression
TOGETHER = "all together"


@dataclass(frozen=True, repr=False)
class WeightShares(ShownAsTable):
    """Shares of `Var(log w)` on model samples that groups of operators explain, by regression.

    A share is `1 - mean (log w - prediction)^2 / Var(log w)` on samples that the prediction was not fitted
    to. Groups overlap, so shares do not add up to one. A group that explains nothing has a share of 0 within
    its error, or slightly less. Large shares say what the vector field lacks.

    Attributes:
        variance: `Var(log w)`.
        variance_per_site: `Var(log w) / V`, which hardly depends on the size of the lattice.
        skewness: third moment of log w in units of its standard deviation; 0 for a Gaussian.
        extremes: share of the variance from the 1 % of samples with the most extreme log w; 0.085 for a
            Gaussian.
        shares: share of each group of operators, by name; the last one is that of all together.
        not_explained: `1 -` the share of all together.
        left_out: number of samples with a weight of zero, which take no part.
    """

    variance: Estimate
    variance_per_site: Estimate
    skewness: Estimate
    extremes: Estimate
    shares: Mapping[str, Estimate]
    not_explained: Estimate
    left_out: int = 0

    def _rows(self) -> dict[str, object]:
        rows: dict[str, object] = {
            "Var(log w)": self.variance,
            "Var(log w) per site": self.variance_per_site,
            "skewness of log w": self.skewness,
            "share of most extreme 1 %": self.extremes,
        }
        rows |= {f"explained by {name}": share for name, share in self.shares.items()}
        rows["not explained"] = self.not_explained
        if self.left_out:
            rows["left out, of weight zero"] = self.left_out
        return rows


@torch.no_grad()
def explain_weights(ensemble: Ensemble, *, z2: bool = False) -> WeightShares:
    """Divide the variance of log weights among groups of operators.

    For each group of operators `O_i`, `log w = c + sum_i a_i O_i + rest` is fitted to one half of the samples
    by least squares with a ridge, and evaluated on the other half, and vice versa:
    `share = 1 - mean rest^2 / Var(log w)`. The ridge is chosen by leaving out one sample at a time of the
    half that is fitted to. The groups: moments of the mean field; powers `|phi_k|^2` of the lowest three
    shells of momenta, and of all; powers of phi at a site; any function of phi at a site; neighbours,
    `(phi_x - phi_y)^2, phi_x phi_y, phi_x^2 phi_y^2, phi_x^3 phi_y`; any function of a site and the mean of
    its neighbours; the same pairs at distance two and on the diagonal; all of them together.

    A fit of k operators to n / 2 samples of noise costs up to `2 k / n` of what is not explained, so with few
    samples the share of all together is too small rather than too large.

    Import it by `from equiflow.analysis import explain_weights`.

    Args:
        ensemble: weighted samples of a model of scalar fields on a lattice, not annealed.
        z2: whether both action and flow are even in phi. Odd operators are then left out, which takes
            half as many samples.

    Returns:
        The shares with their errors. Samples with a weight of zero are left out.

    Raises:
        TypeError: if the ensemble is none, or its configurations are no scalar field on a lattice.
        ValueError: if the ensemble is annealed, has two levels or NaN weights, or fewer samples than
            `samples_to_explain`.

    References:
        Leaving out one sample: Allen, Technometrics 16 (1974) 125.

    >>> import torch
    >>> from equiflow import Ensemble
    >>> lattice = Lattice((2, 2))
    >>> phi = torch.randn(4000, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> log_weight = (9 * phi.abs()).sin().sum((1, 2))
    >>> shares = explain_weights(Ensemble(phi, log_weight, log_weight, space=lattice), z2=True).shares
    >>> shares["function of phi"].mean > 0.95, shares["powers of phi"].mean < 0.2
    (True, True)
    """
    check_type(ensemble, Ensemble, "ensemble", "Draw one by importance_sample.")
    z2 = check_flag(z2, "z2")
    check_own_weights(ensemble)
    lattice = _lattice_of(ensemble)
    given = ~ensemble.log_weight.isneginf()
    phi, log_weight = ensemble.phi[given].detach(), ensemble.log_weight[given].detach().double()
    if not bool(log_weight.isfinite().all()):
        raise ValueError("log_weight holds NaN or +inf; expected finite numbers, or -inf for no weight.")
    needed = samples_to_explain(lattice, z2=z2)
    if len(phi) < needed:
        raise ValueError(
            f"The ensemble has {len(phi)} samples with a weight; expected at least {needed}, "
            f"{SAMPLES_PER_OPERATOR} for each operator. Draw more"
            + ("." if z2 else ", or give z2=True if action and flow are both even in phi.")
        )
    deviation = log_weight - log_weight.mean()
    variance = jackknife_estimate(lambda square: square, deviation.square())
    groups = OperatorGroups.of(phi, lattice, z2=z2)
    operators = groups.evaluate(phi)
    operators[TOGETHER] = torch.cat(list(operators.values()), 1)
    shares = {name: explained_share(columns, log_weight) for name, columns in operators.items()}
    return WeightShares(
        variance=variance,
        variance_per_site=Estimate(variance.mean / lattice.volume, variance.error / lattice.volume),
        skewness=_skewness(deviation),
        extremes=_extremes(deviation),
        shares=shares,
        not_explained=Estimate(1 - shares[TOGETHER].mean, shares[TOGETHER].error),
        left_out=int((~given).sum()),
    )


def samples_to_explain(lattice: Lattice, *, z2: bool = False) -> int:
    """Return the fewest samples that `explain_weights` takes, 20 for each operator.

    Args:
        lattice: of the scalar field.
        z2: see `explain_weights`.

    Returns:
        The number of samples.
    """
    operators = OperatorGroups(lattice, 1.0, 1.0, z2).evaluate(torch.zeros(1, *lattice.shape))
    return SAMPLES_PER_OPERATOR * sum(columns.shape[1] for columns in operators.values())


def explained_share(operators: Tensor, values: Tensor) -> Estimate:
    """Estimate the share of the variance of values that a linear function of operators explains.

    See `explain_weights`, which does this for log weights.

    Args:
        operators: `(n_samples, n_operators)`, in float64.
        values: of independent samples, `(n_samples,)`, in float64.

    Returns:
        The share on samples that the function was not fitted to; 0 for values that are all equal.
    """
    rest, deviation = torch.empty_like(values), torch.empty_like(values)
    halves = slice(0, None, 2), slice(1, None, 2)
    for fitted, other in (halves, halves[::-1]):
        # Both rests are from the fitted half, so that operators without an effect have a share of exactly 0.
        deviation[other] = values[other] - values[fitted].mean()
        predicted = _predicted_deviation(operators[fitted], values[fitted], operators[other])
        rest[other] = deviation[other] - predicted
    share = jackknife_estimate(_share, rest.square(), deviation.square())
    # The jackknife holds the fits fixed. They add about what two parameters gain from n / 2 samples of noise.
    of_fits = (1 - share.mean) * 4 / len(values)
    return Estimate(share.mean, math.hypot(share.error, of_fits))


def _share(rest: Tensor, variance: Tensor) -> Tensor:
    """Return `1 - rest / variance`; 0 without a variance."""
    return torch.where(variance > 0, 1 - rest / variance, 0.0)


def _predicted_deviation(operators: Tensor, values: Tensor, others: Tensor) -> Tensor:
    """Predict `v - <v>` at other samples by least squares with a ridge r, `a = (G + r)^-1 <O v>`.

    In the basis of the eigenvectors of `G = <O O^T>` all ridges are tried at once. The best predicts each
    fitted sample best from all others: it has the least `mean (rest / (1 - h))^2`, where the leverage
    `h_i = 1 / n + O_i (G + r)^-1 O_i / n` is the part of a prediction that is due to the sample itself.
    No prediction is beyond all fitted values, or polynomials of rare fields would be far off.
    """
    columns, deviation = operators - operators.mean(0), values - values.mean()
    n = len(values)
    eigenvalues, vectors = torch.linalg.eigh(columns.T @ columns / n)
    eigenvalues = eigenvalues.clamp(min=0)[:, None]
    rotated = columns @ vectors
    ridges = RIDGES.to(eigenvalues.device) * eigenvalues.mean().clamp(min=torch.finfo().tiny)
    coefficients = (rotated.T @ deviation)[:, None] / n / (eigenvalues + ridges)
    leverage = (1 + rotated.square() @ (1 / (eigenvalues + ridges))) / n
    rest = (deviation[:, None] - rotated @ coefficients) / (1 - leverage)
    lowest, highest = float(deviation.min()), float(deviation.max())
    of_others = (deviation[:, None] - rest).clamp(lowest, highest)
    best = (deviation[:, None] - of_others).square().mean(0).argmin()
    predicted = (others - operators.mean(0)) @ (vectors @ coefficients[:, best])
    return predicted.clamp(lowest, highest)


def _skewness(deviation: Tensor) -> Estimate:
    """Estimate `<d^3> / <d^2>^(3/2)` of deviations from the mean; 0 without a variance."""

    def skewness(cube: Tensor, square: Tensor, mean: Tensor) -> Tensor:
        variance = square - mean.square()
        third = cube - 3 * mean * square + 2 * mean**3
        return torch.where(variance > 0, third / variance.clamp(min=0) ** 1.5, 0.0)

    return jackknife_estimate(skewness, deviation**3, deviation.square(), deviation)


def _extremes(deviation: Tensor) -> Estimate:
    """Estimate the share of the variance from the samples farthest from the mean.

    With d the deviation and c the quantile of `d^2` beyond which a part p of the samples lies, it is
    `(p c + <max(d^2 - c, 0)>) / <d^2>`, in which c may be held fixed as its derivative vanishes.
    """
    square = deviation.square()
    beyond = square.kthvalue(max(1, round((1 - EXTREME_PART) * len(square)))).values
    excess = EXTREME_PART * beyond + (square - beyond).clamp(min=0)
    return jackknife_estimate(lambda a, b: torch.where(b > 0, a / b, 0.0), excess, square)


def _lattice_of(ensemble: Ensemble) -> Lattice:
    """Return the lattice of scalar configurations; raise if they are anything else."""
    space = only_lattice_of(ensemble.phi) if ensemble.space is None else ensemble.space
    if not isinstance(space, Lattice):
        raise TypeError(
            f"The samples live on {space}; expected scalar fields on a Lattice, whose operators are known."
        )
    if ensemble.configuration_shape != space.shape:
        raise ValueError(
            f"The configurations have shape {ensemble.configuration_shape}, expected those of {space}."
        )
    return space
