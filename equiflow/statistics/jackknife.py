"""Functions of averages and their errors, by leaving out one block of samples at a time.

`jackknife` is for any tensor, `jackknife_estimate` for a scalar, `jackknife_of_logs` for averages of weights
that may be too large or too small for floating point.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.statistics.estimate import Estimate
from equiflow.statistics.gamma_method import tail_factor


def jackknife(
    function: Callable[..., Tensor], *columns: Tensor, n_blocks: int = 128
) -> tuple[Tensor, Tensor]:
    """Return a function of averages and its jackknife error, `error^2 = (B - 1)/B sum_b (f_b - mean f)^2`.

    `f_b` is the function of the averages without block b of B.

    Args:
        function: takes the average of each column, `(...)`, and returns a tensor.
        columns: `(n_samples, ...)` each, in the order of sampling, so that blocks absorb autocorrelations.
        n_blocks: number of contiguous blocks (at most the number of samples).

    Returns:
        The function of the averages of all samples, and its error of the same shape.

    Raises:
        ValueError: if there are fewer than two samples or blocks, or the columns differ in length,
            or one is complex.
    """
    columns = tuple(torch.as_tensor(column) for column in columns)
    n_samples = len(columns[0])
    if n_blocks < 2:
        raise ValueError(f"jackknife needs n_blocks >= 2, got {n_blocks}.")
    if n_samples < 2 or any(len(column) != n_samples for column in columns):
        raise ValueError("jackknife needs columns of one length >= 2; got " + str([len(c) for c in columns]))
    if any(column.is_complex() for column in columns):
        raise ValueError("A column is complex; give its real and imaginary part one at a time.")
    n_blocks = min(n_blocks, n_samples)
    blocks = [torch.tensor_split(column.double(), n_blocks) for column in columns]
    totals = [column.double().sum(0) for column in columns]
    full = function(*(total / n_samples for total in totals))
    left_out = torch.stack(
        [
            function(
                *(
                    (total - block[b].sum(0)) / (n_samples - len(block[b]))
                    for total, block in zip(totals, blocks, strict=True)
                )
            )
            for b in range(n_blocks)
        ]
    )
    spread = (left_out - left_out.mean(0)).square().sum(0)
    return full, (spread * (n_blocks - 1) / n_blocks).sqrt()


def jackknife_estimate(function: Callable[..., Tensor], *columns: Tensor, n_blocks: int = 128) -> Estimate:
    """Return a scalar function of averages with its jackknife error; see `jackknife`.

    Args:
        function: takes the average of each column, `(...)`, and returns a 0-d tensor.
        columns: `(n_samples, ...)` each, in the order of sampling.
        n_blocks: number of contiguous blocks (at most the number of samples).

    Returns:
        The estimate.

    Raises:
        ValueError: if there are fewer than two samples or blocks, or the columns differ in length.
    """
    mean, error = jackknife(function, *columns, n_blocks=n_blocks)
    return Estimate(float(mean), float(error))


def jackknife_of_logs(
    function: Callable[..., Tensor], *log_columns: Tensor, n_blocks: int = 128, widen: bool = False
) -> Estimate:
    """Return a function of log-averages `log mean exp(column)` with its jackknife error.

    Weights enter by their logarithms, so none overflows.

    Args:
        function: takes the log-average of each column and returns a tensor; it must work elementwise.
        log_columns: `(n_samples,)` each, in the order of sampling; -inf is the logarithm of zero.
        n_blocks: number of contiguous blocks (at most the number of samples).
        widen: whether to widen the error for heavy tails, see `tail_factor`.

    Returns:
        The estimate. Its error is infinite if the function is infinite or undefined without one of the
        blocks, as when a single sample has a weight.

    Raises:
        ValueError: if there are fewer than two samples or blocks, a value is NaN or +inf, or all are -inf.
    """
    columns = [zero_or_finite_logs(column) for column in log_columns]
    n_samples = len(columns[0])
    if n_samples < 2 or n_blocks < 2:
        raise ValueError(f"Expected n_samples >= 2 and n_blocks >= 2, got {n_samples} and {n_blocks}.")
    n_blocks = min(n_blocks, n_samples)
    sizes = torch.tensor([len(block) for block in torch.tensor_split(columns[0], n_blocks)])
    left = (n_samples - sizes).to(columns[0]).log()
    left_out = []
    for column in columns:
        blocks = torch.stack([block.logsumexp(0) for block in torch.tensor_split(column, n_blocks)])
        others = blocks.expand(n_blocks, n_blocks).clone().fill_diagonal_(-math.inf)
        left_out.append(others.logsumexp(1) - left)
    full = function(*(column.logsumexp(0) - math.log(n_samples) for column in columns))
    values = function(*left_out)
    if not bool(values.isfinite().all()):
        return Estimate(float(full), math.inf)
    variance = (values - values.mean()).square().sum() * (n_blocks - 1) / n_blocks
    factor = float(tail_factor(values - values.mean())) if widen else 1.0
    return Estimate(float(full), factor * float(variance.sqrt()))


def zero_or_finite_logs(log_weight: Tensor) -> Tensor:
    """Return log weights in float64 without a graph, where -inf is a weight of zero.

    Raises:
        ValueError: if one is NaN, +inf or complex, or all weights are zero.
    """
    log_weight = torch.as_tensor(log_weight).detach()
    if log_weight.is_complex():
        raise ValueError("log_weight is complex; expected real numbers.")
    log_weight = log_weight.double()
    if bool((log_weight.isnan() | log_weight.isposinf()).any()):
        raise ValueError("log_weight has NaN or infinite values; expected finite ones, or -inf for zero.")
    if len(log_weight) and bool(log_weight.isneginf().all()):
        raise ValueError("log_weight is -inf everywhere: no sample has a weight. Draw others.")
    return log_weight
