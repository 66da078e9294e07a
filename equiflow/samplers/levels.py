"""Two levels of accuracy: a coarse solver for all samples, a fine one for a few of the same prior samples.

The discretisation error of log w is nearly the same for all samples. So a few pairs measure it, and all
results are corrected by it. `choose_levels` finds the coarse solver and the number of pairs that cost the
fewest evaluations for an error; `importance_sample(..., levels=2)` calls it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.flows import EquivariantCNF, Flow
from equiflow.flows.solved import solve_by
from equiflow.ode.solver import Solver, SolverError
from equiflow.ode.tableaus import TABLEAUS
from equiflow.runtime.checks import check_count, check_positive, check_type, make_plain
from equiflow.runtime.progress import progress_bar
from equiflow.samplers.samples import where_weighted
from equiflow.statistics import normalised_weights
from equiflow.statistics.two_levels import unrelated_levels
from equiflow.theories.base.action import Action

#: least number of pairs, which makes the error of a correction known to 13 % at least
MIN_PAIRS = 32
#: Coarse solvers to try, which cover the optimum on all flows measured: the 3/8 rule in few steps. Its error
#: varies less over samples than that of other methods with as many evaluations.
COARSE = tuple(Solver("rk4", steps=n) for n in (2, 3, 4, 5, 6, 8, 10, 12, 16)) + tuple(
    Solver("rk5", steps=n) for n in (3, 4, 5, 6, 8, 10, 12)
)


@dataclass(frozen=True)
class TwoLevels:
    """Solvers of two levels, and the share of the samples that both of them carry to the model.

    Attributes:
        coarse: solver of all samples, one with equal steps or not.
        fine: solver of the pairs, whose error is what is left; None for the flow's own solver.
        fine_share: number of pairs per sample, in (0, 1]. There are at least `MIN_PAIRS`.

    Raises:
        TypeError: for an argument of another type.
        ValueError: if the share is not in (0, 1].
    """

    coarse: Solver
    fine: Solver | None = None
    fine_share: float = 0.125

    def __post_init__(self) -> None:
        check_type(self.coarse, Solver, "coarse", 'Write Solver("rk4", steps=4).')
        check_type(self.fine, (Solver, type(None)), "fine")
        make_plain(self, "fine_share")
        check_type(self.fine_share, (float, int), "fine_share")
        if not 0 < self.fine_share <= 1:
            raise ValueError(f"fine_share must be in (0, 1], got {self.fine_share!r}.")

    def n_pairs(self, n_samples: int) -> int:
        """Return how many of `n_samples` samples both solvers carry to the model."""
        return min(n_samples, max(MIN_PAIRS, math.ceil(self.fine_share * n_samples)))


@dataclass(frozen=True)
class Correction:
    """Samples of an ensemble computed again by a finer solver, by which its results are corrected.

    Attributes:
        rows: which samples of the ensemble these are, `(n_pairs,)`.
        phi: their configurations by the fine solver, `(n_pairs, *lattice)`.
        log_q: their log-density, `(n_pairs,)`.
        log_weight: their log weights, `(n_pairs,)`.
        coarse: solver of all samples of the ensemble, as text.
        fine: solver of these, as text.
        coarse_nfe: evaluations per sample of the coarse solver.
        fine_nfe: evaluations per sample of the fine solver.
    """

    rows: Tensor
    phi: Tensor
    log_q: Tensor
    log_weight: Tensor
    coarse: str
    fine: str
    coarse_nfe: int
    fine_nfe: int

    def __str__(self) -> str:
        return (
            f"all samples by {self.coarse}, nfe {self.coarse_nfe}; "
            f"{len(self.rows)} of them also by {self.fine}, nfe {self.fine_nfe}"
        )


@dataclass(frozen=True)
class LevelTrial:
    """What a pilot says about one coarse solver.

    Attributes:
        levels: both solvers and the best share of pairs.
        nfe: evaluations per sample of the coarse solver.
        shift: log Z by the fine solver minus log Z by the coarse one.
        square: variance of one coarse sample, `Var(fine) - Var(change)`.
        square_of_change: variance of the change of one pair.
        gain: evaluations of one level over those of two, for the same error.
    """

    levels: TwoLevels
    nfe: int
    shift: float
    square: float
    square_of_change: float
    gain: float


@dataclass(frozen=True)
class LevelsChoice:
    """The cheapest levels found, and those tried on the way.

    Attributes:
        best: the trial with the largest gain; None if one level is cheapest.
        fine: solver of one level, and of the pairs.
        fine_nfe: its evaluations per sample.
        square: variance of one sample by the fine solver: the relative one of the weights, or that of the
            reweighted observable.
        trials: all that was tried, in order of the evaluations.
    """

    best: LevelTrial | None
    fine: Solver
    fine_nfe: int
    square: float
    trials: tuple[LevelTrial, ...]

    @property
    def levels(self) -> TwoLevels | None:
        """The levels to sample with; None if one level is cheapest."""
        return None if self.best is None else self.best.levels

    def samples_for(self, error: float) -> int:
        """Return how many samples give log Z, or the mean of the observable, with a statistical error.

        Args:
            error: the error to reach, in units of the mean itself.
        """
        check_positive(error, "error")
        square = self.square
        if self.best is not None:
            square = self.best.square + self.best.square_of_change / self.best.levels.fine_share
        return max(2, math.ceil(square / error**2))

    def __str__(self) -> str:
        lines = [
            f"{trial.levels.coarse!s:18s} nfe {trial.nfe:3d}  log Z moves by {trial.shift:+.1e}  "
            f"pairs {trial.levels.fine_share:7.2%}  gain {trial.gain:.2f}"
            for trial in self.trials
        ]
        last = f"one level: {self.fine}, nfe {self.fine_nfe}"
        if self.best is not None:
            last = f"chosen: {self.best.levels.coarse}, corrected by {self.fine}, nfe {self.fine_nfe}"
        return "\n".join([*lines, last])


@torch.no_grad()
def choose_levels(
    flow: EquivariantCNF,
    action: Action,
    *,
    observable: Callable[[Tensor], Tensor] | None = None,
    candidates: tuple[Solver, ...] = COARSE,
    n_samples: int = 128,
    generator: torch.Generator | None = None,
) -> LevelsChoice:
    """Find the coarse solver and the number of pairs that cost the fewest evaluations for a given error.

    With n samples at a cost of C evaluations each, and m of them also at a cost of F by the flow's solver,

        error^2 = (V - D) / n + D / m,    cost = n C + m F,

    where V is the variance of a fine sample and D that of the change of a pair. The best share is
    `m / n = sqrt(D C / ((V - D) F))`, and then `cost x error^2 = (sqrt((V - D) C) + sqrt(D F))^2`. A pilot
    measures V and D. One level costs V F.

    The pilot costs three to five times the evaluations of its samples by the flow's solver. Choose once for a
    flow and give `levels` to `importance_sample`.

    Args:
        flow: with a solver whose own error is acceptable, see `EquivariantCNF.tune_solver`.
        action: the target, `exp(-S)`.
        observable: function of a batch `(batch, *lattice)` that returns `(batch,)`, whose mean is to be
            estimated; by default log Z.
        candidates: coarse solvers to try.
        n_samples: number of prior samples of the pilot.
        generator: source of randomness, on the flow's device.

    Returns:
        The choice and all trials; `print` shows them as a table.

    Raises:
        TypeError: if the flow does not integrate, or another argument is of another type.
        ValueError: if there are fewer than 8 samples.
    """
    check_integrates(flow)
    check_type(action, Action, "action")
    z = flow.prior.rsample(check_count(n_samples, "n_samples", minimum=8), generator)

    def solved(solver: Solver) -> tuple[Tensor, Tensor, int]:
        samples = solve_by(flow, solver, z)
        log_weight = (-action(samples.phi) - samples.log_q).double()
        return log_weight, _deviations(samples.phi, log_weight, observable), samples.nfe

    log_weight, deviations, fine_nfe = solved(flow.solver)
    square = float(deviations.var())
    trials: list[LevelTrial] = []
    for coarse in sorted(candidates, key=_evaluations):
        # The samples alone cost this much even if a solver has no error.
        best = max((trial.gain for trial in trials), default=1.0)
        if _evaluations(coarse) * max(best, 1.0) >= fine_nfe:
            break
        try:
            of_coarse, approximate, nfe = solved(coarse)
        except SolverError:
            continue
        shift = float(log_weight.logsumexp(0) - of_coarse.logsumexp(0))
        change = float((deviations - approximate).var())
        trials.append(_trial(coarse, nfe, fine_nfe, shift, square, change))
    found = max(trials, key=lambda trial: trial.gain, default=None)
    best_trial = found if found is not None and found.gain > 1 else None
    return LevelsChoice(best_trial, flow.solver, fine_nfe, square, tuple(trials))


def _trial(coarse: Solver, nfe: int, fine_nfe: int, shift: float, square: float, change: float) -> LevelTrial:
    """Return the best share of pairs for one coarse solver, and the gain; no gain if pairs are no use."""
    if not 0 <= change < square:
        return LevelTrial(TwoLevels(coarse, fine_share=1.0), nfe, shift, square, change, 0.0)
    rest = square - change
    share = min(1.0, math.sqrt(change * nfe / (rest * fine_nfe)))
    cost = (nfe + share * fine_nfe) * (rest + (change / share if share else 0.0))
    # A share of zero is one that rounding or few samples pretend; `MIN_PAIRS` make up for it.
    levels = TwoLevels(coarse, fine_share=max(share, 1e-4))
    return LevelTrial(levels, nfe, shift, rest, change, square * fine_nfe / cost)


def _deviations(phi: Tensor, log_weight: Tensor, observable: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Return the deviation of every sample from `mean w`, relative, or from a reweighted mean, `(n,)`."""
    weight = normalised_weights(log_weight)
    weight = weight / weight.mean()
    if observable is None:
        return weight - 1
    values = where_weighted(observable(phi), log_weight).double()
    return weight * (values - (weight * values).mean())


