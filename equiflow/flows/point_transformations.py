"""Point transformations: bijections of positions, with the map of momenta that makes them canonical.

`PointTransformation` takes a flow with an exact inverse, `FieldTransformation` a vector field.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.flows.base import Flow
from equiflow.flows.cnf import EquivariantCNF
from equiflow.flows.descriptions import describe
from equiflow.nn.couplings.canonical import CanonicalLayer
from equiflow.ode.solver import SolverError
from equiflow.runtime.autograd import differentiable
from equiflow.runtime.checks import check_count, check_type
from equiflow.theories.base.lattice import Lattice
from equiflow.vector_fields import VectorField, known_fields

#: iterations in which a step of the implicit midpoint rule must converge
MAX_ITERATIONS = 100


class PointTransformation(CanonicalLayer):
    r"""A bijection of positions with the map of momenta that it induces: `q' = f(q)`, `p' = (df/dq)^{-T} p`.

    The momenta are products of p with the Jacobian of the inverse, `p' = d/dq' (p . f^{-1}(q'))`, so the map
    is canonical as exactly as the inverse of f is known. New positions depend on positions alone, and remain
    readable as collective coordinates.

    Args:
        lattice: where positions and momenta live.
        bijection: f, a flow on the same lattice with an exact inverse, such as a `CouplingFlow`. Its prior
            has no effect.

    Raises:
        TypeError: if `bijection` is not a `Flow`, or integrates.
        ValueError: if it lives on another space.
    """

    def __init__(self, lattice: Lattice, bijection: Flow) -> None:
        super().__init__(lattice)
        check_type(bijection, Flow, "bijection")
        if isinstance(bijection, EquivariantCNF):
            raise TypeError(
                "bijection is an EquivariantCNF, whose inverse is exact up to solver errors only. Take its "
                "field: FieldTransformation(lattice, flow.vector_field) is canonical to rounding."
            )
        if bijection.space != lattice:
            raise ValueError(
                f"The bijection lives on {bijection.space.kind} {bijection.space.shape}, the positions on "
                f"{lattice.shape}. Build both from the same Lattice."
            )
        self.bijection = bijection

    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.forward`."""
        new = self.bijection.transform_and_log_det(q)[0]
        return new, _pulled(lambda x: self.bijection.inverse_and_log_det(x)[0], new, p)

    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.inverse`."""
        back = self.bijection.inverse_and_log_det(q)[0]
        return back, _pulled(lambda x: self.bijection.transform_and_log_det(x)[0], back, p)

    def config(self) -> dict[str, object]:
        """Return the recipe of the bijection, from which a saved flow rebuilds the layer."""
        return {"bijection": self.bijection.recipe()}

    def __repr__(self) -> str:
        return f"PointTransformation({type(self.bijection).__name__})"


class FieldTransformation(CanonicalLayer):
    r"""The point transformation along a vector field: the motion in `H = p . v(q, t)` for t from 0 to 1.

    `dq/dt = v(q, t)` is the ODE of an `EquivariantCNF`, and `dp/dt = -(dv/dq)^T p` carries momenta along. The
    implicit midpoint rule solves both in equal steps. It is canonical for steps of any size, and a step
    backwards in time undoes one forwards, to rounding. So the result is exact as a map, although not as a
    solution of the ODE.

    Args:
        lattice: where positions and momenta live.
        vector_field: v, on the same lattice, and differentiable twice, such as a `PotentialField`. An
            `OrbitConvField` is not.
        n_steps: number of steps.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the field lives on another space.
    """

    def __init__(self, lattice: Lattice, vector_field: VectorField, *, n_steps: int = 4) -> None:
        super().__init__(lattice)
        check_type(
            vector_field, VectorField, "vector_field", "Give an instance, such as PotentialField(lattice)."
        )
        if vector_field.space != lattice:
            raise ValueError(
                f"The vector field lives on {vector_field.space.kind} {vector_field.space.shape}, the "
                f"positions on {lattice.shape}. Build both from the same Lattice."
            )
        self.vector_field = vector_field
        self.n_steps = check_count(n_steps, "n_steps")

    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.forward`; a SolverError is raised if the steps are too long for the field."""
        for step in range(self.n_steps):
            q, p = self._step(q, p, (step + 0.5) / self.n_steps, 1 / self.n_steps)
        return q, p

    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.inverse` and `forward`."""
        for step in reversed(range(self.n_steps)):
            q, p = self._step(q, p, (step + 0.5) / self.n_steps, -1 / self.n_steps)
        return q, p

    def _step(self, q: Tensor, p: Tensor, t: float, h: float) -> tuple[Tensor, Tensor]:
        """Return positions and momenta after one step of size h about the time t."""
        middle_q = _fixed_point(lambda x: q + 0.5 * h * self.vector_field.velocity(x, t), q)
        middle_p = _fixed_point(
            lambda x: p - 0.5 * h * _pulled(lambda y: self.vector_field.velocity(y, t), middle_q, x), p
        )
        return 2 * middle_q - q, 2 * middle_p - p

    def config(self) -> dict[str, object]:
        """Return the description of the field, from which a saved flow rebuilds the layer."""
        field = describe(self.vector_field, known_fields(), self.lattice)
        return {"vector_field": field, "n_steps": self.n_steps}

    def __repr__(self) -> str:
        return f"FieldTransformation({type(self.vector_field).__name__}, n_steps={self.n_steps})"


def _fixed_point(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return x with `x = function(x)` to rounding, with a graph through the iterations."""
    x = start
    for _ in range(MAX_ITERATIONS):
        before, x = x, function(x)
        scale = 1 + x.detach().abs().max() if len(x) else 1.0
        if not len(x) or bool((x - before).detach().abs().max() <= 4 * torch.finfo(x.dtype).eps * scale):
            break
    else:
        raise SolverError(
            f"A step of the implicit midpoint rule did not converge in {MAX_ITERATIONS} iterations; give "
            "FieldTransformation more n_steps."
        )
    # The derivatives of x converge with it: those of the k-th iteration are off by k times its last change.
    return x


def _pulled(function: Callable[[Tensor], Tensor], x: Tensor, covector: Tensor) -> Tensor:
    """Return `(dy/dx)^T covector` for `y = function(x)`, with a graph where one is wanted."""
    wanted = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        leaf = differentiable(x)
        (gradient,) = torch.autograd.grad(function(leaf), leaf, covector, create_graph=wanted)
    return gradient
