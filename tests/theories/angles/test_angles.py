"""Angles: the XY model, its prior, its field, and flows of all three."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equiflow import (
    HMC,
    ActionFamily,
    AngleField,
    AngleGroup,
    Angles,
    AugmentedFlow,
    ConditionalFlow,
    EquivariantCNF,
    ExtendedAction,
    ExternalField,
    FlowMatching,
    ForwardKL,
    FreeField,
    IndependenceMetropolis,
    LatentHMC,
    Lattice,
    NaturalGradient,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    StandardNormal,
    UniformAngles,
    Wolff,
    XYModel,
    annealed_importance_sample,
    fit,
    fit_ladder,
    importance_sample,
    measure,
)
from equiflow.interop import load_ensemble, save_samples
from equiflow.testing import (
    assert_periodic,
    assert_vector_field,
    check_flow,
    check_vector_field,
    invariance_error,
    randomise,
    winding_error,
)
from equiflow.theories.angles.observables import (
    abs_magnetisation,
    energy,
    helicity_modulus,
    magnetisation_squared,
    two_point,
    vortex_density,
    vorticity,
)
from equiflow.vector_fields import VectorField
from tests.support.strategies import POINT_GROUPS, angle_fields, configurations, lattices, seeds
from tests.support.xy_oracle import ExactXY, ring, ring_two_point, strip

SQUARE = Angles(Lattice((3, 3)))
TURN = 2 * math.pi
spaces = st.builds(Angles, lattices(max_volume=24))


def random_field(angles: Angles = SQUARE, **options: object) -> AngleField:
    options = {"n_ridges": 3, "n_time_modes": 2} | options
    field = AngleField(angles, **options).double()
    randomise(field, scale=0.3)
    return field


def small_flow(angles: Angles = SQUARE, *, scale: float = 0.1) -> EquivariantCNF:
    flow = EquivariantCNF(
        angles, vector_field=random_field(angles), solver=Solver("dopri5", rtol=1e-7, atol=1e-7)
    ).double()
    with torch.no_grad():
        for parameter in (flow.vector_field.amplitude, flow.vector_field.harmonics.weight):
            parameter.mul_(scale / 0.3)
    return flow


def trained(angles: Angles, beta: float, steps: int) -> EquivariantCNF:
    """A flow from a uniform start, trained for a moment."""
    field = AngleField(angles, n_ridges=4, n_time_modes=2)
    flow = EquivariantCNF(angles, vector_field=field, solver=Solver("rk5", steps=4)).double()
    options = {"batch_size": 64, "learning_rate": 8e-2, "warmup": 5, "progress": False}
    objective = PathGradient(solver=Solver("rk4", steps=2))
    fit(flow, XYModel(angles, beta=beta), steps=steps, objective=objective, **options)
    return flow


# Space and group.


@given(st.floats(-100, 100), st.floats(-10, 10))
def test_the_nearest_angle_is_the_same_angle_within_half_a_turn(theta, to):
    phi = torch.full((1, 3, 3), theta, dtype=torch.float64)
    wrapped, near = SQUARE.nearest(phi), SQUARE.nearest(phi, to)
    assert bool(((-math.pi - 1e-12 <= wrapped) & (wrapped < math.pi)).all())
    assert torch.equal(SQUARE.nearest(wrapped), wrapped)
    torch.testing.assert_close(wrapped.cos(), phi.cos(), rtol=0, atol=1e-12)
    torch.testing.assert_close(wrapped.sin(), phi.sin(), rtol=0, atol=1e-12)
    torch.testing.assert_close((near - phi).cos(), torch.ones_like(phi), rtol=0, atol=1e-12)
    assert float((near - to).abs().max()) <= math.pi + 1e-12


def test_angles_at_the_seam():
    seam = torch.tensor([[math.pi, -math.pi, math.nextafter(math.pi, 0), 3 * math.pi]], dtype=torch.float64)
    wrapped = Angles(Lattice((4,))).nearest(seam)
    expected = torch.tensor([[-math.pi, -math.pi, math.pi, -math.pi]], dtype=torch.float64)
    torch.testing.assert_close(wrapped, expected)


def test_other_spaces_have_no_windings():
    phi = configurations(Lattice((2, 2)))
    assert Lattice((2, 2)).nearest(phi) is phi
    assert not Lattice((2, 2)).windings()
    assert len(SQUARE.windings()) == 9


def test_a_smaller_group_of_angles_is_known_as_such():
    assert AngleGroup(SQUARE, "C4") <= AngleGroup(SQUARE)
    assert not AngleGroup(SQUARE) <= AngleGroup(SQUARE, "C4")
    assert str(AngleGroup(SQUARE, "C4")) == "translations x C4 x O(2)"


# The action.


@given(spaces, seeds, st.floats(-2, 2))
def test_force_is_the_gradient_and_the_model_is_symmetric_and_periodic(space, seed, beta):
    action, theta = XYModel(space, beta=beta), configurations(space, seed=seed).requires_grad_()
    (expected,) = torch.autograd.grad(action(theta).sum(), theta)
    theta = theta.detach()
    torch.testing.assert_close(action.grad(theta), expected, rtol=1e-11, atol=1e-12)
    if abs(beta) > 0.1 and space.lattice.volume > 1:
        assert max(action.asymmetry(AngleGroup(space)).values()) < 1e-11
    for winding in space.windings().values():
        torch.testing.assert_close(action(winding(theta)), action(theta), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(action(theta), beta * space.lattice.volume * energy(theta))


def test_energy_by_hand():
    theta = torch.tensor([[0.0, math.pi / 2, math.pi]])
    action = XYModel(Angles(Lattice((3,))), beta=2.0)
    assert float(action(theta)) == pytest.approx(-2 * (0 + 0 - 1), abs=1e-6)
    assert float(action.coupling_grad(theta, "beta")) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("beta", [math.inf, math.nan])
def test_couplings_must_be_finite(beta):
    with pytest.raises(ValueError, match="finite"):
        XYModel(SQUARE, beta=beta)
    with pytest.raises(ValueError, match="coupling beta"):
        XYModel(SQUARE, beta=1.0).coupling_grad(torch.zeros(1, 3, 3), "lam")


# Observables, on everything that can be known.


def quadrature(angles: Angles, beta: float) -> tuple[Tensor, Tensor, float]:
    """All angles on a grid but one at zero, their weights, and log Z: exponentially exact."""
    points, volume = 24, angles.lattice.volume
    line = TURN * torch.arange(points, dtype=torch.float64) / points
    rest = torch.cartesian_prod(*[line] * (volume - 1)).reshape(points ** (volume - 1), -1)
    theta = torch.cat([torch.zeros(len(rest), 1), rest], 1).reshape(-1, *angles.shape)
    log_weight = -XYModel(angles, beta=beta)(theta)
    log_z = float(log_weight.logsumexp(0)) + (volume - 1) * math.log(TURN / points) + math.log(TURN)
    return theta, torch.softmax(log_weight, 0), log_z


@pytest.mark.parametrize(
    ("shape", "exact"), [((2, 2), strip(0.8, 2, 2)), ((4,), ring(0.8, 4)), ((3,), ring(0.8, 3))]
)
def test_quadrature_and_characters_agree_on_action_and_observables(shape: tuple[int, ...], exact: ExactXY):
    theta, weight, log_z = quadrature(Angles(Lattice(shape)), 0.8)
    assert log_z == pytest.approx(exact.log_z, abs=1e-7)
    assert float(weight @ energy(theta)) == pytest.approx(exact.energy, abs=1e-7)
    assert float(weight @ helicity_modulus(0.8)(theta)) == pytest.approx(exact.helicity_modulus, abs=1e-7)
    if len(shape) == 1:
        assert float(weight @ helicity_modulus(0.9)(theta)) != pytest.approx(exact.helicity_modulus, abs=1e-3)
        correlator = weight @ two_point(theta)
        assert correlator.tolist() == pytest.approx(ring_two_point(0.8, shape[0]), abs=1e-10)
        assert float(weight @ magnetisation_squared(theta)) == pytest.approx(float(correlator.mean()))


def test_characters_agree_with_the_closed_form_of_a_ring():
    one, two = strip(0.8, 1, 5), ring(0.8, 5)  # in the strip a site is linked to itself, too
    assert one.log_z == pytest.approx(two.log_z + 5 * 0.8)
    assert one.energy == pytest.approx(two.energy - 1)
    assert one.helicity_modulus == pytest.approx(two.helicity_modulus)


def test_a_vortex_and_its_antivortex():
    x, y = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    pair = torch.atan2(y - 3.5, x - 1.5) - torch.atan2(y - 3.5, x - 5.5)
    found = vorticity(pair[None])[0]
    assert found[1, 3] == 1
    assert found[5, 3] == -1
    assert float(found.abs().sum()) == 2
    assert float(vortex_density(pair[None])) == pytest.approx(2 / 64)
    assert not vorticity(0.3 * x[None] * 0).any()


def test_a_third_of_all_plaquettes_of_independent_angles_has_a_vortex():
    """The sum of three uniform angles in [-pi, pi) lies outside of that range with probability 1/3."""
    theta = UniformAngles(Angles(Lattice((16, 16)))).rsample(400, torch.Generator().manual_seed(0))
    density = vortex_density(theta)
    assert abs(float(density.mean()) - 1 / 3) < 4 * float(density.std()) / 20 < 0.01
    assert float(vorticity(theta).sum((1, 2)).abs().max()) == 0
    with pytest.raises(ValueError, match="two dimensions"):
        vortex_density(theta[:, 0])


@given(spaces, seeds)
def test_observables_do_not_notice_full_turns(space, seed):
    theta = configurations(space, seed=seed)
    element = AngleGroup(space).random_element(torch.Generator().manual_seed(seed))
    for observable in (abs_magnetisation, magnetisation_squared, energy, helicity_modulus(0.7)):
        for image in (space.nearest(theta), *(wind(theta) for wind in space.windings().values())):
            torch.testing.assert_close(observable(image), observable(theta), rtol=1e-9, atol=1e-9)
        if len(set(space.shape)) == 1:
            torch.testing.assert_close(observable(element(theta)), observable(theta), rtol=1e-9, atol=1e-9)


# The prior.


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


# The field.


@pytest.mark.parametrize("convolution", ["dense", "fourier"])
def test_the_field_obeys_every_law_in_both_precisions(convolution):
    field = random_field(convolution=convolution, n_harmonics=3)
    for dtype in (torch.float64, torch.float32):
        report = check_vector_field(field.to(dtype))
        assert report.ok, str(report)


@settings(max_examples=15)
@given(angle_fields(), seeds, st.floats(0, 1))
def test_the_velocity_is_the_gradient_of_the_potential(field, seed, t):
    randomise(field.double(), seed=seed)
    theta = configurations(field.space, seed=seed).requires_grad_()
    (expected,) = torch.autograd.grad(field.potential(theta, t).sum(), theta)
    torch.testing.assert_close(field.velocity(theta.detach(), t), expected, rtol=1e-10, atol=1e-11)


@settings(max_examples=10)
@given(lattices(max_volume=12), st.sampled_from(POINT_GROUPS), seeds)
def test_pairs_alone_are_a_sum_of_sines(lattice, point, seed):
    """Without ridges, term by term: `v_x = sum_n sum_y K_n(x - y) sin n(theta_y - theta_x)`."""
    angles = Angles(lattice)
    field = AngleField(angles, group=AngleGroup(angles, point), n_harmonics=3, n_ridges=1, n_time_modes=1)
    randomise(field.double(), seed=seed)
    torch.nn.init.zeros_(field.amplitude)
    theta = configurations(angles, seed=seed)
    kernels = field.harmonics.values()[0].flatten(1)[:, lattice.differences()].mT  # (harmonic, x, y)
    flat = theta.flatten(1)
    n = torch.arange(1, 4).view(-1, 1, 1, 1)
    apart = n * (flat[:, None, :] - flat[:, :, None])
    velocity, divergence = field.velocity_and_divergence(theta, 0.0)
    torch.testing.assert_close(velocity.flatten(1), (kernels[:, None] * apart.sin()).sum((0, 3)))
    off = kernels * (1 - torch.eye(lattice.volume))
    torch.testing.assert_close(divergence, -(n * off[:, None] * apart.cos()).sum((0, 2, 3)))


def test_the_gradient_flow_of_the_action_is_contained():
    angles = Angles(Lattice((3, 4)))
    field, action = AngleField(angles, n_time_modes=1).double(), XYModel(angles, beta=0.7)
    kernel = torch.zeros(1, 2, 3, 4)
    for axis in (2, 3):
        for step in (1, -1):
            index = [0, 0, 0, 0]
            index[axis] = step
            kernel[tuple(index)] += 0.7
    field.harmonics.set_values(kernel)
    theta = configurations(angles)
    torch.testing.assert_close(field.velocity(theta, 0.2), -action.grad(theta))


def test_the_field_starts_at_zero_and_moves():
    field, theta = AngleField(SQUARE), configurations(SQUARE)
    velocity, divergence = field.velocity_and_divergence(theta, 0.3)
    assert not velocity.any()
    assert not divergence.any()
    velocity[0, 0, 0].backward()
    assert bool(field.amplitude.grad.any())
    assert bool(field.harmonics.weight.grad.any())


def test_ridges_go_beyond_pairs():
    """Of pairs, the change by turning one neighbour does not depend on where another one points."""
    theta = torch.zeros(4, 3, 3, dtype=torch.float64)
    theta[1:3, 0, 1] = 1.0
    theta[2:4, 1, 0] = 1.0
    velocity = random_field().velocity(theta, 0.0)[:, 0, 0].detach()
    assert abs(float(velocity[0] - velocity[1] + velocity[2] - velocity[3])) > 1e-3


class Planted(VectorField):
    """A sound field with a mistake planted in it."""

    def __init__(self, inner: AngleField) -> None:
        super().__init__(inner.group)
        self.inner = inner

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = self.inner.velocity_and_divergence(phi, t)
        extra, its_divergence = self.mistake(phi)
        return velocity + 1e-9 * extra, divergence + 1e-9 * its_divergence


class Unwinds(Planted):
    """Springs between neighbours: every symmetry, but a full turn is noticed."""

    def mistake(self, phi):
        pull = sum(phi.roll(1, mu) + phi.roll(-1, mu) - 2 * phi for mu in self.lattice.axes)
        return pull, -2.0 * self.lattice.dim * phi[0].numel()


class HalfInteger(Planted):
    """`sin((theta_y - theta_x) / 2)`: periodic after two turns."""

    def mistake(self, phi):
        near = [(phi.roll(s, mu) - phi) / 2 for mu in self.lattice.axes for s in (1, -1)]
        return sum(a.sin() for a in near), -0.5 * sum(a.cos() for a in near).sum(self.lattice.axes)


class PointsUp(Planted):
    """An external field: periodic, but not the same for all directions."""

    def mistake(self, phi):
        return -phi.sin(), -phi.cos().sum(self.lattice.axes)


class Chiral(Planted):
    """`1 - cos`, even where it should be odd."""

    def mistake(self, phi):
        near = [phi.roll(s, mu) - phi for mu in self.lattice.axes for s in (1, -1)]
        return sum(1 - a.cos() for a in near), -sum(a.sin() for a in near).sum(self.lattice.axes)


class ForgetsTheCurvature(AngleField):
    """The trace through the embedding alone: without what the turning tangent gives, `-Re[conj(u) q]`."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        now, u = self._coefficients(t), torch.stack([phi.cos(), phi.sin()], 1).unsqueeze(2)
        pulled = self._smeared(self._encode(u), now.harmonics[:1])
        return velocity, divergence + (u * pulled).flatten(1).sum(1)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (Unwinds, "periodicity winding"),
        (HalfInteger, "periodicity winding"),
        (PointsUp, r"equivariance O\(2\) theta -> theta \+ 1"),
        (Chiral, r"equivariance O\(2\) theta -> -theta"),
    ],
)
def test_the_harness_sees_a_planted_mistake_and_names_it(mistake, law):
    report = check_vector_field(mistake(random_field()))
    assert any(re.search(law, f"{check.law} {check.case}") for check in report.violations), str(report)
    kinds = {check.law for check in report.violations}
    assert kinds == {law.split()[0]}, str(report)


