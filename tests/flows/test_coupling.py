"""Masked couplings: log-density exact to rounding, and the symmetry that masks leave."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from equiflow.analysis import diagnose
from equiflow.flows import AffineMap, CouplingFlow, EquivariantCNF, SiteMap, SplineMap
from equiflow.nn.couplings.checkerboard import CheckerboardLayer
from equiflow.nn.couplings.conditioners import ParityCNN, PeriodicCNN
from equiflow.report.report import Report
from equiflow.runtime.storage import CheckpointError
from equiflow.samplers import HMC, IndependenceMetropolis, importance_sample
from equiflow.testing import check_flow, invariance_error, log_density_error, randomise
from equiflow.theories.base.action import Action
from equiflow.theories.base.checkerboard import CheckerboardGroup, parity_of_sites
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.point_groups import PointElement
from equiflow.theories.base.symmetry import SymmetryGroup, Transformation
from equiflow.theories.scalar.observables import susceptibility
from equiflow.theories.scalar.phi4 import Phi4
from equiflow.theories.scalar.priors import FreeField, StandardNormal
from equiflow.training import InversePathGradient, Objective, PathGradient, ReverseKL, fit
from tests.support.strategies import configurations, log_integral, needs, seeds, small_flow

SHAPES = ((2,), (6,), (2, 4), (4, 4), (4, 6), (2, 2, 4), (2, 4, 2))
EXACT = 1e-12  # of sums and products
DENSE = 1e-10  # of splines, which may be as flat as 1e-3, and of dense Jacobians

#: name -> (kind of site map, Z2)
KINDS = {
    "real_nvp": (AffineMap, False),
    "z2 real_nvp": (AffineMap, True),
    "spline": (SplineMap, False),
    "z2 spline": (SplineMap, True),
}
marked = [
    pytest.param(name, marks=[needs("zuko")] if family is SplineMap else [])
    for name, (family, _) in KINDS.items()
]
kinds = pytest.mark.parametrize("kind", marked)
plain_kinds = pytest.mark.parametrize("kind", marked[::2])
z2_kinds = pytest.mark.parametrize("kind", marked[1::2])
drawn = settings(max_examples=5)


def make(kind: str, shape: tuple[int, ...] = (4, 4), *, seed: int = 0, **options: object) -> CouplingFlow:
    family, z2 = KINDS[kind]
    options = {"n_layers": 4, "hidden_channels": (3, 2)} | options
    site_map = family(n_bins=5, bound=3.0) if family is SplineMap else family()
    torch.manual_seed(seed)
    flow = CouplingFlow(Lattice(shape), **{"site_map": site_map, "z2": z2} | options).double()
    randomise(flow, scale=0.1, seed=seed)
    return flow


@st.composite
def options(draw: st.DrawFn, max_volume: int = 24) -> dict[str, object]:
    """Everything that `make` takes but the kind."""
    return {
        "shape": draw(st.sampled_from([s for s in SHAPES if math.prod(s) <= max_volume])),
        "seed": draw(seeds),
        "n_layers": draw(st.integers(2, 4)),
        "hidden_channels": draw(st.sampled_from([(2,), (3, 2), (1, 2, 1)])),
        "kernel_size": draw(st.sampled_from([3, 5])),
    }


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def largest(difference: Tensor) -> float:
    return float(difference.detach().abs().max())


def moved_apart(flow: CouplingFlow, element: Transformation) -> float:
    """`max |f(g z) - g f(z)|` and the change of log_det."""
    z = configurations(flow.lattice)
    with torch.no_grad():
        phi, log_det = flow.transform_and_log_det(z)
        other, other_log_det = flow.transform_and_log_det(element(z))
    return max(largest(other - element(phi)), largest(other_log_det - log_det))


def round_trip_error(flow: CouplingFlow) -> float:
    z = 2 * configurations(flow.lattice)  # reaches beyond the splines' bound
    with torch.no_grad():
        phi, log_det = flow.transform_and_log_det(z)
        back, back_log_det = flow.inverse_and_log_det(phi)
    return max(largest(back - z), largest(log_det + back_log_det))


class Wrong(SiteMap):
    """A site map with a mistake, for the laws to find."""

    def __init__(self, good: SiteMap, what: str) -> None:
        self.good, self.what = good, what
        self.n_even, self.n_odd = good.n_even, good.n_odd

    def forward(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        if self.what == "ignores odd":
            odd = torch.zeros_like(odd)
        moved, log_slope = self.good.forward(x, even, odd)
        return moved, -log_slope if self.what == "sign of log_det" else log_slope

    def inverse(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        if self.what == "inverse is forward":
            return self.good.forward(x, even, odd)
        moved, log_slope = self.good.inverse(x, even, odd)
        return moved, -log_slope if self.what == "sign of log_det" else log_slope


def with_wrong_map(flow: CouplingFlow, what: str) -> CouplingFlow:
    flow = copy.deepcopy(flow)
    for layer in flow.layers:
        layer.site_map = Wrong(layer.site_map, what)
    return flow


def with_overlap(flow: CouplingFlow) -> CouplingFlow:
    """A copy whose first layer reads a site that it moves."""
    flow = copy.deepcopy(flow)
    layer = flow.layers[0]
    layer._frozen.view(-1)[layer._active[0]] = True
    return flow


def with_bias(flow: CouplingFlow, where: str) -> CouplingFlow:
    """A copy with a bias in the odd part of a network."""
    flow = copy.deepcopy(flow)
    net = flow.layers[1].net
    layer = net.odd if where == "odd" else net.layers[0]
    layer.bias = nn.Parameter(torch.full((layer.out_channels,), 0.1))
    return flow


def translation(shift: tuple[int, ...]) -> Transformation:
    return Transformation(PointElement(tuple(range(len(shift))), (1,) * len(shift)), shift)


# --- the law of the log-density -----------------------------------------------------------------------


@kinds
@drawn
@given(options=options(max_volume=16), free=st.booleans())
def test_log_q_is_prior_minus_dense_slogdet(kind, options, free):
    prior = FreeField(Lattice(options["shape"])) if free else None
    flow = make(kind, **options, prior=prior)
    assert log_density_error(flow) < DENSE


@kinds
@drawn
@given(options=options())
def test_the_inverse_is_exact_to_rounding(kind, options):
    flow = make(kind, **options)
    z = configurations(flow.lattice)
    phi, log_det = flow.transform_and_log_det(z)
    assert largest(phi - z) > 1e-2
    assert float(log_det.detach().abs().min()) > 1e-6
    assert round_trip_error(flow) < DENSE


@kinds
@pytest.mark.parametrize("shape", [(4,), (4, 4), (2, 2, 4)])
def test_planted_mistakes_in_the_density_are_seen(kind, shape):
    flow = make(kind, shape)
    assert log_density_error(flow) < DENSE
    assert log_density_error(with_wrong_map(flow, "sign of log_det")) > 1e-3
    assert log_density_error(with_overlap(flow)) > 1e-4
    assert round_trip_error(with_overlap(flow)) > 1e-4
    assert round_trip_error(with_wrong_map(flow, "inverse is forward")) > 1e-3


@kinds
def test_density_integrates_to_one(kind):
    # On two sites, where a grid can sum over all fields. Leaky ReLU has kinks, a spline has knots.
    flow = make(kind, (2,), seed=3)
    tolerance = 3e-3 if "spline" in kind else 1e-4

    def without_log_det(phi: Tensor) -> Tensor:
        return flow.prior.log_prob(flow.inverse_and_log_det(phi)[0])

    assert abs(log_integral(flow.log_prob, flow.lattice, n_points=241)) < tolerance
    assert abs(log_integral(without_log_det, flow.lattice, n_points=241)) > 3e-2


@kinds
@drawn
@given(options=options(), seed=seeds)
def test_sampled_log_prob_is_log_prob_of_the_sample(kind, options, seed):
    flow = make(kind, **options)
    phi, log_q = flow.sample_and_log_prob(4, generator=generator(seed))
    assert phi.shape == (4, *flow.lattice.shape)
    assert not phi.requires_grad
    torch.testing.assert_close(flow.log_prob(phi), log_q, rtol=DENSE, atol=DENSE)
    torch.testing.assert_close(flow.distribution().log_prob(phi), flow.log_prob(phi))


# --- masks ---------------------------------------------------------------------------------------------


def masks_partition(flow: CouplingFlow) -> bool:
    """Whether each layer moves what it does not read, and two in turn move every site once."""
    for layer in flow.layers:
        moved = torch.zeros(flow.lattice.volume, dtype=torch.bool)
        moved[layer._active] = True
        if not torch.equal(moved.reshape(flow.lattice.shape), ~layer._frozen):
            return False
    return all(
        torch.equal(torch.cat([a._active, b._active]).sort().values, torch.arange(flow.lattice.volume))
        for a, b in pairwise(flow.layers)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_partition_the_lattice(shape):
    flow = make("real_nvp", shape)
    assert masks_partition(flow)
    assert not masks_partition(with_overlap(flow))
    for layer in flow.layers:
        for axis in flow.lattice.axes:  # across the boundary too
            assert torch.equal(layer._frozen.roll(1, axis), ~layer._frozen)


@kinds
@pytest.mark.parametrize("shape", SHAPES)
def test_frozen_sites_stay_bit_for_bit_and_active_ones_move(kind, shape):
    flow = make(kind, shape)
    phi = configurations(flow.lattice)
    for layer in flow.layers:
        for moved in (layer(phi)[0], layer.inverse(phi)[0]):
            assert torch.equal(moved[:, layer._frozen], phi[:, layer._frozen])
            # Outside of its bound a spline is the identity.
            inside = ~layer._frozen & (phi.abs() < 3).all(0)
            assert bool((moved != phi)[:, inside].all())


# --- symmetry ------------------------------------------------------------------------------------------


@kinds
@drawn
@given(options=options(), seed=seeds)
def test_the_claimed_group_is_exact(kind, options, seed):
    flow = make(kind, **options)
    assert flow.group.z2 == ("z2" in kind)
    random = [flow.group.random_element(generator(seed + i)) for i in range(2)]
    for element in (*flow.group.generators().values(), *random):
        assert moved_apart(flow, element) < EXACT * (100 if "spline" in kind else 1)


@kinds
@pytest.mark.parametrize("shape", [(4,), (4, 4), (4, 6), (2, 2, 4)])
def test_what_is_not_claimed_is_violated(kind, shape):
    flow = make(kind, shape)
    one_site = SymmetryGroup(flow.lattice, "trivial", z2=False).generators()
    assert len(one_site) == len(shape)
    for element in one_site.values():
        assert moved_apart(flow, element) > 1e-3
    for name, error in invariance_error(flow, SymmetryGroup(flow.lattice, "trivial", z2=False)).items():
        assert error > 1e-3 or "random" in name
    if shape == (4, 4):
        turned = SymmetryGroup(flow.lattice, "full", z2=False).generators()
        assert all(moved_apart(flow, e) > 1e-3 for name, e in turned.items() if "translation" not in name)


@plain_kinds
def test_plain_networks_have_no_z2_and_claim_none(kind):
    flow = make(kind)
    sign = CheckerboardGroup(flow.lattice, z2=True).generators()["Z2 phi -> -phi"]
    assert moved_apart(flow, sign) > 1e-3
    assert "Z2 phi -> -phi" not in flow.group.generators()


@z2_kinds
@pytest.mark.parametrize("where", ["odd", "trunk"])
def test_a_bias_in_the_odd_network_is_seen(kind, where):
    flow = make(kind)
    sign = flow.group.generators()["Z2 phi -> -phi"]
    assert moved_apart(flow, sign) < EXACT
    assert moved_apart(with_bias(flow, where), sign) > 1e-4
    report = check_flow(with_bias(flow, where), tolerance=1e-8)
    assert [check.case for check in report.violations if "translation" in check.case] == []
    assert any(check.case == "Z2 phi -> -phi" for check in report.violations)


@kinds
def test_every_law_at_once_and_again_after_training(kind):
    flow = make(kind)
    assert check_flow(flow, tolerance=1e-9).ok
    fit(
        flow,
        Phi4(flow.lattice, m2=1.0, lam=1.0),
        steps=5,
        learning_rate=1e-2,
        objective=ReverseKL(),
        progress=False,
    )
    assert check_flow(flow, tolerance=1e-9).ok
    assert masks_partition(flow)


@pytest.mark.parametrize("shape", SHAPES)
def test_generators_reach_every_translation_that_keeps_parity_and_no_other(shape):
    group = CheckerboardGroup(Lattice(shape))
    parity = parity_of_sites(group.lattice)
    shifts = [element.shift for element in group.generators().values()]
    reached = {(0,) * len(shape)}
    while True:
        more = {
            tuple((a + b) % side for a, b, side in zip(old, shift, shape, strict=True))
            for old in reached
            for shift in shifts
        }
        if more <= reached:
            break
        reached |= more
    assert len(reached) == group.lattice.volume // 2
    assert all(torch.equal(translation(shift)(parity), parity) for shift in reached)
    drawn = {group.random_element(generator(seed)).shift for seed in range(50)}
    assert {tuple(a % side for a, side in zip(s, shape, strict=True)) for s in drawn} <= reached
    assert len(drawn) > 1 or group.lattice.volume == 2
    assert not torch.equal(translation((1, *(0,) * (len(shape) - 1)))(parity), parity)


def test_random_elements_draw_both_signs():
    group = CheckerboardGroup(Lattice((4, 4)), z2=True)
    assert {group.random_element(generator(seed)).sign for seed in range(20)} == {1, -1}


# --- networks and site maps ----------------------------------------------------------------------------


@pytest.mark.parametrize("network", [PeriodicCNN, ParityCNN])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 3)])
def test_networks_are_periodic(network, shape):
    net = network(Lattice(shape), n_even=2, n_odd=3, hidden_channels=(3, 2), kernel_size=3)
    randomise(net)
    phi = configurations(net_lattice := Lattice(shape))
    even, odd = net(phi)
    assert even.shape == (3, 2, *shape)
    assert odd.shape == (3, 3, *shape)
    for axis in net_lattice.axes:
        for there, here in zip(net(phi.roll(1, axis)), (even, odd), strict=True):
            torch.testing.assert_close(there, here.roll(1, axis), rtol=EXACT, atol=EXACT)
    mirrored = net(-phi)
    as_claimed = max(largest(mirrored[0] - even), largest(mirrored[1] + odd))
    assert as_claimed < EXACT if network is ParityCNN else as_claimed > 1e-2


@pytest.mark.parametrize("n_bins", [None, *(pytest.param(n, marks=needs("zuko")) for n in (2, 5, 8))])
@pytest.mark.parametrize("scale", [0.5, 20.0])
def test_site_maps_are_increasing_invertible_and_odd(n_bins, scale):
    site_map = AffineMap() if n_bins is None else SplineMap(n_bins=n_bins, bound=2.0)
    x = (3 * torch.randn(50, 40, generator=generator())).requires_grad_()
    even = scale * torch.randn(50, site_map.n_even, 40, generator=generator(1))
    odd = scale * torch.randn(50, site_map.n_odd, 40, generator=generator(2))
    moved, log_slope = site_map.forward(x, even, odd)
    (slope,) = torch.autograd.grad(moved.sum(), x)
    assert largest(slope.log() - log_slope) < DENSE
    back, back_log_slope = site_map.inverse(moved, even, odd)
    assert largest(back - x) < DENSE
    assert largest(back_log_slope + log_slope) < DENSE
    mirrored, mirrored_log_slope = site_map.forward(-x, even, -odd)
    assert largest(mirrored + moved) < DENSE
    assert largest(mirrored_log_slope - log_slope) < DENSE
    assert largest(site_map.forward(-x, even, odd)[0] + moved) > 1e-2  # odd must change sign too


@needs("zuko")
def test_a_spline_is_the_identity_outside_its_bound_with_a_continuous_slope():
    spline = SplineMap(n_bins=4, bound=2.0)
    x = torch.tensor([[-7.0, -2.0 - 1e-9, -2.0 + 1e-9, 0.3, 2.0 - 1e-9, 2.0 + 1e-9, 50.0]])
    even = torch.randn(1, spline.n_even, 7, generator=generator(1))
    odd = torch.randn(1, spline.n_odd, 7, generator=generator(2))
    moved, log_slope = spline.forward(x, even, odd)
    outside = x.abs() > 2
    assert torch.equal(moved[outside], x[outside])
    assert not bool(log_slope[outside].any())
    torch.testing.assert_close(moved[x.abs() > 1], x[x.abs() > 1], rtol=0, atol=1e-8)
    assert float(log_slope[x.abs() > 1].abs().max()) < 1e-6
    assert abs(float(log_slope[0, 3])) > 1e-2


def test_a_missing_zuko_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko", None)
    with pytest.raises(ImportError, match=r"needs zuko; install it by pip install '\.\[splines\]'"):
        SplineMap()
    CouplingFlow(Lattice((4, 4)))


# --- gradients and training ----------------------------------------------------------------------------


def unreached(flow: CouplingFlow) -> list[str]:
    flow.zero_grad()
    phi, log_q = flow.rsample_and_log_prob(16, generator=generator())
    (log_q + Phi4(flow.lattice, m2=1.0, lam=1.0)(phi)).mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in flow.parameters() if p.grad is not None)
    return [n for n, p in flow.named_parameters() if p.grad is None or not bool(p.grad.any())]


@kinds
@drawn
@given(options=options())
def test_gradients_reach_every_parameter(kind, options):
    flow = make(kind, **options, prior=FreeField(Lattice(options["shape"])))
    assert unreached(flow) == []


@z2_kinds
def test_a_parameter_without_a_gradient_is_seen(kind):
    assert any("odd" in name for name in unreached(with_wrong_map(make(kind), "ignores odd")))


def test_every_weight_has_a_gradient_and_one_layer_would_not():
    """Why a hidden layer is demanded: without one the kernel's even offsets meet frozen zeros."""
    flow = make("real_nvp", hidden_channels=(2,))
    unreached(flow)
    assert all(bool((p.grad != 0).all()) for p in flow.parameters())
    lone = make("real_nvp", hidden_channels=(2,))
    for layer in lone.layers:
        layer.net.layers = nn.ModuleList([layer.net._convolution(1, 2, bias=True)]).double()
    unreached(lone)
    assert not bool(lone.layers[1].net.layers[0].weight.grad[..., 1, 1].any())


