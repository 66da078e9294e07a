"""Laws of flows: exact log-densities, and their invariance under a group."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.testing.probes import (
    demand,
    elements_of,
    in_parts,
    jacobian_along_moves,
    prior_samples,
    with_images,
)
from equiflow.theories.base.group import Group


def log_density_error(flow: Flow, *, n_samples: int = 3, seed: int = 0) -> float:
    """Measure `max |log q - (log prior(z) - log |det dphi/dz|)|` with the dense Jacobian of the flow.

    On a curved space it is taken along moves of the configurations, see `Space.move`.

    Args:
        flow: any flow on a small lattice; the Jacobian has `V^2` entries.
        n_samples: number of prior samples to test on.
        seed: seed of the samples.

    Returns:
        The largest absolute violation.
    """
    z = prior_samples(flow, n_samples, seed)
    with torch.no_grad():
        phi, _ = flow.transform_and_log_det(z)
        log_q = flow.log_prob(phi)

    def end(start: Tensor) -> Tensor:
        return flow.space.displacement(flow.transform_and_log_det(start)[0])

    jacobian = jacobian_along_moves(end, flow.space, z)
    dense = flow.prior.log_prob(z).detach() - torch.linalg.slogdet(jacobian).logabsdet
    return float((log_q - dense).abs().max())


def assert_log_density_exact(flow: Flow, *, tolerance: float = 1e-4) -> None:
    """Demand that `log_prob` is the prior minus the dense log-determinant; see `log_density_error`.

    Args:
        flow: any flow on a small lattice.
        tolerance: largest absolute violation, not smaller than the error of the flow's solver.

    Raises:
        AssertionError: if the log-density is wrong.
    """
    demand(flow, "log q minus dense slogdet", log_density_error(flow), tolerance)


def invariance_error(flow: Flow, group: Group, *, n_samples: int = 3) -> dict[str, float]:
    """Measure `max |log q(g phi) - log q(phi)|` for each generator g and four random elements.

    Maps that leave every configuration the same, such as full turns of angles, are tested too.

    Args:
        flow: the flow.
        group: the group to test.
        n_samples: number of configurations to test on.

    Returns:
        Name of the element or map -> absolute violation.
    """
    phi = prior_samples(flow, n_samples, 0)
    errors: dict[str, float] = {}
    for part in in_parts({**elements_of(group, 4), **flow.space.windings()}):
        # All images are solved in one batch, so that an adaptive solver takes the same steps for them.
        with torch.no_grad():
            log_q = flow.log_prob(with_images(phi, part)).unflatten(0, (-1, n_samples))
        errors |= dict(zip(part, (log_q[1:] - log_q[0]).abs().amax(1).tolist(), strict=True))
    return errors
