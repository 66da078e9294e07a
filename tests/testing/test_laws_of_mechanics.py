"""The harness tells canonical maps from others of the same volume."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiflow import AugmentedFlow, CanonicalFlow, EquivariantCNF, Lattice, LinearPointLayer, SymplecticFlow
from equiflow.flows import CanonicalLayer, HamiltonianLayer, LinearCanonicalLayer
from equiflow.testing import assert_symplectic, check_flow, randomise, symplectic_error

LATTICE = Lattice((3,))


class Sheared(CanonicalLayer):
    """A kick that is no gradient: it keeps the volume, but not the symplectic form."""

    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return q, p + 0.1 * q.roll(1, -1)

    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return q, p - 0.1 * q.roll(1, -1)


def canonical(*layers: type[CanonicalLayer]) -> CanonicalFlow:
    return CanonicalFlow(LATTICE, [layer(LATTICE) for layer in layers])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SymplecticFlow(LATTICE, n_steps=2, n_frequencies=2),
        lambda: canonical(LinearPointLayer, LinearCanonicalLayer, HamiltonianLayer),
    ],
    ids=["SymplecticFlow", "CanonicalFlow"],
)
def test_canonical_flows_pass(make):
    flow = make().double()
    randomise(flow, scale=0.1)
    assert_symplectic(flow, tolerance=1e-12)
    assert check_flow(flow).ok


@pytest.mark.parametrize(
    "make", [lambda: AugmentedFlow(LATTICE, n_steps=2, n_frequencies=2), lambda: canonical(Sheared)]
)
def test_other_flows_of_momenta_fail(make):
    flow = make().double()
    randomise(flow, scale=0.1)
    assert symplectic_error(flow) > 1e-3
    with pytest.raises(AssertionError, match="J\\^T Omega J - Omega is"):
        assert_symplectic(flow)
    assert check_flow(flow).ok  # densities are right all the same


def test_the_error_is_that_of_the_definition():
    flow = canonical(Sheared).double()
    # d(q, p)/d(Q, P) = [[1, 0], [S, 1]]: the form is off by S - S^T, a tenth at most.
    assert symplectic_error(flow) == pytest.approx(0.1)
    assert symplectic_error(canonical(LinearPointLayer).double()) == 0.0


def test_flows_without_momenta_are_refused():
    with pytest.raises(TypeError, match="for flows with momenta"):
        symplectic_error(EquivariantCNF(LATTICE))


def test_single_precision_is_enough_for_the_default_tolerance():
    flow = canonical(LinearPointLayer, HamiltonianLayer).float()
    randomise(flow, scale=0.1)
    assert flow.dtype == torch.float32
    assert_symplectic(flow)
