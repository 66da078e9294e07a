"""States of field and momentum: their space, and the target and the prior on them."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow.flows import ExtendedAction, PhaseSpace, PhaseSpacePrior
from equiflow.runtime.randomness import SharedGenerator, own_rows
from equiflow.samplers import HMC
from equiflow.testing import randomise
from equiflow.theories.angles.space import Angles
from equiflow.theories.angles.xy import XYModel
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar.external_field import ExternalField
from equiflow.theories.scalar.phi4 import Phi4
from equiflow.theories.scalar.priors import StandardNormal
from tests.support.strategies import configurations

LATTICE = Lattice((3, 4))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 4), (2, 3, 2)])
def test_splitting_undoes_joining(shape):
    space = PhaseSpace(Lattice(shape))
    phi, momentum = configurations(space.lattice), configurations(space.lattice, seed=1)
    state = space.join(phi, momentum)
    assert state.shape == (3, *space.shape) == (3, 2, *shape)
    for found, part in zip(space.split(state), (phi, momentum), strict=True):
        assert torch.equal(found, part)
    assert PhaseSpace.of_shape(space.shape) == space
    assert space.size == 2 * space.lattice.volume


def test_two_phase_spaces_are_the_same_if_their_lattices_are():
    assert PhaseSpace(LATTICE) == PhaseSpace(Lattice((3, 4)))
    assert PhaseSpace(LATTICE) != PhaseSpace(Lattice((4, 3)))
    assert PhaseSpace(LATTICE) != Lattice((2, 3, 4))  # of the same shape, but no field and momentum
    with pytest.raises(TypeError, match="lattice must be of type Lattice"):
        PhaseSpace(Angles(LATTICE))


@pytest.mark.parametrize("shape", [(5, 3, 4), (5, 2, 4, 3), (5, 3, 3, 4), (2, 3, 4), (5, 1, 2, 3, 4)])
def test_states_of_another_shape_are_refused(shape):
    space = PhaseSpace(LATTICE)
    with pytest.raises(ValueError, match=r"expected \(batch, 2, 3, 4\): the field and its momentum"):
        space.split(torch.zeros(shape))


@pytest.mark.parametrize("state", [[0.0], torch.zeros(5, 2, 3, 4, dtype=torch.int64)])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(TypeError, match=r"state (must be a torch\.Tensor|has dtype torch.int64)"):
        PhaseSpace(LATTICE).split(state)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2)])
def test_the_extended_action_and_its_gradient(shape):
    action = Phi4(Lattice(shape), m2=-1.0, lam=2.0)
    extended = ExtendedAction(action)
    phi, momentum = configurations(action.lattice), configurations(action.lattice, seed=1)
    state = torch.stack([phi, momentum], 1)
    kinetic = 0.5 * momentum.flatten(1).square().sum(1)
    torch.testing.assert_close(extended(state), action(phi) + kinetic)
    leaf = state.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(extended(leaf).sum(), leaf)
    torch.testing.assert_close(extended.grad(state), gradient)
    assert extended.log_z_shift == pytest.approx(action.lattice.volume / 2 * math.log(2 * math.pi))
    assert extended.space == PhaseSpace(action.lattice)


def test_momenta_are_for_scalar_fields():
    with pytest.raises(TypeError, match="Momenta are for scalar fields"):
        ExtendedAction(XYModel(Angles(LATTICE), beta=1.0))


def test_added_momenta_are_those_of_the_target_and_leave_the_field():
    extended = ExtendedAction(Phi4(LATTICE, m2=1.0, lam=1.0))
    phi = configurations(LATTICE, 2000)
    state = extended.with_momenta(phi, generator(), batch_size=2000)
    field, momentum = extended.space.split(state)
    assert torch.equal(field, phi)
    assert float(momentum.mean().abs()) < 4 / math.sqrt(momentum.numel())
    assert float((momentum.square().mean() - 1).abs()) < 4 * math.sqrt(2 / momentum.numel())
    assert torch.equal(momentum, torch.randn(2000, 3, 4, generator=generator(), dtype=phi.dtype))


def test_processes_together_add_the_momenta_of_one():
    extended = ExtendedAction(Phi4(LATTICE, m2=1.0, lam=1.0))
    phi = configurations(LATTICE, 5)
    whole = extended.with_momenta(phi, generator(3), batch_size=5)
    shared = [SharedGenerator("cpu", rank=r, world_size=2).manual_seed(3) for r in (0, 1)]
    parts = [extended.with_momenta(own_rows(phi, g), g, batch_size=5) for g in shared]
    assert torch.equal(torch.cat(parts), whole)


def test_hmc_samples_an_extended_action():
    extended = ExtendedAction(Phi4(Lattice((2, 2)), m2=1.0, lam=1.0))
    chain = HMC(extended).sample(50, n_chains=32, n_thermalisation=50, generator=generator())
    assert chain.samples.shape == (50, 32, 2, 2, 2)
    kinetic = chain.mean(lambda state: state[:, 1].square().flatten(1).mean(1))
    assert abs(kinetic.mean - 1) < 4 * kinetic.error


def test_the_prior_is_a_product():
    prior = PhaseSpacePrior(LATTICE).double()
    randomise(prior)
    z = prior.rsample(5, generator())
    assert z.shape == (5, *prior.event_shape) == (5, *prior.space.shape)
    leaf = z.detach().requires_grad_()
    (score,) = torch.autograd.grad(prior.log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(prior.score(z), score)
    parts = prior.position.log_prob(z[:, 0]) + prior.momentum.log_prob(z[:, 1])
    torch.testing.assert_close(prior.log_prob(z), parts)


def test_the_default_momentum_starts_white():
    prior = PhaseSpacePrior(LATTICE).double()
    p = configurations(prior.lattice)
    torch.testing.assert_close(prior.momentum.log_prob(p), StandardNormal(prior.lattice).double().log_prob(p))


class FarOff(Phi4):
    """An action that is stiff near zero, so that its chains start elsewhere."""

    def initial(self, n, generator=None, *, device="cpu", dtype=torch.float64):
        return 7.0 + super().initial(n, generator, device=device, dtype=dtype)


@pytest.mark.parametrize(
    "inner",
    [
        FarOff(LATTICE, m2=1.0, lam=2.0),
        ExternalField(FarOff(LATTICE, m2=1.0, lam=2.0), h=0.3),
    ],
    ids=["action", "in a field"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_extended_action_passes_on_what_the_action_says_of_starts_and_couplings(inner, dtype):
    extended = ExtendedAction(inner)
    state = extended.initial(500, generator(), dtype=dtype)
    assert state.dtype == dtype
    phi, momentum = extended.space.split(state)
    assert torch.equal(phi, inner.initial(500, generator(), dtype=dtype))
    assert float(momentum.mean()) == pytest.approx(0.0, abs=4 / math.sqrt(500 * 12))
    assert float(momentum.std()) == pytest.approx(1.0, abs=4 / math.sqrt(2 * 500 * 12))
    assert float((phi - 7.0).flatten().double() @ momentum.flatten().double()) < 4 * 0.1 * math.sqrt(500 * 12)
    for name in ("m2", "lam"):
        assert torch.equal(extended.coupling_grad(state, name), inner.coupling_grad(phi, name))
    with pytest.raises(ValueError, match="not 'beta'"):
        extended.coupling_grad(state, "beta")
    chain = HMC(extended, step_size=0.01).sample(1, n_chains=2, n_thermalisation=0, generator=generator())
    assert float(chain.samples[:, :, 0].mean()) > 3


def test_the_prior_whitens_each_part_by_itself():
    class Cubed(StandardNormal):
        """`z = noise^3`, which is not Gaussian: the score does not lead back to the noise."""

        def colour(self, noise):
            return noise**3

        def whiten(self, z):
            return z.sign() * z.abs() ** (1 / 3)

    prior = PhaseSpacePrior(LATTICE, position=Cubed(LATTICE)).double()
    noise = configurations(prior.space)
    torch.testing.assert_close(prior.whiten(prior.colour(noise)), noise)
