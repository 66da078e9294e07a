"""Laws that every vector field on a lattice obeys, with planted mistakes that break them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equiflow.testing import (
    assert_divergence_exact,
    assert_equivariant,
    assert_vector_field,
    check_vector_field,
    dense_jacobian,
    divergence_error,
    equivariance_error,
    path_rates_error,
    randomise,
)
from equiflow.testing.probes import jacobian_along_moves
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.vector_fields import VECTOR_FIELDS, OrbitConvField, PathRates, VectorField
from tests.support.strategies import (
    ELSEWHERE,
    FIELDS,
    POINT_GROUPS,
    configurations,
    groups,
    kernel_sizes,
    lattices,
    seeds,
    vector_fields,
)

times = st.floats(0, 1)


def random_field(shape: tuple[int, ...] = (4, 4), seed: int = 0, **options: object):
    field = OrbitConvField(Lattice(shape), n_frequencies=2, n_time_modes=2, **options).double()
    randomise(field, seed=seed)
    return field


class Planted(VectorField):
    """A correct field with a mistake planted in it."""

    def __init__(self, inner: VectorField) -> None:
        super().__init__(inner.group)
        self.inner = inner

    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        velocity, divergence = self.inner.velocity_and_divergence(phi, t)
        mistake, its_divergence = self.mistake(phi)
        return velocity + mistake, divergence + its_divergence

    def mistake(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(phi), phi.new_zeros(len(phi))


class SiteDependent(Planted):
    def mistake(self, phi):
        source = torch.zeros_like(phi)
        source.flatten(1)[:, 0] = 1e-9
        return source, phi.new_zeros(len(phi))


class EvenFeature(Planted):
    def mistake(self, phi):
        return 1e-9 * phi.square(), 2e-9 * phi.sum(self.lattice.axes)


class UncentredKernel(Planted):
    """A 2 x 2 kernel whose origin is a corner of the plaquette, as convolutions of images have it."""

    def mistake(self, phi):
        corner = phi.roll(1, -1) + phi.roll(1, -2) + phi.roll((1, 1), (-2, -1))
        return 1e-9 * corner, phi.new_zeros(len(phi))


class WrongDivergence(Planted):
    def mistake(self, phi):
        return torch.zeros_like(phi), 1e-7 * phi.square().sum(self.lattice.axes)


class NotANumber(Planted):
    def mistake(self, phi):
        return phi * math.nan, phi.new_zeros(len(phi))


class ForgetsDivergenceGradient(Planted):
    def path_rates(self, phi, t, score):
        rates = super().path_rates(phi, t, score)
        leaf = phi.detach().requires_grad_()
        divergence = self.velocity_and_divergence(leaf, t)[1].sum()
        (gradient,) = torch.autograd.grad(divergence, leaf)
        return PathRates(rates.velocity, rates.divergence, rates.score_rate + gradient)


def test_every_family_is_drawn():
    assert set(FIELDS) | set(ELSEWHERE) == set(VECTOR_FIELDS)


@settings(max_examples=25)
@given(vector_fields())
def test_velocity_is_equivariant_and_divergence_invariant(field):
    errors = equivariance_error(field, field.lattice)
    assert len(errors) > field.lattice.dim
    assert max(errors.values()) < 1e-12


def test_jacobians_from_copies_are_those_from_rows():
    field = random_field((3, 2))
    phi = configurations(field.lattice)
    by_rows = dense_jacobian(lambda x: field.velocity(x, 0.3), phi)
    torch.testing.assert_close(
        jacobian_along_moves(lambda x: field.velocity(x, 0.3), field.space, phi), by_rows
    )
    assert not by_rows.equal(by_rows.mT)


@settings(max_examples=40)
@given(vector_fields(), times, seeds)
def test_divergence_is_the_dense_trace(field, t, seed):
    phi = configurations(field.lattice, seed=seed)
    jacobian = jacobian_along_moves(lambda x: field.velocity(x, t), field.space, phi)
    trace = torch.stack([matrix.trace() for matrix in jacobian])
    divergence = field.velocity_and_divergence(phi, t)[1]
    torch.testing.assert_close(divergence, trace, rtol=1e-10, atol=1e-10)
    assert divergence_error(field) < 1e-10


@settings(max_examples=40)
@given(vector_fields(), times, seeds)
def test_values_do_not_depend_on_whether_a_graph_is_kept(field, t, seed):
    phi = configurations(field.lattice, seed=seed)
    with torch.no_grad():
        without = field.velocity_and_divergence(phi, t)
    for alone, beside in zip(without, field.velocity_and_divergence(phi, t), strict=True):
        torch.testing.assert_close(alone, beside.detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(phi, configurations(field.lattice, seed=seed))


@settings(max_examples=40)
@given(vector_fields())
def test_path_rates_agree_with_automatic_differentiation(field):
    assert path_rates_error(field) < 1e-11


@given(vector_fields(lattices(max_volume=18)), seeds)
def test_score_rate_is_that_of_the_dense_jacobian(field, seed):
    phi, score = (configurations(field.lattice, seed=s) for s in (seed, seed + 1))
    jacobian = dense_jacobian(lambda x: field.velocity(x, 0.4), phi)
    leaf = phi.clone().requires_grad_()
    divergence = field.velocity_and_divergence(leaf, 0.4)[1].sum()
    gradient = torch.autograd.grad(divergence, leaf, allow_unused=True)[0]
    expected = -torch.einsum("bxy,bx->by", jacobian, score.flatten(1))
    expected = expected if gradient is None else expected - gradient.flatten(1)
    rate = field.path_rates(phi, 0.4, score).score_rate.flatten(1)
    torch.testing.assert_close(rate, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("mistake", "culprit"),
    [
        (SiteDependent, "translation along axis 0"),
        (EvenFeature, "Z2 phi -> -phi"),
        (UncentredKernel, "rotation x -> "),
        (NotANumber, "translation along axis 0"),
    ],
)
def test_a_planted_asymmetry_is_named(mistake, culprit):
    field = mistake(random_field())
    with pytest.raises(AssertionError, match=f"{mistake.__name__} is not equivariant") as caught:
        assert_equivariant(field)
    assert culprit in str(caught.value)
    assert_equivariant(field.inner)


@pytest.mark.parametrize("mistake", [WrongDivergence, NotANumber])
def test_a_planted_divergence_is_seen(mistake):
    with pytest.raises(AssertionError, match="divergence minus dense trace"):
        assert_divergence_exact(mistake(random_field()))


def test_a_planted_score_rate_is_seen():
    with pytest.raises(AssertionError, match="path_rates minus autograd"):
        assert_vector_field(ForgetsDivergenceGradient(random_field()))


def test_the_harness_passes_a_correct_field_and_refuses_a_zero_one():
    assert_vector_field(Planted(random_field()))
    with pytest.raises(AssertionError, match="zero everywhere"):
        assert_equivariant(OrbitConvField(Lattice((4, 4))))
    with pytest.raises(ValueError, match=r"exactly 0\. Expected .* after equiflow\.testing\.randomise"):
        check_vector_field(OrbitConvField(Lattice((4, 4))))
    with pytest.raises(ValueError, match="lives on lattice"):
        assert_equivariant(random_field(), Lattice((5, 5)))


@pytest.mark.parametrize("kernel_size", [None, 2, 3])
@pytest.mark.parametrize("point", [name for name in POINT_GROUPS if name != "full"])
@pytest.mark.parametrize("shape", [(4, 4), (5, 5), (3, 3, 3)])
def test_a_smaller_point_group_really_allows_breaking(shape, point, kernel_size):
    lattice = Lattice(shape)
    group, full = SymmetryGroup(lattice, point), SymmetryGroup(lattice)
    field = random_field(shape, group=group, kernel_size=kernel_size)
    assert max(equivariance_error(field).values()) < 1e-12
    broken = equivariance_error(field, group=full)
    allowed = {name for name, g in full.generators().items() if g.point in group.point_elements}
    orbits = group.offset_orbits(kernel_size).index, full.offset_orbits(kernel_size).index
    if torch.equal(*orbits):  # the orbits happen to have the larger symmetry
        assert max(broken.values()) < 1e-12
    else:
        assert any(broken[name] > 1e-3 for name in broken.keys() - allowed)
        assert all(broken[name] < 1e-12 for name in allowed)


def test_the_groups_whose_orbits_are_finer_are_the_ones_that_break():
    full = SymmetryGroup(Lattice((5, 5)))
    n_orbits = {name: len(SymmetryGroup(full.lattice, name).offset_orbits()) for name in POINT_GROUPS}
    assert n_orbits == {
        "full": 6, "rotations": 7, "reflections": 9, "inversion": 13, "trivial": 25,
    }  # fmt: skip


@given(lattices().flatmap(lambda lat: st.tuples(st.just(lat), kernel_sizes(lat))), seeds)
def test_without_z2_the_sign_symmetry_breaks(drawn, seed):
    lattice, kernel_size = drawn
    group = SymmetryGroup(lattice, z2=False)
    field = random_field(lattice.shape, seed, group=group, kernel_size=kernel_size)
    assert max(equivariance_error(field).values()) < 1e-12
    assert equivariance_error(field, group=SymmetryGroup(lattice))["Z2 phi -> -phi"] > 1e-3


@pytest.mark.parametrize("shape", [(6, 6), (5, 7), (6,), (5, 5, 5)])
@pytest.mark.parametrize("kernel_size", [2, 4])
def test_even_kernels_smaller_than_the_lattice_are_equivariant(shape, kernel_size):
    field = random_field(shape, kernel_size=kernel_size)
    assert max(equivariance_error(field).values()) < 1e-12


@settings(max_examples=40)
@given(lattices(max_volume=36).flatmap(lambda lat: st.tuples(groups(lat), kernel_sizes(lat))), seeds)
def test_the_response_to_one_site_is_limited_to_the_kernel(drawn, seed):
    group, kernel_size = drawn
    shape = group.lattice.shape
    field = random_field(shape, seed, group=group, kernel_size=kernel_size)
    phi = configurations(group.lattice, 1, seed)
    # dv_x / dphi_0 is nonzero where the kernel reaches from site 0.
    jacobian = jacobian_along_moves(lambda x: field.velocity(x, 0.3), field.space, phi)
    response = jacobian[0, :, 0].reshape(shape).abs()
    inside = group.offset_orbits(kernel_size).index >= 0
    assert response[~inside].max() < 1e-13 if bool((~inside).any()) else True
    assert response[inside].min() > 1e-9


def test_a_kernel_that_reaches_further_is_seen():
    field = random_field((5, 5), kernel_size=3)
    response = dense_jacobian(lambda x: field.velocity(x, 0.3), configurations(field.lattice, 1))
    inside = field.group.offset_orbits(1).index >= 0
    assert response[0, :, 0].reshape(5, 5).abs()[~inside].max() > 1e-3


@given(vector_fields())
def test_symmetry_holds_in_float32(field):
    assert max(equivariance_error(field.float()).values()) < 1e-5
    assert divergence_error(field) < 1e-4


@settings(max_examples=10)
@given(vector_fields(lattices(max_volume=30)), seeds)
def test_laws_hold_after_optimiser_steps(field, seed):
    before = [p.detach().clone() for p in field.parameters()]
    optimiser = torch.optim.Adam(field.parameters(), lr=0.05)
    target = configurations(field.lattice, seed=seed)
    for _ in range(3):
        velocity, divergence = field.velocity_and_divergence(target, 0.5)
        loss = (velocity - target.roll(1, -1).square()).square().mean() + divergence.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, field.parameters(), strict=True))
    assert_vector_field(field)


@given(vector_fields(), seeds)
def test_gradient_reaches_every_parameter(field, seed):
    phi = configurations(field.lattice, seed=seed)
    velocity, divergence = field.velocity_and_divergence(phi, 0.37)
    loss = (velocity * configurations(field.lattice, seed=seed + 1)).sum() + divergence.sum()
    gradients = torch.autograd.grad(loss, list(field.parameters()))
    assert all(bool((g != 0).all()) for g in gradients)


def finite_difference_mismatch(field: VectorField, seed: int) -> float:
    """Return the relative error of a directional derivative in phi and in all weights at once."""
    lattice = field.lattice
    phi = configurations(lattice, seed=seed).requires_grad_()
    wanted = configurations(lattice, seed=seed + 1)

    def loss() -> Tensor:
        velocity, divergence = field.velocity_and_divergence(phi, 0.37)
        return (velocity * wanted).sum() + divergence.square().sum()

    inputs = [phi, *field.parameters()]
    generator = torch.Generator().manual_seed(seed)
    along = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
    gradients = torch.autograd.grad(loss(), inputs)
    exact = sum(float((g * a).sum()) for g, a in zip(gradients, along, strict=True))
    size = sum(float((g * a).abs().sum()) for g, a in zip(gradients, along, strict=True))
    step, shifted = 1e-5, []
    for sign in (1, -2, 1):  # forward, backward past the start, and to the start
        shifted.append(float(loss().detach()))
        with torch.no_grad():
            for x, a in zip(inputs, along, strict=True):
                x.add_(sign * step * a)
    _, up, down = shifted
    return abs((up - down) / (2 * step) - exact) / size


@settings(max_examples=40)
@given(vector_fields(), seeds)
def test_gradients_agree_with_finite_differences(field, seed):
    assert finite_difference_mismatch(field, seed) < 1e-6


class CutGraph(Planted):
    def velocity_and_divergence(self, phi, t):
        velocity, divergence = self.inner.velocity_and_divergence(phi, t)
        return velocity, divergence + 1e-3 * (velocity - velocity.detach()).sum(self.lattice.axes)


def test_a_wrong_gradient_is_seen_by_finite_differences():
    assert finite_difference_mismatch(CutGraph(random_field()), 0) > 1e-5


def test_differentiating_twice_is_exact_or_refused():
    field = random_field()
    phi = configurations(field.lattice, 1).requires_grad_()

    def slope(x: Tensor, **options: bool) -> Tensor:
        return torch.autograd.grad(field.velocity(x, 0.3).sum(), x, **options)[0]

    step = 1e-5
    difference = (slope(phi + step).square().sum() - slope(phi - step).square().sum()) / (2 * step)
    try:
        penalty = slope(phi, create_graph=True).square().sum() + phi.square().sum()
        (exact,) = torch.autograd.grad(penalty, phi)
    except RuntimeError:
        return
    torch.testing.assert_close(exact.sum(), difference + 2 * phi.sum(), rtol=1e-6, atol=1e-6)


@given(vector_fields(), seeds)
def test_a_field_built_in_float32_and_converted_is_the_one_built_in_float64(field, seed):
    torch.set_default_dtype(torch.float32)
    try:
        converted = type(field)(field.lattice, group=field.group, **field.config()).double()
    finally:
        torch.set_default_dtype(torch.float64)
    converted.load_state_dict(field.state_dict())
    phi = configurations(field.lattice, seed=seed)
    torch.testing.assert_close(converted.velocity(phi, 0.3), field.velocity(phi, 0.3), rtol=1e-13, atol=1e-13)


@given(vector_fields(), times, seeds)
def test_configurations_do_not_see_each_other(field, t, seed):
    phi = configurations(field.lattice, 3, seed)
    together = field.velocity_and_divergence(phi, t)
    alone = [field.velocity_and_divergence(one[None], t) for one in phi]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-13, atol=1e-13)


@given(vector_fields(), times)
def test_velocity_alone_and_time_as_a_tensor_change_nothing(field, t):
    phi = configurations(field.lattice)
    velocity, divergence = field.velocity_and_divergence(phi, t)
    assert torch.equal(field.velocity(phi, t), velocity)
    tensors = field.velocity_and_divergence(phi, torch.tensor(t))
    torch.testing.assert_close(tensors, (velocity, divergence))


@given(vector_fields())
def test_layout_in_memory_changes_nothing(field):
    phi = configurations(field.lattice, 4).movedim(0, -1).contiguous().movedim(-1, 0)
    torch.testing.assert_close(
        field.velocity_and_divergence(phi, 0.3),
        field.velocity_and_divergence(phi.contiguous(), 0.3),
    )


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("kernel_size", [None, 3])
def test_batches_of_none_and_one(n, kernel_size):
    field = random_field(kernel_size=kernel_size)
    phi = configurations(field.lattice, n)
    velocity, divergence = field.velocity_and_divergence(phi, 0.5)
    rates = field.path_rates(phi, 0.5, phi)
    assert velocity.shape == rates.velocity.shape == rates.score_rate.shape == phi.shape
    assert divergence.shape == rates.divergence.shape == (n,)


@given(vector_fields())
def test_config_rebuilds_the_field(field):
    rebuilt = type(field)(field.lattice, group=field.group, **field.config()).double()
    rebuilt.load_state_dict(field.state_dict())
    phi = configurations(field.lattice)
    assert torch.equal(rebuilt.velocity(phi, 0.6), field.velocity(phi, 0.6))


@given(lattices().flatmap(lambda lat: st.tuples(groups(lat), kernel_sizes(lat))))
def test_untrained_fields_stand_still(drawn):
    group, kernel_size = drawn
    field = OrbitConvField(group.lattice, group=group, kernel_size=kernel_size)
    velocity, divergence = field.velocity_and_divergence(configurations(group.lattice), 0.5)
    assert not velocity.any()
    assert not divergence.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_moves_with_the_module(dtype, device):
    field = random_field(group=SymmetryGroup(Lattice((4, 4)), z2=False)).to(device, dtype)
    phi = configurations(field.lattice, dtype=dtype).to(device)
    for tensor in field.velocity_and_divergence(phi, 0.5):
        assert (tensor.dtype, tensor.device.type) == (dtype, device.type)


def test_impossible_fields_are_refused():
    lattice = Lattice((4, 4))
    message = r"acts on lattice \(5, 5\), the field lives on \(4, 4\). Build both"
    with pytest.raises(ValueError, match=message):
        OrbitConvField(lattice, group=SymmetryGroup(Lattice((5, 5))))
    with pytest.raises(ValueError, match="n_frequencies >= 1"):
        OrbitConvField(lattice, n_frequencies=0)
    with pytest.raises(ValueError, match="max_frequency > 0"):
        OrbitConvField(lattice, max_frequency=-1.0)
    with pytest.raises(ValueError, match="at least one mode"):
        OrbitConvField(lattice, n_time_modes=0)
    with pytest.raises(ValueError, match="does not fit the lattice"):
        OrbitConvField(lattice, kernel_size=5)
