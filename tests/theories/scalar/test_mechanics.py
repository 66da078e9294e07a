"""Potentials of mechanics: their gradients, their known modes, and the volume of a ring."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import HarmonicChain, Lattice, RingPotential
from equiflow.oracles import normal_modes
from tests.support.strategies import configurations

PLANE = Lattice((2,))
CHAINS = [
    HarmonicChain(Lattice((n,)), ends=ends, pinning=pinning)
    for n in (1, 2, 5, 6)
    for ends, pinning in (("fixed", 0.0), ("fixed", 0.3), ("periodic", 0.3))
]
chains = pytest.mark.parametrize("chain", CHAINS, ids=str)


@pytest.mark.parametrize(
    "potential", [*CHAINS, RingPotential(PLANE), RingPotential(PLANE, radius=1.0, width=2.0)]
)
def test_the_gradient_is_that_of_the_energy(potential):
    q = configurations(potential.space)
    leaf = q.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(potential(leaf).sum(), leaf)
    torch.testing.assert_close(potential.grad(q), gradient)


@chains
def test_modes_diagonalise_the_hessian(chain):
    n = chain.lattice.volume
    found = normal_modes(chain, torch.zeros(n))
    torch.testing.assert_close(found.frequencies, chain.frequencies())
    modes = chain.modes()
    torch.testing.assert_close(modes @ modes.T, torch.eye(n, dtype=torch.float64))
    hessian = found.patterns.T @ found.frequencies.square().diag() @ found.patterns
    torch.testing.assert_close(modes @ hessian @ modes.T, chain.frequencies().square().diag())


def test_frequencies_of_fixed_ends_are_those_of_the_textbook():
    k = torch.arange(1, 33, dtype=torch.float64)
    chain = HarmonicChain(Lattice((32,)))
    torch.testing.assert_close(chain.frequencies(), 2 * (k * math.pi / 66).sin())
    assert not torch.allclose(HarmonicChain(Lattice((32,)), pinning=0.1).frequencies(), chain.frequencies())


def test_the_volume_of_a_ring():
    for radius, width, beta in ((2.0, 0.4, 1.0), (0.5, 1.0, 3.0)):
        ring = RingPotential(PLANE, radius=radius, width=width)
        line = torch.linspace(-9, 9, 1801, dtype=torch.float64)
        q = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
        z = float((-beta * ring(q)).exp().sum()) * 0.01**2
        assert ring.log_z(beta) == pytest.approx(math.log(z), abs=1e-5)


def test_a_ring_is_flat_along_itself():
    angle = torch.linspace(0, 6, 7, dtype=torch.float64)
    q = 2.3 * torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(RingPotential(PLANE)(q), torch.full((7,), 0.3**2 / 0.32, dtype=torch.float64))
    assert float(RingPotential(PLANE).grad(torch.zeros(1, 2)).abs().max()) == 0.0


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: HarmonicChain(Lattice((4, 4))), ValueError, "A chain lies on a line"),
        (lambda: HarmonicChain(Lattice((4,)), ends="open"), ValueError, '"fixed" or "periodic"'),
        (lambda: HarmonicChain(Lattice((4,)), ends="periodic"), ValueError, "centre of mass would be free"),
        (lambda: HarmonicChain(Lattice((4,)), pinning=-1.0), ValueError, "pinning is -1.0"),
        (lambda: HarmonicChain(Lattice((4,)), pinning="1"), TypeError, "pinning must be"),
        (lambda: RingPotential(Lattice((3,))), ValueError, "lies in a plane"),
        (lambda: RingPotential(PLANE, width=0.0), ValueError, "width must be positive"),
        (lambda: RingPotential(PLANE)(torch.zeros(4, 3)), ValueError, "lattice|shape"),
    ],
)
def test_what_does_not_fit_is_refused(build, error, match):
    with pytest.raises(error, match=match):
        build()
