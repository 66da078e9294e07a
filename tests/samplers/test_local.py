"""Local updates: colours, changes of the action, and the actions that they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from equiflow import Lattice, LocalMetropolis, Phi4, SwendsenWang, Wolff
from equiflow.samplers.local import colours
from tests.support.strategies import configurations, lattices, seeds
from tests.support.updates import CHAIN


@given(lattices(max_volume=48))
def test_no_neighbours_share_a_colour(lattice):
    colour = colours(lattice)
    assert int(colour.max()) < 3
    for axis, side in enumerate(lattice.shape):
        assert side == 1 or bool((colour != colour.roll(1, axis)).all())


@given(lattices(max_volume=30), seeds)
def test_the_change_of_a_site_is_that_of_the_action(lattice, seed):
    action = Phi4(lattice, m2=-1.3, lam=0.7)
    phi, proposal = configurations(lattice, 2, seed), configurations(lattice, 2, seed + 1)
    change = LocalMetropolis(action)._change(phi, proposal)
    site = (slice(None), *(seed % side for side in lattice.shape))
    moved = phi.clone()
    moved[site] = proposal[site]
    torch.testing.assert_close(change[site], action(moved) - action(phi), atol=1e-10, rtol=1e-10)


class Doubled(Phi4):
    def forward(self, phi: Tensor) -> Tensor:
        return 2 * super().forward(phi)


@pytest.mark.parametrize("kernel", [SwendsenWang, Wolff, LocalMetropolis])
def test_what_is_made_for_phi4_refuses_other_actions(kernel):
    with pytest.raises(TypeError, match="changes the action of Phi4"):
        kernel(Doubled(Lattice((3,)), m2=1.0, lam=1.0))


@pytest.mark.parametrize("options", [{"width": 0.0}, {"width": math.nan}, {"target_acceptance": 1.0}])
def test_bad_widths_are_refused(options):
    with pytest.raises(ValueError, match="width"):
        LocalMetropolis(CHAIN, **options)
