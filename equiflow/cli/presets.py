"""Published set-ups by name, as config files: what `equiflow presets` prints."""

from __future__ import annotations

from equiflow import EquivariantCNF
from equiflow.cli.config.errors import ConfigError
from equiflow.report.terminal import print_table
from equiflow.theories.scalar import presets


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
    flow = EquivariantCNF(preset.lattice)
    return (
        f"# {preset.description} ({preset.source}); {preset.phase}.\n"
        "# Every other key has its default: see `equiflow config`.\n\n"
        f"[lattice]\nshape = {list(preset.lattice.shape)}\n\n"
        f"[action]\nm2 = {preset.m2}\nlam = {preset.lam}\n\n"
        '[objective]\nkind = "adaptive"\n\n'
        f"[training]\nsteps = {flow.training_steps}\nbatch_size = {flow.training_batch_size}\n"
    )