class ModelAction(Action):
    """`-log q` of a fixed flow: a target that the same flow samples exactly."""

    def __init__(self, flow: CouplingFlow) -> None:
        super().__init__(flow.lattice)
        self.flow = copy.deepcopy(flow)

    def forward(self, phi: Tensor) -> Tensor:
        return -self.flow.log_prob(phi)


def gradients(flow: CouplingFlow, objective: Objective, action: Action, n: int) -> Tensor:
    flow.zero_grad()
    objective(flow, action, n, generator(5)).surrogate.backward()
    return torch.cat([parameter.grad.flatten() for parameter in flow.parameters()])


@kinds
def test_the_path_gradient_vanishes_sample_by_sample_at_the_optimum(kind):
    flow = make(kind)
    target = ModelAction(flow)
    assert gradients(flow, InversePathGradient(), target, 4).abs().max() < 1e-10
    assert gradients(flow, ReverseKL(), target, 4).abs().max() > 1e-2


@kinds
def test_both_objectives_agree_on_average(kind):
    flow = make(kind, (2, 2), n_layers=2, hidden_channels=(2,))
    action = Phi4(flow.lattice, m2=1.0, lam=1.0)
    path, plain = (gradients(flow, o, action, 4000) for o in (InversePathGradient(), ReverseKL()))
    assert float((path - plain).norm() / plain.norm()) < 0.1


