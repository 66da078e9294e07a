"""Every method converges at its order, counts its evaluations, and says where it fails."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchdiffeq import odeint

from equiflow import fused
from equiflow.ode.integrate import integrate
from equiflow.ode.solver import ADAPTIVE_ORDER, FIXED_STEP_ORDER, Solver, SolverError
from tests.support.strategies import configurations, small_flow

START = torch.tensor([[0.3, -1.2], [0.7, 0.4]], dtype=torch.float64)


def growth(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the rates of `dy/dt = y (cos t + sin 3t)`, whose solution is known."""
    (y,) = state
    return (y * torch.cos(t) + torch.sin(3 * t) * y,)


def exact(y0: Tensor, t: float) -> Tensor:
    return y0 * math.exp(math.sin(t) + (1 - math.cos(3 * t)) / 3)


def blow_up(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the rates of `dy/dt = y^2`, whose solution is infinite at t = 1 / y(0)."""
    return (state[0] ** 2,)


def true_error(solver: Solver, t1: float = 2.0) -> float:
    solution = integrate(growth, (START,), 0.0, t1, solver)
    return float((solution.state[0] - exact(START, t1)).abs().max())


def observed_order(method: str, steps: int) -> float:
    coarse, fine = (true_error(Solver(method, steps=n)) for n in (steps, 2 * steps))
    return math.log2(coarse / fine)


def solver_of(method: str, *, steps: int = 200, **options: float) -> Solver:
    return Solver(method, **({"steps": steps} if method in FIXED_STEP_ORDER else options))


def has_order(method: str, order: int) -> bool:
    return abs(observed_order(method, 80) - order) < 0.3


@pytest.mark.parametrize(("method", "order"), FIXED_STEP_ORDER.items())
def test_fixed_steps_converge_at_the_order_of_the_method(method, order):
    assert Solver(method, steps=1).order == order
    assert has_order(method, order)


@pytest.mark.parametrize(("method", "order"), FIXED_STEP_ORDER.items())
def test_the_order_is_not_another_one(method, order):
    assert not has_order(method, order + 1)
    assert not has_order(method, order - 1)


@pytest.mark.parametrize("method", ADAPTIVE_ORDER)
def test_adaptive_error_respects_the_tolerance(method):
    errors = {tol: true_error(Solver(method, rtol=tol, atol=tol)) for tol in (1e-3, 1e-5, 1e-7)}
    # fehlberg2 advances by the less accurate of its two formulas, so the errors of its steps add up.
    factor = 500 if method == "fehlberg2" else 20
    assert all(error < factor * tol for tol, error in errors.items())
    assert errors[1e-3] > factor * 1e-7  # a solver that ignores its tolerance fails here
    assert errors[1e-7] < errors[1e-5] < errors[1e-3]


@pytest.mark.parametrize("method", FIXED_STEP_ORDER | ADAPTIVE_ORDER)
@pytest.mark.parametrize("estimate_error", [False, True])
def test_every_evaluation_is_counted(method, estimate_error):
    calls = 0

    def counted(t, state):
        nonlocal calls
        calls += 1
        return growth(t, state)

    solver = solver_of(method, rtol=1e-4, atol=1e-4)
    solution = integrate(counted, (START,), 0.0, 1.0, solver, estimate_error=estimate_error)
    assert solution.nfe == calls > 0
    assert solution.solver == solver


@pytest.mark.parametrize(
    ("method", "stages"), [("euler", 1), ("midpoint", 2), ("rk4", 4), ("classic_rk4", 4)]
)
def test_fixed_steps_cost_their_stages(method, stages):
    assert integrate(growth, (START,), 0.0, 1.0, Solver(method, steps=7)).nfe == 7 * stages


@pytest.mark.parametrize("method", FIXED_STEP_ORDER | ADAPTIVE_ORDER)
def test_error_estimate_bounds_the_true_error(method):
    solver = Solver(method, steps=40) if method in FIXED_STEP_ORDER else Solver(method)
    solution = integrate(growth, (START,), 0.0, 2.0, solver, estimate_error=True)
    error = float((solution.state[0] - exact(START, 2.0)).abs().max())
    assert len(solution.error_estimate) == 1
    assert 0.4 < solution.error_estimate[0] / error < 1.2


def test_error_is_not_estimated_unasked():
    assert integrate(growth, (START,), 0.0, 1.0, Solver()).error_estimate is None


@pytest.mark.parametrize("method", FIXED_STEP_ORDER | ADAPTIVE_ORDER)
def test_integrating_back_returns(method):
    solver = Solver("euler", steps=4000) if method == "euler" else solver_of(method)
    there = integrate(growth, (START,), 0.0, 1.5, solver).state
    back = integrate(growth, there, 1.5, 0.0, solver).state[0]
    torch.testing.assert_close(back, START, rtol=0, atol=5e-3)
    assert (there[0] - START).abs().max() > 0.1


@pytest.mark.parametrize("solver", [Solver(), Solver("rk4", steps=3)])
def test_no_time_changes_nothing(solver):
    solution = integrate(growth, (START,), 0.5, 0.5, solver)
    assert torch.equal(solution.state[0], START)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_an_empty_batch_needs_no_evaluation(method, adjoint):
    solver = Solver(method, adjoint=adjoint, steps=3 if method == "rk4" else None)
    empty = (torch.zeros(0, 4), torch.zeros(0))
    solution = integrate(growth, empty, 0.0, 1.0, solver, estimate_error=True)
    assert solution.nfe == 0
    assert [part.shape for part in solution.state] == [(0, 4), (0,)]
    assert solution.error_estimate == (0.0, 0.0)


@pytest.mark.parametrize("method", FIXED_STEP_ORDER | ADAPTIVE_ORDER)
def test_a_singularity_raises_with_time_evaluations_and_solver(method):
    # A second-order method at the default tolerance takes 100,000 evaluations to get to the pole.
    tolerance = 1e-3 if method == "adaptive_heun" else 1e-5
    solver = solver_of(method, steps=100, rtol=tolerance, atol=tolerance)
    with pytest.raises(SolverError) as caught:
        integrate(blow_up, (torch.ones(1, 1),), 0.0, 3.0, solver)
    message = str(caught.value)
    assert str(solver) in message
    time, nfe = re.search(r"at t=(\S+) after (\d+) evaluations", message).groups()
    assert float(time) >= 0.99
    assert int(nfe) >= 100


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_before_the_singularity_nothing_is_raised(method):
    solver = Solver(method, steps=100) if method == "rk4" else Solver(method)
    (y,) = integrate(blow_up, (torch.ones(1, 1),), 0.0, 0.5, solver).state
    torch.testing.assert_close(y, torch.full((1, 1), 2.0), rtol=1e-4, atol=0)


def test_a_nan_raises():
    with pytest.raises(SolverError, match="NaN or infinite"):
        integrate(lambda t, s: (s[0] * math.nan,), (START,), 0.0, 1.0, Solver("rk4", steps=2))
    with pytest.raises(SolverError, match=r"dopri5\(rtol=1e-05, atol=1e-05\) gave up"):
        integrate(lambda t, s: (s[0] * math.nan,), (START,), 0.0, 1.0, Solver())


def test_max_steps_are_respected():
    loose = integrate(growth, (START,), 0.0, 2.0, Solver(max_steps=1000))
    assert loose.nfe > 20
    with pytest.raises(SolverError, match="max_num_steps exceeded"):
        integrate(growth, (START,), 0.0, 2.0, Solver(max_steps=2))


def test_refining_reduces_the_error():
    for solver in (Solver("rk4", steps=10), Solver("dopri5", rtol=1e-4, atol=1e-4)):
        assert true_error(solver.refined()) < 0.2 * true_error(solver)


def test_rates_that_fail_are_not_blamed_on_the_solver():
    def broken(t, state):
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        integrate(broken, (START,), 0.0, 1.0, Solver("rk4", steps=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_dtype_and_device_are_kept(method, dtype, device):
    solver = Solver(method, steps=5 if method == "rk4" else None)
    y0 = START.to(device, dtype)
    (y,) = integrate(growth, (y0,), 0.0, 1.0, solver).state
    assert (y.dtype, y.device.type) == (dtype, device.type)


class CountsQuestions(TorchDispatchMode):
    """Counts how often the value of a tensor is read, which makes the program wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.questions += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def questions(solver: Solver, *, gradient: bool = False) -> int:
    flow = small_flow((4, 4))
    with fused.switched(False):
        flow.sample(1)  # the first evaluation makes constants on the CPU
    # Kernels run on CPUs alone.
    with CountsQuestions() as mode, torch.set_grad_enabled(gradient), fused.switched(False):
        if gradient:
            phi = flow.rsample_path(3, generator=torch.Generator().manual_seed(0), solver=solver).phi
            phi.square().sum().backward()
        else:
            flow.solve(configurations(flow.lattice), 0.0, 1.0, solver=solver)
    return mode.questions


@pytest.mark.parametrize("method", FIXED_STEP_ORDER)
def test_equal_steps_ask_the_device_nothing(method):
    # The one question comes at the end: is the result finite?
    assert questions(Solver(method, steps=2)) == questions(Solver(method, steps=9)) == 1


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_ask_the_device_nothing(checkpoint):
    few, many = (questions(Solver("rk5", steps=n, checkpoint=checkpoint), gradient=True) for n in (1, 4))
    assert few == many == 1


def test_the_adjoint_of_equal_steps_asks_the_device_nothing():
    # A path sample with the adjoint is two solves, with one question at the end of each.
    few, many = (questions(Solver("rk5", steps=n, adjoint=True), gradient=True) for n in (1, 4))
    assert few == many == 2


def test_questions_are_counted():
    adaptive = Solver("dopri5", rtol=1e-3, atol=1e-3)
    assert questions(adaptive) > 10


def in_the_steps_of_torchdiffeq(rates, start: Tensor, grid: Tensor, method: str) -> Tensor:
    """Return the final state by another implementation of the method."""
    if method == "rk5":  # dopri5 with prescribed steps
        length = float((grid[1] - grid[0]).abs())
        steps = dict.fromkeys(("first_step", "min_step", "max_step"), length) | {"step_t": grid}
        return odeint(rates, start, grid, method="dopri5", options=steps)[-1]
    if method == "classic_rk4":  # not in torchdiffeq
        for t, end in pairwise(grid):
            h = end - t
            k1 = rates(t, start)
            k2 = rates(t + h / 2, start + h / 2 * k1)
            k3 = rates(t + h / 2, start + h / 2 * k2)
            k4 = rates(end, start + h * k3)
            start = start + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return start
    return odeint(rates, start, grid, method=method)[-1]


@pytest.mark.parametrize("method", FIXED_STEP_ORDER)
@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, 0.2)])
def test_equal_steps_are_those_of_torchdiffeq(method, times):
    def rates(t, state):
        return torch.stack([-state[0, 1] * t, state[0, 0].sin()])[None]

    start, solver = torch.tensor([[1.0, 0.5]], dtype=torch.float64), Solver(method, steps=5)
    ours = integrate(lambda t, state: (rates(t, state[0]),), (start,), *times, solver).state[0]
    grid = torch.linspace(*times, 6, dtype=torch.float64)
    theirs = in_the_steps_of_torchdiffeq(rates, start, grid, method)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    for other in FIXED_STEP_ORDER.keys() - {method}:  # methods of the same order differ too
        assert not torch.allclose(ours, in_the_steps_of_torchdiffeq(rates, start, grid, other), rtol=1e-10)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_steps_are_rounded_like_those_of_torchdiffeq(method, dtype):
    start = START.to(dtype).repeat(9, 1)
    ours = integrate(growth, (start,), 0.0, 1.0, Solver(method, steps=5)).state[0]
    grid = torch.linspace(0.0, 1.0, 6, dtype=dtype)
    theirs = odeint(lambda t, y: growth(t, (y,))[0], start, grid, method=method)[-1]
    assert torch.equal(ours, theirs)
