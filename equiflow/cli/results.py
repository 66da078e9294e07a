"""From a trained run to numbers: observables, the report, the laws.

Each public function is a command of `equiflow.cli.app`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from equiflow import HMC, Action, Chain, Ensemble, EquivariantCNF, Solver, importance_sample
from equiflow import measure as measured
from equiflow.analysis import Measurements, has_standard
from equiflow.cli.ensembles import HMC_FILE, check_place, check_samples_fit, ensembles_of, quality, ready
from equiflow.cli.flow_files import FlowFile, Record, action_from, record_of
from equiflow.cli.run.errors import RunError
from equiflow.cli.run.folder import Run
from equiflow.cli.run.standing import note_if_unfinished
from equiflow.interop import describe_samples, load_chain, load_ensemble, save_samples
from equiflow.interop.samples import shards_in
from equiflow.report.numbers import write_json
from equiflow.report.page import Page
from equiflow.report.report import Report
from equiflow.report.terminal import print_line, print_table
from equiflow.report.words import name_of_correlator
from equiflow.runtime.randomness import stream
from equiflow.runtime.storage import CheckpointError, real_path
from equiflow.statistics import Estimate
from equiflow.testing import Check, CheckReport, check_flow, equivariance_error, invariance_error
from equiflow.theories.base.kind import kind_named
from equiflow.theories.base.space import Space
from equiflow.training import Rung

#: largest number of sites on which laws are checked that need a dense Jacobian, V^2 numbers per sample
DENSE_SITES = 1024
#: number of chains of the HMC reference, and of trajectories between their samples
HMC_CHAINS, HMC_THIN = 64, 5
#: solver of the laws, which hold in the limit of a fine solver; how far the flow's own solver is from this
#: limit is measured by the certificate of an ensemble
LAWS_SOLVER = Solver("dopri5", rtol=1e-7, atol=1e-7)


def measure_files(path: Path, out: Path | None, *, z2: bool | None = None) -> None:
    """Print the observables of samples.

    Args:
        path: a file of samples, a folder of shards, or a run folder: then all ensembles in it.
        out: JSON file for the same numbers, if they are to be written.
        z2: see `equiflow.measure`; by default what the action in the file says.

    Raises:
        RunError: if there is nothing of this name, no samples in it, or several ensembles for one JSON file.
    """
    if not real_path(path).exists():
        raise RunError(f"{path} does not exist; expected a file or folder of samples, or a run folder.")
    if path.is_dir() and not (path / "config.toml").exists() and not shards_in(path):
        raise RunError(
            f"{path} is neither a run folder, with a config.toml, nor a folder of samples, with files such "
            "as samples-000000.npz."
        )
    found = ensembles_of(path) if (path / "config.toml").exists() else [path]
    if out is not None and len(found) > 1:
        raise RunError(f"--json takes one ensemble, {path} holds {', '.join(map(str, found))}: name one.")
    if out is not None:
        check_place(out)
    for samples in found:
        _measure_file(samples, out, z2)


def _measure_file(path: Path, out: Path | None, z2: bool | None) -> None:
    """Print the observables of one file or folder of samples, and write them to a JSON file."""
    about = describe_samples(path)
    samples: Ensemble | Chain = (load_chain if about["kind"] == "Chain" else load_ensemble)(path)
    name = about["action"]["text"] if about["action"] else "of an unknown action"
    # Old files do not name their space; they are of scalar fields.
    space = kind_named(about.get("space") or "lattice").space.of_shape(tuple(about["shape"]))
    action = action_from(about["action"]["text"], space) if about["action"] else None
    found = measured(samples, space=space, action=action, z2=z2) if has_observables(space) else None
    scalars = {} if found is None else found.scalars()
    rows = [(key.replace("_", " "), str(value)) for key, value in scalars.items()]
    if isinstance(samples, Ensemble):
        rows = quality(samples) + rows
    print_table(f"{path}: {name}", ("quantity", "value"), rows)
    if isinstance(found, Measurements):
        correlator = [(str(t), str(value)) for t, value in enumerate(found.decaying_correlator)]
        print_table(f"two-point function {name_of_correlator(found)}", ("t", "value"), correlator)
    if out is not None:
        numbers: dict[str, Any] = {key: _plain(value) for key, value in scalars.items()}
        if isinstance(found, Measurements):
            numbers["correlator"] = [_plain(value) for value in found.correlator]
            numbers["connected_correlator"] = [_plain(value) for value in found.connected_correlator]
        if isinstance(samples, Ensemble):
            numbers |= {"log_z": _plain(samples.log_z()), "ess": _plain(samples.effective_sample_size())}
        write_json({"samples": about, **numbers}, out)


def has_observables(space: Space) -> bool:
    """Return whether a theory has observables that `measure` knows and a report shows."""
    return space.is_real_field or has_standard(space)


def report(
    run: Run | FlowFile,
    *,
    n_samples: int,
    n_hmc: int,
    out: Path | None,
    threads: int | None,
    device: str | None = None,
) -> None:
    """Measure a flow on fresh samples, and write page, plots and numbers.

    Args:
        run: with a trained flow, or a file with one.
        n_samples: number of fresh samples.
        n_hmc: number of HMC samples to compare with; 0 takes those in the folder, if any.
        out: the page; by default `report.html` in the run folder, or in the folder `NAME-report` for a file.
        threads: CPU threads; by default as in the config.
        device: where to sample; by default as in the config.

    Raises:
        RunError: if the theory has no report, or the run has no checkpoint yet.
        ValueError: if the memory has no room for so many samples.
    """
    if isinstance(run, Run):  # before its flow is loaded, which may not exist
        _refuse_without_observables(run.action.space, str(run.folder))
    flow, source = ready(run, threads, device)
    if isinstance(run, FlowFile):
        _refuse_without_observables(flow.space, run.source)
    else:
        note_if_unfinished(run, flow, source)
    check_samples_fit(flow, n_samples, "Take fewer samples (-n).")
    check_samples_fit(flow, n_hmc, "Take fewer samples of HMC (--hmc).")
    action, record = run.action, record_of(run)
    path = record.folder / "report.html" if out is None else out
    check_place(path)
    check_place(record.folder / HMC_FILE)
    generator = stream(record.seed, "report", device=flow.device)
    ensemble = importance_sample(flow, action, n_samples, batch_size=512, certify=256, generator=generator)
    chain = _chain(record, action, flow, n_hmc)
    made = Report(
        flow, action, record.history, ensemble, chain, minimises_reverse_kl=record.minimises_reverse_kl
    )
    made.print()
    settings = {"run": str(run.folder), "flow": source, "seed": record.seed}
    made.save(record.folder / "plots", settings=settings)
    page = Page(
        made,
        title=record.title,
        config=record.config,
        evaluations=record.evaluations,
        laws=laws(flow),
        sessions=record.sessions,
        rungs=[*record.below, Rung(action, flow, record.history)] if record.below else [],
    )
    page.save(path)
    print_line(f"wrote {path}, and plots and results.json to {record.folder / 'plots'}")


def _refuse_without_observables(space: Space, name: str) -> None:
    """Raise if a report cannot show the observables of a theory."""
    if not has_observables(space):
        raise RunError(
            f"A report shows observables of fields, angles or links; this flow is of {space.kind}. Take "
            f"`equiflow sample {name}` and `equiflow measure`, or `equiflow check {name}`."
        )


def check(run: Run | FlowFile, *, device: str | None = None) -> CheckReport:
    """Check the laws on the trained flow of a run.

    Args:
        run: with a trained flow, or a file with one.
        device: where to check; by default as in the config.

    Returns:
        What `laws` returns.
    """
    return laws(ready(run, None, device)[0])


def laws(flow: EquivariantCNF) -> CheckReport:
    """Check every law in float64; on large lattices only the symmetries, which need no dense Jacobian."""
    exact = EquivariantCNF.from_dict(flow.to_dict()).double()
    exact.solver = LAWS_SOLVER
    if exact.lattice.volume <= DENSE_SITES:
        return check_flow(exact)
    found = [("equivariance", 1e-12, equivariance_error(exact.vector_field))]
    found += [("log q invariant", 1e-3, invariance_error(exact, exact.group))]
    remedy = "`equiflow check` on a smaller lattice shows every law."
    checks = [
        Check(law, *max(errors.items(), key=lambda case: case[1]), tolerance, remedy)
        for law, tolerance, errors in found
    ]
    return CheckReport(f"EquivariantCNF on {exact.lattice.shape}, symmetries only", tuple(checks))


def _chain(record: Record, action: Action, flow: EquivariantCNF, n_hmc: int) -> Chain | None:
    """HMC samples: those in the folder if there are enough, else new ones, which are kept there."""
    path = record.folder / HMC_FILE
    if path.exists():
        try:
            about, chain = describe_samples(path), load_chain(path)
        except CheckpointError as error:
            raise RunError(f"{error} Or delete {path}, which holds HMC samples.") from error
        known = about["action"] is not None and about["action"]["text"] == repr(action)
        if known and chain.samples.shape[:2].numel() >= n_hmc:
            return chain
    if not n_hmc:
        return None
    generator = stream(record.seed, "hmc", device=flow.device)
    try:
        chain = HMC(action).sample(
            max(8, -(-n_hmc // HMC_CHAINS)),
            n_chains=HMC_CHAINS,
            thin=HMC_THIN,
            generator=generator,
            device=flow.device,
            dtype=flow.dtype,
        )
    except (ValueError, RuntimeError) as error:  # a report of the flow alone is better than none
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        print_line(f"HMC cannot sample this action, so that the report compares with nothing: {error}")
        return None
    save_samples(chain, path, action=action)
    return chain


def _plain(value: Estimate) -> dict[str, float | None]:
    """Return an estimate for JSON, which has no NaN."""
    numbers = {"mean": value.mean, "error": value.error, "solver_error": value.systematic}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}
