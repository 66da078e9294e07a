"""An action gives one real number for each configuration; anything else is refused where it is called."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from equiflow import (
    HMC,
    Action,
    ActionFamily,
    ConditionalFlow,
    EquivariantCNF,
    ExtendedAction,
    IndependenceMetropolis,
    IndependenceStep,
    LatentHMC,
    Lattice,
    LocalMetropolis,
    Mixture,
    OverCouplings,
    Phi4,
    Solver,
    SwendsenWang,
    Wolff,
    annealed_importance_sample,
    diagnose,
    fit,
    fit_ladder,
    importance_sample,
    interop,
    log_z_along,
    log_z_bridge,
    measure,
)
from equiflow.oracles import quadrature, transfer_matrix
from equiflow.report import Report
from equiflow.samplers import LatentAction
from equiflow.samplers.weighting import log_weights
from equiflow.testing import check_action
from equiflow.theories.base.action_values import LARGEST_FIELD
from equiflow.theories.scalar.external_field import ExternalField
from equiflow.theories.scalar.observables import action_density
from equiflow.training import ForwardKL, History, InversePathGradient, PathGradient, ReverseKL
from tests.support.strategies import configurations

LATTICE = Lattice((3, 4))
PHI = configurations(LATTICE, 5)
PHI4 = Phi4(LATTICE, m2=1.0, lam=1.0)


class Of(Action):
    """The action that a function gives."""

    def __init__(self, function, lattice=LATTICE):
        super().__init__(lattice)
        self.function = function

    def forward(self, phi):
        return self.function(phi)


def right(phi):
    return phi.square().flatten(1).sum(1)


MISTAKES = {
    "sum over the batch": (
        lambda phi: phi.square().sum(),
        r"shape \(\) for 5 configurations; expected \(5,\)",
    ),
    "mean": (lambda phi: phi.square().mean(), r"shape \(\)"),
    "an axis too much": (lambda phi: right(phi)[:, None], r"shape \(5, 1\)"),
    "an axis too little": (lambda phi: phi.square().sum(-1), r"shape \(5, 3\)"),
    "the first one alone": (lambda phi: right(phi)[:1], r"shape \(1,\)"),
    "a number": (lambda phi: 1.0, "returned float; expected a tensor"),
    "none": (lambda phi: None, "returned NoneType"),
    "integers": (lambda phi: right(phi).long(), "returned torch.int64"),
    "complex numbers": (lambda phi: right(phi) + 0j, "returned torch.complex128"),
    "half precision": (lambda phi: right(phi).bfloat16(), "returned torch.bfloat16"),
    "single precision of double": (lambda phi: right(phi).float(), "returned torch.float32 for fields"),
    "another device": (lambda phi: right(phi).to("meta"), "on meta for fields on cpu"),
    "NaN": (lambda phi: (right(phi) - 12).log(), r"returned NaN for \d of 5 .* log or root"),
    "all NaN": (lambda phi: right(phi) * math.nan, "returned NaN for 5 of 5"),
    "minus infinity": (
        lambda phi: right(phi) - torch.tensor([0, 0, math.inf, 0, 0]),
        r"-inf for 1 of 5 .*below",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_not_one_real_number_for_each_configuration_is_refused(mistake):
    function, message = MISTAKES[mistake]
    action = Of(function)
    for call in (action, action.log_prob_unnormalised, ExternalField(action, h=0.5)):
        with pytest.raises((TypeError, ValueError), match=message):
            call(PHI)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_right_values_pass_untouched(dtype, n):
    phi = PHI[:n].to(dtype)
    action = Of(right)
    assert torch.equal(action(phi), right(phi))
    assert torch.equal(Of(lambda phi: right(phi.double()))(phi), right(phi.double()))
    leaf = phi.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(action(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, 2 * phi)
    torch.testing.assert_close(action.grad(phi), 2 * phi)


def test_plus_infinity_is_a_zero_weight():
    wall = Of(lambda phi: torch.where(phi.flatten(1)[:, 0] > 0, right(phi), torch.inf))
    expected = torch.where(PHI.flatten(1)[:, 0] > 0, right(PHI), torch.inf)
    assert torch.equal(wall(PHI), expected)
    assert bool(expected.isinf().any())


@pytest.mark.parametrize("largest", [1e80, math.inf, math.nan])
def test_nan_beyond_the_range_of_numbers_is_left_to_the_sampler(largest):
    phi = PHI.clone()
    phi[1, 0, 0] = largest
    overflows = Of(lambda phi: (phi**4 - phi**2 * phi**4).flatten(1).sum(1).neg())
    assert overflows(phi).isnan().tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_nan_of_moderate_fields_is_refused_beside_large_ones(fraction):
    phi = PHI.clone()
    phi[1, 0, 0] = 1e80
    phi[3, 0, 0] = fraction * LARGEST_FIELD
    action = Of(lambda phi: torch.where(phi.flatten(1)[:, 0] > 3, torch.nan, right(phi)))
    with pytest.raises(ValueError, match="NaN for 1 of 5"):
        action(phi)


@pytest.mark.parametrize("shape", [(5, 4, 4), (5, 4, 3), (5, 2, 3, 4), (3, 4), (5, 12)])
def test_fields_of_another_lattice_are_refused(shape):
    with pytest.raises(ValueError, match=r"phi has shape .*expected \(batch, 3, 4\)"):
        Of(right)(torch.zeros(shape))


def test_fields_that_are_no_fields_are_refused():
    for phi in (PHI.numpy(), PHI.tolist(), PHI.long(), PHI.half(), PHI + 0j):
        with pytest.raises(TypeError, match=r"phi (must be a torch.Tensor|has dtype)"):
            Of(right)(phi)


def test_nan_is_seen_without_gradients_and_in_inference_mode():
    action = Of(MISTAKES["all NaN"][0])
    with torch.no_grad(), pytest.raises(ValueError, match="NaN"):
        action(PHI)
    with torch.inference_mode(), pytest.raises(ValueError, match="NaN"):
        action(PHI)


def test_transformations_of_torch_go_through_the_check():
    action = Of(right)
    slope = torch.func.grad(lambda phi: action(phi[None])[0])(PHI[0])
    torch.testing.assert_close(slope, 2 * PHI[0])
    each = torch.func.vmap(lambda phi: action(phi[None])[0])(PHI)
    torch.testing.assert_close(each, right(PHI))


USES = {
    "certificate": lambda flow, action: flow.certificate(5, action=action),
    "importance_sample": lambda flow, action: importance_sample(flow, action, 5),
    "annealed_importance_sample": lambda flow, action: annealed_importance_sample(flow, action, 5),
    "IndependenceMetropolis": lambda flow, action: IndependenceMetropolis(flow, action).sample(3, n_chains=5),
    "HMC": lambda flow, action: HMC(action).sample(3, n_chains=5),
    "fit": lambda flow, action: fit(flow, action, steps=1, batch_size=5, progress=False),
    "ReverseKL": lambda flow, action: ReverseKL()(flow, action, 5),
    "PathGradient": lambda flow, action: PathGradient()(flow, action, 5),
    "InversePathGradient": lambda flow, action: InversePathGradient()(flow, action, 5),
    "ForwardKL": lambda flow, action: ForwardKL(PHI.float())(flow, action, 5),
}


def drawn(flow):
    """Return a small ensemble and a short chain of phi^4."""
    chain = HMC(PHI4, step_size=0.1).sample(4, n_chains=8, n_thermalisation=1, dtype=torch.float32)
    return importance_sample(flow, PHI4, 64, certify=0), chain


OTHER_USES = {
    "log_weights": lambda flow, action: log_weights(flow, action, PHI.float()),
    "LatentHMC": lambda flow, action: LatentHMC(flow, action),
    "IndependenceStep": lambda flow, action: IndependenceStep(flow, action),
    "ExternalField": lambda flow, action: ExternalField(action, h=0.5),
    "ExtendedAction": lambda flow, action: ExtendedAction(action),
    "action_density": lambda flow, action: action_density(PHI, action),
    "fit_ladder": lambda flow, action: fit_ladder([action], flow=flow, steps=1),
    "tune_solver": lambda flow, action: flow.tune_solver(action=action, n_samples=4),
    "measure": lambda flow, action: measure(drawn(flow)[0], action=action),
    "diagnose": lambda flow, action: diagnose(flow, action, *drawn(flow)),
    "log_z_bridge": lambda flow, action: log_z_bridge(flow, action, *drawn(flow)),
    "LatentAction": lambda flow, action: LatentAction(flow, action),
    "LocalMetropolis": lambda flow, action: LocalMetropolis(action),
    "Wolff": lambda flow, action: Wolff(action),
    "SwendsenWang": lambda flow, action: SwendsenWang(action),
    "quadrature": lambda flow, action: quadrature(action),
    "transfer_matrix": lambda flow, action: transfer_matrix(action),
    "check_action": lambda flow, action: check_action(action),
    "Report": lambda flow, action: Report(flow, action, History(), None),
    "sample_shards": lambda flow, action: interop.sample_shards(flow, action, 2, "unused"),
    "Mixture": lambda flow, action: Mixture((ReverseKL(), 0.5), (ReverseKL(), 0.5))(flow, action, 5),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mistake", ["sum over the batch", "an axis too much"])
def test_no_use_of_an_action_accepts_a_wrong_shape(use, mistake):
    with pytest.raises(ValueError, match=r"Of returned shape \("):
        USES[use](EquivariantCNF(LATTICE), Of(MISTAKES[mistake][0]))


@pytest.mark.parametrize(
    "use", ["importance_sample", "annealed_importance_sample", "IndependenceMetropolis", "fit"]
)
def test_no_use_accepts_an_action_of_another_lattice(use):
    with pytest.raises(ValueError, match=r"4, 4\)"):
        USES[use](EquivariantCNF(LATTICE), Of(right, Lattice((4, 4))))


@pytest.mark.parametrize("use", USES | OTHER_USES)
def test_a_bare_function_is_refused_with_the_same_sentence_everywhere(use):
    with pytest.raises(
        TypeError, match=r"ction.* must be of type Action, got .*Derive a class from equiflow\.Action"
    ):
        (USES | OTHER_USES)[use](EquivariantCNF(LATTICE), right)


@pytest.mark.parametrize("kind", [right, PHI4, lambda lattice, m2: PHI4, "Phi4"])
def test_what_is_no_class_of_actions_makes_no_family(kind):
    with pytest.raises(
        TypeError,
        match=r"^kind must be a class of actions that is called as kind\(space, lam\), got .*derived from",
    ):
        ActionFamily(kind, LATTICE, lam=(1.0, 2.0))


@pytest.mark.parametrize(
    "use",
    [
        lambda: fit(ConditionalFlow(EquivariantCNF(LATTICE), {"lam": (1.0, 2.0)}), right, steps=1),
        lambda: OverCouplings(ReverseKL())(
            ConditionalFlow(EquivariantCNF(LATTICE), {"lam": (1.0, 2.0)}), right, 4
        ),
        lambda: log_z_along(lambda **c: None, right, {"lam": 1.0}, {"lam": 2.0}),
    ],
)
def test_a_function_for_a_family_is_refused_with_one_sentence(use):
    with pytest.raises(TypeError, match=r"must be of type ActionFamily, got .*derived from equiflow\.Action"):
        use()


def test_a_family_of_bare_functions_is_refused():
    with pytest.raises(TypeError, match=r"What kind returns must be of type Action, got .*Derive a class"):
        ActionFamily(lambda lattice, lam: right, LATTICE, lam=(1.0, 2.0))


def test_the_check_adds_nothing_to_the_values_of_phi4():
    action = Phi4(LATTICE, m2=-4.0, lam=6.0)
    assert torch.equal(action(PHI), nn.Module.__call__(action, PHI))


class Counting(Of):
    """Counts the configurations that it computes."""

    n = 0

    def forward(self, phi):
        self.n += len(phi)
        return super().forward(phi)


@pytest.mark.parametrize(("n", "first"), [(5, 7), (2, 4), (1, 3)])
def test_one_call_of_an_action_is_checked_at_the_cost_of_two_configurations(n, first):
    action = Counting(right)
    action(PHI[:0])
    action(PHI[:n])
    assert action.n == first
    action(PHI[:n])
    assert action.n == first + n


COUPLED = {
    "centred": lambda phi: right(phi - 0.1 * phi.mean(0)),
    "normalised": lambda phi: right(phi) / (1 + right(phi).mean()),
    "shifted": lambda phi: right(phi) - right(phi)[0],
    "summed up": lambda phi: right(phi).cumsum(0),
    "the largest": lambda phi: right(phi).amax().expand(len(phi)),
    "weighted": lambda phi: right(phi) * (1 + 1e-3 * len(phi)),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mistake", COUPLED)
def test_no_use_accepts_an_action_that_couples_the_batch(use, mistake):
    flow = EquivariantCNF(LATTICE, solver=Solver("rk4", steps=2))
    with pytest.raises(ValueError, match=r"Of gives S = .* alone and .* in a batch of .*Take no sums"):
        USES[use](flow, Of(COUPLED[mistake]))


def coupled_beyond(n):
    return Of(lambda phi: right(phi - 0.1 * phi.mean(0)) if len(phi) > n else right(phi))


@pytest.mark.parametrize("n", [2, 8, 63])
def test_an_action_that_couples_large_batches_alone_is_refused_at_the_first_of_them(n):
    action, phi = coupled_beyond(n), configurations(LATTICE, 64)
    for size in (1, 2, n):
        action(phi[:size])
    with pytest.raises(ValueError, match=r"alone and .* in a batch of 64.*Take no sums"):
        action(phi)


def test_fit_refuses_an_action_that_couples_batches_larger_than_its_probes():
    flow = EquivariantCNF(LATTICE, solver=Solver("euler", steps=1))
    with pytest.raises(ValueError, match="Take no sums"):
        fit(flow, coupled_beyond(8), steps=1, batch_size=16, progress=False)


def test_batches_are_looked_at_only_while_they_grow():
    sizes = []
    action = Of(lambda phi: sizes.append(len(phi)) or right(phi))
    for n in (3, 3, 2, 4, 4, 1):
        action(configurations(LATTICE, n))
    assert sizes == [3, 1, 1, 3, 2, 4, 1, 1, 4, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_message_gives_both_values(dtype, n):
    phi = PHI[:n].to(dtype)
    with pytest.raises(ValueError, match="Of gives") as failure:
        Of(lambda phi: right(phi) * len(phi))(phi)
    size = float(right(phi)[0])
    alone, together, batch = re.findall(r"= ([\d.]+) .* and ([\d.]+) .*batch of (\d)", str(failure.value))[0]
    assert float(alone) == pytest.approx(size, rel=1e-6)
    assert float(together) == pytest.approx(size * max(n, 2), rel=1e-6)
    assert int(batch) == max(n, 2)


@pytest.mark.parametrize("use", USES)
def test_no_use_accepts_an_action_of_chance(use):
    flow = EquivariantCNF(LATTICE, solver=Solver("rk4", steps=2))
    dropout = nn.Dropout(0.5)
    with pytest.raises(ValueError, match=r"Of gives S = .* and then .* for the same configuration"):
        USES[use](flow, Of(lambda phi: right(phi) * (1 + 0.01 * torch.rand_like(phi[:, 0, 0]))))
    with pytest.raises(ValueError, match="dropout"):
        USES[use](flow, Of(lambda phi: right(dropout(phi))))


@pytest.mark.parametrize("use", ["fit", "PathGradient", "InversePathGradient", "HMC"])
@pytest.mark.parametrize(
    "function",
    [
        lambda phi: right(phi.detach()),
        lambda phi: torch.tensor([right(one[None]).item() for one in phi.detach()], dtype=phi.dtype),
        lambda phi: nn.Parameter(torch.ones_like(phi[:, 0, 0])) * right(phi.detach()),
        lambda phi: torch.from_numpy((phi.numpy() ** 2).sum((1, 2))),
    ],
    ids=["detach", "item", "parameter", "numpy"],
)
def test_an_action_without_a_gradient_says_so(use, function):
    flow = EquivariantCNF(LATTICE, solver=Solver("rk4", steps=2))
    with pytest.raises(ValueError, match=r"value of Of does not depend on phi differentiably.*override grad"):
        USES[use](flow, Of(function))


def test_a_check_within_a_transformation_is_done_later():
    action = Of(COUPLED["weighted"])
    torch.func.vmap(lambda one: action(one[None])[0])(PHI)
    with pytest.raises(ValueError, match="in a batch"):
        action(PHI)


def test_sums_in_another_order_are_no_coupling():
    def shuffled(phi):
        order = torch.randperm(phi[0].numel(), generator=torch.Generator().manual_seed(len(phi)))
        return (1e3 * phi**4 - 1e3 * phi**2).flatten(1)[:, order].sum(1)

    for dtype in (torch.float32, torch.float64):
        Of(shuffled)(PHI.to(dtype))
