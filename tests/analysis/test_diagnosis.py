"""Mode coverage: a flow that has dropped a mode passes the reverse ESS and must fail the diagnosis."""

import math

import pytest
import torch

from equiflow import (
    HMC,
    Ensemble,
    EquivariantCNF,
    FreeField,
    Lattice,
    OrbitConvField,
    Phi4,
    SymmetryGroup,
    fit,
)
from equiflow.analysis import compare_directions, diagnose
from equiflow.ode.solver import Solver
from equiflow.samplers import importance_sample
from equiflow.statistics import bridge_log_z, log_mean_exp

LATTICE = Lattice((3, 3))
BROKEN = Phi4(LATTICE, m2=-4.0, lam=2.0)  # deep double well: two modes, M = +-1


def trained(*, z2: bool) -> EquivariantCNF:
    """Train a flow for the broken phase; without Z2 it starts in the positive well and stays there."""
    group = SymmetryGroup(LATTICE, z2=z2)
    field = OrbitConvField(LATTICE, group=group)
    flow = EquivariantCNF(
        LATTICE, vector_field=field, prior=FreeField(LATTICE, m2=4.0), solver=Solver("rk5", steps=16)
    )
    if not z2:
        field.drift.data[0] = 1.0
    fit(flow, BROKEN, steps=150 if z2 else 80, progress=False)
    return flow


def target_samples(*, both: bool = True):
    generator = torch.Generator().manual_seed(5)
    # Half of the chains start in each well, since HMC does not tunnel here.
    sign = torch.where(torch.arange(128) % 2 == 0, 1.0, -1.0 if both else 1.0)
    start = sign[:, None, None] + 0.1 * torch.randn(128, 3, 3, generator=generator)
    return HMC(BROKEN).sample(32, n_chains=128, thin=3, initial=start, generator=generator)


@pytest.fixture(scope="module")
def chain():
    return target_samples()


def diagnosis_of(flow, chain):
    ensemble = importance_sample(flow, BROKEN, 4096, generator=torch.Generator().manual_seed(6))
    return diagnose(flow, BROKEN, ensemble, chain)


def test_a_collapsed_flow_has_a_fine_reverse_ess_and_is_found_out(chain):
    found = diagnosis_of(trained(z2=False), chain)
    assert found.reverse_ess.mean > 0.9
    assert found.forward_ess.mean < 0.1
    assert not found.ok
    assert any("Forward ESS" in warning for warning in found.warnings)
    assert any("log Z" in warning for warning in found.warnings)
    assert any("one sign of M" in warning for warning in found.warnings)
    assert str(found).splitlines()[-1] == f"warning: {found.warnings[-1]}"
    # The model has one of two equal wells, so it misses half of Z.
    assert found.log_z_bridge.mean - found.log_z_reverse.mean == pytest.approx(math.log(2), abs=0.05)


def test_a_symmetric_flow_raises_no_warning(chain):
    found = diagnosis_of(trained(z2=True), chain)
    assert found.ok, found.warnings
    assert "warning" not in str(found)
    assert f"forward_ess       {found.forward_ess}" in str(found)
    assert found.lower_bound.mean <= found.log_z_bridge.mean <= found.upper_bound.mean


def gaussian_log_weights(seed: int, n: int = 4000):
    """Return log weights of the model N(0, 1) and of the target N(0.4, 0.8^2) with log Z = 3."""
    generator = torch.Generator().manual_seed(seed)

    def log_weight(x):
        return 3 - 0.5 * ((x - 0.4) / 0.8) ** 2 - math.log(0.8) + 0.5 * x**2

    model = torch.randn(n, generator=generator, dtype=torch.float64)
    target = 0.4 + 0.8 * torch.randn(n, generator=generator, dtype=torch.float64)
    return log_weight(model), log_weight(target)


def test_bridge_is_unbiased_and_its_error_matches_the_scatter():
    estimates = [bridge_log_z(*gaussian_log_weights(seed, 1000)) for seed in range(60)]
    pulls = torch.tensor([estimate.sigmas_from(3.0) for estimate in estimates])
    assert abs(float(pulls.mean())) < 4 / math.sqrt(60)
    assert 0.75 < float(pulls.std()) < 1.3


def test_bridge_beats_either_direction():
    model, target = gaussian_log_weights(0)
    bridge = bridge_log_z(model, target)
    assert bridge.error < log_mean_exp(model).error
    assert bridge.error < log_mean_exp(-target).error


def test_bridge_weighs_both_directions_by_their_sample_sizes():
    model, target = gaussian_log_weights(0)
    assert abs(bridge_log_z(model, target[:400]).sigmas_from(3.0)) < 4
    # The counter-example: inverse weights of the target.
    assert abs(bridge_log_z(model, -target[:400]).sigmas_from(3.0)) > 10


def test_bridge_is_exact_for_a_perfect_model_and_refuses_nan():
    constant = torch.full((50,), 2.5)
    assert bridge_log_z(constant, constant).mean == pytest.approx(2.5, abs=1e-9)
    with pytest.raises(ValueError, match="finite"):
        bridge_log_z(torch.tensor([0.0, math.nan]), constant)


def test_a_target_that_vanishes_where_the_model_does_not_is_covered():
    generator = torch.Generator().manual_seed(0)
    model, target = torch.randn(2, 8000, 1, 1, generator=generator, dtype=torch.float64)
    target = target.abs()  # the half of a normal density, with Z = 1/2 in units of the model
    log_weight = torch.where(model > 0, 0.0, -math.inf).flatten()
    ensemble = Ensemble(model, torch.zeros(8000), log_weight)
    found = compare_directions(ensemble, target, torch.zeros(8000), n_chains=4)
    assert found.ok, found.warnings
    for log_z in (found.log_z_reverse, found.log_z_forward, found.log_z_bridge):
        assert abs(log_z.sigmas_from(-math.log(2))) < 4
        assert 0 < log_z.error < 0.05
    for ess in (found.reverse_ess, found.forward_ess):
        assert ess.mean == pytest.approx(0.5, abs=0.03)
    assert (found.lower_bound.mean, found.upper_bound.mean) == (-math.inf, 0.0)


def test_a_model_that_vanishes_on_target_samples_does_not_cover_it():
    generator = torch.Generator().manual_seed(0)
    model, target = torch.randn(2, 400, 1, 1, generator=generator, dtype=torch.float64)
    log_weight = torch.where(target.flatten() > 1, -math.inf, 0.0)  # impossible samples
    found = compare_directions(Ensemble(model, torch.zeros(400), torch.zeros(400)), target, log_weight)
    assert (found.forward_ess.mean, found.upper_bound.mean) == (0.0, -math.inf)
    assert any("Forward ESS" in warning for warning in found.warnings)
