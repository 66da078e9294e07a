"""Markov chains: errors that include autocorrelations, by the Gamma method (hep-lat/0306017).

Start with `mean_of_series`, or with `estimate_of_series` for a function of means. Both rest on
`error_of_fluctuations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.statistics.estimate import Estimate
from equiflow.statistics.gamma_method import MIN_CHAIN_LENGTH, error_of_fluctuations
from equiflow.statistics.inputs import check_function, real_numbers


def integrated_autocorrelation_time(series: Tensor) -> Estimate:
    """Return `tau_int = 1/2 + sum_t rho(t)` by the Gamma method with automatic window (hep-lat/0306017).

    Args:
        series: `(n,)`, or `(n, n_chains)` for independent chains of the same process.

    Returns:
        The time in units of the steps of the series, with its error; infinite for a constant series.

    Raises:
        ValueError: if the series is too short, or has NaN or infinite values.
    """
    values = _as_chains(series)
    errors = error_of_fluctuations((values - values.mean())[..., None], scale=values.abs().max())
    return Estimate(float(errors.tau), float(errors.tau_error), note=errors.note())


def mean_of_series(series: Tensor) -> Estimate:
    """Return the mean of a Markov chain with its autocorrelation in the error, `error^2 = 2 tau_int var / N`.

    The note of the estimate says if the series is shorter than 50 tau_int. A slow part that is hidden below a
    fast one stays unseen in less than about 50 of its own autocorrelation times; nothing can say so.

    Args:
        series: `(n,)` or `(n, n_chains)`.

    Returns:
        The estimate, with `tau_int` in units of the steps of the series.

    Raises:
        ValueError: if the series is too short, or has NaN or infinite values.
    """
    return estimate_of_series(lambda mean: mean, series)


def estimate_of_series(function: Callable[..., Tensor], *series: Tensor) -> Estimate:
    """Return a function of the means of series, with its error by linear propagation and the Gamma method.

    The fluctuations `sum_i df/da_i (a_i - <a_i>)` are a series with its own autocorrelation
    (hep-lat/0306017, section 3), so no block length has to be chosen.

    Args:
        function: takes the mean of each series, 0-d tensors, and returns a 0-d tensor; it must be
            differentiable.
        series: measurements on the same configurations, `(n,)` or `(n, n_chains)` each.

    Returns:
        The estimate, with `tau_int` in units of the steps of the series.

    Raises:
        TypeError: if `function` is no function, or a series holds no numbers.
        ValueError: if a series is too short, or has NaN or infinite values, or the series differ in shape.
            Also if the function returns no number that can be differentiated.

    >>> magnetisation = torch.tensor([1.0, -1.0, 2.0, -2.0])
    >>> estimate_of_series(lambda m2, m4: 1 - m4 / (3 * m2**2), magnetisation**2, magnetisation**4).mean
    0.5466666666666666
    """
    check_function(function, "the mean of each series")
    chains = [_as_chains(one) for one in series]
    if len({one.shape for one in chains}) != 1:
        raise ValueError(
            "Expected one or more series, measured on the same configurations, of one shape; got shapes "
            f"{[tuple(one.shape) for one in chains]}."
        )
    columns = torch.stack(chains, -1)
    means = columns.mean((0, 1))
    with torch.inference_mode(False), torch.enable_grad():
        leaf = means.clone().requires_grad_()
        value = function(*leaf.unbind())
        if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
            raise ValueError(
                "function must return one number, a 0-d tensor computed from the means by torch operations; "
                f"got {value!r}."
            )
        (slopes,) = torch.autograd.grad(value, leaf)
    means = means.detach()
    fluctuations = ((columns - means) @ slopes)[..., None]
    scale = (slopes.abs() * columns.abs().amax((0, 1))).sum()
    return error_of_fluctuations(fluctuations, scale=scale).estimate(0, float(value.detach()))


def block_count(series: Tensor, *, max_blocks: int = 128) -> int:
    """Return how many jackknife blocks of equal length absorb the autocorrelation of a series.

    Blocks that are too short make the error too small, by a fraction `tau_int / length`; too few blocks make
    it noisy. The length `(4 tau_int^2 N)^(1/3)` balances both. It is at least `10 tau_int`, and at most the
    length of a chain.

    Args:
        series: `(n,)` or `(n, n_chains)`.
        max_blocks: largest number of blocks.

    Returns:
        Number of blocks for the chains laid end to end. It is a multiple of the number of chains if a chain
        is longer than one block.

    Raises:
        ValueError: if the series is too short, or has NaN or infinite values.
    """
    values = _as_chains(series)
    n, n_chains = values.shape
    tau = integrated_autocorrelation_time(values).mean
    if math.isinf(tau):
        return max(2, min(n_chains, max_blocks))
    length = max((4 * tau**2 * n * n_chains) ** (1 / 3), 10 * tau)
    per_chain = max(1, int(n / length))
    limit = max_blocks - max_blocks % n_chains if n_chains <= max_blocks else max_blocks
    return max(2, min(per_chain * n_chains, limit))


def _as_chains(series: Tensor) -> Tensor:
    """Return the series in float64 as `(n, n_chains)`, or raise."""
    values = real_numbers(series, "The series", dims=(0, 1, 2, 3), shape="(n,) or (n, n_chains)")
    shape = tuple(values.shape)
    values = values[:, None] if values.dim() == 1 else values
    if values.dim() != 2 or (len(values) < MIN_CHAIN_LENGTH and values.shape[1] < 2) or not values.numel():
        raise ValueError(
            f"A series must be (n,) or (n, n_chains) with n >= {MIN_CHAIN_LENGTH}, or several chains; "
            f"got shape {shape}."
        )
    if not bool(values.isfinite().all()):
        raise ValueError("The series has NaN or infinite values; expected finite ones.")
    return values
