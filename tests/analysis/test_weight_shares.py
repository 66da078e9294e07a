"""What explains the variance of log weights: planted reasons are found in their size, and noise is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from equiflow import (
    HMC,
    Angles,
    Ensemble,
    EquivariantCNF,
    ExternalField,
    FreeScalar,
    Lattice,
    Multiplet,
    Phi4,
    Solver,
    annealed_importance_sample,
    importance_sample,
)
from equiflow.analysis import diagnose, explain_weights, samples_to_explain
from equiflow.analysis.local_operators import N_NODES, OperatorGroups
from equiflow.analysis.weight_shares import explained_share
from equiflow.statistics import Estimate
from equiflow.testing import randomise

SQUARE = Lattice((4, 4))
NAMES = [
    *("zero mode", "lowest momenta", "all momenta", "powers of phi", "function of phi", "neighbours"),
    *("function of phi and neighbours", "second neighbours", "all together"),
]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fields(lattice: Lattice = SQUARE, n: int = 4000, seed: int = 0) -> Tensor:
    """Return fields whose neighbours are correlated, with <phi^2> near 1."""
    phi = torch.randn(n, *lattice.shape, generator=rng(seed), dtype=torch.float64)
    return (phi + sum(phi.roll(1, axis) for axis in lattice.axes)) / (1 + lattice.dim) ** 0.5


def ensemble(phi: Tensor, log_weight: Tensor, space: object = SQUARE) -> Ensemble:
    return Ensemble(phi, torch.zeros_like(log_weight), log_weight, space=space)


def noise(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, generator=rng(seed), dtype=torch.float64)


def planted(signal: Tensor, share: float) -> Tensor:
    """Return the signal with noise, so that its share of the variance is what is given."""
    return signal + noise(len(signal)) * signal.std() * (1 / share - 1) ** 0.5


def total(density: Tensor) -> Tensor:
    return density.flatten(1).sum(1)


def lowest_shell(phi: Tensor) -> Tensor:
    power = torch.fft.fft2(phi).abs().square()
    return power[:, 1, 0] + power[:, 0, 1]


def test_noise_is_explained_by_nothing():
    for seed in range(4):
        phi = fields(seed=seed)
        found = explain_weights(ensemble(phi, 3 + 2 * noise(len(phi), 10 + seed)), z2=True)
        assert list(found.shares) == NAMES
        for name, share in found.shares.items():
            assert abs(share.mean) < 0.01, name
            assert abs(share.sigmas_from(0.0)) < 5, name
            assert 0 < share.error < 0.01
        assert found.not_explained.mean == 1 - found.shares["all together"].mean
        assert abs(found.variance.sigmas_from(4.0)) < 4
        assert found.variance_per_site.mean == pytest.approx(found.variance.mean / 16, rel=1e-12)
        assert found.variance_per_site.error == pytest.approx(found.variance.error / 16, rel=1e-12)
        # The counter-example: on the samples that were fitted to, even noise seems to be explained.
        operators = torch.cat(list(OperatorGroups.of(phi, SQUARE, z2=True).evaluate(phi).values()), 1)
        y = noise(len(phi), 10 + seed)[:, None]
        columns = operators - operators.mean(0)
        rest = y - columns @ torch.linalg.lstsq(columns, y, driver="gelsd").solution
        assert 1 - float(rest.var() / y.var()) > 0.03


def test_noise_that_grows_with_the_fields_is_explained_by_nothing():
    # Rare fields have both the largest noise and the most influence on a fit.
    for seed in range(3):
        phi = fields(seed=seed)
        found = explain_weights(ensemble(phi, noise(len(phi), 10 + seed) * total(phi**4)), z2=True)
        for name, share in found.shares.items():
            assert abs(share.mean) < 0.03, name
            assert abs(share.sigmas_from(0.0)) < 5, name


def test_a_rare_field_does_not_hide_what_explains_all_others():
    phi = fields()
    values = total(torch.cos(phi))
    found = explain_weights(ensemble(phi, values), z2=True).shares
    phi[7], values[7] = 6 * phi[7], values.mean()
    again = explain_weights(ensemble(phi, values), z2=True).shares
    for name in ("powers of phi", "function of phi", "all together"):
        assert found[name].mean > 0.95
        assert again[name].mean > 0.9


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize(
    ("groups", "signal"),
    [
        ({"zero mode"}, lambda phi: phi.mean((1, 2)) ** 4),
        ({"powers of phi", "function of phi"}, lambda phi: 0.1 * total(phi**4)),
        ({"lowest momenta", "all momenta"}, lambda phi: lowest_shell(phi)),
        ({"neighbours"}, lambda phi: total((phi - phi.roll(-1, 1)) ** 2 + (phi - phi.roll(-1, 2)) ** 2)),
        (
            {"second neighbours"},
            lambda phi: total((phi * phi.roll((1, 1), (1, 2))) ** 2 + (phi * phi.roll((1, -1), (1, 2))) ** 2),
        ),
    ],
    ids=["M^4", "phi^4", "lowest shell", "kinetic", "diagonal"],
)
def test_a_planted_reason_has_its_share(groups, signal, share):
    phi = fields()
    found = explain_weights(ensemble(phi, planted(signal(phi), share)), z2=True).shares
    for name in groups:
        assert abs(found[name].sigmas_from(share)) < 4, name
        assert found[name].error < 0.05
    # All together have to pay for their number, but not much.
    assert -0.06 < found["all together"].mean - share < 4 * found["all together"].error
    # The counter-example: M says little of the short distances.
    assert "zero mode" in groups or found["zero mode"].mean < share / 2


def test_a_function_of_one_site_without_a_formula_is_found_by_hats_alone():
    phi = fields()
    found = explain_weights(ensemble(phi, total(torch.sin(9 * phi.abs()))), z2=True).shares
    assert found["function of phi"].mean > 0.95
    assert found["all together"].mean > 0.95
    for name in ("zero mode", "all momenta", "powers of phi", "neighbours", "second neighbours"):
        assert found[name].mean < 0.15, name


def test_a_joint_function_of_a_site_and_its_neighbours_is_found_by_no_other_group():
    phi = fields()
    around = sum(phi.roll(step, axis) for axis in (1, 2) for step in (1, -1)) / 4
    values = total(torch.sin(3 * phi.abs()) * torch.cos(3 * around))
    found = explain_weights(ensemble(phi, values), z2=True).shares
    assert found.pop("function of phi and neighbours").mean > 0.97
    assert found.pop("all together").mean > 0.97
    assert max(share.mean for share in found.values()) < 0.5


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("zero mode", lambda phi: phi.mean((1, 2)) ** 3),
        ("powers of phi", lambda phi: total(phi**3)),
        ("function of phi", lambda phi: total(torch.sin(6 * phi))),
        (
            "function of phi and neighbours",
            lambda phi: total(
                phi.square() * (phi.roll(1, 1) + phi.roll(-1, 1) + phi.roll(1, 2) + phi.roll(-1, 2))
            ),
        ),
    ],
    ids=["M^3", "phi^3", "sin", "neighbours"],
)
def test_odd_reasons_need_odd_operators(name, signal):
    phi = 2 * torch.tanh(fields(n=samples_to_explain(SQUARE)) / 2)
    one = ensemble(phi, signal(phi))
    odd, even = explain_weights(one).shares, explain_weights(one, z2=True).shares
    assert odd[name].mean > 0.97
    assert odd["all together"].mean > 0.97
    assert all(abs(share.mean) < 0.01 for share in even.values())


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (4, 2), (3, 2, 2), (2, 2, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shares_are_found_in_any_dimension_and_precision(shape, dtype):
    lattice = Lattice(shape)
    phi = fields(lattice, samples_to_explain(lattice, z2=True)).to(dtype)
    found = explain_weights(ensemble(phi, planted(total(phi.double() ** 4), 0.6).to(dtype), lattice), z2=True)
    for name in ("powers of phi", "function of phi"):
        assert abs(found.shares[name].sigmas_from(0.6)) < 4
    assert str(found).splitlines()[-1] == f"not explained{' ' * 32}{found.not_explained}"


def test_shares_do_not_know_where_a_field_lies():
    lattice = Lattice((4, 6))
    phi = fields(lattice)
    values = planted(total(phi**4) + phi.mean((1, 2)) ** 2, 0.5)
    found = explain_weights(ensemble(phi, values, lattice), z2=True)
    moved = {
        "translated": phi.roll((1, 2), (1, 2)),
        "each by its own step": torch.stack([one.roll(n % 6, 1) for n, one in enumerate(phi)]),
        "reflected": phi.flip(1),
        "negative": -phi,
    }
    for name, other in moved.items():
        again = explain_weights(ensemble(other, values, lattice), z2=True)
        for group, share in again.shares.items():
            assert share.mean == pytest.approx(found.shares[group].mean, abs=1e-6), (name, group)
    # Another order of the samples makes other halves.
    order = torch.randperm(len(phi), generator=rng(3))
    shuffled = explain_weights(ensemble(phi[order], values[order], lattice), z2=True)
    for group, share in shuffled.shares.items():
        assert abs(share.mean - found.shares[group].mean) < share.error
    # The counter-example: weights that belong to other fields.
    strangers = explain_weights(ensemble(phi[order], values, lattice), z2=True)
    assert abs(strangers.shares["powers of phi"].sigmas_from(0.0)) < 5
    assert found.shares["powers of phi"].mean > 0.2


def test_units_of_phi_and_a_constant_of_log_w_change_nothing():
    phi = fields()
    values = planted(total(phi.abs()), 0.5)
    one = explain_weights(ensemble(phi, values), z2=True).shares
    other = explain_weights(ensemble(1e-3 * phi, 7.0 - 3 * values), z2=True).shares
    for name, share in one.items():
        assert other[name].mean == pytest.approx(share.mean, abs=1e-5), name


def test_heavy_tails_and_skewness_are_those_of_known_distributions():
    n = 10000
    phi = torch.zeros(n, 1, dtype=torch.float64)
    gauss = noise(n)
    exponential = -torch.rand(n, generator=rng(2), dtype=torch.float64).clamp(min=1e-300).log()
    for values, skewness, extremes in (
        (gauss, 0.0, 0.08465),
        (exponential, 2.0, 0.22208),
        (-exponential, -2.0, 0.22208),
    ):
        found = explain_weights(ensemble(phi, values, Lattice((1,))), z2=True)
        assert abs(found.skewness.sigmas_from(skewness)) < 4
        assert abs(found.extremes.sigmas_from(extremes)) < 4
        assert found.skewness.error < 0.2
        assert found.extremes.error < 0.02


def test_errors_of_shares_cover_them():
    # <phi_x phi_y> is 1 at x = y and 1/3 at six other distances: Var sum phi^2 = 2 * 16 * (1 + 6 / 9).
    variance, of_noise = 2 * 16 * 5 / 3, 32.0
    sigmas = []
    for seed in range(30):
        phi = fields(n=1000, seed=seed)
        operators = OperatorGroups.of(phi, SQUARE, z2=True).evaluate(phi)["powers of phi"]
        values = total(phi**2) + of_noise**0.5 * noise(1000, 100 + seed)
        sigmas.append(explained_share(operators, values).sigmas_from(variance / (variance + of_noise)))
    assert 0.6 < float(torch.tensor(sigmas).square().mean().sqrt()) < 1.5


def test_many_operators_earn_nothing_by_their_number():
    generator = rng(4)
    n, k, share = 1000, 100, 0.5
    operators = torch.randn(n, k, generator=generator, dtype=torch.float64)
    signal = operators @ torch.randn(k, generator=generator, dtype=torch.float64)
    found = explained_share(operators, planted(signal, share))
    # Without a ridge it is 1 - (1 - share) (1 + k / (n / 2 - k - 1)) = 0.375 on the other half, and
    # 1 - (1 - share) (1 - 2 k / n) = 0.6 on the half that was fitted to.
    assert 0.33 < found.mean < share
    assert found.error < 0.05


def test_weights_of_zero_are_left_out_and_counted():
    phi = fields(n=4100)
    values = planted(total(phi**4), 0.5)
    values[::41] = -torch.inf
    found = explain_weights(ensemble(phi, values), z2=True)
    assert found.left_out == 100
    kept = values.isfinite()
    alone = explain_weights(ensemble(phi[kept], values[kept]), z2=True)
    assert found.shares == alone.shares
    assert str(found).splitlines()[-1].split() == ["left", "out,", "of", "weight", "zero", "100"]
    assert "left out" not in str(alone)


def test_equal_weights_are_explained_by_nothing():
    phi = fields()
    found = explain_weights(ensemble(phi, torch.full((len(phi),), 2.5, dtype=torch.float64)), z2=True)
    assert found.variance == Estimate(0.0, 0.0)
    assert found.skewness.mean == found.extremes.mean == 0.0
    assert all(share.mean == 0.0 for share in found.shares.values())


def test_what_cannot_be_explained_is_refused_in_words():
    phi = fields()
    one = ensemble(phi, noise(len(phi)))
    needed = samples_to_explain(SQUARE, z2=True)
    assert needed < 4000 < samples_to_explain(SQUARE) < 2 * needed
    few = ensemble(phi[: needed - 1], one.log_weight[: needed - 1])
    for wrong, options, error, message in [
        (phi, {}, TypeError, "ensemble must be of type Ensemble"),
        (one, {"z2": 1}, TypeError, "z2 must be of type bool"),
        (one, {}, ValueError, r"has 4000 samples.* z2=True if"),
        (few, {"z2": True}, ValueError, f"{needed - 1} samples with a weight; expected at least {needed}"),
        (replace(one, space=Angles(SQUARE)), {}, TypeError, "expected scalar fields on a Lattice"),
        (replace(one, space=Multiplet(Lattice((4,)), 4)), {}, TypeError, "expected scalar fields"),
        (replace(one, space=Lattice((4, 5))), {}, ValueError, r"shape \(4, 4\), expected those of"),
        (replace(one, annealed=True), {}, ValueError, "annealed"),
        (replace(one, log_weight=one.log_weight * torch.nan), {}, ValueError, "NaN or"),
    ]:
        with pytest.raises(error, match=message):
            explain_weights(wrong, **options)
    # Nothing but the shape says that these are scalar fields, and it suffices.
    assert explain_weights(replace(one, space=None), z2=True).shares == explain_weights(one, z2=True).shares


def test_annealed_ensembles_are_refused():
    flow = EquivariantCNF(SQUARE, solver=Solver("rk4", steps=1))
    drawn = annealed_importance_sample(
        flow, FreeScalar(SQUARE, m2=1.0), 8, betas=2, certify=0, generator=rng()
    )
    with pytest.raises(ValueError, match="annealed"):
        explain_weights(drawn, z2=True)


def test_hats_sum_up_to_any_piecewise_linear_function():
    phi = fields(n=50)
    groups = OperatorGroups(SQUARE, 2.0, 1.0, z2=True)
    hats = groups._function(phi)
    nodes = torch.linspace(0, 2, N_NODES, dtype=torch.float64)
    torch.testing.assert_close(hats.sum(1), torch.full((50,), 16.0, dtype=torch.float64))
    torch.testing.assert_close(hats @ nodes, total(phi.abs()))  # beyond the last node too
    joint = groups._joint_function(phi)
    torch.testing.assert_close(joint.sum(1), torch.full((50,), 16.0, dtype=torch.float64))
    around = sum(phi.roll(step, axis) for axis in (1, 2) for step in (1, -1)) / 4
    own, other = torch.linspace(0, 2, 12).double(), torch.linspace(-1, 1, 12).double()
    torch.testing.assert_close(joint @ torch.outer(own, other).flatten(), total(phi * around))


def test_batches_change_nothing(monkeypatch):
    phi = fields(n=300)
    groups = OperatorGroups.of(phi, SQUARE, z2=False)
    whole = groups.evaluate(phi)
    monkeypatch.setattr("equiflow.analysis.local_operators.SITES_PER_BATCH", 16 * 7)
    for name, columns in groups.evaluate(phi).items():
        torch.testing.assert_close(columns, whole[name], rtol=1e-12, atol=1e-12)


def test_many_shells_are_taken_together_but_for_the_lowest():
    lattice = Lattice((24, 24))
    phi = fields(lattice, 20)
    shells = OperatorGroups.of(phi, lattice, z2=True)._shells(phi)
    power = torch.fft.fft2(phi).abs().square()
    assert shells.shape[1] <= 32
    torch.testing.assert_close(shells.sum(1), power.flatten(1).sum(1) - power[:, 0, 0])
    axes = power[:, 1, 0] + power[:, -1, 0] + power[:, 0, 1] + power[:, 0, -1]
    torch.testing.assert_close(shells[:, 0], axes)
    torch.testing.assert_close(shells[:, 1], sum(power[:, a, b] for a in (1, -1) for b in (1, -1)))


def diagnosed(flow: EquivariantCNF, action: Phi4 | ExternalField, n: int = 4000, **options: object):
    drawn = importance_sample(flow, action, n, certify=0, generator=rng(1))
    chain = HMC(action, step_size=0.1).sample(8, n_chains=8, n_thermalisation=20, generator=rng(2))
    return diagnose(flow, action, drawn, chain, **options), drawn


@pytest.fixture(scope="module")
def flow() -> EquivariantCNF:
    flow = EquivariantCNF(SQUARE, solver=Solver("rk4", steps=1)).double()
    randomise(flow, scale=0.02, seed=0)
    return flow


def test_a_diagnosis_shows_what_explains_the_weights(flow):
    action = Phi4(SQUARE, m2=1.0, lam=0.5)
    found, drawn = diagnosed(flow, action)
    assert found.shares == explain_weights(drawn, z2=True)
    # The prior knows nothing of phi^4, and the field is nearly zero.
    assert found.shares.shares["powers of phi"].mean > 0.5
    assert f"\n\n{found.shares}" in str(found)
    plain, _ = diagnosed(flow, action, explain=False)
    assert plain.shares is None
    assert replace(found, shares=None) == plain
    assert "explained" not in str(plain)


def test_a_diagnosis_without_enough_samples_shows_none(flow):
    action = Phi4(SQUARE, m2=1.0, lam=0.5)
    assert diagnosed(flow, action, 1000)[0].shares is None
    # Without Z2 twice as many are needed.
    tilted = ExternalField(action, h=0.3)
    assert diagnosed(flow, tilted)[0].shares is None
    found, drawn = diagnosed(flow, tilted, samples_to_explain(SQUARE))
    assert found.shares == explain_weights(drawn)
    even = explain_weights(drawn, z2=True)
    assert found.shares.shares["zero mode"].mean > even.shares["zero mode"].mean + 0.1
