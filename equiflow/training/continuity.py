"""Training without gradients of a solve: least squares for the continuity equation, `fit_by_continuity`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from equiflow.flows import EquivariantCNF
from equiflow.ode.solver import Solver, SolverError
from equiflow.runtime.checks import check_count, check_positive, check_seed, check_type
from equiflow.runtime.precision import full_precision
from equiflow.runtime.progress import progress_as, progress_bar
from equiflow.runtime.storage import CheckpointError, save_atomically
from equiflow.theories.base.action import Action
from equiflow.theories.base.paths import ActionPath, path_between
from equiflow.training.checkpoints import (
    check_same_settings,
    read_checkpoint,
    sound_history,
    without_addresses,
)
from equiflow.training.history import REVERSE_KL, History
from equiflow.training.regression import Regression
from equiflow.training.run import TrainingDivergedError
from equiflow.training.validation import check_target

#: `History.loss_name` of a sweep that begins with a field that stands still
OF_A_FIRST_SWEEP = "int Var[r] dt"


@full_precision
@torch.no_grad()
def fit_by_continuity(
    flow: EquivariantCNF,
    action: Action,
    *,
    path: ActionPath | None = None,
    sweeps: int = 3,
    n_samples: int | Sequence[int] = 2048,
    n_times: int = 24,
    local: float | Sequence[float] = 0.1,
    ridge: float = 1e-6,
    solver: Solver | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
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

        Var[int r dt] + local int Var[r] dt,

    the variance of the log weights, and a part of the residuals themselves. A few sweeps suffice. `fit` can
    go on from there, with a small learning rate.

    Use it where a field has hundreds of linear weights rather than many thousands, and where the straight way
    of training fails, as in gauge theory. All weights that are not linear, and those of the prior, stay as
    they are. A flow that is trained already, for instance on a smaller lattice, is improved.

    Args:
        flow: trained in place.
        action: the target.
        path: the densities on the way; by default the path that suits the action, see `path_between`.
        sweeps: number of sweeps through time.
        n_samples: samples per sweep, several times the number of linear weights; one number for all sweeps
            or one each. What the weights owe to the samples themselves is decided in the last sweep: with p
            weights and n samples, it enlarges the variance of the log weights by up to `p / n` of it.
        n_times: number of times in a sweep, the nodes of a Gauss-Legendre rule.
        local: weight of the residuals at each time beside their integrals; one number for all sweeps or one
            each. It guides a flow that is far from its target, and holds one back that is near: where the
            last sweep has ten samples per weight or more, 0.01 there gives a smaller variance.
        ridge: weight of the squared changes of the weights, relative to their effect.
        solver: leads from each time to the next; by default one step of rk4.
        seed: of the samples; no global randomness is used.
        checkpoint: file that keeps the state after every sweep; if it exists, the run goes on from there.
        callback: called with the history after every sweep, before its checkpoint is written.
        progress: whether to show a bar, see `fit`.

    Returns:
        The history, one entry per sweep. Loss, `mean(log q + S)`, and ESS are those of the flow with which
        the sweep began; the loss of a first sweep is the remaining `int Var[r] dt`, as its `loss_name` says,
        and its ESS is None.

    Raises:
        TypeError: if an argument is of the wrong type, or the field has no linear weights.
        ValueError: if a number is out of range, a sequence has not one entry for each sweep, or flow, action
            and path do not belong together.
        TrainingDivergedError: if samples or weights are not finite.
        CheckpointError: if the checkpoint is damaged or belongs to another run.

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
    for name, count in (("sweeps", sweeps), ("n_times", n_times)):
        check_count(count, name)
    samples = _one_each("n_samples", n_samples, sweeps, check_count)
    locals_ = _one_each("local", local, sweeps, check_positive)
    solver = Solver("rk4", steps=1) if solver is None else solver
    check_type(solver, Solver, "solver", 'Write Solver("rk4", steps=1).')
    path = path_between(flow.prior, action) if path is None else path
    check_type(path, ActionPath, "path", "Write StraightPath(flow.prior, action).")
    if path.action is not action or path.prior is not flow.prior:
        raise ValueError(f"{path} leads elsewhere; expected a path from flow.prior to the action.")
    # Runs begun before there was a choice go on.
    chosen = "" if local == 0.1 else f", local={local}"
    regression = Regression(flow, path, solver, n_times, check_positive(ridge, "ridge"))
    generator = torch.Generator(flow.device).manual_seed(check_seed(seed))
    settings = without_addresses(
        {
            "flow": repr(flow),
            "action": repr(action),
            "path": repr(path),
            "seed": seed,
            "training": f"n_samples={n_samples}, n_times={n_times}, ridge={ridge}, solver={solver}{chosen}",
        }
    )
    history = _resumed(flow, generator, settings, checkpoint, sweeps)
    done = len(history)
    started = time.perf_counter() - (history.seconds[-1] if done else 0.0)
    with (
        progress_as(progress),
        progress_bar(sweeps * n_times, "training", "time", initial=done * n_times) as bar,
    ):
        for n in range(done + 1, sweeps + 1):
            phi = flow.prior.rsample(samples[n - 1], generator)
            try:
                swept = regression.sweep(phi, bar.update, locals_[n - 1])
            except SolverError as error:
                raise TrainingDivergedError(f"Sweep {n} failed: {error}", history) from error
            if not (math.isfinite(swept.loss) and math.isfinite(swept.gradient)):
                raise TrainingDivergedError(
                    f"Sweep {n} left the numbers: loss {swept.loss}, gradient {swept.gradient}. Take more "
                    "samples or times, or a larger ridge.",
                    history,
                )
            history.append(
                step=n,
                loss=swept.loss,
                ess=swept.ess,
                grad_norm=swept.gradient,
                learning_rate=1.0,
                nfe=swept.nfe,
                seconds=time.perf_counter() - started,
                loss_name=OF_A_FIRST_SWEEP if swept.ess is None else REVERSE_KL,
            )
            bar.set_postfix(history.last())
            if callback is not None:
                callback(history)
            if checkpoint is not None:
                save_atomically(_state(flow, generator, settings, history), checkpoint)
    return history


def _one_each(name: str, value: Any, sweeps: int, check: Callable[[Any, str], Any]) -> list[Any]:
    """Return a number for each sweep, given one for all or one each."""
    if not isinstance(value, Sequence):
        return [check(value, name)] * sweeps
    if len(value) != sweeps:
        raise ValueError(f"{name} has {len(value)} entries for {sweeps} sweeps; give one each.")
    return [check(one, f"Each of {name}") for one in value]


def _state(
    flow: EquivariantCNF, generator: torch.Generator, settings: dict[str, Any], history: History
) -> dict[str, Any]:
    """Return what a checkpoint holds, see `_resumed`."""
    return {
        "kind": "training",
        "step": len(history),
        "history": history.to_dict(),
        "settings": settings,
        "flow": flow.state_dict(),
        "generator": generator.get_state(),
    }


def _resumed(
    flow: EquivariantCNF,
    generator: torch.Generator,
    settings: dict[str, Any],
    checkpoint: str | Path | None,
    sweeps: int,
) -> History:
    """Bring flow and generator to the state of a checkpoint, if there is one, and return its history."""
    state = read_checkpoint(checkpoint)
    if state is None:
        return History()
    try:
        saved = dict(state["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} says nothing of the run that it belongs to.") from error
    check_same_settings(saved, settings)
    try:
        history = sound_history(state, sweeps)
        flow.load_state_dict(state["flow"])
        generator.set_state(state["generator"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint} cannot be resumed: {error}.") from error
    return history
