"""Theories, one folder each: spaces, groups, actions, priors, observables.

`base/` holds what they share. `kinds.py` lists them; start there.
"""

from equiflow.theories.base.kind import Kind, register
from equiflow.theories.kinds import KINDS

__all__ = ["KINDS", "Kind", "register"]
