"""Samples for xarray and ArviZ: `to_xarray` and `to_arviz`. No other module imports these packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.samplers import Chain, Ensemble

#: functions of configurations `(batch, *lattice)` by name, one value `(batch,)` each
Observables = Mapping[str, Callable[[Tensor], Tensor]]


def to_xarray(
    samples: Ensemble | Chain, *, observables: Observables | None = None, fields: bool = True
) -> Any:
    """Return samples as an `xarray.Dataset` with the axes `draw` and `x0, x1, ...`.

    A chain has the axis `chain` before `draw`. The dataset of an ensemble contains `log_q` and `log_weight`.
    Averages over the target need `weights = exp(log_weight)`, as in `dataset[name].weighted(...)`. Of an
    ensemble of two levels these are its fine samples alone, whose weights need no correction. The dataset of
    a chain contains `acceptance_rate`, unless some samples have none, such as the first ones of independence
    Metropolis.

    Args:
        samples: an ensemble or a chain.
        observables: functions of configurations by name, added as variables.
        fields: whether to include the configurations themselves, as `phi`.

    Returns:
        An `xarray.Dataset`.

    Raises:
        TypeError: for other samples.
        ImportError: if xarray is not installed.
    """
    check_type(samples, (Ensemble, Chain), "samples")
    try:
        import xarray
    except ImportError as error:
        raise ImportError("to_xarray needs xarray: pip install '.[arviz]'.") from error
    variables: dict[str, Any] = {}
    if isinstance(samples, Ensemble):
        samples = samples.by_fine_solver()
        phi, axes = samples.phi, ["draw"]
        variables |= {"log_q": (axes, _numpy(samples.log_q))}
        variables |= {"log_weight": (axes, _numpy(samples.log_weight))}
        values = {name: observable(phi) for name, observable in (observables or {}).items()}
    else:
        phi, axes = samples.samples.transpose(0, 1), ["chain", "draw"]
        if samples.acceptance.shape == samples.samples.shape[:2]:
            variables |= {"acceptance_rate": (axes, _numpy(samples.acceptance.mT))}
        values = {name: samples.series(observable).mT for name, observable in (observables or {}).items()}
    variables |= {name: (axes, _numpy(value)) for name, value in values.items()}
    if fields:
        sites = [f"x{axis}" for axis in range(phi.dim() - len(axes))]
        variables["phi"] = ([*axes, *sites], _numpy(phi))
    coordinates = {axis: range(size) for axis, size in zip(axes, phi.shape, strict=False)}
    attributes = {"certificate": str(samples.certificate)} if samples.certificate else {}
    return xarray.Dataset(variables, coordinates, attributes)


def to_arviz(chain: Chain, *, observables: Observables | None = None, fields: bool = True) -> Any:
    """Return a chain as ArviZ data with the groups `posterior` and `sample_stats`.

    Args:
        chain: samples of the target. ArviZ knows no weights, so turn an ensemble into a chain by
            `IndependenceMetropolis.from_ensemble` first.
        observables: functions of configurations by name, added as variables.
        fields: whether to include the configurations themselves, as `phi`.

    Returns:
        `arviz.InferenceData`, or `xarray.DataTree` from ArviZ 1 on, which has no InferenceData.

    Raises:
        TypeError: for other samples than a chain.
        ImportError: if ArviZ is not installed.
    """
    check_type(chain, Chain, "chain", "Make one of an ensemble by IndependenceMetropolis.from_ensemble.")
    try:
        import arviz
        import xarray
    except ImportError as error:
        raise ImportError("to_arviz needs ArviZ: pip install '.[arviz]'.") from error
    posterior = to_xarray(chain, observables=observables, fields=fields)
    stats = [name for name in ("acceptance_rate",) if name in posterior]
    groups = {"posterior": posterior.drop_vars(stats)} | ({"sample_stats": posterior[stats]} if stats else {})
    if hasattr(arviz, "InferenceData"):
        return arviz.InferenceData(**groups)
    return xarray.DataTree.from_dict(groups)


def _numpy(values: Tensor) -> Any:
    """Return a tensor as a NumPy array."""
    return values.detach().cpu().numpy()
