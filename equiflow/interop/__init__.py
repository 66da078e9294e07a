"""Files of others and for others: samples with their weights, flows of jaxlft, xarray and ArviZ."""

from equiflow.interop.inference_data import to_arviz, to_xarray
from equiflow.interop.jaxlft import load_jaxlft
from equiflow.interop.samples import append_samples, describe_samples, load_chain, load_ensemble, save_samples
from equiflow.interop.shards import sample_shards

__all__ = [
    "append_samples",
    "describe_samples",
    "load_chain",
    "load_ensemble",
    "load_jaxlft",
    "sample_shards",
    "save_samples",
    "to_arviz",
    "to_xarray",
]
