"""Another action in a uniform external field."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.multiplets.space import Multiplet


class ExternalField(Action):
    """Another action in a uniform external field, `S_h[phi] = S[phi] - h . sum_x phi(x)`.

    The field breaks phi -> -phi: flows for it have groups with `z2=False` (of a multiplet,
    `rotations=False`).

    Args:
        action: S.
        h: the field; one number for each component of a multiplet.

    >>> from equiflow import Lattice, Phi4
    >>> action = ExternalField(Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0), h=0.1)
    >>> action(torch.ones(1, 4, 4)) - action.action(torch.ones(1, 4, 4))
    tensor([-1.6000])
    """

    h: Tensor

    def __init__(self, action: Action, *, h: float | tuple[float, ...]) -> None:
        check_type(action, Action, "action", "Give an instance, such as Phi4(lattice, m2=-4.0, lam=6.0).")
        check_type(action.space, (Lattice, Multiplet), "The space of the action", "h . phi is for fields.")
        super().__init__(action.space)
        values = torch.tensor(h, dtype=torch.float64)
        n_components = self.space.size // self.lattice.volume
        if values.dim() > 1 or values.numel() != n_components or not bool(values.isfinite().all()):
            raise ValueError(f"h must be {n_components} finite numbers, one for each component; got {h}.")
        self.action = action
        self.register_buffer("h", values.reshape(-1, *(1,) * self.lattice.dim), False)

    def forward(self, phi: Tensor) -> Tensor:
        """`S_h[phi]`, shape `(batch,)`."""
        return self.action(phi) - (phi * self._like(phi)).sum(self.space.event_axes)

    def grad(self, phi: Tensor) -> Tensor:
        """`dS/dphi - h`, shaped like `phi`."""
        return self.action.grad(phi) - self._like(phi)

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """That of S."""
        return self.action.coupling_grad(phi, name)

    def __repr__(self) -> str:
        """On one line, unlike that of other modules with a part: it names samples in files and tables."""
        return f"ExternalField({self.action!r}, h={self.h.flatten().tolist()})"

    def _like(self, phi: Tensor) -> Tensor:
        h = self.h.to(phi)
        return h if phi.dim() > 1 + self.lattice.dim else h[0]
