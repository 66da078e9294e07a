"""Flows of links: the score along the flow, training, files, and densities with known normalisation."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import EquivariantCNF, Lattice, Links, PathGradient, ReverseKL, Solver, WilsonAction, fit
from equiflow.testing import randomise
from equiflow.theories.gauge.groups import lie_group


def flow_of(group: str, *, scale: float = 0.1, solver: Solver | None = None) -> EquivariantCNF:
    links = Links(Lattice((2, 2)), group)
    options = {"shapes": ("plaquette",), "n_time_modes": 2}
    if group == "U(1)":
        options = {"n_local": 2, "n_mixed": 1, "n_harmonics": 1, "n_time_modes": 2}
    field = type(EquivariantCNF(Links(Lattice((3, 3)), group)).vector_field)(links, **options)
    flow = EquivariantCNF(links, vector_field=field, solver=solver or Solver("rk5", steps=6)).double()
    randomise(flow.vector_field, scale=scale)
    return flow


@pytest.mark.parametrize("group", ["U(1)", "SU(2)"])
def test_the_score_along_the_flow_is_the_gradient_of_its_density(group):
    flow = flow_of(group)
    path = flow.rsample_path(3, generator=torch.Generator().manual_seed(0))
    omega = torch.zeros(3, *flow.space.tangent_shape, dtype=torch.float64).requires_grad_()
    log_q = flow.log_prob(flow.space.move(path.phi.detach(), omega))
    (score,) = torch.autograd.grad(log_q.sum(), omega)
    torch.testing.assert_close(path.score, score, rtol=0, atol=1e-4)
    torch.testing.assert_close(path.log_q, log_q.detach(), rtol=0, atol=1e-5)
    assert score.abs().max() > 0.05


@pytest.mark.parametrize("group", ["U(1)", "SU(2)"])
def test_the_path_gradient_is_that_of_the_reverse_divergence(group):
    """Both estimate one gradient: their means over many samples agree within errors of the means."""
    flow, n = flow_of(group, solver=Solver("rk4", steps=3)), 600
    action = WilsonAction(flow.space, beta=1.0)
    parameter = next(p for name, p in flow.vector_field.named_parameters() if "frequency" not in name)
    rows = {}
    for objective in (PathGradient(kinetic_penalty=0.0), ReverseKL()):
        generator, found = torch.Generator().manual_seed(3), []
        for _ in range(6):
            loss = objective(flow, action, n // 6, generator).surrogate
            found.append(torch.autograd.grad(loss, parameter)[0].flatten())
        rows[type(objective).__name__] = torch.stack(found)
    path, plain = rows["PathGradient"], rows["ReverseKL"]
    error = (path.var(0) / 6 + plain.var(0) / 6).sqrt()
    assert float(((path.mean(0) - plain.mean(0)) / (error + 1e-9)).abs().max()) < 6
    assert float(path.mean(0).abs().max()) > 1e-3


def test_a_flow_of_su2_is_trained_saved_and_loaded(tmp_path):
    flow = flow_of("SU(2)", scale=0.01, solver=Solver("rk4", steps=3))
    action = WilsonAction(flow.space, beta=1.0)
    options = {"batch_size": 32, "learning_rate": 5e-2, "warmup": 3, "progress": False}
    history = fit(flow, action, steps=12, objective=PathGradient(solver=flow.solver), **options)
    assert max(history.ess[-4:]) > history.ess[0]
    flow.save(tmp_path / "flow.pt")
    again = EquivariantCNF.load(tmp_path / "flow.pt")
    phi, log_q = flow.sample_and_log_prob(4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(again.log_prob(phi), log_q, rtol=0, atol=1e-2)
    assert torch.equal(again.log_prob(phi), flow.log_prob(phi))
    assert float(lie_group("SU(2)").defect(phi).max()) < 1e-12


def test_the_certificate_sees_a_coarse_solver_on_a_group():
    generator = torch.Generator().manual_seed(0)
    errors = [
        flow_of("SU(2)", scale=0.3, solver=Solver("rk4", steps=steps)).certificate(8, generator=generator)
        for steps in (1, 8)
    ]
    assert errors[0].max_log_q_error > 10 * errors[1].max_log_q_error
    assert math.isfinite(errors[0].round_trip_error)
