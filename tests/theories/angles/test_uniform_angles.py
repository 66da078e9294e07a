"""The uniform prior of angles."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import (
    AngleField,
    AugmentedFlow,
    EquivariantCNF,
    ExtendedAction,
    ExternalField,
    FreeField,
    Lattice,
    Phi4,
    StandardNormal,
    UniformAngles,
    Wolff,
    XYModel,
    fit,
)
from equiflow.testing import invariance_error
from tests.support.angles import SQUARE, TURN, random_field
from tests.support.strategies import configurations


def test_the_prior_is_uniform_and_its_noise_comes_back():
    prior = UniformAngles(SQUARE).double()
    noise = configurations(SQUARE, 2000)
    theta = prior.colour(noise)
    moments = torch.stack([theta.cos(), theta.sin(), (2 * theta).cos(), (2 * theta).sin()]).mean((1, 2, 3))
    assert float(moments.abs().max()) < 4 / math.sqrt(2 * 18000)
    torch.testing.assert_close(prior.whiten(theta), noise)
    torch.testing.assert_close(prior.whiten(theta + TURN), noise, rtol=1e-9, atol=1e-9)
    assert bool(prior.whiten(torch.full((1, 3, 3), math.pi, dtype=torch.float64)).isfinite().all())
    torch.testing.assert_close(prior.log_prob(theta), torch.full((2000,), -9 * math.log(TURN)))
    assert not prior.score(theta).any()
    assert prior.parameter_score(theta).shape == (2000, 0)


def test_gaussians_and_fields_of_real_numbers_refuse_angles():
    for prior in (StandardNormal, FreeField):
        with pytest.raises(TypeError, match="UniformAngles"):
            prior(SQUARE)
    action = XYModel(SQUARE, beta=0.5)
    for build in (
        lambda: ExternalField(action, h=0.1),
        lambda: ExtendedAction(action),
        lambda: Wolff(action),
    ):
        with pytest.raises(TypeError):
            build()
    for build in (AngleField, UniformAngles, lambda space: XYModel(space, beta=1.0)):
        with pytest.raises(TypeError, match="Angles"):
            build(Lattice((3, 3)))
    with pytest.raises(TypeError):
        AugmentedFlow(SQUARE)
    with pytest.raises(ValueError, match="angles"):
        fit(EquivariantCNF(Lattice((3, 3))), action, steps=1)
    with pytest.raises(ValueError, match="lattice"):
        fit(EquivariantCNF(SQUARE), Phi4(Lattice((3, 3)), m2=1.0, lam=1.0), steps=1)


class VonMisesFromTheOrigin(UniformAngles):
    """A density that falls off from zero, as if angles were real numbers."""

    def log_prob(self, z):
        return super().log_prob(z) - 1e-3 * z.square().sum(self.space.event_axes)


def test_a_log_density_that_winds_is_seen():
    flow = EquivariantCNF(SQUARE, vector_field=random_field(), prior=VonMisesFromTheOrigin(SQUARE)).double()
    errors = invariance_error(flow, flow.group, n_samples=1)
    assert min(error for name, error in errors.items() if name.startswith("winding")) > 1e-3