@kinds
@pytest.mark.parametrize("objective", [ReverseKL(), InversePathGradient()])
def test_training_lowers_the_loss(kind, objective):
    action = Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0)
    flow = make(kind)
    history = fit(flow, action, steps=15, learning_rate=2e-2, objective=objective, progress=False)
    assert sum(history.loss[-3:]) < 0.75 * sum(history.loss[:3])
    again = make(kind)
    assert (
        history.loss
        == fit(again, action, steps=15, learning_rate=2e-2, objective=objective, progress=False).loss
    )


def test_the_path_gradient_of_continuous_flows_is_refused():
    flow = make("real_nvp")
    with pytest.raises(TypeError, match=r"use ReverseKL\(\)"):
        PathGradient()(flow, Phi4(flow.lattice, m2=1.0, lam=1.0), 4)


# --- what one does with a flow -------------------------------------------------------------------------


@kinds
def test_samplers_and_diagnosis_agree_with_hmc(kind):
    action = Phi4(Lattice((2, 4)), m2=-4.0, lam=8.0)
    flow = make(kind, (2, 4), n_layers=6, hidden_channels=(4,))
    fit(flow, action, steps=60, batch_size=64, learning_rate=3e-2, objective=ReverseKL(), progress=False)
    certificate = flow.certificate(64, action=action)
    assert "exact map" in str(certificate)
    assert certificate.log_z_shift == certificate.max_log_q_error == 0.0
    assert certificate.round_trip_error < DENSE
    ensemble = importance_sample(flow, action, 2048, generator=generator(1))
    assert ensemble.effective_sample_size().mean > 0.1
    chain = HMC(action).sample(50, n_chains=64, thin=2, generator=generator(2))
    metropolis = IndependenceMetropolis(flow, action).sample(2048, generator=generator(3))
    chi = chain.mean(susceptibility)
    for mine in (ensemble.mean(susceptibility), metropolis.mean(susceptibility)):
        assert abs(mine.mean - chi.mean) < 4 * math.hypot(mine.error, chi.error)
    diagnosis = diagnose(flow, action, ensemble, chain)
    assert diagnosis.lower_bound.mean < diagnosis.log_z_bridge.mean < diagnosis.upper_bound.mean


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("free", [False, True])
def test_a_saved_flow_is_loaded(kind, dtype, free, tmp_path):
    lattice = Lattice((2, 4))
    prior = FreeField(lattice, group=SymmetryGroup(lattice, "inversion"), m2=0.5) if free else None
    flow = make(kind, (2, 4), prior=prior, kernel_size=5, hidden_channels=(2, 3, 2)).to(dtype)
    flow.save(tmp_path / "flow.pt")
    loaded = CouplingFlow.load(tmp_path / "flow.pt")
    assert str(loaded) == str(flow)
    phi = configurations(lattice).to(dtype)
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))
    assert loaded.dtype == dtype
    assert loaded.group == flow.group


