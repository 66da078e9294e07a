"""HMC on links: reversible, of second order, and in agreement with exact gauge theory."""

from __future__ import annotations

import itertools

import pytest
import torch

from equiflow import HMC, OMELYAN, Lattice, Links, WilsonAction
from equiflow.oracles import gauge_torus
from equiflow.samplers.collapse import cause_of_collapse
from equiflow.samplers.integrators import LEAPFROG, Integrator
from equiflow.theories.base.action_gradients import check_gradient
from equiflow.theories.gauge.observables import (
    plaquette,
    topological_charge,
    topological_susceptibility,
    wilson_loop,
)
from tests.support.gauge import GROUPS, rng, velocities

INTEGRATORS = (LEAPFROG, OMELYAN)
#: those that are quick enough for many chains; SU(4) stands for the generic code
QUICK = GROUPS[:3]
BETAS = {"U(1)": 1.0, "SU(2)": 2.0, "SU(3)": 3.0, "SU(4)": 4.0}


def action_of(group: str, side: int = 3) -> WilsonAction:
    return WilsonAction(Links(Lattice((side, side)), group), beta=BETAS[group])


def thermal(action: WilsonAction, n: int = 64) -> torch.Tensor:
    chain = HMC(action).sample(1, n_chains=n, n_thermalisation=40, generator=rng(3))
    return chain.configurations


def unit(u: torch.Tensor) -> torch.Tensor:
    """Return matrices of one, shaped like links."""
    return torch.eye(u.shape[-1]).to(u).expand_as(u).contiguous()


def energy_changes(action, integrator, u, p, step, length=1.0):
    hmc = HMC(action)
    final = integrator(action, u, p, step, round(length / step))
    return hmc.energy(*final) - hmc.energy(u, p)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda one: one.name)
def test_trajectories_are_reversed_to_rounding(group, integrator):
    action = action_of(group)
    u, p = action.space.probes(4, rng()), velocities(action.space, 4)
    there = integrator(action, u, p, 0.1, 20)
    back, q = integrator(action, there[0], -there[1], 0.1, 20)
    assert float((there[0] - u).abs().max()) > 0.3
    torch.testing.assert_close(back, u, rtol=0, atol=1e-12)
    torch.testing.assert_close(-q, p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", GROUPS)
def test_an_integrator_without_symmetry_is_not_reversed(group):
    action = action_of(group)
    u, p = action.space.probes(4, rng()), velocities(action.space, 4)
    lopsided = Integrator("lopsided", (1.0, 0.0), (1.0,))
    there = lopsided(action, u, p, 0.1, 20)
    back, _ = lopsided(action, there[0], -there[1], 0.1, 20)
    assert float((back - u).abs().max()) > 1e-3


@pytest.mark.parametrize("group", QUICK)
@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda one: one.name)
def test_energies_are_conserved_to_second_order(group, integrator):
    action = action_of(group)
    u, p = thermal(action), velocities(action.space, 64)
    sizes = [
        float(energy_changes(action, integrator, u, p, step).square().mean().sqrt())
        for step in (0.1, 0.05, 0.025)
    ]
    for coarse, fine in itertools.pairwise(sizes):
        assert 3.6 < coarse / fine < 4.4


class WrongForce(WilsonAction):
    """Has a force that is one tenth too large."""

    def grad(self, phi):
        return 1.1 * super().grad(phi)


@pytest.mark.parametrize("group", QUICK)
def test_energies_of_a_wrong_force_are_not_conserved(group):
    action = action_of(group)
    wrong = WrongForce(action.space, beta=action.beta)
    u, p = thermal(action), velocities(action.space, 64)
    sizes = [
        float(energy_changes(wrong, LEAPFROG, u, p, step).square().mean().sqrt()) for step in (0.05, 0.025)
    ]
    assert sizes[0] / sizes[1] < 1.5
    with pytest.raises(RuntimeError, match="differs from finite differences"):
        check_gradient(wrong, u)
    check_gradient(action, u)


@pytest.mark.parametrize("group", QUICK)
def test_the_boltzmann_factor_of_the_energy_change_averages_to_one(group):
    action = action_of(group)
    u = thermal(action, 600)
    p = velocities(action.space, 600, seed=5)
    changes = energy_changes(action, LEAPFROG, u, p, 0.25)
    factor = (-changes).exp()
    error = float(factor.std()) / 600**0.5
    assert float(changes.std()) > 0.05
    assert abs(float(factor.mean()) - 1) < 4 * error
    # On links that are not of the target the average is another.
    off = action.space.move(torch.zeros_like(u) if group == "U(1)" else unit(u), 0.1 * p)
    assert abs(float((-energy_changes(action, LEAPFROG, off, p, 0.25)).exp().mean()) - 1) > 5 * error


