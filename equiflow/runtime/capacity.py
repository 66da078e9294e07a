"""How much memory and disk there is, so that what cannot fit is refused before hours of work are lost.

`check_memory` and `check_disk` refuse; they are sure of what they refuse, and let pass what they cannot know.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

#: where Linux says how much memory is free, and which control group a process is in
_MEMORY, _OWN_GROUP, _GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def bytes_of_samples(n_samples: int, shape: Sequence[int], dtype: torch.dtype) -> int:
    """Return the bytes of weighted samples: configurations, each with its log q and log weight.

    Args:
        n_samples: number of samples.
        shape: of a configuration.
        dtype: of all numbers.

    Returns:
        The number of bytes.
    """
    return n_samples * (math.prod(shape) + 2) * dtype.itemsize


def free_memory(device: torch.device | str = "cpu") -> int | None:
    """Return the bytes of memory that are free for new tensors.

    Args:
        device: the CPU or a GPU.

    Returns:
        An upper bound; None where this cannot be known.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    known = [_free_of_system(), _limit_of_group(), _limit_of_process()]
    return min((size for size in known if size is not None), default=None)


def free_disk(folder: str | Path) -> int:
    """Return the bytes that are free for files in a folder, which need not exist yet."""
    place = Path(os.path.realpath(folder))
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_memory(needed: int, what: str, remedy: str, *, device: torch.device | str = "cpu") -> None:
    """Refuse what needs more memory than there is.

    Args:
        needed: bytes, a lower bound.
        what: what needs them, the beginning of the message.
        remedy: a sentence that ends the message.
        device: where the memory is needed.

    Raises:
        ValueError: if there is less.
    """
    free = free_memory(device)
    if free is not None and needed > free:
        where = "memory" if torch.device(device).type == "cpu" else f"memory of {device}"
        raise ValueError(
            f"{what} at least {in_words(needed)} of {where}; {in_words(free)} are free. {remedy}"
        )


def check_samples(
    n_samples: int,
    shape: Sequence[int],
    dtype: torch.dtype,
    remedy: str,
    *,
    device: torch.device | str = "cpu",
) -> None:
    """Refuse more weighted samples than the memory can hold.

    Args:
        n_samples: number of samples that are in memory together.
        shape: of a configuration.
        dtype: of all numbers.
        remedy: a sentence that ends the message.
        device: where the samples are.

    Raises:
        ValueError: if they do not fit.
    """
    # Batches are joined at the end: for a moment, all samples are there twice.
    needed = 2 * bytes_of_samples(n_samples, shape, dtype)
    check_memory(needed, f"{samples_in_words(n_samples, shape, dtype)} need", remedy, device=device)


def samples_in_words(n_samples: int, shape: Sequence[int], dtype: torch.dtype) -> str:
    """Return a number of samples in words, with the size of each.

    Args:
        n_samples: number of samples.
        shape: of a configuration.
        dtype: of all numbers.

    Returns:
        Words such as "8 samples of 64 numbers in float32".
    """
    return f"{n_samples} samples of {math.prod(shape)} numbers in {str(dtype).removeprefix('torch.')}"


def check_disk(needed: int, folder: str | Path, what: str, remedy: str) -> None:
    """Refuse files for which the disk has no room.

    Args:
        needed: bytes, a lower bound.
        folder: where the files would go.
        what: what needs them, the beginning of the message.
        remedy: a sentence that ends the message.

    Raises:
        ValueError: if there is less.
    """
    free = free_disk(folder)
    if needed > free:
        raise ValueError(f"{what} {in_words(needed)} in {folder}; {in_words(free)} are free there. {remedy}")


def in_words(size: float) -> str:
    """Return a number of bytes with a unit.

    >>> in_words(512), in_words(2.56e12), in_words(3e27)
    ('512 bytes', '2.56 TB', '3e+12 PB')
    """
    units = ("bytes", "kB", "MB", "GB", "TB", "PB")
    power = next((power for power in range(len(units)) if size < 999.5 * 1000**power), len(units) - 1)
    return f"{size / 1000**power:.3g} {units[power]}"


def _free_of_system() -> int | None:
    """Bytes that the system could give to a process, with swap; all its memory where only that is known."""
    try:
        found = dict(re.findall(r"^(\w+): +(\d+) kB$", _MEMORY.read_text(), re.MULTILINE))
        return 1024 * (int(found["MemAvailable"]) + int(found.get("SwapFree", 0)))
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # such as Windows
        return None


def _limit_of_group() -> int | None:
    """Bytes that the control group of this process may use, as batch systems and containers set them."""
    try:
        own = next(line[3:] for line in _OWN_GROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    group = _GROUPS / own.strip("/")
    limits = []
    for folder in (group, *group.parents):
        if folder.is_relative_to(_GROUPS):
            try:
                limits.append(int((folder / "memory.max").read_text()))
            except (OSError, ValueError):  # "max" is no limit
                continue
    return min(limits, default=None)


def _limit_of_process() -> int | None:
    """Bytes that `ulimit -v` allows this process."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft
