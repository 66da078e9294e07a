"""Random numbers of kernels: the law they are said to have, and numbers that a second computation finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from tests.support.fused import Streams, needs_numba
from tests.support.updates import generator

pytestmark = needs_numba


def drawn(n_chains: int, size: int, dtype: type, start: int = 0, seed: int = 0) -> np.ndarray:
    """Return what the kernel draws for a block, `(n_chains, 2 ceil(size / 2))`."""
    from equiflow.fused.stencil_noise import U, fill_normal
    from equiflow.fused.trajectories import seeds

    half = (size + 1) // 2
    out = np.empty(2 * half * n_chains, dtype)
    fill_normal(out, U(n_chains), U(0), U(half), U(3), *seeds(generator(seed)), U(start))
    return out.reshape(2 * half, n_chains).T


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float32, 3e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize("size", [1, 7, 12])
@pytest.mark.parametrize("start", [0, 40])
def test_numbers_are_those_of_the_formula(dtype, rounding, size, start):
    streams = Streams(generator(), 4)
    expected = streams.normal(size, torch.from_numpy(np.empty(0, dtype)).dtype, start)
    found = torch.from_numpy(drawn(4, size, dtype, start)[:, :size])
    torch.testing.assert_close(found, expected, atol=rounding, rtol=rounding)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_independent_and_normal(dtype):
    noise = drawn(64, 4000, dtype, seed=5)
    assert kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert kstest(1.02 * noise.ravel(), "norm").pvalue < 1e-3
    other = drawn(64, 4000, dtype, seed=6)
    pairs = {
        "of a pair": (noise[:, :2000], noise[:, 2000:]),
        "neighbours": (noise[:, 1:], noise[:, :-1]),
        "chains": (noise[1:], noise[:-1]),
        "updates": (noise, other),
        "moduli of a pair": (noise[:, :2000] ** 2 - 1, noise[:, 2000:] ** 2 - 1),
    }
    for name, (one, two) in pairs.items():
        product = (one * two).ravel().astype(np.float64)
        assert abs(product.mean()) < 4 * product.std() / len(product) ** 0.5, name


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float32, 4e-7), (np.float64, 3e-15)])
def test_logarithms_and_exponentials_are_exact_to_rounding(dtype, rounding):
    import numba

    from equiflow.fused.stencil_noise import exp_32, exp_64, log_32, log_64

    logarithm, exponential = (log_32, exp_32) if dtype is np.float32 else (log_64, exp_64)

    @numba.njit
    def both(x, logs, exponentials):
        for i in range(len(x)):
            logs[i], exponentials[i] = logarithm(x[i]), exponential(-x[i])

    x = np.concatenate([np.geomspace(1e-10, 80, 10_001), np.linspace(0.9, 1.1, 1001)]).astype(dtype)
    logs, exponentials = np.empty_like(x), np.empty_like(x)
    both(x, logs, exponentials)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(logs, np.log(exact), rtol=rounding, atol=1e-300)
    # The argument of the exponential is rounded relative to its size.
    np.testing.assert_allclose(exponentials, np.exp(-exact), rtol=20 * rounding)
