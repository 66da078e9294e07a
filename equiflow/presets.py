"""Another name of `equiflow.theories.scalar.presets`: published set-ups by name."""

from equiflow.theories.scalar.presets import Preset, Published, get, names

__all__ = ["Preset", "Published", "get", "names"]
