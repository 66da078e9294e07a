"""The laws of fields and flows on other spaces than a lattice; the O(N) model and external fields."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiflow import EquivariantCNF, FreeField, Lattice, Phi4, Solver, SymmetryGroup, fit, importance_sample
from equiflow.testing import (
    assert_vector_field,
    check_flow,
    check_vector_field,
    equivariance_error,
    invariance_error,
    log_density_error,
    randomise,
)
from equiflow.theories.angles.space import Angles
from equiflow.theories.base.kind import group_of, kind_named
from equiflow.theories.base.lattice import lattice_of
from equiflow.theories.base.rotations import random_rotation
from equiflow.theories.base.space import Space
from equiflow.theories.multiplets.group import MultipletGroup
from equiflow.theories.multiplets.on_model import ONModel
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.particles.group import EuclideanGroup
from equiflow.theories.particles.space import Particles
from equiflow.theories.scalar.external_field import ExternalField
from equiflow.theories.scalar.phi4 import FreeScalar
from equiflow.theories.scalar.priors import StandardNormal
from equiflow.vector_fields import MultipletField, OrbitConvField
from tests.support.strategies import (
    POINT_GROUPS,
    configurations,
    fields_elsewhere,
    flows_elsewhere,
    lattices,
    log_integral,
    seeds,
)

spaces = st.one_of(
    lattices(),
    st.builds(Multiplet, lattices(max_volume=12), st.integers(1, 3)),
    st.builds(Angles, lattices(max_volume=12)),
    st.builds(Particles, st.integers(1, 4), st.integers(1, 3)),
)
PAIR = Multiplet(Lattice((3, 4)), 2)


def small_flow(*, rotations: bool = True, seed: int = 0, multiplet: Multiplet = PAIR) -> EquivariantCNF:
    group = MultipletGroup(multiplet, rotations=rotations)
    field = MultipletField(multiplet, group=group, n_frequencies=2, n_time_modes=2, max_frequency=2.0)
    flow = EquivariantCNF(multiplet, vector_field=field).double()
    randomise(flow.vector_field, scale=0.2, seed=seed)
    return flow


@settings(max_examples=25)
@given(fields_elsewhere())
def test_every_law_holds_for_fields_on_every_space(field):
    report = check_vector_field(field)
    assert report.ok, str(report)


@settings(max_examples=8)
@given(flows_elsewhere())
def test_every_law_holds_for_flows_on_every_space(flow):
    report = check_flow(flow, tolerance=1e-6)
    assert report.ok, str(report)


@settings(max_examples=8)
@given(flows_elsewhere(), seeds)
def test_flows_on_every_space_are_saved_and_loaded(tmp_path_factory, flow, seed):
    path = tmp_path_factory.mktemp("flows") / "flow.pt"
    flow.save(path)
    loaded = EquivariantCNF.load(path)
    z = flow.prior.colour(configurations(flow.space, seed=seed))
    assert loaded.space == flow.space
    assert loaded.group == flow.group
    for mine, theirs in zip(flow.transform_and_log_det(z), loaded.transform_and_log_det(z), strict=True):
        assert torch.equal(mine, theirs)


@settings(max_examples=10)
@given(fields_elsewhere())
def test_float32_obeys_the_laws_to_its_rounding(field):
    assert_vector_field(field.float())


@given(spaces)
def test_a_space_is_known_by_its_shape(space):
    assert type(space).of_shape(space.shape) == space
    assert kind_named(space.kind).space is type(space)
    assert space.size == math.prod(space.shape)


@given(spaces, seeds)
def test_groups_move_configurations_and_leave_their_size(space, seed):
    group = group_of(space)
    phi = configurations(space)
    element = group.random_element(torch.Generator().manual_seed(seed))
    linear = getattr(element, "linear", element)
    torch.testing.assert_close(linear(phi).square().flatten(1).sum(1), phi.square().flatten(1).sum(1))
    assert group_of(space, **group.config()) == group
    assert group <= group
    assert str(group)


def test_a_smaller_group_is_known_as_such():
    square, pair, four = Lattice((4, 4)), Multiplet(Lattice((4, 4)), 2), Particles(4, 2)
    assert SymmetryGroup(square, "C4", z2=False) <= SymmetryGroup(square)
    assert not SymmetryGroup(square) <= SymmetryGroup(square, "C4")
    assert not SymmetryGroup(square, "D2") <= SymmetryGroup(square, "C4")
    assert not SymmetryGroup(square) <= SymmetryGroup(Lattice((6, 6)))
    assert MultipletGroup(pair, rotations=False) <= MultipletGroup(pair)
    assert not MultipletGroup(pair) <= MultipletGroup(pair, rotations=False)
    assert EuclideanGroup(four) <= EuclideanGroup(four, translations=True)
    assert not EuclideanGroup(four, translations=True) <= EuclideanGroup(four)


@given(st.integers(1, 4), seeds)
def test_random_rotations_are_orthogonal(n, seed):
    r = random_rotation(n, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(r @ r.mT, torch.eye(n, dtype=torch.float64))


def test_random_rotations_have_no_preferred_direction():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_rotation(3, generator) for _ in range(2000)])
    # Haar: every entry has mean 0 and variance 1/3, and both signs of the determinant are as likely.
    assert float(drawn.mean(0).abs().max()) < 5 / math.sqrt(3 * 2000)
    assert abs(float(torch.linalg.det(drawn).mean())) < 5 / math.sqrt(2000)


def test_particles_have_no_lattice():
    with pytest.raises(TypeError, match="no lattice"):
        lattice_of(Particles(3, 2))
    with pytest.raises(TypeError, match="no lattice"):
        FreeField(Particles(3, 2))


def test_a_space_of_no_kind_says_what_to_register():
    with pytest.raises(TypeError, match="register a Kind"):
        group_of(Space())


# O(N) fields


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
    """Sines of each component by itself: no O(N)."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        return velocity + 1e-9 * phi.sin(), divergence + 1e-9 * phi.cos().flatten(1).sum(1)


