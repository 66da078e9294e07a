"""The prior of trapped particles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch.distributions import MultivariateNormal

from equiflow import TrappedGaussian
from equiflow.theories.particles.group import EuclideanGroup
from tests.support.particles import PLANE
from tests.support.strategies import configurations, particle_flows


def covariance(prior: TrappedGaussian) -> torch.Tensor:
    """Return the covariance of all coordinates: sigma^2 on differences, 1 / beta on the uniform mode."""
    n, dim = prior.space.shape
    uniform = torch.full((n, n), 1 / n)
    each = (torch.eye(n) - uniform) * (2 * prior.log_sigma.detach()).exp() + uniform / prior.beta
    return torch.kron(each, torch.eye(dim))


def density_mismatch(prior: TrappedGaussian, dense: torch.Tensor) -> float:
    z = configurations(prior.space)
    oracle = MultivariateNormal(torch.zeros(prior.space.size), dense)
    return float((prior.log_prob(z).detach() - oracle.log_prob(z.flatten(1))).abs().max())


@given(particle_flows())
def test_prior_is_the_dense_normal_with_its_score(flow):
    prior = flow.prior
    assert density_mismatch(prior, covariance(prior)) < 1e-9
    root = prior.colour(torch.eye(prior.space.size).reshape(-1, *prior.space.shape)).detach().flatten(1)
    torch.testing.assert_close(root.mT @ root, covariance(prior), rtol=1e-12, atol=1e-12)
    z = configurations(prior.space).requires_grad_()
    (expected,) = torch.autograd.grad(prior.log_prob(z).sum(), z)
    torch.testing.assert_close(prior.score(z), expected, rtol=1e-10, atol=1e-10)
    by_autograd = super(TrappedGaussian, prior).parameter_score(z)
    torch.testing.assert_close(prior.parameter_score(z), by_autograd, rtol=1e-10, atol=1e-10)


def test_the_variance_of_the_centre_of_mass_matters():
    prior, other = (TrappedGaussian(PLANE, beta=beta) for beta in (2.0, 2.1))
    assert density_mismatch(prior, covariance(other)) > 1e-3


def test_a_group_with_translations_is_refused_by_the_prior():
    with pytest.raises(ValueError, match="without translations"):
        TrappedGaussian(PLANE, group=EuclideanGroup(PLANE, translations=True))
