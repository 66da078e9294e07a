"""Canonical layers keep `dq ^ dp` to rounding, whatever their weights; flows made of them keep the volume."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from equiflow import CouplingFlow, EquivariantCNF, Lattice, OrbitConvField, PotentialField, SolverError
from equiflow.flows import (
    CanonicalFlow,
    CanonicalLayer,
    CouplingPointLayer,
    FieldTransformation,
    Hamiltonian,
    HamiltonianLayer,
    LinearCanonicalLayer,
    LinearPointLayer,
    Oscillators,
    PointTransformation,
    SymplecticFlow,
)
from equiflow.oracles import self_consistent_phonons
from equiflow.runtime.storage import CheckpointError
from equiflow.testing import dense_jacobian, randomise
from equiflow.theories.scalar.mechanics import HarmonicChain
from equiflow.theories.scalar.phi4 import Phi4
from equiflow.training import InversePathGradient, ReverseKL, fit

EXACT = 1e-12
LATTICE = Lattice((4,))


def coupling(lattice: Lattice) -> PointTransformation:
    return PointTransformation(lattice, CouplingFlow(lattice, n_layers=3, hidden_channels=(3,)))


def along_a_field(lattice: Lattice) -> FieldTransformation:
    return FieldTransformation(lattice, PotentialField(lattice), n_steps=2)


def small_steps(lattice: Lattice) -> HamiltonianLayer:
    return HamiltonianLayer(lattice, n_features=5, n_steps=2)


LAYERS = {
    "LinearPointLayer": LinearPointLayer,
    "LinearCanonicalLayer": LinearCanonicalLayer,
    "HamiltonianLayer": small_steps,
    "CouplingPointLayer": lambda lattice: CouplingPointLayer(lattice, n_features=5),
    "its other half": lambda lattice: CouplingPointLayer(lattice, parity=1, n_features=5),
    "PointTransformation": coupling,
    "FieldTransformation": along_a_field,
}
layers = pytest.mark.parametrize("name", LAYERS)


def make(name: str, lattice: Lattice = LATTICE, seed: int = 0) -> CanonicalLayer:
    layer = LAYERS[name](lattice).double()
    randomise(layer, scale=0.1 if name == "FieldTransformation" else 0.3, seed=seed)
    return layer


def as_map(layer: CanonicalLayer, *, inverse: bool = False):
    """The layer as a function of states `(batch, 2, *lattice)`."""
    move = layer.inverse if inverse else layer
    return lambda state: torch.stack(move(*state.unbind(1)), 1)


def states(lattice: Lattice, n: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, *lattice.shape, generator=generator, dtype=torch.float64)


def defect(function, state: Tensor) -> float:
    """`max |J^T Omega J - Omega|`, relative to `|J|^2`."""
    j, volume = dense_jacobian(function, state), state[0, 0].numel()
    omega = torch.kron(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.eye(volume)).double()
    change = (j.mT @ omega @ j - omega).abs().max()
    return float(change / j.square().max().clamp(min=1.0))


class NotCanonical(CanonicalLayer):
    """A bijection of positions that leaves the momenta alone: a planted mistake."""

    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return q + 0.1 * q.sin(), p

    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class NoGradient(CanonicalLayer):
    """Kicks that keep the volume, but are no gradient of a potential: a planted mistake."""

    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return q, p + 0.1 * q.roll(1, -1)

    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return q, p - 0.1 * q.roll(1, -1)


@layers
@pytest.mark.parametrize("inverse", [False, True], ids=["forwards", "backwards"])
def test_every_layer_keeps_the_symplectic_form(name, inverse):
    layer, state = make(name, seed=int(inverse)), states(LATTICE)
    moved = as_map(layer, inverse=inverse)(state)
    assert float((moved - state).detach().abs().max()) > 1e-2
    assert defect(as_map(layer, inverse=inverse), state) < EXACT


@pytest.mark.parametrize("mistake", [NotCanonical, NoGradient])
def test_maps_that_are_not_canonical_are_seen(mistake):
    layer = mistake(LATTICE)
    assert defect(as_map(layer), states(LATTICE)) > 1e-2
    volume = torch.linalg.slogdet(dense_jacobian(as_map(layer), states(LATTICE))).logabsdet.abs().max()
    # The determinant alone does not tell: it is one of the second map.
    assert (float(volume) < EXACT) == (mistake is NoGradient)


@layers
def test_the_inverse_is_exact_to_rounding(name):
    layer, state = make(name), states(LATTICE)
    there, back = as_map(layer), as_map(layer, inverse=True)
    with torch.no_grad():
        assert float((back(there(state)) - state).abs().max()) < EXACT * float(there(state).abs().max() + 1)
        assert float((there(back(state)) - state).abs().max()) < EXACT * float(back(state).abs().max() + 1)


@layers
def test_layers_work_on_any_lattice(name):
    lattice = Lattice((2, 4))
    layer, state = make(name, lattice), states(lattice)
    assert defect(as_map(layer), state) < EXACT
    assert as_map(layer)(state[:0]).shape == (0, *state.shape[1:])


@pytest.mark.parametrize(
    "name", ["LinearPointLayer", "LinearCanonicalLayer", "HamiltonianLayer", "CouplingPointLayer"]
)
def test_a_new_layer_is_the_identity(name):
    state = states(LATTICE)
    assert torch.equal(as_map(LAYERS[name](LATTICE).double())(state), state)


@pytest.mark.parametrize(
    "name", ["LinearPointLayer", "CouplingPointLayer", "PointTransformation", "FieldTransformation"]
)
def test_point_transformations_move_positions_by_positions_alone(name):
    layer, state = make(name), states(LATTICE)
    j = dense_jacobian(as_map(layer), state)
    of_q, of_p = j[:, :4, :4], j[:, 4:, 4:]
    assert float(j[:, :4, 4:].abs().max()) == 0.0
    # The momenta move by the inverse of the transposed Jacobian.
    assert float((of_q.mT @ of_p - torch.eye(4)).abs().max()) < EXACT
    mixing = make("LinearCanonicalLayer")
    assert float(dense_jacobian(as_map(mixing), state)[:, :4, 4:].abs().max()) > 1e-2


def test_the_linear_layer_reaches_every_canonical_matrix():
    # A rotation by a quarter turn swaps positions and momenta, which no point transformation can.
    layer = LinearCanonicalLayer(Lattice((3,))).double()
    with torch.no_grad():
        layer.phase.copy_(math.pi / 2 * torch.eye(3))
    state = states(Lattice((3,)))
    torch.testing.assert_close(as_map(layer)(state), torch.stack([state[:, 1], -state[:, 0]], 1))
    assert sum(p.numel() for p in layer.parameters()) - 6 >= 3 * (2 * 3 + 1)


def test_a_hamiltonian_layer_conserves_its_energy_up_to_its_step():
    errors = []
    for n_steps in (8, 16):
        torch.manual_seed(0)
        layer = HamiltonianLayer(LATTICE, n_features=6, n_steps=n_steps).double()
        randomise(layer, scale=0.3)
        q, p = states(LATTICE, 5).unbind(1)
        with torch.no_grad():
            change = layer.hamiltonian(*layer(q, p)) - layer.hamiltonian(q, p)
            errors.append(float(change.abs().max()))
            leaf = q.clone().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(layer.hamiltonian(leaf, p).sum(), leaf)
        torch.testing.assert_close(layer.potential.gradient(q), slope)
    assert errors[0] > 1e-6
    assert 3 < errors[0] / errors[1] < 5  # second order


def test_the_motion_along_a_field_is_that_of_the_cnf():
    field = PotentialField(LATTICE).double()
    randomise(field, scale=0.1)
    cnf = EquivariantCNF(LATTICE, vector_field=field).double()
    q, p = states(LATTICE, 3).unbind(1)
    with torch.no_grad():
        expected = cnf.transform_and_log_det(q)[0]
        errors = [
            float((FieldTransformation(LATTICE, field, n_steps=n)(q, p)[0] - expected).abs().max())
            for n in (5, 20)
        ]
    assert errors[1] < 3e-3
    assert errors[1] < errors[0] / 8  # second order


def test_steps_that_are_too_long_for_a_field_raise():
    field = PotentialField(LATTICE).double()
    randomise(field, scale=4.0)
    with pytest.raises(SolverError, match="more n_steps"):
        FieldTransformation(LATTICE, field, n_steps=1)(*states(LATTICE).unbind(1))


def whole_flow(lattice: Lattice = LATTICE) -> CanonicalFlow:
    parts = [LAYERS[name](lattice) for name in LAYERS]
    flow = CanonicalFlow(lattice, parts, prior=Oscillators(lattice, beta=2.0)).double()
    randomise(flow, scale=0.1)
    return flow


def test_a_flow_keeps_the_volume_and_its_density_is_that_of_the_oscillators():
    flow = whole_flow()
    z = states(LATTICE)
    state, log_det = flow.transform_and_log_det(z)
    assert torch.equal(log_det, torch.zeros(2, dtype=torch.float64))
    dense = torch.linalg.slogdet(dense_jacobian(lambda x: flow.transform_and_log_det(x)[0], z))
    assert float(dense.logabsdet.abs().max()) < EXACT
    back, log_det = flow.inverse_and_log_det(state)
    assert float((back - z).detach().abs().max()) < 1e-11
    assert torch.equal(log_det, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(flow.log_prob(state.detach()), flow.prior.log_prob(z))


def test_the_gradient_reaches_every_parameter():
    flow = whole_flow()
    hamiltonian = Hamiltonian(HarmonicChain(LATTICE), beta=2.0)
    for objective in (ReverseKL(), InversePathGradient()):
        flow.zero_grad()
        objective(flow, hamiltonian, 8, torch.Generator().manual_seed(0)).surrogate.backward()
        for name, parameter in flow.named_parameters():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().max()) > 0, name


def test_both_gradients_of_a_flow_agree():
    lattice = Lattice((2,))
    parts = [
        LAYERS[name](lattice) for name in ("LinearCanonicalLayer", "HamiltonianLayer", "PointTransformation")
    ]
    flow = CanonicalFlow(lattice, parts).double()
    randomise(flow, scale=0.1)
    hamiltonian = Hamiltonian(HarmonicChain(lattice))
    found = []
    for objective in (ReverseKL(), InversePathGradient()):
        rows = []
        for seed in range(16):
            flow.zero_grad()
            objective(flow, hamiltonian, 64, torch.Generator().manual_seed(seed)).surrogate.backward()
            rows.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
        found.append(torch.stack(rows))
    difference = found[0] - found[1]
    error = difference.std(0) / math.sqrt(len(difference))
    assert float((difference.mean(0).abs() / error.clamp(min=1e-10)).max()) < 5


def test_a_saved_flow_loads_bit_for_bit(tmp_path):
    flow = whole_flow()
    flow.save(tmp_path / "flow.pt")
    loaded = CanonicalFlow.load(tmp_path / "flow.pt")
    state = states(LATTICE)
    assert torch.equal(loaded.log_prob(state), flow.log_prob(state))
    assert loaded.prior.config() == flow.prior.config()
    assert len(repr(flow).splitlines()) <= 14


def test_layers_of_your_own_are_given_to_load(tmp_path):
    flow = CanonicalFlow(LATTICE, [NoGradient(LATTICE)]).double()
    flow.save(tmp_path / "flow.pt")
    with pytest.raises(
        CheckpointError, match=r"pass it to load, as in load\(path, layers=\[NoGradient\(lattice\)"
    ):
        CanonicalFlow.load(tmp_path / "flow.pt")
    loaded = CanonicalFlow.load(tmp_path / "flow.pt", layers=[NoGradient(LATTICE)])
    state = states(LATTICE)
    assert torch.equal(loaded.log_prob(state), flow.log_prob(state))


def test_a_linear_flow_learns_the_phonons_of_a_field():
    lattice = Lattice((4,))
    potential = Phi4(lattice, m2=1.0, lam=0.5)
    phonons = self_consistent_phonons(potential, beta=4.0)
    flow = CanonicalFlow(
        lattice, [LinearPointLayer(lattice)], prior=Oscillators(lattice, beta=4.0, slowest=1.0, fastest=3.0)
    )
    history = fit(
        flow,
        Hamiltonian(potential, beta=4.0),
        steps=500,
        batch_size=128,
        learning_rate=0.03,
        objective=InversePathGradient(),
        progress=False,
    )
    ratio = flow.latent_frequencies().double() / phonons.frequencies
    assert float((ratio - 1).abs().max()) < 0.02
    tail = torch.tensor(history.loss[-100:], dtype=torch.float64)
    assert abs(float(tail.mean()) - phonons.free_energy) < 4 * float(tail.std()) / 10 + 1e-3


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: CanonicalFlow(LATTICE, []), ValueError, "at least one layer"),
        (
            lambda: CanonicalFlow(LATTICE, [nn.Identity()]),
            TypeError,
            "a layer must be of type CanonicalLayer",
        ),
        (lambda: CanonicalFlow(LATTICE, LinearPointLayer(LATTICE)), TypeError, "layers must be"),
        (lambda: CanonicalFlow(LATTICE, [LinearPointLayer(Lattice((5,)))]), ValueError, "one Lattice"),
        (
            lambda: CanonicalFlow(LATTICE, [LinearPointLayer(LATTICE)], prior=Oscillators(Lattice((5,)))),
            ValueError,
            "one Lattice",
        ),
        (
            lambda: CanonicalFlow(LATTICE, [LinearPointLayer(LATTICE)], prior=SymplecticFlow(LATTICE).prior),
            TypeError,
            "prior must be of type Oscillators",
        ),
        (lambda: PointTransformation(LATTICE, CouplingFlow(Lattice((6,)))), ValueError, "same Lattice"),
        (lambda: PointTransformation(LATTICE, nn.Identity()), TypeError, "bijection must be of type Flow"),
        (lambda: PointTransformation(LATTICE, EquivariantCNF(LATTICE)), TypeError, "FieldTransformation"),
        (
            lambda: FieldTransformation(LATTICE, PotentialField(Lattice((6,)))),
            ValueError,
            "same Lattice",
        ),
        (lambda: HamiltonianLayer(LATTICE, n_steps=0), ValueError, "n_steps must be an integer >= 1"),
        (lambda: CouplingPointLayer(Lattice((1,))), ValueError, "two sites or more"),
        (lambda: CouplingPointLayer(LATTICE, parity=2), ValueError, "parity=2"),
        (lambda: LinearPointLayer((4,)), TypeError, "lattice must be of type Lattice"),
    ],
)
def test_what_does_not_fit_is_refused(build, error, match):
    with pytest.raises(error, match=match):
        build()


def test_fields_that_cannot_be_differentiated_twice_say_so():
    layer = FieldTransformation(LATTICE, OrbitConvField(LATTICE, n_frequencies=2)).double()
    state = states(LATTICE).requires_grad_()
    with pytest.raises(RuntimeError, match="differentiated once"):
        as_map(layer)(state)
