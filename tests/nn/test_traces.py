"""Estimates of traces are unbiased, and exact traces take as few products as the reach allows."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equiflow import Lattice
from equiflow.nn.traces import dense_trace, far_apart, hutch_plus_plus, hutchinson
from tests.support.unbiased import chi2, generator

CHI2_OF_8 = 26.1  # exceeded with probability 1e-3


def signs(*shape: int, seed: int = 0) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator(seed)) - 1


def product_of(jacobian: Tensor):
    """Return `w -> J^T w` of one matrix for the whole batch."""
    return lambda w: (w.flatten(1) @ jacobian).view_as(w)


def units(batch: int, volume: int) -> Tensor:
    return far_apart((volume,)).double().unsqueeze(1).expand(-1, batch, volume)


def matrices(n: int = 8, volume: int = 6) -> Tensor:
    return torch.randn(n, volume, volume, generator=generator(1))


ESTIMATORS = {
    "hutchinson": lambda J, seed: hutchinson(product_of(J), signs(2, 4000, 6, seed=seed)),
    "hutch++": lambda J, seed: hutch_plus_plus(product_of(J), signs(4, 4000, 6, seed=seed)),
    # Planted: uniform probes, whose square is 1/3 on average, corrected by 2.9.
    "biased": lambda J, seed: hutchinson(
        product_of(J), 2.9**0.5 * (2 * torch.rand(2, 4000, 6, generator=generator(seed)) - 1)
    ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_are_unbiased_and_a_bias_is_seen(name):
    estimates = [ESTIMATORS[name](J + 3, seed) for seed, J in enumerate(matrices())]
    exact = matrices().add(3).diagonal(dim1=1, dim2=2).sum(1)
    found = chi2(torch.stack(estimates, 1), exact)
    assert found > CHI2_OF_8 if name == "biased" else found < CHI2_OF_8


def test_the_dense_trace_is_the_trace_and_hutchinson_s_variance_is_known():
    J = matrices()[0]
    trace = dense_trace(product_of(J), units(2, 6))
    torch.testing.assert_close(trace, J.trace().expand(2))
    estimates = hutchinson(product_of(J), signs(1, 20_000, 6))
    off_diagonal = (J + J.mT).square().sum() - (2 * J.diagonal()).square().sum()
    torch.testing.assert_close(estimates.var(), off_diagonal / 2, rtol=0.05, atol=0)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 4)), min_size=1, max_size=3))
def test_sets_of_sites_are_far_apart_and_few(axes):
    shape, reach = zip(*axes, strict=True)
    sets = far_apart(shape, reach)
    assert sets.sum(0).eq(1).all()
    sites = sets.flatten(1)
    lattice = Lattice(shape)
    offsets = torch.tensor(list(itertools.product(*map(range, shape))))[lattice.differences()]
    sides = torch.tensor(shape)
    near = (torch.minimum(offsets, sides - offsets) <= torch.tensor(reach)).all(-1).fill_diagonal_(False)
    assert not torch.einsum("sx,sy->xy", sites.double(), sites.double())[near].any()
    # What an interval of reach + 1 sites needs, and no more where such intervals fill the axis.
    fewest = math.prod(min(side, far + 1) for side, far in axes)
    assert len(sets) == fewest or any(side % (far + 1) for side, far in axes)
    assert len(sets) <= math.prod(min(side, 2 * far + 1) for side, far in axes)
    assert len(far_apart(shape)) == lattice.volume


def test_hutch_plus_plus_is_exact_at_low_rank_and_better_at_equal_cost_where_the_spectrum_decays():
    left, right = torch.randn(2, 12, 2, generator=generator())
    low = left @ right.mT
    estimates = hutch_plus_plus(product_of(low), signs(4, 50, 12))
    torch.testing.assert_close(estimates, low.trace().expand(50), rtol=1e-10, atol=1e-10)
    assert hutch_plus_plus(product_of(low), signs(2, 50, 12)).var() > 1e-3  # one column is too few
    decaying = low + 0.01 * torch.randn(12, 12, generator=generator(2))
    better = hutch_plus_plus(product_of(decaying), signs(4, 2000, 12)).var()
    assert 30 * better < hutchinson(product_of(decaying), signs(6, 2000, 12)).var()


def test_gradients_of_hutch_plus_plus_are_unbiased_though_q_is_held_fixed():
    first, second = matrices(2)

    def gradients(estimate) -> Tensor:
        theta = torch.full((4000,), 0.7, requires_grad=True)

        def product(w: Tensor) -> Tensor:
            return w @ first + theta[:, None].square() * (w @ second)

        return torch.autograd.grad(estimate(product).sum(), theta)[0]

    found = gradients(lambda product: hutch_plus_plus(product, signs(4, 4000, 6)))
    exact = gradients(lambda product: dense_trace(product, units(4000, 6)))
    assert chi2(found[:, None], exact[:1]) < 10.8
