"""A training loop of your own: the objective estimates the gradient, everything else is plain PyTorch."""

import argparse

import torch

from equiflow import EquivariantCNF, Lattice, PathGradient, Phi4, Solver, importance_sample

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("steps", nargs="?", type=int, default=200, help="optimiser steps")
steps = parser.parse_args().steps
lattice = Lattice((8, 8))
action = Phi4(lattice, m2=-4.0, lam=6.008)
flow = EquivariantCNF(lattice)
objective = PathGradient(solver=Solver("rk5", steps=5))
optimiser = torch.optim.Adam(flow.parameters(), lr=2e-2, betas=(0.9, 0.99))
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-2, total_steps=steps, pct_start=0.1)
for step in range(1, steps + 1):
    value = objective(flow, action, 128)
    optimiser.zero_grad()
    value.surrogate.backward()  # its gradient estimates the gradient of the loss; its value has no meaning
    torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
    optimiser.step()
    schedule.step()
    if step % 20 == 0 or step == steps:
        print(f"step {step}: loss {value.loss:.4f}, ESS on the batch {value.ess:.3f}")
print(f"ESS on fresh samples: {importance_sample(flow, action, 2048).effective_sample_size()}")
