"""Training without gradients of a solve: least squares for the continuity equation, `fit_by_continuity`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from equiflow.flows import EquivariantCNF
from equiflow.flows.kernels import integrate_in
from equiflow.ode.integrate import State
from equiflow.ode.solver import Solver, SolverError
from equiflow.runtime import distributed
from equiflow.runtime.checks import check_count, check_positive, check_seed, check_type
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.action import Action
from equiflow.theories.base.paths import ActionPath, path_between
from equiflow.training.history import History
from equiflow.training.run import TrainingDivergedError
from equiflow.training.validation import check_target
from equiflow.vector_fields import VectorField
from equiflow.vector_fields.chunks import in_chunks

#: weight of the residuals at each time, beside that of their integrals
LOCAL = 0.1


@full_precision
@torch.no_grad()
def fit_by_continuity(
    flow: EquivariantCNF,
    action: Action,
    *,
    path: ActionPath | None = None,
    sweeps: int = 3,
    n_samples: int = 2048,
    n_times: int = 24,
    ridge: float = 1e-6,
    solver: Solver | None = None,
    seed: int = 0,
    callback: Callable[[History], None] | None = None,
    progress: bool | None = None,
) -> History:
    r"""Train the linear weights of a vector field by least squares for the continuity equation.

    Along a path of densities `exp(-S_t) / Z_t` from the prior to the target, an exact field has the residual

        r = div v - v . grad S_t - dS_t/dt + const = 0,

    which is linear in the weights of a velocity `v = sum_i theta_i v_i(phi, t)`, see
    `VectorField.linear_parameters`. So the weights solve linear equations, and no solve is differentiated.
    The integral of r along a trajectory is the log weight of the sample.

    A field that stands still is found in a first sweep through time: at each time, least squares over all
    samples give the velocity with which they go on. All times together then give the weights. Every further
    sweep starts from fresh samples and takes a Gauss-Newton step that minimises

        Var[int r dt] + 0.1 int Var[r] dt,

    the variance of the log weights, and a tenth of the residuals themselves. A few sweeps suffice. `fit` can
    go on from there, with a small learning rate.

    Use it where a field has hundreds of linear weights rather than many thousands, and where the straight way
    of training fails, as in gauge theory. All weights that are not linear, and those of the prior, stay as
    they are. A flow that is trained already, for instance on a smaller lattice, is improved.

    Args:
        flow: trained in place.
        action: the target.
        path: the densities on the way; by default the path that suits the action, see `path_between`.
        sweeps: number of sweeps through time.
        n_samples: samples per sweep, several times the number of linear weights.
        n_times: number of times in a sweep, the nodes of a Gauss-Legendre rule.
        ridge: weight of the squared changes of the weights, relative to their effect.
        solver: leads from each time to the next; by default one step of rk4.
        seed: of the samples; no global randomness is used.
        callback: called with the history after every sweep.
        progress: whether to show a progress bar; None shows it on a terminal only.

    Returns:
        The history, one entry per sweep. Loss and ESS are those of the flow with which the sweep began; the
        loss of a first sweep is the remaining `int Var[r] dt`, and its ESS is None.

    Raises:
        TypeError: if an argument is of the wrong type, or the field has no linear weights.
        ValueError: if a number is out of range, or flow, action and path do not belong together.
        TrainingDivergedError: if samples or weights are not finite.

    References:
        arXiv:2301.07388 and arXiv:2405.06672 (flows from the continuity equation), arXiv:0907.5491.

    >>> from equiflow import FreeField, FreeScalar, Lattice, OrbitConvField
    >>> lattice = Lattice((4, 4))
    >>> prior = FreeField(lattice, m2=2.0, learnable=False)
    >>> flow = EquivariantCNF(lattice, vector_field=OrbitConvField(lattice), prior=prior)
    >>> history = fit_by_continuity(flow, FreeScalar(lattice, m2=1.0), n_samples=256, n_times=8)
    >>> history.ess[-1] > 0.9
    True
    """
    check_type(flow, EquivariantCNF, "flow")
    check_target(flow, action)
    for name, count in (("sweeps", sweeps), ("n_samples", n_samples), ("n_times", n_times)):
        check_count(count, name)
    solver = Solver("rk4", steps=1) if solver is None else solver
    check_type(solver, Solver, "solver", 'Write Solver("rk4", steps=1).')
    path = path_between(flow.prior, action) if path is None else path
    check_type(path, ActionPath, "path", "Write StraightPath(flow.prior, action).")
    if path.action is not action or path.prior is not flow.prior:
        raise ValueError(f"{path} leads elsewhere; expected a path from flow.prior to the action.")
    regression = _Regression(flow, path, solver, n_times, check_positive(ridge, "ridge"))
    generator = torch.Generator(flow.device).manual_seed(check_seed(seed))
    history, started = History(), time.perf_counter()
    hidden = True if not distributed.is_first() else None if progress is None else not progress
    with tqdm(total=sweeps * n_times, desc="training", unit="time", disable=hidden) as bar:
        for n in range(1, sweeps + 1):
            phi = flow.prior.rsample(n_samples, generator)
            try:
                done = regression.sweep(phi, bar.update)
            except SolverError as error:
                raise TrainingDivergedError(f"Sweep {n} failed: {error}", history) from error
            if not (math.isfinite(done.loss) and math.isfinite(done.gradient)):
                raise TrainingDivergedError(
                    f"Sweep {n} left the numbers: loss {done.loss}, gradient {done.gradient}. Take more "
                    "samples or times, or a larger ridge.",
                    history,
                )
            history.append(
                step=n,
                loss=done.loss,
                ess=done.ess,
                grad_norm=done.gradient,
                learning_rate=1.0,
                nfe=done.nfe,
                seconds=time.perf_counter() - started,
            )
            bar.set_postfix(history.last())
            if callback is not None:
                callback(history)
    return history


@dataclass(frozen=True)
class _Sweep:
    """What is left of a sweep, see `History`."""

    loss: float
    ess: float | None
    gradient: float
    nfe: int


class _Equations:
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


class _Regression:
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

    def sweep(self, phi: Tensor, note: Callable[[], object]) -> _Sweep:
        """Lead samples of the prior through time, and improve the weights.

        Args:
            phi: samples of the prior.
            note: called after every time.

        Returns:
            How the sweep went.
        """
        with _trained_alone(self.field, self.trained):
            return self._march(phi, note) if self._stands_still() else self._refine(phi, note)

    def _march(self, phi: Tensor, note: Callable[[], object]) -> _Sweep:
        """Find the weights of a field that stands still, from one time to the next."""
        n, now, nfe = self._weights().numel(), 0.0, 0
        together = _Equations(n, phi)
        for t, weight in self.times:
            phi, taken = self._carried(phi, now, t, frozen_at=now)
            rows, target = self._equations(phi, t)
            together.add(rows, -target, weight)
            here = _Equations(n, phi)
            here.add(rows, rows @ self._weights() - target, 1.0)
            self._set_weights(self._weights() + here.solve(self.ridge))
            now, nfe = t, nfe + taken
            note()
        found = together.solve(self.ridge)
        self._set_weights(found)
        return _Sweep(together.left(found), None, 2 * float(together.right.norm()), nfe)

    def _refine(self, phi: Tensor, note: Callable[[], object]) -> _Sweep:
        """Take a step of Gauss and Newton from the present weights."""
        weights, now, nfe = self._weights(), 0.0, 0
        equations = _Equations(weights.numel(), phi)
        whole, log_weight = 0.0, 0.0
        for t, weight in self.times:
            phi, taken = self._carried(phi, now, t)
            rows, target = self._equations(phi, t)
            residual = rows @ weights - target
            equations.add(rows, residual, LOCAL * weight)
            whole, log_weight = whole + weight * rows, log_weight + weight * residual
            now, nfe = t, nfe + taken
            note()
        equations.add(whole, log_weight, 1.0)
        self._set_weights(weights + equations.solve(self.ridge))
        log_n = math.log(len(log_weight))
        ess = float((2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0) - log_n).exp())
        return _Sweep(-float(log_weight.mean()), ess, 2 * float(equations.right.norm()), nfe)

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
