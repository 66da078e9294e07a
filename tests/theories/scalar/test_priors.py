from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from equiflow.testing import randomise
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior, known_priors
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.phi4 import FreeScalar
from equiflow.theories.scalar.priors import FreeField, StandardNormal
from tests.support.strategies import (
    LATTICE_PRIORS,
    configurations,
    groups,
    lattices,
    log_integral,
    priors,
    seeds,
)


def covariance(prior: Prior) -> Tensor:
    """Return `C(x, y) = 1/V sum_k sigma_k^2 cos k(x - y)`, summed mode by mode."""
    shape = prior.lattice.shape
    if isinstance(prior, StandardNormal):
        return torch.eye(prior.lattice.volume)
    sites = np.array(list(itertools.product(*map(range, shape))))
    sigma = prior.log_sigma.detach().exp()[prior.group.momentum_orbits().index].flatten().numpy()
    phase = 2 * np.pi * sites @ (sites / np.array(shape)).T
    waves = np.exp(1j * phase) * sigma / np.sqrt(len(sites))
    return torch.from_numpy((waves @ waves.conj().T).real)


def density_mismatch(prior: Prior, dense: Tensor, seed: int = 0) -> float:
    z = configurations(prior.lattice, seed=seed)
    oracle = MultivariateNormal(torch.zeros(prior.lattice.volume), dense)
    return float((prior.log_prob(z).detach() - oracle.log_prob(z.flatten(1))).abs().max())


def invariance_violation(prior: Prior, group: SymmetryGroup) -> float:
    z = configurations(prior.lattice)
    moved = [prior.log_prob(g(z)) - prior.log_prob(z) for g in group.generators().values()]
    return float(torch.stack(moved).detach().abs().max())


def random_free_field(shape: tuple[int, ...], *, point: str = "full", m2: float = 0.5) -> FreeField:
    lattice = Lattice(shape)
    prior = FreeField(lattice, m2=m2, group=SymmetryGroup(lattice, point)).double()
    randomise(prior)
    return prior


@given(priors(lattices(max_volume=30)), seeds)
def test_log_prob_is_the_dense_multivariate_normal(prior, seed):
    assert density_mismatch(prior, covariance(prior), seed) < 1e-9


def test_log_prob_is_not_that_of_another_spectrum():
    one, other = random_free_field((3, 4)), random_free_field((3, 4), m2=0.6)
    assert density_mismatch(one, covariance(other)) > 1e-3


@given(priors(), seeds)
def test_score_is_the_gradient_of_log_prob(prior, seed):
    z = configurations(prior.lattice, seed=seed).requires_grad_()
    (expected,) = torch.autograd.grad(prior.log_prob(z).sum(), z)
    torch.testing.assert_close(prior.score(z), expected, rtol=1e-10, atol=1e-10)


@given(priors(lattices(max_volume=30)))
def test_colouring_white_noise_gives_the_covariance(prior):
    sites = torch.eye(prior.lattice.volume).reshape(-1, *prior.lattice.shape)
    root = prior.colour(sites).detach().flatten(1)
    torch.testing.assert_close(root.T @ root, covariance(prior), rtol=1e-10, atol=1e-10)


def worst_covariance_deviation(prior: Prior, dense: Tensor) -> float:
    """Return the largest deviation of a sample covariance from `dense`, in standard errors."""
    n = 20_000
    z = prior.rsample(n, torch.Generator().manual_seed(0)).detach().flatten(1)
    variance = dense.diagonal()
    error = ((torch.outer(variance, variance) + dense**2) / n).sqrt()
    return float((((z.T @ z) / n - dense) / error).abs().max())


@pytest.mark.parametrize(
    "prior",
    [random_free_field((3, 4)), random_free_field((2, 3, 2)), StandardNormal(Lattice((3, 4)))],
    ids=["FreeField 2D", "FreeField 3D", "StandardNormal"],
)
def test_samples_have_the_covariance(prior):
    assert worst_covariance_deviation(prior.double(), covariance(prior)) < 5


def test_sample_covariance_sees_another_spectrum():
    prior = random_free_field((3, 4))
    assert worst_covariance_deviation(prior, covariance(random_free_field((3, 4), m2=0.6))) > 8


@pytest.mark.parametrize("name", LATTICE_PRIORS)
@pytest.mark.parametrize("shape", [(1,), (1, 1), (2,), (2, 1)])
def test_density_integrates_to_one(name, shape):
    prior = LATTICE_PRIORS[name](Lattice(shape)).double()
    randomise(prior)
    assert log_integral(prior.log_prob, prior.lattice) == pytest.approx(0, abs=1e-10)


