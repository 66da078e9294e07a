"""Maximum likelihood from trajectories: the frequencies of a chain are found without its Hamiltonian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equiflow import HarmonicChain, Lattice, fit_trajectories
from equiflow.flows import (
    CanonicalFlow,
    EquivariantCNF,
    Hamiltonian,
    LinearPointLayer,
    Oscillators,
    SymplecticFlow,
)
from equiflow.training.trajectories import as_states

LATTICE = Lattice((3,))


def thermal_states(beta: float, n: int, seed: int = 0) -> Tensor:
    """Independent states of a chain with fixed ends in equilibrium, exactly."""
    chain = HarmonicChain(LATTICE)
    noise = torch.randn(n, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q = noise[:, 0] / chain.frequencies() @ chain.modes()
    return torch.stack([q, noise[:, 1] @ chain.modes()], 1) / math.sqrt(beta)


def linear_flow(beta: float) -> CanonicalFlow:
    return CanonicalFlow(LATTICE, [LinearPointLayer(LATTICE)], prior=Oscillators(LATTICE, beta=beta))


def test_frequencies_and_modes_are_learned_from_states_alone():
    states, beta = thermal_states(2.0, 20_000), 2.0
    flow = linear_flow(beta)
    history = fit_trajectories(flow, states, steps=250, learning_rate=0.04, progress=False)
    chain = HarmonicChain(LATTICE)
    ratio = flow.latent_frequencies().double() / chain.frequencies()
    assert float((ratio - 1).abs().max()) < 4 / math.sqrt(20_000) + 0.02
    patterns = flow.slow_modes(states[:1], 3).patterns[0].double()
    overlap = (patterns @ chain.modes().T).diag().abs() / patterns.norm(dim=1)
    assert float(overlap[0]) > 0.99
    assert float(overlap.min()) > 0.95  # fast modes differ least in their spread
    # The entropy of the states is what their code length cannot fall below.
    entropy = -float((beta * chain.frequencies() / (2 * math.pi)).log().sum()) + 3
    assert sum(history.loss[-50:]) / 50 == pytest.approx(entropy, abs=0.1)
    assert history.ess == [None] * 250


def test_momenta_at_another_temperature_give_other_frequencies():
    states = thermal_states(2.0, 5000)
    states[:, 1] *= 2  # not the momenta of these positions
    flow = linear_flow(2.0)
    fit_trajectories(flow, states, steps=250, learning_rate=0.04, progress=False)
    ratio = flow.latent_frequencies().double() / HarmonicChain(LATTICE).frequencies()
    assert bool((ratio < 0.7).all())


def test_a_symplectic_flow_is_trained_too():
    flow = SymplecticFlow(LATTICE, n_steps=1, n_frequencies=2)
    history = fit_trajectories(flow, thermal_states(1.0, 500), steps=20, batch_size=64, progress=False)
    assert history.loss[-1] < history.loss[0]


def test_leading_axes_are_time_and_trajectories():
    states = thermal_states(1.0, 12)
    flows = [linear_flow(1.0) for _ in range(2)]
    for flow, shape in zip(flows, [(12, 2, 3), (4, 3, 2, 3)], strict=True):
        fit_trajectories(flow, states.reshape(shape), steps=3, batch_size=8, progress=False)
    for one, other in zip(flows[0].parameters(), flows[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_goes_on_from_its_checkpoint_and_knows_its_data(tmp_path):
    states = thermal_states(1.0, 100)
    options = {"batch_size": 8, "learning_rate": 0.01, "progress": False}
    fit_trajectories(linear_flow(1.0), states, steps=4, checkpoint=tmp_path / "run.pt", **options)
    flow = linear_flow(1.0)
    history = fit_trajectories(flow, states, steps=4, checkpoint=tmp_path / "run.pt", **options)
    assert len(history) == 4
    with pytest.raises(Exception, match=r"trajectories\(samples"):
        fit_trajectories(linear_flow(1.0), states + 1, steps=4, checkpoint=tmp_path / "run.pt", **options)


@pytest.mark.parametrize(
    ("trajectories", "error", "match"),
    [
        (
            torch.zeros(50, 3),
            ValueError,
            r"\(50, 3\); expected \(\.\.\., 2, 3\): positions and momenta",
        ),
        (torch.zeros(50, 3, 2), ValueError, r"expected \(\.\.\., 2, 3\)"),
        (torch.zeros(50, 2, 4), ValueError, "3 degrees of freedom"),
        (torch.zeros(2, 3), ValueError, r"expected \(\.\.\., 2, 3\)"),
        (torch.zeros(0, 2, 3), ValueError, "shape"),
        (torch.full((5, 2, 3), torch.inf), ValueError, "NaN or infinite"),
        (torch.zeros(5, 2, 3, dtype=torch.int64), TypeError, "int64"),
        (torch.zeros(5, 2, 3, dtype=torch.complex64), TypeError, "complex64; expected torch.float32"),
        ([[[0.0]]], TypeError, "trajectories must be of type Tensor"),
    ],
)
def test_trajectories_of_another_shape_are_refused(trajectories, error, match):
    with pytest.raises(error, match=match):
        fit_trajectories(linear_flow(1.0), trajectories, steps=1, progress=False)


def test_flows_without_momenta_are_refused():
    with pytest.raises(TypeError, match="flow must be of type CanonicalFlow or SymplecticFlow"):
        fit_trajectories(EquivariantCNF(LATTICE), torch.zeros(5, 2, 3), steps=1)


def test_states_keep_their_order_and_values():
    states = thermal_states(1.0, 6).reshape(2, 3, 2, 3)
    flat = as_states(states, Hamiltonian(HarmonicChain(LATTICE)).space)
    assert torch.equal(flat[4], states[1, 1])
