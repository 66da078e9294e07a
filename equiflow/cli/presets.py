"""Published set-ups by name, as config files: what `equiflow presets` prints."""

from __future__ import annotations

from equiflow.cli.config.errors import ConfigError
from equiflow.report.terminal import print_table
from equiflow.theories.scalar import presets

#: largest number of sites -> steps of training that are suggested up to that size
SUGGESTED_STEPS = {64: 300, 196: 500, 512: 600}
#: steps of training that are suggested for larger lattices
SUGGESTED_STEPS_BEYOND = 1000
#: largest number of sites up to which the larger batch is suggested
SMALL_LATTICE = 511


def print_all() -> None:
    """Print the table of `equiflow presets`."""
    known = [presets.get(name) for name in presets.names()]
    rows = [
        (p.name, " x ".join(map(str, p.lattice.shape)), f"{p.m2:g}", f"{p.lam:g}", p.phase) for p in known
    ]
    print_table("presets", ("name", "lattice", "m2", "lam", "phase"), rows)


def config_text(name: str) -> str:
    """Return the config file of a preset.

    Raises:
        ConfigError: if there is none of that name.
    """
    try:
        preset = presets.get(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    volume = preset.lattice.volume
    steps = next(
        (steps for sites, steps in SUGGESTED_STEPS.items() if volume <= sites), SUGGESTED_STEPS_BEYOND
    )
    return (
        f"# {preset.description} ({preset.source}); {preset.phase}.\n"
        "# Every other key has its default: see `equiflow config`.\n\n"
        f"[lattice]\nshape = {list(preset.lattice.shape)}\n\n"
        f"[action]\nm2 = {preset.m2}\nlam = {preset.lam}\n\n"
        f"[training]\nsteps = {steps}\nbatch_size = {128 if volume <= SMALL_LATTICE else 64}\n"
    )