def test_the_harness_sees_a_forgotten_curvature():
    field = ForgetsTheCurvature(SQUARE, n_ridges=3, n_time_modes=2).double()
    randomise(field)
    broken = [check.law for check in check_vector_field(field).violations]
    assert broken == ["divergence = dense trace"]


def test_periodicity_is_demanded_by_name():
    with pytest.raises(AssertionError, match="winding of site"):
        assert_periodic(Unwinds(random_field()))
    assert_periodic(random_field())
    assert max(winding_error(random_field()).values()) < 1e-13


class VonMisesFromTheOrigin(UniformAngles):
    """A density that falls off from zero as if angles were numbers."""

    def log_prob(self, z):
        return super().log_prob(z) - 1e-3 * z.square().sum(self.space.event_axes)


def test_a_log_density_that_winds_is_seen():
    flow = EquivariantCNF(SQUARE, vector_field=random_field(), prior=VonMisesFromTheOrigin(SQUARE)).double()
    errors = invariance_error(flow, flow.group, n_samples=1)
    assert min(error for name, error in errors.items() if name.startswith("winding")) > 1e-3


# Flows.


def test_a_flow_needs_nothing_but_its_angles():
    flow = EquivariantCNF(SQUARE)
    assert isinstance(flow.vector_field, AngleField)
    assert isinstance(flow.prior, UniformAngles)
    assert str(flow.group) == "translations x D4 x O(2)"
    theta, log_q = flow.sample_and_log_prob(5)  # untrained: the identity
    torch.testing.assert_close(log_q, torch.full((5,), -9 * math.log(TURN)))
    assert float(theta.abs().max()) <= math.pi


