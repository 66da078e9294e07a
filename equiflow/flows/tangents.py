"""Derivatives of log q in the weights of a flow, sample by sample and without a backward pass.

Natural gradients start from `log_q_tangents`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equiflow.flows.cnf import EquivariantCNF
from equiflow.flows.kernels import integrate_in
from equiflow.ode.integrate import State
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_count, check_type


def trained_parameters(flow: EquivariantCNF) -> list[nn.Parameter]:
    """Return the parameters in the order of the columns of `log_q_tangents`."""
    return [p for p in (*flow.prior.parameters(), *flow.vector_field.parameters()) if p.requires_grad]


@torch.no_grad()
def log_q_tangents(
    flow: EquivariantCNF,
    n_samples: int,
    *,
    generator: torch.Generator | None = None,
    intervals: int = 6,
) -> Tensor:
    r"""Return `d log q(phi) / d theta` at fixed phi, for fresh samples phi of the flow and every parameter.

    The derivative of the continuity equation along a trajectory is
    `d/dt (d log q / d theta) = -div(dv/dtheta) - dv/dtheta . grad log q`. The score `grad log q` is
    integrated along with phi (arXiv:2206.09016). The right-hand side is then known, and a Gauss-Legendre
    quadrature in time gives the result. Its second moment is the Fisher matrix of the flow.

    Args:
        flow: the flow with an exact divergence.
        n_samples: number of samples.
        generator: source of randomness, on the flow's device; the global one by default.
        intervals: number of nodes of the quadrature. One step of rk5 leads from each node to the next.

    Returns:
        `(n_samples, parameter)`, the parameters flattened in the order of `trained_parameters`.

    Raises:
        TypeError: if `flow` is no `EquivariantCNF`.
        ValueError: if its divergence is only estimated.
    """
    check_type(flow, EquivariantCNF, "flow")
    check_count(intervals, "intervals")
    flow.vector_field.demand_exact_trace()
    phi = flow.prior.rsample(check_count(n_samples, "n_samples"), generator)
    score, field = flow.prior.score(phi), flow.vector_field
    of_prior = flow.prior.parameter_score(phi)
    of_field = of_prior.new_zeros(len(phi), sum(p.numel() for p in field.parameters() if p.requires_grad))

    def path(t: Tensor, state: State) -> State:
        rates = field.path_rates(state[0], t, state[1])
        return rates.velocity, rates.score_rate

    now = 0.0
    for node, weight in zip(*_gauss_legendre(intervals), strict=True):
        phi, score = integrate_in(flow.space, path, (phi, score), now, node, Solver("rk5", steps=1)).state
        now = node
        of_field -= weight * field.parameter_rates(phi, node, score)
    return torch.cat([of_prior, of_field], 1)


def _gauss_legendre(n: int) -> tuple[list[float], list[float]]:
    """Return the nodes and weights of n points on [0, 1], by the method of Golub and Welsch."""
    order = torch.arange(1, n, dtype=torch.float64)
    beta = order / (4 * order.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return ((nodes + 1) / 2).tolist(), vectors[0].square().tolist()
