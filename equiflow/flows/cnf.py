"""The continuous normalizing flow: a symmetric vector field, integrated from a symmetric prior.

Start with `EquivariantCNF`. See also `path` (samples with scores), `tuning` (solvers), `checkpoints` (files).
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from equiflow.flows.descriptions import describe, describe_space
from equiflow.flows.integrated import IntegratedFlow
from equiflow.flows.kernels import FieldOfSolve, fastest, solve
from equiflow.flows.parts import check_groups, field_with, pretrained_file, rebuild, space_of
from equiflow.flows.path import PathSample, PathStart, carry_path
from equiflow.ode.integrate import Solution
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_count, check_flag, check_type
from equiflow.runtime.compilation import Compiled
from equiflow.runtime.precision import in_double
from equiflow.theories.base.group import Group
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior, known_priors
from equiflow.theories.base.resizing import freeze_as, space_on
from equiflow.theories.base.space import Space
from equiflow.vector_fields import VectorField, known_fields


class EquivariantCNF(IntegratedFlow):
    r"""Continuous normalizing flow that respects the symmetries of its configurations exactly.

    `dphi/dt = v(phi, t)`, `d log q/dt = -div v`, from the prior at t = 0 to the model at t = 1
    (arXiv:1806.07366, 2110.02673). If v is equivariant and the prior invariant, q is invariant.

    Args:
        space: of the configurations: a `Lattice`, a `Multiplet`, `Angles`, `Particles`.
        group: the symmetry to build into field and prior; by default the largest one of the space, on a
            lattice translations x the full point group x Z2.
        vector_field: any `VectorField` on that space; on a lattice by default a `PotentialField`.
        prior: any `Prior` on that space; on a lattice by default a `FreeField` with a learnable spectrum,
            tied by the field's group, or what suits the field better, see `VectorField.default_prior`.
        solver: how to integrate; by default `Solver("dopri5", rtol=1e-5, atol=1e-5)`.
        compile: whether `torch.compile` compiles the vector field. From L = 16 on this is about twice as
            fast, after seconds to minutes of compiling. If compiling fails, the flow warns and goes on
            uncompiled.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: if field, prior, group and flow do not share one space, if field and prior have groups of
            which neither contains the other, or if a field with another group is given.

    >>> flow = EquivariantCNF(Lattice((4, 4)))
    >>> phi, log_q = flow.sample_and_log_prob(8)
    >>> phi.shape, log_q.shape
    (torch.Size([8, 4, 4]), torch.Size([8]))
    """

    def __init__(
        self,
        space: Space,
        *,
        group: Group | None = None,
        vector_field: VectorField | None = None,
        prior: Prior | None = None,
        solver: Solver | None = None,
        compile: bool = False,
    ) -> None:
        check_type(space, Space, "space", "Write Lattice((16, 16)).")
        vector_field = field_with(space, group, vector_field)
        super().__init__(space, vector_field.default_prior() if prior is None else prior)
        self.vector_field = vector_field
        check_groups(vector_field, self.prior)
        self.solver = Solver() if solver is None else solver
        check_type(self.solver, Solver, "solver", 'Write Solver("dopri5", rtol=1e-5, atol=1e-5).')
        self.compiled = check_flag(compile, "compile")
        self._compiled: dict[str, Compiled] = {}
        self._fused = True

    @property
    def group(self) -> Group:
        """The symmetry of the density: the smaller group of the vector field and the prior."""
        field, prior = self.vector_field.group, self.prior.group
        return prior if prior <= field else field

    @property
    def vector_fields(self) -> tuple[VectorField, ...]:
        """See `IntegratedFlow.vector_fields`."""
        return (self.vector_field,)

    @property
    def training_solver(self) -> Solver:
        """See `Flow.training_solver`; the solver that suits the vector field."""
        return self.vector_field.training_solver

    @property
    def training_steps(self) -> int:
        """See `VectorField.training_steps`."""
        return self.vector_field.training_steps

    @property
    def training_batch_size(self) -> int:
        """See `VectorField.training_batch_size`."""
        return self.vector_field.training_batch_size

    @property
    def learning_rate(self) -> float:
        """See `VectorField.learning_rate`."""
        return self.vector_field.learning_rate

    def resized(self, lattice: Lattice) -> EquivariantCNF:
        """Return a copy of the flow on a lattice of another size, with what was learned carried over.

        Kernels carry over as functions of the offset, and the prior's spectrum as a function of momentum. A
        flow trained on a small lattice is a good start for training on a large one (`fit_ladder`).

        Args:
            lattice: larger or smaller, of the same dimension.

        Raises:
            ValueError: if the lattice has another number of dimensions or lacks the symmetry.
            TypeError: if the field or the prior does not define how its weights carry over.

        >>> flow = EquivariantCNF(Lattice((4, 4)))
        >>> flow.resized(Lattice((6, 6))).sample(2).shape
        torch.Size([2, 6, 6])
        """
        parts = self.vector_field.resized(lattice), self.prior.resized(lattice)
        flow = self._with_parts(space_on(self.space, lattice), *parts)
        freeze_as(self, flow)
        return flow

    def with_trace(self, trace: str, *, n_probes: int = 1) -> EquivariantCNF:
        """Return an independent copy of the flow whose field takes its trace another way.

        Take the copy after training: it starts with equal weights and does not follow later changes.

        Args:
            trace: see `VectorField.with_trace`.
            n_probes: number of probes of an estimate.

        Returns:
            The copy, with the same solver and prior.

        Raises:
            TypeError: if the divergence of the field has a closed form.
        """
        field = self.vector_field.with_trace(trace, n_probes=n_probes)
        flow = self._with_parts(self.space, field, copy.deepcopy(self.prior))
        flow.about = dict(self.about)
        return flow

    def _with_parts(self, space: Space, vector_field: VectorField, prior: Prior) -> EquivariantCNF:
        """Return a flow of the same class with other parts."""
        options: dict[str, Any] = {"solver": self.solver, "compile": self.compiled}
        return type(self)(space, vector_field=vector_field, prior=prior, **options)

    def _transform_to_train(self, z: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        solution = self.solve(self._check_input(z, "z"), 0.0, 1.0, generator=generator)
        return solution.state[0], solution.state[1]

    def log_prob_to_train(
        self, phi: Tensor, *, solver: Solver | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, int]:
        """See `Flow.log_prob_to_train`."""
        solution = self.solve(phi, 1.0, 0.0, solver=solver, generator=generator)
        z, log_det = solution.state
        return self.prior.log_prob(z) + log_det, solution.nfe

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

        If the divergence is estimated, `log_det` is an estimate too, which is good for training only.

        Args:
            phi: configurations at time `t0`, `(batch, *lattice)`.
            t0: initial flow time.
            t1: final flow time; may be smaller than `t0`.
            solver: replaces the flow's own solver.
            generator: source of randomness of an estimated divergence, on the flow's device.

        Returns:
            A `Solution` whose state is `phi` at `t1` and `log_det = int_t0^t1 div v dt`, `(batch,)`.

        Raises:
            SolverError: if the solver gives up or the result is not finite.
        """
        field, solver = self._for_solve(phi, generator), solver or self.solver
        parameters = self.vector_field.parameters()
        return solve(field, phi, t0, t1, solver, space=self.space, parameters=parameters)

    def rsample_path(
        self, n_samples: int, *, generator: torch.Generator | None = None, solver: Solver | None = None
    ) -> PathSample:
        """See `IntegratedFlow.rsample_path`."""
        z = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        return self.path_from(PathStart.of(self.prior, z), generator=generator, solver=solver)

    def path_from(
        self, start: PathStart, *, generator: torch.Generator | None = None, solver: Solver | None = None
    ) -> PathSample:
        """Carry samples of any density through the vector field, together with their scores.

        Args:
            start: samples at flow time 0.
            generator: source of randomness of an estimated divergence, on the flow's device.
            solver: replaces the flow's own solver.

        Returns:
            See `rsample_path`.
        """
        field = self._for_solve(start.z, generator)
        parameters = tuple(self.vector_field.parameters())
        return carry_path(start, self.space, field, solver or self.solver, parameters=parameters)

    def _for_solve(self, phi: Tensor, generator: torch.Generator | None) -> FieldOfSolve:
        """Return the vector field for one solve that starts at `phi`: compiled, with kernels, or itself."""
        field = self.vector_field.for_solve(phi, generator)
        if field is not self.vector_field:  # A field made for one solve is not worth compiling.
            return field
        return fastest(field, phi, compiled=self._compiled if self.compiled else None, kernels=self._fused)

    def _by(self, solver: Solver) -> EquivariantCNF:
        """Return the flow with another solver; everything else is shared."""
        flow = copy.copy(self)
        flow.solver = solver
        return flow

    def _reference(self, solver: Solver | None = None) -> EquivariantCNF:
        """See `Flow._reference`; by torch alone: a certificate sees errors of the compiler and of kernels."""
        reference = in_double(self)._by(solver or self.solver.refined())
        reference.compiled = reference._fused = False
        return reference

    def _transform_and_count(self, z: Tensor) -> tuple[Tensor, Tensor, int]:
        self.vector_field.demand_exact_trace()
        solution = self.solve(z, 0.0, 1.0)
        phi, log_det = solution.state
        return phi, log_det, solution.nfe

    def recipe(self) -> dict[str, Any]:
        """See `Flow.recipe`; the entry `"flow"` is left out as in version 0.1, except by derived classes."""
        return {
            **({} if type(self) is EquivariantCNF else {"flow": type(self).__name__}),
            **describe_space(self.space),
            "solver": asdict(self.solver),
            "vector_field": describe(self.vector_field, known_fields(), self.space),
            "prior": describe(self.prior, known_priors(), self.space),
        }

    @classmethod
    def from_recipe(
        cls,
        recipe: dict[str, Any],
        *,
        vector_field: VectorField | None = None,
        prior: Prior | None = None,
        compile: bool = False,
    ) -> EquivariantCNF:
        """See `Flow.from_recipe`; the options are those of the constructor."""
        space = space_of(recipe)
        vector_field = rebuild(recipe["vector_field"], known_fields(), space, given=vector_field)
        prior = rebuild(recipe["prior"], known_priors(), space, given=prior, option="prior")
        solver = Solver(**recipe["solver"])
        return cls(space, vector_field=vector_field, prior=prior, solver=solver, compile=compile)

    @classmethod
    def _wrote(cls, content: dict[str, Any]) -> bool:
        """See `Flow._wrote`; a derived class can take what this one wrote, if it is asked to."""
        name = content.get("flow")
        return name is None or (name == cls.__name__ and cls is not EquivariantCNF)

    @classmethod
    def pretrained(
        cls, name: str, *, device: torch.device | str = "cpu", compile: bool = False
    ) -> EquivariantCNF:
        """Return a trained flow that comes with the package.

        `phi4-2d-L8`, `-L16`, `-L32` and `-L64` sample two-dimensional phi^4 at m2 = -4 and m_p L = 4. They
        were trained by `benchmarks/ladder.py`. `flow.about` names the action, the training and its result.

        Args:
            name: name of the flow.
            device: where the flow goes.
            compile: whether its vector field is compiled.

        Returns:
            The flow on the device, in its saved dtype.

        Raises:
            ValueError: if there is no flow of this name.

        >>> flow = EquivariantCNF.pretrained("phi4-2d-L8")
        >>> flow.about["action"]
        'Phi4(shape=(8, 8), m2=-4.0, lam=6.008)'
        """
        return cls.load(pretrained_file(name), device=device, compile=compile)

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the modules, with who computes the field."""
        nothing = torch.empty(0, *self.space.shape, dtype=self.dtype, device=self.device)
        options = f"solver={self.solver}, by={self._for_solve(nothing, None).by}"
        return f"{self.space.kind}={self.space.shape}, group={self.group}, {options}"
