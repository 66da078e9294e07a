"""Fused local and cluster updates are the eager ones with the same random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from equiflow import LocalMetropolis, Phi4, SwendsenWang, Wolff, fused
from equiflow.samplers.cluster import ClusterUpdate, clusters
from tests.support.fused import ACTIONS, Streams, needs_numba
from tests.support.strategies import configurations
from tests.support.updates import generator

pytestmark = needs_numba
SCALARS = [name for name, action in ACTIONS.items() if isinstance(action, Phi4)]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def uniform(streams: Streams, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return two uniform numbers of each of n places, `(n_chains, n)`."""
    if dtype == torch.float64:
        first, second = streams.uniform(0, 2 * n).unflatten(1, (n, 2)).unbind(-1)
        return first, second
    bits = streams.bits(0, 2 * n)[:, ::2]
    parts = (bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF))
    high, low = (torch.from_numpy(part.astype(np.float32) * np.float32(2.0**-32)) for part in parts)
    return high, low


@DTYPES
@pytest.mark.parametrize("name", SCALARS)
def test_a_fused_sweep_is_the_eager_one(name, dtype, monkeypatch):
    action = ACTIONS[name]
    kernel, n_chains = LocalMetropolis(action, width=0.9), 21
    phi = 0.5 * configurations(action.space, n_chains, dtype=dtype)
    new, outcome = kernel.update(phi, generator(3))
    step, accept = uniform(Streams(generator(3), n_chains), action.lattice.volume, dtype)
    n_colours = int(kernel._colours.max()) + 1
    drawn = iter([numbers.reshape(phi.shape) for _ in range(n_colours) for numbers in (step, accept)])
    monkeypatch.setattr("equiflow.samplers.local.torch.rand", lambda *_, **__: next(drawn))
    with fused.switched(False):
        expected, eager = kernel.update(phi)
    rounding = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(new, expected, atol=rounding, rtol=rounding)
    torch.testing.assert_close(outcome.accepted, eager.accepted, atol=1e-12, rtol=0)
    torch.testing.assert_close(outcome.probability, eager.probability, atol=rounding, rtol=0)
    assert not torch.equal(new, phi)


@DTYPES
@pytest.mark.parametrize("kernel", [Wolff, SwendsenWang])
@pytest.mark.parametrize("name", SCALARS)
def test_fused_clusters_are_those_of_the_same_bonds(name, kernel, dtype):
    action, n_chains = ACTIONS[name], 40
    dim, volume = action.lattice.dim, action.lattice.volume
    phi = 0.8 * configurations(action.space, n_chains, dtype=dtype)
    new, outcome = kernel(action).update(phi, generator(3))
    streams = Streams(generator(3), n_chains)
    numbers = streams.uniform(0, dim * volume).reshape(n_chains, dim, *action.lattice.shape)
    products = torch.stack([phi * phi.roll(-1, mu) for mu in range(1, dim + 1)], 1).double()
    labels = clusters(numbers < 1 - (-4 * products.clamp(min=0)).exp())
    after = streams.uniform(dim * volume, volume)
    if kernel is Wolff:
        flipped = labels == labels.gather(1, (after[:, :1] * volume).long())
    else:
        first = (labels[:, :, None] == labels[:, None, :]).to(torch.uint8).argmax(2)
        flipped = after.gather(1, first) < 0.5
    assert torch.equal(new, torch.where(flipped.reshape(phi.shape), -phi, phi))
    assert bool((outcome.accepted == 1).all())
    assert 0 < float(flipped.double().mean()) <= 1


def test_a_choice_of_ones_own_is_asked_for():
    class Never(Wolff):
        def flips(self, labels, generator):
            return torch.zeros_like(labels, dtype=torch.bool)

    class All(ClusterUpdate):
        def flips(self, labels, generator):
            return torch.ones_like(labels, dtype=torch.bool)

    action = ACTIONS["2d"]
    phi = configurations(action.space)
    assert torch.equal(Never(action).update(phi, generator())[0], phi)
    assert torch.equal(All(action).update(phi, generator())[0], -phi)


@pytest.mark.parametrize("kernel", [Wolff, SwendsenWang, LocalMetropolis])
def test_fields_of_another_shape_are_refused(kernel):
    with pytest.raises(ValueError, match="expected"):
        kernel(ACTIONS["2d"]).update(torch.zeros(2, 6, 4), generator())


def test_a_field_beyond_the_range_of_numbers_does_not_move():
    action = ACTIONS["2d"]
    phi = configurations(action.space, 3)
    phi[1] = torch.nan
    new, outcome = LocalMetropolis(action).update(phi, generator())
    assert bool(new[1].isnan().all())
    assert outcome.accepted[1] == 0
    assert bool(new[[0, 2]].isfinite().all())
