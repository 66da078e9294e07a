"""The Haar measure as a prior: samples in the group, density one, noise and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from equiflow.theories.base.lattice import Lattice
from equiflow.theories.gauge.group import GaugeGroup
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.observables import plaquette
from equiflow.theories.gauge.prior import HaarPrior
from tests.support.gauge import GROUPS, every_links, rng


@given(every_links())
def test_samples_are_links_of_density_one(links):
    prior = HaarPrior(links).double()
    z = prior.rsample(3, rng())
    links.check_finite(z)
    assert torch.equal(prior.log_prob(z), torch.zeros(3, dtype=torch.float64))
    assert prior.score(z).shape == (3, *links.tangent_shape)
    assert not prior.score(z).any()
    torch.testing.assert_close(prior.colour(prior.whiten(z)), z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", GROUPS)
def test_plaquettes_of_independent_links_average_to_zero(group):
    links = Links(Lattice((3, 3)), group)
    values = plaquette(links)(HaarPrior(links).double().rsample(4000, rng()))
    assert abs(float(values.mean())) < 4 * float(values.std()) / 4000**0.5
    # (Re tr P)^2 integrates to 1/2, or to 1 where the trace is real; over N^2 and 9 plaquettes.
    second = (1.0 if group == "SU(2)" else 0.5) / links.lie.n**2 / 9
    assert float(values.square().mean()) == pytest.approx(second, rel=0.1)


def test_a_prior_is_moved_and_resized():
    links = Links(Lattice((3, 3)), "SU(3)")
    prior = HaarPrior(links, group=GaugeGroup(links, "rotations")).double()
    larger = prior.resized(Lattice((4, 6)))
    assert larger.dtype == torch.float64
    assert larger.space == Links(Lattice((4, 6)), "SU(3)")
    assert larger.group.point == "rotations"
    assert prior.float().rsample(2, rng()).dtype == torch.complex64
    with pytest.raises(TypeError, match="links must be of type Links"):
        HaarPrior(Lattice((3, 3)))
    with pytest.raises(ValueError, match="acts on links"):
        HaarPrior(links, group=GaugeGroup(Links(Lattice((4, 4)), "SU(3)")))