def _evaluations(solver: Solver) -> int:
    """Return the evaluations of a solver with equal steps; those of another one are not known before."""
    return 0 if solver.steps is None else solver.steps * TABLEAUS[solver.method].n_stages


def resolve_levels(
    flow: Flow, action: Action, levels: int | TwoLevels, generator: torch.Generator | None
) -> TwoLevels | None:
    """Return the two levels to draw, or None for one.

    Args:
        flow: the flow.
        action: the target, `exp(-S)`.
        levels: 1, 2 to choose by a pilot, or the levels themselves.
        generator: source of randomness of the pilot, on the flow's device.

    Returns:
        The levels; None if one is wanted, or cheaper.

    Raises:
        TypeError: if the flow does not integrate, or `levels` is of another type.
        ValueError: if `levels` is another number.
    """
    if isinstance(levels, TwoLevels):
        check_integrates(flow)
        return levels
    if check_count(levels, "levels") > 2:
        raise ValueError(f"levels must be 1, 2, or TwoLevels(coarse, fine); got {levels}.")
    if levels == 1:
        return None
    check_integrates(flow)
    assert isinstance(flow, EquivariantCNF)
    return choose_levels(flow, action, generator=generator).levels


def check_integrates(flow: Flow) -> None:
    """Raise a TypeError unless a flow has a solver that another one can replace."""
    check_type(flow, EquivariantCNF, "flow", "Two levels are two solvers, and an exact map has none.")