def test_a_density_without_its_constants_does_not_integrate_to_one():
    prior = random_free_field((2,))
    constant = prior.log_prob(torch.zeros(1, 2))
    assert abs(log_integral(lambda z: prior.log_prob(z) - constant, prior.lattice)) > 0.1


@given(priors())
def test_log_prob_is_invariant_under_the_group(prior):
    assert invariance_violation(prior, prior.group) < 1e-10


def test_a_spectrum_tied_by_a_smaller_group_breaks_the_larger():
    prior = random_free_field((4, 4), point="inversion")
    assert invariance_violation(prior, prior.group) < 1e-10
    assert invariance_violation(prior, SymmetryGroup(prior.lattice)) > 1e-2


@given(lattices(), st.floats(0.1, 4))
def test_free_field_starts_as_the_free_scalar(lattice, m2):
    prior, action = FreeField(lattice, m2=m2).double(), FreeScalar(lattice, m2=m2)
    torch.testing.assert_close(prior.mode_variance(), lattice.half(action.mode_variance()))
    z = configurations(lattice)
    torch.testing.assert_close(prior.log_prob(z), -action(z) - action.log_z())
    torch.testing.assert_close(prior.score(z), -action.grad(z))


@given(lattices().flatmap(groups))
def test_gradient_reaches_the_whole_spectrum(group):
    prior = FreeField(group.lattice, group=group).double()
    gradients = [
        torch.autograd.grad(prior.log_prob(configurations(group.lattice)).sum(), prior.log_sigma)[0],
        torch.autograd.grad(
            prior.rsample(3, torch.Generator().manual_seed(0)).square().sum(), prior.log_sigma
        )[0],
    ]
    assert all(bool((g != 0).all()) for g in gradients)


def test_a_fixed_spectrum_is_not_trained():
    prior = FreeField(Lattice((3, 3)), learnable=False)
    assert not any(p.requires_grad for p in prior.parameters())
    assert not prior.log_prob(configurations(prior.lattice)).requires_grad


@pytest.mark.parametrize("name", LATTICE_PRIORS)
def test_same_generator_same_samples(name):
    prior = LATTICE_PRIORS[name](Lattice((3, 4)))
    one, two = (prior.rsample(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, prior.rsample(5, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("name", LATTICE_PRIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_moves_with_the_module(name, dtype, device):
    prior = LATTICE_PRIORS[name](Lattice((3, 4))).to(device, dtype)
    z = prior.rsample(2)
    for tensor in (z, prior.log_prob(z), prior.score(z)):
        assert (tensor.dtype, tensor.device.type) == (dtype, device.type)
    assert (prior.dtype, prior.device.type) == (dtype, device.type)


@pytest.mark.parametrize("name", LATTICE_PRIORS)
@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_none_and_one(name, n):
    prior = LATTICE_PRIORS[name](Lattice((3, 4)))
    z = prior.rsample(n)
    assert z.shape == prior.score(z).shape == (n, 3, 4)
    assert prior.log_prob(z).shape == (n,)


@given(priors())
def test_config_rebuilds_the_prior(prior):
    rebuilt = known_priors()[type(prior).__name__](prior.lattice, group=prior.group, **prior.config())
    rebuilt.double().load_state_dict(prior.state_dict())
    z = configurations(prior.lattice)
    assert torch.equal(rebuilt.log_prob(z), prior.log_prob(z))
    assert [p.requires_grad for p in rebuilt.parameters()] == [p.requires_grad for p in prior.parameters()]


@pytest.mark.parametrize("m2", [0.0, -1.0, math.nan, math.inf])
def test_free_field_needs_a_positive_finite_mass(m2):
    with pytest.raises(ValueError, match="positive, finite m2"):
        FreeField(Lattice((4,)), m2=m2)


@pytest.mark.parametrize("name", LATTICE_PRIORS)
def test_a_group_of_another_lattice_is_refused(name):
    with pytest.raises(ValueError, match=r"acts on lattice \(4,\), the prior lives on \(5,\)"):
        LATTICE_PRIORS[name](Lattice((5,)), group=SymmetryGroup(Lattice((4,))))


@pytest.mark.parametrize("prior", [StandardNormal, FreeField])
def test_fields_of_twice_the_precision_keep_it(prior):
    made = prior(Lattice((4, 6))).float()
    z = made.rsample(5).double()
    log_q, exact = made.log_prob(z), prior(Lattice((4, 6))).double().log_prob(z)
    assert log_q.dtype == made.score(z).dtype == torch.float64
    assert torch.allclose(log_q, exact, rtol=0, atol=1e-4)  # the spectrum is still one of float32
    assert not torch.allclose(log_q, made.log_prob(z.float()).double(), rtol=0, atol=1e-9)
