"""The protocol of every flow: two abstract methods, everything else derived from them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from equiflow.flows.certificate import Certificate, SolvedTwice, certify
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import in_double
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.space import Space


class Flow(nn.Module, ABC):
    """An invertible map from a prior to a model density, with the log-determinant of its Jacobian."""

    def __init__(self, space: Space, prior: Prior) -> None:
        super().__init__()
        check_type(space, Space, "lattice", "Write Lattice((16, 16)).")
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
        """The lattice of the fields."""
        return lattice_of(self.space)

    @abstractmethod
    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Carry prior samples to the model: `phi = f(z)` and `log |det df/dz|`.

        Args:
            z: `(batch, *lattice)`.

        Returns:
            `phi` like `z`, and `log_det` of shape `(batch,)`; `log q(phi) = log prior(z) - log_det`.
        """

    @abstractmethod
    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Carry configurations back to the prior: `z = f^-1(phi)` and `log |det df^-1/dphi|`.

        Args:
            phi: `(batch, *lattice)`.

        Returns:
            `z` like `phi`, and `log_det` of shape `(batch,)`; `log q(phi) = log prior(z) + log_det`.
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
        """Adam's, at the top of its schedule, that `fit` takes unless told otherwise."""
        return 1e-2

    def log_prob(self, phi: Tensor) -> Tensor:
        """`log q(phi)`, absolute, `(batch,)`.

        Raises:
            ValueError: if the flow's log-determinants are only estimated.
        """
        z, log_det = self.inverse_and_log_det(phi)
        return self.prior.log_prob(z) + log_det

    def rsample_and_log_prob(
        self, n_samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw `phi` and `log q(phi)`, both differentiable in the parameters of the flow.

        This is what training takes: a flow whose log-determinants are estimated gives its estimate.
        """
        z = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        return self._with_log_prob(z, *self._transform_to_train(z, generator))

    def _with_log_prob(self, z: Tensor, phi: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
        return self.space.nearest(phi), self.prior.log_prob(z) - log_det

    def _transform_to_train(self, z: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """`transform_and_log_det`, or an unbiased estimate of it where that refuses to give one."""
        return self.transform_and_log_det(z)

    @torch.no_grad()
    def sample_and_log_prob(
        self, n_samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw `phi` `(n_samples, *lattice)` and `log q(phi)` `(n_samples,)`, detached.

        Args:
            n_samples: how many, >= 0.
            generator: source of randomness, on the flow's device; the global one by default.

        Raises:
            ValueError: if the flow's log-determinants are only estimated.
        """
        z = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        return self._with_log_prob(z, *self.transform_and_log_det(z))

    @torch.no_grad()
    def sample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `(n_samples, *lattice)` configurations of the model."""
        return self.rsample_and_log_prob(n_samples, generator=generator)[0]

    def distribution(self) -> FlowDistribution:
        """The model as a `torch.distributions.Distribution` over configurations."""
        return FlowDistribution(self)

    @torch.no_grad()
    def certificate(
        self,
        n_samples: int = 256,
        *,
        action: Action | None = None,
        generator: torch.Generator | None = None,
    ) -> Certificate:
        """Measure the errors of log q that no effective sample size can see: discretisation, rounding.

        The same prior samples are carried to the model again in float64, by a finer solver if the flow
        has one. With an action the log weights of both are compared; without one the model itself is
        the target (`log Z = 0`), whose log q comes from the inverse direction.

        A flow and an action of lower precision are copied for it, so what they compute with has to be
        parameters and buffers.

        Args:
            n_samples: how many to compare.
            action: target whose log weights and log Z are compared.
            generator: source of randomness, on the flow's device.
        """
        z = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        reference = self._reference()
        phi, log_weight, nfe = self._log_weight(z, reference, action)
        refined = phi, torch.zeros_like(log_weight)
        if action is not None:
            refined = reference._log_weight(z.double(), reference, in_double(action))[:2]
        finer = self.space.nearest(refined[0]).to(phi)
        samples = SolvedTwice(self.space.nearest(phi), log_weight, finer, refined[1])
        round_trip = self.inverse_and_log_det(phi)[0] - z
        text = f"{reference._method()} in float64"
        return certify(samples, round_trip, nfe=nfe, solver=self._method(), refined=text)

    def _reference(self) -> Flow:
        """The flow that a certificate compares with."""
        return in_double(self)

    def _log_weight(self, z: Tensor, reference: Flow, action: Action | None) -> tuple[Tensor, Tensor, int]:
        """Samples, log weights in float64 and nfe; without an action the target is the reference."""
        phi, log_det, nfe = self._transform_and_count(z)
        log_q = self.prior.log_prob(z) - log_det
        log_target = reference.log_prob(phi.double()) if action is None else -action(phi)
        return phi, (log_target - log_q).double(), nfe

    def _transform_and_count(self, z: Tensor) -> tuple[Tensor, Tensor, int]:
        """`transform_and_log_det` and the evaluations of a vector field that it takes."""
        return *self.transform_and_log_det(z), 0

    def _method(self) -> str:
        """How the flow computes, as text."""
        return "exact map"

    def _check_input(self, phi: Tensor, name: str) -> Tensor:
        self.space.check_finite(phi, name)
        if phi.dtype != self.dtype:
            raise TypeError(
                f"{name} has dtype {phi.dtype}, the flow computes in {self.dtype}. "
                f"Convert one: {name}.to(flow.dtype), or flow.to({phi.dtype})."
            )
        return phi


class FlowDistribution(Distribution):
    """A flow seen as a distribution whose events are lattice configurations."""

    has_rsample = True

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        super().__init__(event_shape=torch.Size(flow.prior.event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All real configurations."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None: the parameters belong to the flow."""
        return {}

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Differentiable samples, `(*sample_shape, *lattice)`."""
        shape = torch.Size(sample_shape)
        phi, _ = self.flow.rsample_and_log_prob(shape.numel())
        return phi.reshape(*shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """`log q`, shaped like the batch part of `value`."""
        event = tuple(self.event_shape)
        if tuple(value.shape[-len(event) :]) != event:
            raise ValueError(
                f"value has shape {tuple(value.shape)}; expected any batch shape followed by the "
                f"lattice {event}."
            )
        lead = value.shape[: value.dim() - len(event)]
        log_q = self.flow.log_prob(value.reshape(-1, *event))
        return log_q.reshape(lead)