@torch.no_grad()
def draw_two_levels(
    flow: EquivariantCNF,
    action: Action,
    n_samples: int,
    levels: TwoLevels,
    *,
    batch_size: int,
    generator: torch.Generator | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], Correction]:
    """Draw prior samples, and carry all of them to the model by the coarse solver and the first ones by both.

    Args:
        flow: the flow.
        action: the target, `exp(-S)`.
        n_samples: number of samples.
        levels: both solvers.
        batch_size: samples drawn at a time.
        generator: source of randomness, on the flow's device.

    Returns:
        `phi`, `log_q` and `log_weight` of all samples by the coarse solver, and their correction. A warning
        says if the coarse weights are too far from the fine ones to be of use.
    """
    fine_solver, n_pairs = levels.fine or flow.solver, levels.n_pairs(n_samples)
    drawn: tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]] = ([], [])
    nfe = [0, 0]
    with progress_bar(n_samples, "sampling", "sample") as bar:
        for start in range(0, max(n_samples, 1), batch_size):
            z = flow.prior.rsample(min(batch_size, n_samples - start), generator)
            twice = z[: max(0, n_pairs - start)]
            for level, (solver, part) in enumerate(((levels.coarse, z), (fine_solver, twice))):
                if start == 0 or len(part):
                    samples = solve_by(flow, solver, part)
                    log_weight = -action(samples.phi) - samples.log_q
                    drawn[level].append((samples.phi, samples.log_q, log_weight))
                    nfe[level] = max(nfe[level], samples.nfe)
            bar.update(len(z))
    coarse, fine = ([torch.cat(parts) for parts in zip(*level, strict=True)] for level in drawn)
    rows = torch.arange(n_pairs, device=coarse[0].device)
    solvers = {"coarse": str(levels.coarse), "fine": str(fine_solver)}
    correction = Correction(rows, fine[0], fine[1], fine[2], **solvers, coarse_nfe=nfe[0], fine_nfe=nfe[1])
    if n_pairs > 1:
        _warn_if_unrelated(coarse[2][:n_pairs], correction)
    return (coarse[0], coarse[1], coarse[2]), correction


def _warn_if_unrelated(coarse: Tensor, correction: Correction) -> None:
    """Warn if the weights of the coarse solver say little of those of the fine one."""
    found = unrelated_levels(coarse, correction.log_weight)
    if found:
        warnings.warn(
            f"{correction.coarse} is too coarse for {correction.fine}: the log weights of a sample by both "
            f"differ at random. All estimates are {found}. Take a coarse solver of more steps, such as "
            'TwoLevels(Solver("rk4", steps=4)), or levels=2 to choose one by a pilot.',
            stacklevel=6,
        )
