"""Published set-ups by name: lattice, couplings, phase, and published figures.

`names` lists them and `get` returns one.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property

from equiflow.statistics import Estimate
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar.phi4 import Phi4


@dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes:
        quantity: name of the quantity; a name of `Measurements` where it is one of them.
        value: the published value.
        error: the published error; None without one.
        source: where it was published.
    """

    quantity: str
    value: float
    error: float | None
    source: str

    def sigmas_from(self, ours: Estimate) -> float:
        """Return `(ours - published)` in units of the combined error."""
        return ours.sigmas_from(Estimate(self.value, self.error or 0.0))


@dataclass(frozen=True)
class Preset:
    """A theory that others have simulated, in the conventions of this library.

    Attributes:
        name: name of the set-up, for `get`.
        lattice: where the field lives.
        m2: bare mass squared.
        lam: quartic coupling.
        phase: phase of the infinite lattice at these couplings: `"symmetric"`, `"near critical"` or
            `"broken"`. The source may call it otherwise.
        description: what the set-up is, and what the source calls it if it differs.
        source: arXiv id or repository.
        published: published figures to compare with.
    """

    name: str
    lattice: Lattice
    m2: float
    lam: float
    phase: str
    description: str
    source: str
    published: tuple[Published, ...] = ()

    @cached_property
    def action(self) -> Phi4:
        """The action on the lattice."""
        return Phi4(self.lattice, m2=self.m2, lam=self.lam)

    def figure(self, quantity: str) -> Published:
        """Return the published figure of a quantity.

        Raises:
            ValueError: if none is known.
        """
        for figure in self.published:
            if figure.quantity == quantity:
                return figure
        known = ", ".join(figure.quantity for figure in self.published) or "none"
        raise ValueError(f"No published {quantity!r} is known for {self.name}; known: {known}.")

    def __str__(self) -> str:
        head = f"{self.name}: {self.lattice.shape}, m2 = {self.m2:g}, lam = {self.lam:g}, {self.phase}"
        figures = [
            f"  {f.quantity} = {f.value:g}" + (f" ± {f.error:g}" if f.error else "") + f" ({f.source})"
            for f in self.published
        ]
        return "\n".join([head, f"  {self.description} ({self.source})", *figures])


_ALBERGO = "arXiv:1904.12072, table I"
_GERDES = "arXiv:2207.00283"
_NOTEBOOK = "notebooks of github.com/mathisgerdes/continuous-flow-lft"
_GOMALIZING = "github.com/AtelierArith/GomalizingFlow.jl"
_CHAINS = "reference chains of equiflow, error from their scatter"
_SERIES = "two dimensions at m2 = -4, lam tuned so that m_p L is about 4"


def _observables(chi2: tuple[float, float], *others: tuple[float, float]) -> tuple[Published, ...]:
    """Return figures of the reference chains, each given as a value and its error."""
    names = ("susceptibility", "phi_squared", "nearest_neighbour", "mass_times_length")
    return tuple(Published(name, *pair, _CHAINS) for name, pair in zip(names, (chi2, *others), strict=True))


_L6 = _observables((1.0589, 0.0016), (0.16142, 0.00012), (0.05830, 0.00004), (3.991, 0.008))
_L12 = _observables((4.132, 0.023), (0.21053, 0.00009), (0.09928, 0.00011), (3.992, 0.015))
_ACCEPTANCE = Published("acceptance_rate", 0.7907, None, f"train-and-mcmc, 500 updates of 64, {_NOTEBOOK}")
_ESS = Published("effective_sample_size", 0.9038, None, f"load-parameters, 256 samples, {_NOTEBOOK}")


def _series() -> list[Preset]:
    """Return the series with constant m_p L."""
    rows: list[tuple[str, int, float, str, tuple[Published, ...]]] = [
        ("albergo-E1", 6, 6.975, _ALBERGO, _L6),
        ("albergo-E2", 8, 6.008, _ALBERGO, ()),
        ("albergo-E3", 10, 5.550, _ALBERGO, ()),
        ("albergo-E4", 12, 5.276, _ALBERGO, _L12),
        ("albergo-E5", 14, 5.113, _ALBERGO, ()),
        ("gerdes-L6", 6, 6.975, _GERDES, (_ACCEPTANCE, *_L6)),
        ("gerdes-L12", 12, 5.276, _GERDES, _L12),
        ("gerdes-L20", 20, 4.807, _GERDES, ()),
        ("gerdes-L32", 32, 4.572, _GERDES, (_ESS,)),
        ("gerdes-L64", 64, 4.398, _GERDES, ()),
        ("equiflow-L16", 16, 4.97, "equiflow's main example", ()),
    ]
    return [
        Preset(name, Lattice((side, side)), -4.0, lam, "symmetric", _SERIES, source, figures)
        for name, side, lam, source, figures in rows
    ]


def _gomalizing() -> list[Preset]:
    """Return the set-ups in `cfgs/*.toml` of GomalizingFlow.jl, without E1 to E5 (here `albergo-E*`)."""
    tuned = "called critical there; lam_c is about 4.24 in two dimensions"
    deep = "called critical there; deep in the broken phase above two dimensions"
    rows = [
        ("2d-L8", (8, 8), -4.0, 8.0, "symmetric", "example2d.toml: the example to start with"),
        ("2d-L4-lam5.113", (4, 4), -4.0, 5.113, "symmetric", f"example2d_critical_L4.toml: {tuned}"),
        ("2d-L8-lam5.113", (8, 8), -4.0, 5.113, "symmetric", f"example2d_critical_L8.toml: {tuned}"),
        ("3d-L4-lam5.113", (4,) * 3, -4.0, 5.113, "broken", f"example3d_critical_L4.toml: {deep}"),
        ("3d-L8-lam5.113", (8,) * 3, -4.0, 5.113, "broken", f"example3d_critical_L8.toml: {deep}"),
        ("3d-L8-lam8", (8,) * 3, -4.0, 8.0, "near critical", "example3d_broken.toml: called broken there"),
        ("3d-L8-symmetric", (8,) * 3, 1.0, 8.0, "symmetric", "example3d_symmetric.toml"),
        ("4d-L4-lam5.113", (4,) * 4, -4.0, 5.113, "broken", f"example4d_critical_L4.toml: {deep}"),
        ("4d-L8-lam5.113", (8,) * 4, -4.0, 5.113, "broken", f"example4d_critical_L8.toml: {deep}"),
    ]
    return [
        Preset(f"gomalizing-{name}", Lattice(shape), m2, lam, phase, text, _GOMALIZING)
        for name, shape, m2, lam, phase, text in rows
    ]


_PRESETS = {preset.name: preset for preset in [*_series(), *_gomalizing()]}


def names() -> tuple[str, ...]:
    """Return the names of all set-ups, grouped by source."""
    return tuple(_PRESETS)


def get(name: str) -> Preset:
    """Return the set-up with this name.

    Raises:
        ValueError: if there is none; the message names the nearest names.

    >>> get("albergo-E1").action
    Phi4(shape=(6, 6), m2=-4.0, lam=6.975)
    """
    if name in _PRESETS:
        return _PRESETS[name]
    wanted, lower = str(name).lower(), {known.lower(): known for known in _PRESETS}
    parts = [known for known in lower if wanted in known]
    near = [lower[match] for match in parts or difflib.get_close_matches(wanted, lower, n=3, cutoff=0.5)]
    hint = f"The nearest are {', '.join(near)}" if near else f"Known are {', '.join(_PRESETS)}"
    raise ValueError(f"There is no preset {name!r}. {hint}; presets.names() lists all.")