def test_every_law_of_a_flow_and_samples_within_a_turn():
    flow = small_flow(Angles(Lattice((2, 3))), scale=0.2)
    report = check_flow(flow, tolerance=1e-5)
    assert report.ok, str(report)
    assert any(check.case.startswith("winding") and "log q" in check.law for check in report.checks)
    generator = torch.Generator().manual_seed(3)
    theta, log_q = flow.sample_and_log_prob(64, generator=generator)
    z = flow.prior.rsample(64, torch.Generator().manual_seed(3))
    on_the_line = flow.transform_and_log_det(z)[0].detach()
    assert float(on_the_line.abs().max()) > math.pi >= float(theta.abs().max())
    torch.testing.assert_close(flow.log_prob(theta), log_q, rtol=0, atol=1e-5)
    torch.testing.assert_close(flow.log_prob(on_the_line), log_q, rtol=0, atol=1e-5)


def test_a_saved_flow_is_the_same_flow(tmp_path):
    flow = small_flow()
    flow.save(tmp_path / "flow.pt")
    loaded = EquivariantCNF.load(tmp_path / "flow.pt")
    theta = configurations(SQUARE)
    assert torch.equal(loaded.log_prob(theta), flow.log_prob(theta))
    assert (loaded.space, loaded.group) == (flow.space, flow.group)


