"""Flows on field and momentum whose log-density is exact for the discrete map, to rounding.

No solver, no tolerance: `(phi, p)` pass through couplings that move one by the other in turn. Every
step commutes with translations x point group x Z2 acting on both, and is inverted in closed form.
"""

from __future__ import annotations

import math
from abc import ABC
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from equiflow.flows.base import Flow
from equiflow.flows.checkpoints import describe, dtype_named, load_weights, rebuild
from equiflow.flows.phase_space import PhaseSpacePrior, split_state
from equiflow.nn.couplings.phase_space import AffineLayer, PhaseSpaceLayer, ShearLayer
from equiflow.runtime.precision import full_precision
from equiflow.runtime.storage import CheckpointError, load_safely, save_atomically
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior, known_priors
from equiflow.theories.base.symmetry import SymmetryGroup


class ExtendedFlow(Flow, ABC):
    """Kicks of the momentum by the field and drifts of the field by the momentum, in turn.

    Starts as `n_steps` leapfrog steps of harmonic motion, `phi_k'' = -phi_k`, through `angle`, which
    mix field and momentum mode by mode at any step size alike (Fourier acceleration).

    Args:
        lattice: where the field lives; states are `(batch, 2, *lattice)`.
        group: symmetry to build in; by default translations x the full point group x Z2.
        n_steps: drifts, one less than kicks.
        angle: angle of the harmonic motion that the flow starts as.
        n_channels: kernels by which each coupling reads the field that drives it.
        n_frequencies: sine features per channel.
        max_frequency: largest initial frequency of the features.
        position: prior of the field; by default a `FreeField` with a learnable spectrum.
        momentum: prior of the momentum; by default white noise whose spectrum can be learned.
    """

    coupling: ClassVar[type[PhaseSpaceLayer]]

    def __init__(
        self,
        lattice: Lattice,
        *,
        group: SymmetryGroup | None = None,
        n_steps: int = 3,
        angle: float = math.pi / 2,
        n_channels: int = 2,
        n_frequencies: int = 6,
        max_frequency: float = 6.0,
        position: Prior | None = None,
        momentum: Prior | None = None,
    ) -> None:
        if n_steps < 1:
            raise ValueError(f"A flow needs at least one step, got n_steps={n_steps}.")
        prior = PhaseSpacePrior(lattice, position=position, momentum=momentum, group=group)
        super().__init__(lattice, prior)
        self.prior: PhaseSpacePrior
        options: dict[str, Any] = {
            "n_channels": n_channels,
            "n_frequencies": n_frequencies,
            "max_frequency": max_frequency,
        }
        self._config = {"n_steps": n_steps, "angle": angle, **options}
        starts = _harmonic_motion(lattice, n_steps, angle)
        self.couplings = nn.ModuleList(self.coupling(self.group, linear=k, **options) for k in starts)

    @property
    def group(self) -> SymmetryGroup:
        """The symmetry of every step."""
        return self.prior.group

    @full_precision
    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.transform_and_log_det`; states are `(batch, 2, *lattice)`."""
        driver, moved = self._split(z, "z")
        log_det = z.new_zeros(len(z))
        for coupling in self.couplings:
            moved, change = coupling(moved, driver)
            log_det = log_det + change
            driver, moved = moved, driver
        # Kicks are one more than drifts: after the last exchange the momentum is the driver.
        return torch.stack([moved, driver], 1), log_det

    @full_precision
    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.inverse_and_log_det`; states are `(batch, 2, *lattice)`."""
        driver, moved = self._split(phi, "phi")
        log_det = phi.new_zeros(len(phi))
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, PhaseSpaceLayer)
            moved, change = coupling.inverse(moved, driver)
            log_det = log_det + change
            driver, moved = moved, driver
        return torch.stack([moved, driver], 1), log_det

    def _split(self, state: Tensor, name: str) -> tuple[Tensor, Tensor]:
        phi, momentum = split_state(self.lattice, state, name)
        return self._check_input(phi, name), self._check_input(momentum, name)

    def save(self, path: str | Path) -> None:
        """Write the flow to one file of tensors and plain values; `load` rebuilds it."""
        save_atomically({"kind": "flow", **self.to_dict()}, path)

    def to_dict(self) -> dict[str, Any]:
        """The recipe and the weights of the flow, as plain values and tensors."""
        return {
            "flow": type(self).__name__,
            "lattice": list(self.lattice.shape),
            "group": self.group.config(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "config": dict(self._config),
            "position": describe(self.prior.position),
            "momentum": describe(self.prior.momentum),
            "state_dict": self.state_dict(),
        }

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        position: Prior | None = None,
        momentum: Prior | None = None,
        device: torch.device | str = "cpu",
    ) -> ExtendedFlow:
        """Rebuild a saved flow of this class. No code is run by loading.

        Args:
            path: a file written by `save`.
            position: an instance to fill with the saved weights, for a prior of your own.
            momentum: the same for the momentum.
            device: where the flow goes.

        Raises:
            CheckpointError: if the file is damaged, holds another flow, or a prior this library lacks.
        """
        content = load_safely(path, "flow", map_location=device)
        try:
            if content["flow"] != cls.__name__:
                raise ValueError(f"it holds a {content['flow']}, not a {cls.__name__}")
            lattice = Lattice(tuple(content["lattice"]))
            group = SymmetryGroup(lattice, **content["group"])
            if position is None:
                position = rebuild(content["position"], known_priors(), lattice)
            if momentum is None:
                momentum = rebuild(content["momentum"], known_priors(), lattice)
            flow = cls(lattice, group=group, position=position, momentum=momentum, **content["config"])
            load_weights(flow.to(device, dtype_named(content["dtype"])), content["state_dict"])
        except Exception as error:  # whatever a recipe that fits nothing can make constructors raise
            raise CheckpointError(f"{path} does not describe a flow: {error}") from error
        return flow

    def extra_repr(self) -> str:
        """What `repr` shows besides the modules."""
        return f"lattice={self.lattice.shape}, group={self.group}"


class SymplecticFlow(ExtendedFlow):
    r"""Leapfrog steps of a learned, time-dependent Hamiltonian `H_t = U_t(phi) + T_t(p)`.

    `p <- p + grad U_t(phi)`, `phi <- phi + grad T_t(p)`: symplectic, hence volume-preserving,
    `log_det = 0` (arXiv:1909.13789, 1910.00024). Both are invariant potentials, see `ShearLayer`.

    >>> flow = SymplecticFlow(Lattice((4, 4)))
    >>> state, log_q = flow.sample_and_log_prob(8)
    >>> state.shape, log_q.shape
    (torch.Size([8, 2, 4, 4]), torch.Size([8]))
    """

    coupling = ShearLayer


class AugmentedFlow(ExtendedFlow):
    r"""Affine couplings between field and momentum, `phi <- C * (exp(s(p)) phi) + b(p)` and vice versa.

    The momentum takes the place of a mask (arXiv:2002.07101), so that no site is singled out and the
    lattice symmetries stay exact; `log_det = sum s + sum_k log C_k`. See `AffineLayer`.

    >>> flow = AugmentedFlow(Lattice((4, 4)))
    >>> state, log_q = flow.sample_and_log_prob(8)
    >>> state.shape, log_q.shape
    (torch.Size([8, 2, 4, 4]), torch.Size([8]))
    """

    coupling = AffineLayer


def _harmonic_motion(lattice: Lattice, n_steps: int, angle: float) -> list[Tensor]:
    """Kernels of the kicks and drifts of leapfrog for `phi' = sigma p`, `p' = -phi / sigma`, in turn."""
    sigma = (2 * (lattice.squared_momenta() + 1)).rsqrt()  # of the free field at m2 = 1
    step = angle / n_steps
    drift, kick, half_kick = step * sigma, -step / sigma, -0.5 * step / sigma
    return [half_kick, *[drift, kick] * (n_steps - 1), drift, half_kick]
