"""Flows on field and momentum: their laws are about the discrete map, so they hold to rounding."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equiflow.flows import (
    AugmentedFlow,
    EquivariantCNF,
    ExtendedAction,
    ExtendedFlow,
    SymplecticFlow,
)
from equiflow.nn.couplings.phase_space import PhaseSpaceLayer
from equiflow.runtime.storage import CheckpointError
from equiflow.samplers import HMC, importance_sample
from equiflow.testing import dense_jacobian, randomise
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.symmetry import SymmetryGroup, Transformation
from equiflow.theories.scalar.observables import susceptibility
from equiflow.theories.scalar.phi4 import Phi4
from equiflow.theories.scalar.priors import FreeField, StandardNormal
from equiflow.training import Objective, ReverseKL, fit
from equiflow.training.objectives.reverse import InversePathGradient
from tests.support.strategies import configurations, log_integral, seeds, small_flow

FLOWS = (SymplecticFlow, AugmentedFlow)
SHAPES = ((1,), (5,), (6,), (3, 3), (4, 4), (3, 4), (1, 4), (2, 3, 2), (3, 3, 3))
EXACT = 1e-12

families = pytest.mark.parametrize("family", FLOWS)


def make(
    family: type[ExtendedFlow], shape: tuple[int, ...], *, seed: int = 0, **options: object
) -> ExtendedFlow:
    options = {"n_steps": 2, "n_channels": 2, "n_frequencies": 2, "max_frequency": 2.0} | options
    flow = family(Lattice(shape), **options).double()
    randomise(flow, scale=0.1, seed=seed)
    return flow


@st.composite
def extended_flows(draw: st.DrawFn, max_volume: int = 27) -> ExtendedFlow:
    shape = draw(st.sampled_from([s for s in SHAPES if math.prod(s) <= max_volume]))
    point = draw(st.sampled_from(["full", "rotations", "reflections", "inversion", "trivial"]))
    group = SymmetryGroup(Lattice(shape), point, z2=draw(st.booleans()))
    return make(
        draw(st.sampled_from(FLOWS)),
        shape,
        group=group,
        seed=draw(seeds),
        n_steps=draw(st.integers(1, 3)),
        n_channels=draw(st.integers(1, 3)),
    )


def states(flow: ExtendedFlow, n: int = 3, seed: int = 0) -> Tensor:
    return torch.stack([configurations(flow.lattice, n, seed), configurations(flow.lattice, n, seed + 1)], 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative(difference: Tensor, scale: Tensor) -> float:
    return float(difference.detach().abs().max() / scale.detach().abs().max().clamp(min=1.0))


def moved_apart(flow: ExtendedFlow, element: Transformation) -> float:
    """`max |f(g z) - g f(z)|` and the change of log_det, relative."""
    z = states(flow)
    with torch.no_grad():
        state, log_det = flow.transform_and_log_det(z)
        other, other_log_det = flow.transform_and_log_det(element(z))
    of_log_det = relative(other_log_det - log_det, log_det)
    return max(relative(other - element(state), state), of_log_det)


def jacobian(flow: ExtendedFlow, z: Tensor) -> Tensor:
    return dense_jacobian(lambda x: flow.transform_and_log_det(x)[0], z)


def symplectic_defect(flow: ExtendedFlow, z: Tensor) -> float:
    """`max |J^T Omega J - Omega|`, relative to `|J|^2`."""
    eye, zero = torch.eye(flow.lattice.volume), torch.zeros(flow.lattice.volume, flow.lattice.volume)
    omega = torch.cat([torch.cat([zero, eye], 1), torch.cat([-eye, zero], 1)])
    j = jacobian(flow, z)
    return relative(j.mT @ omega @ j - omega, j.square())


class ReplacedLayer(PhaseSpaceLayer):
    """A layer with a planted mistake."""

    def __init__(self, good: PhaseSpaceLayer, what: str) -> None:
        torch.nn.Module.__init__(self)
        self.good = good
        self.what = what

    def _after(self, driver: Tensor) -> Tensor:
        change = {
            "anisotropic": 0.1 * torch.sin(driver.roll(1, -1)),
            "pinned": 0.1 * torch.sin(driver) * (torch.arange(driver.shape[-1]) == 0),
            "even": 0.1 * driver.square(),
            "no gradient": 0.1 * driver.roll(1, -1) * driver.square(),
        }
        return change[self.what]

    def forward(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        moved, log_det = self.good(moved, driver)
        return moved + self._after(driver), log_det

    def inverse(self, moved: Tensor, driver: Tensor) -> tuple[Tensor, Tensor]:
        return self.good.inverse(moved - self._after(driver), driver)


def planted(flow: ExtendedFlow, what: str) -> ExtendedFlow:
    wrong = copy.deepcopy(flow)
    wrong.layers[1] = ReplacedLayer(wrong.layers[1], what)
    return wrong


@given(extended_flows(), seeds)
def test_the_map_commutes_with_the_group_on_field_and_momentum_at_once(flow, seed):
    random = [flow.group.random_element(generator(seed + i)) for i in range(3)]
    for element in (*flow.group.generators().values(), *random):
        assert moved_apart(flow, element) < EXACT


@given(extended_flows(), seeds)
def test_every_step_commutes_with_the_group(flow, seed):
    moved, driver = states(flow, seed=seed).unbind(1)
    element = flow.group.random_element(generator(seed))
    with torch.no_grad():
        for layer in flow.layers:
            there = layer(element(moved), element(driver))[0]
            here = element(layer(moved, driver)[0])
            assert relative(there - here, here) < EXACT


@families
@pytest.mark.parametrize(
    ("what", "broken"),
    [
        ("anisotropic", "rotation x -> (-y, x)"),
        ("pinned", "translation along axis 1"),
        ("even", "Z2 phi -> -phi"),
    ],
)
def test_broken_symmetries_are_seen(family, what, broken):
    flow = make(family, (4, 4))
    element = flow.group.generators()[broken]
    assert moved_apart(flow, element) < EXACT
    assert moved_apart(planted(flow, what), element) > 1e-3


@families
def test_a_smaller_group_breaks_the_larger_and_momenta_transform_too(family):
    flow = make(family, (4, 4), group=SymmetryGroup(Lattice((4, 4)), z2=False))
    assert moved_apart(flow, SymmetryGroup(flow.lattice).generators()["Z2 phi -> -phi"]) > 1e-3
    shift = flow.group.generators()["translation along axis 0"]
    only_field = lambda state: torch.stack([shift(state[:, 0]), state[:, 1]], 1)  # noqa: E731
    assert moved_apart(flow, only_field) > 1e-3


@settings(max_examples=15)
@given(extended_flows(max_volume=12), seeds)
def test_log_det_is_that_of_the_dense_jacobian(flow, seed):
    z = states(flow, 2, seed)
    state, log_det = flow.transform_and_log_det(z)
    dense = torch.linalg.slogdet(jacobian(flow, z))
    assert bool((dense.sign == 1).all())
    assert relative(log_det - dense.logabsdet, log_det) < EXACT
    expected = flow.prior.log_prob(z) - dense.logabsdet
    assert relative(flow.log_prob(state.detach()) - expected, expected) < EXACT
    if isinstance(flow, AugmentedFlow):
        assert float(log_det.detach().abs().min()) > 1e-6


@given(extended_flows(), seeds)
def test_the_inverse_is_exact_to_rounding(flow, seed):
    z = states(flow, seed=seed)
    with torch.no_grad():
        state, log_det = flow.transform_and_log_det(z)
        back, back_log_det = flow.inverse_and_log_det(state)
        there_again, _ = flow.transform_and_log_det(back)
    assert relative(state - z, z) > 1e-2
    assert relative(back - z, state) < EXACT
    assert relative(there_again - state, state) < EXACT
    assert relative(back_log_det + log_det, log_det) < EXACT


@families
def test_an_inverse_in_the_wrong_order_is_no_inverse(family):
    flow = make(family, (3, 3))
    z = states(flow)
    state, _ = flow.transform_and_log_det(z)
    flow.layers = torch.nn.ModuleList(reversed(flow.layers))
    assert relative(flow.inverse_and_log_det(state)[0] - z, z) > 1e-2


@given(extended_flows(), seeds)
def test_sampled_log_prob_is_log_prob_of_the_sample(flow, seed):
    state, log_q = flow.sample_and_log_prob(4, generator=generator(seed))
    assert state.shape == (4, 2, *flow.lattice.shape)
    assert not state.requires_grad
    assert not log_q.requires_grad
    assert relative(flow.log_prob(state) - log_q, log_q) < EXACT
    torch.testing.assert_close(flow.distribution().log_prob(state), flow.log_prob(state))
    assert flow.distribution().sample((2, 3)).shape == (2, 3, 2, *flow.lattice.shape)


@pytest.mark.parametrize("z2", [True, False])
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 3), (3, 4), (2, 3, 2)])
def test_the_symplectic_flow_preserves_the_two_form_and_the_volume(shape, z2):
    flow = make(SymplecticFlow, shape, group=SymmetryGroup(Lattice(shape), z2=z2))
    z = states(flow, 2)
    assert symplectic_defect(flow, z) < EXACT
    assert float(torch.linalg.slogdet(jacobian(flow, z)).logabsdet.abs().max()) < EXACT
    assert not bool(flow.transform_and_log_det(z)[1].any())


def test_what_is_not_symplectic_is_seen():
    augmented, symplectic = make(AugmentedFlow, (3, 3)), make(SymplecticFlow, (3, 3))
    z = states(symplectic, 2)
    assert symplectic_defect(augmented, z) > 1e-3
    sheared = planted(symplectic, "no gradient")  # preserves the volume, not the two-form
    assert symplectic_defect(sheared, z) > 1e-3
    assert float(torch.linalg.slogdet(jacobian(sheared, z)).logabsdet.abs().max()) < EXACT


@families
@pytest.mark.parametrize("z2", [True, False])
def test_density_integrates_to_one(family, z2):
    flow = make(family, (1,), group=SymmetryGroup(Lattice((1,)), z2=z2), max_frequency=1.0)

    def state(grid: Tensor) -> Tensor:
        return (2 * grid).reshape(-1, 2, 1)  # reaches 24, where the tails are below rounding

    def without_log_det(grid: Tensor) -> Tensor:
        return flow.prior.log_prob(flow.inverse_and_log_det(state(grid))[0])

    shift = 2 * math.log(2)
    assert abs(log_integral(lambda grid: flow.log_prob(state(grid)), Lattice((2,))) + shift) < EXACT
    if family is AugmentedFlow:
        assert abs(log_integral(without_log_det, Lattice((2,))) + shift) > 1e-3


@given(extended_flows())
def test_gradients_reach_every_parameter(flow):
    action = ExtendedAction(Phi4(flow.lattice, m2=1.0, lam=1.0))
    state, log_q = flow.rsample_and_log_prob(16, generator=generator())
    (log_q + action(state)).mean().backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


@families
def test_gradients_are_those_of_finite_differences(family):
    flow = make(family, (2, 2))
    action = ExtendedAction(Phi4(flow.lattice, m2=1.0, lam=1.0))

    def loss() -> Tensor:
        state, log_q = flow.rsample_and_log_prob(4, generator=generator())
        return (log_q + action(state)).mean()

    loss().backward()
    for parameter in flow.parameters():
        where = int(parameter.grad.abs().argmax())
        expected = float(parameter.grad.flatten()[where])
        values = []
        for step in (1e-5, -2e-5):
            parameter.data.view(-1)[where] += step
            values.append(float(loss().detach()))
        parameter.data.view(-1)[where] += 1e-5
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_the_untrained_flow_is_harmonic_motion():
    """At m2 = 1 a quarter turn exchanges field and momentum, up to leapfrog's error."""
    flow = SymplecticFlow(Lattice((4, 4)), n_steps=64).double()
    phi, momentum = states(flow).unbind(1)
    state, _ = flow.transform_and_log_det(torch.stack([phi, momentum], 1))
    expected = torch.stack([flow.prior.position.colour(momentum), flow.prior.position.score(phi)], 1)
    # score = -phi / sigma^2; what a quarter turn gives is -phi / sigma.
    expected[:, 1] = flow.prior.position.colour(expected[:, 1])
    torch.testing.assert_close(state.detach(), expected.detach(), rtol=0, atol=1e-3)


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [None, "white"])
def test_a_saved_flow_is_loaded(family, dtype, momentum, tmp_path):
    lattice = Lattice((3, 4))
    group = SymmetryGroup(lattice, "inversion", z2=False)
    white = StandardNormal(lattice, group=group) if momentum else None
    flow = make(family, (3, 4), group=group, momentum=white).to(dtype)
    flow.save(tmp_path / "flow.pt")
    loaded = family.load(tmp_path / "flow.pt")
    assert str(loaded) == str(flow)
    state = states(flow).to(dtype)
    assert torch.equal(loaded.log_prob(state), flow.log_prob(state))
    assert loaded.dtype == dtype