def test_a_resized_flow_agrees_on_angles_of_a_common_period():
    flow = small_flow()
    larger = flow.resized(Lattice((6, 3)))
    theta = configurations(SQUARE)
    twice = larger.vector_field.velocity(torch.cat([theta, theta], 1), 0.4)
    torch.testing.assert_close(twice[:, :3], flow.vector_field.velocity(theta, 0.4))
    assert larger.sample(2).shape == (2, 6, 3)


# Physics.


@pytest.mark.parametrize(
    ("shape", "exact", "other"),
    [
        ((4,), ring(0.9, 4), ring(1.0, 4)),
        ((2, 2), strip(0.5, 2, 2), strip(0.55, 2, 2)),
        ((3, 3), strip(0.7, 3, 3), strip(0.75, 3, 3)),
    ],
)
def test_reweighted_flows_have_the_exact_physics(shape, exact: ExactXY, other: ExactXY):
    angles, beta = Angles(Lattice(shape)), {4: 0.9, 2: 0.5, 3: 0.7}[shape[0]]
    flow, action = trained(angles, beta, 25), XYModel(angles, beta=beta)
    assert_vector_field(flow.vector_field)
    ensemble = importance_sample(flow, action, 2000, generator=torch.Generator().manual_seed(1))
    assert float(ensemble.phi.abs().max()) <= math.pi
    assert ensemble.effective_sample_size().mean > 0.5
    assert abs(ensemble.log_z().sigmas_from(exact.log_z)) < 3.5
    assert abs(ensemble.log_z().sigmas_from(other.log_z)) > 3.5
    assert abs(ensemble.mean(energy).sigmas_from(exact.energy)) < 3.5
    assert abs(ensemble.mean(helicity_modulus(beta)).sigmas_from(exact.helicity_modulus)) < 3.5


