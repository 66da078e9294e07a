"""Vector fields: the velocities that continuous flows integrate, one family per file.

For a family of your own subclass `VectorField` (in `base.py`), fill in `velocity_and_divergence`, and check
the result with `equiflow.testing.assert_vector_field`.
"""

from equiflow.vector_fields.angles import AngleField
from equiflow.vector_fields.attention import AttentionField, DeepAttentionField
from equiflow.vector_fields.backflow import BackflowField
from equiflow.vector_fields.base import PathRates, VectorField
from equiflow.vector_fields.deep_steerable import DeepSteerableField
from equiflow.vector_fields.estimated import EstimatedField
from equiflow.vector_fields.factorised import FactorisedConvField
from equiflow.vector_fields.gauge_sun import SUNField
from equiflow.vector_fields.gauge_u1 import U1Field
from equiflow.vector_fields.multiplet import MultipletField
from equiflow.vector_fields.o3 import O3Field
from equiflow.vector_fields.orbit_conv import OrbitConvField
from equiflow.vector_fields.particles import ParticleField
from equiflow.vector_fields.potential import PotentialField
from equiflow.vector_fields.registry import VECTOR_FIELDS, default_field, known_fields
from equiflow.vector_fields.shallow import ShallowField
from equiflow.vector_fields.steerable import SteerableField
from equiflow.vector_fields.two_convolutions import TwoConvolutionField, TwoKernels

__all__ = [
    "VECTOR_FIELDS",
    "AngleField",
    "AttentionField",
    "BackflowField",
    "DeepAttentionField",
    "DeepSteerableField",
    "EstimatedField",
    "FactorisedConvField",
    "MultipletField",
    "O3Field",
    "OrbitConvField",
    "ParticleField",
    "PathRates",
    "PotentialField",
    "SUNField",
    "ShallowField",
    "SteerableField",
    "TwoConvolutionField",
    "TwoKernels",
    "U1Field",
    "VectorField",
    "default_field",
    "known_fields",
]
