"""The continuous normalizing flow: a symmetric vector field integrated from a symmetric prior."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equiflow.flows.base import Flow
from equiflow.flows.checkpoints import describe, dtype_named, load_weights, pretrained_file, rebuild, space_of
from equiflow.flows.path import PathSample
from equiflow.ode.integrate import Solution, State, integrate
from equiflow.ode.solver import Solver
from equiflow.ode.tuning import SolverChoice, choose_solver
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.compilation import Compiled
from equiflow.runtime.memory import keep_freed_memory
from equiflow.runtime.precision import in_double
from equiflow.runtime.storage import CheckpointError, load_safely, save_atomically
from equiflow.theories.base.action import Action
from equiflow.theories.base.group import Group
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior, default_prior, known_priors
from equiflow.theories.base.resizing import freeze_as, space_on
from equiflow.theories.base.space import Space
from equiflow.vector_fields import VECTOR_FIELDS, VectorField, default_field


class EquivariantCNF(Flow):
    r"""Continuous normalizing flow that respects a lattice's symmetries exactly.

    `dphi/dt = v(phi, t)`, `d log q/dt = -div v`, from the prior at t = 0 to the model at t = 1
    (arXiv:1806.07366, 2110.02673). With an equivariant v and an invariant prior, q is invariant.

    Args:
        space: of the configurations: a `Lattice`, a `Multiplet`, `Angles`, `Particles`.
        vector_field: any `VectorField` on that space; on a lattice by default a `PotentialField` with
            translations x the full point group x Z2.
        prior: on a lattice by default a `FreeField` with a learnable spectrum, tied by the field's group.
        solver: how to integrate; by default `Solver("dopri5", rtol=1e-5, atol=1e-5)`.
        compile: whether the vector field is compiled by `torch.compile`, about twice as fast from
            L = 16 on, after seconds to minutes of compiling. Where that fails it warns and goes on.

    Raises:
        ValueError: if field, prior and flow do not share one space.

    >>> flow = EquivariantCNF(Lattice((4, 4)))
    >>> phi, log_q = flow.sample_and_log_prob(8)
    >>> phi.shape, log_q.shape
    (torch.Size([8, 4, 4]), torch.Size([8]))
    """

    def __init__(
        self,
        space: Space,
        *,
        vector_field: VectorField | None = None,
        prior: Prior | None = None,
        solver: Solver | None = None,
        compile: bool = False,
    ) -> None:
        check_type(compile, bool, "compile")
        check_type(space, Space, "lattice", "Write Lattice((16, 16)).")
        vector_field = default_field(space) if vector_field is None else vector_field
        check_type(
            vector_field, VectorField, "vector_field", "Give an instance, such as PotentialField(lattice)."
        )
        if vector_field.space != space:
            raise ValueError(
                f"The vector field lives on {vector_field.space.kind} {vector_field.space.shape}, the flow "
                f"on {space.shape}. Build both from the same {type(space).__name__}."
            )
        super().__init__(space, default_prior(space, vector_field.group) if prior is None else prior)
        self.vector_field = vector_field
        one, other = vector_field.group, self.prior.group
        if type(one) is type(other) and not (one <= other or other <= one):
            raise ValueError(
                f"The field respects {one}, the prior {other}, and neither contains the other. Build one of "
                "them with a group that the other has."
            )
        self.solver = Solver() if solver is None else solver
        check_type(self.solver, Solver, "solver", 'Write Solver("dopri5", rtol=1e-5, atol=1e-5).')
        #: what a file should say about the flow: plain values, saved and loaded with it
        self.about: dict[str, Any] = {}
        keep_freed_memory()
        self.compiled = compile
        self._compiled: dict[str, Compiled] = {}

    def _evaluate(self, field: VectorField, what: str, *arguments: Any) -> Any:
        """Call a method of the vector field, compiled or not; one for a single solve is not compiled."""
        if not self.compiled or field is not self.vector_field:
            return getattr(field, what)(*arguments)
        if what not in self._compiled:
            self._compiled[what] = Compiled(getattr(field, what))
        return self._compiled[what](*arguments)

    @property
    def group(self) -> Group:
        """The symmetry of the density: what vector field and prior both respect."""
        field, prior = self.vector_field.group, self.prior.group
        return prior if prior <= field else field

    @property
    def learning_rate(self) -> float:
        """What the vector field bears, see `VectorField.learning_rate`."""
        return self.vector_field.learning_rate

    def resized(self, lattice: Lattice) -> EquivariantCNF:
        """The flow on a lattice of another size: what was learned carries over, nothing is shared.

        Kernels carry over as functions of the offset, the prior's spectrum as a function of momentum.
        A flow trained on a small lattice is a good start for training on a large one (`fit_ladder`).

        Args:
            lattice: of the same dimension, larger or smaller.

        Raises:
            ValueError: if the lattice has another number of dimensions or lacks the symmetry.
            TypeError: if the field or the prior does not say how its weights carry over.

        >>> flow = EquivariantCNF(Lattice((4, 4)))
        >>> flow.resized(Lattice((6, 6))).sample(2).shape
        torch.Size([2, 6, 6])
        """
        flow = EquivariantCNF(
            space_on(self.space, lattice),
            vector_field=self.vector_field.resized(lattice),
            prior=self.prior.resized(lattice),
            solver=self.solver,
            compile=self.compiled,
        )
        freeze_as(self, flow)
        return flow

    def with_trace(self, trace: str, *, n_probes: int = 1) -> EquivariantCNF:
        """The same flow, weights and all, with another trace of its field, see `VectorField.with_trace`."""
        flow = EquivariantCNF(
            self.space,
            vector_field=self.vector_field.with_trace(trace, n_probes=n_probes),
            prior=self.prior,
            solver=self.solver,
            compile=self.compiled,
        )
        flow.about = dict(self.about)
        return flow

    def _transform_to_train(self, z: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        if self.vector_field.trace_is_exact:
            return self.transform_and_log_det(z)
        phi, log_det = self.solve(self._check_input(z, "z"), 0.0, 1.0, generator=generator).state
        return phi, log_det

    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.transform_and_log_det`."""
        self.vector_field.demand_exact_trace()
        phi, log_det = self.solve(self._check_input(z, "z"), 0.0, 1.0).state
        return phi, log_det

    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.inverse_and_log_det`."""
        self.vector_field.demand_exact_trace()
        z, log_det = self.solve(self._check_input(phi, "phi"), 1.0, 0.0).state
        return z, log_det

    def solve(
        self,
        phi: Tensor,
        t0: float,
        t1: float,
        *,
        solver: Solver | None = None,
        generator: torch.Generator | None = None,
    ) -> Solution:
        """Integrate `(phi, log_det)` from flow time `t0` to `t1`, with statistics.

        An estimated divergence gives an estimate of `log_det`, good for training alone.

        Args:
            phi: `(batch, *lattice)` at time `t0`.
            t0: initial flow time.
            t1: final flow time; may be smaller than `t0`.
            solver: instead of the flow's own.
            generator: source of randomness of an estimated divergence, on the flow's device.

        Returns:
            A `Solution` whose state is `phi` at `t1` and `log_det = int_t0^t1 div v dt`.
        """
        field = self.vector_field.for_solve(phi, generator)

        def rates(t: Tensor, state: State) -> State:
            return self._evaluate(field, "velocity_and_divergence", state[0], t)

        state = (phi, phi.new_zeros(len(phi)))
        parameters = self.vector_field.parameters()
        return integrate(rates, state, t0, t1, solver or self.solver, parameters=parameters)

    def rsample_path(
        self,
        n_samples: int,
        *,
        generator: torch.Generator | None = None,
        solver: Solver | None = None,
    ) -> PathSample:
        """Draw samples with their score `grad log q`, integrated along the flow (arXiv:2206.09016).

        Args:
            n_samples: how many.
            generator: source of randomness, on the flow's device.
            solver: instead of the flow's own, for instance a cheaper one while training.
        """
        solver = solver or self.solver
        z = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        with torch.no_grad():
            score, log_q = self.prior.score(z), self.prior.log_prob(z)
        zeros = z.new_zeros(len(z))
        field = self.vector_field.for_solve(z, generator)

        def path(t: Tensor, state: State) -> State:
            rates = self._evaluate(field, "path_rates", state[0], t, state[3].detach())
            return rates.velocity, self._power(rates.velocity), rates.divergence, rates.score_rate

        def trajectory(t: Tensor, state: State) -> State:
            velocity = self._evaluate(field, "velocity", state[0], t)
            return velocity, self._power(velocity)

        if not (solver.adjoint and torch.is_grad_enabled()):
            solution = integrate(path, (z, zeros, zeros, score), 0.0, 1.0, solver)
            phi, energy, log_det, score = solution.state
            nfe = solution.nfe
        else:  # Only phi needs an adjoint: solve for the score apart from it.
            with torch.no_grad():
                scored = integrate(path, (z, zeros, zeros, score), 0.0, 1.0, solver)
            _, _, log_det, score = scored.state
            parameters = self.vector_field.parameters()
            solution = integrate(trajectory, (z, zeros), 0.0, 1.0, solver, parameters=parameters)
            phi, energy = solution.state
            nfe = scored.nfe + solution.nfe
        return PathSample(phi, log_q - log_det.detach(), score.detach(), energy, nfe)

    def _power(self, velocity: Tensor) -> Tensor:
        return velocity.square().sum(self.space.event_axes)

    @torch.no_grad()
    def tune_solver(
        self,
        target: float = 1e-3,
        *,
        action: Action | None = None,
        n_samples: int = 128,
        generator: torch.Generator | None = None,
    ) -> SolverChoice:
        """Give the flow, as trained, the solver with the fewest evaluations that reaches an error.

        The error is the larger of `|shift of log Z|` and a tenth of the largest change of a log
        weight, against dopri8 in float64 at a tolerance below the rounding of the flow's own dtype.

        Args:
            target: largest acceptable error.
            action: target whose log weights are compared; the model itself by default.
            n_samples: how many samples to compare.
            generator: source of randomness, on the flow's device.

        Returns:
            What was chosen and what was tried; `print` shows it as a table.
        """
        z = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        tight, finest = (1e-10, 1e-11) if self.dtype == torch.float64 else (1e-8, 1e-6)
        reference = self._reference(Solver("dopri8", rtol=tight, atol=tight))
        exact = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        if action is not None:
            exact = reference._log_weight(z.double(), reference, in_double(action))[1]

        def measure(solver: Solver) -> tuple[float, int]:
            _, log_weight, nfe = self._by(solver)._log_weight(z, reference, action)
            change = log_weight - exact
            shift = log_weight.logsumexp(0) - exact.logsumexp(0)
            return max(abs(float(shift)), 0.1 * float(change.abs().max())), nfe

        choice = choose_solver(measure, target=target, like=self.solver, finest=finest)
        self.solver = choice.solver
        return choice

    def _by(self, solver: Solver) -> EquivariantCNF:
        """The flow, weights and all, by another solver."""
        flow = copy.copy(self)
        flow.solver = solver
        return flow

    def _reference(self, solver: Solver | None = None) -> EquivariantCNF:
        """See `Flow._reference`; uncompiled, so that what a compiler got wrong is seen too."""
        reference = in_double(self)._by(solver or self.solver.refined())
        reference.compiled = False
        return reference

    def _transform_and_count(self, z: Tensor) -> tuple[Tensor, Tensor, int]:
        self.vector_field.demand_exact_trace()
        solution = self.solve(z, 0.0, 1.0)
        phi, log_det = solution.state
        return phi, log_det, solution.nfe

    def _method(self) -> str:
        return str(self.solver)

    def save(self, path: str | Path) -> None:
        """Write the flow to one file of tensors and plain values; `load` rebuilds it."""
        save_atomically({"kind": "flow", **self.to_dict()}, path)

    def to_dict(self) -> dict[str, Any]:
        """The recipe and the weights of the flow, as plain values and tensors."""
        return {
            self.space.kind: list(self.space.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "solver": asdict(self.solver),
            "vector_field": describe(self.vector_field),
            "prior": describe(self.prior),
            "about": self.about,
            "state_dict": self.state_dict(),
        }

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        vector_field: VectorField | None = None,
        prior: Prior | None = None,
        device: torch.device | str = "cpu",
        compile: bool = False,
    ) -> EquivariantCNF:
        """Rebuild a saved flow. No code is run by loading.

        Args:
            path: a file written by `save`.
            vector_field: an instance to fill with the saved weights, for a field of your own.
            prior: the same for a prior of your own.
            device: where the flow goes.
            compile: whether its vector field is compiled.

        Raises:
            CheckpointError: if the file is damaged, no flow, or holds a field this library lacks.
        """
        content = load_safely(path, "flow", map_location=device)
        try:
            return cls.from_dict(
                content, vector_field=vector_field, prior=prior, device=device, compile=compile
            )
        except Exception as error:  # whatever a recipe that fits nothing can make constructors raise
            raise CheckpointError(f"{path} does not describe a flow: {error}") from error

    @classmethod
    def from_dict(
        cls,
        content: dict[str, Any],
        *,
        vector_field: VectorField | None = None,
        prior: Prior | None = None,
        device: torch.device | str = "cpu",
        compile: bool = False,
    ) -> EquivariantCNF:
        """The flow that `to_dict` describes, see `load`; what is not its output can raise anything."""
        space = space_of(content)
        dtype = dtype_named(content["dtype"])
        if vector_field is None:
            vector_field = rebuild(content["vector_field"], VECTOR_FIELDS, space)
        if prior is None:
            prior = rebuild(content["prior"], known_priors(), space)
        solver = Solver(**content["solver"])
        flow = cls(space, vector_field=vector_field, prior=prior, solver=solver, compile=compile)
        load_weights(flow.to(device, dtype), content["state_dict"])
        flow.about = dict(content.get("about", {}))
        return flow

    @classmethod
    def pretrained(
        cls, name: str, *, device: torch.device | str = "cpu", compile: bool = False
    ) -> EquivariantCNF:
        """A trained flow that comes with the package.

        `phi4-2d-L8`, `-L16`, `-L32`: two-dimensional phi^4 at m2 = -4 and m_p L = 4, by
        `benchmarks/ladder.py`. `flow.about` says for which action, how it was trained and what it
        reached.

        Args:
            name: of the flow.
            device: where it goes.
            compile: whether its vector field is compiled.

        Raises:
            ValueError: if there is none of that name.

        >>> flow = EquivariantCNF.pretrained("phi4-2d-L8")
        >>> flow.about["action"]
        'Phi4(shape=(8, 8), m2=-4.0, lam=6.008)'
        """
        return cls.load(pretrained_file(name), device=device, compile=compile)

    def extra_repr(self) -> str:
        """What `repr` shows besides the modules."""
        return f"{self.space.kind}={self.space.shape}, group={self.group}, solver={self.solver}"