class ForgetsTheOtherComponents(MultipletField):
    """Takes cos(omega r) for the whole trace."""

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
    flow = EquivariantCNF(multiplet, solver=Solver("dopri5", rtol=1e-9, atol=1e-9)).double()
    fit(flow, ONModel(multiplet, m2=-1.0, lam=2.0), steps=20, batch_size=32)
    assert_vector_field(flow.vector_field)
    assert max(invariance_error(flow, flow.group).values()) < 1e-7
    assert log_density_error(flow) < 1e-6


# the O(N) model


@given(seeds)
def test_one_component_is_phi4(seed):
    lattice = Lattice((3, 4))
    vector, scalar = (
        kind(m2=-1.3, lam=0.7)
        for kind in (lambda **c: ONModel(Multiplet(lattice, 1), **c), lambda **c: Phi4(lattice, **c))
    )
    phi = configurations(Multiplet(lattice, 1), seed=seed)
    torch.testing.assert_close(vector(phi), scalar(phi[:, 0]))
    torch.testing.assert_close(vector.grad(phi)[:, 0], scalar.grad(phi[:, 0]))
    for name in ("m2", "lam"):
        torch.testing.assert_close(vector.coupling_grad(phi, name), scalar.coupling_grad(phi[:, 0], name))


@pytest.mark.parametrize("field", [None, (0.3, -0.2)])
def test_gradient_is_the_derivative(field):
    action = ONModel(PAIR, m2=-1.3, lam=0.7)
    action = action if field is None else ExternalField(action, h=field)
    phi = configurations(PAIR).requires_grad_()
    (expected,) = torch.autograd.grad(action(phi).sum(), phi)
    torch.testing.assert_close(action.grad(phi), expected)


