"""Estimated divergences are unbiased, drawn once per solve, and refused where a result is wanted."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from equiflow import (
    EquivariantCNF,
    FlowMatching,
    ForwardKL,
    IndependenceMetropolis,
    Lattice,
    NaturalGradient,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    SymmetryGroup,
    fit,
    importance_sample,
    log_weights,
)
from equiflow.nn.traces import far_apart
from equiflow.testing import check_flow, check_vector_field, divergence_error, randomise
from equiflow.vector_fields import DeepAttentionField, EstimatedField, VectorField
from equiflow.vector_fields.estimated import Parts
from tests.support.strategies import configurations
from tests.support.unbiased import chi2, generator

ESTIMATES = [{"trace": "hutchinson"}, {"trace": "hutch++"}, {"trace": "hutchinson", "n_probes": 3}]
SMALL = {"n_channels": 2, "n_heads": 1, "n_frequencies": 1, "n_time_modes": 2, "max_frequency": 2.0}


def random_field(shape=(2, 3), **options) -> DeepAttentionField:
    field = DeepAttentionField(Lattice(shape), **SMALL, **options).double()
    randomise(field)
    return field


def random_flow(shape=(2, 3), solver=Solver("rk4", steps=3), **options) -> EquivariantCNF:  # noqa: B008
    field = random_field(shape, **options)
    return EquivariantCNF(field.lattice, vector_field=field, solver=solver).double()


class Neighbours(EstimatedField):
    """`v_x = sin(phi_x phi_{x+1}) + sum_y c_y phi_{x+y}`; the trace of the linear part is known."""

    steps = 1

    def velocity(self, phi, t):
        coupled, known, _ = self.velocity_in_parts(phi, t)
        return coupled + known

    def velocity_in_parts(self, phi, t):
        linear = phi * 0.7 + phi.sum(-1, keepdim=True)
        return Parts((phi * phi.roll(self.steps, -1)).sin(), linear, 1.7 * phi.shape[-1])

    @property
    def reach(self):
        return (1,)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 8])
def test_a_short_reach_takes_few_products_for_the_exact_trace(side):
    group = SymmetryGroup(Lattice((side,)), "trivial", z2=False)
    assert divergence_error(Neighbours(group)) < 1e-12
    products = []
    phi = configurations(group.lattice).requires_grad_()
    phi.register_hook(products.append)
    Neighbours(group).velocity_and_divergence(phi, 0.3)
    assert len(products) == len(far_apart((side,), (1,)))
    # Planted: the velocity couples sites beyond its reach.
    wrong = Neighbours(group)
    wrong.steps = 2
    assert (divergence_error(wrong) > 1e-3) == (side in (7, 8))


class Unsplit(DeepAttentionField):
    """The same velocity, without a part whose trace is known."""

    def velocity(self, phi, t):
        coupled, known, _ = super().velocity_in_parts(phi, t)
        return coupled + known

    def velocity_in_parts(self, phi, t):
        return EstimatedField.velocity_in_parts(self, phi, t)


@torch.no_grad()
def test_a_part_of_known_trace_adds_no_noise():
    variances = []
    for kind in (DeepAttentionField, Unsplit):
        field = random_field((2, 2), trace="hutchinson")
        field.__class__ = kind
        phi = configurations(field.lattice, 1).expand(2000, 2, 2)
        divergence = field.for_solve(phi, generator()).velocity_and_divergence(phi, 0.3)[1]
        variances.append(float(divergence.var()))
    assert variances[0] < 0.9 * variances[1]


@pytest.mark.parametrize("options", ESTIMATES, ids=str)
def test_divergence_and_score_rate_of_a_field_are_unbiased(options):
    dense = random_field((2, 2))
    phi, score = configurations(dense.lattice, 2)
    many, its_score = phi.expand(2000, 2, 2), score.expand(2000, 2, 2)
    field = dense.with_trace(**options).for_solve(many, generator())
    found = field.path_rates(many, 0.3, its_score)
    exact = dense.path_rates(phi[None], 0.3, score[None])
    torch.testing.assert_close(found.velocity[:1], exact.velocity)
    assert chi2(found.divergence[:, None], exact.divergence) < 10.8
    assert chi2(found.score_rate.flatten(1), exact.score_rate.flatten()) < 20.0  # 4 of them


@pytest.mark.parametrize("options", ESTIMATES, ids=str)
def test_log_determinants_are_unbiased(options):
    flow = random_flow((2, 2))
    z = configurations(flow.lattice, 1)
    _, exact = flow.transform_and_log_det(z)
    estimated = flow.with_trace(**options)
    with torch.no_grad():
        _, log_det = estimated.solve(z.expand(1500, 2, 2), 0.0, 1.0, generator=generator()).state
    assert log_det.std() > 1e-3
    assert chi2(log_det[:, None], exact.detach()) < 10.8


@pytest.mark.parametrize("options", ESTIMATES, ids=str)
def test_an_estimate_with_transformed_probes_is_that_of_the_transformed_field(options):
    field = random_field((3, 3), **options)
    phi = configurations(field.lattice)
    drawn = field.for_solve(phi, generator())
    divergence = drawn.velocity_and_divergence(phi, 0.3)[1]
    moved = field.for_solve(phi)
    for element in field.group.generators().values():
        moved._probes = torch.stack([element(probe) for probe in drawn._probes])
        found = moved.velocity_and_divergence(element(phi), 0.3)[1]
        torch.testing.assert_close(found, divergence, rtol=1e-11, atol=1e-11)
    moved._probes = drawn._probes.roll(1, -1)
    assert (moved.velocity_and_divergence(phi, 0.3)[1] - divergence).abs().max() > 1e-3


class Redraws(VectorField):
    """Planted: new probes at every evaluation."""

    def __init__(self, inner: EstimatedField) -> None:
        super().__init__(inner.group)
        self.inner = inner

    def velocity_and_divergence(self, phi, t):
        return self.inner.for_solve(phi).velocity_and_divergence(phi, t)


@torch.no_grad()
def refinements(flow: EquivariantCNF) -> list[float]:
    """Return the changes of log_det when the steps are halved, always with the same seed."""
    z = configurations(flow.lattice, 8)
    solvers = [Solver("rk4", steps=n) for n in (4, 8, 16)]
    found = [flow.solve(z, 0.0, 1.0, solver=s, generator=generator()).state[1] for s in solvers]
    return [float((a - b).abs().max()) for a, b in pairwise(found)]


def test_probes_are_drawn_once_per_solve():
    flow = random_flow(trace="hutchinson")
    coarse, fine = refinements(flow)
    assert 6 * fine < coarse  # fourth order
    z = configurations(flow.lattice)
    one, other = (flow.solve(z, 0.0, 1.0, generator=generator(seed)).state for seed in (0, 1))
    assert torch.equal(one[0], other[0])
    assert (one[1] - other[1]).abs().max() > 1e-3
    redrawn = EquivariantCNF(flow.lattice, vector_field=Redraws(flow.vector_field), prior=flow.prior)
    assert min(refinements(redrawn)) > 10 * coarse


RESULTS = {
    "log_prob": lambda flow, action: flow.log_prob(configurations(flow.lattice)),
    "sample_and_log_prob": lambda flow, action: flow.sample_and_log_prob(2),
    "transform": lambda flow, action: flow.transform_and_log_det(configurations(flow.lattice)),
    "inverse": lambda flow, action: flow.inverse_and_log_det(configurations(flow.lattice)),
    "distribution": lambda flow, action: flow.distribution().log_prob(configurations(flow.lattice)),
    "certificate": lambda flow, action: flow.certificate(4),
    "certificate of an action": lambda flow, action: flow.certificate(4, action=action),
    "tune_solver": lambda flow, action: flow.tune_solver(1.0, n_samples=4),
    "importance_sample": lambda flow, action: importance_sample(flow, action, 4, certify=0),
    "Metropolis": lambda flow, action: IndependenceMetropolis(flow, action).sample(4),
    "log_weights": lambda flow, action: log_weights(flow, action, configurations(flow.lattice)),
    "check_vector_field": lambda flow, action: check_vector_field(flow.vector_field),
    "divergence_error": lambda flow, action: divergence_error(flow.vector_field),
    "check_flow": lambda flow, action: check_flow(flow),
    "natural gradient": lambda flow, action: fit(
        flow, action, steps=1, batch_size=2, optimiser=NaturalGradient.of(flow, rows=8), progress=False
    ),
    "divergence without probes": lambda flow, action: flow.vector_field.velocity_and_divergence(
        configurations(flow.lattice), 0.3
    ),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_results_refuse_an_estimate_and_take_the_dense_trace(result):
    flow = random_flow((2, 2), trace="hutchinson")
    action = Phi4(flow.lattice, m2=-1.0, lam=1.0)
    with pytest.raises(ValueError, match=r"with_trace\(\"dense\"\)"):
        result(flow, action)
    result(flow.with_trace("dense"), action)


OBJECTIVES = {
    "path": PathGradient(),
    "reverse": ReverseKL(),
    "forward": ForwardKL(configurations(Lattice((2, 2)), 8)),
    "matching": FlowMatching(configurations(Lattice((2, 2)), 8)),
}


@pytest.mark.parametrize(
    ("objective", "options", "adjoint"),
    [
        ("path", {"trace": "hutchinson"}, False),
        ("path", {"trace": "hutch++"}, True),
        ("reverse", {"trace": "hutchinson"}, True),
        ("reverse", {"trace": "hutch++"}, False),
        ("forward", {"trace": "hutchinson"}, False),
        ("matching", {"trace": "hutchinson"}, False),
    ],
)
def test_every_objective_trains_with_an_estimate_reproducibly(objective, options, adjoint):
    losses = []
    for _ in range(2):
        flow = random_flow((2, 2), Solver("rk4", steps=2, adjoint=adjoint), **options)
        action = Phi4(flow.lattice, m2=-1.0, lam=1.0)
        history = fit(flow, action, steps=2, batch_size=4, objective=OBJECTIVES[objective], progress=False)
        losses.append(history.loss)
    assert losses[0] == losses[1]
    gradients = [p.grad for p in flow.vector_field.parameters()]
    assert all(g is not None and bool(g.any()) for g in gradients)


def test_the_adjoint_of_an_estimate_is_its_gradient():
    found = []
    for adjoint in (False, True):
        flow = random_flow((2, 2), Solver("rk4", steps=8, adjoint=adjoint), trace="hutchinson")
        _, log_q = flow.rsample_and_log_prob(4, generator=generator())
        gradients = torch.autograd.grad(log_q.sum(), list(flow.parameters()))
        found.append(torch.cat([g.flatten() for g in gradients]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


def test_training_with_an_estimate_arrives_where_training_with_the_dense_trace_does():
    lattice = Lattice((2, 2))
    action = Phi4(lattice, m2=-4.0, lam=8.0)
    found = []
    for trace in ("hutchinson", "dense"):
        field = DeepAttentionField(lattice, **SMALL, trace=trace)
        flow = EquivariantCNF(lattice, vector_field=field, solver=Solver("rk4", steps=3))
        options = {"steps": 15, "batch_size": 48, "learning_rate": 5e-3, "warmup": 0, "progress": False}
        fit(flow, action, objective=PathGradient(solver=flow.solver), **options)
        exact = flow.with_trace("dense")
        ensemble = importance_sample(exact, action, 512, certify=0, generator=generator())
        found.append(ensemble.effective_sample_size().mean)
        assert check_vector_field(exact.vector_field).ok
    assert found[0] == pytest.approx(found[1], abs=0.02)


def test_samples_are_those_of_the_dense_trace_and_weights_are_equal():
    flow = random_flow(trace="hutch++", n_probes=2)
    exact = flow.with_trace("dense")
    assert torch.equal(flow.sample(3, generator=generator()), exact.sample(3, generator=generator()))
    pairs = zip(flow.parameters(), exact.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not flow.vector_field.trace_is_exact
    assert exact.vector_field.trace_is_exact
    assert exact.vector_field.for_solve(configurations(flow.lattice)) is exact.vector_field
    assert "trace=hutch++, n_probes=2" in repr(flow)


CHANGES = {
    "conversion": lambda flow: flow.float(),
    "training": lambda flow: fit(
        flow,
        Phi4(flow.lattice, m2=-1.0, lam=1.0),
        steps=1,
        batch_size=4,
        progress=False,
        objective=PathGradient(solver=flow.solver),
    ),
    "loading": lambda flow: flow.load_state_dict({k: 0 * v for k, v in flow.state_dict().items()}),
    "freezing": lambda flow: flow.requires_grad_(False),
    "randomising": lambda flow: randomise(flow.vector_field, scale=2.0),
}


def told_by(flow: EquivariantCNF) -> list[tuple[torch.dtype, bool, Tensor]]:
    tensors = [*flow.named_parameters(), *flow.named_buffers()]
    return [(tensor.dtype, tensor.requires_grad, tensor.detach().clone()) for _, tensor in tensors]


def differ(before, after) -> bool:
    return any(
        one[:2] != other[:2] or not torch.equal(one[2], other[2])
        for one, other in zip(before, after, strict=True)
    )


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("changes_the_copy", [True, False])
def test_a_flow_with_another_trace_is_independent(change, changes_the_copy):
    flow = random_flow(trace="hutchinson")
    twin = flow.with_trace("dense")
    changed, other = (twin, flow) if changes_the_copy else (flow, twin)
    before = told_by(other)
    change(changed)
    assert differ(told_by(changed), before)
    assert not differ(told_by(other), before)


def test_a_shallow_copy_is_not_independent():
    """Counter-example: modules that are shared are converted together."""
    field = random_field(trace="hutchinson")
    shallow = copy.copy(field)
    shallow.float()
    assert next(field.parameters()).dtype == torch.float32


def test_a_saved_flow_keeps_its_trace(tmp_path):
    flow = random_flow(trace="hutchinson", n_probes=2)
    flow.save(tmp_path / "flow.pt")
    loaded = EquivariantCNF.load(tmp_path / "flow.pt")
    assert loaded.vector_field.config() == flow.vector_field.config()
    phi = configurations(flow.lattice)
    with pytest.raises(ValueError, match="only estimated"):
        loaded.log_prob(phi)
    expected = flow.with_trace("dense").log_prob(phi)
    assert torch.equal(loaded.with_trace("dense").log_prob(phi), expected)


def test_impossible_traces_are_refused():
    with pytest.raises(ValueError, match="expected one of dense, hutchinson"):
        random_field(trace="exact")
    with pytest.raises(ValueError, match="n_probes must be an integer >= 1"):
        random_field(trace="hutchinson", n_probes=0)
    with pytest.raises(TypeError, match="closed form"):
        EquivariantCNF(Lattice((3, 3))).with_trace("hutchinson")
    field = random_field(trace="hutchinson").for_solve(configurations(Lattice((2, 3)), 4))
    with pytest.raises(ValueError, match=r"those for \(4, 2, 3\) were drawn, and phi has shape \(3, 2, 3\)"):
        field.velocity_and_divergence(configurations(field.lattice), 0.3)


class Uniform(EstimatedField):
    """A drift that does not depend on the field."""

    def velocity(self, phi, t):
        return torch.ones_like(phi)


@pytest.mark.parametrize("trace", ["dense", "hutchinson", "hutch++"])
def test_a_velocity_that_does_not_depend_on_phi_has_no_divergence(trace):
    phi = configurations(Lattice((2, 2)))
    field = Uniform(SymmetryGroup(Lattice((2, 2)), z2=False), trace=trace).for_solve(phi)
    assert not field.velocity_and_divergence(phi, 0.3)[1].any()
