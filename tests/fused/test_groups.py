"""Vectors of groups repeat, load and sum what stands side by side."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from equiflow.fused.groups import add_over_group, add_over_sites, load_for_all, spread_group
from equiflow.fused.just_in_time import jit
from equiflow.fused.vectors import BYTES, load, store

DTYPES = [np.float32, np.float64]


@jit
def kernel(values, together, repeated, of_sites, by_site, by_configuration):
    store(spread_group(values, 1, together), repeated, 0)
    store(load_for_all(values, 1, together), of_sites, 0)
    add_over_group(load(values, 1), by_site, 1, together)
    add_over_sites(load(values, 1), by_configuration, 1, together)


@pytest.mark.parametrize("dtype", DTYPES)
def test_groups_are_what_numpy_makes_of_them(dtype):
    lanes = BYTES // np.dtype(dtype).itemsize
    values = np.random.default_rng(0).normal(size=lanes + 1).astype(dtype)
    for together in (1, 4, lanes):
        sites = lanes // together
        repeated, of_sites = np.empty(lanes, dtype), np.empty(lanes, dtype)
        by_site, by_configuration = np.ones(sites + 2, dtype), np.ones(together + 2)
        kernel(values, together, repeated, of_sites, by_site, by_configuration)
        np.testing.assert_array_equal(repeated, np.tile(values[1 : together + 1], sites))
        np.testing.assert_array_equal(of_sites, np.repeat(values[1 : sites + 1], together))
        table, rounding = values[1:].reshape(sites, together), 20 * np.finfo(dtype).eps
        np.testing.assert_allclose(by_site[1:-1], 1 + table.sum(1), atol=rounding)
        np.testing.assert_allclose(by_configuration[1:-1], 1 + table.sum(0), atol=rounding)
        for sums in (by_site, by_configuration):  # nothing is added to neighbours
            assert sums[0] == sums[-1] == 1