def test_the_action_has_the_symmetry_that_flows_assume():
    action = ONModel(PAIR, m2=-1.3, lam=0.7)
    assert max(action.asymmetry(MultipletGroup(PAIR)).values()) < 1e-12
    tilted = ExternalField(action, h=(0.3, 0.0)).asymmetry(MultipletGroup(PAIR))
    assert {name.split()[0] for name, change in tilted.items() if change > 1e-3} == {"O(N)"}


def test_log_z_of_the_free_model_is_that_of_its_components():
    lattice = Lattice((3, 3))
    pair = Multiplet(lattice, 2)
    exact = 2 * FreeScalar(lattice, m2=1.0).log_z()
    flow = EquivariantCNF(pair, prior=FreeField(pair, m2=0.8)).double()
    ensemble = importance_sample(flow, ONModel(pair, m2=1.0, lam=0.0), 4000, certify=0)
    estimate = ensemble.log_z()
    assert estimate.error < 0.03
    assert abs(estimate.mean - exact) < 4 * estimate.error


def test_log_z_on_one_site_is_the_radial_integral():
    one = Multiplet(Lattice((1,)), 2)
    action = ONModel(one, m2=1.0, lam=1.0)
    # Z = int d^2 phi exp(-r^2 - r^4) = pi int_0^inf du exp(-u - u^2) with u = r^2
    exact = math.log(math.pi * math.exp(0.25) * math.sqrt(math.pi) / 2 * math.erfc(0.5))
    grid = log_integral(lambda phi: -action(phi.reshape(-1, 2, 1)), Lattice((2,)))
    assert abs(grid - exact) < 1e-10
    flow = EquivariantCNF(one, prior=FreeField(one, m2=1.0)).double()
    estimate = importance_sample(flow, action, 20000, certify=0).log_z()
    assert abs(estimate.mean - exact) < 4 * estimate.error < 0.05


@pytest.mark.parametrize("h", [(1.0,), (1.0, 2.0, 3.0), (math.nan, 0.0)])
def test_an_external_field_has_one_number_for_each_component(h):
    with pytest.raises(ValueError, match="2 finite numbers"):
        ExternalField(ONModel(PAIR, m2=1.0, lam=1.0), h=h)


# external fields: less symmetry on purpose


def test_training_says_which_symmetry_the_target_lacks():
    lattice = Lattice((3, 3))
    action = ExternalField(Phi4(lattice, m2=1.0, lam=1.0), h=0.5)
    with pytest.warns(UserWarning, match="changes under Z2"):
        fit(EquivariantCNF(lattice), action, steps=1, batch_size=4)
    group = SymmetryGroup(lattice, z2=False)
    flow = EquivariantCNF(lattice, vector_field=OrbitConvField(lattice, group=group))
    fit(flow, action, steps=1, batch_size=4)  # a warning would be an error


def test_an_external_field_turns_the_magnetisation():
    lattice = Lattice((2, 2))
    free = FreeScalar(lattice, m2=1.0)
    # A free field in an external one is a shifted free field: <phi> = h / (2 m2), log Z + V h^2 / (4 m2).
    action = ExternalField(free, h=0.6)
    group = SymmetryGroup(lattice, z2=False)
    flow = EquivariantCNF(lattice, vector_field=OrbitConvField(lattice, group=group)).double()
    fit(flow, action, steps=150, batch_size=64, learning_rate=1e-2)
    ensemble = importance_sample(flow, action, 4000)
    assert ensemble.effective_sample_size().mean > 0.9
    magnetisation = ensemble.mean(lambda phi: phi.mean((1, 2)))
    assert abs(magnetisation.mean - 0.3) < 4 * magnetisation.error < 0.05
    log_z = ensemble.log_z()
    exact = free.log_z() + 4 * 0.36 / 4
    assert abs(log_z.mean - exact) < 4 * log_z.error + log_z.systematic


def test_white_noise_on_every_space():
    for space in (PAIR, Particles(3, 2)):
        prior = StandardNormal(space).double()
        z = prior.rsample(5)
        torch.testing.assert_close(
            prior.log_prob(z), torch.distributions.Normal(0, 1).log_prob(z).flatten(1).sum(1)
        )
