"""The report about a trained flow: tables on the terminal, numbers for JSON, and a folder of plots.

Start with `Report`. Tables need rich and plots need matplotlib, both in the extra `report`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equiflow.analysis import (
    Diagnosis,
    Measurements,
    StandardMeasurements,
    compare_directions,
    frozen_charge,
    has_standard,
    measure,
    plain_observables,
)
from equiflow.flows import Certificate, ExtendedAction, Flow
from equiflow.report import plots, words
from equiflow.report.numbers import finite, write_json
from equiflow.report.terminal import print_line, print_table
from equiflow.report.words import Measured, comparison_rows
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import in_precision
from equiflow.runtime.progress import progress_as
from equiflow.samplers import Chain, Ensemble, IndependenceMetropolis, log_weights
from equiflow.statistics import Estimate
from equiflow.statistics.tables import ShownAsTable
from equiflow.theories.base.action import Action
from equiflow.theories.scalar.observables import susceptibility
from equiflow.training import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Seed of what a report draws. It differs from any seed that people choose, because the noise of Metropolis
#: acceptances must be independent of the noise of the samples.
REPORT_SEED = 0x5EED_0F_4E9047


@dataclass(frozen=True, repr=False)
class Report(ShownAsTable):
    """Everything worth looking at after training a flow; `Report.print` shows its numbers.

    Attributes:
        flow: the trained flow.
        action: its target.
        history: record of the training.
        ensemble: fresh weighted samples of the flow.
        chain: samples of the target from a Markov chain such as HMC. Without them, results that need both
            directions are left out. For an `ExtendedAction` these are samples of the field alone.
        minimises_reverse_kl: whether the loss in `history` is `<log q + S>`, which ends at `-log Z`, where
            the history does not say it itself, see `History.loss_name`.

    Raises:
        TypeError: if `action` is no `Action`, or one of a theory without observables that a report could
            show.
    """

    flow: Flow
    action: Action
    history: History
    ensemble: Ensemble
    chain: Chain | None = None
    minimises_reverse_kl: bool = True

    def __post_init__(self) -> None:
        check_type(self.action, Action, "action")
        action = self.action.action if isinstance(self.action, ExtendedAction) else self.action
        if not (action.space.is_real_field or has_standard(action.space)):
            raise TypeError(
                "A report shows observables of real fields on a lattice, or those that a theory lists; got "
                f"{action.space}, which lists none. Use equiflow.analysis.estimate_observables."
            )

    def _rows(self) -> dict[str, object]:
        number = 0 if self.chain is None else self.chain.samples.shape[:2].numel()
        rows = {"report": words.heading(self.action), "flow": type(self.flow).__name__}
        return rows | {"steps": len(self.history), "samples": len(self.ensemble.phi), "of HMC": number}

    @property
    def certificate(self) -> Certificate:
        """Discretisation error of the flow's log-density; measured now if the ensemble has no certificate."""
        return self._measured_certificate if self.ensemble.certificate is None else self.ensemble.certificate

    @cached_property
    def _measured_certificate(self) -> Certificate:
        generator = torch.Generator(self.flow.device).manual_seed(REPORT_SEED)
        return self.flow.certificate(action=self.action, generator=generator)

    @cached_property
    def fields(self) -> tuple[Ensemble, Action]:
        """Ensemble and action of the field alone, of which observables are measured.

        Only an `ExtendedAction` has something else, the momenta. They leave the averages of the field
        unchanged.
        """
        if not isinstance(self.action, ExtendedAction):
            return self.ensemble, self.action
        space, certificate = self.action.space, self.ensemble.certificate
        if certificate is not None:
            twice = certificate.samples
            phi, refined_phi = space.split(twice.phi)[0], space.split(twice.refined_phi)[0]
            certificate = replace(certificate, samples=replace(twice, phi=phi, refined_phi=refined_phi))
        phi = space.split(self.ensemble.phi)[0]
        field = self.action.action
        return replace(self.ensemble, phi=phi, certificate=certificate, space=field.space), field

    @cached_property
    def target_phi(self) -> Tensor | None:
        """The chain's samples on the device and in the dtype of the flow, `(n_samples, *lattice)`."""
        if self.chain is None:
            return None
        return in_precision(self.chain.configurations, self.flow.dtype).to(self.flow.device)

    @cached_property
    def forward_log_weight(self) -> Tensor | None:
        """Log weights `-S - log q` of the chain's samples, `(n_samples,)`; None without a chain."""
        if self.target_phi is None:
            return None
        states = self.target_phi
        if isinstance(self.action, ExtendedAction):
            generator = torch.Generator(self.flow.device).manual_seed(REPORT_SEED)
            states = self.action.with_momenta(states, generator, batch_size=len(states))
        return log_weights(self.flow, self.action, states, batch_size=512)

    @cached_property
    def diagnosis(self) -> Diagnosis | None:
        """Comparison of the weights of model samples and target samples; None without a chain."""
        if self.chain is None or self.target_phi is None or self.forward_log_weight is None:
            return None
        n_chains = self.chain.samples.shape[1]
        return compare_directions(
            self.fields[0].by_fine_solver(), self.target_phi, self.forward_log_weight, n_chains=n_chains
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the warnings of the diagnosis, and what to know about the chain; empty without one."""
        if self.diagnosis is None or self.chain is None:
            return ()
        frozen = frozen_charge(self.chain, self.fields[1].space)
        notes = [f"The chain to compare with is {self.chain.note}."] if self.chain.note else []
        notes += [f"In the chain to compare with, the {frozen}."] if frozen else []
        return (*self.diagnosis.warnings, *notes)

    @cached_property
    def scalar(self) -> tuple[Ensemble, Chain | None]:
        """Ensemble and chain as figures show them: fields of several components by the first one."""
        ensemble, action = self.fields
        chain, axes = self.chain, action.space.component_axes
        if not axes or not self.shows_fields:
            return ensemble, chain
        if chain is not None:
            chain = replace(chain, samples=_first_component(chain.samples, axes))
        fine = ensemble.correction
        if fine is not None:
            fine = replace(fine, phi=_first_component(fine.phi, axes))
        return replace(ensemble, phi=_first_component(ensemble.phi, axes), correction=fine), chain

    @property
    def shows_fields(self) -> bool:
        """Whether configurations are real fields on a lattice, which have a correlator and a picture."""
        return self.fields[1].space.is_real_field

    @cached_property
    def observables(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The observables of one value for each configuration that figures show, by name.

        Of real fields this is `chi2`, by whose autocorrelation chains are judged.
        """
        return {"chi2": susceptibility} if self.shows_fields else plain_observables(self.fields[1].space)

    @cached_property
    def metropolis(self) -> Chain:
        """Markov chain that independence Metropolis makes of the ensemble's samples."""
        generator = torch.Generator(self.ensemble.phi.device).manual_seed(REPORT_SEED)
        return IndependenceMetropolis.from_ensemble(
            self.scalar[0].by_fine_solver(), n_chains=8, generator=generator
        )

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Quality of the flow and log Z by name, each with its errors."""
        both = self.diagnosis
        found = {"reverse_ess": self.ensemble.effective_sample_size()}
        if both is not None:
            found["forward_ess"] = both.forward_ess
        found |= {
            "acceptance": self.metropolis.acceptance_rate,
            "tau_int": self._largest_tau(),
            "log_z": self.ensemble.log_z(),
        }
        if both is not None:
            found |= {"log_z_forward": both.log_z_forward, "log_z_bridge": both.log_z_bridge}
        return found

    def _largest_tau(self) -> Estimate:
        """Return tau_int of the slowest observable along `metropolis`, of those that change at all."""
        found = [self.metropolis.tau_int(observable) for observable in self.observables.values()]
        changing = [tau for tau in found if math.isfinite(tau.mean)]
        return max(changing or found, key=lambda tau: tau.mean)

    @cached_property
    def measurements(self) -> tuple[Measured, Measured | None]:
        """Return the observables of the reweighted flow and those of the chain; None without a chain."""
        ensemble, action = self.fields
        reference = None if self.chain is None else measure(self.chain, action=action)
        return measure(ensemble, action=action), reference

    def results(self) -> dict[str, object]:
        """Return all numbers by name, ready for JSON; NaN and infinity become None."""
        numbers: dict[str, object] = {}
        for name, estimate in self.estimates.items():
            numbers |= {name: estimate.mean, f"{name}_error": estimate.error}
        for source, measured in zip(("flow", "hmc"), self.measurements, strict=True):
            if measured is None:
                continue
            for name, estimate in measured.scalars().items():
                numbers |= {f"{source}_{name}": estimate.mean, f"{source}_{name}_error": estimate.error}
        numbers |= {
            "log_z_shift": self.certificate.log_z_shift,
            "max_log_weight_shift": self.certificate.max_log_q_error,
            "round_trip_error": self.certificate.round_trip_error,
            "nfe": self.certificate.nfe,
            "solver": self.certificate.solver,
            "warnings": list(self.warnings),
            "steps": len(self.history),
            "train_seconds": self.history.seconds[-1] if len(self.history) else 0.0,
            "n_samples": len(self.ensemble.phi),
            "n_hmc_samples": self.n_reference,
            "n_parameters": sum(p.numel() for p in self.flow.parameters()),
            "dtype": str(self.flow.dtype).removeprefix("torch."),
            "device": str(self.flow.device),
            "threads": torch.get_num_threads(),
        }
        return {name: finite(value) for name, value in numbers.items()}

    @property
    def n_reference(self) -> int:
        """Number of the chain's samples; 0 without a chain."""
        return 0 if self.forward_log_weight is None else len(self.forward_log_weight)

    def quality(self) -> list[tuple[str, str]]:
        """Return rows `quantity, value` of the estimates and of the certificate."""
        return [
            *((name.replace("_", " "), str(value)) for name, value in self.estimates.items()),
            *self._levels(),
            ("log Z under a finer solve", f"{self.certificate.log_z_shift:+.1e}"),
            ("largest change of a log weight", f"{self.certificate.max_log_q_error:.1e}"),
            ("round trip, largest error", f"{self.certificate.round_trip_error:.1e}"),
            ("solver, evaluations per sample", f"{self.certificate.solver}, {self.certificate.nfe}"),
        ]

    def _levels(self) -> list[tuple[str, str]]:
        """Return rows about the levels of the ensemble; none if there is one level."""
        if self.ensemble.correction is None:
            return []
        corrected = str(self.ensemble.correction_of())
        return [("levels", str(self.ensemble.correction)), ("log Z corrected by", corrected)]

    def print(self, *, progress: bool | None = None) -> None:
        """Print tables of quality and observables to the terminal, and the warnings.

        Args:
            progress: whether to show a bar while they are measured, see `fit`.
        """
        n_samples = len(self.ensemble.phi)
        with progress_as(progress):
            quality, (flow, reference) = self.quality(), self.measurements
        print_table(f"flow on {n_samples} fresh samples", ("quantity", "value"), quality)
        if reference is None:
            rows = [(name.replace("_", " "), str(value)) for name, value in flow.scalars().items()]
            print_table("observables of the reweighted flow", ("observable", "flow"), rows)
        else:
            print_table(
                f"observables, reweighted flow against {self.n_reference} HMC samples",
                ("observable", "flow", "HMC", "sigma"),
                comparison_rows(flow, reference),
            )
        for warning in self.warnings:
            print_line(f"warning: {warning}")

    @cached_property
    def verdict(self) -> tuple[bool, str]:
        """Whether the flow can be used as it is, and one sentence that says why."""
        flow, reference = self.measurements
        apart = None if reference is None else words.differences(flow, reference)
        return words.verdict(self.estimates, self.certificate.log_z_shift, self.warnings, apart)

    def figures(self, fresh: Sequence[tuple[int, float, float]] = ()) -> dict[str, Figure]:
        """Return all plots by name; `fresh` has step, ESS and its error of measurements during training."""
        title = words.heading(self.action)
        flow, reference = self.measurements
        label = "HMC"
        if self.chain is not None and reference is not None:
            label = words.provenance(label, self.chain, words.autocorrelation(reference))
        figures = {
            "weights": plots.weights(
                self.ensemble.by_fine_solver(), self.forward_log_weight, label=label, title=title
            )
        }
        if len(self.history):
            log_z = self.estimates["log_z"] if self.minimises_reverse_kl else None
            figures["training"] = plots.training_curve(self.history, fresh, log_z=log_z, title=title)
        if not isinstance(flow, Measurements):
            figures["histograms"] = plots.histograms(self.observables, *self.scalar, label=label, title=title)
            figures["histories"] = plots.histories(self.observables, self.metropolis, self.chain, title=title)
            return figures
        assert not isinstance(reference, StandardMeasurements)
        figures["two_point"] = plots.two_point(flow, reference, label=label, title=title)
        figures["effective_mass"] = plots.effective_mass(flow, reference, label=label, title=title)
        figures["magnetisation"] = plots.magnetisation(*self.scalar, label=label, title=title)
        if self.flow.lattice.dim == 2:
            figures["configurations"] = plots.configurations(self.scalar[0].phi, title=title)
        return figures

    def save(
        self,
        folder: str | Path,
        *,
        settings: Mapping[str, object] | None = None,
        progress: bool | None = None,
    ) -> None:
        """Write plots (PNG), `results.json` and the flow as `flow.pt` into a folder.

        A flow of your own kind is left out if it does not say how it is saved, see `Flow.recipe`.

        Args:
            folder: made if it is missing.
            settings: further entries of `results.json`, such as the seed.
            progress: whether to show a bar while things are measured, see `fit`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with progress_as(progress):
            figures = self.figures()
        for name, figure in figures.items():
            plots.save_figure(figure, folder / f"{name}.png")
        with suppress(TypeError):  # a flow of the user's own that does not say how it is rebuilt
            self.flow.save(folder / "flow.pt")
        write_json({**(settings or {}), **self.results()}, folder / "results.json")


def _first_component(phi: Tensor, axes: Sequence[int]) -> Tensor:
    """Return fields at the first index of the axes of their components, which count from the end."""
    for axis in axes:
        phi = phi.select(axis, 0)
    return phi
