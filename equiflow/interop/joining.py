"""Several ensembles, or parts of a chain, as one: `join`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from equiflow.flows import Certificate
from equiflow.flows.certificate import SolvedTwice, compare_solves
from equiflow.samplers import Chain, Correction, Ensemble
from equiflow.samplers.families import joined_families, joined_surplus
from equiflow.theories.base.space import Space

S = TypeVar("S", Ensemble, Chain)


def join(parts: Sequence[S]) -> S:
    """Return one ensemble or chain made of several, in order.

    Args:
        parts: at least one.

    Returns:
        All samples, with one certificate.

    Raises:
        ValueError: if the parts do not belong together.
    """
    first = parts[0]
    joined: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(first)):
        values = [getattr(part, name) for part in parts]
        if name == "certificate":
            joined[name] = _join_certificates(values)
        elif name == "correction":
            joined[name] = _join_corrections([part for part in parts if isinstance(part, Ensemble)])
        elif name == "space":
            joined[name] = _only([value for value in values if value is not None])
        elif name == "family":
            joined[name] = _join_families([part for part in parts if isinstance(part, Ensemble)])
        elif name == "surplus":
            joined[name] = _join_surplus([part for part in parts if isinstance(part, Ensemble)])
        elif name == "annealed":
            joined[name] = any(values)
        elif isinstance(values[0], Tensor):
            if any(value is None or value.shape[1:] != values[0].shape[1:] for value in values):
                raise ValueError(
                    f"{name} has the shapes {[v if v is None else tuple(v.shape) for v in values]}"
                )
            joined[name] = torch.cat(values)
        else:  # such as the step size, which may differ between parts of a chain
            joined[name] = values[0] if all(value == values[0] for value in values) else None
    return dataclasses.replace(first, **joined)


def _only(spaces: Sequence[Space]) -> Space | None:
    """Return the space of all parts that know it; None if none does."""
    if any(space != spaces[0] for space in spaces):
        raise ValueError(f"some live on {spaces[0]} and some on another space")
    return spaces[0] if spaces else None


def _join_families(parts: Sequence[Ensemble]) -> Tensor | None:
    """Return the families of several ensembles; each sample of one without families is a family."""
    if all(part.family is None for part in parts):
        return None
    alone = [torch.arange(len(part.phi), device=part.phi.device) for part in parts]
    return joined_families(
        [own if part.family is None else part.family for own, part in zip(alone, parts, strict=True)]
    )


def _join_surplus(parts: Sequence[Ensemble]) -> Tensor | None:
    """Return the surplus of the families of several ensembles; 0 for one without families."""
    if all(part.surplus is None for part in parts):
        return None
    own = [torch.zeros_like(p.log_weight).double() if p.surplus is None else p.surplus for p in parts]
    return joined_surplus(own, [part.log_weight for part in parts])


def _join_corrections(parts: Sequence[Ensemble]) -> Correction | None:
    """Return the correction of several ensembles one after the other, of the same two solvers."""
    present = [part.correction for part in parts if part.correction is not None]
    if not present:
        return None
    if len(present) < len(parts) or len({(part.coarse, part.fine) for part in present}) > 1:
        raise ValueError("some have two levels and some one, or other solvers")
    starts = itertools.accumulate((len(part.phi) for part in parts), initial=0)
    rows = [correction.rows + start for correction, start in zip(present, starts, strict=False)]
    return dataclasses.replace(
        present[0],
        rows=torch.cat(rows),
        phi=torch.cat([part.phi for part in present]),
        log_q=torch.cat([part.log_q for part in present]),
        log_weight=torch.cat([part.log_weight for part in present]),
        coarse_nfe=max(part.coarse_nfe for part in present),
        fine_nfe=max(part.fine_nfe for part in present),
    )


def _join_certificates(parts: Sequence[Certificate | None]) -> Certificate | None:
    """Return one certificate of the samples behind several, which must have the same two solvers."""
    present = [part for part in parts if part is not None]
    if not present:
        return None
    solvers = {(part.solver, part.refined, part.corrects) for part in present}
    if len(present) < len(parts) or len(solvers) > 1:
        raise ValueError("some have a certificate and some another one or none")
    names = [field.name for field in dataclasses.fields(SolvedTwice)]
    twice = SolvedTwice(**{name: torch.cat([getattr(p.samples, name) for p in present]) for name in names})
    round_trips = torch.tensor([part.round_trip_error for part in present], dtype=torch.float64)
    ((solver, refined, corrects),) = solvers
    nfe = max(part.nfe for part in present)
    joined = compare_solves(twice, round_trips, nfe=nfe, solver=solver, refined=refined)
    return dataclasses.replace(joined, corrects=corrects)