class OwnPrior(Prior):
    def colour(self, noise: Tensor) -> Tensor:
        return 2 * noise

    def log_prob(self, z: Tensor) -> Tensor:
        return StandardNormal.log_prob(self, z / 2) - self.lattice.volume * math.log(2)

    def score(self, z: Tensor) -> Tensor:
        return -z / 4


def test_a_file_of_another_flow_is_refused(tmp_path):
    make(SymplecticFlow, (3, 3)).save(tmp_path / "symplectic.pt")
    small_flow().save(tmp_path / "cnf.pt")
    with pytest.raises(CheckpointError, match="SymplecticFlow, not a AugmentedFlow"):
        AugmentedFlow.load(tmp_path / "symplectic.pt")
    with pytest.raises(CheckpointError, match="does not describe a flow"):
        AugmentedFlow.load(tmp_path / "cnf.pt")
    with pytest.raises(CheckpointError, match="does not describe a flow"):
        EquivariantCNF.load(tmp_path / "symplectic.pt")


def test_a_prior_of_ones_own_is_handed_to_load(tmp_path):
    own = OwnPrior(Lattice((3, 3))).double()
    flow = make(SymplecticFlow, (3, 3), position=own)
    flow.save(tmp_path / "own.pt")
    with pytest.raises(
        CheckpointError, match=r"OwnPrior is no class that equiflow can build.* position=OwnPrior\(lattice\)"
    ):
        SymplecticFlow.load(tmp_path / "own.pt")
    loaded = SymplecticFlow.load(tmp_path / "own.pt", position=own)
    assert torch.equal(loaded.log_prob(states(flow)), flow.log_prob(states(flow)))


