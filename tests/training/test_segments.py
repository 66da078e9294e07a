"""Training of stochastic flows, layer by layer: better weights, the same log Z, nothing else is trained."""

from __future__ import annotations

import pytest
import torch

from equiflow import (
    HMC,
    Action,
    CouplingFlow,
    EquivariantCNF,
    Flow,
    ForwardKL,
    FreeField,
    Kernel,
    Lattice,
    LocalMetropolis,
    OrbitConvField,
    Phi4,
    ReverseKL,
    Solver,
    StochasticFlow,
    fit_segments,
    geometric_path,
    stochastic_importance_sample,
)
from equiflow.oracles import quadrature, transfer_matrix
from equiflow.theories.scalar.observables import phi_squared
from equiflow.training.reservoir import Reservoir, starting_from
from tests.support.invariance import exact_samples
from tests.support.updates import CHAIN

SHORT = {"n_samples": 1024, "steps": 40, "batch_size": 64, "progress": False}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hmc(action: Action) -> Kernel:
    return HMC(action, step_size=0.4, trajectory_length=0.8)


def cnf(lattice: Lattice) -> EquivariantCNF:
    field = OrbitConvField(lattice, n_frequencies=3)
    prior = FreeField(lattice)
    return EquivariantCNF(lattice, vector_field=field, prior=prior, solver=Solver("rk4", steps=4)).double()


def path_to(
    action: Phi4 = CHAIN,
    layers: list[Flow | None] | None = None,
    kernel: object = hmc,
    m2: float = 1.0,
) -> StochasticFlow:
    """Return a path of two actions from a free field that is narrow for the target."""
    prior = FreeField(action.lattice, m2=m2).double()
    if layers is None:
        layers = [cnf(action.lattice), cnf(action.lattice)]
    return StochasticFlow(prior, geometric_path(prior, action, 2), layers=layers, kernel=kernel)


def ess(flow: StochasticFlow, n: int = 1000) -> float:
    ensemble = stochastic_importance_sample(flow, n, certify=0, generator=generator(9))
    return ensemble.effective_sample_size().mean


@pytest.mark.parametrize("objective", [None, ReverseKL()])
def test_trained_layers_have_better_weights_and_the_same_log_z(objective):
    flow = path_to()
    before = ess(flow)
    histories = fit_segments(flow, objective=objective, **SHORT)
    assert [len(history) for history in histories] == [40, 40]
    ensemble = stochastic_importance_sample(flow, 2000, generator=generator(9))
    assert ensemble.effective_sample_size().mean > max(before + 0.1, 0.9)
    exact, log_z = quadrature(CHAIN), ensemble.log_z()
    assert abs(log_z.mean - exact.log_z) < 4 * log_z.error + log_z.systematic
    assert abs(ensemble.mean(phi_squared).sigmas_from(exact.phi_squared)) < 4


def test_the_forward_objective_trains_on_samples_of_each_action():
    # From a wide field, samples of each action are found by inversion.
    actions = [Phi4(CHAIN.lattice, m2=-0.5, lam=0.6), CHAIN]
    prior = FreeField(CHAIN.lattice, m2=0.3).double()
    layers = [cnf(CHAIN.lattice), cnf(CHAIN.lattice)]
    flow = StochasticFlow(prior, actions, layers=layers, kernel=hmc)
    before = ess(flow)
    objectives = [ForwardKL(exact_samples(action, 2000)) for action in actions]
    fit_segments(flow, objective=objectives, **SHORT)
    assert ess(flow) > before + 0.05
    with pytest.raises(ValueError, match="give one each"):
        fit_segments(flow, objective=objectives[:1], **SHORT)


def test_a_layer_is_trained_on_samples_of_the_action_before():
    """A layer of one and the same action learns to do nothing; on samples of another one it would not."""

    def moved(before: Action) -> float:
        prior = FreeField(CHAIN.lattice, m2=1.0).double()
        layer = cnf(CHAIN.lattice)
        flow = StochasticFlow(prior, [before, CHAIN], layers=[None, layer], kernel=hmc, n_updates=[8, 0])
        fit_segments(flow, objective=ReverseKL(), **SHORT)
        phi = exact_samples(CHAIN, 500)
        with torch.no_grad():
            return float((layer.transform_and_log_det(phi)[0] - phi).square().mean().sqrt())

    assert moved(CHAIN) < 0.4 * moved(Phi4(CHAIN.lattice, m2=4.0, lam=0.0))


