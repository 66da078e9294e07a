"""The adjoint equation, backpropagation and finite differences agree on every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint_adjoint

from equiflow.ode.integrate import integrate
from equiflow.ode.solver import FIXED_STEP_ORDER, Solver

START = torch.tensor([[0.3, -1.2], [0.7, 0.4]], dtype=torch.float64)


def loss_and_gradients(solver: Solver, weight: float, y0: Tensor) -> tuple[float, Tensor, Tensor]:
    weight_ = torch.tensor(weight, requires_grad=True)
    start = y0.clone().requires_grad_()

    def rates(t, state):
        y, _ = state
        return torch.sin(weight_ * y) * torch.cos(t), (weight_ * y).square().sum(1)

    solution = integrate(rates, (start, torch.zeros(len(y0))), 0.0, 1.0, solver, parameters=[weight_])
    loss = solution.state[0].square().sum() + solution.state[1].sum()
    return float(loss.detach()), *torch.autograd.grad(loss, (weight_, start))


TIGHT = {"dopri5": {"rtol": 1e-10, "atol": 1e-10}, "rk4": {"steps": 100}}


@pytest.mark.parametrize("method", TIGHT)
def test_adjoint_backprop_and_finite_differences_agree(method):
    gradients = [
        loss_and_gradients(Solver(method, adjoint=adjoint, **TIGHT[method]), 1.3, START)[1:]
        for adjoint in (False, True)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    solver, step = Solver(method, **TIGHT[method]), 1e-5
    up, down = (loss_and_gradients(solver, 1.3 + s, START)[0] for s in (step, -step))
    assert (up - down) / (2 * step) == pytest.approx(float(gradients[0][0]), rel=1e-6)
    along = torch.tensor([[1.0, -2.0], [0.5, 0.3]])
    up, down = (loss_and_gradients(solver, 1.3, START + s * along)[0] for s in (step, -step))
    directional = float((gradients[0][1] * along).sum())
    assert (up - down) / (2 * step) == pytest.approx(directional, rel=1e-6)


def test_adjoint_misses_parameters_it_is_not_told_of():
    weight = torch.tensor(1.3, requires_grad=True)
    start = START.clone().requires_grad_()
    solution = integrate(lambda t, state: (weight * state[0],), (start,), 0.0, 1.0, Solver(adjoint=True))
    (gradient,) = torch.autograd.grad(solution.state[0].sum(), weight, allow_unused=True)
    assert gradient is None


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
def test_the_adjoint_of_equal_steps_is_that_of_torchdiffeq(method):
    weight, start = torch.tensor(1.3, requires_grad=True), START.clone().requires_grad_()

    def rates(t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(weight * y) * torch.cos(t)

    solver = Solver(method, steps=4, adjoint=True)
    ours = integrate(lambda t, s: (rates(t, s[0]),), (start,), 0.0, 1.0, solver, parameters=[weight]).state[0]
    theirs = odeint_adjoint(
        rates,
        start,
        torch.tensor([0.0, 1.0]),
        method=method,
        options={"step_size": 0.25},
        adjoint_params=(weight,),
    )[-1]
    found, expected = (torch.autograd.grad(y.square().sum(), (weight, start)) for y in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    # Backpropagation through the same steps gives another gradient, which is exact for the discrete map.
    assert abs(float(found[0]) - float(loss_gradient_by_backpropagation(method))) > 1e-7


def loss_gradient_by_backpropagation(method: str) -> Tensor:
    weight = torch.tensor(1.3, requires_grad=True)

    def rates(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.sin(weight * state[0]) * torch.cos(t),)

    (y,) = integrate(rates, (START,), 0.0, 1.0, Solver(method, steps=4)).state
    return torch.autograd.grad(y.square().sum(), weight)[0]


@pytest.mark.parametrize("method", sorted(FIXED_STEP_ORDER.keys() - {"euler"}))
def test_the_adjoint_converges_to_the_gradient(method):
    reference = loss_and_gradients(Solver("dopri8", rtol=1e-12, atol=1e-12), 1.3, START)[1]
    coarse, fine = (
        abs(float(loss_and_gradients(Solver(method, steps=n, adjoint=True), 1.3, START)[1] - reference))
        for n in (8, 16)
    )
    assert fine < 0.4 * coarse < 0.02


def test_values_that_rates_share_are_differentiated_at_every_evaluation():
    weight = torch.tensor(0.7, requires_grad=True)
    kernel = weight.exp().square()  # computed once, with a graph

    def solve(adjoint: bool) -> Tensor:
        solver = Solver("rk4", steps=40, adjoint=adjoint)
        rates = lambda t, state: (torch.sin(kernel * state[0]),)  # noqa: E731
        (y,) = integrate(rates, (START,), 0.0, 1.0, solver, parameters=[weight]).state
        return torch.autograd.grad(y.sum(), weight, retain_graph=True)[0]

    torch.testing.assert_close(solve(adjoint=True), solve(adjoint=False), rtol=1e-5, atol=0)


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_parameter_without_influence_gets_no_gradient(adjoint):
    weight, unused = torch.tensor(1.3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    solution = integrate(
        lambda t, state: (weight * state[0],),
        (START,),
        0.0,
        1.0,
        Solver("rk4", steps=3, adjoint=adjoint),
        parameters=[weight, unused],
    )
    slope, none = torch.autograd.grad(solution.state[0].sum(), (weight, unused), allow_unused=True)
    assert float(slope) != 0
    assert none is None or (none.shape == (2, 3) and not none.any())


def test_an_adjoint_gradient_is_not_differentiated_again():
    start = START.clone().requires_grad_()
    solver = Solver("rk4", steps=3, adjoint=True)
    (y,) = integrate(lambda t, state: (state[0].sin(),), (start,), 0.0, 1.0, solver).state
    (slope,) = torch.autograd.grad(y.square().sum(), start, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
