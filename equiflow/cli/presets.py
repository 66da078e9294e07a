"""Published set-ups by name, as config files: what `equiflow presets` prints."""

from __future__ import annotations

from equiflow import EquivariantCNF
from equiflow.cli.config.errors import ConfigError
from equiflow.report.terminal import print_table
from equiflow.theories.gauge import presets as gauge
from equiflow.theories.scalar import presets


def print_all() -> None:
    """Print the table of `equiflow presets`."""
    known = [presets.get(name) for name in presets.names()]
    rows = [
        (p.name, " x ".join(map(str, p.lattice.shape)), f"{p.m2:g}", f"{p.lam:g}", p.phase) for p in known
    ]
    print_table("presets", ("name", "lattice", "m2", "lam", "phase"), rows)
    theories = [gauge.get(name) for name in gauge.names()]
    rows = [
        (g.name, " x ".join(map(str, g.lattice.shape)), g.group, f"{g.beta:g}", g.source) for g in theories
    ]
    print_table("gauge theories", ("name", "lattice", "group", "beta", "source"), rows)


def config_text(name: str) -> str:
    """Return the config file of a preset.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name in gauge.names():
        return _config_of(gauge.get(name))
    try:
        preset = presets.get(name)
    except ValueError as error:
        raise ConfigError(f"{error} Gauge theories are {', '.join(gauge.names())}.") from error
    flow = EquivariantCNF(preset.lattice)
    return (
        f"# {preset.description} ({preset.source}); {preset.phase}.\n"
        "# Every other key has its default: see `equiflow config`.\n\n"
        f"[lattice]\nshape = {list(preset.lattice.shape)}\n\n"
        f"[action]\nm2 = {preset.m2}\nlam = {preset.lam}\n\n"
        '[objective]\nkind = "adaptive"\n\n'
        f"[training]\nsteps = {flow.training_steps}\nbatch_size = {flow.training_batch_size}\n"
    )


def _config_of(preset: gauge.GaugePreset) -> str:
    """Return the config file of a gauge theory."""
    return (
        f"# {preset.group} gauge theory: {preset.description} ({preset.source}).\n"
        "# Every other key has its default: see `equiflow config`.\n\n"
        f"[lattice]\nshape = {list(preset.lattice.shape)}\n\n"
        f'[action]\nkind = "wilson"\ngroup = "{preset.group}"\nbeta = {preset.beta}\n\n'
        "# Least squares for the continuity equation; steps are sweeps through flow time.\n"
        '[optimiser]\nkind = "least_squares"\n\n'
        "[training]\nsteps = 3\nbatch_size = 1024\n"
        + ("" if preset.group == "U(1)" else f"\n[field]\nreach = {min(preset.lattice.shape) // 2}\n")
    )
