"""Hybrid (Hamiltonian) Monte Carlo on the lattice action, many chains at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.actions import Action
from equiflow.lattice import check_type
from equiflow.samplers.chain import Chain

#: leapfrog steps of a mean trajectory beyond which tuning has failed
MAX_STEPS = 1000


class HMC:
    """Leapfrog HMC with unit mass, `H = sum_x p_x^2 / 2 + S[phi]` (Duane et al. 1987).

    Args:
        action: target, `exp(-S)`.
        step_size: leapfrog step; `None` tunes it while thermalising.
        trajectory_length: mean molecular-dynamics time of a trajectory. Each draws its own length, from
            half to three halves of it: a fixed one would never mix a mode whose period it matches.
        target_acceptance: acceptance that the tuning aims for.

    Raises:
        ValueError: if a length or step is not positive, or the acceptance not between 0 and 1.
    """

    def __init__(
        self,
        action: Action,
        *,
        step_size: float | None = None,
        trajectory_length: float = 2.0,
        target_acceptance: float = 0.8,
    ) -> None:
        check_type(action, Action, "action")
        if not 0 < trajectory_length < math.inf or not (step_size is None or 0 < step_size < math.inf):
            raise ValueError(
                f"Expected positive, finite lengths, got step_size={step_size}, "
                f"trajectory_length={trajectory_length}."
            )
        if not 0 < target_acceptance < 1:
            raise ValueError(f"target_acceptance must be in (0, 1), got {target_acceptance}.")
        self.action = action
        self.step_size = step_size
        self.trajectory_length = trajectory_length
        self.target_acceptance = target_acceptance

    @torch.no_grad()
    def sample(
        self,
        n_samples: int,
        *,
        n_chains: int = 64,
        n_thermalisation: int = 200,
        thin: int = 1,
        initial: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Chain:
        """Run the chains.

        Args:
            n_samples: samples kept per chain.
            n_chains: number of chains, updated together.
            n_thermalisation: trajectories before the first sample; the step size is tuned in them.
            thin: trajectories per kept sample.
            initial: `(n_chains, *lattice)` to start from; weak Gaussian noise by default.
            generator: source of randomness, on `device`.
            device: where the chains live, unless `initial` says it.
            dtype: of the field, unless `initial` says it.

        Raises:
            RuntimeError: if the tuned step size collapses, or a chain accepts no trajectory in the
                second half of the thermalisation.
        """
        for name, count in (("n_samples", n_samples), ("n_chains", n_chains), ("thin", thin)):
            check_type(count, int, name)
        if min(n_samples, n_chains, thin) < 1 or n_thermalisation < 0:
            raise ValueError(
                f"Expected counts >= 1, got n_samples={n_samples}, n_chains={n_chains}, thin={thin}, "
                f"n_thermalisation={n_thermalisation}."
            )
        shape = (n_chains, *self.action.space.shape)
        if initial is None:
            # Weak: a strong fluctuation of a phi^4 field is too stiff for any sensible step size.
            phi = 0.1 * torch.randn(shape, generator=generator, device=device, dtype=dtype)
        else:
            phi = self.action.space.check_finite(initial, "initial").clone()
            if len(phi) != n_chains:
                raise ValueError(
                    f"initial holds {len(phi)} fields for n_chains={n_chains}; expected one each."
                )
        phi, step_size = self._thermalise(phi, n_thermalisation, generator)
        samples, acceptance = [], []
        for _ in range(n_samples):
            accepted = torch.zeros(len(phi), dtype=torch.float64, device=phi.device)
            for _ in range(thin):
                phi, _, moved = self._trajectory(phi, step_size, generator)
                accepted += moved / thin
            samples.append(phi)
            acceptance.append(accepted)
        return Chain(torch.stack(samples), torch.stack(acceptance), step_size)

    def _thermalise(
        self, phi: Tensor, n_trajectories: int, generator: torch.Generator | None
    ) -> tuple[Tensor, float]:
        log_step = math.log(self.step_size or 0.1)
        moves = torch.zeros(len(phi), dtype=torch.float64, device=phi.device)
        for n in range(n_trajectories):
            phi, probability, moved = self._trajectory(phi, math.exp(log_step), generator)
            if n >= n_trajectories // 2:
                moves += moved
            if self.step_size is None:
                # Robbins-Monro: steps that shrink, so that the step size settles.
                log_step += (float(probability.mean()) - self.target_acceptance) / (1 + n / 10) ** 0.6
        if self.step_size is None and self.trajectory_length > MAX_STEPS * math.exp(log_step):
            raise RuntimeError(
                f"The tuned step size collapsed to {math.exp(log_step):.1e}: energy is not conserved. Does "
                "action.grad match action? If so, give a step_size."
            )
        stuck = int((moves == 0).sum())
        if n_trajectories >= 20 and stuck:
            raise RuntimeError(
                f"{stuck} of {len(phi)} HMC chains accepted no trajectory while thermalising (step size "
                f"{math.exp(log_step):.2g}). Give a smaller step_size, a longer n_thermalisation, or "
                "another initial field."
            )
        return phi, math.exp(log_step)

    def _trajectory(
        self, phi: Tensor, step_size: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One update: new fields, acceptance probabilities, and which chains moved."""
        momentum = torch.randn(phi.shape, generator=generator, dtype=phi.dtype, device=phi.device)
        stretch = 0.5 + float(torch.rand((), generator=generator, device=phi.device))
        n_steps = max(1, round(stretch * self.trajectory_length / step_size))
        proposal, final = leapfrog(self.action, phi, momentum, step_size, n_steps)
        change = self.energy(proposal, final) - self.energy(phi, momentum)
        # A trajectory that left the range of floating point is a proposal of zero density.
        probability = torch.nan_to_num(-change, nan=-math.inf).clamp(max=0.0).exp().double()
        uniform = torch.rand(len(phi), generator=generator, dtype=torch.float64, device=phi.device)
        moved = uniform < probability
        keep = moved.reshape(-1, *(1,) * (phi.dim() - 1))
        return torch.where(keep, proposal, phi), probability, moved.double()

    def energy(self, phi: Tensor, momentum: Tensor) -> Tensor:
        """`H = sum_x p_x^2 / 2 + S[phi]`, `(batch,)`."""
        return 0.5 * momentum.square().flatten(1).sum(1) + self.action(phi)


def leapfrog(
    action: Action, phi: Tensor, momentum: Tensor, step_size: float, n_steps: int
) -> tuple[Tensor, Tensor]:
    """`n_steps` leapfrog steps: reversible, volume-preserving, energy conserved to O(step_size^2)."""
    momentum = momentum - 0.5 * step_size * action.grad(phi)
    for step in range(n_steps):
        phi = phi + step_size * momentum
        kick = step_size if step < n_steps - 1 else 0.5 * step_size
        momentum = momentum - kick * action.grad(phi)
    return phi, momentum