@families
def test_wrong_inputs_are_named(family):
    flow = make(family, (3, 3))
    with pytest.raises(ValueError, match=r"expected \(batch, 2, 3, 3\): the field and its momentum"):
        flow.log_prob(torch.zeros(4, 3, 3))
    with pytest.raises(TypeError, match="dtype"):
        flow.log_prob(states(flow).float())
    with pytest.raises(ValueError, match="NaN or infinite"):
        flow.log_prob(states(flow) * math.nan)
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor"):
        flow.space.split([0.0])
    with pytest.raises(ValueError, match="n_steps=0"):
        make(family, (3, 3), n_steps=0)
    with pytest.raises(ValueError, match="at least one channel"):
        make(family, (3, 3), n_channels=0)
    with pytest.raises(ValueError, match="one Lattice"):
        make(family, (3, 3), position=FreeField(Lattice((4, 4))))


@families
def test_empty_batches_and_float32(family):
    flow = make(family, (3, 4)).float()
    state, log_q = flow.sample_and_log_prob(0)
    assert state.shape == (0, 2, 3, 4)
    assert log_q.shape == (0,)
    state, log_q = flow.sample_and_log_prob(5)
    torch.testing.assert_close(flow.log_prob(state), log_q, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("family", "least"), [(SymplecticFlow, 0.2), (AugmentedFlow, 0.5)])
