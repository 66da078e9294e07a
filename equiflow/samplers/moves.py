"""Do the chains move? `check_moves` refuses runs that keep their fields, and warns of chains that do."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from equiflow.samplers.acceptance import Outcome

#: number of updates from which on a chain that has not moved counts as stuck
UPDATES_BEFORE_STUCK = 10
#: numbers of moves, and of moves to be expected, below which a chain has not moved. The expected ones tell a
#: chain without luck from one that cannot move.
FEWEST_MOVES = 0.1


def stuck_chains(total: Outcome) -> Tensor:
    """Return which chains have neither moved nor had a chance to, `(n_chains,)` of booleans.

    Args:
        total: sum of the outcomes of all updates.

    Returns:
        Whether both numbers are below `FEWEST_MOVES`.
    """
    return (total.accepted < FEWEST_MOVES) & (total.probability < FEWEST_MOVES)


def check_moves(
    total: Outcome, n_updates: int, *, who: str, remedy: str, warn: bool, stacklevel: int
) -> None:
    """Raise if most chains have not moved.

    Args:
        total: sum of the outcomes of all updates.
        n_updates: their number. Of less than `UPDATES_BEFORE_STUCK` one can only tell whether no chain moved.
        who: what they are and have not done, such as "HMC chains accepted no trajectory".
        remedy: what to do, a sentence.
        warn: whether to warn of single chains that have not moved.
        stacklevel: whose line a warning shows, as in `warnings.warn`.

    Raises:
        RuntimeError: if more than half of the chains have not moved.
    """
    stuck, n_chains = stuck_chains(total), len(total.accepted)
    count = int(stuck.sum())
    if n_updates < UPDATES_BEFORE_STUCK:
        pooled = Outcome(total.accepted.sum()[None], total.probability.sum()[None])
        count = n_chains if n_updates * n_chains >= UPDATES_BEFORE_STUCK and bool(stuck_chains(pooled)) else 0
    found = f"{count} of {n_chains} {who} in {n_updates} updates. {remedy}"
    if 2 * count > n_chains:
        raise RuntimeError(found)
    if count and warn:
        warnings.warn(
            f"{found} Averages include the fields at which these chains stay.", stacklevel=stacklevel
        )


def warn_of_what_stays(names: Sequence[str], kept: str, *, stacklevel: int) -> None:
    """Warn that averages over chains are not those of the density, since part of a field never changes.

    Args:
        names: of the samplers that update in turn.
        kept: what never changes.
        stacklevel: whose line the warning shows, as in `warnings.warn`.
    """
    who = f"{names[0]} alone never changes" if len(names) == 1 else f"{' and '.join(names)} never change"
    turns = ", ".join(f"{name}(action)" for name in ("HMC", *names))
    warnings.warn(
        f"{who} {kept}, so averages are not those of exp(-S). Write Alternate({turns}), or take another "
        "partner that changes them.",
        stacklevel=stacklevel,
    )
