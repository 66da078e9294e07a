"""An action in a uniform external field, for fields of one or several components."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.base.action import Action


class ExternalField(Action):
    """Another action in a uniform external field, `S_h[phi] = S[phi] - h . sum_x phi(x)`.

    The external field breaks phi -> -phi. A flow for it needs a group with `z2=False`, or with
    `rotations=False` for a multiplet.

    Args:
        action: the action S without the external field.
        h: the external field, one number for each component.

    Raises:
        TypeError: if `action` is not an `Action` of real fields on a lattice.
        ValueError: if `h` is not one finite number for each component.

    >>> from equiflow import Lattice, Phi4
    >>> action = ExternalField(Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0), h=0.1)
    >>> action(torch.ones(1, 4, 4)) - action.action(torch.ones(1, 4, 4))
    tensor([-1.6000])
    """

    h: Tensor

    def __init__(self, action: Action, *, h: float | tuple[float, ...]) -> None:
        check_type(action, Action, "action", "Give an instance, such as Phi4(lattice, m2=-4.0, lam=6.0).")
        if action.space.sites is None or action.space.has_windings:
            raise TypeError(
                f"action is for {action.space.kind} {action.space.shape}; expected an action of real fields "
                "on a lattice, such as Phi4 or ONModel."
            )
        super().__init__(action.space)
        values = torch.tensor(h, dtype=torch.float64)
        n_components = self.space.values_per_site
        if values.dim() > 1 or values.numel() != n_components or not bool(values.isfinite().all()):
            raise ValueError(f"h must be {n_components} finite numbers, one for each component; got {h}.")
        self.action = action
        self.register_buffer("h", values.reshape(-1, *(1,) * self.lattice.dim), False)

    def forward(self, phi: Tensor) -> Tensor:
        """Return `S_h[phi]`, `(batch,)`."""
        value: Tensor = self.action(phi)
        return value - (phi * self.h.to(phi)).sum(self.space.event_axes)

    def grad(self, phi: Tensor) -> Tensor:
        """Return `dS/dphi - h`, shaped like `phi`."""
        return self.action.grad(phi) - self.h.to(phi)

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """Return the derivative of S in one of its couplings, see `Action.coupling_grad`."""
        return self.action.coupling_grad(phi, name)

    def __repr__(self) -> str:
        # On one line, unlike the repr of other modules with a part: it names samples in files and tables.
        return f"ExternalField({self.action!r}, h={self.h.flatten().tolist()})"
