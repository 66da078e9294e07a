"""The abstract action; the target density is `exp(-S[phi]) / Z`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from equiflow.runtime.autograd import as_leaf
from equiflow.runtime.checks import check_type
from equiflow.theories.base.group import Group
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.space import Space


class Action(nn.Module, ABC):
    """The action `S[phi]` of a theory; the target density is `exp(-S[phi]) / Z`.

    A subclass defines `forward`. It may override `grad` with a closed form, and it overrides `coupling_grad`
    if its couplings can be varied.

    Args:
        space: of the configurations.

    Raises:
        TypeError: if `space` is not a `Space`.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        check_type(space, Space, "space", "Write Lattice((16, 16)).")
        self.space = space

    @property
    def lattice(self) -> Lattice:
        """The lattice of the fields; a TypeError if the configurations do not live on one."""
        return lattice_of(self.space)

    @abstractmethod
    def forward(self, phi: Tensor) -> Tensor:
        """Return `S[phi]` of each configuration.

        Args:
            phi: `(batch, *lattice)`.

        Returns:
            `(batch,)`.
        """

    def grad(self, phi: Tensor) -> Tensor:
        """Return `dS/dphi_x`, shaped like `phi`; here by automatic differentiation."""
        with torch.enable_grad():
            leaf = as_leaf(phi)
            (gradient,) = torch.autograd.grad(self(leaf).sum(), leaf)
        return gradient

    @torch.no_grad()
    def asymmetry(
        self, group: Group, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
    ) -> dict[str, float]:
        """Measure how much each generator of a group changes S of random fields.

        A flow with a symmetry that its target lacks can come close to the target, but never reach it.

        Args:
            group: the symmetry to test.
            device: where to compute.
            dtype: floating-point type to compute in.

        Returns:
            Name of the generator -> `max |S(g phi) - S(phi)| / std S`.
        """
        generator = torch.Generator("cpu").manual_seed(0)
        noise = torch.randn((4, *self.space.shape), generator=generator, dtype=torch.float64, device="cpu")
        phi = noise.to(device, dtype)
        value = self(phi)
        spread = value.std().clamp(min=torch.finfo(dtype).tiny)
        return {
            name: float((self(element(phi)) - value).abs().max() / spread)
            for name, element in group.generators().items()
        }

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """Return `dS/d coupling` of each configuration; `d log Z / d coupling = -<dS/d coupling>`.

        Args:
            phi: `(batch, *lattice)`.
            name: of the coupling.

        Returns:
            `(batch,)`.

        Raises:
            TypeError: if this class of actions has no derivative in its couplings.
            ValueError: if the action has no coupling of this name.
        """
        raise TypeError(
            f"{type(self).__name__} has no derivative in its couplings; override `coupling_grad`."
        )

    def log_prob_unnormalised(self, phi: Tensor) -> Tensor:
        """Return `-S[phi]`, the log of the target density up to `-log Z`, `(batch,)`."""
        log_density: Tensor = -self(phi)
        return log_density
