"""Slow modes: the slowest oscillators behind given states, and how positions move with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equiflow import CouplingFlow, Lattice
from equiflow.flows import (
    CanonicalFlow,
    HamiltonianLayer,
    LinearPointLayer,
    Oscillators,
    PointTransformation,
    SymplecticFlow,
)
from equiflow.flows import slow_modes as module
from equiflow.flows.phase_space import PhaseSpacePrior
from equiflow.testing import randomise
from equiflow.theories.base.prior import Prior
from equiflow.theories.scalar.priors import FreeField, StandardNormal

LATTICE = Lattice((4,))


def canonical() -> CanonicalFlow:
    layers = [
        LinearPointLayer(LATTICE),
        HamiltonianLayer(LATTICE, n_features=5),
        PointTransformation(LATTICE, CouplingFlow(LATTICE, n_layers=2, hidden_channels=(3,))),
    ]
    flow = CanonicalFlow(LATTICE, layers, prior=Oscillators(LATTICE, slowest=2.0, fastest=0.5)).double()
    randomise(flow, scale=0.2)
    return flow


def symplectic() -> SymplecticFlow:
    flow = SymplecticFlow(LATTICE, n_steps=2, n_frequencies=2).double()
    randomise(flow, scale=0.1)
    return flow


FLOWS = {"canonical": canonical, "symplectic": symplectic}
flows = pytest.mark.parametrize("flow", [make() for make in FLOWS.values()], ids=FLOWS)


def states(n: int = 3) -> Tensor:
    return torch.randn(n, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@flows
def test_patterns_are_how_positions_move_with_a_mode(flow):
    data, step = states(), 1e-6
    modes = flow.slow_modes(data, 3)
    assert modes.frequencies.tolist() == flow.latent_frequencies()[:3].tolist()
    assert bool((modes.frequencies.diff() >= 0).all())
    with torch.no_grad():
        z = flow.inverse_and_log_det(data)[0]
        positions, momenta = flow.prior.oscillators(z)
        order = flow.prior.frequencies().flatten().argsort()
        for k, oscillator in enumerate(order[:3]):
            # Finite differences along one oscillator position, the map of oscillators to z being linear.
            unit = torch.zeros(3, 4, dtype=torch.float64)
            unit[:, oscillator] = step
            along = _state_of(flow, positions + unit, momenta) - _state_of(flow, positions - unit, momenta)
            torch.testing.assert_close(modes.patterns[:, k], along[:, 0] / (2 * step), atol=1e-7, rtol=1e-6)
            torch.testing.assert_close(modes.positions[:, k], positions[:, oscillator])
            torch.testing.assert_close(modes.momenta[:, k], momenta[:, oscillator])


def _state_of(flow, positions: Tensor, momenta: Tensor) -> Tensor:
    """The physical state with these oscillators; the matrix of `oscillators` is inverted numerically."""
    basis = torch.eye(8, dtype=torch.float64).reshape(8, 2, 4)
    matrix = torch.stack(flow.prior.oscillators(basis), 1).flatten(1)  # rows: images of unit states
    wanted = torch.stack([positions, momenta], 1).flatten(1)
    z = torch.linalg.solve(matrix.T, wanted.T).T.reshape(-1, 2, 4)
    return flow.transform_and_log_det(z)[0]


@pytest.mark.parametrize(
    ("position", "momentum"),
    [
        (FreeField(LATTICE), None),
        (StandardNormal(LATTICE), FreeField(LATTICE)),
        (StandardNormal(LATTICE), StandardNormal(LATTICE)),
    ],
)
def test_the_modes_of_a_gaussian_are_independent_oscillators(position, momentum):
    prior = PhaseSpacePrior(LATTICE, position=position, momentum=momentum).double()
    randomise(prior)
    z = prior.rsample(5, torch.Generator().manual_seed(1)).detach()
    positions, momenta = prior.oscillators(z)
    omega = prior.frequencies().detach()
    energy = 0.5 * (momenta.square() + omega.square() * positions.square()).sum(-1)
    # log r = -energy + constant, in canonical coordinates of unit determinant
    constant = (prior.log_prob(z) + energy).detach()
    expected = float((omega.log() - torch.tensor(2 * torch.pi, dtype=torch.float64).log()).sum())
    torch.testing.assert_close(constant, torch.full((5,), expected, dtype=torch.float64))


def test_modes_of_a_prior_of_your_own_are_not_known():
    class Own(Prior):
        """A prior of another class."""

        colour = log_prob = score = StandardNormal.score

    flow = SymplecticFlow(LATTICE, position=Own(LATTICE))
    with pytest.raises(TypeError, match="Modes are known of"):
        flow.latent_frequencies()


@flows
def test_large_data_are_treated_in_chunks(flow, monkeypatch):
    data = states(7)
    whole = flow.slow_modes(data, 2)
    monkeypatch.setattr(module, "CHUNK", 3)
    parts = flow.slow_modes(data, 2)
    torch.testing.assert_close(parts.patterns, whole.patterns, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.positions, whole.positions, rtol=1e-12, atol=1e-12)
    assert str(whole).startswith("2 slow modes of 7 states, omega = ")
    assert not whole.positions.requires_grad
    assert flow.slow_modes(data[:0], 2).patterns.shape == (0, 2, 4)


@flows
@pytest.mark.parametrize(
    ("data", "n", "error", "match"),
    [
        (torch.zeros(5, 4), 2, ValueError, r"data has shape \(5, 4\); expected \(batch, 2, 4\)"),
        (torch.zeros(5, 2, 5), 2, ValueError, r"expected \(batch, 2, 4\)"),
        (torch.full((5, 2, 4), torch.nan).double(), 2, ValueError, "finite"),
        (torch.zeros(5, 2, 4), 2, TypeError, "computes in torch.float64"),
        (torch.zeros(5, 2, 4).double(), 5, ValueError, "has 4 oscillators, got n=5"),
        (torch.zeros(5, 2, 4).double(), 0, ValueError, "n must be an integer >= 1"),
    ],
)
def test_what_does_not_fit_is_refused(flow, data, n, error, match):
    with pytest.raises(error, match=match):
        flow.slow_modes(data, n)
