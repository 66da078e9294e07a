"""The spectrum of a prior on another lattice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.priors import FreeField, StandardNormal
from tests.support.resizing import (
    Pair,
    common_momenta_violation,
    log_ratio,
    pairs,
    priors_to_resize,
    random_prior,
    spectrum,
)
from tests.support.strategies import POINT_GROUPS, configurations, lattices, seeds

priors_and_pairs = pairs().flatmap(lambda pair: st.tuples(st.just(pair), priors_to_resize(pair)))


@settings(max_examples=60)
@given(priors_and_pairs)
def test_spectra_agree_at_every_momentum_that_both_lattices_have(case):
    pair, prior = case
    resized = prior.resized(pair.target)
    violation = common_momenta_violation(pair.source, spectrum(prior), pair.target, spectrum(resized))
    assert violation < 1e-13
    assert (resized.m2, resized.group) == (prior.m2, prior.group.on(pair.target))


@settings(max_examples=60)
@given(pairs(), st.sampled_from(POINT_GROUPS), seeds)
def test_the_interpolated_ratio_stays_between_the_extremes_of_the_source(pair, point, seed):
    prior = random_prior(SymmetryGroup(pair.source, point), seed)
    old, new = log_ratio(prior), log_ratio(prior.resized(pair.target))
    assert float(old.min()) - 1e-13 <= float(new.min())
    assert float(new.max()) <= float(old.max()) + 1e-13


@settings(max_examples=40)
@given(lattices(max_dim=3, max_volume=27), st.lists(st.integers(1, 3), min_size=3, max_size=3), st.data())
def test_the_spectrum_comes_back_from_a_multiple_of_the_lattice(lattice, factors, data):
    multiple = Lattice(tuple(n * side for n, side in zip(factors, lattice.shape, strict=False)))
    pair = Pair((1,) * lattice.dim, lattice, multiple)
    prior = data.draw(priors_to_resize(pair))
    back = prior.resized(multiple).resized(lattice)
    torch.testing.assert_close(back.log_sigma, prior.log_sigma, rtol=0, atol=1e-13)


@given(pairs(), st.sampled_from(POINT_GROUPS), st.floats(0.2, 3.0))
def test_a_free_field_that_has_learned_nothing_is_the_free_field_of_its_new_lattice(pair, point, m2):
    group = SymmetryGroup(pair.source, point)
    resized = FreeField(pair.source, m2=m2, group=group).double().resized(pair.target)
    free = FreeField(pair.target, m2=m2, group=group.on(pair.target)).double()
    torch.testing.assert_close(resized.log_sigma, free.log_sigma, rtol=0, atol=1e-14)


@pytest.mark.parametrize("z2", [True, False])
def test_a_standard_normal_stays_one(z2):
    group = SymmetryGroup(Lattice((4, 4)), "rotations", z2)
    prior = StandardNormal(group.lattice, group=group).resized(Lattice((3, 5)))
    z = configurations(prior.lattice)
    assert prior.group == group.on(prior.lattice)
    torch.testing.assert_close(prior.log_prob(z), StandardNormal(prior.lattice).log_prob(z))