def test_couplings_on_a_checkerboard_are_layers_too():
    action = Phi4(Lattice((2, 4)), m2=-1.0, lam=1.0)
    torch.manual_seed(0)
    layers = [CouplingFlow(action.lattice, n_layers=4, hidden_channels=(4,), z2=True).double(), None]
    flow = path_to(action, layers)
    before = ess(flow)
    fit_segments(flow, **SHORT | {"steps": 60, "learning_rate": 1e-2, "objective": ReverseKL()})
    assert ess(flow) > before + 0.03
    ensemble = stochastic_importance_sample(flow, 1500, resample=0.7, generator=generator(9))
    assert abs(ensemble.log_z().sigmas_from(transfer_matrix(action).log_z)) < 4


def test_only_layers_are_trained_and_kernels_are_tuned():
    prior = FreeField(CHAIN.lattice, m2=1.0).double()
    path = [Phi4(CHAIN.lattice, m2=0.0, lam=0.4), CHAIN]
    layers = [None, cnf(CHAIN.lattice)]
    flow = StochasticFlow(prior, path, layers=layers, kernel=LocalMetropolis, n_updates=[1, 1])
    spectrum, own = prior.log_sigma.clone(), layers[1].prior.log_sigma.clone()
    weights = [weight.clone() for weight in layers[1].vector_field.parameters()]
    histories = fit_segments(flow, **SHORT | {"steps": 3})
    assert len(histories) == 1
    assert torch.equal(prior.log_sigma, spectrum)
    assert torch.equal(layers[1].prior.log_sigma, own)
    assert prior.log_sigma.requires_grad
    now = layers[1].vector_field.parameters()
    assert not all(torch.equal(weight, other) for weight, other in zip(weights, now, strict=True))
    assert all(leg.kernel.is_tuned for leg in flow.legs)
    assert all(0.3 < leg.kernel.width < 4 for leg in flow.legs)


def test_a_run_goes_on_from_its_checkpoints(tmp_path):
    def trained(name: str) -> StochasticFlow:
        flow = path_to()
        fit_segments(flow, checkpoint=tmp_path / name, **SHORT | {"steps": 4})
        return flow

    once = trained("run.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"run-1.pt", "run-2.pt"}
    (tmp_path / "run-2.pt").unlink()
    again = trained("run.pt")
    drawn = [flow.travel(50, generator=generator()).log_weight for flow in (once, again)]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-9, atol=1e-9)


def test_a_reservoir_draws_its_samples_by_their_weights():
    samples = torch.arange(12.0).reshape(4, 3).double()
    log_weight = torch.tensor([0.0, 1.0, 3.0, 0.0], dtype=torch.float64).log()
    reservoir = Reservoir(CHAIN, samples, log_weight, group=FreeField(CHAIN.lattice).group)
    drawn = reservoir.rsample(4000, generator())
    counts = torch.tensor([float((drawn == row).all(1).sum()) for row in samples])
    torch.testing.assert_close(counts / 4000, torch.tensor([0.0, 0.25, 0.75, 0.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(reservoir.log_prob(samples), -CHAIN(samples))
    torch.testing.assert_close(reservoir.score(samples), -CHAIN.grad(samples))
    flow = cnf(CHAIN.lattice)
    twin = starting_from(flow, reservoir)
    assert twin.prior is reservoir
    assert flow.prior is not reservoir
    assert twin.vector_field is flow.vector_field


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "n_samples must be"),
        ({"n_tuning": 1.5}, TypeError, "n_tuning must be"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"objective": ForwardKL(torch.zeros(2, 5))}, ValueError, "configurations"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        fit_segments(path_to(), **SHORT | options)
    with pytest.raises(TypeError, match="flow must be"):
        fit_segments(cnf(CHAIN.lattice))
