"""log Z in three ways against the transfer matrix, each with a mistake that the tests see."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from equiflow import (
    HMC,
    ActionFamily,
    Chain,
    ConditionalFlow,
    EquivariantCNF,
    Estimate,
    FreeField,
    FreeScalar,
    Lattice,
    OrbitConvField,
    Phi4,
    Solver,
    fit,
    importance_sample,
    log_z_along,
    log_z_bridge,
)
from equiflow.analysis.free_energy import clenshaw_curtis
from equiflow.oracles import transfer_matrix
from tests.support.oracles import free_samples

LATTICE = Lattice((3, 3))
FAMILY = ActionFamily(Phi4, LATTICE, m2=(-4.0, -3.0), lam=(6.0, 8.0))
START, END = {"m2": -4.0, "lam": 6.0}, {"m2": -3.0, "lam": 8.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def exact() -> tuple[float, float]:
    return tuple(transfer_matrix(FAMILY.at(**couplings)).log_z for couplings in (START, END))


@pytest.fixture(scope="module")
def conditional() -> ConditionalFlow:
    field = OrbitConvField(LATTICE, n_frequencies=4, n_time_modes=3, max_frequency=4.0)
    template = EquivariantCNF(
        LATTICE, vector_field=field, prior=FreeField(LATTICE, m2=4.0), solver=Solver("rk5", steps=8)
    )
    conditional = ConditionalFlow(template.double(), FAMILY.couplings, degree=1)
    fit(conditional, FAMILY, steps=40, batch_size=96, progress=False)
    return conditional


def test_weights_and_bridge_agree_with_the_transfer_matrix(conditional, exact):
    action, flow = FAMILY.at(**START), conditional.at(**START)
    ensemble = importance_sample(flow, action, 4000, generator=generator())
    chain = HMC(action).sample(60, n_chains=32, n_thermalisation=100, generator=generator(1))
    weights, bridge = ensemble.log_z(), log_z_bridge(flow, action, ensemble, chain)
    assert ensemble.effective_sample_size().mean > 0.4
    for estimate in (weights, bridge):
        assert abs(estimate.sigmas_from(exact[0])) < 4
        assert estimate.error < 0.02
    assert bridge.systematic == weights.systematic
    # The counter-example: a chain of another theory.
    other = HMC(FAMILY.at(**END)).sample(60, n_chains=32, n_thermalisation=100, generator=generator(1))
    assert abs(log_z_bridge(flow, action, ensemble, other).sigmas_from(exact[0])) > 10


def test_integrals_along_a_conditional_flow_and_chains_agree_with_the_transfer_matrix(conditional, exact):
    truth, noise = exact[1] - exact[0], generator()

    def of_flow(**couplings: float):
        return importance_sample(conditional.at(**couplings), FAMILY.at(**couplings), 1500, generator=noise)

    def of_chain(**couplings: float):
        return HMC(FAMILY.at(**couplings)).sample(
            30, n_chains=32, n_thermalisation=60, initial=torch.zeros(32, 3, 3).double(), generator=noise
        )

    for source in (of_flow, of_chain):
        integral = log_z_along(source, FAMILY, START, END, n_points=5)
        assert abs(integral.change.sigmas_from(truth)) < 4
        assert integral.change.error < 0.02 * abs(truth)
        assert integral.couplings[0] == START
        assert integral.couplings[-1] == END
        back = log_z_along(source, FAMILY, END, START, n_points=3)
        assert abs(back.change.sigmas_from(-truth)) < 4
        # The counter-example: d log Z / dc = -<dS/dc>, not +.
        assert abs(integral.change.sigmas_from(-truth)) > 50


def free_source(n: int, seed: int):
    """Return a source of independent samples of free fields, with another seed at each call."""
    calls = iter(range(1000))

    def source(m2: float) -> Chain:
        phi = free_samples(FreeScalar(LATTICE, m2=m2), n, seed=1000 * seed + next(calls))
        return Chain(phi[:, None], torch.ones(n, 1))

    return source


FREE = ActionFamily(FreeScalar, LATTICE, m2=(0.5, 2.0))


def free_change() -> float:
    return FREE.at(m2=2.0).log_z() - FREE.at(m2=0.5).log_z()


def test_the_error_of_an_integral_is_that_of_its_points():
    integrals = [
        log_z_along(free_source(200, seed), FREE, {"m2": 0.5}, {"m2": 2.0}, n_points=5).change
        for seed in range(60)
    ]
    pulls = torch.tensor([integral.sigmas_from(free_change()) for integral in integrals])
    assert abs(float(pulls.mean())) < 4 / math.sqrt(60)
    assert 0.75 < float(pulls.std()) < 1.3


def test_too_few_points_are_seen_in_every_second_one():
    def source(m2: float) -> Chain:
        """Return fields with the exact `<sum phi^2>` of the free field, almost without noise."""
        square = float(FREE.at(m2=m2).mode_variance().mean())
        phi = torch.full((100, 1, 3, 3), math.sqrt(square), dtype=torch.float64)
        noise = torch.randn(100, 1, 1, 1, generator=generator()).double()
        return Chain(phi * (1 + 1e-12 * noise), torch.ones(100, 1))

    errors, gaps = [], []
    for n_points in (3, 5, 9, 17):
        integral = log_z_along(source, FREE, {"m2": 0.5}, {"m2": 2.0}, n_points=n_points)
        errors.append(abs(integral.change.mean - free_change()))
        gaps.append(abs(integral.change.mean - integral.coarse.mean))
    assert errors[-1] < 1e-9
    # The gap between both rules shows the error of the coarse one, which bounds the error of the fine one.
    assert all(error < 0.5 * gap for error, gap in zip(errors[:3], gaps[:3], strict=True))
    assert all(later < 0.2 * earlier for earlier, later in itertools.pairwise(errors))


def test_rounding_does_not_leave_the_range_of_the_couplings():
    family = ActionFamily(Phi4, LATTICE, m2=(-4.0, -3.1), lam=(6.0, 9.0))
    start, end = {"m2": -3.1, "lam": 6.0}, {"m2": -3.1, "lam": 9.0}
    noise = torch.randn(8, 1, 3, 3, generator=generator()).double()
    for n_points in (3, 5, 9, 17):
        integral = log_z_along(
            lambda **_: Chain(noise, torch.ones(8, 1)), family, start, end, n_points=n_points
        )
        assert {point["m2"] for point in integral.couplings} == {-3.1}
        assert [integral.couplings[0], integral.couplings[-1]] == [start, end]


def test_solver_errors_of_the_points_add_up():
    def source(m2: float):
        class Known:
            @staticmethod
            def mean(observable):
                return Estimate(1.0, 0.1, systematic=0.01)

        return Known()

    change = log_z_along(source, FREE, {"m2": 0.5}, {"m2": 2.0}, n_points=5).change
    assert change.systematic == pytest.approx(0.01)
    assert change.mean == pytest.approx(1.0)
    assert 0.1 / math.sqrt(5) < change.error < 0.1


@pytest.mark.parametrize("n_points", [2, 3, 5, 8, 17])
def test_clenshaw_curtis_is_exact_for_polynomials(n_points):
    points, weights = clenshaw_curtis(n_points)
    for power in range(n_points):
        assert weights @ points**power == pytest.approx(1 / (power + 1), rel=1e-12)
    assert (weights > 0).all()
    assert np.all(np.diff(points) > 0)
    beyond = n_points + n_points % 2  # an odd rule gets the next odd power by symmetry
    assert n_points > 9 or weights @ points**beyond != pytest.approx(1 / (beyond + 1), rel=1e-13)


@pytest.mark.parametrize(
    ("end", "n_points", "message"),
    [
        ({"m2": 2.0}, 4, "odd"),
        ({"m2": 2.0}, 1, "n_points"),
        ({"m2": 3.0}, 5, "outside"),
        ({"lam": 2.0}, 5, "Expected a value"),
    ],
)
def test_paths_that_do_not_exist_are_refused(end, n_points, message):
    with pytest.raises(ValueError, match=message):
        log_z_along(free_source(10, 0), FREE, {"m2": 0.5}, end, n_points=n_points)
