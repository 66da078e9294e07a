"""Kernels of potential and shallow fields agree with torch to rounding, in all derivatives, with symmetry."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("numba")

from equiflow import (
    EquivariantCNF,
    Lattice,
    OrbitConvField,
    Phi4,
    PotentialField,
    SymmetryGroup,
    fit,
    fused,
)
from equiflow.fused.solving import SITES_PER_BLOCK
from equiflow.ode.solver import Solver, SolverError
from equiflow.ode.tableaus import TABLEAUS
from equiflow.testing import randomise
from tests.support.agreement import assert_close, both

P, C = PotentialField, OrbitConvField
CASES = [
    (P, (4, 4), "full", True, {}),
    (P, (5, 5), "full", True, {"kernel_size": 3}),
    (P, (3, 6), "full", False, {"n_channels": 1}),
    (P, (6, 2), "full", True, {"n_channels": 4, "n_ridges": 3}),
    (P, (7,), "full", False, {}),
    (P, (1,), "full", True, {}),
    (P, (2,), "trivial", True, {"kernel_size": 2}),  # reflections do nothing here
    (P, (16, 16), "full", True, {}),
    (C, (4, 4), "full", True, {}),
    (C, (3, 5), "full", False, {}),
    (C, (7, 7), "full", True, {"kernel_size": 5, "convolution": "fourier", "n_frequencies": 1}),
    (C, (6,), "full", False, {}),
]


def random_flow(kind, shape, point="full", z2=True, seed=0, **options) -> EquivariantCNF:
    lattice = Lattice(shape)
    few = {"n_ridges": 5} if kind is P else {"n_frequencies": 3}
    options = few | {"n_time_modes": 3, "max_frequency": 3.0} | options
    field = kind(lattice, group=SymmetryGroup(lattice, point, z2), **options)
    flow = EquivariantCNF(lattice, vector_field=field, solver=Solver("rk4", steps=3)).double()
    randomise(flow, seed=seed)
    return flow


def some(shape, n=3, **options):
    return torch.randn(n, *shape, **options)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("t", [0.0, 0.37, 1.0])
def test_rates_agree(case, t):
    kind, shape, point, z2, options = case
    field, phi = random_flow(kind, shape, point, z2, **options).vector_field, some(shape)
    kernels = field.fused(phi)
    assert kernels is not None
    with torch.no_grad():
        assert_close(kernels.velocity_and_divergence(phi, t), field.velocity_and_divergence(phi, t))
        assert_close([kernels.velocity(phi, t)], [field.velocity(phi, t)])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rates_of_the_score_agree(case):
    kind, shape, point, z2, options = case
    field, phi, score = random_flow(kind, shape, point, z2, **options).vector_field, some(shape), some(shape)
    kernels = field.fused(phi)
    with torch.no_grad():
        one, other = kernels.path_rates(phi, 0.4, score), field.path_rates(phi, 0.4, score)
    for name in ("velocity", "divergence", "score_rate"):
        assert_close([getattr(one, name)], [getattr(other, name)])


@pytest.mark.parametrize("method", sorted(TABLEAUS))
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (0.2, 0.5)])
def test_solves_agree_for_every_formula_and_direction(method, t0, t1):
    flow, phi = random_flow(P, (4, 4)), some((4, 4))
    solver = Solver(method, steps=2)
    one, other = both(lambda: flow.solve(phi, t0, t1, solver=solver))
    assert one.nfe == other.nfe > 0
    assert_close(one.state, other.state)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_solves_agree(case):
    kind, shape, point, z2, options = case
    flow, z = random_flow(kind, shape, point, z2, **options), some(shape, requires_grad=True)
    of_phi, of_log_det = some(shape), torch.randn(3)

    def gradients():
        phi, log_det = flow.solve(z, 0.0, 1.0).state
        loss = (phi * of_phi).sum() + (log_det * of_log_det).sum()
        return torch.autograd.grad(loss, [z, *flow.vector_field.parameters()])

    one, other = both(gradients)
    assert all(bool(g.any()) for g in one)
    assert_close(one, other)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_paths_and_their_gradients_agree(case):
    kind, shape, point, z2, options = case
    flow = random_flow(kind, shape, point, z2, **options)
    of_phi, of_energy = some(shape), torch.randn(3)

    def path():
        sample = flow.rsample_path(3, generator=torch.Generator().manual_seed(1))
        loss = (sample.phi * of_phi).sum() + (sample.kinetic_energy * of_energy).sum()
        values = (sample.phi, sample.log_q, sample.score, sample.kinetic_energy)
        return sample.nfe, values, torch.autograd.grad(loss, list(flow.parameters()))

    (n, values, gradients), (m, expected, expected_gradients) = both(path)
    assert n == m == 12
    assert_close(values, expected)
    assert_close(gradients, expected_gradients)


def test_second_derivatives_agree():
    flow, z = random_flow(P, (3, 4)), some((3, 4), requires_grad=True)
    weights = list(flow.vector_field.parameters())

    def second():
        phi, log_det = flow.solve(z, 0.0, 1.0).state
        (first,) = torch.autograd.grad(phi.sin().sum() + log_det.square().sum(), z, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [z, *weights])

    one, other = both(second)
    assert all(bool(g.any()) for g in one)
    assert_close(one, other)


def test_gradients_are_those_of_finite_differences():
    flow, z = random_flow(P, (3, 3), n_ridges=2, n_time_modes=2), some((3, 3), 2, requires_grad=True)
    assert flow.vector_field.fused(z) is not None
    torch.autograd.gradcheck(lambda x: flow.solve(x, 0.0, 1.0).state, (z,))


@pytest.mark.parametrize("n", [1, SITES_PER_BLOCK // 16 - 1, 2 * SITES_PER_BLOCK // 16 + 3])
def test_configurations_do_not_depend_on_the_others_in_their_block(n):
    flow, phi = random_flow(P, (4, 4)), some((4, 4), n)
    together = flow.solve(phi, 0.0, 1.0).state
    alone = [flow.solve(one, 0.0, 1.0).state for one in phi.split(1)]
    assert_close(together, [torch.cat(parts) for parts in zip(*alone, strict=True)])


def test_threads_agree():
    flow, z = random_flow(P, (8, 8)), some((8, 8), 300, requires_grad=True)

    def results():
        phi, log_det = flow.solve(z, 0.0, 1.0).state
        gradients = torch.autograd.grad(phi.sin().sum() + log_det.sum(), list(flow.vector_field.parameters()))
        return phi, log_det, *gradients

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results()
        torch.set_num_threads(3)
        three = results()
    finally:
        torch.set_num_threads(before)
    assert_close(three, one)


def test_float32_agrees_to_its_rounding():
    flow = random_flow(P, (8, 8)).float()
    phi = some((8, 8), dtype=torch.float32)
    one, other = both(lambda: flow.solve(phi, 0.0, 1.0).state)
    assert one[0].dtype == one[1].dtype == torch.float32
    assert_close(one, other, 2e-5)
    exact = copy.deepcopy(flow).double().solve(phi.double(), 0.0, 1.0).state
    assert 0 < float((one[0] - exact[0]).detach().abs().max()) < 2e-5


@pytest.mark.parametrize("kind", [P, C])
def test_solves_keep_the_symmetry(kind):
    flow, phi = random_flow(kind, (5, 5)), some((5, 5))
    moved, log_det = flow.solve(phi, 0.0, 1.0).state
    for element in flow.group.generators().values():
        other, same = flow.solve(element(phi), 0.0, 1.0).state
        assert_close([other, same], [element(moved), log_det])


def test_kernels_see_new_weights():
    flow, phi = random_flow(P, (4, 4)), some((4, 4))
    before = flow.solve(phi, 0.0, 1.0).state[0]
    randomise(flow, seed=5)
    after, expected = both(lambda: flow.solve(phi, 0.0, 1.0).state)
    assert float((after[0] - before).detach().abs().max()) > 1e-3
    assert_close(after, expected)


def test_training_gives_the_same_flow():
    def trained():
        torch.manual_seed(0)
        flow = EquivariantCNF(Lattice((4, 4))).double()
        history = fit(flow, Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0), steps=6, batch_size=8, progress=False)
        return [torch.tensor(history.loss), *flow.state_dict().values()]

    one, other = both(trained)
    assert_close(one, other, 1e-9)


class Bent(PotentialField):
    """A field of its own, of which the kernels know nothing."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        return 2 * velocity, 2 * divergence


