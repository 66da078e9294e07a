"""Free fields: their observables in closed form, and samples in the shape that `measure` takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from equiflow import Chain, Ensemble, FreeScalar, Lattice
from equiflow.theories.scalar import observables


def momenta(lattice: Lattice) -> Tensor:
    """Return `2 pi n / side` on the full momentum grid, `(d, *lattice)`."""
    axes = [2 * math.pi * torch.arange(side) / side for side in lattice.shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).double()


def free_expectations(action: FreeScalar) -> dict[Callable[[Tensor], Tensor], float]:
    """Return the averages of observables of one configuration in closed form."""
    lattice, variance = action.lattice, action.mode_variance()
    square = float(variance.mean())
    zero = float(variance.flatten()[0])
    cosine = momenta(lattice).cos().mean(0)
    smallest = (1,) + (0,) * (lattice.dim - 1)
    return {
        observables.magnetisation: 0.0,
        observables.abs_magnetisation: math.sqrt(2 * zero / (math.pi * lattice.volume)),
        observables.phi_squared: square,
        observables.phi_fourth: 3 * square**2,
        observables.susceptibility: zero,
        observables.nearest_neighbour: float((variance * cosine).mean()),
        observables.structure_factor: float(variance[smallest]),
    }


def free_correlator(side: int, m2: float) -> Tensor:
    """Return `C(t)` of the free field, `(side,)`, which is the same in every dimension."""
    return torch.fft.ifft(FreeScalar(Lattice((side,)), m2=m2).mode_variance()).real


def as_ensemble(phi: Tensor, log_weight: Tensor | None = None) -> Ensemble:
    """Return samples with given log weights, by default all equal."""
    log_weight = torch.zeros(len(phi)) if log_weight is None else log_weight
    return Ensemble(phi, torch.zeros(len(phi)), log_weight)


def as_chain(phi: Tensor) -> Chain:
    """Return independent samples as 50 chains."""
    return Chain(phi.unflatten(0, (-1, 50)), torch.ones(len(phi) // 50, 50))


def free_truth(action: FreeScalar) -> dict[str, float]:
    """Return the scalars of `Measurements` in closed form."""
    exact, shape = free_expectations(action), action.lattice.shape
    mass = math.acosh(1 + action.m2 / 2)
    abs_m, chi = exact[observables.abs_magnetisation], exact[observables.susceptibility]
    return {
        "magnetisation": 0.0,
        "abs_magnetisation": abs_m,
        "susceptibility": chi,
        "connected_susceptibility": chi - action.lattice.volume * abs_m**2,
        "phi_squared": exact[observables.phi_squared],
        "phi_fourth": exact[observables.phi_fourth],
        "nearest_neighbour": exact[observables.nearest_neighbour],
        "action_density": 0.5,  # half per mode
        "binder": 0.0,
        "structure_factor": exact[observables.structure_factor],
        "correlation_length": action.m2**-0.5,
        "pole_mass": mass,
        "mass_times_length": mass * shape[0],
    }
