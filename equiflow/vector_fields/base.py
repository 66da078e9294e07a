"""The abstract vector field, from which every continuous flow is integrated.

Start at `VectorField`: a family of your own subclasses it and fills in `velocity_and_divergence`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from equiflow.nn.kernels.orbits import carry_over
from equiflow.ode.solver import Solver
from equiflow.runtime.autograd import detached, differentiable
from equiflow.runtime.options import RecordsOptions
from equiflow.theories.base.group import Group
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.prior import Prior, default_prior
from equiflow.theories.base.resizing import space_on
from equiflow.theories.base.space import Space
from equiflow.vector_fields.curvature import CurvatureRates, curvature_by_autograd


@dataclass(frozen=True)
class PathRates:
    """Rates of change along a trajectory. Only `velocity` keeps its graph.

    Attributes:
        velocity: `v(phi, t)`, `(batch, *lattice)`.
        divergence: `tr dv/dphi`, `(batch,)`, detached.
        score_rate: `d/dt grad log q = -(dv/dphi)^T grad log q - grad divergence`, detached.
    """

    velocity: Tensor
    divergence: Tensor
    score_rate: Tensor


class FusedField(ABC):
    """A vector field with whole solves by fused kernels, see `VectorField.fused`."""

    #: who evaluates the field, for people
    by: ClassVar[str] = "fused kernels"

    @abstractmethod
    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""

    @abstractmethod
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""

    @abstractmethod
    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """See `VectorField.path_rates`."""

    @abstractmethod
    def solve(
        self, phi: Tensor, t0: float, t1: float, *, method: str, steps: int, score: Tensor | None = None
    ) -> FusedSolution:
        """Integrate in equal steps.

        Args:
            phi: configurations at `t0`, `(batch, *lattice)`.
            t0: initial flow time.
            t1: final flow time.
            method: name of a formula with equal steps.
            steps: number of steps.
            score: `grad log q` at `t0`, `(batch, *lattice)`, to be carried along.

        Returns:
            The state at `t1`.
        """


@dataclass(frozen=True)
class FusedSolution:
    """The end of a solve by fused kernels. All but the score can be differentiated.

    Attributes:
        phi: configurations at the end, `(batch, *lattice)`.
        log_det: `int div v dt`, `(batch,)`.
        kinetic_energy: `int sum_x v_x^2 dt`, `(batch,)`.
        score: `grad log q` at the end, `(batch, *lattice)`, if it was carried along.
        nfe: evaluations of the vector field.
    """

    phi: Tensor
    log_det: Tensor
    kinetic_energy: Tensor
    score: Tensor | None
    nfe: int


class VectorField(RecordsOptions, nn.Module, ABC):
    """A time-dependent vector field `v(phi, t)` with the exact trace of its Jacobian.

    A subclass fills in `velocity_and_divergence`. It may override `path_rates` and `parameter_rates` with
    closed forms, and `resized` if its weights carry over to other lattices. The keyword arguments of its
    constructor are recorded and become `config`. `equiflow.testing.assert_vector_field` checks equivariance
    and divergence.

    Args:
        group: the symmetry that the field claims to respect; its space is the field's space.
    """

    group: Group
    #: who evaluates the field, for people
    by: ClassVar[str] = "torch"
    #: The solver while training, for objectives that do not adapt one. With the kinetic penalty, five steps
    #: suffice for training to climb smoothly. Results never depend on it.
    training_solver = Solver("rk5", steps=5)

    #: whether `fit_by_continuity` trains an untrained field well, and `fit` alone does not
    wants_least_squares: ClassVar[bool] = False

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group

    @classmethod
    def suits(cls, space: Space) -> bool:
        """Return whether the field can live on a space of its kind; override it if not on every one."""
        return True

    @property
    def learning_rate(self) -> float:
        """Return the peak learning rate of Adam that `fit` uses by default."""
        return 2e-2

    @property
    def training_steps(self) -> int:
        """Return the number of optimiser steps that `fit` takes by default."""
        return 600

    @property
    def training_batch_size(self) -> int:
        """Return the number of model samples per optimiser step that `fit` draws by default.

        Few suffice where the path gradient is exact, because its variance vanishes at the optimum. Override
        it where that was measured.
        """
        return 128

    def default_prior(self) -> Prior:
        """Return the prior that a flow with this field starts from unless told otherwise."""
        return default_prior(self.space, self.group)

    @property
    def linear_parameters(self) -> tuple[nn.Parameter, ...]:
        """Return the weights in which the velocity is linear, `v = v_0 + sum_i theta_i v_i(phi, t)`.

        `fit_by_continuity` finds them by least squares. There are none unless a field names them.
        """
        return ()

    @property
    def space(self) -> Space:
        """Return the space of the configurations on which the field is defined."""
        return self.group.space

    @property
    def lattice(self) -> Lattice:
        """Return the lattice on which the field lives."""
        return lattice_of(self.space)

    @property
    def trace_is_exact(self) -> bool:
        """Return whether the divergence is exact. An `EstimatedField` may estimate it for training."""
        return True

    def with_trace(self, trace: str, *, n_probes: int = 1) -> VectorField:
        """Return an independent copy whose divergence is computed another way, see `EstimatedField`.

        Args:
            trace: name of the method.
            n_probes: number of probes of an estimate, for each configuration.

        Returns:
            The copy, with equal weights.

        Raises:
            TypeError: if the divergence has a closed form.
        """
        raise TypeError(f"The divergence of {type(self).__name__} has a closed form; it is always exact.")

    def demand_exact_trace(self) -> None:
        """Raise unless the divergence is exact.

        Raises:
            ValueError: if it is estimated.
        """
        if not self.trace_is_exact:
            raise ValueError(
                f"The divergence of {type(self).__name__} is only estimated: enough for training, not for "
                'results. Take them from flow.with_trace("dense"), which has the same weights.'
            )

    def for_solve(self, phi: Tensor, generator: torch.Generator | None = None) -> VectorField:
        """Return the field to use during one solve that starts at `phi`.

        This is the field itself, unless something random has to be drawn once per solve.

        Args:
            phi: `(batch, *lattice)`.
            generator: source of randomness, on the field's device.

        Returns:
            A field that gives the same rates during the whole solve.
        """
        return self

    def fused(self, phi: Tensor) -> FusedField | None:
        """Return the field with fused kernels for solves that start at `phi`, or None if there are none.

        Args:
            phi: `(batch, *lattice)`.
        """
        return None

    @abstractmethod
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return velocity and divergence at flow time `t`.

        Args:
            phi: `(batch, *lattice)`.
            t: float or 0-d tensor in [0, 1].

        Returns:
            `v(phi, t)` of shape `(batch, *lattice)` and `tr dv/dphi` of shape `(batch,)`.
        """

    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """Return the velocity alone.

        Args:
            phi: `(batch, *lattice)`.
            t: float or 0-d tensor in [0, 1].

        Returns:
            `v(phi, t)`, `(batch, *lattice)`.
        """
        return self.velocity_and_divergence(phi, t)[0]

    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """Return velocity, divergence and the rate of change of the score along the flow (arXiv:2206.09016).

        The default takes a vector-Jacobian product; closed forms are cheaper. On a group the derivatives are
        those along moves, and `[v, grad log q]` is added to the rate.

        Args:
            phi: `(batch, *lattice)`.
            t: float or 0-d tensor in [0, 1].
            score: `grad log q(phi)` at time t, `(batch, *lattice)`.

        Returns:
            The three rates.
        """
        keeps_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # The velocity's graph serves twice: here, and for whoever differentiates the trajectory.
            flat = self.space.is_flat
            leaf = differentiable(phi) if flat else torch.zeros_like(score).requires_grad_()
            point = leaf if flat else self.space.move(phi, leaf)
            velocity, divergence = self.velocity_and_divergence(point, t)
            scalar = (velocity * detached(score)).sum() + divergence.sum()
            (gradient,) = torch.autograd.grad(scalar, leaf, retain_graph=keeps_graph)
        rate = -gradient
        if not flat:
            rate = rate + self.space.bracket(velocity.detach(), detached(score))
        return PathRates(velocity if keeps_graph else velocity.detach(), divergence.detach(), rate)

    def curvature_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> CurvatureRates:
        """Return what carries the Hessian of log q along the flow, as local energies need it; not on groups.

        The default differentiates `velocity_and_divergence` twice; closed forms are much cheaper.

        Args:
            phi: `(batch, *lattice)`.
            t: float or 0-d tensor in [0, 1].
            score: `grad log q(phi)` at time t, `(batch, *lattice)`.

        Returns:
            Velocity, divergence, score rate, Jacobian and second derivatives, detached.
        """
        return curvature_by_autograd(lambda leaf: self.velocity_and_divergence(leaf, t), phi, score)

    @torch.no_grad()
    def parameter_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> Tensor:
        """Return `d/dtheta (div v + v . score)` of each configuration, as natural gradients need it.

        The default takes one backward pass for each configuration; closed forms are much cheaper.

        Args:
            phi: `(batch, *lattice)`.
            t: float or 0-d tensor in [0, 1].
            score: `grad log q(phi)` at time t, `(batch, *lattice)`.

        Returns:
            `(batch, parameter)`, the trained parameters flattened in the order of `parameters()`.
        """
        trained = [p for p in self.parameters() if p.requires_grad]
        rows = []
        for one, its_score in zip(phi.detach().split(1), score.detach().split(1), strict=True):
            with torch.enable_grad():
                velocity, divergence = self.velocity_and_divergence(one, t)
                scalar = divergence.sum() + (velocity * its_score).sum()
                gradients = torch.autograd.grad(scalar, trained, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        return torch.stack(rows) if rows and trained else phi.new_zeros(len(phi), 0)

    def resized(self, lattice: Lattice) -> VectorField:
        """Return the field on a lattice of another size, with its weights carried over.

        Raises:
            ValueError: if the lattice has another number of dimensions or lacks the symmetry.
            TypeError: if this kind of field does not say how its weights carry over.
        """
        raise TypeError(f"{type(self).__name__} does not carry over to another lattice; override `resized`.")

    @property
    def is_rough_when_resized(self) -> bool:
        """Whether a resized field is far from its optimum until a sweep of `fit_by_continuity`."""
        return False

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the modules: space, group and options."""
        options = [f"{name}={value}" for name, value in self.config().items()]
        return ", ".join([f"{self.space.kind}={self.space.shape}", f"group={self.group}", *options])

    def _rebuilt_on(self, lattice: Lattice) -> Any:
        """Return a field with the same options on another lattice; its kernels carry over by offset."""
        build: Any = type(self)
        space = space_on(self.space, lattice)
        field = build(space, group=self.group.on(space), **self.config())
        weight = next(self.parameters())
        carry_over(self, field.to(weight.device, weight.dtype))
        return field
