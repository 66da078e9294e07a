"""A path of densities of U(1) links on which topological sectors are settled early: `EarlySectors`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.checks import check_positive, check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.bridge import Bridge
from equiflow.theories.base.paths import ActionPath
from equiflow.theories.base.prior import Prior
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.loops import add_loop_gradient, rectangle, transporter

#: harmonics of the smooth charge
N_HARMONICS = 3
#: how fast the weight of the charge rises at the beginning, `1 - (1 - t)^p`
RISE = 3


def smooth_sawtooth(n_harmonics: int) -> list[float]:
    """Return the coefficients of `sum_m a_m sin(m P)`, which is about `P / 2 pi` and smooth at pi.

    The series of the sawtooth is cut off by Lanczos factors, so that it does not overshoot.
    """
    cut = [math.pi * m / (n_harmonics + 1) for m in range(1, n_harmonics + 1)]
    return [(-1) ** (m + 1) * math.sin(x) / x / (math.pi * m) for m, x in enumerate(cut, 1)]


class ChargedAction(Action):
    """`S + kappa C^2 / 2` with a smooth topological charge `C = sum_x sum_m a_m sin(m P_x)`.

    Args:
        action: S, of U(1) links in two dimensions.
        kappa: the weight of the charge.
    """

    space: Links

    def __init__(self, action: Action, kappa: float) -> None:
        super().__init__(action.space)
        self.action, self.kappa = action, kappa

    def forward(self, phi: Tensor) -> Tensor:
        """Return the sum, `(batch,)`."""
        value: Tensor = self.action(phi) + self.kappa / 2 * self.charge(phi).square()
        return value

    def grad(self, phi: Tensor) -> Tensor:
        """Return the derivative by the angle of each link, `(batch, direction, *lattice)`."""
        angle = self._angles(phi)
        slope = sum(m * a * (m * angle).cos() for m, a in enumerate(smooth_sawtooth(N_HARMONICS), 1))
        pull = self.kappa * self.charge(phi).view(-1, 1, 1) * slope
        gradient: list[Tensor | float] = [0.0, 0.0]
        add_loop_gradient(self.space.lie, self.space.planes(phi), rectangle(0, 1), pull[None], gradient)
        return self.action.grad(phi) + self.space.from_vectors(tuple(gradient))  # type: ignore[arg-type]

    def charge(self, phi: Tensor) -> Tensor:
        """Return C, `(batch,)`."""
        angle = self._angles(phi)
        total = sum(a * (m * angle).sin() for m, a in enumerate(smooth_sawtooth(N_HARMONICS), 1))
        assert isinstance(total, Tensor)
        return total.sum(self.lattice.axes)

    def _angles(self, phi: Tensor) -> Tensor:
        """Return the angles of the plaquettes, `(batch, *lattice)`."""
        return transporter(self.space.lie, self.space.planes(phi), rectangle(0, 1))


class EarlySectors(ActionPath):
    r"""The path `S_t = t S + kappa(t) C^2 / 2`, on which the charge has its final width almost at once.

    Along the straight path from the Haar measure, the topological charge Q becomes narrower all the time.
    At the end the sectors would still exchange weight, where plaquettes of angle pi, through which Q
    changes, are exponentially rare, and a flow would have to be exponentially fast there. Here a smooth
    charge C, see `ChargedAction`, narrows Q while plaquettes are still free:

        kappa(t) = (1 - (1 - t)^3) [1 / (V chi(beta)) - 1 / (V chi(t beta))],

    which vanishes at both ends. `chi(beta) = <P^2> / 4 pi^2` is the susceptibility of independent plaquettes,
    that of a large lattice in two dimensions.

    Args:
        prior: the Haar measure of the links.
        action: the target, S.
        beta: its coupling.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if the links are not in U(1) on two dimensions, or beta is not positive.
    """

    def __init__(self, prior: Prior, action: Action, *, beta: float) -> None:
        super().__init__(prior, action)
        check_type(action.space, Links, "The space of the action")
        if not action.space.is_flat or action.lattice.dim != 2:
            raise ValueError(f"Sectors are known for U(1) in two dimensions, got {action.space}.")
        self.beta = check_positive(beta, "beta")

    def at(self, t: float) -> Action:
        """See `ActionPath.at`."""
        return self.action if t == 1.0 else self._charged(t, self.kappa(t)[0])

    def rate(self, phi: Tensor, t: float) -> Tensor:
        """See `ActionPath.rate`."""
        charge = self._charged(t, 0.0).charge(phi)
        rate: Tensor = self.action(phi) + self.prior.log_prob(phi) + self.kappa(t)[1] / 2 * charge.square()
        return rate

    def kappa(self, t: float) -> tuple[float, float]:
        """Return the weight of the charge at time t and its derivative by t."""
        (now, slope), (last, _) = _susceptibility(t * self.beta), _susceptibility(self.beta)
        rise, growth = 1 - (1 - t) ** RISE, RISE * (1 - t) ** (RISE - 1)
        lacking = (1 / last - 1 / now) / self.action.lattice.volume
        change = self.beta * slope / now**2 / self.action.lattice.volume
        return rise * lacking, growth * lacking + rise * change

    def _charged(self, t: float, kappa: float) -> ChargedAction:
        return ChargedAction(Bridge(self.prior, self.action, beta=t), kappa)

    def __repr__(self) -> str:
        return f"EarlySectors(beta={self.beta})"


def _susceptibility(beta: float) -> tuple[float, float]:
    """Return `<P^2> / 4 pi^2` of one plaquette in the density `exp(beta cos P)`, and its slope in beta."""
    angle = torch.linspace(-math.pi, math.pi, 4097, dtype=torch.float64)
    weight = torch.exp(beta * (angle.cos() - 1))
    weight[[0, -1]] /= 2
    weight /= weight.sum()
    square, energy = (angle / (2 * math.pi)).square(), angle.cos()
    mean = float((weight * square).sum())
    return mean, float((weight * square * energy).sum()) - mean * float((weight * energy).sum())
