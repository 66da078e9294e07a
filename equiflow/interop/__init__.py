"""Files of others and for others: ensembles, weights of jaxlft, ArviZ."""

from equiflow.interop.jaxlft import load_jaxlft

__all__ = ["load_jaxlft"]
