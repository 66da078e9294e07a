"""Flows: a prior carried to a model density by an invertible, symmetric map."""

from equiflow.flows.base import Flow, FlowDistribution
from equiflow.flows.certificate import Certificate
from equiflow.flows.cnf import EquivariantCNF, PathSample

__all__ = ["Certificate", "EquivariantCNF", "Flow", "FlowDistribution", "PathSample"]
