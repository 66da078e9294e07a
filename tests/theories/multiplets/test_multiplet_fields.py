"""Flows and fields of several components: what O(N) adds to the laws."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow import EquivariantCNF, FreeField, Lattice, PathGradient, Solver, SymmetryGroup, fit
from equiflow.testing import (
    assert_vector_field,
    check_vector_field,
    equivariance_error,
    invariance_error,
    log_density_error,
    randomise,
)
from equiflow.theories.multiplets.group import MultipletGroup
from equiflow.theories.multiplets.on_model import ONModel
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.particles.space import Particles
from equiflow.theories.scalar.priors import StandardNormal
from equiflow.vector_fields import MultipletField, OrbitConvField
from tests.support.strategies import POINT_GROUPS, configurations, seeds

PAIR = Multiplet(Lattice((3, 4)), 2)


def small_flow(*, rotations: bool = True, seed: int = 0, multiplet: Multiplet = PAIR) -> EquivariantCNF:
    group = MultipletGroup(multiplet, rotations=rotations)
    field = MultipletField(multiplet, group=group, n_frequencies=2, n_time_modes=2, max_frequency=2.0)
    flow = EquivariantCNF(multiplet, vector_field=field).double()
    randomise(flow.vector_field, scale=0.2, seed=seed)
    return flow


@given(st.sampled_from(POINT_GROUPS), seeds, st.floats(0, 1))
def test_one_component_is_the_scalar_field(point, seed, t):
    lattice = Lattice((3, 4))
    one = Multiplet(lattice, 1)
    field = MultipletField(one, group=MultipletGroup(one, point), n_frequencies=2, n_time_modes=2).double()
    scalar = OrbitConvField(
        lattice, group=SymmetryGroup(lattice, point), n_frequencies=2, n_time_modes=2
    ).double()
    randomise(field, seed=seed)
    scalar.kernel.load_state_dict(field.kernel.state_dict())
    scalar.features.load_state_dict(field.features.sines.state_dict())
    phi = configurations(one, seed=seed)
    velocity, divergence = field.velocity_and_divergence(phi, t)
    expected, its_divergence = scalar.velocity_and_divergence(phi[:, 0], t)
    torch.testing.assert_close(velocity[:, 0], expected)
    torch.testing.assert_close(divergence, its_divergence)


def test_a_field_at_zero_has_the_divergence_of_its_linear_part():
    field = small_flow().vector_field
    zero = torch.zeros(1, *PAIR.shape, dtype=torch.float64)
    around = 1e-7 * configurations(PAIR, 1)
    at, near = (field.velocity_and_divergence(phi, 0.3)[1] for phi in (zero, around))
    assert at.isfinite().all()
    torch.testing.assert_close(at, near)


class PerComponent(MultipletField):
    """A field with sines of each component alone, which breaks O(N)."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        return velocity + 1e-9 * phi.sin(), divergence + 1e-9 * phi.cos().flatten(1).sum(1)


class ForgetsTheOtherComponents(MultipletField):
    """A field whose divergence takes cos(omega r) for the whole trace."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        r = phi.square().sum(1).sqrt()
        kernel = self.kernel(self.time_basis(t))
        ratio = self.features.sines(r).value / r.unsqueeze(1)
        n = self.space.n_components
        return velocity, divergence - (n - 1) * ratio.sum(self.lattice.axes) @ kernel.at_origin[1:]


@pytest.mark.parametrize(
    ("broken", "law"),
    [(PerComponent, r"equivariance .*O\(N\)"), (ForgetsTheOtherComponents, "divergence = dense trace")],
)
def test_the_harness_sees_a_broken_multiplet(broken, law):
    field = broken(PAIR, n_frequencies=2, n_time_modes=2).double()
    randomise(field)
    report = check_vector_field(field)
    assert not report.ok
    assert any(re.search(law, f"{check.law} {check.case}") for check in report.violations), str(report)


def test_a_field_without_rotations_breaks_them():
    field = small_flow(rotations=False).vector_field
    errors = equivariance_error(field, group=MultipletGroup(PAIR))
    assert {name.split()[0] for name, error in errors.items() if error > 1e-6} >= {"O(N)"}
    assert max(error for name, error in errors.items() if name.startswith("translation")) < 1e-12


def test_the_symmetry_of_a_flow_is_what_field_and_prior_share():
    field = MultipletField(PAIR)
    prior = FreeField(PAIR, group=MultipletGroup(PAIR, "C2", rotations=False))
    assert EquivariantCNF(PAIR, vector_field=field, prior=prior).group == prior.group
    assert EquivariantCNF(PAIR, vector_field=field).group == field.group


def test_resized_multiplets_agree_on_fields_of_a_common_period():
    flow = small_flow(multiplet=Multiplet(Lattice((3, 3)), 2))
    larger = flow.resized(Lattice((6, 3)))
    phi = configurations(flow.space)
    velocity = flow.vector_field.velocity(phi, 0.4)
    doubled = larger.vector_field.velocity(torch.cat([phi, phi], 2), 0.4)
    torch.testing.assert_close(doubled[:, :, :3], velocity)
    assert larger.sample(2).shape == (2, 2, 6, 3)


def test_laws_hold_after_training():
    multiplet = Multiplet(Lattice((3, 3)), 2)
    flow = EquivariantCNF(multiplet, solver=Solver("dopri8", rtol=1e-9, atol=1e-9)).double()
    coarse = PathGradient(solver=Solver("rk4", steps=4))  # a flow obeys the laws however it was trained
    fit(flow, ONModel(multiplet, m2=-1.0, lam=2.0), steps=20, batch_size=32, objective=coarse)
    assert_vector_field(flow.vector_field)
    assert max(invariance_error(flow, flow.group).values()) < 1e-7
    assert log_density_error(flow) < 1e-6


def test_white_noise_on_every_space():
    for space in (PAIR, Particles(3, 2)):
        prior = StandardNormal(space).double()
        z = prior.rsample(5, torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            prior.log_prob(z), torch.distributions.Normal(0, 1).log_prob(z).flatten(1).sum(1)
        )
