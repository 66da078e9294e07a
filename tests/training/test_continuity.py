"""Least squares for the continuity equation: exact where a field can be exact, and certified elsewhere."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import (
    CouplingFlow,
    EquivariantCNF,
    FreeField,
    FreeScalar,
    Lattice,
    Links,
    OrbitConvField,
    PotentialField,
    Solver,
    SUNField,
    U1Field,
    WilsonAction,
    fit,
    fit_by_continuity,
    importance_sample,
)
from equiflow.oracles import gauge_torus
from equiflow.runtime.storage import CheckpointError
from equiflow.theories.base.paths import StraightPath
from equiflow.training import TrainingDivergedError

LATTICE = Lattice((4, 4))


class Backwards(StraightPath):
    """A path whose rate has the wrong sign."""

    def rate(self, phi, t):
        return -super().rate(phi, t)


class Lagging(StraightPath):
    """A path whose force is that of half the time."""

    def at(self, t):
        return super().at(t / 2)


def free_flow(n_time_modes: int = 6) -> EquivariantCNF:
    field = OrbitConvField(LATTICE, n_frequencies=1, n_time_modes=n_time_modes)
    prior = FreeField(LATTICE, m2=3.0, learnable=False)
    return EquivariantCNF(LATTICE, vector_field=field, prior=prior, solver=Solver("rk4", steps=12)).double()


def fitted(flow, action, **options):
    options = {"n_samples": 256, "n_times": 10, "progress": False} | options
    return fit_by_continuity(flow, action, **options)


def reverse_ess(flow, action, n: int = 512) -> float:
    samples = importance_sample(flow, action, n, certify=0, generator=torch.Generator().manual_seed(7))
    return float(samples.effective_sample_size().mean)


def test_the_exact_velocity_of_a_free_field_is_found():
    """From one mass to another `v_k = -phi_k d/dt log(k^2 + m2(t)) / 2` at each momentum."""
    flow, action = free_flow(), FreeScalar(LATTICE, m2=1.0).double()
    fitted(flow, action)
    phi = LATTICE.probes(3, torch.Generator().manual_seed(3))
    momenta = LATTICE.squared_momenta()
    for t in (0.2, 0.8):
        spectrum = momenta + 3.0 - 2.0 * t
        expected = torch.fft.ifftn(torch.fft.fftn(phi, dim=(1, 2)) / spectrum, dim=(1, 2)).real
        torch.testing.assert_close(flow.vector_field.velocity(phi, t), expected, rtol=0, atol=8e-3)
        assert expected.abs().max() > 0.3
    assert reverse_ess(flow, action) > 0.9999


@pytest.mark.parametrize("path", [Backwards, Lagging])
def test_a_wrong_path_gives_a_wrong_flow(path):
    flow, action = free_flow(), FreeScalar(LATTICE, m2=1.0).double()
    fitted(flow, action, path=path(flow.prior, action))
    assert reverse_ess(flow, action) < 0.99


def test_a_single_angle_is_found_exactly():
    """Two plaquettes of opposite angles: the density of one angle, without sectors."""
    links = Links(Lattice((1, 2)), "U(1)")
    field = U1Field(links, n_local=8, n_mixed=0, n_frequencies=1, n_time_modes=6)
    flow = EquivariantCNF(links, vector_field=field, solver=Solver("rk4", steps=16)).double()
    action = WilsonAction(links, beta=0.7)
    fitted(flow, action, n_samples=400)
    samples = importance_sample(flow, action, 512, certify=0, generator=torch.Generator().manual_seed(7))
    assert float(samples.effective_sample_size().mean) > 0.999
    assert abs(samples.log_z().mean - gauge_torus(action).log_z) < 5e-3


def test_sectors_of_u1_are_moved_to_their_weights():
    """Local features leave the sectors of the Haar measure as they are; charges move them."""
    links = Links(Lattice((4, 4)), "U(1)")
    action, found = WilsonAction(links, beta=2.5), []
    for n_mixed in (0, 3):
        torch.manual_seed(0)
        field = U1Field(links, n_local=6, n_mixed=n_mixed, n_frequencies=2, max_frequency=1.5, n_time_modes=6)
        flow = EquivariantCNF(links, vector_field=field, solver=Solver("rk4", steps=16))
        history = fitted(flow, action, n_samples=768, sweeps=2)
        generator = torch.Generator().manual_seed(7)
        found.append(importance_sample(flow, action, 1024, certify=64, generator=generator))
    assert found[0].effective_sample_size().mean < 0.65
    assert found[1].effective_sample_size().mean > 0.8
    estimate = found[1].log_z()
    assert abs(estimate.mean - gauge_torus(action).log_z) < 4 * estimate.error + 2e-3
    assert history.ess[0] is None
    assert history.ess[1] > 0.8


def test_a_trained_flow_is_improved_on_a_larger_lattice():
    links = Links(Lattice((3, 3)), "SU(2)")
    field = SUNField(links, shapes=("plaquette",), degree=2, n_time_modes=2)
    small = EquivariantCNF(links, vector_field=field, solver=Solver("rk4", steps=6))
    fitted(small, WilsonAction(links, beta=0.8), n_times=6, sweeps=1)
    large = small.resized(Lattice((4, 4)))
    before = large.vector_field.amplitude.clone()
    history = fitted(large, WilsonAction(large.space, beta=0.8), n_times=6, sweeps=2)
    assert None not in history.ess
    change = (large.vector_field.amplitude - before).detach()
    assert 1e-6 < float(change.norm()) < 0.5 * float(before.detach().norm())
    assert history.ess[-1] > 0.9


def test_results_depend_on_the_seed_alone_and_other_weights_stay():
    links = Links(Lattice((2, 3)), "U(1)")
    action, weights = WilsonAction(links, beta=1.0), []
    for seed in (1, 1, 2):
        torch.manual_seed(len(weights))
        field = U1Field(links, n_local=2, n_mixed=1, n_frequencies=1, n_time_modes=2)
        before = field.frequency.clone()
        flow = EquivariantCNF(links, vector_field=field)
        seen = []
        history = fitted(flow, action, n_samples=32, n_times=3, sweeps=2, seed=seed, callback=seen.append)
        assert torch.equal(field.frequency, before)
        assert all(p.requires_grad for p in field.parameters())
        assert len(seen) == len(history) == 2
        weights.append(field.kernel.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def small_u1(seed: int = 0) -> EquivariantCNF:
    torch.manual_seed(seed)
    links = Links(Lattice((2, 3)), "U(1)")
    field = U1Field(links, n_local=2, n_mixed=1, n_frequencies=1, n_time_modes=2)
    return EquivariantCNF(links, vector_field=field)


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    options = {"n_samples": 32, "n_times": 3}
    whole, parts, other = small_u1(), small_u1(), small_u1()
    action = WilsonAction(whole.space, beta=1.0)
    expected = fitted(whole, action, sweeps=3, **options)
    fitted(parts, action, sweeps=1, checkpoint=tmp_path / "run.pt", **options)
    parts, seen = small_u1(), []
    history = fitted(
        parts,
        action,
        sweeps=3,
        checkpoint=tmp_path / "run.pt",
        callback=lambda h: seen.append(len(h)),
        **options,
    )
    assert (seen, history.loss) == ([2, 3], expected.loss)
    weights = [flow.vector_field.kernel.weight for flow in (whole, parts, other)]
    assert torch.equal(weights[0], weights[1])
    # Another state of the generator would have led elsewhere.
    fitted(other, action, sweeps=3, **options, seed=1)
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(CheckpointError, match="another run: seed was 0, now 1"):
        fitted(small_u1(), action, sweeps=3, checkpoint=tmp_path / "run.pt", **options, seed=1)
    with pytest.raises(CheckpointError, match=r"local=0\.2"):
        fitted(small_u1(), action, sweeps=3, checkpoint=tmp_path / "run.pt", **options, local=0.2)
    with pytest.raises(CheckpointError, match="n_samples=32"):
        fitted(small_u1(), action, checkpoint=tmp_path / "run.pt", n_samples=16, n_times=3)


def test_every_sweep_has_its_own_number_of_samples():
    flows = [small_u1() for _ in range(3)]
    action, seen = WilsonAction(flows[0].space, beta=1.0), []
    rsample = type(flows[0].prior).rsample
    for flow, n_samples in zip(flows, (16, (16, 16), (16, 48)), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                type(flow.prior), "rsample", lambda self, n, g=None: seen.append(n) or rsample(self, n, g)
            )
            fitted(flow, action, n_samples=n_samples, n_times=3, sweeps=2)
    assert seen == [16, 16, 16, 16, 16, 48]
    weights = [flow.vector_field.kernel.weight for flow in flows]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    # Residuals at each time count as much as is asked for, in the sweep for which it is.
    moved = {}
    for local in (0.1, (0.1, 0.1), (1e-4, 0.1), (0.1, 1e-4)):
        flow = small_u1()
        fitted(flow, action, n_samples=16, n_times=3, sweeps=2, local=local)
        moved[local] = flow.vector_field.kernel.weight.detach()
    assert torch.equal(moved[0.1], moved[0.1, 0.1])
    assert torch.equal(moved[0.1], moved[1e-4, 0.1])  # the first sweep of a field that stands still has none
    assert not torch.equal(moved[0.1], moved[0.1, 1e-4])
    with pytest.raises(ValueError, match="Each of local"):
        fitted(small_u1(), action, local=(0.1, 0.0), sweeps=2)
    with pytest.raises(ValueError, match="n_samples has 3 entries for 2 sweeps; give one each"):
        fitted(small_u1(), action, n_samples=(16, 16, 16), sweeps=2)
    with pytest.raises(ValueError, match="Each of n_samples must be an integer >= 1, got 0"):
        fitted(small_u1(), action, n_samples=(16, 0), sweeps=2)


def test_gradients_alone_are_advised_against_on_untrained_links():
    flow = small_u1()
    action, options = WilsonAction(flow.space, beta=1.0), {"steps": 1, "batch_size": 4, "n_fresh": 0}
    with pytest.warns(UserWarning, match="untrained U1Field poorly. Begin with fit_by_continuity"):
        fit(flow, action, progress=False, **options)
    fitted(flow, action, n_samples=16, n_times=2, sweeps=1)
    fit(flow, action, progress=False, **options)  # warnings are errors here


def test_wrong_arguments_are_explained():
    flow, action = free_flow(2), FreeScalar(LATTICE, m2=1.0)
    with pytest.raises(TypeError, match="PotentialField has no linear weights"):
        fitted(EquivariantCNF(LATTICE, vector_field=PotentialField(LATTICE)), action)
    with pytest.raises(TypeError, match="flow must be of type EquivariantCNF"):
        fitted(CouplingFlow(LATTICE, n_layers=2, hidden_channels=(2,)), action)
    with pytest.raises(ValueError, match="leads elsewhere"):
        fitted(flow, action, path=StraightPath(flow.prior, FreeScalar(LATTICE, m2=1.0)))
    for name, value in (("n_samples", 0), ("sweeps", 0), ("n_times", 0), ("ridge", 0.0), ("seed", -1)):
        with pytest.raises(ValueError, match=name):
            fitted(flow, action, **{name: value})


def test_numbers_that_are_not_finite_are_reported():
    class Broken(StraightPath):
        def rate(self, phi, t):
            return super().rate(phi, t) * math.nan

    flow, action = free_flow(2), FreeScalar(LATTICE, m2=1.0).double()
    with pytest.raises(TrainingDivergedError, match="Sweep 1"):
        fitted(flow, action, path=Broken(flow.prior, action), n_samples=16, n_times=2)