@pytest.mark.parametrize("group", ["SU(2)", "SU(3)"])
def test_no_chain_stays_at_its_start_for_good(group):
    """At the step that suits thermal links, chains move from where they begin, and do not from near one."""
    links = Links(Lattice((12, 12)), group)
    action = WilsonAction(links, beta=5.0)
    hmc, start = HMC(action, step_size=0.18), links.initial(8, rng(), dtype=torch.float32)
    near_one = links.move(unit(start), 0.1 * velocities(links, 8).float())
    u, outcome = hmc.update(start, rng(1))
    assert float(outcome.probability.mean()) > 0.9
    thermal_ones = [hmc.update(u, rng(n))[1] for n in (2, 3)]
    assert min(float(outcome.probability.mean()) for outcome in thermal_ones) > 0.5
    assert float(hmc.update(near_one, rng(1))[1].probability.mean()) < 0.05


@pytest.mark.parametrize(
    ("group", "side", "integrator"),
    [("U(1)", 8, LEAPFROG), ("SU(2)", 4, OMELYAN), ("SU(3)", 4, LEAPFROG), ("SU(4)", 2, OMELYAN)],
)
def test_averages_are_exact(group, side, integrator):
    action = action_of(group, side)
    links, exact = action.space, gauge_torus(action)
    n_samples = {"U(1)": 200, "SU(2)": 100, "SU(3)": 60, "SU(4)": 20}[group]
    chain = HMC(action, integrator=integrator).sample(
        n_samples, n_chains=64, n_thermalisation=60, generator=rng(1)
    )
    for measured, expected in [
        (chain.mean(plaquette(links)), exact.plaquette),
        *([(chain.mean(wilson_loop(links, 2, 1)), exact.wilson_loop(2))] if side > 2 else []),
    ]:
        assert abs(measured.sigmas_from(expected)) < 3.5
        assert measured.error < 0.02
    assert float(links.lie.defect(chain.configurations).max()) < 5e-15
    if group == "U(1)":
        chi = chain.mean(topological_susceptibility(links))
        assert abs(chi.sigmas_from(exact.topological_susceptibility)) < 3.5
        assert chi.error < 0.1 * exact.topological_susceptibility
        assert abs(chain.mean(topological_charge(links)).sigmas_from(0.0)) < 3.5


def test_an_imaginary_theta_is_sampled():
    action = WilsonAction(Links(Lattice((4, 4)), "U(1)"), beta=1.0, imaginary_theta=1.5)
    exact = gauge_torus(action)
    # Where the charge jumps so does the energy, whatever the step: it cannot be tuned to an acceptance.
    chain = HMC(action, step_size=0.3).sample(200, n_chains=64, n_thermalisation=60, generator=rng(2))
    charge = chain.mean(topological_charge(action.space))
    assert abs(charge.sigmas_from(exact.charge)) < 3.5
    assert charge.mean > 10 * charge.error
    assert abs(chain.mean(plaquette(action.space)).sigmas_from(exact.plaquette)) < 3.5


def test_why_no_step_suits_a_charge_is_told():
    action = WilsonAction(Links(Lattice((4, 4)), "U(1)"), beta=1.0, imaginary_theta=1.5)
    phi = action.space.probes(16, rng())
    assert cause_of_collapse(action, phi, 2.0).startswith("S jumps along trajectories")
    # Without the charge nothing jumps, and stiffness is told for matrices, too.
    for group, beta in (("U(1)", 1.0), ("SU(2)", 50.0)):
        smooth = WilsonAction(Links(Lattice((4, 4)), group), beta=beta)
        phi = smooth.space.probes(16, rng())
        assert cause_of_collapse(smooth, phi, 2.0).startswith("The action is stiff")


def test_improved_actions_are_sampled_in_three_dimensions():
    links = Links(Lattice((2, 2, 2)), "SU(2)")
    action = WilsonAction.iwasaki(links, beta=0.2)
    chain = HMC(action).sample(40, n_chains=64, n_thermalisation=40, generator=rng(2))
    u = links.probes(20_000, rng(3))
    weight = (-action(u)).exp()
    expected = float((weight * plaquette(links)(u)).mean() / weight.mean())
    measured = chain.mean(plaquette(links))
    assert abs(measured.mean - expected) < 4 * measured.error + 2e-3
    assert measured.mean > 10 * measured.error


def test_chains_of_single_precision_stay_in_the_group():
    action = action_of("SU(3)")
    chain = HMC(action).sample(20, n_chains=8, n_thermalisation=20, generator=rng(), dtype=torch.float32)
    assert chain.samples.dtype == torch.complex64
    assert float(action.space.lie.defect(chain.configurations).max()) < 2e-6


def test_a_chain_is_continued_as_one_longer_run():
    action = action_of("SU(2)")
    hmc = HMC(action, step_size=0.3)
    whole = hmc.sample(6, n_chains=4, n_thermalisation=2, generator=rng(7))
    generator = rng(7)
    first = hmc.sample(3, n_chains=4, n_thermalisation=2, generator=generator)
    joined = first.followed_by(hmc.sample(3, start=first, generator=generator))
    assert torch.equal(joined.samples, whole.samples)


def test_links_off_the_group_are_refused_as_a_start():
    action = action_of("SU(2)")
    with pytest.raises(ValueError, match="differ from matrices of SU"):
        HMC(action).sample(1, n_chains=2, initial=1.1 * action.space.probes(2, rng()))
