"""Integration on groups: order, drift, inverse, log-determinants, scores and gradients."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from equiflow.ode.lie import Charts, integrate_on_group, inverse_dexp
from equiflow.ode.solver import Solver, SolverError
from equiflow.theories.gauge.groups import lie_group

FINE = Solver("rk5", steps=100)


def charts_of(name: str) -> Charts:
    """Return the charts of one element of a group, with velocities `(batch, generator)`."""
    lie = lie_group(name)
    t = lie.generators()
    commutators = torch.einsum("aij,bjk->abik", t, t) - torch.einsum("bij,ajk->abik", t, t)
    structure = -2 * torch.einsum("abij,cji->abc", commutators, t).real.contiguous()
    return Charts(
        move=lambda u, omega: lie.elements(lie.product(lie.exp(omega.T), lie.planes(u))),
        bracket=lambda v, w: torch.einsum("abc,na,nb->nc", structure, v, w),
        size=lambda omega: omega.norm(dim=1),
        tangent_shape=(lie.n_generators,),
    )


class Pull:
    """`v = grad Re tr(A(t) U) / N`, which does not commute with itself, and its divergence.

    With `sum_a T_a T_a = -(N^2 - 1) / (2N)` the divergence is `-(N^2 - 1) / (2N) Re tr(A U) / N`.
    """

    def __init__(self, name: str, strength: float = 1.0) -> None:
        self.lie = lie_group(name)
        n, generator = self.lie.n, torch.Generator().manual_seed(5)
        a = torch.randn(2, n, n, generator=generator, dtype=torch.complex128)
        self.a = torch.view_as_real(strength * n * a).requires_grad_()
        self.t = self.lie.generators()

    def matrix(self, t: torch.Tensor) -> torch.Tensor:
        a = torch.view_as_complex(self.a)
        return a[0] + torch.sin(3 * t) * a[1]

    def velocity_and_divergence(self, u: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n, pulled = self.lie.n, u @ self.matrix(t)
        velocity = torch.einsum("gij,bji->bg", self.t, pulled).real / n
        trace = torch.einsum("bii->b", pulled).real / n
        return velocity, -(n * n - 1) / (2 * n) * trace

    def rates(self, t, state):
        return self.velocity_and_divergence(state[0], t)

    def with_score(self, t, state):
        """`dg/dt = -(L v) g - L div + [v, g]`, by derivatives at `exp(omega) U`."""
        u, _, score = state
        with torch.enable_grad():
            omega = torch.zeros_like(score).requires_grad_()
            moved = charts_of(str(self.lie)).move(u.detach(), omega)
            velocity, divergence = self.velocity_and_divergence(moved, t)
            (gradient,) = torch.autograd.grad((velocity * score).sum() + divergence.sum(), omega)
        velocity, divergence = self.velocity_and_divergence(u, t)
        return velocity, divergence, self.lie.bracket(velocity.T, score.T).T - gradient


def start(name: str, n: int = 3) -> torch.Tensor:
    return lie_group(name).random((n,), torch.Generator().manual_seed(2))


def test_brackets_and_moves_are_those_of_the_group():
    lie, charts, u = lie_group("SU(3)"), charts_of("SU(3)"), start("SU(3)")
    v, w = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(charts.bracket(v, w), lie.bracket(v.T, w.T).T)
    matrices = torch.linalg.matrix_exp(torch.einsum("ng,gij->nij", v + 0j, lie.generators()))
    torch.testing.assert_close(charts.move(u, v), matrices @ u)


def solved(pull: Pull, u: torch.Tensor, solver: Solver, t0: float = 0.0, t1: float = 1.0):
    zeros = torch.zeros(len(u), dtype=torch.float64)
    charts = charts_of(str(pull.lie))
    return integrate_on_group(pull.rates, (u, zeros), t0, t1, solver, charts=charts, parameters=(pull.a,))


GROUPS = ["SU(2)", "SU(3)"]
EQUAL = [("rk4", 4), ("rk5", 5), ("midpoint", 2)]
CASES = [*(("SU(2)", *case) for case in EQUAL), ("SU(3)", "rk4", 4)]


@pytest.mark.parametrize(("name", "method", "order"), CASES)
@torch.no_grad()
def test_halving_the_step_shows_the_order(name, method, order):
    pull, u = Pull(name), start(name)
    exact = solved(pull, u, FINE).state
    errors = []
    for steps in (20, 40):
        found = solved(pull, u, Solver(method, steps=steps)).state
        errors.append([float((a - b).abs().max()) for a, b in zip(found, exact, strict=True)])
    for coarse, fine in zip(*errors, strict=True):
        assert fine > 1e-13
        assert order - 0.45 < math.log2(coarse / fine) < order + 1.3


@torch.no_grad()
def test_without_brackets_the_order_is_lost():
    pull, u, charts = Pull("SU(2)"), start("SU(2)"), charts_of("SU(2)")
    wrong = dataclasses.replace(charts, bracket=lambda v, w: torch.zeros_like(v))
    exact = solved(pull, u, FINE).state[0]
    errors = []
    for steps in (16, 32):
        state = (u, torch.zeros(3, dtype=torch.float64))
        found = integrate_on_group(pull.rates, state, 0.0, 1.0, Solver("rk4", steps=steps), charts=wrong)
        errors.append(float((found.state[0] - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) < 2.5


@pytest.mark.parametrize("name", GROUPS)
def test_the_series_is_the_inverse_of_the_derivative_of_the_exponential(name):
    """`d/ds exp(omega + s w) exp(-omega) = dexp_omega w` at s = 0."""
    charts, lie = charts_of(name), lie_group(name)
    generator = torch.Generator().manual_seed(0)
    omega, w = 0.05 * torch.randn(2, 3, lie.n_generators, generator=generator, dtype=torch.float64)
    unit = lie.elements(lie.identity((3,), omega))

    step = 1e-4
    slope = (charts.move(unit, omega + step * w) - charts.move(unit, omega - step * w)) / (2 * step)
    matrix = slope @ charts.move(unit, omega).mH
    velocity = -2 * torch.einsum("gij,bji->bg", lie.generators(), matrix).real
    torch.testing.assert_close(inverse_dexp(omega, velocity, charts.bracket, 6), w, rtol=0, atol=1e-7)
    assert (velocity - w).abs().max() > 1e-4


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
@torch.no_grad()
def test_adaptive_errors_follow_the_tolerance(method):
    pull, u = Pull("SU(2)", strength=2.0), start("SU(2)")
    exact = solved(pull, u, Solver("rk5", steps=100)).state
    errors, costs = [], []
    for tolerance in (1e-3, 1e-7):
        found = solved(pull, u, Solver(method, rtol=tolerance, atol=tolerance))
        errors.append(max(float((a - b).abs().max()) for a, b in zip(found.state, exact, strict=True)))
        costs.append(found.nfe)
    assert errors[0] < 1e-1
    assert errors[1] < 1e-5
    assert errors[1] < errors[0] / 10
    assert costs[1] > costs[0]


@pytest.mark.parametrize("name", GROUPS)
@torch.no_grad()
def test_configurations_stay_in_the_group_for_a_thousand_steps(name):
    pull, u = Pull(name, strength=3.0), start(name)
    final = solved(pull, u, Solver("midpoint", steps=1000)).state[0]
    assert float(lie_group(name).defect(final).max()) < 1e-12
    assert float((final - u).abs().max()) > 0.1


@torch.no_grad()
def test_a_method_in_flat_space_would_leave_the_group():
    from equiflow.ode.integrate import integrate

    pull, u = Pull("SU(2)"), start("SU(2)")

    def flat(t, state):
        matrix = torch.view_as_complex(state[0])
        velocity = pull.velocity_and_divergence(matrix, t)[0]
        return (torch.view_as_real(torch.einsum("bg,gij->bij", velocity + 0j, pull.t) @ matrix),)

    final = integrate(flat, (torch.view_as_real(u),), 0.0, 1.0, Solver("rk4", steps=20)).state[0]
    assert float(lie_group("SU(2)").defect(torch.view_as_complex(final)).max()) > 1e-9


@pytest.mark.parametrize("solver", [Solver("rk5", steps=30), Solver("dopri5", rtol=1e-8, atol=1e-8)])
@torch.no_grad()
def test_back_and_forth_is_the_identity(solver):
    pull, u = Pull("SU(2)"), start("SU(2)")
    there = solved(pull, u, solver)
    back = solved(pull, there.state[0], solver, 1.0, 0.0)
    torch.testing.assert_close(back.state[0], u, rtol=0, atol=1e-5)
    torch.testing.assert_close(back.state[1], -there.state[1], rtol=0, atol=1e-5)


def pushed(pull: Pull, u: torch.Tensor, solver: Solver) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the end of a solve and the dense Jacobian, both sides in coordinates of the algebra."""
    charts = charts_of(str(pull.lie))

    def end(omega: torch.Tensor) -> torch.Tensor:
        return solved(pull, charts.move(u, omega), solver).state[0]

    omega = torch.zeros(len(u), *charts.tangent_shape, dtype=torch.float64).requires_grad_()
    final = end(omega)
    rows = []
    for a in range(charts.tangent_shape[0]):
        # The component of dU U^-1 along T_a: -2 Re tr(T_a dU U^-1).
        weight = (-2 * (final.mH @ pull.t[a])).transpose(1, 2).detach()
        value = (weight * final).sum().real
        rows.append(torch.autograd.grad(value, omega, retain_graph=True)[0])
    return final.detach(), torch.stack(rows, 1)


