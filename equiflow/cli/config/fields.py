"""The section [field]: one kind for each family of vector fields, its keys the options of the family."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Tag

from equiflow.cli.config.section import Section, key, kind

#: a number of offsets for all axes, or one for each
Size = int | list[int] | None
WHOLE = "offsets per axis, a number or a list; the whole lattice unless given"
TRACE = "dense (exact, V products), hutchinson or hutch++ (estimated, to train; results take dense)"
PROBES = "probes of an estimated trace"
MODES = "cosine modes of the time dependence"
CONVOLUTION = "auto, fourier, dense or direct; they agree to rounding"
REPRESENTATION = "of the channels: trivial, regular, vector, an irrep such as irrep_1,2, or a list"
SEED = "of the random weights at the start"
KNOWN = (
    "vector field: potential, orbit, factorised, attention, deep-attention; steerable, deep-steerable (2D); "
    "o3 (3D); multiplet (for action.kind = on)"
)


class PotentialSection(Section):
    """`PotentialField`: the gradient of an invariant potential; any dimension."""

    kind: Literal["potential"] = key("potential", KNOWN)
    kernel_size: Size = key(None, WHOLE)
    n_channels: int = key(3, "kernels that the potential sees the field through", ge=1)
    n_ridges: int = key(16, "ridge functions that the potential is made of", ge=1)
    n_time_modes: int = key(4, MODES, ge=1)
    max_frequency: float = key(8.0, "largest initial frequency of the ridges, in 1/phi", gt=0)
    convolution: str = key("auto", "auto, fourier or dense; they agree to rounding")


class OrbitSection(Section):
    """`OrbitConvField`: sitewise features mixed by kernels tied on orbits; any dimension."""

    kind: Literal["orbit"] = key("orbit", "vector field")
    kernel_size: Size = key(None, WHOLE)
    n_frequencies: int = key(8, "sine features", ge=1)
    n_time_modes: int = key(4, MODES, ge=1)
    max_frequency: float = key(8.0, "largest initial frequency of the features, in 1/phi", gt=0)
    convolution: str = key("auto", CONVOLUTION)


class FactorisedSection(Section):
    """`FactorisedConvField`: learned combinations of features and time modes, as published; any dimension."""

    kind: Literal["factorised"] = key("factorised", "vector field")
    kernel_size: Size = key(None, WHOLE)
    n_frequencies: int = key(49, "sine features", ge=1)
    n_feature_bonds: int = key(20, "combinations of the features", ge=1)
    n_harmonics: int = key(10, "of the Fourier basis in time", ge=0)
    n_time_bonds: int = key(20, "combinations of the time modes", ge=1)
    max_frequency: float = key(5.0, "largest initial frequency of the features, in 1/phi", gt=0)
    convolution: str = key("auto", CONVOLUTION)


class SteerableSection(Section):
    """`SteerableField`: channels in any representation of D4 and its subgroups; 2D, needs escnn."""

    kind: Literal["steerable"] = key("steerable", "vector field")
    kernel_size: Size = key(None, "offsets per axis; 5, or what fits the lattice, unless given")
    representation: str | list[str] = key("regular", REPRESENTATION)
    multiplicity: int = key(4, "how many copies of it", ge=1)
    n_time_modes: int = key(4, MODES, ge=1)
    max_frequency: float = key(8.0, "largest initial frequency, in 1/phi", gt=0)
    seed: int = key(0, SEED, ge=0)


class DeepSteerableSection(Section):
    """`DeepSteerableField`: a residual network of steerable channels; 2D, needs escnn."""

    kind: Literal["deep-steerable"] = key("deep-steerable", "vector field")
    kernel_size: Size = key(None, "offsets per axis; 3, or what fits the lattice, unless given")
    representation: str | list[str] = key("regular", REPRESENTATION)
    multiplicity: int = key(2, "how many copies of it", ge=1)
    n_layers: int = key(2, "convolutions between channels", ge=1)
    n_time_modes: int = key(4, MODES, ge=1)
    max_frequency: float = key(4.0, "largest initial frequency, in 1/phi", gt=0)
    seed: int = key(0, SEED, ge=0)
    trace: str = key("dense", TRACE)
    n_probes: int = key(1, PROBES, ge=1)


class O3Section(Section):
    """`O3Field`: channels are irreps of O(3); three dimensions, needs e3nn."""

    kind: Literal["o3"] = key("o3", "vector field")
    kernel_size: Size = key(3, "offsets per axis, a number or a list")
    irreps: str = key("8x0e + 4x1o + 2x2e", "hidden channels, in e3nn's notation")
    n_radial: int | None = key(
        None, "smooth functions of the distance; a weight per orbit unless given", ge=1
    )
    n_time_modes: int = key(4, MODES, ge=1)
    max_frequency: float = key(8.0, "largest initial frequency of the scalars, in 1/phi", gt=0)


class AttentionSection(Section):
    """`AttentionField`: one layer of attention between sites, O(V^2); any dimension."""

    kind: Literal["attention"] = key("attention", "vector field")
    kernel_size: Size = key(None, WHOLE)
    n_heads: int = key(4, "attentions that are added up", ge=1)
    n_score: int = key(4, "components of queries and keys", ge=1)
    n_frequencies: int = key(6, "sines, and cosines, of queries, keys and values", ge=1)
    n_time_modes: int = key(4, MODES, ge=1)
    max_frequency: float = key(4.0, "largest initial frequency of the features, in 1/phi", gt=0)
    seed: int = key(0, SEED, ge=0)


class DeepAttentionSection(Section):
    """`DeepAttentionField`: layers of attention between channels, O(V^2); any dimension."""

    kind: Literal["deep-attention"] = key("deep-attention", "vector field")
    n_channels: int = key(4, "of the layers in between", ge=1)
    n_layers: int = key(2, "attentions in all", ge=2)
    kernel_size: Size = key(None, WHOLE)
    n_heads: int = key(4, "of each layer", ge=1)
    n_score: int = key(4, "components of queries and keys", ge=1)
    n_frequencies: int = key(3, "sines, and cosines, of each channel", ge=1)
    n_time_modes: int = key(4, MODES, ge=1)
    max_frequency: float = key(4.0, "largest initial frequency of the features, in 1/phi", gt=0)
    seed: int = key(0, SEED, ge=0)
    trace: str = key("dense", TRACE)
    n_probes: int = key(1, PROBES, ge=1)


class MultipletSection(Section):
    """`MultipletField`: O(N) vectors, for action.kind = "on"; any dimension."""

    kind: Literal["multiplet"] = key("multiplet", "vector field")
    n_frequencies: int = key(8, "sine features", ge=1)
    n_time_modes: int = key(4, MODES, ge=1)
    max_frequency: float = key(8.0, "largest initial frequency of the features, in 1/phi", gt=0)


FIELD_KINDS: tuple[type[Section], ...] = (
    PotentialSection,
    OrbitSection,
    FactorisedSection,
    SteerableSection,
    DeepSteerableSection,
    O3Section,
    AttentionSection,
    DeepAttentionSection,
    MultipletSection,
)
FieldSection = Annotated[
    Annotated[PotentialSection, Tag("potential")]
    | Annotated[OrbitSection, Tag("orbit")]
    | Annotated[FactorisedSection, Tag("factorised")]
    | Annotated[SteerableSection, Tag("steerable")]
    | Annotated[DeepSteerableSection, Tag("deep-steerable")]
    | Annotated[O3Section, Tag("o3")]
    | Annotated[AttentionSection, Tag("attention")]
    | Annotated[DeepAttentionSection, Tag("deep-attention")]
    | Annotated[MultipletSection, Tag("multiplet")],
    kind("potential"),
]
