"""Continuous flows: density, symmetry, gradients, certificates, files and errors."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from equiflow.flows import EquivariantCNF
from equiflow.ode.solver import Solver, SolverError
from equiflow.runtime.storage import CheckpointError
from equiflow.testing import (
    assert_log_density_exact,
    invariance_error,
    log_density_error,
    randomise,
)
from equiflow.testing.probes import jacobian_along_moves
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.phi4 import FreeScalar, Phi4
from equiflow.theories.scalar.priors import FreeField, StandardNormal
from equiflow.vector_fields import OrbitConvField, PotentialField
from tests.support.strategies import configurations, flows, lattices, log_integral, seeds, small_flow

TIGHT = Solver("dopri5", rtol=1e-10, atol=1e-10)


def rk4(steps: int, *, adjoint: bool = False) -> Solver:
    return Solver("rk4", steps=steps, adjoint=adjoint)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_solver(flow: EquivariantCNF, solver: Solver) -> EquivariantCNF:
    return EquivariantCNF(flow.lattice, vector_field=flow.vector_field, prior=flow.prior, solver=solver)


class NegatedLogDet(EquivariantCNF):
    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        phi, log_det = super().transform_and_log_det(z)
        return phi, -log_det

    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = super().inverse_and_log_det(phi)
        return z, -log_det


@settings(max_examples=10)
@given(flows(lattices(max_volume=9)), seeds)
def test_log_prob_is_prior_minus_the_dense_log_determinant(flow, seed):
    z = configurations(flow.lattice, 2, seed)
    phi, log_det = flow.transform_and_log_det(z)
    jacobian = jacobian_along_moves(lambda x: flow.transform_and_log_det(x)[0], flow.space, z)
    dense = torch.linalg.slogdet(jacobian)
    assert bool((dense.sign == 1).all())
    torch.testing.assert_close(log_det, dense.logabsdet, rtol=0, atol=1e-5)
    expected = flow.prior.log_prob(z) - dense.logabsdet
    torch.testing.assert_close(flow.log_prob(phi.detach()), expected, rtol=0, atol=1e-5)


def test_log_density_harness_sees_a_negated_log_det():
    flow = small_flow(solver=TIGHT)
    assert_log_density_exact(flow, tolerance=1e-7)
    wrong = NegatedLogDet(flow.lattice, vector_field=flow.vector_field, prior=flow.prior, solver=flow.solver)
    with pytest.raises(AssertionError, match="log q minus dense slogdet"):
        assert_log_density_exact(wrong)


@pytest.mark.parametrize("shape", [(5,), (3, 3), (2, 3), (2, 2, 2)])
def test_log_density_converges_at_the_order_of_the_solver(shape):
    flow = small_flow(shape, scale=0.4)
    errors = [log_density_error(with_solver(flow, rk4(n))) for n in (6, 12, 24)]
    for coarse, fine in itertools.pairwise(errors):
        assert 3.3 < math.log2(coarse / fine) < 5.5
    euler = [log_density_error(with_solver(flow, Solver("euler", steps=n))) for n in (32, 64)]
    assert 0.5 < math.log2(euler[0] / euler[1]) < 1.6


@settings(max_examples=10)
@given(flows(lattices(max_volume=12)), seeds)
def test_inverse_inverts(flow, seed):
    z = configurations(flow.lattice, seed=seed)
    with torch.no_grad():
        phi, log_det = flow.transform_and_log_det(z)
        back, back_log_det = flow.inverse_and_log_det(phi)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-6)
    torch.testing.assert_close(back_log_det, -log_det, rtol=0, atol=1e-5)
    assert (phi - z).abs().max() > 1e-4


@settings(max_examples=10)
@given(flows(), seeds)
def test_sampled_log_prob_is_log_prob_of_the_sample(flow, seed):
    phi, log_q = flow.sample_and_log_prob(4, generator=generator(seed))
    assert not phi.requires_grad
    assert not log_q.requires_grad
    torch.testing.assert_close(flow.log_prob(phi).detach(), log_q, rtol=0, atol=1e-5)


@given(flows(lattices(max_dim=3, max_volume=18), solver=rk4(3)))
def test_log_density_is_invariant_under_the_group(flow):
    assert max(invariance_error(flow, flow.group).values()) < 1e-11


def test_a_flow_of_a_smaller_group_breaks_the_larger():
    group = SymmetryGroup(Lattice((4, 4)), "inversion", z2=False)
    flow = small_flow((4, 4), group=group, solver=rk4(8))
    assert max(invariance_error(flow, group).values()) < 1e-11
    broken = invariance_error(flow, SymmetryGroup(flow.lattice))
    assert broken["Z2 phi -> -phi"] > 1e-2
    assert broken["rotation x -> (-y, x)"] > 1e-2


@pytest.mark.parametrize("shape", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("z2", [True, False])
def test_density_integrates_to_one(shape, z2):
    group = SymmetryGroup(Lattice(shape), z2=z2)
    flow = small_flow(shape, group=group, solver=rk4(16), scale=0.3)
    total = log_integral(flow.log_prob, flow.lattice, n_points=121)
    assert total == pytest.approx(0, abs=1e-5)


def test_a_density_with_the_log_det_left_out_does_not_integrate_to_one():
    flow = small_flow((1,), solver=rk4(24), scale=0.3)
    total = log_integral(lambda phi: flow.prior.log_prob(flow.inverse_and_log_det(phi)[0]), flow.lattice)
    assert abs(total) > 1e-2


def reparametrised(flow: EquivariantCNF, action: Phi4, n: int, seed: int) -> Tensor:
    phi, log_q = flow.rsample_and_log_prob(n, generator=generator(seed))
    return (log_q + action(phi)).mean()


def path(flow: EquivariantCNF, action: Phi4, n: int, seed: int) -> Tensor:
    sample = flow.rsample_path(n, generator=generator(seed))
    force = (sample.score + action.grad(sample.phi)).detach()
    return (sample.phi * force).flatten(1).sum(1).mean()


def path_without_score(flow: EquivariantCNF, action: Phi4, n: int, seed: int) -> Tensor:
    sample = flow.rsample_path(n, generator=generator(seed))
    return (sample.phi * action.grad(sample.phi).detach()).flatten(1).sum(1).mean()


def gradient_of(flow: EquivariantCNF, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(flow.parameters()))])


def directional_mismatch(flow: EquivariantCNF, loss, gradient: Tensor) -> float:
    """Return the relative difference of a gradient along a random direction from finite differences."""
    along = torch.randn(len(gradient), generator=generator(7))
    start = torch.nn.utils.parameters_to_vector(flow.parameters()).detach()
    step, values = 1e-5, []
    with torch.no_grad():
        for sign in (1, -1):
            torch.nn.utils.vector_to_parameters(start + sign * step * along, flow.parameters())
            values.append(float(loss(flow)))
        torch.nn.utils.vector_to_parameters(start, flow.parameters())
    exact = float(gradient @ along)
    return abs((values[0] - values[1]) / (2 * step) - exact) / abs(exact)


@pytest.mark.parametrize("estimator", [reparametrised, path])
@pytest.mark.parametrize("solver", [rk4(6), rk4(6, adjoint=True), Solver(adjoint=True)], ids=str)
@pytest.mark.parametrize("z2", [True, False])
def test_gradient_reaches_every_parameter(estimator, solver, z2):
    group = SymmetryGroup(Lattice((3, 3)), z2=z2)
    flow = small_flow(group=group, solver=solver)
    loss = estimator(flow, Phi4(flow.lattice, m2=-1.0, lam=1.0), 16, 0)
    assert bool((gradient_of(flow, loss) != 0).all())


LOSSES = {
    "log_prob": lambda flow: flow.log_prob(configurations(flow.lattice, 4)).sum(),
    "reverse KL": lambda flow: reparametrised(flow, Phi4(flow.lattice, m2=-1.0, lam=1.0), 4, 0),
    "kinetic energy": lambda flow: flow.rsample_path(4, generator=generator()).kinetic_energy.sum(),
    "path sample": lambda flow: flow.rsample_path(4, generator=generator()).phi.square().sum(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("z2", [True, False])
def test_adjoint_backprop_and_finite_differences_agree(loss, z2):
    group = SymmetryGroup(Lattice((3, 2)), z2=z2)
    flow = small_flow((3, 2), group=group, solver=rk4(24), scale=0.3)
    adjoint = with_solver(flow, rk4(24, adjoint=True))
    gradient = gradient_of(flow, loss(flow))
    torch.testing.assert_close(gradient_of(adjoint, loss(adjoint)), gradient, rtol=1e-4, atol=1e-6)
    assert directional_mismatch(flow, loss, gradient) < 1e-6
    assert directional_mismatch(flow, loss, 1.01 * gradient) > 1e-3


@settings(max_examples=10)
@given(flows(), seeds)
def test_path_score_is_the_gradient_of_log_prob(flow, seed):
    sample = flow.rsample_path(3, generator=generator(seed))
    phi = sample.phi.detach().requires_grad_()
    log_q = flow.log_prob(phi)
    (expected,) = torch.autograd.grad(log_q.sum(), phi)
    torch.testing.assert_close(sample.score, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sample.log_q, log_q.detach(), rtol=0, atol=1e-5)
    assert not sample.score.requires_grad
    assert not sample.log_q.requires_grad


@pytest.mark.parametrize("adjoint", [False, True])
def test_path_samples_are_the_flow_s_samples(adjoint):
    flow = small_flow(solver=rk4(32, adjoint=adjoint))
    sample = flow.rsample_path(5, generator=generator(3))
    phi, log_q = flow.sample_and_log_prob(5, generator=generator(3))
    torch.testing.assert_close(sample.phi.detach(), phi, rtol=0, atol=1e-12)
    torch.testing.assert_close(sample.log_q, log_q, rtol=0, atol=1e-12)
    assert sample.nfe == 4 * 32 * (1 + adjoint)
    other = flow.rsample_path(5, generator=generator(3), solver=rk4(4))
    assert other.nfe == 4 * 4
    assert not torch.equal(other.phi, sample.phi)


def worst_deviation(one, other) -> float:
    """Return the largest difference between the means of two gradient estimators, in standard errors."""
    flow = small_flow((2, 3), n_frequencies=1, n_time_modes=1, solver=rk4(6))
    action = Phi4(flow.lattice, m2=0.5, lam=0.5)
    differences = torch.stack(
        [
            gradient_of(flow, one(flow, action, 512, seed))
            - gradient_of(flow, other(flow, action, 512, seed))
            for seed in range(48)
        ]
    )
    error = differences.std(0) / len(differences) ** 0.5
    return float((differences.mean(0) / error).abs().max())


def test_path_and_reparametrisation_gradients_agree_in_mean():
    assert worst_deviation(path, reparametrised) < 4


def test_a_path_gradient_without_the_score_disagrees():
    assert worst_deviation(path_without_score, reparametrised) > 20


def per_sample_spread(flow: EquivariantCNF, estimator, action: Phi4) -> float:
    gradients = [gradient_of(flow, estimator(flow, action, 1, seed)) for seed in range(16)]
    return float(torch.stack(gradients).std(0).max())


@pytest.mark.parametrize(("shape", "adjoint"), [((5,), True), ((3, 4), False), ((2, 3, 2), False)])
def test_only_the_path_gradient_has_no_variance_at_the_optimum(shape, adjoint):
    lattice = Lattice(shape)
    flow = small_flow(shape, scale=0.0, prior=FreeField(lattice, m2=0.7), solver=rk4(4, adjoint=adjoint))
    action = FreeScalar(lattice, m2=0.7)
    assert per_sample_spread(flow, path, action) < 1e-11
    assert per_sample_spread(flow, reparametrised, action) > 1e-2
    assert per_sample_spread(flow, path, FreeScalar(lattice, m2=0.8)) > 1e-3


STIFF = {"shape": (3, 3), "scale": 1.0}


@pytest.mark.parametrize("with_action", [False, True])
def test_certificate_shrinks_with_a_finer_solver_and_fires_for_a_coarse_one(with_action):
    flow = small_flow(**STIFF)
    action = Phi4(flow.lattice, m2=-1.0, lam=1.0) if with_action else None
    steps = (2, 8, 32, 128)
    found = [with_solver(flow, rk4(n)).certificate(32, action=action, generator=generator()) for n in steps]
    errors = [c.max_log_q_error for c in found]
    assert errors[0] > 0.4
    assert errors[-1] < 1e-6
    assert errors == sorted(errors, reverse=True)
    assert abs(found[0].log_z_shift) > 0.01 > 1e-6 > abs(found[-1].log_z_shift)
    assert found[0].round_trip_error > 0.01 > 1e-6 > found[-1].round_trip_error
    assert [c.nfe for c in found] == [4 * n for n in steps]
    assert "rk4(steps=2)" in str(found[0])
    assert found[0].n_samples == 32


def test_certificate_predicts_the_true_error_of_the_log_weights():
    flow = small_flow(**STIFF, solver=rk4(10))
    action = Phi4(flow.lattice, m2=-1.0, lam=1.0)
    found = flow.certificate(16, action=action, generator=generator())
    weights = []
    for solver in (flow.solver, TIGHT):
        phi, log_q = with_solver(flow, solver).sample_and_log_prob(16, generator=generator())
        weights.append(-action(phi) - log_q)
    true = float((weights[1] - weights[0]).abs().max())
    shift = float(weights[1].logsumexp(0) - weights[0].logsumexp(0))
    assert 0.7 < found.max_log_q_error / true < 1.3
    assert 0.7 < found.log_z_shift / shift < 1.3


def test_certificate_without_action_sees_the_error_of_the_sampled_log_prob():
    flow = small_flow(**STIFF, solver=rk4(10))
    found = flow.certificate(16, generator=generator())
    phi, log_q = flow.sample_and_log_prob(16, generator=generator())
    exact = with_solver(flow, TIGHT).log_prob(phi).detach()
    assert 0.7 < found.max_log_q_error / float((exact - log_q).abs().max()) < 1.3


@pytest.mark.parametrize("with_action", [False, True])
@pytest.mark.parametrize("solver", [Solver(), rk4(8)], ids=str)
def test_certificate_in_float32_is_limited_by_rounding_only(with_action, solver):
    flow = small_flow(solver=solver).float()
    action = Phi4(flow.lattice, m2=1.0, lam=1.0) if with_action else None
    found = flow.certificate(16, action=action, generator=generator())
    assert 0 < found.max_log_q_error < 1e-3


def test_standing_still_has_no_error():
    found = small_flow(scale=0.0).certificate(8, generator=generator())
    assert found.max_log_q_error < 1e-12
    assert found.round_trip_error < 1e-12


def test_distribution_draws_and_scores_any_batch_shape():
    flow = small_flow((3, 4), solver=rk4(8))
    model = flow.distribution()
    assert isinstance(model, torch.distributions.Distribution)
    assert (model.batch_shape, model.event_shape) == ((), (3, 4))
    for shape in ((), (5,), (2, 3), (0,)):
        phi = model.sample(torch.Size(shape))
        assert phi.shape == (*shape, 3, 4)
        assert model.log_prob(phi).shape == shape
        assert not phi.requires_grad
    phi = model.sample((2, 3))
    torch.testing.assert_close(model.log_prob(phi).flatten(), flow.log_prob(phi.flatten(0, 1)))
    assert bool(model.support.check(phi).all())
    assert model.rsample((2,)).requires_grad


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (12,), (4,), (5, 3)])
def test_distribution_refuses_other_events(shape):
    with pytest.raises(ValueError, match="shape"):
        small_flow((3, 4), solver=rk4(2)).distribution().log_prob(torch.zeros(shape))


def test_distribution_samples_are_model_samples():
    model = small_flow((2,), solver=rk4(8), scale=0.3).distribution()
    torch.manual_seed(0)
    entropy = -model.log_prob(model.sample((20_000,))).detach()
    grid = torch.linspace(-9, 9, 181)
    phi = torch.cartesian_prod(grid, grid)
    log_q = model.log_prob(phi).detach()
    expected = -(log_q.exp() * log_q).sum() * (grid[1] - grid[0]) ** 2
    assert abs(entropy.mean() - expected) < 4 * entropy.std() / 20_000**0.5


@settings(max_examples=15)
@given(flow=flows(solver=rk4(4)))
def test_saved_flows_load_bitwise_equal(flow, tmp_path_factory):
    path = tmp_path_factory.mktemp("flow") / "flow.pt"
    flow.save(path)
    loaded = EquivariantCNF.load(path)
    phi = configurations(flow.lattice)
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))
    assert loaded.solver == flow.solver
    assert loaded.group == flow.group
    assert loaded.prior.group == flow.prior.group
    assert [(n, p.requires_grad) for n, p in loaded.named_parameters()] == [
        (n, p.requires_grad) for n, p in flow.named_parameters()
    ]


@pytest.mark.parametrize("kernel_size", [None, 3])
def test_loading_does_not_depend_on_the_default_dtype(tmp_path, kernel_size):
    flow = small_flow((4, 4), kernel_size=kernel_size, solver=rk4(4))
    flow.save(tmp_path / "flow.pt")
    torch.set_default_dtype(torch.float32)
    try:
        loaded = EquivariantCNF.load(tmp_path / "flow.pt")
    finally:
        torch.set_default_dtype(torch.float64)
    phi = configurations(flow.lattice)
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))


class MyField(OrbitConvField):
    pass


def test_a_field_of_one_s_own_is_loaded_into_an_instance(tmp_path):
    lattice = Lattice((3, 3))
    flow = EquivariantCNF(lattice, vector_field=MyField(lattice, n_frequencies=2), solver=rk4(2))
    randomise(flow, scale=0.1)
    flow.save(tmp_path / "flow.pt")
    with pytest.raises(
        CheckpointError,
        match=r"by itself: MyField is no class that .*\(path, vector_field=MyField\(lattice\)\)",
    ):
        EquivariantCNF.load(tmp_path / "flow.pt")
    loaded = EquivariantCNF.load(tmp_path / "flow.pt", vector_field=MyField(lattice, n_frequencies=2))
    phi = configurations(lattice)
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))
    with pytest.raises(CheckpointError, match="does not describe a flow"):
        EquivariantCNF.load(tmp_path / "flow.pt", vector_field=MyField(lattice, n_frequencies=3))


def test_precision_can_be_changed_both_ways():
    flow = small_flow(solver=rk4(16))
    phi = configurations(flow.lattice)
    expected = flow.log_prob(phi)
    single = copy.deepcopy(flow).float()
    assert single.dtype == torch.float32
    log_q = single.log_prob(phi.float())
    assert log_q.dtype == torch.float32
    torch.testing.assert_close(log_q.double(), expected, rtol=1e-4, atol=1e-4)
    assert single.double().log_prob(phi).dtype == torch.float64
    assert single.sample(2).dtype == torch.float64


def test_the_flow_lives_on_its_device(device):
    flow = small_flow(solver=rk4(4)).to(device)
    phi, log_q = flow.sample_and_log_prob(3)
    assert {phi.device.type, log_q.device.type, flow.device.type} == {device.type}
    assert flow.certificate(3).n_samples == 3
    flow.rsample_path(3).phi.sum().backward()


def test_copies_are_independent():
    flow = small_flow(solver=rk4(4))
    phi = configurations(flow.lattice)
    before = flow.log_prob(phi)
    clone = copy.deepcopy(flow)
    assert torch.equal(clone.log_prob(phi), before)
    randomise(clone)
    assert torch.equal(flow.log_prob(phi), before)
    assert not torch.equal(clone.log_prob(phi), before)


CALLS = {
    "log_prob": lambda flow, phi: flow.log_prob(phi),
    "transform": lambda flow, phi: flow.transform_and_log_det(phi),
    "inverse": lambda flow, phi: flow.inverse_and_log_det(phi),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3), (2, 1, 3, 4), (2, 12), (2, 3, 5)])
def test_wrong_shapes_are_refused(call, shape):
    with pytest.raises(ValueError, match=r"expected \(batch, 3, 4\)"):
        call(small_flow((3, 4)), torch.zeros(shape))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.complex128, torch.float32])
def test_wrong_dtypes_are_refused(call, dtype):
    with pytest.raises(TypeError, match="dtype"):
        call(small_flow((3, 4)), torch.zeros(2, 3, 4, dtype=dtype))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_fields_are_refused(call, bad):
    phi = torch.zeros(2, 3, 4)
    phi[1, 0, 0] = bad
    with pytest.raises(ValueError, match="1 of 2 configurations"):
        call(small_flow((3, 4)), phi)


def test_parts_on_other_lattices_are_refused():
    one, other = Lattice((3, 3)), Lattice((3, 4))
    with pytest.raises(ValueError, match=r"vector field lives on lattice \(3, 4\)"):
        EquivariantCNF(one, vector_field=OrbitConvField(other))
    with pytest.raises(ValueError, match=r"prior lives on lattice \(3, 4\)"):
        EquivariantCNF(one, prior=StandardNormal(other))


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_none_and_one(n, adjoint):
    flow = small_flow((3, 4), solver=rk4(2, adjoint=adjoint))
    phi, log_q = flow.sample_and_log_prob(n)
    sample = flow.rsample_path(n)
    assert phi.shape == sample.phi.shape == sample.score.shape == flow.sample(n).shape == (n, 3, 4)
    assert log_q.shape == sample.log_q.shape == sample.kinetic_energy.shape == (n,)
    assert flow.log_prob(phi).shape == (n,)
    assert flow.inverse_and_log_det(phi)[0].shape == phi.shape
    assert flow.certificate(n).n_samples == n


def test_an_empty_batch_passes_through_in_both_directions():
    flow = small_flow((3, 4))
    empty = torch.zeros(0, 3, 4)
    for z, log_det in (flow.transform_and_log_det(empty), flow.inverse_and_log_det(empty)):
        assert (z.shape, log_det.shape) == ((0, 3, 4), (0,))


@pytest.mark.parametrize("n", [-1, 2.0, True, "3", None])
def test_impossible_counts_are_refused(n):
    flow = small_flow()
    for draw in (flow.sample, flow.rsample_path, flow.certificate, flow.rsample_and_log_prob):
        with pytest.raises((ValueError, TypeError), match="n_samples must"):
            draw(n)


def test_layout_in_memory_changes_nothing():
    flow = small_flow((3, 3), solver=rk4(4))
    phi = configurations(flow.lattice, 4).movedim(0, -1).contiguous().movedim(-1, 0)
    assert not phi.is_contiguous()
    torch.testing.assert_close(flow.log_prob(phi), flow.log_prob(phi.contiguous()))


def test_a_solver_that_gives_up_is_reported():
    flow = small_flow(scale=5.0, solver=Solver(max_steps=2))
    with pytest.raises(SolverError, match=r"dopri5\(rtol=1e-05, atol=1e-05\).*t=.*evaluations"):
        flow.sample(4, generator=generator())


def test_samples_repeat_with_the_generator():
    flow = small_flow(solver=rk4(4))
    assert torch.equal(*(flow.sample(4, generator=generator(5)) for _ in range(2)))
    assert not torch.equal(*(flow.sample(4, generator=generator(s)) for s in range(2)))
    torch.manual_seed(5)
    first = flow.sample(4)
    torch.manual_seed(5)
    assert torch.equal(first, flow.sample(4))


def test_the_default_flow_starts_as_the_free_field():
    flow = EquivariantCNF(Lattice((4, 4)))
    assert str(flow.group) == "translations x D4 x Z2"
    assert isinstance(flow.vector_field, PotentialField)
    assert isinstance(flow.prior, FreeField)
    action = FreeScalar(flow.lattice, m2=flow.prior.m2)
    phi = configurations(flow.lattice)
    torch.testing.assert_close(flow.log_prob(phi), -action(phi) - action.log_z())


def test_a_flow_that_was_first_used_in_inference_mode_can_be_trained():
    flow = EquivariantCNF(Lattice((3, 3)), solver=Solver("rk4", steps=2))
    with torch.inference_mode():
        flow.sample(2)
    flow.log_prob(configurations(flow.lattice, 2)).sum().backward()
    assert flow.vector_field.linear.weight.grad is not None


def test_field_and_prior_whose_common_group_is_unknown_are_refused():
    lattice = Lattice((4, 4))
    field = OrbitConvField(lattice, group=SymmetryGroup(lattice, "D4", z2=False))
    prior = FreeField(lattice, group=SymmetryGroup(lattice, "C4", z2=True))
    with pytest.raises(ValueError, match="neither contains the other"):
        EquivariantCNF(lattice, vector_field=field, prior=prior)