def test_a_report_of_a_coupling_flow_is_saved_with_it(tmp_path):
    action = Phi4(Lattice((2, 4)), m2=1.0, lam=0.5)
    flow = make("z2 real_nvp", (2, 4))
    history = fit(flow, action, steps=30, learning_rate=2e-2, objective=ReverseKL(), progress=False)
    ensemble = importance_sample(flow, action, 256, generator=generator(1))
    chain = HMC(action).sample(4, n_chains=8, generator=generator(2))
    report = Report(flow, action, history, ensemble, chain)
    report.save(tmp_path)
    assert (report.results()["solver"], report.results()["nfe"]) == ("exact map", 0)
    phi = configurations(flow.lattice)
    assert torch.equal(CouplingFlow.load(tmp_path / "flow.pt").log_prob(phi), flow.log_prob(phi))


class Doubled(AffineMap):
    def forward(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x, 2 * even, 2 * odd)

    def inverse(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        return super().inverse(x, 2 * even, 2 * odd)


def test_a_site_map_of_ones_own_is_handed_to_load(tmp_path):
    flow = make("real_nvp", site_map=Doubled())
    assert log_density_error(flow) < DENSE
    flow.save(tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match="Doubled is not part of equiflow"):
        CouplingFlow.load(tmp_path / "own.pt")
    loaded = CouplingFlow.load(tmp_path / "own.pt", site_map=Doubled())
    phi = configurations(flow.lattice)
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))


