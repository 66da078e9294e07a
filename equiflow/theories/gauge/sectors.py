"""Topological sectors of U(1) in two dimensions: a field of every charge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.observables import topological_charge


def uniform_flux(links: Links, charge: Tensor) -> Tensor:
    """Return fields of given topological charges whose plaquettes all have the same angle, `2 pi Q / V`.

    Chains that start there are in a sector of your choice, and a field times one of these is in another
    sector (Fucito and Solomon 1984): the action of the Wilson theory rises by about `beta (2 pi Q)^2 / 2V`.

    Args:
        links: of U(1) in two dimensions.
        charge: integers Q, `(n,)`, at most half as large as the number of plaquettes.

    Returns:
        Angles, `(n, 2, *lattice)` in the default precision, on the device of the charges.

    Raises:
        TypeError: if the charges are no tensor.
        ValueError: if there is no charge, see `topological_charge`, or a charge is no integer or too large.

    >>> from equiflow import Lattice
    >>> links = Links(Lattice((4, 4)), "U(1)")
    >>> topological_charge(links)(uniform_flux(links, torch.tensor([0, -2])))
    tensor([ 0., -2.])
    """
    topological_charge(links)  # raises if there is none
    check_type(charge, Tensor, "charge", "Write torch.tensor([0, 1]).")
    (across, along), volume = links.lattice.shape, links.lattice.volume
    fits = charge.dim() == 1 and bool(((charge == charge.round()) & (2 * charge.abs() < volume)).all())
    if not fits:
        raise ValueError(f"Expected integers (n,) below {volume / 2:g} as charges, got {charge}.")
    flux = (2 * math.pi / volume) * charge.to(torch.get_default_dtype())[:, None, None]
    first = torch.zeros(len(charge), across, along, dtype=flux.dtype, device=flux.device)
    # The angle of the links along one axis grows along the other; at the boundary it falls back to zero.
    second = flux * torch.arange(across, device=flux.device)[:, None].expand(across, along)
    first[:, -1] = -(flux * across * torch.arange(along, device=flux.device))[:, 0]
    return torch.stack([first, second], 1)
