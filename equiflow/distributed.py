"""Another name of `equiflow.runtime.distributed`: several processes that train or sample together."""

from equiflow.runtime.distributed import (
    ElsewhereError,
    all_or_none,
    all_rows,
    broadcast,
    by_first,
    check_alike,
    check_share,
    from_first,
    gather,
    generator,
    is_first,
    launched,
    rank,
    session,
    sum_gradients,
    world_size,
)

__all__ = [
    "ElsewhereError",
    "all_or_none",
    "all_rows",
    "broadcast",
    "by_first",
    "check_alike",
    "check_share",
    "from_first",
    "gather",
    "generator",
    "is_first",
    "launched",
    "rank",
    "session",
    "sum_gradients",
    "world_size",
]