def test_files_of_other_flows_are_refused(tmp_path):
    make("real_nvp").save(tmp_path / "coupling.pt")
    small_flow().save(tmp_path / "cnf.pt")
    with pytest.raises(CheckpointError, match="does not describe a flow"):
        EquivariantCNF.load(tmp_path / "coupling.pt")
    with pytest.raises(CheckpointError, match="it holds a flow of another kind"):
        CouplingFlow.load(tmp_path / "cnf.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "coupling.pt").read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="truncated, damaged"):
        CouplingFlow.load(tmp_path / "cut.pt")


@kinds
def test_float32_follows_float64_and_batches_may_be_empty(kind):
    flow = make(kind, (4, 6))
    phi = configurations(flow.lattice)
    log_q = flow.log_prob(phi)
    flow.float()
    torch.testing.assert_close(flow.log_prob(phi.float()).double(), log_q, rtol=1e-5, atol=2e-4)
    assert round_trip_error_of_float32(flow) < 1e-4
    empty, log_q = flow.sample_and_log_prob(0)
    assert empty.shape == (0, 4, 6)
    assert log_q.shape == (0,)


def round_trip_error_of_float32(flow: CouplingFlow) -> float:
    phi, log_q = flow.sample_and_log_prob(32, generator=generator())
    return largest(flow.log_prob(phi) - log_q)


@kinds
def test_the_flow_moves_to_a_device(kind, device):
    flow = make(kind).to(device)
    phi, _ = flow.sample_and_log_prob(3, generator=torch.Generator(device).manual_seed(0))
    assert phi.device.type == device.type
    assert {b.device.type for b in flow.buffers()} == {device.type}


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 5), {}, r"needs even sides, got lattice \(4, 5\)\. Use even sides"),
        ((1, 4), {}, "needs even sides"),
        ((2, 2, 2, 2), {}, "torch has no 4-dimensional convolution"),
        ((4, 4), {"kernel_size": 4}, r"must be odd .* got 4\. Use 3"),
        ((2, 4), {"kernel_size": 7}, r"at most once around the lattice \(2, 4\)"),
        ((4, 4), {"hidden_channels": ()}, "at least one layer"),
        ((4, 4), {"hidden_channels": (8, 0)}, "hidden_channels must be an integer >= 1"),
        ((4, 4), {"n_layers": 1}, "n_layers must be an integer >= 2, got 1"),
        ((4, 4), {"prior": StandardNormal(Lattice((4, 6)))}, "same Lattice"),
    ],
)
def test_options_out_of_range_are_named(shape, options, message):
    with pytest.raises(ValueError, match=message):
        CouplingFlow(Lattice(shape), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site_map": AffineMap}, r"site_map must be of type SiteMap.*AffineMap\(\)"),
        ({"z2": 1}, "z2 must be of type bool"),
        ({"hidden_channels": 8}, r"Write \(8, 8\)"),
        ({"kernel_size": 3.0}, "kernel_size must be an integer"),
        ({"prior": "normal"}, "prior must be of type Prior"),
    ],
)
def test_options_of_another_type_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        CouplingFlow(Lattice((4, 4)), **options)


