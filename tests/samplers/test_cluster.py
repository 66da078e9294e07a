"""Cluster updates: the right clusters, the right weights of the signs, and tunnelling between the wells."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from equiflow import HMC, Alternate, Lattice, Phi4, SwendsenWang, Wolff, fused
from equiflow.oracles import z2_balance
from equiflow.samplers.cluster import ClusterUpdate, bonds, clusters
from tests.support.strategies import lattices, seeds
from tests.support.updates import bonds_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flooded(bound: Tensor) -> list[set[int]]:
    """Find the clusters of one configuration by walking along the bonds."""
    dim, *shape = bound.shape
    site = torch.arange(bound[0].numel()).reshape(shape)
    links = []
    for mu in range(dim):
        ends = zip(site[bound[mu]].tolist(), site.roll(-1, mu)[bound[mu]].tolist(), strict=True)
        links += list(ends)
    found, left = [], set(range(site.numel()))
    while left:
        cluster, front = set(), {min(left)}
        while front:
            cluster |= front
            front = {b for pair in links for a, b in (pair, pair[::-1]) if a in front} - cluster
        found.append(cluster)
        left -= cluster
    return found


@given(lattices(max_volume=30), seeds, st.floats(0.0, 1.0))
def test_clusters_are_those_that_a_walk_finds(lattice, seed, fraction):
    bound = torch.rand(3, lattice.dim, *lattice.shape, generator=generator(seed)) < fraction
    labels = clusters(bound)
    for one, its_bonds in zip(labels.tolist(), bound, strict=True):
        together = {label: {x for x, other in enumerate(one) if other == label} for label in one}
        assert sorted(map(sorted, together.values())) == sorted(map(sorted, flooded(its_bonds)))
    chains = [set(one.tolist()) for one in labels]
    assert not chains[0] & chains[1]


def test_only_equal_neighbours_are_bound_and_as_often_as_they_should_be():
    phi = torch.tensor([0.6, 0.7, -0.3, -0.9]).expand(100_000, 4)
    fraction = bonds(phi, generator())[:, 0].double().mean(0)
    # The links 0-1 and 2-3 join equal signs; exp(-S) falls by exp(-4 phi phi') if one of them flips.
    expected = 1 - (-4 * torch.tensor([0.42, 0.0, 0.27, 0.0])).exp()
    torch.testing.assert_close(fraction, expected, atol=6e-3, rtol=0)


ACTION = Phi4(Lattice((2, 3)), m2=-1.0, lam=0.5)  # the side of 2 has two links between two sites
MODULI = torch.tensor([[0.5, 0.9, 0.4], [0.7, 0.3, 0.6]])


def sign_pvalue(kernel: ClusterUpdate, n: int = 20_000, updates: int = 6) -> float:
    """Return the chi-square p-value of the signs at fixed moduli against `exp(-S)`, after updates."""
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=6))).reshape(-1, 2, 3)
    expected, source = (-ACTION(signs * MODULI)).softmax(0) * n, generator(1)
    phi = signs[torch.multinomial(expected, n, replacement=True, generator=source)] * MODULI
    for _ in range(updates):
        phi, outcome = kernel.update(phi, source)
    assert bool((outcome.accepted == 1).all())
    assert torch.equal(phi.abs(), MODULI.expand(n, 2, 3))
    code = ((phi < 0).flatten(1) * 2 ** torch.arange(5, -1, -1)).sum(1)
    observed = torch.bincount(code, minlength=64).double()
    return chisquare(observed.numpy(), expected.numpy()).pvalue


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "eager"])
@pytest.mark.parametrize("kernel", [SwendsenWang, Wolff])
def test_signs_at_fixed_moduli_have_their_ising_weights(kernel, is_fused):
    with fused.switched(is_fused):
        assert sign_pvalue(kernel(ACTION)) > 1e-3


@pytest.mark.parametrize("kernel", [SwendsenWang, Wolff])
@pytest.mark.parametrize("factor", [2.0, 8.0])
def test_signs_of_a_wrong_bond_probability_do_not(kernel, factor, monkeypatch):
    monkeypatch.setattr("equiflow.samplers.cluster.bonds", bonds_of(factor))
    with fused.switched(False):
        assert sign_pvalue(kernel(ACTION)) < 1e-6


@pytest.mark.parametrize(
    ("make", "tunnels"),
    [
        (HMC, False),
        (lambda action: Alternate(HMC(action), SwendsenWang(action)), True),
        (lambda action: Alternate(HMC(action), Wolff(action)), True),
    ],
    ids=["HMC", "Swendsen-Wang", "Wolff"],
)
def test_clusters_tunnel_where_hmc_does_not(make: Callable, tunnels: bool):
    broken = Phi4(Lattice((5, 5)), m2=-4.0, lam=2.0)
    start = torch.ones(32, 5, 5)
    chain = make(broken).sample(20, n_chains=32, n_thermalisation=20, initial=start, generator=generator())
    balance = z2_balance(chain)
    assert (abs(balance.sigmas) < 4) == tunnels
    assert (balance.positive.mean == 1.0) == (not tunnels)
