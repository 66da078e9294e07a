"""Steps that are recomputed in the backward pass save memory and change no gradient."""

from __future__ import annotations

import pytest
import torch

from equiflow import EquivariantCNF, Lattice, OrbitConvField, PathGradient, Solver, fused
from equiflow.testing import randomise
from equiflow.theories.scalar.phi4 import Phi4


@pytest.mark.parametrize("objective_solver", [Solver("rk4", steps=3), Solver("rk5", steps=2)])
def test_recomputed_steps_give_the_gradient_of_backpropagation(objective_solver):
    lattice = Lattice((4, 4))
    flow = EquivariantCNF(lattice, vector_field=OrbitConvField(lattice, n_frequencies=2)).double()
    randomise(flow, seed=1)
    gradients = []
    for recompute in (False, True):
        solver = Solver(objective_solver.method, steps=objective_solver.steps, checkpoint=recompute)
        flow.zero_grad()
        value = PathGradient(solver=solver)(
            flow, Phi4(lattice, m2=-4.0, lam=8.0), 6, torch.Generator().manual_seed(0)
        )
        value.surrogate.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-13)
    assert gradients[0].abs().max() > 1e-3


def test_recomputing_keeps_fewer_tensors():
    lattice = Lattice((4, 4))
    flow = EquivariantCNF(lattice)
    kept = {}
    for recompute in (False, True):
        sizes = []
        flow.solver = Solver("rk5", steps=8, checkpoint=recompute)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x
        )
        with hooks, fused.switched(False):  # kernels keep the same for both
            flow.rsample_and_log_prob(16)
        kept[recompute] = sum(sizes)
    assert kept[True] < 0.1 * kept[False]


def test_recomputing_is_for_backpropagation_through_fixed_steps():
    for wrong in ({"method": "dopri5"}, {"method": "rk5", "steps": 2, "adjoint": True}):
        with pytest.raises(ValueError, match="checkpoint=True is for backpropagation through fixed steps"):
            Solver(checkpoint=True, **wrong)
    with pytest.raises(TypeError, match="checkpoint must be of type bool"):
        Solver("rk5", steps=2, checkpoint=1)
