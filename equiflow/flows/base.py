"""The abstract flow, and a flow as a `torch.distributions.Distribution`.

A subclass of `Flow` fills in `transform_and_log_det` and `inverse_and_log_det`. Sampling, densities and
certificates are derived from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from equiflow.flows.certificate import Certificate, SolvedTwice, compare_solves
from equiflow.flows.checkpoints import SavedFlow
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import in_double, in_precision
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.space import Space


class Flow(SavedFlow, ABC):
    r"""An invertible map `f` from a prior `r` to a model density `q`, with its log-determinant.

    `log q(f(z)) = log r(z) - log |det df/dz|`.

    A flow of your own can be saved if it also fills in `recipe` and `from_recipe`.

    Args:
        space: of the configurations.
        prior: the density that the flow starts from, on the same space.

    Raises:
        TypeError: if `space` is no `Space` or `prior` no `Prior`.
        ValueError: if the prior lives on another space.
    """

    #: ends the message of an error where something else is given, see `check_type`
    how_to_give: ClassVar[str] = (
        "Give an instance, such as EquivariantCNF(lattice); a ConditionalFlow has one for each value of its "
        "couplings, conditional.at(lam=...)."
    )

    def __init__(self, space: Space, prior: Prior) -> None:
        super().__init__()
        check_type(space, Space, "space", "Write Lattice((16, 16)).")
        check_type(prior, Prior, "prior", "Give an instance, such as FreeField(lattice).")
        if prior.space != space:
            raise ValueError(
                f"The prior lives on {prior.space.kind} {prior.space.shape}, the flow on {space.shape}. "
                f"Build both from the same {type(space).__name__}."
            )
        self.space = space
        self.prior = prior

    @property
    def lattice(self) -> Lattice:
        """The lattice of the fields. A TypeError is raised if there is none, as for particles."""
        return lattice_of(self.space)

    @abstractmethod
    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Carry prior samples to the model: `phi = f(z)` and `log |det df/dz|`.

        Args:
            z: samples of the prior, `(batch, *lattice)`.

        Returns:
            `phi`, `(batch, *lattice)`, and `log_det`, `(batch,)`; `log q(phi) = log prior(z) - log_det`.
        """

    @abstractmethod
    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Carry configurations back to the prior: `z = f^-1(phi)` and `log |det df^-1/dphi|`.

        Args:
            phi: configurations, `(batch, *lattice)`.

        Returns:
            `z`, `(batch, *lattice)`, and `log_det`, `(batch,)`; `log q(phi) = log prior(z) + log_det`.
        """

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type that the flow computes in."""
        return self.prior.dtype

    @property
    def device(self) -> torch.device:
        """Device that the flow lives on."""
        return self.prior.device

    @property
    def learning_rate(self) -> float:
        """The largest learning rate of Adam in `fit`, unless another one is given."""
        return 1e-2

    @property
    def training_steps(self) -> int:
        """The number of optimiser steps that `fit` takes by default."""
        return 600

    @property
    def training_batch_size(self) -> int:
        """The number of model samples per optimiser step that `fit` draws by default."""
        return 128

    @property
    def training_solver(self) -> Solver | None:
        """The solver in training where none is adapted; None if the flow does not integrate."""
        return None

    def log_prob(self, phi: Tensor) -> Tensor:
        """Return the normalised log-density `log q(phi)`, `(batch,)`.

        Args:
            phi: configurations, `(batch, *lattice)`.

        Raises:
            ValueError: if the flow only estimates its log-determinants, or `phi` has another shape.
            TypeError: if `phi` has another dtype than the flow.
        """
        z, log_det = self.inverse_and_log_det(phi)
        return self.prior.log_prob(z) + log_det

    def log_prob_to_train(
        self, phi: Tensor, *, solver: Solver | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, int]:
        """Return `log q(phi)` for training, and the number of evaluations of a vector field.

        A flow that only estimates its log-determinants returns an estimate.

        Args:
            phi: configurations, `(batch, *lattice)`.
            solver: how to integrate, instead of the flow's own solver; only for flows that integrate.
            generator: source of randomness of an estimate, on the flow's device.

        Returns:
            `log q(phi)`, `(batch,)`, differentiable in the parameters of the flow, and the evaluations.

        Raises:
            TypeError: if a solver is given and the flow does not integrate.
        """
        if solver is not None:
            raise TypeError(
                f"A solver is for an EquivariantCNF; {type(self).__name__} does not integrate. Leave it out."
            )
        return self.log_prob(phi), 0

    def rsample_and_log_prob(
        self, n_samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw `phi` and `log q(phi)`, both differentiable in the parameters of the flow.

        This is the method for training: a flow that only estimates its log-determinants returns an estimate.

        Args:
            n_samples: number of samples, >= 0.
            generator: source of randomness, on the flow's device; the global one by default.

        Returns:
            `phi`, `(n_samples, *lattice)`, and `log q(phi)`, `(n_samples,)`.
        """
        z = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        return self._with_log_prob(z, *self._transform_to_train(z, generator))

    def _with_log_prob(self, z: Tensor, phi: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
        """Return `phi` and `log q(phi)` for `phi = f(z)`."""
        return self.space.nearest(phi), self.prior.log_prob(z) - log_det

    def _transform_to_train(self, z: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return `transform_and_log_det(z)`, or an unbiased estimate from a flow that only estimates."""
        return self.transform_and_log_det(z)

    @torch.no_grad()
    def sample_and_log_prob(
        self, n_samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw `phi` and `log q(phi)`, both detached.

        Args:
            n_samples: number of samples, >= 0.
            generator: source of randomness, on the flow's device; the global one by default.

        Returns:
            `phi`, `(n_samples, *lattice)`, and `log q(phi)`, `(n_samples,)`.

        Raises:
            ValueError: if the flow only estimates its log-determinants.
        """
        z = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        return self._with_log_prob(z, *self.transform_and_log_det(z))

    @torch.no_grad()
    def sample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw configurations of the model.

        Args:
            n_samples: number of samples, >= 0.
            generator: source of randomness, on the flow's device; the global one by default.

        Returns:
            `(n_samples, *lattice)`, detached.
        """
        return self.rsample_and_log_prob(n_samples, generator=generator)[0]

    def distribution(self) -> FlowDistribution:
        """Return the model as a `torch.distributions.Distribution` over configurations."""
        return FlowDistribution(self)

    @torch.no_grad()
    def certificate(
        self,
        n_samples: int = 256,
        *,
        action: Action | None = None,
        generator: torch.Generator | None = None,
    ) -> Certificate:
        """Measure the errors of log q that no effective sample size can see: discretisation and rounding.

        The same prior samples are carried to the model twice: by the flow, and by a copy of the flow in
        float64 with a finer solver. The log weights of both are compared. Without an action, the copy is the
        target (`log Z = 0`), and its log q comes from the inverse direction.

        In float32 the flow and the action are copied and converted. The copies are right only if all their
        numbers are parameters or buffers.

        Args:
            n_samples: number of samples to compare, >= 0.
            action: target whose log weights and log Z are compared; by default the model itself.
            generator: source of randomness, on the flow's device; the global one by default.

        Returns:
            The changes under the finer solve, with the samples.

        Raises:
            ValueError: if the flow only estimates its log-determinants.
        """
        if action is not None:
            check_type(action, Action, "action")
        z = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        reference = self._reference()
        phi, log_weight, nfe = self._log_weight(z, reference, action)
        refined = phi, torch.zeros_like(log_weight)
        if action is not None:
            refined = reference._log_weight(in_precision(z, torch.float64), reference, in_double(action))[:2]
        finer = self.space.nearest(refined[0]).to(phi.dtype)
        samples = SolvedTwice(self.space.nearest(phi), log_weight, finer, refined[1])
        round_trip = self.inverse_and_log_det(phi)[0] - z
        text = f"{reference._method()} in float64"
        return compare_solves(samples, round_trip, nfe=nfe, solver=self._method(), refined=text)

    def _reference(self) -> Flow:
        """Return the finer flow that a certificate compares with."""
        return in_double(self)

    def _log_weight(self, z: Tensor, reference: Flow, action: Action | None) -> tuple[Tensor, Tensor, int]:
        """Return `phi`, the log weights in float64 and nfe; without an action the target is `reference`."""
        phi, log_det, nfe = self._transform_and_count(z)
        log_q = self.prior.log_prob(z) - log_det
        log_target = reference.log_prob(in_precision(phi, torch.float64)) if action is None else -action(phi)
        return phi, (log_target - log_q).double(), nfe

    def _transform_and_count(self, z: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return `transform_and_log_det(z)` and the number of evaluations of a vector field."""
        return *self.transform_and_log_det(z), 0

    def _method(self) -> str:
        """Return how the flow computes, as text."""
        return "exact map"

    def _check_input(self, phi: Tensor, name: str) -> Tensor:
        """Return `phi` if it is a batch of finite configurations in the dtype of the flow, else raise."""
        self.space.check_finite(phi, name)
        if phi.real.dtype != self.dtype:
            wanted = in_precision(phi[:0], self.dtype).dtype
            raise TypeError(
                f"{name} has dtype {phi.dtype}, the flow computes in {self.dtype}. "
                f"Convert one: {name}.to({wanted}), or flow.to({phi.real.dtype})."
            )
        return phi


class FlowDistribution(Distribution):
    """A flow as a distribution whose events are configurations.

    Args:
        flow: draws and scores the configurations; it keeps its parameters.
    """

    has_rsample = True

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        super().__init__(event_shape=torch.Size(flow.prior.event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The set of all real configurations."""
        # torch does not annotate it.
        return constraints.independent(constraints.real, len(self.event_shape))  # type: ignore[no-untyped-call]

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """Empty, because the parameters belong to the flow."""
        return {}

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw samples `(*sample_shape, *lattice)`, differentiable in the parameters of the flow."""
        shape = torch.Size(sample_shape)
        phi, _ = self.flow.rsample_and_log_prob(shape.numel())
        return phi.reshape(*shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return `log q`, shaped like the batch part of `value`.

        Args:
            value: configurations, `(..., *lattice)`.

        Raises:
            ValueError: if `value` does not end in the shape of a configuration.
        """
        event = tuple(self.event_shape)
        if tuple(value.shape[-len(event) :]) != event:
            raise ValueError(
                f"value has shape {tuple(value.shape)}; expected any batch shape followed by the "
                f"lattice {event}."
            )
        lead = value.shape[: value.dim() - len(event)]
        log_q = self.flow.log_prob(value.reshape(-1, *event))
        return log_q.reshape(lead)
