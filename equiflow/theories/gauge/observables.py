"""Observables of links: functions of configurations `(batch, *shape)`, with one value for each.

Each is made for a space: `plaquette(links)` is a function of a batch. All of them are gauge-invariant.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.runtime.checks import check_count, check_type, is_number
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.loops import rectangle, transporter

Values = Callable[[Tensor], Tensor]


def standard(links: Links) -> dict[str, Values | tuple[Values, Values]]:
    """Return the observables that are measured on links unless told otherwise, by name."""
    polyakov = polyakov_loop(links)
    named: dict[str, Values | tuple[Values, Values]] = {"plaquette": plaquette(links)}
    if min(links.lattice.shape) > 2:
        named["wilson_loop_1x2"] = wilson_loop(links, 1, 2)
        named["wilson_loop_2x2"] = wilson_loop(links, 2, 2)
        named["creutz_ratio_2x2"] = loops_of_creutz_ratio(links, 2, 2), creutz_ratio
    named["polyakov_loop_squared"] = lambda phi: polyakov(phi)[:, 2]
    if has_charge(links):
        named["topological_charge"] = topological_charge(links)
        named["topological_susceptibility"] = topological_susceptibility(links)
    return named


def has_charge(links: Links) -> bool:
    """Return whether links have a topological charge here: U(1) in two dimensions."""
    return links.group == "U(1)" and links.lattice.dim == 2


def plaquette(links: Links) -> Values:
    """Return the observable `mean_P Re tr P / N`: the mean of cos P for U(1).

    Args:
        links: space of the configurations.

    Returns:
        A function of links with values `(batch,)`.
    """
    return wilson_loop(links, 1, 1)


def wilson_loop(links: Links, r: int, t: int) -> Values:
    """Return the observable `Re tr W / N` of loops around rectangles, averaged over places and planes.

    Rectangles that stand and lie are averaged over, if r and t differ.

    Args:
        links: space of the configurations.
        r: number of links along one side.
        t: number of links along the other side.

    Returns:
        A function of links with values `(batch,)`.
    """
    r, t = check_count(r, "r"), check_count(t, "t")
    planes = itertools.combinations(range(_checked(links).lattice.dim), 2)
    sides = {(r, t), (t, r)}
    paths = [rectangle(mu, nu, *rt) for mu, nu in planes for rt in sorted(sides)]

    def loop(phi: Tensor) -> Tensor:
        fields = links.planes(links.check(phi))
        found = [links.lie.trace(transporter(links.lie, fields, path)) for path in paths]
        return torch.stack([one.mean(links.lattice.axes) for one in found]).mean(0)

    return loop


def loops_of_creutz_ratio(links: Links, r: int, t: int) -> Values:
    """Return the four Wilson loops behind a Creutz ratio: W(r, t), W(r-1, t-1), W(r-1, t), W(r, t-1).

    Give them to an `Observable` together with `creutz_ratio`, which makes one number of their averages.

    Args:
        links: space of the configurations.
        r: number of links along one side of the largest loop.
        t: number of links along the other side.

    Returns:
        A function of links with values `(batch, 4)`; a loop with a side of length 0 is 1.
    """
    r, t = check_count(r, "r"), check_count(t, "t")
    sides = ((r, t), (r - 1, t - 1), (r - 1, t), (r, t - 1))
    loops = [wilson_loop(links, *rt) if min(rt) else None for rt in sides]

    def four(phi: Tensor) -> Tensor:
        one = links.lie.trace(links.lie.identity((len(phi),), phi))
        return torch.stack([one if loop is None else loop(phi) for loop in loops], 1)

    return four


def creutz_ratio(averages: Tensor) -> Tensor:
    """Return `-log [<W(r,t)> <W(r-1,t-1)> / (<W(r-1,t)> <W(r,t-1)>)]` from the averages of four loops.

    It is the string tension in units of the lattice spacing where loops are large (Creutz 1980).

    Args:
        averages: of `loops_of_creutz_ratio`, `(4,)`.

    Returns:
        The ratio, 0-d; NaN if noise makes an average negative.
    """
    large, small, one, other = averages.log().unbind(0)
    return one + other - large - small


def polyakov_loop(links: Links, axis: int = 0) -> Values:
    """Return the observable `L = mean tr prod_x U(x) / N` around the lattice along an axis, a complex number.

    Its average is zero where the symmetry of the centre is not broken: the free energy of a charge is
    infinite.

    Args:
        links: space of the configurations.
        axis: the direction of the loops.

    Returns:
        A function of links with values `(batch, 3)`: real part, imaginary part and `|L|^2`, averaged over
        the other axes first.
    """
    axis = check_count(axis, "axis", minimum=0)
    if axis >= _checked(links).lattice.dim:
        raise ValueError(f"axis must be smaller than the dimension {links.lattice.dim}, got {axis}.")

    def loop(phi: Tensor) -> Tensor:
        planes = links.planes(links.check(phi))[axis]
        product, *others = planes.unbind(links.lattice.axes[axis])
        for one in others:
            product = links.lie.product(product, one)
        trace = links.lie.complex_trace(product).flatten(1).mean(1)
        return torch.stack([trace.real, trace.imag, trace.real.square() + trace.imag.square()], 1)

    return loop


def topological_charge(links: Links) -> Values:
    """Return the geometric charge `Q = sum_P P / (2 pi)` of U(1) in two dimensions, P in [-pi, pi).

    It is an integer, since the angles of all plaquettes add up to a multiple of 2 pi. In two dimensions links
    of SU(N) have no topological charge: the group has no windings around a torus.

    Args:
        links: space of the configurations.

    Returns:
        A function of links with values `(batch,)`, rounded to integers.

    Raises:
        ValueError: for other groups or dimensions.
    """
    if not has_charge(_checked(links)):
        raise ValueError(
            f"The topological charge is defined for U(1) in two dimensions, got {links.group} on "
            f"{links.lattice.shape}."
        )
    around = rectangle(0, 1)

    def charge(phi: Tensor) -> Tensor:
        angle = links.lie.nearest(transporter(links.lie, links.planes(links.check(phi)), around))
        return (angle.sum(links.lattice.axes) / (2 * math.pi)).round()

    return charge


def topological_susceptibility(links: Links) -> Values:
    """Return the observable `Q^2 / V`, whose average is the topological susceptibility at `theta = 0`.

    Args:
        links: space of the configurations.

    Returns:
        A function of links with values `(batch,)`.

    Raises:
        ValueError: if there is no charge, see `topological_charge`.
    """
    charge = topological_charge(links)
    return lambda phi: charge(phi).square() / links.lattice.volume


def theta_factor(links: Links, theta: float) -> Values:
    """Return the observable `cos(theta Q)`, whose average is `Z(theta) / Z(0)`.

    An average at theta is one of this kind, too: `<O cos(theta Q)> / <cos(theta Q)>` for O that does not
    change under charge conjugation.

    Args:
        links: space of the configurations.
        theta: the angle, finite.

    Returns:
        A function of links with values `(batch,)`.

    Raises:
        TypeError: if theta is not a number.
        ValueError: if theta is not finite, or there is no charge, see `topological_charge`.
    """
    if not is_number(theta):
        raise TypeError(f"theta must be a number, got {theta!r}.")
    if not math.isfinite(theta):
        raise ValueError(f"theta must be finite, got {theta}.")
    charge = topological_charge(links)
    return lambda phi: (float(theta) * charge(phi)).cos()


def _checked(links: Links) -> Links:
    """Return `links` if they are a space of links, else raise."""
    check_type(links, Links, "links", "An observable is made for its links: ensemble.mean(plaquette(links)).")
    return links
