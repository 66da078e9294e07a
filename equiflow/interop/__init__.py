"""Exchange with other programs: files of samples, flows of jaxlft, data for xarray and ArviZ.

Start with `save_samples` and `load_ensemble`. `sample_shards` draws ensembles that do not fit into memory.
"""

from equiflow.interop.inference_data import to_arviz, to_xarray
from equiflow.interop.jaxlft import load_jaxlft
from equiflow.interop.samples import append_samples, describe_samples, load_chain, load_ensemble, save_samples
from equiflow.interop.shards import sample_shards
from equiflow.interop.trajectories import load_trajectories

__all__ = [
    "append_samples",
    "describe_samples",
    "load_chain",
    "load_ensemble",
    "load_jaxlft",
    "load_trajectories",
    "sample_shards",
    "save_samples",
    "to_arviz",
    "to_xarray",
]
