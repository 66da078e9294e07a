"""Legs of a path solved twice, by their own solvers and by finer ones: `certificate_of_legs`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from equiflow.flows.certificate import Certificate, SolvedTwice, compare_solves
from equiflow.flows.journeys import State
from equiflow.flows.legs import PlainLeg, energy
from equiflow.runtime.precision import in_double, in_precision


def certificate_of_legs(
    legs: Sequence[PlainLeg], state: State, generator: torch.Generator | None
) -> Certificate | None:
    """Return the changes of log weights under finer solves of the layers of a path.

    At each leg the same samples are carried by the layer and by its finer copy. The changes of their log
    weights add up, which is the change of log Z to first order: samples go on from where the layer itself
    has carried them.

    Args:
        legs: the path.
        state: samples at its start.
        generator: source of randomness of the updates.

    Returns:
        The certificate; None if no leg has a layer.
    """
    log_weight, shift = torch.zeros_like(state[1]), torch.zeros_like(state[1])
    finer_phi, round_trips, solvers, nfe = state[0], [], [], 0
    for leg in legs:
        phi, before = state
        after, change = leg.work(state)
        finer_phi = after[0]
        if leg.layer is not None:
            reference = leg.layer._reference()
            finer, log_det = reference.transform_and_log_det(in_precision(phi, torch.float64))
            finer = leg.action.space.nearest(finer)
            shift += before - energy(in_double(leg.action), finer) + log_det - change
            finer_phi = finer.to(phi.dtype)
            round_trips.append((leg.layer.inverse_and_log_det(after[0])[0] - phi).flatten())
            nfe += leg.layer._transform_and_count(phi)[2]
            solvers.append((leg.layer._method(), f"{reference._method()} in float64"))
        log_weight = log_weight + change
        last, state = after, leg.move(after, generator)
    if not solvers:
        return None
    # A weight that is zero by both solves has no change.
    finer_weight = torch.where(log_weight.isneginf(), -torch.inf, log_weight + shift)
    twice = SolvedTwice(last[0], log_weight, finer_phi, finer_weight)
    # The method of the first solver tells its order, which turns changes into errors.
    return compare_solves(twice, torch.cat(round_trips), nfe=nfe, solver=solvers[0][0], refined=solvers[0][1])
