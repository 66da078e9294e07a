"""A hierarchy of flows: exact log q, the symmetry that is left, levels that can be taken apart."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiflow import (
    CheckpointError,
    ContinuousIsing,
    EquivariantCNF,
    Estimate,
    Flow,
    ForwardKL,
    FreeField,
    Lattice,
    MultiscaleFlow,
    PathGradient,
    PotentialField,
    Solver,
    StandardNormal,
    SymmetryGroup,
    fit,
    importance_sample,
)
from equiflow.flows.scales import log_det_of
from equiflow.oracles import ising_torus
from equiflow.testing import check_flow, invariance_error, log_density_error, randomise
from equiflow.theories.base.prior import LOG_2PI
from equiflow.theories.base.sublattice import SublatticeGroup
from tests.support.strategies import configurations, seeds

ACTION = ContinuousIsing(Lattice((4, 4)), 2.5)
FINE = Solver("rk5", steps=16)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hierarchy(
    shape: tuple[int, ...] = (4, 4), *, n_levels: int = 2, scale: float = 0.1, seed: int = 0, **symmetry
) -> MultiscaleFlow:
    """Return a flow of small fields with random weights."""
    levels = []
    for level in reversed(range(n_levels)):
        lattice = Lattice(tuple(side // 2**level for side in shape))
        group = SymmetryGroup(lattice, **symmetry)
        field = PotentialField(
            lattice, group=group, n_channels=2, n_ridges=3, n_time_modes=2, max_frequency=2.0
        )
        levels.append(EquivariantCNF(lattice, vector_field=field, solver=FINE))
    flow = MultiscaleFlow.from_levels(levels)
    randomise(flow, scale=scale, seed=seed)
    return flow


# --- laws ---------------------------------------------------------------------------------------------


@settings(max_examples=5)
@given(
    st.sampled_from([((4,), 2), ((8,), 3), ((4, 4), 2), ((4, 4), 3), ((6, 2), 2), ((2, 2, 4), 2)]),
    st.sampled_from([{}, {"z2": False}, {"point": "rotations"}, {"point": "trivial", "z2": False}]),
    seeds,
)
def test_every_law_holds(shape, symmetry, seed):
    flow = hierarchy(shape[0], n_levels=shape[1], seed=seed % 1000, **symmetry)
    report = check_flow(flow, tolerance=1e-5)
    assert report.ok, str(report)


def test_the_group_is_the_largest_that_holds():
    flow = hierarchy((8, 8), n_levels=3)
    assert flow.group == SublatticeGroup(Lattice((8, 8)), 4)
    assert max(invariance_error(flow, flow.group).values()) < 1e-9
    # Of a larger group every new translation is broken, and nothing else.
    for step in (1, 2):
        larger = SublatticeGroup(Lattice((8, 8)), step)
        assert flow.group <= larger
        errors = invariance_error(flow, larger)
        broken = {name for name, error in errors.items() if error > 1e-4 and "random" not in name}
        assert broken == {f"translation by {step} along axis {axis}" for axis in (0, 1)}


def test_the_sign_is_broken_by_levels_without_it():
    flow = hierarchy(z2=False)
    errors = invariance_error(flow, SublatticeGroup(Lattice((4, 4)), 2))
    assert errors["Z2 phi -> -phi"] > 1e-2


@pytest.mark.parametrize("mistake", ["spectrum", "coarse level"])
def test_a_forgotten_determinant_would_be_seen(mistake, monkeypatch):
    flow = hierarchy()
    assert log_density_error(flow) < 1e-6
    if mistake == "spectrum":
        monkeypatch.setattr("equiflow.flows.multiscale.log_det_of", lambda prior: 0.0)
    else:
        solve = flow.levels[0].solve

        def without(*arguments, **options):
            solution = solve(*arguments, **options)
            phi, log_det = solution.state
            return replace(solution, state=(phi, 0 * log_det))

        monkeypatch.setattr(flow.levels[0], "solve", without)
    assert log_density_error(flow) > 1e-2


@pytest.mark.parametrize("symmetry", [{}, {"z2": False}])
def test_paths_have_the_density_and_the_score_of_the_flow(symmetry):
    flow = hierarchy((8,), n_levels=3, **symmetry)
    path = flow.rsample_path(4, generator=rng())
    expected = flow.sample_and_log_prob(4, generator=rng())
    torch.testing.assert_close(path.phi, expected[0])
    torch.testing.assert_close(path.log_q, expected[1])
    phi = path.phi.detach().requires_grad_()
    (score,) = torch.autograd.grad(flow.log_prob(phi).sum(), phi)
    torch.testing.assert_close(path.score, score, rtol=1e-5, atol=1e-6)
    assert path.nfe == 3 * flow.levels[0].rsample_path(1).nfe
    assert not path.score.requires_grad


def test_the_kinetic_energy_is_that_of_all_levels():
    flow = hierarchy()
    both = flow.rsample_path(4, generator=rng()).kinetic_energy.detach()
    for still in range(2):
        part = copy.deepcopy(flow)
        field = part.levels[still].vector_field
        for parameter in (field.amplitude, *field.linear.parameters()):
            parameter.data.zero_()
        assert bool((part.rsample_path(4, generator=rng()).kinetic_energy.detach() < both).all())


def test_gradients_reach_every_level_and_are_those_of_the_divergence():
    flow = hierarchy()
    value = PathGradient(kinetic_penalty=0.0)(flow, ACTION, 3, rng())
    by_path = torch.autograd.grad(value.surrogate, list(flow.parameters()))
    assert all(bool(gradient.any()) for gradient in by_path)
    # On average over noise both are the gradient of the reverse divergence; they differ by the score term.
    names = [name for name, _ in flow.named_parameters()]
    phi, log_q = flow.rsample_and_log_prob(3, generator=rng())
    total = torch.autograd.grad((log_q + ACTION(phi)).mean(), list(flow.parameters()))
    fixed = torch.autograd.grad(flow.log_prob(phi.detach()).mean(), list(flow.parameters()))
    for name, one, whole, score in zip(names, by_path, total, fixed, strict=True):
        torch.testing.assert_close(one, whole - score, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: n + m)


def test_it_computes_in_single_precision():
    flow = hierarchy().float()
    phi, log_q = flow.sample_and_log_prob(4, generator=rng())
    assert (phi.dtype, log_q.dtype) == (torch.float32, torch.float32)
    assert float((flow.log_prob(phi) - log_q).detach().abs().max()) < 1e-3


# --- levels -------------------------------------------------------------------------------------------


def test_one_level_is_the_flow_itself():
    flow = hierarchy(n_levels=1)
    level = flow.levels[0]
    phi = configurations(level.lattice)
    torch.testing.assert_close(flow.log_prob(phi), level.log_prob(phi))
    assert flow.group == level.group
    assert len(flow.coarsen(phi)) == 1


def test_coarsening_returns_the_fields_that_the_levels_drew():
    flow = hierarchy((8, 8), n_levels=3)
    z = configurations(flow.lattice)
    fine, coarse, coarsest = flow.coarsen(flow.transform_and_log_det(z)[0])
    below = MultiscaleFlow.from_levels(list(flow.levels)[:2])
    down = flow._blockings[2].restrict(z)
    torch.testing.assert_close(coarse, below.transform_and_log_det(down)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(coarsest, below.coarsen(coarse)[1], rtol=0, atol=1e-5)
    assert [tuple(field.shape) for field in (fine, coarse, coarsest)] == [(3, 8, 8), (3, 4, 4), (3, 2, 2)]


def test_a_new_level_leaves_the_coarse_fields_as_they_are():
    flow = hierarchy()
    finer = flow.refined()
    assert (finer.lattice.shape, len(finer.levels)) == ((8, 8), 3)
    assert str(finer.group) == "translations by 4 x D4 x Z2"
    z = configurations(finer.lattice)
    coarse = finer.coarsen(finer.transform_and_log_det(z)[0])[1]
    expected = flow.transform_and_log_det(finer._blockings[-1].restrict(z))[0]
    torch.testing.assert_close(coarse, expected, rtol=0, atol=1e-5)
    assert all(one is not other for one, other in zip(flow.levels, finer.levels, strict=False))
    expected = flow.levels[-1].resized(finer.lattice).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in finer.levels[-1].state_dict().items())


def test_every_level_is_carried_over_to_another_lattice():
    flow = hierarchy((8, 4), n_levels=2)
    larger = flow.resized(Lattice((16, 8)))
    assert [level.lattice.shape for level in larger.levels] == [(8, 4), (16, 8)]
    assert (larger.group.step, larger.solver) == (2, flow.solver)
    for mine, theirs in zip(flow.levels, larger.levels, strict=True):
        expected = mine.resized(theirs.lattice)
        for one, other in zip(expected.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)
    same = flow.resized(flow.lattice)
    phi = configurations(flow.lattice)
    torch.testing.assert_close(same.log_prob(phi), flow.log_prob(phi))
    with pytest.raises(ValueError, match="needs even sides"):
        flow.resized(Lattice((5, 4)))


def test_it_trains_more_slowly_than_its_finest_level():
    flow = hierarchy()
    assert flow.learning_rate == flow.levels[-1].learning_rate / 4
    assert flow.training_steps == flow.levels[-1].training_steps
    assert flow.training_batch_size == flow.levels[-1].training_batch_size


def test_the_second_level_starts_as_white_noise_passed_on():
    flow = MultiscaleFlow(Lattice((4, 4)), n_levels=1).refined()
    spectrum = flow.levels[1].prior.mode_variance().detach()
    assert float(spectrum[0, 0]) == pytest.approx(1.0)
    assert float(spectrum[4, 4]) == pytest.approx(1 / 18)
    phi = configurations(flow.lattice)
    assert not bool(flow.levels[1].vector_field.velocity(phi, 0.5).any())


def test_the_fields_of_all_levels_are_made_by_a_function(tmp_path):
    lattice = Lattice((8, 8))
    flow = MultiscaleFlow(
        lattice,
        point="rotations",
        n_levels=3,
        vector_field=lambda group: PotentialField(group.lattice, group=group, n_ridges=5),
    )
    shapes = [(field.lattice.shape[0], len(field.ridges.omega)) for field in flow.vector_fields]
    assert shapes == [(2, 5), (4, 5), (8, 5)]
    assert {field.group.point for field in flow.vector_fields} == {"rotations"}
    flow.save(tmp_path / "flow.pt")
    again = MultiscaleFlow.load(tmp_path / "flow.pt")
    assert {len(field.ridges.omega) for field in again.vector_fields} == {5}
    assert {len(field.ridges.omega) for field in MultiscaleFlow(lattice).vector_fields} == {16}


def test_levels_below_can_be_held_fixed_while_the_finest_is_trained():
    flow = hierarchy()
    before = copy.deepcopy(flow.state_dict())
    flow.levels[:-1].requires_grad_(False)
    fit(flow, ACTION, steps=3, batch_size=8, progress=False)
    moved = {
        name.split(".")[1]
        for name, value in flow.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"1"}


def test_training_all_levels_together_finds_the_target():
    flow, action = MultiscaleFlow(Lattice((4, 4))), ContinuousIsing(Lattice((4, 4)), 6.0)
    fit(flow, action, steps=60, learning_rate=0.04, progress=False)
    ensemble = importance_sample(flow, action, 512, certify=0, generator=rng())
    # From 0.002; other seeds give 0.86 to 0.88.
    assert ensemble.effective_sample_size().mean > 0.75
    assert abs(ensemble.log_z().sigmas_from(Estimate(ising_torus(action).log_z, 0.0))) < 4


def test_maximum_likelihood_trains_it_by_any_solver():
    flow = hierarchy()
    samples = configurations(flow.lattice, n=16)
    coarse = flow.log_prob_to_train(samples, solver=Solver("rk4", steps=2))
    torch.testing.assert_close(coarse[0], flow.log_prob(samples), rtol=1e-2, atol=1e-1)
    assert coarse[1] == 2 * 8
    before = float(flow.log_prob(samples).mean().detach())
    fit(flow, ACTION, objective=ForwardKL(samples), steps=10, batch_size=16, progress=False)
    assert float(flow.log_prob(samples).mean().detach()) > before


def test_the_solver_of_all_levels_is_tuned_and_certified():
    flow = hierarchy()
    flow.solver = Solver("rk4", steps=1)
    rough = flow.certificate(16, action=ACTION, generator=rng())
    choice = flow.tune_solver(1e-4, action=ACTION, n_samples=16, generator=rng())
    assert flow.solver == choice.solver
    fine = flow.certificate(16, action=ACTION, generator=rng())
    assert abs(fine.log_z_shift) < 1e-4 < rough.max_log_q_error
    assert (rough.nfe, fine.nfe) == (2 * 4, choice.nfe)


def test_the_certificate_sees_the_error_of_a_coarse_level():
    flow = hierarchy(scale=0.0)
    randomise(flow.levels[0], scale=0.4)
    flow.solver = Solver("rk4", steps=1)
    assert flow.certificate(16, action=ACTION, generator=rng()).max_log_q_error > 1e-3


@pytest.mark.parametrize("prior", [FreeField, StandardNormal])
def test_the_determinant_of_a_spectrum(prior):
    made = prior(Lattice((3, 2)))
    randomise(made)
    unit = torch.eye(6).reshape(6, 3, 2)
    expected = torch.linalg.slogdet(made.colour(unit).flatten(1)).logabsdet
    torch.testing.assert_close(log_det_of(made), expected)


# --- files and errors ---------------------------------------------------------------------------------


def test_it_is_saved_and_loaded(tmp_path):
    flow = hierarchy(z2=False)
    flow.about = {"target": "test"}
    flow.save(tmp_path / "flow.pt")
    loaded = Flow.load(tmp_path / "flow.pt")
    assert isinstance(loaded, MultiscaleFlow)
    assert (loaded.group, loaded.solver, loaded.about) == (flow.group, flow.solver, flow.about)
    z = configurations(flow.lattice)
    for mine, theirs in zip(flow.transform_and_log_det(z), loaded.transform_and_log_det(z), strict=True):
        assert torch.equal(mine, theirs)
    given = list(hierarchy(z2=False, seed=5).levels)
    by_hand = MultiscaleFlow.load(tmp_path / "flow.pt", levels=given)
    assert by_hand.levels[0] is given[0]
    assert torch.equal(by_hand.log_prob(z), flow.log_prob(z))
    with pytest.raises(CheckpointError, match="MultiscaleFlow"):
        EquivariantCNF.load(tmp_path / "flow.pt")


def test_it_says_what_it_is():
    text = repr(hierarchy((8, 8), n_levels=3))
    assert "lattice=(8, 8), group=translations by 4 x D4 x Z2, solver=rk5(steps=16)" in text
    assert "lattice=(2, 2)" in text


def test_sides_are_halved_down_to_four():
    shapes = {
        (16, 16): [(4, 4), (8, 8), (16, 16)],
        (4, 4): [(2, 2), (4, 4)],
        (12, 6): [(6, 3), (12, 6)],
        (2,): [(1,), (2,)],
    }
    for shape, expected in shapes.items():
        flow = MultiscaleFlow(Lattice(shape))
        assert [level.lattice.shape for level in flow.levels] == expected
    assert len(MultiscaleFlow(Lattice((8, 8)), n_levels=4).levels) == 4


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MultiscaleFlow(Lattice((15, 15))), ValueError, r"needs even sides, got lattice \(15, 15\)"),
        (lambda: MultiscaleFlow(Lattice((12, 12)), n_levels=4), ValueError, r"got lattice \(3, 3\)"),
        (lambda: MultiscaleFlow(Lattice((4, 4)), n_levels=0), ValueError, "n_levels"),
        (lambda: MultiscaleFlow((4, 4)), TypeError, "Lattice"),
        (
            lambda: MultiscaleFlow(Lattice((4, 4)), vector_field=PotentialField(Lattice((4, 4)))),
            TypeError,
            "must make a field for each level",
        ),
        (
            lambda: MultiscaleFlow(
                Lattice((4, 4)), z2=False, vector_field=lambda group: PotentialField(group.lattice)
            ),
            ValueError,
            "The vector field has the group translations x D4 x Z2, got group=translations x D4",
        ),
        (lambda: MultiscaleFlow.from_levels([]), ValueError, "at least one level"),
        (lambda: MultiscaleFlow.from_levels([PotentialField(Lattice((2, 2)))]), TypeError, "EquivariantCNF"),
        (
            lambda: MultiscaleFlow.from_levels([EquivariantCNF(Lattice((s, s))) for s in (4, 2)]),
            ValueError,
            "twice as long",
        ),
        (
            lambda: MultiscaleFlow.from_levels(
                [
                    EquivariantCNF(on, group=SymmetryGroup(on, z2=on.volume > 4))
                    for on in (Lattice((2, 2)), Lattice((4, 4)))
                ]
            ),
            ValueError,
            "one group, got translations x D4 and translations x D4 x Z2",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_prior_is_white_noise():
    flow = hierarchy()
    z = configurations(flow.lattice)
    expected = -0.5 * (z.square() + LOG_2PI).flatten(1).sum(1)
    torch.testing.assert_close(flow.prior.log_prob(z), expected)
