"""Training of density matrices on the free energy: `fit_thermal_state`."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from equiflow.flows.thermal import ThermalState
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_type
from equiflow.runtime.progress import progress_as, progress_bar
from equiflow.runtime.randomness import stream
from equiflow.theories.fermions.electrons import TrappedElectrons
from equiflow.training.history import History
from equiflow.training.options import TrainingOptions


def free_energy_gradient(
    rho: ThermalState,
    electrons: TrappedElectrons,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    solver: Solver | None = None,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    r"""Return a surrogate whose gradient estimates that of the free energy, and the free energies.

    With `F_loc = log p_n / beta + H Psi_n / Psi_n`, F = `E[F_loc]` over p_n and `|Psi_n|^2` has the gradient
    `E[(F_loc - b) grad (log p_n + log q_n(x))]` for any constant b, because H is Hermitian. The control
    variate is `b = F`: for the flow it is `F - log p_n / beta` in place of the mean local energy of each
    determinant of arXiv:2105.08644. Both agree where the p_n are optimal; this one needs no determinant to be
    drawn more than once. The noise vanishes where all Psi_n are eigenstates with their Boltzmann weights.

    Args:
        rho: the density matrix.
        electrons: the Hamiltonian.
        batch_size: number of samples.
        generator: source of randomness, on the CPU.
        solver: replaces the solver of `rho`.

    Returns:
        The surrogate, 0-d; `F_loc`, `(batch,)`, detached; evaluations of the vector field.
    """
    sample = rho.sample(batch_size, generator=generator, solver=solver)
    local = sample.local_energy(electrons) + sample.log_probability.detach() / rho.beta
    # The mean includes the sample itself, which shrinks the gradient by 1 - 1 / batch.
    centred = (local - local.mean()) * (batch_size / max(batch_size - 1, 1))
    surrogate = (centred * (sample.log_probability + sample.log_density)).mean()
    return surrogate, local, sample.nfe


def fit_thermal_state(
    rho: ThermalState,
    electrons: TrappedElectrons,
    *,
    steps: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 2e-2,
    warmup: int = 30,
    clip_norm: float = 1.0,
    solver: Solver | None = None,
    seed: int = 0,
    callback: Callable[[History], None] | None = None,
    progress: bool | None = None,
) -> History:
    """Train a density matrix in place to minimise its free energy.

    Adam with a linear warm-up and a cosine decay follows `free_energy_gradient`. The result is deterministic
    given the seed.

    Args:
        rho: trained in place.
        electrons: the Hamiltonian.
        steps: optimiser steps.
        batch_size: samples per step.
        learning_rate: at the top of the schedule.
        warmup: steps of the warm-up.
        clip_norm: gradients with a larger norm are scaled down to it.
        solver: in training; by default `Solver("rk5", steps=3)`.
        seed: of the samples that training draws; no global randomness is used.
        callback: called with the history after every step.
        progress: whether to show a bar, see `fit`.

    Returns:
        The history; `loss` is the mean of F_loc over each batch.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a count or rate is out of range, or state and Hamiltonian have other particles.
        SolverError: if training runs away.
    """
    check_type(rho, ThermalState, "rho")
    check_type(electrons, TrappedElectrons, "electrons")
    if rho.states.particles != electrons.particles:
        raise ValueError(
            f"The state is one of {rho.states.particles.shape} particles, the Hamiltonian of "
            f"{electrons.particles.shape}. Build both from the same Particles."
        )
    options = TrainingOptions(steps, batch_size, learning_rate, warmup, clip_norm, seed, steps)
    solver = Solver("rk5", steps=3) if solver is None else solver
    trained = [p for p in rho.parameters() if p.requires_grad]
    # Gradients below eps make small steps, not full ones: those of determinants that are drawn now and then,
    # and of pure rounding near the exact state.
    optimiser = torch.optim.Adam(trained, lr=learning_rate, betas=(0.9, 0.99), eps=1e-2)
    generator, history, start = stream(seed, "thermal state"), History(), time.perf_counter()
    with progress_as(progress), progress_bar(steps, "training", "step") as bar:
        for step in range(1, steps + 1):
            rate = options.rate(step)
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
            surrogate, local, nfe = free_energy_gradient(
                rho, electrons, batch_size, generator=generator, solver=solver
            )
            surrogate.backward()
            norm = torch.nn.utils.clip_grad_norm_(trained, clip_norm)
            optimiser.step()
            history.append(
                step=step,
                loss=float(local.mean()),
                ess=None,
                grad_norm=float(norm),
                learning_rate=rate,
                nfe=nfe,
                seconds=time.perf_counter() - start,
                loss_name="free energy",
            )
            bar.update()
            if step % 10 == 0 or step == steps:
                bar.set_postfix(history.last())
            if callback is not None:
                callback(history)
    return history
