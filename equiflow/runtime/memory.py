"""Temporaries that are not fetched from the operating system anew at every evaluation."""

from __future__ import annotations

from functools import cache

import torch

#: the largest block, less some for headers, that glibc learns from
LESSON = 2**25 - 2**16


@cache
def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MiB of freed memory, once per process.

    glibc gives memory back to the system, and faults every page in again, as soon as twice its mmap
    threshold is free at the top of the heap: for temporaries of a megabyte at each evaluation, which
    then takes up to three times as long. The threshold starts at 128 KiB and grows to the largest
    block below 32 MiB that was freed. One such block, never touched, teaches it; other C libraries
    are indifferent to it.
    """
    torch.empty(LESSON, dtype=torch.uint8)
