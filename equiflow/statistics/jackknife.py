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
from equiflow.statistics.inputs import (
    AT_LEAST_ONE,
    check_function,
    checked_blocks,
    real_numbers,
    zero_or_finite_logs,
)


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
        The function of the averages of all samples, and its error of the same shape. Values that are NaN
        make both NaN.

    Raises:
        TypeError: if `function` is no function, `n_blocks` no integer, or a column holds no numbers.
        ValueError: if there are fewer than two samples or blocks, or the columns differ in length,
            or one is complex.
    """
    check_function(function, "the average of each column")
    n_blocks = checked_blocks(n_blocks)
    columns = tuple(
        real_numbers(column, f"column {k}", dims=AT_LEAST_ONE, shape="(n_samples, ...)")
        for k, column in enumerate(columns)
    )
    n_samples = min((len(column) for column in columns), default=0)
    if n_samples < 2 or any(len(column) != n_samples for column in columns):
        raise ValueError(
            f"jackknife needs columns of one length >= 2; got {[len(c) for c in columns]}. Give one column, "
            "(n_samples, ...), for each average that the function takes."
        )
    n_blocks = min(n_blocks, n_samples)
    blocks = [torch.tensor_split(column, n_blocks) for column in columns]
    totals = [column.sum(0) for column in columns]
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
        TypeError: see `jackknife`.
        ValueError: see `jackknife`; also if the function returns several numbers.
    """
    mean, error = jackknife(function, *columns, n_blocks=n_blocks)
    if mean.numel() != 1:
        raise ValueError(
            f"function must return one number, 0-d; got shape {tuple(mean.shape)}. For several numbers use "
            "jackknife."
        )
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
        TypeError: if `function` is no function, `n_blocks` no integer, or a column holds no numbers.
        ValueError: if there are fewer than two samples or blocks, the columns differ in length, a value is
            NaN or +inf, or all are -inf.
    """
    check_function(function, "the log-average of each column")
    n_blocks = checked_blocks(n_blocks)
    columns = [zero_or_finite_logs(column, minimum=2) for column in log_columns]
    if len({len(column) for column in columns}) != 1:
        raise ValueError(
            f"Expected columns of one length, (n_samples,) each; got {[len(c) for c in columns]}."
        )
    n_samples = len(columns[0])
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
    if not isinstance(values, Tensor) or values.shape != left_out[0].shape:
        raise ValueError(
            f"function must return one number for each log-average, elementwise; got {values!r} for a tensor "
            f"of shape {tuple(left_out[0].shape)}."
        )
    if not bool(values.isfinite().all()):
        return Estimate(float(full), math.inf)
    variance = (values - values.mean()).square().sum() * (n_blocks - 1) / n_blocks
    factor = float(tail_factor(values - values.mean())) if widen else 1.0
    return Estimate(float(full), factor * float(variance.sqrt()))
