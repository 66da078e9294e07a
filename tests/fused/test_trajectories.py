"""Fused updates of HMC are the eager ones with the same random numbers, for every action they know."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equiflow import HMC, MCLMC, OMELYAN, Action, AdjustedMCLMC, ExternalField, Lattice, Phi4, fused
from equiflow.samplers import LEAPFROG, Integrator
from equiflow.samplers.mclmc import Microcanonical
from equiflow.samplers.microcanonical import Path, unit_speed
from tests.support.fused import ACTIONS, Streams, needs_numba
from tests.support.strategies import configurations
from tests.support.updates import generator

pytestmark = needs_numba
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def eager(hmc: HMC, phi: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return fields, acceptance and probabilities of the update that a kernel makes with this generator."""
    stretch = 0.5 + float(torch.rand((), generator=source))
    streams, size = Streams(source, len(phi)), phi[0].numel()
    momentum = streams.normal(size, phi.dtype).reshape(phi.shape)
    steps = max(1, round(stretch * hmc.trajectory_length / hmc.step_size))
    proposal, final = hmc.integrator(hmc.action, phi, momentum, hmc.step_size, steps)
    change = hmc.energy(proposal, final) - hmc.energy(phi, momentum)
    chance = (-change).clamp(max=0).exp()
    moved = streams.uniform(2 * ((size + 1) // 2), 1)[:, 0] < chance
    return torch.where(moved.reshape(-1, *(1,) * (phi.dim() - 1)), proposal, phi), moved.double(), chance


@DTYPES
@pytest.mark.parametrize("integrator", [LEAPFROG, OMELYAN], ids=lambda i: i.name)
@pytest.mark.parametrize("name", ACTIONS)
def test_a_fused_update_is_the_eager_one(name, integrator, dtype):
    action = ACTIONS[name]
    hmc = HMC(action, step_size=0.23, trajectory_length=1.4, integrator=integrator)
    n_chains = 21  # blocks of 16, 4 and 1 lanes
    phi = 0.5 * configurations(action.space, n_chains, dtype=dtype)
    assert hmc._stencil(phi) is not None
    new, outcome = hmc.update(phi, generator(3))
    expected, accepted, probability = eager(hmc, phi, generator(3))
    rounding = {torch.float32: 2e-4, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(outcome.probability, probability, atol=rounding, rtol=0)
    assert torch.equal(outcome.accepted, accepted)
    assert new.dtype == dtype
    torch.testing.assert_close(new, expected, atol=rounding, rtol=rounding)
    assert float(accepted.sum()) > 0


def test_a_wrong_stencil_is_seen():
    class Wrong(Phi4):
        def stencil(self):
            return Phi4(self.lattice, m2=self.m2, lam=1.01 * self.lam).stencil()

    hmc = HMC(Wrong(Lattice((4, 6)), m2=-4.0, lam=5.0), step_size=0.23, trajectory_length=1.4)
    phi = 0.5 * configurations(hmc.action.space, 21)
    found, expected = hmc.update(phi, generator(3))[1], eager(hmc, phi, generator(3))
    assert float((found.probability - expected[2]).abs().max()) > 1e-3


@pytest.mark.parametrize("n_chains", [1, 3, 33, 64])
def test_results_do_not_depend_on_chains_beside_or_threads(n_chains):
    hmc = HMC(ACTIONS["2d"], step_size=0.2)
    phi = 0.5 * configurations(hmc.action.space, n_chains)
    new, outcome = hmc.update(phi, generator())
    first, one = hmc.update(phi[:1], generator())
    torch.testing.assert_close(first, new[:1], atol=1e-13, rtol=0)
    assert torch.equal(one.accepted, outcome.accepted[:1])


def test_many_threads_give_what_one_gives():
    hmc = HMC(Phi4(Lattice((32, 32)), m2=-4.0, lam=4.572), step_size=0.1)
    phi = 0.5 * configurations(hmc.action.space, 70)
    before, one = torch.get_num_threads(), hmc.update(phi, generator())[0]
    try:
        torch.set_num_threads(3)
        torch.testing.assert_close(hmc.update(phi, generator())[0], one, atol=1e-11, rtol=0)
    finally:
        torch.set_num_threads(before)


def test_fields_beyond_the_range_of_numbers_are_rejected():
    hmc = HMC(ACTIONS["2d"], step_size=0.2)
    phi = 0.3 * configurations(hmc.action.space, 5)
    phi[1] *= 1e40
    new, outcome = hmc.update(phi, generator())
    assert torch.equal(new[1], phi[1])
    assert float(outcome.accepted[1]) == 0
    assert float(outcome.probability[1]) == 0
    assert bool(outcome.probability[[0, 2, 3, 4]].gt(0).all())


class OwnForce(Phi4):
    def grad(self, phi):
        return super().grad(phi)


class OwnAction(Phi4):
    def forward(self, phi):
        return super().forward(phi)


class OwnEnergy(HMC):
    def energy(self, phi, momentum):
        return super().energy(phi, momentum)


class OwnSteps(Integrator):
    def __call__(self, *arguments):
        return super().__call__(*arguments)


PLAIN = ACTIONS["2d"]


@pytest.mark.parametrize(
    "hmc",
    [
        HMC(OwnForce(Lattice((4, 6)), m2=-4.0, lam=5.0)),
        HMC(OwnAction(Lattice((4, 6)), m2=-4.0, lam=5.0)),
        HMC(ExternalField(OwnForce(Lattice((4, 6)), m2=-4.0, lam=5.0), h=0.1)),
        OwnEnergy(PLAIN),
        HMC(PLAIN, integrator=OwnSteps(LEAPFROG.name, LEAPFROG.kicks, LEAPFROG.drifts)),
    ],
    ids=["force", "action", "action inside", "energy", "integrator"],
)
def test_whoever_changes_a_part_is_asked_for_it(hmc):
    assert hmc._stencil(configurations(hmc.action.space)) is None


def test_kernels_are_left_out_where_they_are_switched_off_or_fields_do_not_fit():
    hmc, phi = HMC(PLAIN), configurations(PLAIN.space)
    assert hmc._stencil(phi) is not None
    assert hmc._stencil(phi.to("meta")) is None
    assert hmc._stencil(phi[:0]) is None
    with fused.switched(False):
        assert hmc._stencil(phi) is None


def test_a_kernel_checks_the_shape_of_fields():
    with pytest.raises(ValueError, match="expected"):
        HMC(PLAIN).update(torch.zeros(2, 6, 4), generator())


def test_other_actions_have_no_stencil():
    class Quartic(Action):
        def forward(self, phi):
            return (phi**4).sum(self.lattice.axes)

    assert Quartic(Lattice((2, 2))).stencil() is None


def microcanonical(kernel: Microcanonical, phi: Tensor, source: torch.Generator) -> tuple[Tensor, ...]:
    """Return fields, acceptance, probabilities and energy errors of the update that a kernel makes."""
    adjusted = isinstance(kernel, AdjustedMCLMC)
    stretch = 0.5 + float(torch.rand((), generator=source)) if adjusted else 1.0
    streams, size = Streams(source, len(phi)), phi[0].numel()
    numbers = 2 * ((size + 1) // 2)
    steps = max(1, round(stretch * kernel.length / kernel.step_size))
    path = Path.of(kernel.integrator, kernel.step_size, steps, None if adjusted else kernel.length)
    forces = iter([i for i, weight in enumerate(path.refreshments) if weight])
    with pytest.MonkeyPatch.context() as patched:
        drawn = lambda *_, **__: streams.normal(size, phi.dtype, next(forces) * numbers)  # noqa: E731
        patched.setattr("equiflow.samplers.microcanonical.torch.randn", drawn)
        velocity = unit_speed(streams.normal(size, phi.dtype))
        end, _, change, errors = path.follow(kernel.action, phi, velocity, None)
    change = change + kernel.action(end.double()) - kernel.action(phi.double())
    chance = (-change).clamp(max=0).exp() if adjusted else torch.ones(len(phi), dtype=torch.float64)
    moved = streams.uniform(numbers, 1)[:, 0] < chance
    return torch.where(moved.reshape(-1, *(1,) * (phi.dim() - 1)), end, phi), moved.double(), chance, errors


@DTYPES
@pytest.mark.parametrize("kind", [MCLMC, AdjustedMCLMC])
@pytest.mark.parametrize("integrator", [LEAPFROG, OMELYAN], ids=lambda i: i.name)
@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "1 site"])
def test_a_fused_microcanonical_update_is_the_eager_one(name, integrator, kind, dtype):
    action = ACTIONS[name]
    length = {MCLMC: "decoherence_length", AdjustedMCLMC: "trajectory_length"}[kind]
    kernel = kind(action, step_size=0.17, integrator=integrator, **{length: 1.1})
    phi = 0.5 * configurations(action.space, 21, dtype=dtype)
    new, outcome = kernel.update(phi, generator(3))
    expected, accepted, probability, errors = microcanonical(kernel, phi, generator(3))
    rounding = {torch.float32: 4e-4, torch.float64: 1e-11}[dtype]
    torch.testing.assert_close(outcome.probability, probability, atol=rounding, rtol=0)
    assert torch.equal(outcome.accepted, accepted)
    torch.testing.assert_close(new, expected, atol=rounding, rtol=rounding)
    if kind is MCLMC:
        kernel.step_size = None  # which makes it measure
        kernel._log_step = math.log(0.17)
        again, outcome = kernel.update(phi, generator(3))
        torch.testing.assert_close(again, new, atol=1e-5, rtol=1e-5)
        assert outcome.error == pytest.approx(float(errors.mean()), rel=10 * rounding)
