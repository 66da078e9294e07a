"""Flows, fields and priors on another lattice: copies that keep everything else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from equiflow.flows import ConditionalFlow, EquivariantCNF
from equiflow.ode.solver import Solver
from equiflow.testing import check_flow, randomise
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.priors import FreeField, StandardNormal
from equiflow.vector_fields import OrbitConvField, VectorField
from tests.support.resizing import RESIZABLE, pairs, randomised_flow, relative_difference
from tests.support.strategies import configurations, seeds, small_flow


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((3,), (4,)),
        ((4,), (3,)),
        ((2, 3), (3, 2)),
        ((3, 3), (2, 4)),
        ((4, 2), (3, 3)),
        ((1, 3, 2), (2, 2, 2)),
    ],
)
def test_a_resized_flow_is_invariant_and_its_log_density_exact(shape, target):
    flow = small_flow(shape, solver=Solver(rtol=1e-8, atol=1e-8))
    randomise(flow.prior)
    flow = flow.resized(Lattice(target))
    report = check_flow(flow, tolerance=1e-6)
    assert report.ok, str(report)


@settings(max_examples=20)
@given(pairs(), seeds)
def test_a_flow_transforms_fields_that_fit_both_lattices_the_same(pair, seed):
    point = "reflections" if len(set(pair.target.shape)) < pair.target.dim else "full"
    group = SymmetryGroup(pair.source, point)
    flow = randomised_flow(pair.source.shape, seed, group=group)
    resized = flow.resized(pair.target)
    z = pair.fields(seed)
    expected = flow.transform_and_log_det(pair.repeated(z, pair.source))[0][pair.in_cell]
    found, log_det = resized.transform_and_log_det(pair.repeated(z, pair.target))
    assert relative_difference(found, pair.repeated(expected, pair.target)) < 1e-11
    if all(side > old // 2 for side, old in zip(pair.target.shape, pair.source.shape, strict=True)):
        on_source = flow.transform_and_log_det(pair.repeated(z, pair.source))[1]
        assert relative_difference(log_det / pair.target.volume, on_source / pair.source.volume) < 1e-11
    expected = pair.repeated(flow.prior.score(pair.repeated(z, pair.source))[pair.in_cell], pair.target)
    score = resized.prior.score(pair.repeated(z, pair.target))
    assert relative_difference(score, expected) < 1e-11


@pytest.mark.parametrize(("shape", "name", "box"), [((4, 4), "D4", (4, 6)), ((3, 3, 3), "Oh", (3, 3, 4))])
def test_a_group_asked_for_by_its_name_must_exist_on_the_new_lattice(shape, name, box):
    group = SymmetryGroup(Lattice(shape), name)
    field, prior = OrbitConvField(group.lattice, group=group), FreeField(group.lattice, group=group)
    flow = EquivariantCNF(group.lattice, vector_field=field, prior=prior)
    larger = Lattice(tuple(side + 1 for side in shape))
    assert flow.resized(larger).group == SymmetryGroup(larger, name)
    for one in (field, prior, StandardNormal(group.lattice, group=group), flow):
        with pytest.raises(ValueError, match=rf"{box[0]}, .*does not have the point group {name}"):
            one.resized(Lattice(box))


@pytest.mark.parametrize("name", RESIZABLE)
@pytest.mark.parametrize("target", [(4, 3), (5, 6), (3, 3)])
def test_nothing_is_shared_with_the_original(name, target):
    original = RESIZABLE[name]()
    resized = original.resized(Lattice(target))
    for changed, other in ((resized, original), (original, resized)):
        before = {key: value.clone() for key, value in other.state_dict().items()}
        with torch.no_grad():
            for tensor in (*changed.parameters(), *changed.buffers()):
                tensor.zero_()
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    addresses = [{t.data_ptr() for t in (*m.parameters(), *m.buffers())} for m in (original, resized)]
    assert not addresses[0] & addresses[1]


@pytest.mark.parametrize("name", RESIZABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_what_is_trained_are_kept(name, dtype, device):
    original = RESIZABLE[name]().to(device, dtype)
    resized = original.resized(Lattice((5, 6)))
    kinds = [
        {key: (p.dtype, p.device.type, p.requires_grad) for key, p in m.named_parameters()}
        for m in (original, resized)
    ]
    assert kinds[0] == kinds[1]
    for key, buffer in resized.named_buffers():
        assert buffer.dtype == dict(original.named_buffers())[key].dtype
        assert buffer.device.type == device.type


@pytest.mark.parametrize("name", RESIZABLE)
def test_on_its_own_lattice_it_is_an_identical_copy(name):
    original = RESIZABLE[name]()
    copy = original.resized(original.lattice)
    assert copy is not original
    assert repr(copy) == repr(original)
    for key, value in original.state_dict().items():
        torch.testing.assert_close(copy.state_dict()[key], value, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", RESIZABLE)
def test_the_default_dtype_at_the_time_changes_nothing(name):
    original = RESIZABLE[name]()
    expected = original.resized(Lattice((5, 6))).state_dict()
    torch.set_default_dtype(torch.float32)
    try:
        found = original.resized(Lattice((5, 6))).state_dict()
    finally:
        torch.set_default_dtype(torch.float64)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-14)


def test_a_flow_keeps_its_solver_and_what_else_it_was_built_with():
    solver = Solver("dopri8", rtol=1e-4, atol=1e-5, adjoint=True)
    flow = small_flow((3, 4), prior=StandardNormal(Lattice((3, 4))), solver=solver, kernel_size=3)
    resized = flow.resized(Lattice((5, 5)))
    assert resized.solver == solver
    assert isinstance(resized.prior, StandardNormal)
    assert resized.vector_field.config() == flow.vector_field.config()
    assert resized.lattice == resized.prior.lattice == resized.vector_field.lattice == Lattice((5, 5))


def test_a_resized_flow_is_saved_and_loaded(tmp_path):
    flow = randomised_flow((3, 4), kernel_size=3).resized(Lattice((4, 5)))
    flow.save(tmp_path / "flow.pt")
    phi = configurations(flow.lattice)
    assert torch.equal(EquivariantCNF.load(tmp_path / "flow.pt").log_prob(phi), flow.log_prob(phi))


def test_gradients_reach_the_weights_of_a_resized_flow():
    flow = randomised_flow((3, 3)).resized(Lattice((4, 4)))
    loss = flow.log_prob(configurations(flow.lattice)).sum()
    gradients = torch.autograd.grad(loss, list(flow.parameters()))
    assert all(bool((g != 0).all()) for g in gradients)


@pytest.mark.parametrize("name", RESIZABLE)
@pytest.mark.parametrize("target", [(4,), (4, 4, 4)])
def test_another_dimension_is_refused(name, target):
    with pytest.raises(ValueError, match=rf"2D lattice to a {len(target)}D.*2 sides, got \({target[0]},"):
        RESIZABLE[name]().resized(Lattice(target))


@pytest.mark.parametrize("target", [(5, 6), 5, None, SymmetryGroup(Lattice((5, 6))), Lattice])
def test_a_flow_is_resized_to_a_lattice_only(target):
    with pytest.raises(TypeError, match="lattice must be of type Lattice"):
        RESIZABLE["flow"]().resized(target)


@pytest.mark.parametrize("name", [name for name in RESIZABLE if "flow" not in name])
def test_fields_and_priors_are_resized_to_a_lattice_only(name):
    with pytest.raises(TypeError, match="must be of type Lattice"):
        RESIZABLE[name]().resized((5, 6))


class Still(VectorField):
    def velocity_and_divergence(self, phi, t):
        return torch.zeros_like(phi), phi.new_zeros(len(phi))


class Uniform(Prior):
    def colour(self, noise):
        return noise

    def log_prob(self, z):
        return z.new_zeros(len(z))

    def score(self, z):
        return torch.zeros_like(z)


def test_fields_and_priors_that_do_not_say_how_are_named():
    lattice, larger = Lattice((4, 4)), Lattice((6, 6))
    still, uniform = Still(SymmetryGroup(lattice)), Uniform(lattice)
    for one in (still, EquivariantCNF(lattice, vector_field=still)):
        with pytest.raises(TypeError, match=r"Still does not carry over.*override `resized`"):
            one.resized(larger)
    for one in (uniform, EquivariantCNF(lattice, prior=uniform)):
        with pytest.raises(TypeError, match=r"Uniform does not carry over.*override `resized`"):
            one.resized(larger)


def test_weights_that_are_not_trained_stay_so_on_another_lattice():
    flow = EquivariantCNF(Lattice((4, 4)), solver=Solver("rk4", steps=2))
    flow.prior.requires_grad_(False)
    larger = flow.resized(Lattice((6, 6)))
    frozen = {name for name, weight in larger.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in flow.named_parameters() if name.startswith("prior.")} != set()
    conditional = ConditionalFlow(flow, {"lam": (4.0, 6.0)}).resized(Lattice((6, 6)))
    assert not any(name.startswith("prior.") for name in conditional.modes())
