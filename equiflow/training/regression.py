"""Least squares for the continuity equation along a path of densities: `Regression`, sweep by sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from equiflow.flows import EquivariantCNF
from equiflow.flows.kernels import integrate_in
from equiflow.ode.integrate import State
from equiflow.ode.solver import Solver
from equiflow.theories.base.paths import ActionPath
from equiflow.vector_fields import VectorField
from equiflow.vector_fields.chunks import in_chunks


@dataclass(frozen=True)
class Sweep:
    """What is left of a sweep, see `History`."""

    loss: float
    ess: float | None
    gradient: float
    nfe: int


class Equations:
    """Normal equations for a change of the weights.

    Args:
        n: number of weights.
        like: a tensor on the device of the flow.
    """

    def __init__(self, n: int, like: Tensor) -> None:
        self.gram = torch.zeros(n, n, dtype=torch.float64, device=like.device)
        self.right = torch.zeros(n, dtype=torch.float64, device=like.device)
        self.square = 0.0

    def add(self, rows: Tensor, residual: Tensor, weight: float) -> None:
        """Add the variance of `residual + rows . change`.

        Args:
            rows: `(sample, weight)`.
            residual: `(sample,)`.
            weight: of this variance.
        """
        rows, residual, factor = rows - rows.mean(0), residual - residual.mean(), weight / len(rows)
        self.gram.addmm_(rows.mT, rows, alpha=factor)
        self.right.addmv_(rows.mT, residual, alpha=-factor)
        self.square += weight * float(residual.square().mean())

    def left(self, change: Tensor) -> float:
        """Return what the variances add up to after a change of the weights."""
        return self.square + float(change @ (self.gram @ change - 2 * self.right))

    def solve(self, ridge: float) -> Tensor:
        """Return the change of the weights, `(weight,)`."""
        size = self.gram.diagonal()
        # Weights without any effect stay as they are.
        scale = (size + 1e-16 * size.max() + torch.finfo(size.dtype).tiny).rsqrt()
        gram = self.gram * scale * scale[:, None]
        gram.diagonal().add_(ridge)
        return torch.linalg.solve(gram, self.right * scale) * scale


class Regression:
    """Sweeps through time for one flow.

    Args:
        flow: whose field is changed.
        path: densities on the way.
        solver: leads from each time to the next.
        n_times: number of times.
        ridge: see `fit_by_continuity`.

    Raises:
        TypeError: if the field has no linear weights.
    """

    def __init__(
        self, flow: EquivariantCNF, path: ActionPath, solver: Solver, n_times: int, ridge: float
    ) -> None:
        self.field, self.space, self.path = flow.vector_field, flow.space, path
        self.solver, self.ridge = solver, ridge
        self.trained = [p for p in self.field.linear_parameters if p.requires_grad]
        if not self.trained:
            raise TypeError(
                f"{type(self.field).__name__} has no linear weights to train. Take U1Field, SUNField or "
                "OrbitConvField, give your own field the property linear_parameters, or use fit."
            )
        nodes, weights = np.polynomial.legendre.leggauss(n_times)
        self.times = [
            (float(node + 1) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)
        ]

    def sweep(self, phi: Tensor, note: Callable[[], object], local: float = 0.1) -> Sweep:
        """Lead samples of the prior through time, and improve the weights.

        Args:
            phi: samples of the prior.
            note: called after every time.
            local: weight of the residuals at each time, beside that of their integrals.

        Returns:
            How the sweep went.
        """
        with _trained_alone(self.field, self.trained):
            return self._march(phi, note) if self._stands_still() else self._refine(phi, note, local)

    def _march(self, phi: Tensor, note: Callable[[], object]) -> Sweep:
        """Find the weights of a field that stands still, from one time to the next."""
        n, now, nfe = self._weights().numel(), 0.0, 0
        together = Equations(n, phi)
        for t, weight in self.times:
            phi, taken = self._carried(phi, now, t, frozen_at=now)
            rows, target = self._equations(phi, t)
            together.add(rows, -target, weight)
            here = Equations(n, phi)
            here.add(rows, rows @ self._weights() - target, 1.0)
            self._set_weights(self._weights() + here.solve(self.ridge))
            now, nfe = t, nfe + taken
            note()
        found = together.solve(self.ridge)
        self._set_weights(found)
        return Sweep(together.left(found), None, 2 * float(together.right.norm()), nfe)

    def _refine(self, phi: Tensor, note: Callable[[], object], local: float) -> Sweep:
        """Take a step of Gauss and Newton from the present weights."""
        weights, now, nfe = self._weights(), 0.0, 0
        equations = Equations(weights.numel(), phi)
        whole = torch.zeros(len(phi), len(weights), dtype=torch.float64, device=phi.device)
        log_weight = torch.zeros(len(phi), dtype=torch.float64, device=phi.device)
        for t, weight in self.times:
            phi, taken = self._carried(phi, now, t)
            rows, target = self._equations(phi, t)
            residual = rows @ weights - target
            equations.add(rows, residual, local * weight)
            whole += weight * rows
            log_weight += weight * residual
            now, nfe = t, nfe + taken
            note()
        equations.add(whole, log_weight, 1.0)
        self._set_weights(weights + equations.solve(self.ridge))
        log_n = math.log(len(log_weight))
        ess = float((2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0) - log_n).exp())
        return Sweep(-float(log_weight.mean()), ess, 2 * float(equations.right.norm()), nfe)

    def _equations(self, phi: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Return the rows A and the values y of `A . theta = y`, up to a constant, in double precision."""
        action, rows, values = self.path.at(t), [], []
        for part in in_chunks(self.field.lattice, phi):
            rows.append(self.field.parameter_rates(part, t, -action.grad(part)))
            values.append(self.path.rate(part, t))
        return torch.cat(rows).double(), torch.cat(values).double()

    def _carried(
        self, phi: Tensor, start: float, end: float, frozen_at: float | None = None
    ) -> tuple[Tensor, int]:
        """Return samples at a later time, and the number of evaluations. A field can be frozen in time."""

        def rates(t: Tensor, state: State) -> State:
            return (self.field.velocity(state[0], t if frozen_at is None else frozen_at),)

        ends = [
            integrate_in(self.space, rates, (part,), start, end, self.solver)
            for part in in_chunks(self.field.lattice, phi)
        ]
        return torch.cat([each.state[0] for each in ends]), ends[0].nfe

    def _stands_still(self) -> bool:
        return not any(bool(p.any()) for p in self.trained)

    def _weights(self) -> Tensor:
        """Return the linear weights in double precision, `(weight,)`."""
        return torch.cat([p.detach().flatten().double() for p in self.trained])

    def _set_weights(self, weights: Tensor) -> None:
        for parameter, its in zip(
            self.trained, weights.split([p.numel() for p in self.trained]), strict=True
        ):
            parameter.copy_(its.view_as(parameter))


@contextmanager
def _trained_alone(field: VectorField, trained: list[nn.Parameter]) -> Iterator[None]:
    """Let some parameters of a field be the only ones that are trained, for a while."""
    others = [p for p in field.parameters() if p.requires_grad and not any(p is own for own in trained)]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
