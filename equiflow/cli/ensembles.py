"""Ensembles of a trained run: `equiflow sample` draws them into files, `equiflow measure` finds them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch

from equiflow import Ensemble, EquivariantCNF, importance_sample
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.flow_files import FlowFile
from equiflow.cli.run.errors import RunError
from equiflow.cli.run.folder import Run
from equiflow.cli.run.standing import note_if_unfinished
from equiflow.interop import sample_shards, save_samples
from equiflow.interop.containers import SUFFIXES, check_can_be_written
from equiflow.interop.samples import shards_in
from equiflow.report.terminal import print_line, print_table
from equiflow.runtime import distributed
from equiflow.runtime.capacity import bytes_of_samples, check_disk, check_samples, samples_in_words
from equiflow.runtime.devices import check_device
from equiflow.runtime.randomness import stream
from equiflow.runtime.storage import real_path
from equiflow.statistics import effective_sample_size, log_mean_exp

#: file of the HMC samples that a report compares with, in the run folder
HMC_FILE = "hmc.npz"
#: bytes of the header of a file of samples, at least
HEADER_BYTES = 1024


def sample(
    run: Run | FlowFile,
    n_samples: int,
    *,
    out: Path | None,
    seed: int,
    batch_size: int,
    threads: int | None,
    device: str | None = None,
    levels: int = 1,
    force: bool = False,
) -> None:
    """Draw an ensemble, write it to a file, and print its quality.

    Args:
        run: with a trained flow, or a file with one.
        n_samples: number of samples.
        out: the file; by default `ensemble.npz` in the run folder.
        seed: of the samples.
        batch_size: number of samples at a time.
        threads: CPU threads; by default as in the config.
        device: where to sample; by default as in the config.
        levels: 1, or 2 for a coarse solver corrected by few fine solves, see `importance_sample`.
        force: whether a file that is there is replaced.

    Raises:
        ConfigError: if the name of the file has another suffix.
        RunError: if the file is there already, or the run has no checkpoint yet.
        ValueError: if memory or disk have no room for so many samples.
        OSError: if the file cannot be written.
        ImportError: if its format needs a package that is not installed.
    """
    out = _file(run, out)
    if not force:
        _refuse_to_replace(out)
    check_place(out)
    flow, source = ready(run, threads, device)
    if isinstance(run, Run):
        note_if_unfinished(run, flow, source)
    _check_room(flow, n_samples, out)
    generator = stream(seed, "samples", device=flow.device)
    ensemble = importance_sample(
        flow, run.action, n_samples, batch_size=batch_size, levels=levels, generator=generator
    )
    if not force:  # another command may have written it meanwhile
        _refuse_to_replace(out)
    about = {"run": str(run.folder), "flow": source, "seed": seed}
    save_samples(ensemble, out, action=run.action, about=about)
    print_table(f"{n_samples} samples of {source}", ("quantity", "value"), quality(ensemble))
    print_line(f"wrote {out}; next: equiflow measure {out}")


def sample_in_shards(
    run: Run | FlowFile,
    n_samples: int,
    *,
    n_shards: int | None,
    out: Path | None,
    seed: int,
    batch_size: int,
    threads: int | None,
    device: str | None = None,
    levels: int = 1,
    force: bool = False,
) -> None:
    """Draw an ensemble, in all processes together, write it in shards, and print its quality.

    Args:
        run: with a trained flow, or a file with one.
        n_samples: number of samples.
        n_shards: number of files; by default what suits the number of samples.
        out: a name with the suffix of the files; without the suffix it is the name of their folder.
        seed: of the samples.
        batch_size: number of samples at a time.
        threads: CPU threads; by default as in the config.
        device: where to sample; by default as in the config.
        levels: 1, or 2 for a coarse solver corrected by few fine solves, see `importance_sample`.
        force: whether shards that are there are removed first; else sound ones are kept.

    Raises:
        ConfigError: if the name of the files has another suffix.
        RunError: if the run has no checkpoint yet.
        ValueError: if the folder holds shards of another ensemble, or memory or disk have no room.
        OSError: if the files cannot be written.
        ImportError: if their format needs a package that is not installed.
    """
    torch.set_num_threads(threads or run.threads)
    out, content, source = distributed.from_first(lambda: _prepared(run, out, force))
    folder = out.with_suffix("")
    with distributed.all_or_none():  # one process may lack the device
        flow = EquivariantCNF.from_dict(content, device=check_device(device or run.device))
    distributed.by_first(lambda: _check_room(flow, n_samples, folder / out.name, n_shards=n_shards))
    log_weight = sample_shards(
        flow,
        run.action,
        n_samples,
        folder,
        n_shards=n_shards,
        seed=seed,
        batch_size=batch_size,
        levels=levels,
        suffix=out.suffix,
        about={"run": str(run.folder), "flow": source},
    )
    if distributed.is_first():
        rows = [
            ("reverse ESS per sample", str(effective_sample_size(log_weight))),
            ("log Z, without the solver's error", str(log_mean_exp(log_weight))),
        ]
        if levels > 1:  # these weights may be those of the coarse solver, whose shift of log Z is not small
            rows = [("log Z and ESS", f"corrected by fine solves: equiflow measure {folder}")]
        files = len(shards_in(folder))
        print_table(f"{n_samples} samples of {source} in {files} shards", ("quantity", "value"), rows)
        print_line(f"wrote {folder}; next: equiflow measure {folder}")


def ready(run: Run | FlowFile, threads: int | None, device: str | None) -> tuple[EquivariantCNF, str]:
    """Return the trained flow of a run, and set the number of threads.

    Args:
        run: with a trained flow, or a file with one.
        threads: CPU threads; by default as in the config.
        device: where the flow goes; by default as in the config.

    Returns:
        The flow, and the name of the file that it is from.
    """
    torch.set_num_threads(threads or run.threads)
    return run.trained(device=device)


def quality(ensemble: Ensemble) -> list[tuple[str, str]]:
    """Return rows `quantity, value` about the weights of an ensemble."""
    rows = [
        ("reverse ESS per sample", str(ensemble.effective_sample_size())),
        ("log Z", str(ensemble.log_z())),
    ]
    if ensemble.correction is not None:
        rows.append(("levels", str(ensemble.correction)))
        rows.append(("log Z corrected by", str(ensemble.correction_of())))
    if ensemble.certificate is not None:
        rows.append(("certificate", str(ensemble.certificate)))
    return rows


def ensembles_of(folder: Path) -> list[Path]:
    """Return the files and folders of samples in a run folder, without the HMC samples of its report.

    Raises:
        RunError: if there are none.
    """
    found = [
        path
        for path in sorted(folder.iterdir())
        if (path.is_file() and path.suffix in SUFFIXES and path.name != HMC_FILE) or shards_in(path)
    ]
    if not found:
        raise RunError(f"{folder} holds no ensemble yet: `equiflow sample {folder}` draws one.")
    return found


def _prepared(run: Run | FlowFile, out: Path | None, force: bool) -> tuple[Path, dict[str, Any], str]:
    """Return the name of the shards, and the flow as a dictionary, which one process can send to others."""
    out = _file(run, out)
    check_place(out.with_suffix("") / out.name)
    # Torchrun repeats the command after a process was killed: what was drawn since it began is kept.
    if force and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        for shard in shards_in(out.with_suffix("")):
            shard.unlink()
    flow, source = run.trained(device="cpu")
    if isinstance(run, Run):
        note_if_unfinished(run, flow, source)
    return out, flow.to_dict(), source


def _file(run: Run | FlowFile, out: Path | None) -> Path:
    """Return the file of an ensemble, after checking that its format can be written."""
    out = run.folder / "ensemble.npz" if out is None else out
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"{out}: give a name that ends in {', '.join(SUFFIXES)}.")
    check_can_be_written(out)
    return out


def _refuse_to_replace(out: Path) -> None:
    """Raise if a file is there already."""
    if out.exists():
        raise RunError(
            f"{out} is there already, and may have taken long: give another name by --out, or --force to "
            "replace it."
        )


def check_samples_fit(flow: EquivariantCNF, n_samples: int, remedy: str) -> None:
    """Refuse more samples than the memory can hold.

    Args:
        flow: whose samples they are.
        n_samples: number of samples that are in memory together.
        remedy: a sentence that ends the message.

    Raises:
        ValueError: if they do not fit.
    """
    check_samples(n_samples, flow.space.shape, flow.dtype, remedy, device=flow.device)


def _check_room(flow: EquivariantCNF, n_samples: int, out: Path, *, n_shards: int | None = 1) -> None:
    """Raise now, not after hours of sampling, if memory or disk have no room for so many samples."""
    size = bytes_of_samples(n_samples, flow.space.shape, flow.dtype) + (n_shards or 1) * HEADER_BYTES
    what = f"{samples_in_words(n_samples, flow.space.shape, flow.dtype)} need"
    check_disk(size, out.parent, what, "Take fewer samples (-n), or another disk (--out).")
    if n_shards == 1:
        remedy = "Take fewer samples (-n), or write shards (--shards), one of which is in memory at a time."
        check_samples_fit(flow, n_samples, remedy)
    elif n_shards is not None:
        check_samples_fit(flow, -(-n_samples // n_shards), "They are one shard: take more --shards.")


def check_place(out: Path) -> None:
    """Raise now, not after hours of sampling, if a file cannot be written; nothing is made yet.

    Args:
        out: the file.

    Raises:
        OSError: if the system will refuse, or a symbolic link leads back to itself.
    """
    out = real_path(out)
    if out.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(out))
    folder = next(place for place in out.parents if os.path.lexists(place))
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if any(len(os.fsencode(part)) > longest for part in out.relative_to(folder).parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(out))
