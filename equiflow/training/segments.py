"""Training the layers of a `StochasticFlow`, one after the other: `fit_segments`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from torch import nn
from torch.optim import Optimizer

from equiflow.flows import Flow, Pool, StochasticFlow
from equiflow.runtime.checks import check_type
from equiflow.runtime.randomness import seeded
from equiflow.theories.base.action import Action
from equiflow.theories.base.bridge import Bridge
from equiflow.training.history import History
from equiflow.training.objectives.base import Objective, check_suits
from equiflow.training.reservoir import Reservoir, starting_from
from equiflow.training.trainer import fit

if TYPE_CHECKING:
    from typing import Unpack


class SegmentOptions(TypedDict, total=False):
    """Options of `fit` that are the same for every layer."""

    steps: int | None
    batch_size: int | None
    learning_rate: float | None
    warmup: int
    clip_norm: float
    optimiser: Callable[[list[nn.Parameter], float], Optimizer]
    checkpoint_every: int
    callback: Callable[[History], None] | None
    progress: bool | None


def fit_segments(
    flow: StochasticFlow,
    *,
    n_samples: int = 4096,
    n_tuning: int = 40,
    objective: Objective | Sequence[Objective | None] | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    **options: Unpack[SegmentOptions],
) -> list[History]:
    r"""Train the layers of a stochastic flow in place, each to carry `exp(-S_{k-1})` to `exp(-S_k)`.

    A pool of samples travels along the path. Before each leg its layer is trained on them, by
    `mean[S_k(f(x)) - log |det df/dx|]` or another objective; then the pool goes on through the trained layer,
    is resampled if its weights are uneven, and is updated (arXiv:2102.07501, 2201.13117). Kernels that are
    not tuned are tuned on the way. Legs without a layer stay as they are, and so does the prior.

    The weights of `stochastic_importance_sample` are those of fresh samples, so that log Z stays unbiased
    whatever the pool is.

    Args:
        flow: its layers are trained, its kernels tuned.
        n_samples: size of the pool. Many parameters adapt to its samples if it is small.
        n_tuning: updates by which a kernel is tuned.
        objective: see `fit`, one for all layers or one for each leg. `ForwardKL(samples)` needs samples of
            each action, `[ForwardKL(of_k) for of_k in samples]`.
        seed: of the pool and of training.
        checkpoint: file name to which each layer adds its number: `run.pt` becomes `run-1.pt`. An interrupted
            run goes on from there.
        options: options of `fit` for all layers: `steps`, `batch_size`, `learning_rate`, `warmup`,
            `clip_norm`, `optimiser`, `checkpoint_every`, `callback` and `progress`.

    Returns:
        One history for each layer, in order.

    Raises:
        TypeError: if an argument is of another type, or an objective does not suit its layer.
        ValueError: if a number is out of range, or objectives are not one for each leg.
        TrainingDivergedError: see `fit`.

    >>> from equiflow import HMC, EquivariantCNF, FreeField, Lattice, Phi4, geometric_path
    >>> lattice = Lattice((4, 4))
    >>> prior = FreeField(lattice)
    >>> path = geometric_path(prior, Phi4(lattice, m2=-4.0, lam=8.0), 2)
    >>> flow = StochasticFlow(prior, path, layers=[EquivariantCNF(lattice) for _ in path], kernel=HMC)
    >>> histories = fit_segments(flow, n_samples=64, n_tuning=4, steps=2, batch_size=16)
    >>> [len(history) for history in histories]
    [2, 2]
    """
    check_type(flow, StochasticFlow, "flow")
    objectives = _one_each(objective, len(flow.legs))
    for leg, one in zip(flow.legs, objectives, strict=True):
        if leg.layer is not None and one is not None:
            check_suits(one, leg.layer, leg.action)
    histories: list[History] = []

    def train(pool: Pool) -> None:
        leg, before = flow.legs[pool.index], pool.action
        if leg.layer is None:
            return
        if before is None:  # the prior as an action
            before = Bridge(flow.prior, leg.action, beta=0.0)
        twin = _on_pool(leg.layer, before, pool)
        path = None if checkpoint is None else _numbered(Path(checkpoint), len(histories) + 1)
        one = objectives[pool.index]
        history = fit(twin, leg.action, objective=one, seed=seed, checkpoint=path, **options)
        histories.append(history)

    fixed = [weight for weight in flow.prior.parameters() if weight.requires_grad]
    for weight in fixed:  # actions of the path may contain the prior
        weight.requires_grad_(False)
    try:
        generator = seeded(seed, device=flow.device)
        flow.tune(n_samples, n_tuning=n_tuning, train=train, generator=generator)
    finally:
        for weight in fixed:
            weight.requires_grad_(True)
    return histories


def _on_pool(layer: Flow, action: Action, pool: Pool) -> Flow:
    """Return a layer that starts from the samples of a pool, and whose training trains it."""
    group = layer.prior.group
    return starting_from(layer, Reservoir(action, pool.phi, pool.log_weight, group=group))


def _one_each(
    objective: Objective | Sequence[Objective | None] | None, n_legs: int
) -> list[Objective | None]:
    """Return one objective for each leg."""
    if not isinstance(objective, Sequence):
        return [objective] * n_legs
    if len(objective) != n_legs:
        raise ValueError(f"objective has {len(objective)} entries for {n_legs} legs; give one each.")
    return list(objective)


def _numbered(path: Path, number: int) -> Path:
    """Return the name of a file with a number."""
    return path.with_name(f"{path.stem}-{number}{path.suffix}")
