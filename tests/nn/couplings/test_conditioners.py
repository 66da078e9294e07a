"""Networks that read the frozen sites: periodic, and odd or even as claimed."""

from __future__ import annotations

import pytest
import torch

from equiflow.nn.couplings.conditioners import ParityCNN, PeriodicCNN
from equiflow.testing import randomise
from equiflow.theories.base.lattice import Lattice
from tests.support.coupling_flows import (
    EXACT,
    largest,
)
from tests.support.strategies import configurations


@pytest.mark.parametrize("network", [PeriodicCNN, ParityCNN])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 3)])
def test_networks_are_periodic(network, shape):
    net = network(Lattice(shape), n_even=2, n_odd=3, hidden_channels=(3, 2), kernel_size=3)
    randomise(net)
    phi = configurations(net_lattice := Lattice(shape))
    even, odd = net(phi)
    assert even.shape == (3, 2, *shape)
    assert odd.shape == (3, 3, *shape)
    for axis in net_lattice.axes:
        for there, here in zip(net(phi.roll(1, axis)), (even, odd), strict=True):
            torch.testing.assert_close(there, here.roll(1, axis), rtol=EXACT, atol=EXACT)
    mirrored = net(-phi)
    as_claimed = max(largest(mirrored[0] - even), largest(mirrored[1] + odd))
    assert as_claimed < EXACT if network is ParityCNN else as_claimed > 1e-2
