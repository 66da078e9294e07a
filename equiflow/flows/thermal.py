"""Density matrices of fermions: Slater determinants with learned probabilities, carried by a flow.

Start with `ThermalState`. `fit_thermal_state` trains it and `thermal_averages` measures it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from equiflow.flows.checkpoints import SavedModule, UnknownOptionError
from equiflow.flows.descriptions import describe
from equiflow.flows.parts import rebuild
from equiflow.ode.integrate import State, integrate
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import full_precision
from equiflow.theories.fermions.electrons import TrappedElectrons
from equiflow.theories.fermions.slater import SlaterStates
from equiflow.theories.particles.space import Particles
from equiflow.vector_fields import BackflowField, VectorField, known_fields

T = TypeVar("T", bound="ThermalState")


@dataclass(frozen=True)
class ThermalSample:
    """Samples of a thermal state, with the derivatives of their densities.

    Attributes:
        x: positions, `(batch, particle, dim)`.
        state: index n of the determinant behind each of them, `(batch,)`.
        log_density: `log q_n(x) = log |Psi_n(x)|^2`, `(batch,)`. Its gradient in the parameters is the one at
            fixed x.
        score: `grad log q_n(x)`, shaped like `x`.
        laplacian: `lap log q_n(x)`, `(batch,)`.
        log_probability: `log p_n`, `(batch,)`, differentiable in the parameters of p.
        nfe: evaluations of the vector field.
    """

    x: Tensor
    state: Tensor
    log_density: Tensor
    score: Tensor
    laplacian: Tensor
    log_probability: Tensor
    nfe: int

    def local_energy(self, electrons: TrappedElectrons) -> Tensor:
        """Return `H Psi_n / Psi_n` of each sample, `(batch,)`, see `TrappedElectrons.local_energy`."""
        return electrons.local_energy(self.x, self.score, self.laplacian)


class ThermalState(SavedModule):
    r"""The density matrix `rho = sum_n p_n |Psi_n><Psi_n|` with `Psi_n(x) = Phi_n(z) |det dz/dx|^{1/2}`.

    Phi_n are Slater determinants of trap orbitals with learned probabilities `p_n`. The flow `z -> x` is a
    unitary transformation of all of them, so Psi_n stay orthonormal, and the entropy `-sum_n p_n log p_n` is
    known exactly. The flow is equivariant under permutations, so Psi_n stay antisymmetric.
    (arXiv:2105.08644)

    `p_n ~ exp(l_n - sum_k N_nk e_k)` with the number `N_nk` of fermions in the trap's shell k. The energies
    e_k of quasiparticles are learned fast, since every sample tells of them; the l_n correct them.

    The free energy `F = sum_n p_n (log p_n / beta + <Psi_n|H|Psi_n>)` is never below the exact one. A new
    state is the thermal state of ideal fermions within the cutoff. All numbers are float64.

    Args:
        states: the determinants.
        beta: inverse temperature; `math.inf` for the ground state.
        vector_field: any field of particles without a centre of the world; by default a `BackflowField`.
        solver: how to integrate; by default `Solver("rk5", steps=6)`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if beta is not positive, the field lives on other particles, only estimates its
            divergence, or beta is infinite and there are determinants above the lowest energy.

    >>> states = SlaterStates(Particles(2, 2), cutoff=5.0)
    >>> rho = ThermalState(states, beta=2.0)
    >>> sample = rho.sample(8)
    >>> sample.x.shape
    torch.Size([8, 2, 2])
    >>> energy = sample.local_energy(TrappedElectrons(states.particles, Z=0.0))
    >>> torch.allclose(energy, states.energies[sample.state])
    True
    """

    file_kind: ClassVar[str] = "thermal state"

    occupation: Tensor

    def __init__(
        self,
        states: SlaterStates,
        *,
        beta: float,
        vector_field: VectorField | None = None,
        solver: Solver | None = None,
    ) -> None:
        super().__init__()
        check_type(states, SlaterStates, "states", "Write SlaterStates(Particles(2, 2), cutoff=6.0).")
        check_type(beta, (float, int), "beta")
        if not beta > 0:
            raise ValueError(f"beta must be positive, got {beta}; math.inf stands for zero temperature.")
        excitation = states.energies - states.energies.min()
        if beta == math.inf and bool(excitation.any()):
            raise ValueError(
                "At zero temperature only determinants of the lowest energy have a weight; leave out the "
                "cutoff of SlaterStates, or give a finite beta."
            )
        field = BackflowField(states.particles) if vector_field is None else vector_field
        check_type(field, VectorField, "vector_field", "Give an instance, such as BackflowField(particles).")
        if field.space != states.particles:
            raise ValueError(
                f"The vector field lives on {field.space.shape}, the determinants on "
                f"{states.particles.shape}. Build both from the same Particles."
            )
        field.demand_exact_trace()
        self.solver = Solver("rk5", steps=6) if solver is None else solver
        check_type(self.solver, Solver, "solver", 'Write Solver("rk5", steps=6).')
        self.states, self.beta = states, float(beta)
        self.vector_field = field.double()
        level = states.orbitals.sum(2)
        count = nn.functional.one_hot(level).sum(1).double()
        self.register_buffer("occupation", count, False)
        start = torch.arange(count.shape[1], dtype=torch.float64) * (0.0 if beta == math.inf else beta)
        self.levels = nn.Parameter(start)
        self.logits = nn.Parameter(torch.zeros(len(states), dtype=torch.float64))

    @property
    def space(self) -> Particles:
        """The particles."""
        return self.states.particles

    @property
    def log_probabilities(self) -> Tensor:
        """`log p_n` of all determinants, `(state,)`."""
        return (self.logits - self.occupation @ self.levels).log_softmax(0)

    def entropy(self) -> Tensor:
        """Return `-sum_n p_n log p_n`, 0-d, without a statistical error."""
        log_p = self.log_probabilities
        return -(log_p.exp() * log_p).sum()

    def sample(
        self, n_samples: int, *, generator: torch.Generator | None = None, solver: Solver | None = None
    ) -> ThermalSample:
        """Draw independent samples of `<x|rho|x>`, exactly up to the error of the solver.

        Args:
            n_samples: number of samples.
            generator: source of randomness, on the CPU; the global one by default.
            solver: replaces the state's own solver.

        Returns:
            Positions, determinants, densities and their derivatives.
        """
        state, z = self.draw(n_samples, generator=generator)
        return self.carry(z, state, solver=solver)

    @torch.no_grad()
    def draw(self, n_samples: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw determinants from p_n and positions from `|Phi_n|^2`, where the flow starts.

        Args:
            n_samples: number of samples.
            generator: source of randomness, on the CPU; the global one by default.

        Returns:
            The index n, `(batch,)`, and the positions, `(batch, particle, dim)`.
        """
        check_count(n_samples, "n_samples")
        share = self.log_probabilities.exp().cpu()
        uniform = torch.rand(n_samples, generator=generator, dtype=torch.float64)
        state = torch.searchsorted(share.cumsum(0), uniform, right=True).clamp(max=len(share) - 1)
        return state.to(self.logits.device), self.states.sample(state, generator)

    @full_precision
    def carry(self, z: Tensor, state: Tensor, *, solver: Solver | None = None) -> ThermalSample:
        r"""Carry samples of determinants along the flow, with two derivatives of their densities.

        With `g = grad log q` and its Jacobian H, the Hessian of log q, along a trajectory `dx/dt = v`:

            d log q/dt = -div v,    dg/dt = -J^T g - grad div v,    dH/dt = -J^T H - H J - K,

        where J = dv/dx and K is the Hessian of `v . g + div v` with g held fixed.

        Args:
            z: positions, `(batch, particle, dim)`, in float64.
            state: index n of each configuration, `(batch,)`, int64.
            solver: replaces the state's own solver.

        Returns:
            The carried samples. If autograd records, `log_density` has the gradient in the parameters of the
            field at fixed x, `-int d/dtheta (div v + v . g) dt`.

        Raises:
            ValueError: if autograd records and the solver has `adjoint=True`.
            SolverError: if the solver gives up or the result is not finite.
        """
        solver, records = solver or self.solver, torch.is_grad_enabled()
        if records and solver.adjoint:
            raise ValueError(
                f"{solver} with adjoint=True cannot give gradients here: they are integrated along with the "
                "samples, in little memory. Leave adjoint out."
            )
        jet, field = self.states.jet(z, state), self.vector_field

        def rates(t: Tensor, now: State) -> State:
            x, score, hessian = (part.detach() for part in now[:3])
            found = field.curvature_rates(x, t, score)
            log_q_rate = -found.divergence
            if records:
                velocity, divergence = field.velocity_and_divergence(x, t)
                trained = divergence + (velocity * score).sum((1, 2))
                log_q_rate = log_q_rate + trained.detach() - trained
            return found.velocity, found.score_rate, found.hessian_rate(hessian), log_q_rate

        begin = (z.detach(), jet.score, jet.hessian, jet.value)
        solution = integrate(rates, begin, 0.0, 1.0, solver)
        x, score, hessian, log_density = solution.state
        return ThermalSample(
            x.detach(),
            state,
            log_density,
            score.detach(),
            hessian.detach().diagonal(dim1=1, dim2=2).sum(1),
            self.log_probabilities[state],
            solution.nfe,
        )

    def log_density(self, x: Tensor, state: Tensor) -> Tensor:
        """Return `log |Psi_n(x)|^2` of given positions, differentiable in them and in the parameters.

        Args:
            x: positions, `(batch, particle, dim)`, in float64.
            state: index n of each configuration, `(batch,)`, int64.

        Returns:
            `(batch,)`.
        """
        z, log_det = self._inverse(x)
        return self.states.log_density(z, state) + log_det

    @torch.no_grad()
    def log_diagonal(self, x: Tensor) -> Tensor:
        """Return `log <x|rho|x> = log sum_n p_n |Psi_n(x)|^2` of given positions.

        Args:
            x: positions, `(batch, particle, dim)`, in float64.

        Returns:
            `(batch,)`.
        """
        z, log_det = self._inverse(x)
        every = torch.arange(len(self.states), device=x.device)
        rows = [self.states.log_density(one.expand(len(every), -1, -1), every) for one in z]
        return torch.logsumexp(torch.stack(rows) + self.log_probabilities, 1) + log_det

    def _inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and `log |det dz/dx|`."""
        self.states.particles.check(x, "x")

        def rates(t: Tensor, now: State) -> State:
            return self.vector_field.velocity_and_divergence(now[0], t)

        z, log_det = integrate(rates, (x, x.new_zeros(len(x))), 1.0, 0.0, self.solver).state
        return z, log_det

    def to_dict(self) -> dict[str, Any]:
        """See `SavedModule.to_dict`."""
        return {
            "orbitals": self.states.orbitals.tolist(),
            "beta": self.beta,
            "solver": asdict(self.solver),
            "vector_field": describe(self.vector_field, known_fields(), self.space),
            "about": dict(self.about),
            "state_dict": self.state_dict(),
        }

    @classmethod
    def from_dict(
        cls: type[T], content: dict[str, Any], *, device: torch.device | str = "cpu", **options: Any
    ) -> T:
        """See `SavedModule.from_dict`; the option is `vector_field`, for a field of your own."""
        if options.keys() - {"vector_field"}:
            raise UnknownOptionError(
                f"A {cls.__name__} is loaded with device and vector_field, got {options}."
            )
        orbitals = content["orbitals"]
        particles = Particles(len(orbitals[0]), len(orbitals[0][0]))
        found = cls(
            SlaterStates.of_orbitals(particles, orbitals),
            beta=content["beta"],
            vector_field=rebuild(
                content["vector_field"], known_fields(), particles, given=options.get("vector_field")
            ),
            solver=Solver(**content["solver"]),
        )
        found.load_state_dict(content["state_dict"])
        found.about = dict(content["about"])
        return found.to(device)

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the modules."""
        return f"beta={self.beta:g}, solver={self.solver}"