def test_chains_have_the_exact_physics():
    """HMC on the line, and both chains of a flow that knows little, on a ring."""
    angles, exact = Angles(Lattice((4,))), ring(0.9, 4)
    action, flow = XYModel(angles, beta=0.9), trained(angles, 0.9, 3)
    generator = torch.Generator().manual_seed(0)
    options = {"n_chains": 32, "generator": generator}
    latent = LatentHMC(flow, action, step_size=0.5)
    chains = [
        HMC(action).sample(100, thin=2, n_thermalisation=20, **options),
        IndependenceMetropolis(flow, action).sample(60, certify=0, **options),
        latent.sample(8, n_thermalisation=2, certify=0, **options),
    ]
    for chain in chains:
        assert float(chain.samples.abs().max()) <= math.pi
        assert abs(chain.mean(energy).sigmas_from(exact.energy)) < 3.5
        assert abs(chain.mean(helicity_modulus(0.9)).sigmas_from(exact.helicity_modulus)) < 3.5
    annealed = annealed_importance_sample(flow, action, 200, betas=2, certify=0, generator=generator)
    assert abs(annealed.log_z().sigmas_from(exact.log_z)) < 3.5


def test_a_continued_chain_of_angles_is_one_longer_chain():
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    kernel = HMC(XYModel(SQUARE, beta=1.0), step_size=0.4)
    long = kernel.sample(12, n_chains=3, n_thermalisation=0, thin=2, generator=generators[0])
    short = kernel.sample(6, n_chains=3, n_thermalisation=0, thin=2, generator=generators[1])
    more = kernel.sample(6, start=short, n_chains=3, thin=2, generator=generators[1])
    assert torch.equal(short.followed_by(more).samples, long.samples)


