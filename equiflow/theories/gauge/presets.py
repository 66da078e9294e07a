"""Gauge theories in two dimensions that others have simulated with flows, by name: `names` and `get`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from equiflow.theories.base.lattice import Lattice
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.wilson import WilsonAction


@dataclass(frozen=True)
class GaugePreset:
    """A gauge theory that others have simulated, in the conventions of this library.

    Attributes:
        name: name of the set-up, for `get`.
        lattice: of the links.
        group: `"U(1)"`, `"SU(2)"` or `"SU(3)"`.
        beta: coupling.
        description: what the source reports.
        source: arXiv id.
    """

    name: str
    lattice: Lattice
    group: str
    beta: float
    description: str
    source: str

    @cached_property
    def action(self) -> WilsonAction:
        """The action of the links."""
        return WilsonAction(Links(self.lattice, self.group), beta=self.beta)

    def __str__(self) -> str:
        head = f"{self.name}: {self.group} on {self.lattice.shape}, beta = {self.beta:g}"
        return f"{head}\n  {self.description} ({self.source})"


def _presets() -> list[GaugePreset]:
    """Return all set-ups."""
    kanwar = "coupling layers; HMC freezes from beta = 5 on"
    rows: list[tuple[str, str, float, str, str]]
    rows = [("kanwar-u1", "U(1)", beta, kanwar, "arXiv:2003.06413") for beta in (1, 2, 3, 4, 5, 6, 7)]
    rows += [
        ("boyda-su2", "SU(2)", b, "spectral coupling layers", "arXiv:2008.05456") for b in (1.8, 2.2, 2.7)
    ]
    for beta, ess in ((4, 0.98), (5, 0.88), (6, 0.70)):
        text = f"gradient flow of a potential of Wilson loops, 420 parameters: ESS {ess:.2f}"
        rows.append(("bacchio-su3", "SU(3)", beta, text, "arXiv:2212.08469"))
    lattice = Lattice((16, 16))
    return [
        GaugePreset(f"{name}-beta{beta}", lattice, group, float(beta), text, source)
        for name, group, beta, text, source in rows
    ]


_PRESETS = {preset.name: preset for preset in _presets()}


def names() -> tuple[str, ...]:
    """Return the names of all set-ups, grouped by source."""
    return tuple(_PRESETS)


def get(name: str) -> GaugePreset:
    """Return the set-up with this name.

    Raises:
        ValueError: if there is none.

    >>> get("bacchio-su3-beta6").action
    WilsonAction(shape=(16, 16), group=SU(3), beta=6.0)
    """
    if name not in _PRESETS:
        raise ValueError(f"There is no gauge preset {name!r}. Known are {', '.join(_PRESETS)}.")
    return _PRESETS[name]
