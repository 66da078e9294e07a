"""Speed of temporaries: `keep_freed_memory` stops the C library from returning their memory at once."""

from __future__ import annotations

from functools import cache

#: size of the largest block that raises glibc's threshold (32 MiB), less room for headers
LARGEST_BLOCK_BYTES = 2**25 - 2**16


@cache
def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MiB of freed memory; importing the package calls it, once per process.

    glibc returns memory to the system as soon as the top of the heap has more free bytes than twice its
    mmap threshold. The next temporaries fault every page in again: evaluations with temporaries of a
    megabyte then take up to three times as long, Hybrid Monte Carlo more. The threshold starts at 128 KiB
    and grows to the size of the largest block below 32 MiB that was freed. This function frees one such block
    without touching its pages. Other C libraries ignore it.
    """
    bytes(LARGEST_BLOCK_BYTES)  # by calloc, whose zeros take no pages