def test_every_way_of_training_takes_angles(tmp_path):
    action = XYModel(SQUARE, beta=0.5)
    chain = HMC(action).sample(
        8, n_chains=16, n_thermalisation=20, generator=torch.Generator().manual_seed(0)
    )
    samples = chain.configurations
    options = {"steps": 2, "batch_size": 8, "progress": False}
    for objective in (ReverseKL(), ForwardKL(samples), FlowMatching(samples)):
        fit(EquivariantCNF(SQUARE), action, objective=objective, **options)
    flow = EquivariantCNF(SQUARE, vector_field=AngleField(SQUARE, n_ridges=2, n_time_modes=1))
    fit(flow, action, optimiser=NaturalGradient.of(flow, rows=4), learning_rate=1.0, **options)
    rungs = fit_ladder([action, XYModel(Angles(Lattice((4, 4))), beta=0.5)], **options)
    assert rungs[-1].flow.space == Angles(Lattice((4, 4)))
    conditional = ConditionalFlow(EquivariantCNF(SQUARE), {"beta": (0.3, 0.6)})
    fit(conditional, ActionFamily(XYModel, SQUARE, beta=(0.3, 0.6)), **options)
    ensemble = importance_sample(conditional.at(beta=0.4), XYModel(SQUARE, beta=0.4), 16)
    save_samples(ensemble, tmp_path / "xy.npz", action=XYModel(SQUARE, beta=0.4))
    assert torch.equal(load_ensemble(tmp_path / "xy.npz").phi, ensemble.phi)
    with pytest.raises(TypeError, match="Lattice or Multiplet"):
        measure(ensemble, action=action)
