"""Theories: one folder each, on the common ground of `base/`; `kinds.py` lists them."""

from equiflow.theories.kinds import KINDS

__all__ = ["KINDS"]
