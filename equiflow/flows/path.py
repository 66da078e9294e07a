"""Samples with their score `grad log q`, integrated along the flow: what the path gradient needs.

`EquivariantCNF.path_from` calls `carry_path`, which takes a `PathStart` and returns a `PathSample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.flows.kernels import FieldOfSolve, integrate_in, solve_by_kernels
from equiflow.ode.integrate import State
from equiflow.ode.solver import Solver
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class PathSample:
    """Model samples with their scores. Only `phi` and `kinetic_energy` keep a graph.

    Attributes:
        phi: configurations, `(batch, *lattice)`.
        log_q: their log-densities, `(batch,)`; estimates if the trace of the vector field is one.
        score: `grad log q(phi)`, `(batch, *lattice)`; an estimate if the trace is one.
        kinetic_energy: `int_0^1 sum_x v_x^2 dt` along each trajectory, `(batch,)`.
        nfe: evaluations of the vector field.
    """

    phi: Tensor
    log_q: Tensor
    score: Tensor
    kinetic_energy: Tensor
    nfe: int


@dataclass(frozen=True)
class PathStart:
    """Samples of a density with their scores, from which a flow carries them on. Only `z` keeps a graph.

    Attributes:
        z: configurations, `(batch, *lattice)`.
        log_q: their log-densities, `(batch,)`.
        score: `grad log q(z)`, `(batch, *lattice)`.
    """

    z: Tensor
    log_q: Tensor
    score: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, prior: Prior, z: Tensor) -> PathStart:
        """Return samples of a prior, which may depend on its parameters.

        Args:
            prior: density of `z`.
            z: its samples, `(batch, *lattice)`.

        Returns:
            The samples with their scores.
        """
        score = prior.score(z)
        return cls(z, prior.log_prob(z), score)


def carry_path(
    start: PathStart,
    space: Space,
    field: FieldOfSolve,
    solver: Solver,
    *,
    parameters: Sequence[Tensor] = (),
) -> PathSample:
    r"""Carry samples to the model together with their scores (arXiv:2206.09016).

    `dphi/dt = v`, `d log q/dt = -div v`, `dg/dt = -(dv/dphi)^T g - grad div v` for the score
    `g = grad log q`, from flow time 0 to 1.

    Args:
        start: samples at flow time 0.
        space: of the configurations.
        field: vector field, for one solve.
        solver: how to integrate.
        parameters: parameters of the field, which get gradients from the adjoint equation.

    Returns:
        Configurations with log-densities, scores, kinetic energies and the number of evaluations.
    """
    z, log_q, score = start.z, start.log_q, start.score
    end = solve_by_kernels(field, z, 0.0, 1.0, solver, score=score)
    if end is not None and end.score is not None:
        return PathSample(end.phi, log_q - end.log_det.detach(), end.score, end.kinetic_energy, end.nfe)
    zeros = z.real.new_zeros(len(z))

    def power(velocity: Tensor) -> Tensor:
        return velocity.square().sum(tuple(range(1, velocity.dim())))

    def path(t: Tensor, state: State) -> State:
        rates = field.path_rates(state[0], t, state[3].detach())
        return rates.velocity, power(rates.velocity), rates.divergence, rates.score_rate

    def trajectory(t: Tensor, state: State) -> State:
        velocity = field.velocity(state[0], t)
        return velocity, power(velocity)

    if not (solver.adjoint and torch.is_grad_enabled()):
        solution = integrate_in(space, path, (z, zeros, zeros, score), 0.0, 1.0, solver)
        phi, energy, log_det, score = solution.state
        nfe = solution.nfe
    else:  # Only phi needs an adjoint, so the score has a solve of its own.
        with torch.no_grad():
            scored = integrate_in(space, path, (z, zeros, zeros, score), 0.0, 1.0, solver)
        _, _, log_det, score = scored.state
        begin = (z, zeros)
        solution = integrate_in(space, trajectory, begin, 0.0, 1.0, solver, parameters=parameters)
        phi, energy = solution.state
        nfe = scored.nfe + solution.nfe
    return PathSample(phi, log_q - log_det.detach(), score.detach(), energy, nfe)