@pytest.mark.parametrize("name", ["SU(2)", "SU(3)"])
def test_log_det_is_that_of_the_dense_jacobian(name):
    pull, u, solver = Pull(name, strength=0.5), start(name), Solver("rk5", steps=12)
    _, jacobian = pushed(pull, u, solver)
    log_det = solved(pull, u, solver).state[1]
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-5)
    assert log_det.abs().max() > 0.1


@pytest.mark.parametrize("name", ["SU(2)", "SU(3)"])
def test_the_score_is_the_gradient_of_the_density(name):
    """From the Haar measure `log q(U) = int_1^0 div` backwards, whose gradient the score has to be."""
    pull, u, charts = Pull(name, strength=0.5), start(name), charts_of(name)
    solver = Solver("rk5", steps=12)
    zeros = torch.zeros(len(u), dtype=torch.float64)
    begin = (u, zeros, torch.zeros(len(u), *charts.tangent_shape, dtype=torch.float64))
    final, _, score = integrate_on_group(pull.with_score, begin, 0.0, 1.0, solver, charts=charts).state
    omega = torch.zeros_like(score).requires_grad_()
    log_q = solved(pull, charts.move(final.detach(), omega), solver, 1.0, 0.0).state[1]
    (expected,) = torch.autograd.grad(log_q.sum(), omega)
    torch.testing.assert_close(score.detach(), expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.1


def loss_of(pull: Pull, u: torch.Tensor, solver: Solver) -> torch.Tensor:
    final, log_det = solved(pull, u, solver).state
    wanted = torch.randn(u.shape, generator=torch.Generator().manual_seed(9), dtype=u.dtype)
    return (final * wanted).sum().real + log_det.square().sum()


@pytest.mark.parametrize(
    "solver",
    [
        Solver("rk4", steps=6),
        Solver("rk4", steps=6, checkpoint=True),
        Solver("rk5", steps=16, adjoint=True),
        Solver("dopri5", rtol=1e-7, atol=1e-7),
        Solver("dopri5", rtol=1e-7, atol=1e-7, adjoint=True),
    ],
    ids=lambda s: f"{s.method}-{s.gradient.value}",
)
@pytest.mark.parametrize("name", ["SU(2)"])
def test_gradients_agree_with_finite_differences(name, solver):
    pull, u, charts = Pull(name, strength=0.5), start(name), charts_of(name)
    generator = torch.Generator().manual_seed(1)
    along_u = torch.randn(len(u), *charts.tangent_shape, generator=generator, dtype=torch.float64)
    along_a = torch.randn(pull.a.shape, generator=generator, dtype=pull.a.dtype)

    def at(s: float | torch.Tensor) -> torch.Tensor:
        moved = Pull(name, strength=0.5)
        moved.a = pull.a + s * along_a
        return loss_of(moved, charts.move(u, s * along_u), solver)

    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(at(s), s)
    step = 1e-4
    with torch.no_grad():
        difference = (at(step) - at(-step)) / (2 * step)
    torch.testing.assert_close(exact, difference, rtol=1e-5, atol=1e-5)


def test_nothing_to_do_costs_nothing():
    pull, u = Pull("SU(2)"), start("SU(2)")
    solution = solved(pull, u, Solver("rk4", steps=3), 0.5, 0.5)
    assert solution.nfe == 0
    assert solution.state[0] is u
    assert solved(pull, u[:0], Solver("rk4", steps=3)).nfe == 0
    assert solved(pull, u, Solver("rk4", steps=3)).nfe == 12


@torch.no_grad()
def test_the_error_is_estimated_by_the_refined_solver():
    pull, u, charts = Pull("SU(2)"), start("SU(2)"), charts_of("SU(2)")
    state = (u, torch.zeros(3, dtype=torch.float64))
    solver = Solver("rk4", steps=8)
    found = integrate_on_group(pull.rates, state, 0.0, 1.0, solver, charts=charts, estimate_error=True)
    true = (found.state[0] - solved(pull, u, FINE).state[0]).abs().max()
    assert 0.8 * true < found.error_estimate[0] < 1.2 * true


@torch.no_grad()
def test_a_solver_that_gives_up_says_so():
    pull, u = Pull("SU(2)", strength=50.0), start("SU(2)")
    with pytest.raises(SolverError, match="gave up"):
        solved(pull, u, Solver("dopri5", rtol=1e-9, atol=1e-9, max_steps=2))
    pull.a = pull.a * math.nan
    with pytest.raises(SolverError, match="NaN or infinite"):
        solved(pull, u, Solver("rk4", steps=2))
