"""Fields whose divergence has no cheap closed form: exact by V products, or estimated for training.

Start at `EstimatedField`, which needs the velocity alone. The estimators are in `equiflow.nn.traces`.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from equiflow.nn.traces import Product, dense_trace, far_apart, hutch_plus_plus, hutchinson
from equiflow.runtime.autograd import differentiable, is_transformed
from equiflow.runtime.checks import check_count
from equiflow.runtime.precision import full_precision
from equiflow.runtime.randomness import batch_size_of, check_draw, own_rows
from equiflow.theories.base.group import Group
from equiflow.vector_fields.base import VectorField

#: estimators by name, and the number of random vectors that each takes per requested probe
ESTIMATORS = {"hutchinson": (hutchinson, 1), "hutch++": (hutch_plus_plus, 2)}
TRACES = ("dense", *ESTIMATORS)


class Parts(NamedTuple):
    """A velocity as a sum of two parts: the trace of the second one is known.

    Attributes:
        coupled: the part whose trace takes products with its Jacobian, `(batch, *lattice)`.
        known: the other part, `(batch, *lattice)` or 0.
        trace: trace of the Jacobian of the other part, `(batch,)` or a number.
    """

    coupled: Tensor
    known: Tensor | float = 0.0
    trace: Tensor | float = 0.0

    @property
    def velocity(self) -> Tensor:
        """Return the sum of both parts."""
        return self.coupled + self.known


class EstimatedField(VectorField):
    r"""A field that fills in `velocity` alone; automatic differentiation gives the trace of its Jacobian.

    | trace | divergence | products `w -> (dv/dphi)^T w` |
    |---|---|---|
    | `"dense"` | exact | V, or about `prod_a (reach_a + 1)` where the field has a finite `reach` |
    | `"hutchinson"` | estimated, arXiv:1810.01367 | `n_probes` |
    | `"hutch++"` | estimated, arXiv:2010.09649 | `3 n_probes` |

    An estimate is unbiased, and so are the gradients of every objective that is linear in log q. This is
    enough for training, but for nothing else: `exp(log q)` of an estimate is biased. Importance weights,
    certificates and Metropolis therefore refuse an estimate. Train with it, then take results from
    `flow.with_trace("dense")`, which has the same weights.

    The probes are drawn once per solve, by `for_solve`. They stay the same along each trajectory, so the
    solver sees a smooth equation. `velocity` must be differentiable twice.

    A field can reduce noise and cost in two ways. `velocity_in_parts` separates a part whose trace is known,
    such as a linear one. `reach` says how far the other part couples sites.

    Args:
        group: the symmetry that the field claims to respect.
        trace: `"dense"`, `"hutchinson"` or `"hutch++"`.
        n_probes: number of probes of an estimate, for each configuration.

    Raises:
        ValueError: for an unknown trace, or less than one probe.
    """

    def __init__(self, group: Group, *, trace: str = "dense", n_probes: int = 1) -> None:
        super().__init__(group)
        self.trace, self.n_probes = _checked(trace, n_probes)
        self._probes: Tensor | None = None

    @abstractmethod
    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""

    def velocity_in_parts(self, phi: Tensor, t: Tensor | float) -> Parts:
        """Return the velocity with the part whose trace is known set apart; by default there is none.

        Args:
            phi: `(batch, *lattice)`.
            t: float or 0-d tensor in [0, 1].

        Returns:
            The parts, whose sum is the velocity `(batch, *lattice)`.
        """
        return Parts(self.velocity(phi, t))

    @property
    def reach(self) -> tuple[int, ...] | None:
        """Return the largest distance on each axis at which `Parts.coupled` couples sites; None means any."""
        return None

    @property
    def trace_is_exact(self) -> bool:
        """See `VectorField.trace_is_exact`."""
        return self.trace == "dense"

    def with_trace(self, trace: str, *, n_probes: int = 1) -> EstimatedField:
        """Return an independent copy of the field that takes the trace another way.

        The copy starts with equal weights. Later changes of one field (conversion by `double()`, training,
        loaded weights) leave the other one alone.

        Args:
            trace: `"dense"`, `"hutchinson"` or `"hutch++"`.
            n_probes: number of probes of an estimate, for each configuration.

        Returns:
            The copy, without probes.

        Raises:
            ValueError: for an unknown trace, or less than one probe.
        """
        field = copy.deepcopy(self)
        field.trace, field.n_probes = _checked(trace, n_probes)
        field._probes = None
        return field

    def for_solve(self, phi: Tensor, generator: torch.Generator | None = None) -> EstimatedField:
        """Return the field with random signs drawn for this batch, or itself if the trace is exact.

        The result shares all modules and weights with this field, so that gradients reach them. Do not
        convert it or keep it after the solve.

        Args:
            phi: the configurations where the solve starts, `(batch, *lattice)`.
            generator: source of randomness, on the field's device.

        Returns:
            A field with probes `(probe, batch, *lattice)` for this batch.
        """
        if self.trace_is_exact:
            return self
        n = ESTIMATORS[self.trace][1] * self.n_probes
        check_draw(generator)
        shape = (n, batch_size_of(len(phi), generator), *phi.shape[1:])
        signs = own_rows(torch.randint(2, shape, generator=generator, device=phi.device), generator, dim=1)
        field = copy.copy(self)
        field._probes = (2 * signs - 1).to(phi.dtype)
        return field

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`; for an estimate call `for_solve` first.

        Raises:
            ValueError: if the trace is an estimate and no probes have been drawn for this batch.
        """
        self._check_probes(phi)
        if is_transformed():
            return self._transformed(phi, t)
        keeps_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            point = differentiable(phi)
            parts = self.velocity_in_parts(point, t)

            def product(w: Tensor) -> Tensor:
                """Return `(dv/dphi)^T w`."""
                options = {"create_graph": keeps_graph, "allow_unused": True, "materialize_grads": True}
                return torch.autograd.grad(parts.coupled, point, w, retain_graph=True, **options)[0]

            velocity, divergence = parts.velocity, phi.new_zeros(len(phi)) + parts.trace
            if parts.coupled.requires_grad:
                divergence = divergence + self._trace(product, phi)
        return (velocity, divergence) if keeps_graph else (velocity.detach(), divergence.detach())

    def _transformed(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return velocity and divergence within `torch.func`, which knows no leaves of a graph."""

        def coupled(point: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            parts = self.velocity_in_parts(point, t)
            return parts.coupled, (phi.new_zeros(()) + parts.known, phi.new_zeros(()) + parts.trace)

        velocity, pull_back, (known, trace) = torch.func.vjp(coupled, phi, has_aux=True)  # type: ignore[misc]
        return velocity + known, trace + self._trace(lambda w: pull_back(w)[0], phi)

    def _trace(self, product: Product, phi: Tensor) -> Tensor:
        """Return the trace of a Jacobian that is known by its products, `(batch,)`."""
        if self._probes is not None:
            return ESTIMATORS[self.trace][0](product, self._probes)
        units = far_apart(phi.shape[1:], self.reach).to(phi)
        return dense_trace(product, units.unsqueeze(1).expand(-1, *phi.shape))

    def _check_probes(self, phi: Tensor) -> None:
        """Raise a ValueError if the trace is an estimate whose probes do not fit the batch."""
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
        """See `VectorField.config`; `with_trace` may have changed what the constructor was given."""
        return {**super().config(), "trace": self.trace, "n_probes": self.n_probes}


def _checked(trace: str, n_probes: int) -> tuple[str, int]:
    """Return trace and number of probes, or raise if they are impossible."""
    if trace not in TRACES:
        raise ValueError(f"Unknown trace {trace!r}; expected one of {', '.join(TRACES)}.")
    return trace, check_count(n_probes, "n_probes")
