"""The standard observables of any theory, as its `Kind` lists them: `measure_standard`."""

from __future__ import annotations

from equiflow.runtime.checks import check_type
from equiflow.samplers.samples import Samples
from equiflow.statistics import Estimate
from equiflow.theories.base.kind import kind_of
from equiflow.theories.base.space import Space


def measure_standard(source: Samples, *, space: Space | None = None) -> dict[str, Estimate]:
    """Measure the standard observables of a theory other than a real field on a lattice.

    For links these are the plaquette, loops and the topological charge, for angles magnetisation, energy and
    vortices. Real fields have `measure`. See `Samples.mean` for the errors.

    Args:
        source: weighted samples of a flow, or the samples of a Markov chain.
        space: of the configurations; by default the space that the samples know.

    Returns:
        The averages with their errors, by name.

    Raises:
        TypeError: if the theory lists no observables, as real fields do not.
        ValueError: if the space is not known, or another one than that of the samples.

    >>> import torch
    >>> from equiflow import HMC, Lattice, Links, WilsonAction
    >>> action = WilsonAction(Links(Lattice((4, 4)), "U(1)"), beta=1.0)
    >>> chain = HMC(action, step_size=0.3).sample(20, generator=torch.Generator().manual_seed(0))
    >>> abs(measure_standard(chain)["plaquette"].sigmas_from(0.4464)) < 4
    True
    """
    check_type(source, Samples, "source", "Give an Ensemble or a Chain.")
    if space is not None and source.space is not None and space != source.space:
        raise ValueError(f"space is {space}, but source.space is {source.space}; expected the same space.")
    space = source.space if space is None else space
    if space is None:
        raise ValueError("The samples do not say of which space they are; give space=....")
    if source.configuration_shape != space.shape:
        raise ValueError(
            f"The configurations have shape {source.configuration_shape}, expected those of {space}."
        )
    known = kind_of(space).observables(space)
    if not known:
        raise TypeError(
            f"No observables are listed for {space.kind}; use measure for real fields on a lattice, "
            "estimate_observables for your own."
        )
    return {name: source.mean(observable) for name, observable in known.items()}
