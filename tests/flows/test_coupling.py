"""Layers on a checkerboard: log-density exact to rounding, and the symmetry that masks leave."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equiflow.analysis import diagnose
from equiflow.flows import AffineMap, CouplingFlow, EquivariantCNF
from equiflow.nn.couplings.checkerboard import CheckerboardLayer
from equiflow.nn.couplings.conditioners import PeriodicCNN
from equiflow.report.report import Report
from equiflow.runtime.storage import CheckpointError
from equiflow.samplers import HMC, IndependenceMetropolis, importance_sample
from equiflow.testing import check_flow, invariance_error, log_density_error
from equiflow.theories.base.checkerboard import CheckerboardGroup, parity_of_sites
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.observables import susceptibility
from equiflow.theories.scalar.phi4 import Phi4
from equiflow.theories.scalar.priors import FreeField, StandardNormal
from equiflow.training import ReverseKL, fit
from tests.support.coupling_flows import (
    DENSE,
    EXACT,
    SHAPES,
    drawn,
    generator,
    kinds,
    largest,
    make,
    moved_apart,
    options,
    plain_kinds,
    round_trip_error,
    translation,
    with_bias,
    with_overlap,
    with_wrong_map,
    z2_kinds,
)
from tests.support.strategies import configurations, log_integral, seeds, small_flow

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
    """Return whether each layer reads only what it leaves alone, and two in turn move every site once."""
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


@pytest.mark.filterwarnings("ignore::equiflow.statistics.LowEffectiveSampleSizeWarning")
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
    with pytest.raises(CheckpointError, match="Doubled is no class that equiflow can build"):
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