def test_reweighted_observables_agree_with_hmc(family, least):
    action = Phi4(Lattice((4, 4)), m2=-4.0, lam=7.0)
    extended = ExtendedAction(action)
    flow = family(action.lattice).double()
    fit(flow, extended, steps=60, objective=ReverseKL(), progress=False)
    ensemble = importance_sample(flow, extended, 8192, generator=generator(1))
    assert ensemble.effective_sample_size().mean > least
    chain = HMC(action).sample(100, n_chains=64, thin=2, generator=generator(2))
    chi = chain.mean(susceptibility)
    mine = ensemble.mean(lambda state: susceptibility(state[:, 0]))
    assert abs(mine.mean - chi.mean) < 4 * math.hypot(mine.error, chi.error)
    assert mine.error < 0.05 * mine.mean
    kinetic = ensemble.mean(lambda state: state[:, 1].square().flatten(1).mean(1))
    assert abs(kinetic.mean - 1) < 4 * kinetic.error


class ModelAction(Action):
    """`-log q` of a fixed flow: a target that the same flow samples exactly."""

    def __init__(self, flow: ExtendedFlow) -> None:
        super().__init__(flow.space)
        self.flow = copy.deepcopy(flow)

    def forward(self, state: Tensor) -> Tensor:
        return -self.flow.log_prob(state)


def gradients(flow: ExtendedFlow, objective: Objective, action: Action, n: int) -> Tensor:
    flow.zero_grad()
    objective(flow, action, n, generator(5)).surrogate.backward()
    return torch.cat([parameter.grad.flatten() for parameter in flow.parameters()])


@families
def test_the_path_gradient_vanishes_sample_by_sample_at_the_optimum(family):
    flow = make(family, (3, 3))
    target = ModelAction(flow)
    assert gradients(flow, InversePathGradient(), target, 4).abs().max() < 1e-11
    assert gradients(flow, ReverseKL(), target, 4).abs().max() > 1e-2


@families
def test_the_path_gradient_is_the_gradient_of_the_reverse_kl(family):
    flow = make(family, (2, 2))
    action = ExtendedAction(Phi4(flow.lattice, m2=1.0, lam=1.0))
    path, plain = (gradients(flow, o, action, 10000) for o in (InversePathGradient(), ReverseKL()))
    assert float((path - plain).norm() / plain.norm()) < 0.06
