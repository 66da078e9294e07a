"""What ensembles and chains answer alike: their configurations, averages and fluctuations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equiflow import HMC, Chain, Ensemble, FreeField, FreeScalar, Lattice, importance_sample
from equiflow.analysis import Observable, measure
from equiflow.samplers import Samples
from equiflow.samplers.samples import certificate_of, per_configuration
from equiflow.statistics import error_of_fluctuations
from equiflow.theories.scalar.observables import magnetisation, phi_squared
from tests.support.oracles import free_samples
from tests.support.strategies import small_flow
from tests.support.updates import generator

ACTION = FreeScalar(Lattice((3, 2)), m2=1.0)


def both(phi: Tensor) -> Tensor:
    return torch.stack([phi_squared(phi), magnetisation(phi)], 1)


def a_chain() -> Chain:
    return HMC(ACTION, step_size=0.1, trajectory_length=0.2).sample(
        300, n_chains=5, n_thermalisation=20, generator=generator()
    )


def an_ensemble() -> Ensemble:
    light = FreeScalar(ACTION.lattice, m2=0.7)
    phi = free_samples(light, 3000)
    return Ensemble(phi, -light(phi), light(phi) - ACTION(phi))


@pytest.mark.parametrize("make", [a_chain, an_ensemble])
def test_means_and_fluctuations_are_those_of_the_samples(make):
    samples = make()
    assert isinstance(samples, Samples)
    means, fluctuations = samples.mean_and_fluctuations(both)
    errors = error_of_fluctuations(fluctuations, scale=means.abs())
    for k, observable in enumerate((phi_squared, magnetisation)):
        expected = samples.mean(observable)
        assert float(means[k]) == pytest.approx(expected.mean, rel=1e-10, abs=1e-12)
        assert float(errors.error[k]) == pytest.approx(expected.error, rel=0.2)  # jackknife of 128 blocks
    assert float(fluctuations.mean((0, 1)).abs().max()) < 1e-14


def test_fluctuations_of_a_chain_keep_its_order_and_those_of_an_ensemble_have_none():
    chain, ensemble = a_chain(), an_ensemble()
    means, fluctuations = chain.mean_and_fluctuations(both)
    assert fluctuations.shape == (300, 5, 2)
    torch.testing.assert_close(fluctuations[..., 0] + means[0], chain.series(phi_squared))
    assert ensemble.mean_and_fluctuations(both)[1].shape == (1, 3000, 2)
    # Independent samples would have a smaller error.
    as_independent = fluctuations.reshape(1, -1, 2)
    known, unknown = (error_of_fluctuations(one).error[0] for one in (fluctuations, as_independent))
    assert unknown < 0.7 * known


@pytest.mark.parametrize("make", [a_chain, an_ensemble])
def test_configurations_are_a_batch_of_one_shape(make):
    samples = make()
    assert samples.configuration_shape == (3, 2)
    assert samples.configurations.shape == (len(samples.configurations), 3, 2)
    with pytest.raises(TypeError, match="abstract"):
        Samples()


def test_large_batches_are_measured_in_parts():
    sizes = []

    def watched(phi: Tensor) -> Tensor:
        sizes.append(len(phi))
        return phi_squared(phi)

    phi = torch.randn(2500, 2, generator=generator())
    assert torch.equal(per_configuration(watched, phi), phi_squared(phi))
    assert sizes == [1024, 1024, 452]


def test_a_certificate_is_measured_where_there_is_a_flow_and_somebody_wants_it():
    flow = small_flow((3, 2), prior=FreeField(ACTION.lattice, m2=1.0).double())
    assert certificate_of(None, ACTION, 8, None) is None
    assert certificate_of(flow, ACTION, 0, None) is None
    assert certificate_of(flow, ACTION, 8, generator()).n_samples == 8
    for certify in (0, 8):
        ensemble = importance_sample(flow, ACTION, 4, certify=certify, generator=generator())
        assert (ensemble.certificate is None) == (certify == 0)


def of_batch(phi: Tensor) -> Tensor:
    """A susceptibility that subtracts the mean of the batch, without weights."""
    return (phi - phi.mean(0)).square().mean((1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_observable_that_depends_on_the_batch_is_refused(dtype):
    phi = torch.randn(200, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))
    ensemble = Ensemble(phi, torch.zeros(200), torch.zeros(200), space=Lattice((4, 4)))
    chain = Chain(phi.reshape(50, 4, 4, 4), torch.ones(50, 4), space=Lattice((4, 4)))
    for samples in (ensemble, chain):
        with pytest.raises(ValueError, match="depends on the other configurations"):
            samples.mean(of_batch)
        with pytest.raises(ValueError, match="depends on the other configurations"):
            measure(samples, observables=[Observable("spread", of_batch)])
        # What is right passes: differences that cancel, numbers of any type, values that are not finite.
        for right in (
            lambda phi: phi.square().mean((1, 2)) - 1,
            lambda phi: 1e4 + phi.mean((1, 2)),
            lambda phi: (phi.mean((1, 2)) > 0).to(phi),
        ):
            assert math.isfinite(samples.mean(right).error)
