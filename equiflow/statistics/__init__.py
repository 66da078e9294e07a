"""Estimates with errors: means of chains, functions of means, effective sample sizes and log Z.

Every result is an `Estimate`. Start with `mean_of_series` for a Markov chain, `jackknife_estimate` for a
function of means, `effective_sample_size` and `log_mean_exp` for weighted samples.
"""

from equiflow.statistics.estimate import Estimate, noted
from equiflow.statistics.gamma_method import SeriesErrors, error_of_fluctuations, tail_factor
from equiflow.statistics.jackknife import jackknife, jackknife_estimate, jackknife_of_logs
from equiflow.statistics.reweighting import (
    MIN_EFFECTIVE_SAMPLES,
    LowEffectiveSampleSizeWarning,
    error_of_weighted_fluctuations,
    few_effective_samples,
    heavy_weights_factor,
    normalised_weights,
    warn_if_few_effective_samples,
    weighted_mean,
)
from equiflow.statistics.series import (
    block_count,
    estimate_of_series,
    integrated_autocorrelation_time,
    mean_of_series,
)
from equiflow.statistics.tails import heavy_tails, pareto_shape
from equiflow.statistics.weights import (
    bridge_log_z,
    effective_sample_size,
    forward_effective_sample_size,
    log_mean_exp,
)

__all__ = [
    "MIN_EFFECTIVE_SAMPLES",
    "Estimate",
    "LowEffectiveSampleSizeWarning",
    "SeriesErrors",
    "block_count",
    "bridge_log_z",
    "effective_sample_size",
    "error_of_fluctuations",
    "error_of_weighted_fluctuations",
    "estimate_of_series",
    "few_effective_samples",
    "forward_effective_sample_size",
    "heavy_tails",
    "heavy_weights_factor",
    "integrated_autocorrelation_time",
    "jackknife",
    "jackknife_estimate",
    "jackknife_of_logs",
    "log_mean_exp",
    "mean_of_series",
    "normalised_weights",
    "noted",
    "pareto_shape",
    "tail_factor",
    "warn_if_few_effective_samples",
    "weighted_mean",
]
