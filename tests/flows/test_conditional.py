"""Conditional flows: every coupling has a flow of its own, which obeys every law and is trained rightly."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiflow.flows import ConditionalFlow, EquivariantCNF
from equiflow.flows.conditional import _with_parameters
from equiflow.ode.solver import Solver
from equiflow.runtime.storage import CheckpointError
from equiflow.samplers import importance_sample
from equiflow.testing import assert_vector_field, randomise
from equiflow.theories.base.coupling_ranges import ActionFamily, CouplingRanges
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar.phi4 import Phi4
from equiflow.training import ForwardKL, ObjectiveValue, OverCouplings, PathGradient, fit
from equiflow.vector_fields import OrbitConvField
from tests.support.strategies import configurations, priors_of, vector_fields

LATTICE = Lattice((3, 3))
BOX = {"m2": (-4.0, -2.0), "lam": (4.0, 6.0)}
COARSE = PathGradient(solver=Solver("rk4", steps=2))


def template(lattice: Lattice = LATTICE) -> EquivariantCNF:
    field = OrbitConvField(lattice, n_frequencies=2, n_time_modes=2, max_frequency=2.0)
    flow = EquivariantCNF(lattice, vector_field=field, solver=Solver("rk4", steps=4)).double()
    randomise(flow, scale=0.1)
    return flow


def conditional(ranges=None, *, degree=2, lattice: Lattice = LATTICE) -> ConditionalFlow:
    flow = ConditionalFlow(
        template(lattice), {"lam": (4.0, 6.0)} if ranges is None else ranges, degree=degree
    )
    randomise(flow.stacks, scale=0.05, seed=1)
    return flow


@settings(max_examples=20)
@given(st.data(), st.sampled_from([4.0, 4.3, 5.0, 6.0]))
def test_every_family_obeys_every_law_at_every_coupling(data, lam):
    field = data.draw(vector_fields(st.sampled_from([Lattice((3,)), Lattice((2, 3)), Lattice((3, 3))])))
    flow = EquivariantCNF(field.lattice, vector_field=field, prior=data.draw(priors_of(field.group)))
    both = ConditionalFlow(flow, {"lam": (4.0, 6.0)}, degree=2)
    randomise(both.stacks, scale=0.1, seed=2)
    found = both.at(lam=lam)
    assert_vector_field(found.vector_field)
    moved = zip(found.vector_field.parameters(), flow.vector_field.parameters(), strict=True)
    assert any(not torch.equal(new, old) for new, old in moved)


def test_weights_are_chebyshev_polynomials_of_the_scaled_couplings():
    flow = conditional(BOX)
    x, y = 0.5, -0.2  # m2 = -2.5, lam = 4.8
    basis = flow.basis(m2=-3.0 + x, lam=5.0 + y)
    assert basis == pytest.approx([1, y, x, 2 * y * y - 1, x * y, 2 * x * x - 1])
    for name, (zero, stack) in flow.modes().items():
        expected = zero + torch.einsum("k,k...->...", torch.tensor(basis[1:], dtype=zero.dtype), stack)
        torch.testing.assert_close(dict(flow.at(m2=-2.5, lam=4.8).named_parameters())[name], expected)


def test_a_flow_at_one_coupling_leaves_the_template_as_it_was():
    flow = conditional()
    before = copy.deepcopy(flow.state_dict())
    sharing = flow.sharing(lam=4.2)
    assert not torch.equal(sharing.prior.log_sigma, before["template.prior.log_sigma"])
    randomise(sharing)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


@pytest.mark.parametrize("take", ["sharing", "at"])
def test_flows_at_several_couplings_do_not_disturb_each_other(take):
    flow, phi = conditional(), configurations(LATTICE)
    expected = {lam: flow.at(lam=lam).log_prob(phi) for lam in (4.5, 6.0)}
    # Within one another: the first flow is still in use while others are taken.
    first = getattr(flow, take)(lam=4.5)
    second = getattr(flow, take)(lam=6.0)
    assert torch.equal(first.log_prob(phi), expected[4.5])
    assert torch.equal(second.log_prob(phi), expected[6.0])
    assert torch.equal(first.log_prob(phi), expected[4.5])
    assert not torch.equal(expected[4.5], expected[6.0])


def test_flows_at_several_couplings_can_be_used_by_several_threads():
    flow, phi = conditional(), configurations(LATTICE)
    couplings = [4.0 + 0.1 * i for i in range(20)]
    expected = [flow.at(lam=lam).log_prob(phi) for lam in couplings]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda lam: flow.sharing(lam=lam).log_prob(phi), couplings))
        copied = list(pool.map(lambda lam: flow.at(lam=lam).log_prob(phi), couplings))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(copied, expected, strict=True))


def overwritten(flow: ConditionalFlow, **couplings: float) -> EquivariantCNF:
    """Return the template with its weights overwritten, a mistake that the next coupling suffers from."""
    with torch.no_grad():
        for name, weight in flow.weights(**couplings).items():
            dict(flow.template.named_parameters())[name].copy_(weight)
    return flow.template


def test_a_template_that_is_overwritten_is_seen():
    flow, phi = conditional(), configurations(LATTICE)
    expected = flow.at(lam=6.0).log_prob(phi)
    overwritten(flow, lam=4.5)
    assert float((flow.at(lam=6.0).log_prob(phi) - expected).detach().abs().max()) > 1e-2


@settings(max_examples=20)
@given(st.data())
def test_a_flow_that_shares_constants_is_the_flow_at_that_coupling(data):
    field = data.draw(vector_fields(st.sampled_from([Lattice((3,)), Lattice((2, 3)), Lattice((3, 3))])))
    flow = EquivariantCNF(field.lattice, vector_field=field, solver=Solver("rk4", steps=2)).double()
    both = ConditionalFlow(flow, {"lam": (4.0, 6.0)}, degree=2)
    randomise(both.stacks, scale=0.1, seed=2)
    for lam in (4.1, 5.7):
        samples = [
            found.rsample_and_log_prob(2, generator=torch.Generator().manual_seed(1))
            for found in (both.sharing(lam=lam), both.at(lam=lam))
        ]
        assert all(torch.equal(a, b) for a, b in zip(*samples, strict=True))


class Twice(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Linear(2, 2)
        self.again = self.one
        self.tied = torch.nn.Linear(2, 2, bias=False)
        self.tied.weight = self.one.weight


def test_other_parameters_reach_every_place_where_the_old_ones_were():
    module = Twice()
    new = torch.nn.Parameter(torch.ones(2, 2))
    other = _with_parameters(module, {id(module.one.weight): new})
    assert other.one is other.again
    assert other.one is not module.one
    assert other.one.weight is new
    assert other.tied.weight is new
    assert other.one.bias is module.one.bias
    assert module.one.weight is not new


def gradient(objective, flow: ConditionalFlow, family: ActionFamily) -> dict[str, torch.Tensor]:
    flow.zero_grad()
    objective(flow, family, 4, torch.Generator().manual_seed(0)).surrogate.backward()
    return {name: p.grad.clone() for name, p in flow.named_parameters()}


def by_functional_call(flow: ConditionalFlow, family: ActionFamily) -> dict[str, torch.Tensor]:
    """Gradients of the same surrogate, with the weights as differentiable functions of the modes."""

    class Surrogate(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = flow.template

        def forward(self, action, generator):
            return COARSE(self.flow, action, 2, generator).surrogate

    flow.zero_grad()
    generator, total = torch.Generator().manual_seed(0), 0.0
    for couplings in family.draw(2, generator):
        weights = {f"flow.{name}": weight for name, weight in flow.weights(**couplings).items()}
        arguments = (family.at(**couplings), generator)
        total = total + torch.func.functional_call(Surrogate(), weights, arguments) / 2
    total.backward()
    return {name: p.grad.clone() for name, p in flow.named_parameters()}


def test_gradients_are_those_of_the_weights_as_functions_of_the_modes():
    flow, family = conditional(), ActionFamily(Phi4, LATTICE, m2=-4.0, lam=(4.0, 6.0))
    expected = by_functional_call(flow, family)
    found = gradient(OverCouplings(COARSE, n_couplings=2), flow, family)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    # A mistake that this sees: gradients handed to every mode alike, as if all P_k were 1.
    flow.basis = lambda **_: [1.0, 1.0, 1.0]
    wrong = gradient(OverCouplings(COARSE, n_couplings=2), flow, family)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong, expected, rtol=1e-3, atol=1e-3)


def test_one_flow_learns_a_range_of_couplings():
    lattice, family = LATTICE, ActionFamily(Phi4, LATTICE, m2=-4.0, lam=(5.0, 9.0))
    start = EquivariantCNF(lattice, vector_field=OrbitConvField(lattice), solver=Solver("rk5", steps=6))
    flow = ConditionalFlow(start.double(), {"lam": (5.0, 9.0)}, degree=2)
    fit(flow, family, steps=80, batch_size=64)
    for lam in (5.0, 7.0, 9.0):
        action, at = Phi4(lattice, m2=-4.0, lam=lam), flow.at(lam=lam)
        generator = torch.Generator().manual_seed(1)
        ess = importance_sample(at, action, 1024, certify=16, generator=generator).effective_sample_size()
        assert ess.mean > 0.8
        assert_vector_field(at.vector_field)
        other = flow.at(lam=14.0 - lam) if lam != 7.0 else flow.at(lam=5.0)
        worse = importance_sample(other, action, 1024, certify=16, generator=generator)
        assert worse.effective_sample_size().mean < ess.mean


def test_training_resumes_to_the_bit(tmp_path):
    family = ActionFamily(Phi4, LATTICE, m2=-4.0, lam=(4.0, 6.0))
    options = {"steps": 6, "batch_size": 8, "objective": COARSE, "checkpoint_every": 3}
    whole, part = conditional(), conditional()
    fit(whole, family, **options)

    class Interrupted(PathGradient):
        def __call__(self, flow, action, batch_size, generator=None):
            if self.left[0] == 0:
                raise KeyboardInterrupt
            self.left[0] -= 1
            return super().__call__(flow, action, batch_size, generator)

        __repr__ = PathGradient.__repr__

    interrupted = Interrupted(solver=COARSE.solver)
    object.__setattr__(interrupted, "left", [18])
    with pytest.raises(KeyboardInterrupt):
        fit(part, family, **{**options, "objective": interrupted}, checkpoint=tmp_path / "run.pt")
    again = conditional()
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    content["settings"]["objective"] = repr(OverCouplings(COARSE))
    torch.save(content, tmp_path / "run.pt")
    history = fit(again, family, **options, checkpoint=tmp_path / "run.pt")
    assert content["step"] == 3
    assert len(history) == 6
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_saved_flow_loads_bitwise_equal(tmp_path):
    flow = conditional(BOX)
    flow.about = {"steps": 3}
    flow.save(tmp_path / "flow.pt")
    loaded = ConditionalFlow.load(tmp_path / "flow.pt")
    assert loaded.about == {"steps": 3}
    phi = configurations(LATTICE)
    couplings = {"m2": -3.3, "lam": 4.1}
    assert torch.equal(loaded.at(**couplings).log_prob(phi), flow.at(**couplings).log_prob(phi))
    with pytest.raises(CheckpointError):
        EquivariantCNF.load(tmp_path / "flow.pt")


@pytest.mark.parametrize("ranges", [None, BOX])
def test_resizing_and_choosing_a_coupling_commute(ranges):
    flow = conditional(ranges)
    couplings = {name: low + 0.3 * (high - low) for name, (low, high) in flow.couplings.ranges.items()}
    expected = dict(flow.at(**couplings).resized(Lattice((6, 6))).named_parameters())
    found = dict(flow.resized(Lattice((6, 6))).at(**couplings).named_parameters())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_points_fill_the_box_evenly():
    points = CouplingRanges(BOX).draw(64, torch.Generator().manual_seed(0))
    for name, (low, high) in BOX.items():
        found = torch.tensor([point[name] for point in points], dtype=torch.float64).sort().values
        grid = low + (high - low) * (torch.arange(64, dtype=torch.float64) + 0.5) / 64
        assert (found - grid).abs().max() < 0.1 * (high - low)


@pytest.mark.parametrize(
    ("couplings", "message"),
    [({"lam": 7.0}, "lam"), ({"kappa": 5.0}, "kappa"), ({}, "lam"), ({"lam": 5.0, "m2": -4.0}, "m2")],
)
def test_other_couplings_are_refused(couplings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        conditional().at(**couplings)


def test_what_does_not_fit_is_refused():
    flow, family = conditional(), ActionFamily(Phi4, LATTICE, m2=-4.0, lam=(4.0, 6.0))
    with pytest.raises(TypeError, match="ActionFamily"):
        fit(flow, Phi4(LATTICE, m2=-4.0, lam=5.0), steps=1)
    with pytest.raises(ValueError, match="ranges inside of the flow's"):
        fit(flow, ActionFamily(Phi4, LATTICE, m2=-4.0, lam=(4.0, 7.0)), steps=1)
    with pytest.raises(ValueError, match="shared evenly"):
        fit(flow, family, steps=1, batch_size=5)
    samples = configurations(LATTICE, 8)
    with pytest.raises(TypeError, match="OverCouplings needs an objective on model samples"):
        fit(flow, family, steps=1, batch_size=8, objective=ForwardKL(samples))


def test_the_ess_over_couplings_is_their_harmonic_mean_whatever_each_log_z_is():
    log_weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    value = ObjectiveValue(torch.zeros(()), log_weight + torch.tensor([[0.0], [5.0], [-9.0]]), 0)
    each = [ObjectiveValue(torch.zeros(()), row, 0).ess for row in log_weight]
    assert float(value.ess) == pytest.approx(3 / float(sum(1 / ess for ess in each)))
    assert float(value.loss) == pytest.approx(-float(log_weight.mean()) + 4 / 3)
    assert float(ObjectiveValue(torch.zeros(()), value.log_weight.flatten(), 0).ess) < float(value.ess) / 2