@needs("zuko")
def test_wrong_splines_are_named():
    with pytest.raises(ValueError, match="n_bins must be an integer >= 2, got 1"):
        SplineMap(n_bins=1)
    with pytest.raises(ValueError, match="positive, finite bound; got 0"):
        SplineMap(bound=0)
    with pytest.raises(TypeError, match="bound must be of type float or int"):
        SplineMap(bound="5")


def test_wrong_inputs_are_named():
    flow = make("real_nvp")
    with pytest.raises(ValueError, match=r"expected \(batch, 4, 4\)"):
        flow.log_prob(torch.zeros(2, 4, 6))
    with pytest.raises(TypeError, match="dtype"):
        flow.log_prob(torch.zeros(2, 4, 4, dtype=torch.float32))
    with pytest.raises(ValueError, match="NaN or infinite"):
        flow.transform_and_log_det(torch.full((1, 4, 4), math.nan))


def test_the_default_is_the_published_size():
    flow = CouplingFlow(Lattice((8, 8)))
    # 16 layers of 1 -> 8 -> 8 -> 2 channels, 3 x 3 kernels with biases
    assert sum(p.numel() for p in flow.parameters()) == 16 * (8 * 10 + 8 * 73 + 2 * 73)
    assert isinstance(flow.prior, StandardNormal)
    assert all(isinstance(c, CheckerboardLayer) and isinstance(c.net, PeriodicCNN) for c in flow.layers)
