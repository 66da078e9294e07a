"""The section [objective]: what training minimises, and how flows are integrated meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Tag

from equiflow.cli.config.section import Section, key, kind, required

#: a file that is found again from wherever a run is resumed
File = Annotated[str, AfterValidator(lambda name: str(Path(name).absolute()))]
SAMPLES = "file with a chain of the target, such as RUN/hmc.npz of `equiflow report`"


class SolvedSection(Section):
    """An objective that solves the flow: how, while training."""

    method: str = key("rk5", "solver while training")
    steps: int | None = key(
        None, "its equal steps, what suits the field unless given; none for an adaptive method", ge=1
    )
    rtol: float = key(1e-5, "relative tolerance, for adaptive methods", gt=0)
    atol: float = key(1e-5, "absolute tolerance, for adaptive methods", gt=0)
    checkpoint: bool = key(False, "recompute steps in the backward pass: less memory, more time")
    adjoint: bool = key(False, "integrate the backward pass: less memory, more time")


class PathSection(SolvedSection):
    """`PathGradient`: reverse divergence by its path gradient."""

    kind: Literal["path"] = key("path", "objective: path, reverse, forward, matching or mixture")
    kinetic_penalty: float = key(1e-3, "weight of the kinetic energy of the trajectories", ge=0)


class ReverseSection(Section):
    """`ReverseKL`: reverse divergence by reparametrisation, with the flow's solver."""

    kind: Literal["reverse"] = key("reverse", "objective")


class ForwardSection(SolvedSection):
    """`ForwardKL`: maximum likelihood on samples of the target."""

    kind: Literal["forward"] = key("forward", "objective")
    samples: File = required("hmc.npz", SAMPLES)


class MatchingSection(Section):
    """`FlowMatching`: regression of the velocity on straight lines to samples of the target."""

    kind: Literal["matching"] = key("matching", "objective")
    samples: File = required("hmc.npz", SAMPLES)
    coupling: str = key("minibatch", "how pairs are made: minibatch (nearest) or independent")
    sigma: float = key(0.0, "standard deviation of noise about the line", ge=0)
    fit_prior: bool = key(True, "whether the prior is trained, by maximum likelihood")
    n_times: int = key(16, "flow times per step, which share the batch", ge=1)


PartSection = Annotated[
    Annotated[PathSection, Tag("path")]
    | Annotated[ReverseSection, Tag("reverse")]
    | Annotated[ForwardSection, Tag("forward")]
    | Annotated[MatchingSection, Tag("matching")],
    kind("path"),
]


class MixtureSection(Section):
    """`Mixture`: a weighted sum of the objectives [[objective.parts]], each with the keys of its kind."""

    kind: Literal["mixture"] = key("mixture", "objective")
    weights: list[float] = required(
        [0.5, 0.5], "of the parts, in their order; they add up to 1", min_length=1
    )
    parts: list[PartSection] = required(
        [PathSection(), ForwardSection.model_construct(samples="hmc.npz")], "the objectives", min_length=1
    )


PART_KINDS: tuple[type[Section], ...] = (PathSection, ReverseSection, ForwardSection, MatchingSection)
OBJECTIVE_KINDS: tuple[type[Section], ...] = (*PART_KINDS, MixtureSection)
ObjectiveSection = Annotated[
    Annotated[PathSection, Tag("path")]
    | Annotated[ReverseSection, Tag("reverse")]
    | Annotated[ForwardSection, Tag("forward")]
    | Annotated[MatchingSection, Tag("matching")]
    | Annotated[MixtureSection, Tag("mixture")],
    kind("path"),
]
