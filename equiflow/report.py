"""What a flow gives, as a table, a dictionary and a folder of plots. Needs the extra `report`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from equiflow import plots
from equiflow.actions import Action
from equiflow.flows import Certificate, CouplingFlow, EquivariantCNF, Flow
from equiflow.observables import susceptibility
from equiflow.samplers import (
    Chain,
    Diagnosis,
    Ensemble,
    IndependenceMetropolis,
    Measurements,
    compare_directions,
    log_weights,
    measure,
)
from equiflow.statistics import Estimate
from equiflow.storage import written_atomically
from equiflow.training import History

if TYPE_CHECKING:
    from rich.console import Console

#: Not a seed that anyone draws samples with: acceptances must not follow the noise of the proposals.
REPORT_SEED = 0x5EED_0F_4E9047


@dataclass(frozen=True)
class Report:
    """Everything worth looking at after training a flow.

    Attributes:
        flow: the trained flow.
        action: its target.
        history: record of the training.
        ensemble: fresh weighted samples of the flow.
        chain: samples of the target from a Markov chain such as HMC.
    """

    flow: Flow
    action: Action
    history: History
    ensemble: Ensemble
    chain: Chain

    @property
    def certificate(self) -> Certificate:
        """Discretisation error of the flow's log-density; measured here if the ensemble has none."""
        return self._measured_certificate if self.ensemble.certificate is None else self.ensemble.certificate

    @cached_property
    def _measured_certificate(self) -> Certificate:
        generator = torch.Generator(self.flow.device).manual_seed(REPORT_SEED)
        return self.flow.certificate(action=self.action, generator=generator)

    @cached_property
    def target_phi(self) -> torch.Tensor:
        """The chain's samples, where and as the flow computes."""
        return self.chain.configurations.to(self.flow.device, self.flow.dtype)

    @cached_property
    def forward_log_weight(self) -> torch.Tensor:
        """Log weights of the chain's samples, `(n_samples,)`."""
        return log_weights(self.flow, self.action, self.target_phi, batch_size=512)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """Weights from both directions, and warnings where they disagree."""
        n_chains = self.chain.samples.shape[1]
        return compare_directions(self.ensemble, self.target_phi, self.forward_log_weight, n_chains=n_chains)

    @cached_property
    def metropolis(self) -> Chain:
        """Independence Metropolis on the ensemble's samples."""
        generator = torch.Generator(self.ensemble.phi.device).manual_seed(REPORT_SEED)
        return IndependenceMetropolis.from_ensemble(self.ensemble, n_chains=8, generator=generator)

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Quality of the flow and log Z, each with its errors."""
        return {
            "reverse_ess": self.diagnosis.reverse_ess,
            "forward_ess": self.diagnosis.forward_ess,
            "acceptance": self.metropolis.acceptance_rate,
            "tau_int": self.metropolis.tau_int(susceptibility),
            "log_z": self.diagnosis.log_z_reverse,
            "log_z_forward": self.diagnosis.log_z_forward,
            "log_z_bridge": self.diagnosis.log_z_bridge,
        }

    @cached_property
    def measurements(self) -> tuple[Measurements, Measurements]:
        """Observables from the reweighted flow and from the chain."""
        return measure(self.ensemble, action=self.action), measure(self.chain, action=self.action)

    def results(self) -> dict[str, object]:
        """All numbers, ready for JSON (NaN and infinity become null)."""
        numbers: dict[str, object] = {}
        for name, estimate in self.estimates.items():
            numbers |= {name: estimate.mean, f"{name}_error": estimate.error}
        for source, measured in zip(("flow", "hmc"), self.measurements, strict=True):
            for name, estimate in measured.scalars().items():
                numbers |= {f"{source}_{name}": estimate.mean, f"{source}_{name}_error": estimate.error}
        numbers |= {
            "log_z_shift": self.certificate.log_z_shift,
            "max_log_weight_shift": self.certificate.max_log_q_error,
            "round_trip_error": self.certificate.round_trip_error,
            "nfe": self.certificate.nfe,
            "solver": self.certificate.solver,
            "warnings": list(self.diagnosis.warnings),
            "steps": len(self.history),
            "train_seconds": self.history.seconds[-1],
            "n_samples": len(self.ensemble.phi),
            "n_hmc_samples": len(self.forward_log_weight),
            "n_parameters": sum(p.numel() for p in self.flow.parameters()),
            "dtype": str(self.flow.dtype).removeprefix("torch."),
            "device": str(self.flow.device),
            "threads": torch.get_num_threads(),
        }
        return {k: _finite(v) for k, v in numbers.items()}

    def print(self) -> None:
        """Print the tables to the terminal."""
        quality = [(name.replace("_", " "), str(value)) for name, value in self.estimates.items()]
        quality += [
            ("log Z under a finer solve", f"{self.certificate.log_z_shift:+.1e}"),
            ("largest change of a log weight", f"{self.certificate.max_log_q_error:.1e}"),
            ("round trip, largest error", f"{self.certificate.round_trip_error:.1e}"),
            ("solver, evaluations per sample", f"{self.certificate.solver}, {self.certificate.nfe}"),
        ]
        n_samples = len(self.ensemble.phi)
        print_table(f"flow on {n_samples} fresh samples", ("quantity", "value"), quality)
        print_table(
            f"observables, reweighted flow against {len(self.forward_log_weight)} HMC samples",
            ("observable", "flow", "HMC", "sigma"),
            comparison_rows(*self.measurements),
        )
        for warning in self.diagnosis.warnings:
            _console().print(f"[bold red]warning[/] {warning}")

    def save(self, folder: str | Path, *, settings: Mapping[str, object] | None = None) -> None:
        """Write plots (PNG), `results.json` and, if the flow can be saved, `flow.pt` into a folder.

        Args:
            folder: made if it is missing.
            settings: further entries of `results.json`, such as the seed.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        flow, reference = self.measurements
        figures = {
            "training": plots.training_curve(self.history),
            "two_point": plots.two_point(flow, reference),
            "magnetisation": plots.magnetisation(self.ensemble, self.chain),
            "weights": plots.weights(self.ensemble, self.forward_log_weight),
        }
        if self.flow.lattice.dim == 2:
            figures["configurations"] = plots.configurations(self.ensemble.phi)
        for name, figure in figures.items():
            plots.save_figure(figure, folder / f"{name}.png")
        if isinstance(self.flow, EquivariantCNF | CouplingFlow):
            self.flow.save(folder / "flow.pt")
        write_json({**(settings or {}), **self.results()}, folder / "results.json")


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to the terminal, numbers aligned to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    # A pipe has no width: keep rows on one line there.
    return console if console.is_terminal else Console(width=110)


def comparison_rows(flow: Measurements, reference: Measurements) -> list[tuple[str, ...]]:
    """Rows `observable, flow, reference, difference in sigma` for `print_table`."""
    other = reference.scalars()
    return [
        (name.replace("_", " "), str(value), str(other[name]), f"{value.sigmas_from(other[name]):+.1f}")
        for name, value in flow.scalars().items()
    ]


def write_json(content: Mapping[str, object], path: str | Path) -> None:
    """Write JSON under a temporary name and rename it."""
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str, allow_nan=False))


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
