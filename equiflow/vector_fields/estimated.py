"""Fields whose divergence has no cheap closed form: exact by V products, or estimated for training."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from equiflow.nn.traces import Product, dense_trace, far_apart, hutch_plus_plus, hutchinson
from equiflow.runtime.autograd import differentiable
from equiflow.runtime.checks import check_count
from equiflow.runtime.precision import full_precision
from equiflow.runtime.randomness import batch_size_of, own_rows
from equiflow.theories.base.group import Group
from equiflow.vector_fields.base import VectorField

#: estimator, and how many probes it takes for each that is asked for
ESTIMATORS = {"hutchinson": (hutchinson, 1), "hutch++": (hutch_plus_plus, 2)}
TRACES = ("dense", *ESTIMATORS)


class Parts(NamedTuple):
    """A velocity as the sum of a part whose trace takes products, and one whose trace is known.

    Attributes:
        coupled: `(batch, *lattice)`.
        known: the other part, or 0.
        trace: of its Jacobian, `(batch,)` or a number.
    """

    coupled: Tensor
    known: Tensor | float = 0.0
    trace: Tensor | float = 0.0

    @property
    def velocity(self) -> Tensor:
        """Both together."""
        return self.coupled + self.known


class EstimatedField(VectorField):
    r"""A field that fills in `velocity` alone; automatic differentiation gives the trace of its Jacobian.

    | trace | divergence | products `w -> (dv/dphi)^T w` |
    |---|---|---|
    | `"dense"` | exact | V, or `prod_a (reach_a + 1)`, hardly more, where the field has a finite `reach` |
    | `"hutchinson"` | estimated, arXiv:1810.01367 | `n_probes` |
    | `"hutch++"` | estimated, arXiv:2010.09649 | `3 n_probes` |

    An estimate is unbiased, and so are the gradients of every objective that is linear in log q: enough
    for training, and nothing else. `exp(log q)` of an estimate is biased, so importance weights,
    certificates and Metropolis refuse it: train with an estimate, take results from
    `flow.with_trace("dense")`, which shares the weights.

    The probes are drawn once per solve, by `for_solve`, and stay the same along each trajectory, which
    leaves the solver a smooth equation. `velocity` must be differentiable twice.

    A field that says which part of its velocity has a known trace (`velocity_in_parts`, such as a linear
    one) and how far the rest couples sites (`reach`) has less noise and a cheaper exact trace.

    Args:
        group: the symmetry that the field claims to respect.
        trace: `"dense"`, `"hutchinson"` or `"hutch++"`.
        n_probes: of an estimate, for each configuration.

    Raises:
        ValueError: for an unknown trace, or less than one probe.
    """

    def __init__(self, group: Group, *, trace: str = "dense", n_probes: int = 1) -> None:
        super().__init__(group)
        self.trace, self.n_probes = _checked(trace, n_probes)
        self._probes: Tensor | None = None

    @abstractmethod
    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """`v(phi, t)`, `(batch, *lattice)`."""

    def velocity_in_parts(self, phi: Tensor, t: Tensor | float) -> Parts:
        """The same, what has a known trace apart; here nothing has."""
        return Parts(self.velocity(phi, t))

    @property
    def reach(self) -> tuple[int, ...] | None:
        """Sites farther apart than this on any axis are not coupled by `Parts.coupled`; `None`: all are."""
        return None

    @property
    def trace_is_exact(self) -> bool:
        """See `VectorField.trace_is_exact`."""
        return self.trace == "dense"

    def with_trace(self, trace: str, *, n_probes: int = 1) -> EstimatedField:
        """The same field, weights and all, with another way to take the trace."""
        field = copy.copy(self)
        field.trace, field.n_probes = _checked(trace, n_probes)
        field._probes = None
        return field

    def for_solve(self, phi: Tensor, generator: torch.Generator | None = None) -> EstimatedField:
        """The same field, weights and all, with signs drawn for this batch; itself if it is exact.

        Args:
            phi: `(batch, *lattice)`, where the solve starts.
            generator: source of randomness, on the field's device.
        """
        if self.trace_is_exact:
            return self
        n = ESTIMATORS[self.trace][1] * self.n_probes
        shape = (n, batch_size_of(len(phi), generator), *phi.shape[1:])
        signs = own_rows(torch.randint(2, shape, generator=generator, device=phi.device), generator, dim=1)
        field = copy.copy(self)
        field._probes = (2 * signs - 1).to(phi.dtype)
        return field

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`; an estimate needs `for_solve` before.

        Raises:
            ValueError: if the trace is an estimate and no probes have been drawn for this batch.
        """
        self._check_probes(phi)
        keeps_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            point = differentiable(phi)
            parts = self.velocity_in_parts(point, t)

            def product(w: Tensor) -> Tensor:
                options = {"create_graph": keeps_graph, "allow_unused": True, "materialize_grads": True}
                return torch.autograd.grad(parts.coupled, point, w, retain_graph=True, **options)[0]

            velocity, divergence = parts.velocity, phi.new_zeros(len(phi)) + parts.trace
            if parts.coupled.requires_grad:
                divergence = divergence + self._trace(product, phi)
        return (velocity, divergence) if keeps_graph else (velocity.detach(), divergence.detach())

    def _trace(self, product: Product, phi: Tensor) -> Tensor:
        if self._probes is not None:
            return ESTIMATORS[self.trace][0](product, self._probes)
        units = far_apart(phi.shape[1:], self.reach).to(phi)
        return dense_trace(product, units.unsqueeze(1).expand(-1, *phi.shape))

    def _check_probes(self, phi: Tensor) -> None:
        if self.trace_is_exact:
            return
        drawn_for = None if self._probes is None else self._probes.shape[1:]
        if drawn_for != phi.shape:
            got = "none have been" if drawn_for is None else f"those for {tuple(drawn_for)} were"
            raise ValueError(
                f"The divergence of {type(self).__name__} is estimated by {self.trace} from probes drawn "
                f"once per solve; {got} drawn, and phi has shape {tuple(phi.shape)}. For results take "
                'with_trace("dense"); to train with a solver of your own, field.for_solve(phi).'
            )

    def config(self) -> dict[str, object]:
        """See `VectorField.config`."""
        return {**super().config(), "trace": self.trace, "n_probes": self.n_probes}


def _checked(trace: str, n_probes: int) -> tuple[str, int]:
    if trace not in TRACES:
        raise ValueError(f"Unknown trace {trace!r}; expected one of {', '.join(TRACES)}.")
    return trace, check_count(n_probes, "n_probes")
