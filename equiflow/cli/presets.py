"""Example set-ups by name, as config files."""

from __future__ import annotations

import difflib

from equiflow.cli.config_file import ConfigError
from equiflow.report import print_table

#: name: lattice, m2, lam, optimiser steps, batch size, what it is
PRESETS: dict[str, tuple[tuple[int, ...], float, float, int, int, str]] = {
    "E1": ((6, 6), -4.0, 6.975, 300, 128, "m_p L = 4, set E1 of arXiv:1904.12072"),
    "E2": ((8, 8), -4.0, 6.008, 300, 128, "m_p L = 4, set E2 of arXiv:1904.12072"),
    "E3": ((10, 10), -4.0, 5.550, 400, 128, "m_p L = 4, set E3 of arXiv:1904.12072"),
    "E4": ((12, 12), -4.0, 5.276, 500, 128, "m_p L = 4, set E4 of arXiv:1904.12072"),
    "E5": ((14, 14), -4.0, 5.113, 500, 128, "m_p L = 4, set E5 of arXiv:1904.12072"),
    "L16": ((16, 16), -4.0, 4.97, 500, 128, "m_p L = 4, the main example"),
    "3d": ((8, 8, 8), -4.0, 8.0, 600, 64, "three dimensions, near critical"),
}


def print_all() -> None:
    """Print the table of `equiflow presets`."""
    rows = [
        (name, " x ".join(map(str, shape)), f"{m2:g}", f"{lam:g}", text)
        for name, (shape, m2, lam, _, _, text) in PRESETS.items()
    ]
    print_table("presets", ("name", "lattice", "m2", "lam", "what"), rows)


def config_text(name: str) -> str:
    """The config file of a preset.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.3)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"There is no preset {name!r}; expected one of {', '.join(PRESETS)}.{hint}")
    shape, m2, lam, steps, batch_size, text = PRESETS[name]
    return (
        f"# {text}. Every other key has its default: see `equiflow config`.\n\n"
        f"[lattice]\nshape = {list(shape)}\n\n"
        f"[action]\nm2 = {m2}\nlam = {lam}\n\n"
        f"[training]\nsteps = {steps}\nbatch_size = {batch_size}\n"
    )


def names() -> tuple[str, ...]:
    """Names of all presets."""
    return tuple(PRESETS)
