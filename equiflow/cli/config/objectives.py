"""The section [objective]: what training minimises, and how flows are integrated meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, model_validator

from equiflow import FlowMatching, ForwardKL, PathGradient, ReverseKL
from equiflow.cli.config.derived import DerivedSection, section_of
from equiflow.cli.config.section import KindSection, OneOf, key, required
from equiflow.training import AdaptivePathGradient

#: a file that is found again from wherever a run is resumed
File = Annotated[str, AfterValidator(lambda name: str(Path(name).absolute()))]
ABOUT_KIND = "objective: path, reverse, forward, matching, mixture or adaptive"
ABOUT_SAMPLES = "file with a chain of the target, such as RUN/hmc.npz of `equiflow report`"


class SolvedSection(DerivedSection):
    """How the flow is integrated while training, for objectives that do so."""

    method: str = key("rk5", "solver while training")
    steps: int | None = key(
        None, "its equal steps, what suits the field unless given; none for an adaptive method", ge=1
    )
    rtol: float = key(1e-5, "relative tolerance, for adaptive methods", gt=0)
    atol: float = key(1e-5, "absolute tolerance, for adaptive methods", gt=0)
    checkpoint: bool = key(False, "recompute steps in the backward pass: less memory, more time")
    adjoint: bool = key(False, "integrate the backward pass: less memory, more time")


class _ForwardBase(SolvedSection):
    """The keys of `ForwardKL` that are no options."""

    samples: File = required("hmc.npz", ABOUT_SAMPLES)


class _MatchingBase(DerivedSection):
    """The keys of `FlowMatching` that are no options, and its old ones."""

    samples: File = required("hmc.npz", ABOUT_SAMPLES)

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, table: Any) -> Any:
        """Read the key `coupling` of version 0.1, which is `pairing` now."""
        if not isinstance(table, dict) or "coupling" not in table or "pairing" in table:
            return table
        given = {name: value for name, value in table.items() if name != "coupling"}
        return {"pairing": table["coupling"], **given}


#: the objectives that can be parts of a mixture, the default first
PARTS: dict[str, type[DerivedSection]] = {
    "path": section_of(
        PathGradient,
        "path",
        SolvedSection,
        about=ABOUT_KIND,
        without=("solver",),
        more={
            "kinetic_penalty": (
                float,
                key(PathGradient().kinetic_penalty, "weight of the kinetic energy of the trajectories"),
            )
        },
    ),
    "reverse": section_of(ReverseKL, "reverse", DerivedSection, about=ABOUT_KIND),
    "forward": section_of(ForwardKL, "forward", _ForwardBase, about=ABOUT_KIND, without=("solver",)),
    "matching": section_of(FlowMatching, "matching", _MatchingBase, about=ABOUT_KIND),
}


class MixtureSection(KindSection):
    """`Mixture`: a weighted sum of the objectives [[objective.parts]], each with the keys of its kind."""

    kind: Literal["mixture"] = key("mixture", ABOUT_KIND)
    weights: list[float] = required(
        [0.5, 0.5], "weights of the parts, in their order; they add up to 1", min_length=1
    )
    parts: list[Annotated[DerivedSection, OneOf(PARTS)]] = required(
        [PARTS["path"](), PARTS["forward"].model_construct(samples="hmc.npz")], "the objectives", min_length=1
    )


#: all objectives by name, the default first; "adaptive" is none of the parts, because it changes meanwhile
OBJECTIVES: dict[str, type[KindSection]] = {
    **PARTS,
    "mixture": MixtureSection,
    "adaptive": section_of(
        AdaptivePathGradient, "adaptive", DerivedSection, about=ABOUT_KIND, without=("solver",)
    ),
}