@pytest.mark.parametrize(
    "field",
    [
        PotentialField(Lattice((5, 5)), group=SymmetryGroup(Lattice((5, 5)), "rotations", True)),
        PotentialField(Lattice((3, 3, 3))),
        PotentialField(Lattice((130, 2))),
        Bent(Lattice((4, 4))),
        OrbitConvField(Lattice((8, 8)), kernel_size=3, convolution="direct"),
    ],
    ids=["without reflections", "three dimensions", "too long", "subclass", "direct"],
)
def test_kernels_are_left_out_where_they_do_not_fit(field):
    assert field.fused(some(field.lattice.shape)) is None
    flow = EquivariantCNF(field.space, vector_field=field, solver=Solver("rk4", steps=1)).double()
    randomise(flow, seed=1)
    one, other = both(lambda: flow.sample_and_log_prob(2, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_kernels_are_left_out_where_torch_transforms_or_dtypes_differ():
    flow, phi = random_flow(P, (4, 4)), some((4, 4))
    field = flow.vector_field
    assert field.fused(phi.float()) is None
    with fused.switched(False):
        assert field.fused(phi) is None
    seen = []
    torch.func.vmap(lambda x: seen.append(field.fused(x[None])) or x)(phi)
    with torch.autograd.forward_ad.dual_level():
        seen.append(field.fused(phi))
    assert seen == [None, None]
    assert field.fused(phi) is not None


# torch itself calls a deprecated function of its own for forward derivatives.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_forward_mode_derivatives_agree_with_backward_ones():
    flow, phi, tangent = random_flow(P, (3, 3)), some((3, 3)), some((3, 3))
    _, along = torch.func.jvp(lambda x: flow.solve(x, 0.0, 1.0).state[1], (phi,), (tangent,))
    leaf = phi.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(flow.solve(leaf, 0.0, 1.0).state[1].sum(), leaf)
    torch.testing.assert_close((gradient * tangent).sum(), along.sum())


def test_values_that_are_not_finite_raise():
    flow, phi = random_flow(P, (4, 4)), some((4, 4))
    phi[1, 2, 2] = torch.nan
    with pytest.raises(SolverError, match="NaN"):
        flow.solve(phi, 0.0, 1.0)


def test_certificates_compare_with_torch(monkeypatch):
    flow = random_flow(P, (4, 4))
    reference = flow._reference()
    z = some((4, 4))
    assert reference._for_solve(z, None) is reference.vector_field
    assert flow._for_solve(z, None) is not flow.vector_field
    # A fault of the kernels is seen: here they forget part of the trace.
    tables = type(flow.vector_field.fused(z)).tables
    monkeypatch.setattr(
        "equiflow.vector_fields.ridge_kernels.FusedPotential.tables",
        lambda self, times: (made := tables(self, times)).__class__(
            **(vars(made) | {"trace": made.trace + 0.5})
        ),
    )
    assert abs(flow.certificate(16).log_z_shift) > 0.4


def test_nothing_is_kept_for_a_gradient_that_nobody_asked_for():
    flow, z = random_flow(P, (4, 4)), some((4, 4), requires_grad=True)
    with torch.no_grad():
        phi, log_det = flow.solve(z, 0.0, 1.0).state
    assert not phi.requires_grad
    assert not log_det.requires_grad
    assert flow.solve(z, 0.0, 1.0).state[0].requires_grad
