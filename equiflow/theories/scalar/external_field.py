"""An action in a uniform external field, for fields of one or several components."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from equiflow.fused.stencil import Stencil
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
        check_type(action, Action, "action")
        if not action.space.is_real_field:
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

    def stencil(self) -> Stencil | None:
        """See `Action.stencil`."""
        kind, inner = type(self), self.action.stencil()
        if inner is None or kind.forward is not ExternalField.forward or kind.grad is not ExternalField.grad:
            return None
        fields = zip(inner.h, self.h.flatten().tolist(), strict=True)
        return replace(inner, h=tuple(one + other for one, other in fields))

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """Return the derivative in a coupling of S, or in h: `dS_h/dh = -sum_x phi(x)`.

        With several components the external fields are `h_0`, `h_1` and so on, one for each component.

        Args:
            phi: `(batch, *lattice)`, with several components `(batch, component, *lattice)`.
            name: of the coupling.

        Returns:
            `(batch,)`.

        Raises:
            TypeError: if S has no derivative in its couplings.
            ValueError: if there is no coupling of this name.
        """
        fields = ["h"] if self.h.shape[0] == 1 else [f"h_{a}" for a in range(self.h.shape[0])]
        if name not in fields:
            return self.action.coupling_grad(phi, name)
        self.space.check(phi)
        sums = -phi.sum(self.lattice.axes)
        return sums[:, fields.index(name)] if self.space.component_axes else sums

    def initial(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """See `Action.initial`; the fields are those of S."""
        return self.action.initial(n, generator, device=device, dtype=dtype)

    def __repr__(self) -> str:
        # On one line, unlike the repr of other modules with a part: it names samples in files and tables.
        return f"ExternalField({self.action!r}, h={self.h.flatten().tolist()})"
