"""Importance sampling: the weights, reweighted averages with their errors, and the ESS in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from equiflow import (
    EquivariantCNF,
    FreeField,
    FreeScalar,
    Lattice,
    OrbitConvField,
    Phi4,
    Solver,
    importance_sample,
    log_weights,
)
from equiflow.samplers import Ensemble
from equiflow.theories.scalar.observables import phi_squared
from tests.support.oracles import free_samples
from tests.support.strategies import flows, lattices, small_flow


def gaussian_flow(lattice: Lattice, m2: float) -> EquivariantCNF:
    """Return a flow with zero weights, whose model is its free-field prior."""
    field = OrbitConvField(lattice, n_frequencies=1, n_time_modes=1)
    solver = Solver("euler", steps=1)
    return EquivariantCNF(
        lattice, vector_field=field, prior=FreeField(lattice, m2=m2), solver=solver
    ).double()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=12)
@given(flows(lattices(max_volume=9)))
def test_weights_are_minus_action_minus_log_q(flow):
    action = Phi4(flow.lattice, m2=1.0, lam=0.5)
    ensemble = importance_sample(flow, action, 3, certify=0, generator=generator())
    expected = -action(ensemble.phi) - flow.log_prob(ensemble.phi).detach()
    torch.testing.assert_close(ensemble.log_weight, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ensemble.log_weight, -action(ensemble.phi) - ensemble.log_q)
    # The steps of dopri8 depend on rounding errors, so the weights agree to the tolerance of the solver only.
    torch.testing.assert_close(log_weights(flow, action, ensemble.phi), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_put_together_are_detached_and_complete(batch_size, dtype):
    flow = small_flow().to(dtype)
    action = Phi4(flow.lattice, m2=1.0, lam=0.5)
    ensemble = importance_sample(flow, action, 10, batch_size=batch_size, generator=generator())
    assert ensemble.phi.shape == (10, 3, 3)
    assert ensemble.phi.dtype == dtype
    assert ensemble.log_q.shape == ensemble.log_weight.shape == (10,)
    assert len(ensemble.phi.flatten(1).unique(dim=0)) == 10
    assert not any(t.requires_grad for t in (ensemble.phi, ensemble.log_q, ensemble.log_weight))
    in_parts = log_weights(flow, action, ensemble.phi, batch_size=batch_size)
    torch.testing.assert_close(in_parts, ensemble.log_weight, rtol=0, atol=1e-3)


def test_samples_are_reproducible_and_seeds_matter():
    flow = small_flow()
    action = Phi4(flow.lattice, m2=1.0, lam=0.5)
    one, same, other = (importance_sample(flow, action, 4, generator=generator(s)).phi for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_no_samples_make_an_empty_ensemble():
    flow = small_flow()
    ensemble = importance_sample(flow, Phi4(flow.lattice, m2=1.0, lam=0.5), 0)
    assert ensemble.phi.shape == (0, 3, 3)
    with pytest.raises(ValueError, match="at least 2"):
        ensemble.log_z()


def reweighted_phi_squared(ensemble: Ensemble, action: FreeScalar) -> float:
    return ensemble.mean(phi_squared).sigmas_from(float(action.mode_variance().mean()))


@pytest.mark.parametrize("shape", [(5,), (4, 4), (2, 3, 3)])
def test_reweighting_gives_the_target_s_averages(shape):
    lattice = Lattice(shape)
    action = FreeScalar(lattice, m2=0.8)
    ensemble = importance_sample(gaussian_flow(lattice, 1.0), action, 20_000, generator=generator())
    assert abs(reweighted_phi_squared(ensemble, action)) < 4
    for wrong in (torch.zeros(20_000), -ensemble.log_weight):
        planted = Ensemble(ensemble.phi, ensemble.log_q, wrong)
        assert abs(reweighted_phi_squared(planted, action)) > 8


def test_error_of_a_reweighted_mean_is_its_scatter():
    lattice = Lattice((2, 3))
    action, flow = FreeScalar(lattice, m2=0.7), gaussian_flow(lattice, 1.0)

    def run(seed: int) -> Ensemble:
        phi = free_samples(FreeScalar(lattice, m2=1.0), 500, seed=seed)
        log_q = flow.prior.log_prob(phi).detach()
        return Ensemble(phi, log_q, -action(phi) - log_q)

    means = [run(seed).mean(phi_squared) for seed in range(200)]
    scatter = torch.tensor([m.mean for m in means]).std()
    claimed = torch.tensor([m.error for m in means]).mean()
    # The scatter of 200 values is known to 5 %.
    assert float(claimed / scatter) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("m2", [0.6, 1.3])
def test_ess_of_a_gaussian_model_is_the_product_over_modes(m2):
    lattice = Lattice((3, 4))
    action = FreeScalar(lattice, m2=m2)
    ratio = action.mode_variance() / FreeScalar(lattice, m2=1.0).mode_variance()
    exact = float((ratio * (2 - ratio)).sqrt().prod())
    ensemble = importance_sample(gaussian_flow(lattice, 1.0), action, 40_000, generator=generator())
    assert abs(ensemble.effective_sample_size().sigmas_from(exact)) < 4
    assert abs(ensemble.effective_sample_size().sigmas_from(exact**2)) > 4


@pytest.mark.parametrize("observable", [lambda phi: phi, lambda phi: phi.sum()])
def test_observables_must_give_one_value_per_configuration(observable):
    flow = small_flow()
    ensemble = importance_sample(flow, Phi4(flow.lattice, m2=1.0, lam=0.5), 3, generator=generator())
    with pytest.raises(ValueError, match=r"\(batch,\)|one value per configuration"):
        ensemble.mean(observable)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_must_hold_something(batch_size):
    flow = small_flow()
    with pytest.raises(ValueError, match="batch_size"):
        importance_sample(flow, Phi4(flow.lattice, m2=1.0, lam=0.5), 3, batch_size=batch_size)


def test_the_action_sees_one_batch_at_a_time():
    class Watched(Phi4):
        def __call__(self, phi: Tensor) -> Tensor:
            seen.append(len(phi))
            return super().__call__(phi)

    seen: list[int] = []
    flow = small_flow()
    action = Watched(flow.lattice, m2=1.0, lam=0.5)
    action.check_density()  # once for each action, on fields of its own
    seen.clear()
    ensemble = importance_sample(flow, action, 10, batch_size=4, certify=0, generator=generator())
    assert seen == [4, 4, 2]
    expected = -Phi4(flow.lattice, m2=1.0, lam=0.5)(ensemble.phi) - ensemble.log_q
    torch.testing.assert_close(ensemble.log_weight, expected)
    assert len(importance_sample(flow, action, 0, certify=0).log_weight) == 0


def bad_phi(value: float) -> Tensor:
    return torch.full((2, 3, 3), value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_of_fields_that_are_not_finite_are_refused(value):
    flow = small_flow()
    with pytest.raises(ValueError, match="NaN or infinite"):
        log_weights(flow, Phi4(flow.lattice, m2=1.0, lam=0.5), bad_phi(value))


def test_an_action_on_another_lattice_is_refused():
    flow = small_flow()
    with pytest.raises(ValueError, match=r"expected|lattice"):
        importance_sample(flow, Phi4(Lattice((4, 4)), m2=1.0, lam=0.5), 3)
