"""The law of canonical maps: they keep `dq ^ dp`."""

from __future__ import annotations

import torch

from equiflow.flows import Flow, PhaseSpace
from equiflow.runtime.checks import check_type
from equiflow.testing.probes import demand, dense_jacobian, prior_samples


def symplectic_error(flow: Flow, *, n_samples: int = 3, seed: int = 0) -> float:
    """Measure `max |J^T Omega J - Omega|`, relative to `max(1, |J|^2)`, with the dense Jacobian of the flow.

    Args:
        flow: any flow of positions and momenta on a small lattice; the Jacobian has `4 V^2` entries.
        n_samples: number of prior samples to test on.
        seed: seed of the samples.

    Returns:
        The largest violation.

    Raises:
        TypeError: if the flow has no momenta.
    """
    check_type(flow.space, PhaseSpace, "flow.space", "The law is for flows with momenta.")
    z = prior_samples(flow, n_samples, seed)
    jacobian = dense_jacobian(lambda state: flow.transform_and_log_det(state)[0], z)
    volume = flow.lattice.volume
    # As blocks: A^T D - C^T B = 1, A^T C and B^T D symmetric.
    of_q, of_p = jacobian[:, :volume], jacobian[:, volume:]
    form = of_q.mT @ of_p - of_p.mT @ of_q
    unit = torch.eye(volume, dtype=form.dtype, device=form.device)
    form[:, :volume, volume:] -= unit
    form[:, volume:, :volume] += unit
    return float((form.abs().amax((1, 2)) / jacobian.square().amax((1, 2)).clamp(min=1.0)).max())


def assert_symplectic(flow: Flow, *, tolerance: float = 1e-4) -> None:
    """Demand that a flow is a canonical map; see `symplectic_error`.

    Args:
        flow: any flow of positions and momenta on a small lattice.
        tolerance: largest violation; in double precision, 1e-12 leaves room for rounding alone.

    Raises:
        AssertionError: if the map is not canonical.
        TypeError: if the flow has no momenta.
    """
    demand(flow, "J^T Omega J - Omega", symplectic_error(flow), tolerance)
