"""The Wilson action, with rectangles, and with an imaginary theta in two dimensions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.paths import ActionPath
from equiflow.theories.base.prior import Prior
from equiflow.theories.gauge.early_sectors import EarlySectors
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.loops import Step, add_loop_gradient, rectangle, transporter
from equiflow.theories.gauge.observables import topological_charge

#: coefficient of the rectangles that removes the leading discretisation error (Luescher and Weisz 1985)
SYMANZIK = -1 / 12
#: coefficient of the rectangles by Iwasaki (1983), from blocking towards the renormalised trajectory
IWASAKI = -0.331


class WilsonAction(Action):
    r"""The Wilson action `S = -(beta / N) sum_P Re tr P`, for U(1) `S = -beta sum_P cos P`.

    P runs over all plaquettes. With a coefficient c1 of rectangles it is

        S = -(beta / N) [(1 - 8 c1) sum_P Re tr P + c1 sum_R Re tr R]

    where R runs over all rectangles of one link by two, in both orientations. Along a side of 1 a link begins
    and ends at the same site.

    The weight of a theta term, `exp(i theta Q)`, is complex, so no action here has one: reweight with
    `theta_factor` instead, which gives `Z(theta) / Z(0)`. An imaginary theta has a real weight, and can be
    part of the action of U(1) in two dimensions: `S - imaginary_theta Q`, with the geometric charge Q, see
    `topological_charge`. Q is constant but for jumps where a plaquette is -1, so it adds nothing to `grad`,
    and HMC crosses the jumps by accepting or rejecting: give it a `step_size`, for no step makes them small.
    Neither parity nor charge conjugation is then a symmetry: build flows with `GaugeGroup(links, "rotations",
    conjugation=False)`.

    Args:
        links: `Links(lattice, group)`.
        beta: coupling, finite.
        rectangle: coefficient c1 of rectangles, -1/12 by Symanzik, -0.331 by Iwasaki.
        imaginary_theta: coefficient of the topological charge Q.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a coupling is not finite, or there is an imaginary theta but no charge.

    References:
        Wilson, Phys. Rev. D 10 (1974) 2445.

    >>> from equiflow import Lattice
    >>> action = WilsonAction(Links(Lattice((4, 4)), "U(1)"), beta=2.0)
    >>> action(torch.zeros(1, 2, 4, 4))
    tensor([-32.])
    """

    space: Links

    def __init__(
        self, links: Links, *, beta: float, rectangle: float = 0.0, imaginary_theta: float = 0.0
    ) -> None:
        check_type(links, Links, "links", 'Write Links(Lattice((16, 16)), "U(1)").')
        super().__init__(links)
        for name, value in {"beta": beta, "rectangle": rectangle, "imaginary_theta": imaginary_theta}.items():
            check_type(value, (float, int), name)
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}.")
        self.beta = float(beta)
        self.rectangle = float(rectangle)
        self.imaginary_theta = float(imaginary_theta)
        if self.imaginary_theta:
            topological_charge(links)  # raises if there is none

    @classmethod
    def symanzik(cls, links: Links, *, beta: float) -> WilsonAction:
        """Return the tree-level improved action of Symanzik, with `c1 = -1/12` (Luescher and Weisz 1985).

        Args:
            links: `Links(lattice, group)`.
            beta: coupling, finite.

        Returns:
            The action.
        """
        return cls(links, beta=beta, rectangle=SYMANZIK)

    @classmethod
    def iwasaki(cls, links: Links, *, beta: float) -> WilsonAction:
        """Return the action of Iwasaki (1983), with `c1 = -0.331`.

        Args:
            links: `Links(lattice, group)`.
            beta: coupling, finite.

        Returns:
            The action.
        """
        return cls(links, beta=beta, rectangle=IWASAKI)

    def loops(self) -> list[tuple[tuple[Step, ...], float]]:
        """Return the loops of the action from one site, each with its coefficient."""
        planes = list(itertools.combinations(range(self.lattice.dim), 2))
        found = [(rectangle(mu, nu), 1 - 8 * self.rectangle) for mu, nu in planes]
        if self.rectangle:
            sides = ((1, 2), (2, 1))
            found += [(rectangle(mu, nu, *rt), self.rectangle) for mu, nu in planes for rt in sides]
        return found

    def forward(self, phi: Tensor) -> Tensor:
        """Return `S[U]`, `(batch,)`."""
        value = self.beta * self._sum_of_loops(phi)
        if self.imaginary_theta:
            value = value - self.imaginary_theta * topological_charge(self.space)(phi)
        return value

    def grad(self, phi: Tensor) -> Tensor:
        """Return `d/ds S[exp(s T_a) U]` at s = 0 for every link, `(batch, *tangent_shape)`.

        Args:
            phi: `(batch, *shape)`.

        Returns:
            `(batch, *tangent_shape)`.
        """
        planes = self.space.planes(self.space.check(phi))
        lie = self.space.lie
        total: list[Any] = [0.0] * len(planes)
        for path, coefficient in self.loops():
            slope = lie.slope(transporter(lie, planes, path))
            add_loop_gradient(lie, planes, path, self.beta * coefficient * slope, total)
        return self.space.from_vectors(tuple(total))

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """See `Action.coupling_grad`: `dS/dbeta` is S at `beta = 1`, `dS/d imaginary_theta = -Q`."""
        if name == "beta":
            return self._sum_of_loops(self.space.check(phi))
        if name == "imaginary_theta":
            return -topological_charge(self.space)(self.space.check(phi))
        raise ValueError(f"{type(self).__name__} has the couplings beta and imaginary_theta, not {name!r}.")

    def path_from(self, prior: Prior) -> ActionPath | None:
        """See `HasPath.path_from`; for U(1) in two dimensions the sectors are settled early."""
        has_sectors = self.space.is_flat and self.lattice.dim == 2 and self.lattice.volume > 2
        if not has_sectors or self.beta <= 0 or self.rectangle or self.imaginary_theta:
            return None
        return EarlySectors(prior, self, beta=self.beta)

    def extra_repr(self) -> str:
        """Return shape and couplings, for `repr`."""
        given = {"rectangle": self.rectangle, "imaginary_theta": self.imaginary_theta}
        others = "".join(f", {name}={value}" for name, value in given.items() if value)
        return f"shape={self.lattice.shape}, group={self.space.group}, beta={self.beta}{others}"

    def _sum_of_loops(self, phi: Tensor) -> Tensor:
        """Return `-sum c Re tr(loop) / N` over all loops, `(batch,)`."""
        lie, planes = self.space.lie, self.space.planes(phi)
        sums = [
            -coefficient * lie.trace(transporter(lie, planes, path)).sum(self.lattice.axes)
            for path, coefficient in self.loops()
        ]
        return torch.stack(sums).sum(0)
