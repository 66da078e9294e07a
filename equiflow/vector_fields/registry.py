"""The vector fields that a saved flow or a config can name, and the one that a flow has by default."""

from __future__ import annotations

from equiflow.theories.base.kind import kind_of
from equiflow.theories.base.space import Space
from equiflow.vector_fields.angles import AngleField
from equiflow.vector_fields.attention import AttentionField, DeepAttentionField
from equiflow.vector_fields.base import VectorField
from equiflow.vector_fields.deep_steerable import DeepSteerableField
from equiflow.vector_fields.factorised import FactorisedConvField
from equiflow.vector_fields.multiplet import MultipletField
from equiflow.vector_fields.o3 import O3Field
from equiflow.vector_fields.orbit_conv import OrbitConvField
from equiflow.vector_fields.particles import ParticleField
from equiflow.vector_fields.potential import PotentialField
from equiflow.vector_fields.steerable import SteerableField

#: fields that a saved flow can name; a field of your own is passed to `EquivariantCNF.load` instead
VECTOR_FIELDS: dict[str, type[VectorField]] = {
    field.__name__: field
    for field in (
        AngleField,
        AttentionField,
        DeepAttentionField,
        DeepSteerableField,
        FactorisedConvField,
        MultipletField,
        O3Field,
        OrbitConvField,
        ParticleField,
        PotentialField,
        SteerableField,
    )
}


def default_field(space: Space) -> VectorField:
    """Return the vector field that a flow on `space` has unless told otherwise.

    Raises:
        TypeError: if nothing is known about the space.
    """
    chosen = kind_of(space).vector_field
    make = VECTOR_FIELDS[chosen] if isinstance(chosen, str) else chosen
    field: VectorField = make(space)  # type: ignore[arg-type]
    return field
