from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from equiflow import (
    HMC,
    Action,
    AugmentedFlow,
    EquivariantCNF,
    ExtendedAction,
    Flow,
    FlowMatching,
    ForwardKL,
    FreeField,
    FreeScalar,
    InversePathGradient,
    Lattice,
    Mixture,
    OrbitConvField,
    PathGradient,
    Phi4,
    ReverseKL,
    Solver,
    SymmetryGroup,
    VectorField,
    fit,
    forward_effective_sample_size,
    importance_sample,
    log_weights,
)
from equiflow.report.plots import training_curve
from equiflow.runtime.storage import CheckpointError
from equiflow.testing import randomise
from equiflow.training import History, Objective, ObjectiveValue
from equiflow.training.objectives.flow_matching import matched
from equiflow.training.objectives.samples import draw
from tests.support.oracles import free_samples
from tests.support.strategies import configurations, small_flow

RECTANGLE = Lattice((2, 3))
ACTION = Phi4(RECTANGLE, m2=-4.0, lam=7.0)
FAST = Solver("rk4", steps=3)
SHORT = {"steps": 6, "batch_size": 8, "warmup": 2, "learning_rate": 1e-2, "progress": False}
PHI = 0.5 * configurations(RECTANGLE, n=20, seed=3)
FORWARD, MATCHING = ForwardKL(PHI, solver=FAST), FlowMatching(PHI, n_times=3)
PATH = PathGradient(solver=FAST)
OBJECTIVES: dict[str, Objective] = {
    "forward": FORWARD,
    "independent": FlowMatching(PHI, pairing="independent", sigma=0.1),
    "matching": MATCHING,
    "mixture": Mixture((PATH, 0.25), (FORWARD, 0.75)),
    "nested": Mixture((MATCHING, 0.5), (Mixture((ReverseKL(), 0.5), (FORWARD, 0.5)), 0.5)),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(lattice: Lattice = RECTANGLE) -> EquivariantCNF:
    return small_flow(lattice.shape, solver=FAST)


def exact_map() -> AugmentedFlow:
    flow = AugmentedFlow(RECTANGLE, n_steps=1, n_channels=1, n_frequencies=1).double()
    randomise(flow, scale=0.1)
    return flow


def gradient(value: ObjectiveValue, flow: Flow) -> Tensor:
    trained = [p for p in flow.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(value.surrogate, trained, allow_unused=True, materialize_grads=True)
    return torch.cat([slope.flatten() for slope in slopes])


def weights(flow: Flow) -> Tensor:
    return nn.utils.parameters_to_vector(flow.parameters()).detach().clone()


# --- every objective ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interrupted:
    """Stops at one call; its `repr` is that of the objective inside."""

    inner: Objective
    at: int
    calls: list[int] = field(default_factory=list)

    def __repr__(self) -> str:
        return repr(self.inner)

    def __call__(self, *arguments: object) -> ObjectiveValue:
        self.calls.append(1)
        if len(self.calls) == self.at:
            raise KeyboardInterrupt
        return self.inner(*arguments)


def record(history: History) -> dict[str, list[float | None]]:
    return {name: column for name, column in history.to_dict().items() if name != "seconds"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_is_reproducible_and_goes_on_after_an_interruption_bit_for_bit(name, tmp_path):
    objective, runs = OBJECTIVES[name], []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        flow = build()
        runs.append((record(fit(flow, ACTION, objective=objective, seed=seed, **SHORT)), weights(flow)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1], runs[2][1])
    options = SHORT | {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        fit(build(), ACTION, objective=Interrupted(objective, 4), **options)
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    resumed, counting = build(), Interrupted(objective, 0)
    history = fit(resumed, ACTION, objective=counting, **options)
    assert len(counting.calls) == 4
    assert record(history) == runs[0][0]
    assert torch.equal(weights(resumed), runs[0][1])
    # Without the state of the noise the rest of the run is another one.
    torch.save(content | {"generator": generator().get_state()}, tmp_path / "run.pt")
    forgetful = build()
    fit(forgetful, ACTION, objective=objective, **options)
    assert not torch.equal(weights(forgetful), runs[0][1])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_repr_is_short_the_same_everywhere_and_tells_samples_apart(name):
    shown = repr(OBJECTIVES[name])
    assert "tensor" not in shown
    assert "0x" not in shown
    assert len(shown) < 700
    assert "samples=(20, 2, 3) float64 sha256:" in shown
    other = PHI.clone()
    other[7, 1, 1] += 1e-15
    for make in (ForwardKL, FlowMatching):
        assert repr(make(PHI)) == repr(make(PHI.clone())) == repr(make(PHI.mT.contiguous().mT))
        found = {repr(make(samples)) for samples in (PHI, other, PHI.flip(0), PHI.float(), PHI[:-1])}
        assert len(found) == 5


@pytest.mark.parametrize(
    "other",
    [
        ForwardKL(PHI.flip(0), solver=FAST),
        ForwardKL(PHI),
        FlowMatching(PHI),
        Mixture((FORWARD, 0.5), (PATH, 0.5)),
    ],
    ids=["samples", "solver", "kind", "mixture"],
)
def test_a_run_does_not_go_on_with_another_objective_or_other_samples(other, tmp_path):
    options = SHORT | {"checkpoint": tmp_path / "run.pt"}
    fit(build(), ACTION, objective=FORWARD, **options)
    with pytest.raises(CheckpointError, match="objective was"):
        fit(build(), ACTION, objective=other, **options)


@pytest.mark.parametrize("make", [ForwardKL, FlowMatching])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_are_brought_to_the_flow_and_get_no_gradient(make, dtype, device):
    flow = build().to(device, dtype)
    samples = PHI.clone().requires_grad_()
    value = make(samples)(flow, ACTION, 6, torch.Generator(device).manual_seed(0))
    assert (value.surrogate.dtype, value.surrogate.device.type) == (dtype, device.type)
    value.surrogate.backward()
    assert samples.grad is None


def test_batches_are_drawn_evenly():
    numbered = torch.arange(20.0)[:, None, None].expand(20, 2, 3)
    flow, seen = build(), []

    class Watching(ForwardKL):
        def _log_prob(self, flow, phi, generator):
            seen.append(phi[:, 0, 0])
            return phi.sum((1, 2)), 0

    Watching(numbered)(flow, ACTION, 20_000, generator())
    counts = torch.cat(seen).long().bincount(minlength=20)
    assert float(((counts - 1000).square() / 1000).sum()) < 45  # chi^2 of 19 degrees of freedom


BAD_SAMPLES = [
    (PHI[0, 0], ValueError, "n_samples"),
    (PHI[:0], ValueError, "shape"),
    (PHI.long(), TypeError, "int64"),
    (PHI.tolist(), TypeError, "Tensor"),
    (torch.full_like(PHI, math.nan), ValueError, "NaN"),
]


@pytest.mark.parametrize(("samples", "error", "message"), BAD_SAMPLES)
@pytest.mark.parametrize("make", [ForwardKL, FlowMatching])
def test_bad_samples_are_refused(make, samples, error, message):
    with pytest.raises(error, match=message):
        make(samples)


@pytest.mark.parametrize("make", [ForwardKL, FlowMatching])
def test_samples_of_another_lattice_are_refused(make):
    with pytest.raises(ValueError, match=r"\(20, 3, 3\).*\(2, 3\)"):
        fit(build(), ACTION, objective=make(torch.zeros(20, 3, 3)), **SHORT)


def test_flows_that_an_objective_does_not_suit_are_refused_with_a_remedy():
    flow, target = exact_map(), ExtendedAction(ACTION)
    for objective, remedy in (
        (FlowMatching(PHI), r"use ForwardKL\(samples\)"),
        (FORWARD, "Leave it out"),
        (PathGradient(), r"use ReverseKL\(\)"),
        (Mixture((ReverseKL(), 0.5), (MATCHING, 0.5)), "use ForwardKL"),
    ):
        with pytest.raises(TypeError, match=remedy):
            fit(flow, target, objective=objective, **SHORT)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pairing": "optimal"}, ValueError, "minibatch, independent"),
        ({"sigma": -0.1}, ValueError, "sigma"),
        ({"sigma": math.inf}, ValueError, "sigma"),
        ({"n_times": 0}, ValueError, "n_times"),
        ({"fit_prior": 1}, TypeError, "fit_prior"),
    ],
)
def test_bad_options_of_flow_matching_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        FlowMatching(PHI, **options)


# --- what the history says ---------------------------------------------------------------------------


def test_the_history_has_the_forward_ess_or_none_and_never_nan():
    phi = PHI[:8]
    history = fit(build(), ACTION, objective=ForwardKL(phi, solver=FAST), **SHORT | {"steps": 1})
    index = torch.randint(8, (8,), generator=generator())
    flow = build()
    log_w = log_weights(flow, ACTION, phi[index])
    assert history.loss[0] == pytest.approx(-float(flow.log_prob(phi[index]).detach().mean()), rel=1e-12)
    assert history.ess[0] == pytest.approx(forward_effective_sample_size(log_w, n_blocks=8).mean, rel=1e-9)
    history = fit(build(), ACTION, objective=MATCHING, **SHORT)
    assert history.ess == [None] * 6
    assert all(loss > 0 for loss in history.loss)
    assert history.nfe == [3] * 6
    training_curve(history)


def test_an_objective_without_weights_must_say_its_loss():
    with pytest.raises(ValueError, match="must give its value"):
        ObjectiveValue(torch.zeros(()), None, 0)
    assert ObjectiveValue(torch.zeros(()), None, 0, value=torch.ones(())).ess is None
    both = ObjectiveValue(torch.zeros(()), torch.tensor([0.0, 1.0]), 0)
    assert float(both.loss) == -0.5
    assert replace(both, value=torch.ones(())).loss == 1


# --- forward divergence ------------------------------------------------------------------------------


def likelihood_slope(
    flow: Flow, phi: Tensor, log_q: Callable[[Flow, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Central differences of `-mean log q` along random directions, and the directions."""
    start = weights(flow)
    directions = torch.randn((4, len(start)), generator=generator(8))
    slopes, step = [], 1e-5
    for direction in directions:
        ends = []
        for sign in (1, -1):
            nn.utils.vector_to_parameters(start + sign * step * direction, flow.parameters())
            ends.append(-float(log_q(flow, phi).detach().mean()))
        slopes.append((ends[0] - ends[1]) / (2 * step))
    nn.utils.vector_to_parameters(start, flow.parameters())
    return torch.tensor(slopes), directions


def without_prior(flow: Flow, phi: Tensor) -> Tensor:
    return flow.inverse_and_log_det(phi)[1]


def wrong_sign(flow: Flow, phi: Tensor) -> Tensor:
    z, log_det = flow.inverse_and_log_det(phi)
    return flow.prior.log_prob(z) - log_det


@pytest.mark.parametrize("new", [build, exact_map], ids=["continuous", "exact map"])
def test_the_forward_gradient_is_that_of_the_likelihood(new):
    flow, action = new(), ACTION
    if isinstance(flow, AugmentedFlow):
        action = ExtendedAction(ACTION)
    phi = torch.randn((1, *flow.prior.event_shape), generator=generator(2))
    objective = ForwardKL(phi, solver=FAST if isinstance(flow, EquivariantCNF) else None)
    found = gradient(objective(flow, action, 3, generator()), flow)  # one sample, whatever is drawn
    expected, directions = likelihood_slope(flow, phi, lambda f, x: f.log_prob(x))
    torch.testing.assert_close(directions @ found, expected, rtol=1e-6, atol=1e-7)
    for wrong in (without_prior, wrong_sign):
        planted, _ = likelihood_slope(flow, phi, wrong)
        assert float((directions @ found - planted).abs().max()) > 1e-2


def test_the_solver_of_the_objective_is_the_one_that_is_used():
    flow = build()
    flow.solver = Solver("euler", steps=1)
    value = ForwardKL(PHI[:1], solver=FAST)(flow, ACTION, 2, generator())
    assert value.nfe == 12
    expected = -float(build().log_prob(PHI[:1]).detach().mean())
    assert float(value.loss) == pytest.approx(expected, rel=1e-12)
    assert abs(float(ForwardKL(PHI[:1])(flow, ACTION, 2, generator()).loss) - expected) > 1e-4


def test_fields_are_joined_by_fresh_momenta_for_a_flow_of_both():
    flow, target = exact_map(), ExtendedAction(ACTION)
    one = ForwardKL(PHI)(flow, target, 4, generator())
    again, other = (ForwardKL(PHI)(flow, target, 4, generator(seed)) for seed in (0, 1))
    assert torch.equal(one.loss, again.loss)
    assert not torch.equal(one.loss, other.loss)
    history = fit(flow, target, objective=ForwardKL(PHI), **SHORT)
    assert len(history) == 6
    phi, momentum = draw(PHI, flow, target, 4000, generator()).unbind(1)
    assert {tuple(row) for row in phi.flatten(1).tolist()} == {tuple(row) for row in PHI.flatten(1).tolist()}
    covariance = momentum.flatten(1).T.cov(correction=0)
    assert float((covariance - torch.eye(6)).abs().max()) < 5 * math.sqrt(2 / 4000)
    # Without the target's momenta in the action there is nothing that says how to draw them.
    with pytest.raises(ValueError, match=r"\(2, 2, 3\)"):
        ForwardKL(PHI)(flow, ACTION, 4, generator())


def spectrum(phi: Tensor, lattice: Lattice) -> Tensor:
    return torch.fft.fftn(phi, dim=lattice.axes).abs().square().mean(0) / lattice.volume


def test_the_forward_divergence_finds_the_spectrum_of_a_free_field():
    action = FreeScalar(RECTANGLE, m2=0.4)
    n_samples = 8192
    flow = small_flow(RECTANGLE.shape, solver=FAST)
    before = importance_sample(flow, action, 1024, certify=0, generator=generator()).effective_sample_size()
    objective = ForwardKL(free_samples(action, n_samples), solver=FAST)
    options = {"steps": 150, "batch_size": 128, "warmup": 10, "learning_rate": 0.03, "progress": False}
    fit(flow, action, objective=objective, **options)
    ensemble = importance_sample(flow, action, n_samples, certify=0, generator=generator(4))
    assert before.mean < 0.9
    assert ensemble.effective_sample_size().mean > 0.99
    assert abs(ensemble.log_z().mean - action.log_z()) < 5e-3
    # Data and fresh samples each carry sqrt(2 / n), or less where modes are tied.
    ratio = spectrum(ensemble.phi, RECTANGLE) / action.mode_variance()
    error = 2 * math.sqrt(2 / n_samples)
    assert float((ratio - 1).abs().max()) < 4 * error
    wrong = spectrum(ensemble.phi, RECTANGLE) / FreeScalar(RECTANGLE, m2=0.6).mode_variance()
    assert float((wrong - 1).abs().max()) > 4 * error


# --- flow matching -----------------------------------------------------------------------------------


def squared_distance(start: Tensor, end: Tensor) -> float:
    return float((start - end).square().sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_minibatch_pairing_is_the_optimal_assignment(seed):
    start, end = (configurations(RECTANGLE, n=4, seed=10 * seed + i) for i in (0, 1))
    best = matched(start, end)
    costs = [squared_distance(start, end[list(order)]) for order in itertools.permutations(range(4))]
    assert squared_distance(start, best) == pytest.approx(min(costs), rel=1e-12)
    assert sorted(map(tuple, best.flatten(1).tolist())) == sorted(map(tuple, end.flatten(1).tolist()))
    # Other pairings are seen: the same in reverse, the order as drawn, the longest instead of the shortest.
    for wrong in (best.flip(0), end.roll(1, 0), matched(-start, end)):
        assert squared_distance(start, wrong) > min(costs) + 1e-6


def test_the_pairing_is_what_the_option_says():
    losses = {}
    for pairing in ("minibatch", "independent"):
        flow = build()
        nn.init.zeros_(flow.vector_field.kernel.weight)  # v = 0: the loss is the pairs' squared distance
        value = FlowMatching(PHI, pairing=pairing)(flow, ACTION, 16, generator())
        losses[pairing] = float(value.loss)
    index = torch.randint(20, (16,), generator=(stream := generator()))
    start = build().prior.rsample(16, stream).detach()
    assert losses["independent"] == pytest.approx(squared_distance(start, PHI[index]) / 16, rel=1e-12)
    pairs = matched(start, PHI[index])
    assert losses["minibatch"] == pytest.approx(squared_distance(start, pairs) / 16, rel=1e-12)
    assert losses["minibatch"] < 0.9 * losses["independent"]


class GaussianVelocity(VectorField):
    """`E[phi_1 - phi_0 | phi_t]` of two free fields, off by a factor `1 + error_k(t)` of each mode.

    With variances `a_k` and `b_k`, independent: `v_k = (t b - (1-t) a) / ((1-t)^2 a + t^2 b + sigma^2)`
    times `phi_k`.
    """

    def __init__(self, prior: FreeField, target: FreeScalar, *, sigma: float = 0.0, power: int = 2) -> None:
        super().__init__(prior.group)
        self.a, self.b = prior.mode_variance().detach(), self.lattice.half(target.mode_variance())
        self.noise, self.power = sigma**2, power
        self.constant = nn.Parameter(torch.zeros(self.lattice.half_shape))
        self.linear = nn.Parameter(torch.zeros(self.lattice.half_shape))

    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        variance = (1 - t) ** self.power * self.a + t**self.power * self.b + self.noise
        rate = (t * self.b - (1 - t) * self.a) / variance + self.constant + self.linear * t
        return self.lattice.ifft(rate * self.lattice.fft(phi)), phi.new_zeros(len(phi))


def deviations(field: GaussianVelocity, prior: FreeField, target: FreeScalar, sigma: float) -> Tensor:
    """Mean gradients of the regression over their errors: of order 1 at its minimum."""
    objective = FlowMatching(
        free_samples(target, 40_000), pairing="independent", sigma=sigma, fit_prior=False, n_times=8
    )
    flow, stream = EquivariantCNF(prior.lattice, vector_field=field, prior=prior), generator(1)
    rows = torch.stack([gradient(objective(flow, target, 512, stream), flow) for _ in range(60)])
    rows = rows[:, rows.std(0) > 0]
    return rows.mean(0) / (rows.std(0) / math.sqrt(len(rows)))


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_the_regression_of_free_fields_has_its_minimum_at_the_exact_velocity(sigma):
    target, prior = FreeScalar(RECTANGLE, m2=0.3), FreeField(RECTANGLE, m2=2.0).double()
    exact = deviations(GaussianVelocity(prior, target, sigma=sigma), prior, target, sigma)
    assert len(exact) >= 8
    assert float(exact.abs().max()) < 4.5
    planted = {
        "linear variance": GaussianVelocity(prior, target, sigma=sigma, power=1),
        "no or other noise": GaussianVelocity(prior, target, sigma=0.4 - sigma),
        "other target": GaussianVelocity(prior, FreeScalar(RECTANGLE, m2=0.5), sigma=sigma),
        "other prior": GaussianVelocity(FreeField(RECTANGLE, m2=1.0).double(), target, sigma=sigma),
    }
    for name, wrong in planted.items():
        assert float(deviations(wrong, prior, target, sigma).abs().max()) > 8, name


def test_the_regression_gives_the_prior_no_gradient_and_the_likelihood_does():
    flow = build()
    value = FlowMatching(PHI, fit_prior=False)(flow, ACTION, 8, generator())
    value.surrogate.backward()
    assert flow.prior.log_sigma.grad is None
    assert float(flow.vector_field.kernel.weight.grad.abs().max()) > 1e-3
    other = build()
    FlowMatching(PHI)(other, ACTION, 8, generator()).surrogate.backward()
    index = torch.randint(20, (8,), generator=generator())
    expected = torch.autograd.grad(-build_prior(other).log_prob(PHI[index]).mean(), other.prior.log_sigma)[0]
    torch.testing.assert_close(other.prior.log_sigma.grad, expected)
    torch.testing.assert_close(flow.vector_field.kernel.weight.grad, other.vector_field.kernel.weight.grad)


def build_prior(flow: Flow) -> FreeField:
    assert isinstance(flow.prior, FreeField)
    return flow.prior


def test_flow_matching_trains_a_flow():
    lattice = Lattice((4,))
    action = Phi4(lattice, m2=-2.0, lam=3.0)
    chain = HMC(action).sample(32, n_chains=64, n_thermalisation=100, generator=generator())
    flow = EquivariantCNF(lattice, solver=Solver("rk5", steps=6))
    before = importance_sample(flow, action, 2048, certify=0, generator=generator()).effective_sample_size()
    history = fit(
        flow, action, steps=200, objective=FlowMatching(chain.configurations), warmup=10, progress=False
    )
    after = importance_sample(flow, action, 2048, certify=0, generator=generator()).effective_sample_size()
    assert before.mean < 0.7
    assert after.mean > 0.93
    assert sum(history.loss[-20:]) < 0.97 * sum(history.loss[:20])


# --- mixtures ----------------------------------------------------------------------------------------


def test_the_gradient_and_the_loss_of_a_mixture_are_weighted_sums():
    flow, parts = build(), ((PATH, 0.2), (FORWARD, 0.5), (MATCHING, 0.3))
    mixed = Mixture(*parts)(flow, ACTION, 8, generator())
    stream = generator()
    alone = [objective(flow, ACTION, 8, stream) for objective, _ in parts]
    slopes = [gradient(value, flow) for value in alone]
    expected = sum(w * s for (_, w), s in zip(parts, slopes, strict=True))
    found = gradient(mixed, flow)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, sum(slopes) / 3, rtol=1e-3)
    assert float(mixed.loss) == pytest.approx(
        sum(w * float(v.loss) for (_, w), v in zip(parts, alone, strict=True)), rel=1e-12
    )
    assert torch.equal(mixed.log_weight, alone[0].log_weight)
    assert torch.equal(mixed.target_log_weight, alone[1].target_log_weight)
    assert torch.equal(mixed.ess, alone[0].ess)
    assert mixed.nfe == sum(value.nfe for value in alone)


def test_a_mixture_trains_an_exact_map():
    objective = Mixture((InversePathGradient(), 0.5), (ForwardKL(PHI), 0.5))
    history = fit(exact_map(), ExtendedAction(ACTION), objective=objective, **SHORT)
    assert all(0 < ess <= 1 for ess in history.ess)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ((), ValueError, "add up to 1"),
        (((ReverseKL(), 0.5), (PATH, 0.4)), ValueError, "add up to 1"),
        (((ReverseKL(), 1.5), (PATH, -0.5)), ValueError, "positive"),
        (((ReverseKL(), math.nan),), ValueError, "positive"),
        ((ReverseKL(), PATH), TypeError, "pair"),
        (((0.5, ReverseKL()),), TypeError, "pair"),
    ],
)
def test_bad_mixtures_are_refused(parts, error, message):
    with pytest.raises(error, match=message):
        Mixture(*parts)


def test_forward_divergence_keeps_the_mode_that_the_reverse_one_drops():
    """Two wells, a flow without Z2 that starts in one of them."""
    lattice = Lattice((2,))
    action: Action = Phi4(lattice, m2=-4.0, lam=1.5)
    chain = HMC(action).sample(16, n_chains=64, n_thermalisation=100, thin=2, generator=generator(1))
    phi = torch.cat([chain.configurations, -chain.configurations])
    found = {}
    for name, objective in {
        "reverse": PathGradient(),
        "mixture": Mixture((PathGradient(), 0.5), (ForwardKL(phi), 0.5)),
    }.items():
        group = SymmetryGroup(lattice, z2=False)
        vector_field = OrbitConvField(
            lattice, group=group, n_frequencies=4, n_time_modes=3, max_frequency=4.0
        )
        flow = EquivariantCNF(lattice, vector_field=vector_field, solver=Solver("rk4", steps=5))
        with torch.no_grad():
            vector_field.drift[0] = 1.4
        options = {"steps": 60, "batch_size": 64, "warmup": 10, "learning_rate": 0.03, "progress": False}
        fit(flow, action, objective=objective, **options)
        flow.solver = Solver("rk4", steps=20)
        ensemble = importance_sample(flow, action, 2048, certify=0, generator=generator(3))
        found[name] = {
            "positive": float((ensemble.phi.mean(1) > 0).double().mean()),
            "reverse": ensemble.effective_sample_size().mean,
            "forward": forward_effective_sample_size(log_weights(flow, action, phi)).mean,
            "log_z": ensemble.log_z().mean,
        }
    one_sided, mixed = found["reverse"], found["mixture"]
    # The reverse ESS sees nothing; the forward one and log Z, low by log 2, do.
    assert one_sided["positive"] > 0.99
    assert one_sided["reverse"] > 0.9
    assert one_sided["forward"] < 1e-3
    assert 0.3 < mixed["positive"] < 0.85
    assert min(mixed["reverse"], mixed["forward"]) > 0.4
    assert mixed["log_z"] - one_sided["log_z"] == pytest.approx(math.log(2), abs=0.1)
