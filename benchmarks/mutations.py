"""Does the suite notice wrong physics? Plants one mistake at a time in a copy and runs the tests on it.

A mutant is a wrong version of one place of `equiflow/`; it is killed by the first test that fails. Nothing
is written to the working tree: package, tests and `pyproject.toml` are copied to a temporary folder, the
copy is shown to pass as it is, and then every mutant is planted in a copy of that copy. A mutant whose
text is not found exactly once is an error, so that the list does not rot.

Exit status: 0 if all mutants are killed, 1 if one survives, 2 if nothing can be concluded.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from equiflow.report import print_table

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("equiflow", "tests", "pyproject.toml")
# One process imports equiflow, says from where, and runs pytest: the tests cannot see another copy.
RUN_TESTS = """
import sys, pytest, equiflow
if not equiflow.__file__.startswith(sys.argv[1]):
    sys.exit(f"imported {equiflow.__file__} instead of the copy in {sys.argv[1]}")
sys.exit(pytest.main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Mutant:
    """A wrong version of one place in the package.

    Attributes:
        name: for `--only` and the table.
        file: in `equiflow/`.
        right: text of the file as it is, which must occur exactly once.
        wrong: what takes its place.
        breaks: the physics that is no longer true.
        tests: arguments to pytest, the files or tests in `tests/` that ought to notice.
    """

    name: str
    file: str
    right: str
    wrong: str
    breaks: str
    tests: tuple[str, ...]

    def plant(self, root: Path) -> None:
        """Replace the text in the package under `root`."""
        path = root / "equiflow" / self.file
        if not path.is_file():
            raise ValueError(f"mutant {self.name}: equiflow/{self.file} does not exist. Update the list.")
        source = path.read_text()
        if (found := source.count(self.right)) != 1:
            raise ValueError(
                f"mutant {self.name}: expected its text once in equiflow/{self.file}, found it {found} "
                f"times: {self.right!r}. The code has changed; update the list."
            )
        path.write_text(source.replace(self.right, self.wrong))


@dataclass(frozen=True)
class Verdict:
    """What pytest made of a copy of the package.

    Attributes:
        failed: tests that failed, in order.
        seconds: wall time.
        problem: why nothing can be concluded, empty if something can.
    """

    failed: tuple[str, ...]
    seconds: float
    problem: str = ""


SYMMETRY = ("theories/base/test_symmetry.py",)
PRIORS = ("theories/scalar/test_priors.py",)
ACTIONS = ("theories/scalar/test_phi4.py",)
CERTIFICATES = (
    "flows/test_certificate.py::test_the_solver_error_of_a_result_predicts_its_change_under_a_much_finer_solve",
)
TUNING = ("ode/test_tuning.py::test_the_errors_a_solver_is_chosen_by_are_true_errors",)
RK5 = ("flows/test_certificate.py::test_rk5_uses_the_same_formula_as_dopri5",)
DISTRIBUTED = ("runtime/test_distributed.py::test_two_processes_take_the_steps_of_one",)
DIAGNOSIS = ("analysis/test_diagnosis.py",)
IMPORTANCE = ("samplers/test_importance.py",)
METROPOLIS = ("samplers/test_metropolis.py",)
OBSERVABLES = ("theories/scalar/test_observables.py",)
STATISTICS = tuple(f"statistics/test_{name}.py" for name in ("jackknife", "series", "weights"))

MUTANTS = (
    Mutant(
        "training believes that it has reached its target",
        "training/fresh.py",
        "if ess.mean - 2 * ess.error < self.target:",
        "if False:",
        "training stops at its first look, whatever ESS fresh samples show",
        (
            "training/test_fresh.py::test_training_goes_on_where_a_target_is_not_reached_whatever_the_batches_say",
        ),
    ),
    Mutant(
        "a training that a callback ends leaves no checkpoint",
        "training/trainer.py",
        "(run.checkpoint_is_due or reason)",
        "run.checkpoint_is_due",
        "the steps since the last checkpoint are lost",
        (
            "training/test_fresh.py::test_early_stopping_ends_a_training_with_a_checkpoint_from_which_it_goes_on",
        ),
    ),
    Mutant(
        "time of a ladder",
        "report/plots.py",
        "minutes = (start + np.array(history.seconds)) / 60",
        "minutes = np.array(history.seconds) / 60",
        "every rung of a ladder seems to begin at once, so that the ladder seems faster than it is",
        ("report/test_numbers.py::test_a_ladder_counts_the_time_of_all_its_rungs",),
    ),
    Mutant(
        "histogram of the reweighted model",
        "report/histograms.py",
        'model, bins, weights=weight, density=True, histtype="step"',
        'model, bins, density=True, histtype="step"',
        "the reweighted magnetisation is drawn without its weights, and agrees with the model too well",
        ("report/test_numbers.py::test_histograms_are_densities_of_what_they_name",),
    ),
    Mutant(
        "weights about log Z",
        "report/plots.py",
        "forward = as_array(forward_log_weight) - log_z",
        "forward = as_array(forward_log_weight)",
        "the weights of target samples are drawn at another place than those of model samples",
        ("report/test_numbers.py::test_weights_are_shown_about_log_z",),
    ),
    Mutant(
        "errors of log Z in results.json",
        "report/report.py",
        'numbers |= {name: estimate.mean, f"{name}_error": estimate.error}',
        'numbers |= {name: estimate.mean, f"{name}_error": abs(estimate.mean)}',
        "the files of a report give another error than its tables",
        ("report/test_numbers.py::test_the_quality_of_a_flow_follows_from_its_weights",),
    ),
    Mutant(
        "pace of a run",
        "cli/watching.py",
        'return left * (recent[-1]["seconds"] - recent[0]["seconds"]) / (len(recent) - 1)',
        'return left * (recent[-1]["seconds"] - recent[0]["seconds"]) / len(recent)',
        "the time to the end counts fence posts instead of the steps between them",
        ("cli/test_watching.py::test_a_line_says_where_the_run_is",),
    ),
    Mutant(
        "room for samples",
        "runtime/capacity.py",
        "needed = 2 * bytes_of_samples(n_samples, shape, dtype)",
        "needed = bytes_of_samples(n_samples, shape, dtype)",
        "samples that fit once, but not twice as they must, are refused after hours instead of at once",
        ("cli/test_ensembles.py::test_samples_without_room_in_the_memory_are_refused_before_sampling",),
    ),
    Mutant(
        "curvature of the circle",
        "vector_fields/angles.py",
        "divergence = (slope * (2 * at_origin - e)).sum((1, *axes)) - _dot(u, q).sum((1, *axes))",
        "divergence = (slope * (2 * at_origin - e)).sum((1, *axes))",
        "the divergence of angles forgets that the tangent turns with the angle",
        ("vector_fields/test_angle_field.py::test_pairs_alone_are_a_sum_of_sines",),
    ),
    Mutant(
        "gradients of local energies",
        "vector_fields/angles.py",
        "return m.index_select(1, c) * m.index_select(1, d) + (overlap - cosine) / 2",
        "return m.index_select(1, c) * m.index_select(1, d) + (overlap + cosine) / 2",
        "the Laplacian of a ridge takes cos^2 for sin^2",
        ("vector_fields/test_angle_field.py::test_the_field_obeys_every_law_in_both_precisions",),
    ),
    Mutant(
        "samples of angles within a turn",
        "flows/base.py",
        "return self.space.nearest(phi), self.prior.log_prob(z) - log_det",
        "return phi, self.prior.log_prob(z) - log_det",
        "samples of angles lie anywhere on the real line",
        ("theories/angles/test_angle_flows.py::test_every_law_of_a_flow_and_samples_within_a_turn",),
    ),
    Mutant(
        "helicity modulus",
        "theories/angles/observables.py",
        "links.cos().mean(axes) - beta * links.sin().sum(axes).square() / theta[0].numel()",
        "links.cos().mean(axes) - beta * links.sin().square().mean(axes)",
        "the stiffness forgets that the twists of different links are correlated",
        (
            "theories/angles/test_angle_observables.py::test_quadrature_and_characters_agree_on_action_and_observables",
        ),
    ),
    Mutant(
        "Laplacian of functions of loops",
        "vector_fields/gauge_functions.py",
        "mixed = 2 * _monomial(w, z, (j, k), (1, 1)) * products[0][1]",
        "mixed = _monomial(w, z, (j, k), (1, 1)) * products[0][1]",
        "the divergence of fields of SU(N) has lost a factor 2",
        ("vector_fields/test_gauge_sun.py::test_the_field_obeys_every_law",),
    ),
    Mutant(
        "strips counted once",
        "vector_fields/gauge_strips.py",
        "change = change + (look.end + look.beginning) * self.seen.bend(each)",
        "change = change + look.end * self.seen.bend(each)",
        "the divergence of strips forgets the rung at their beginning",
        (
            "vector_fields/test_gauge_strips.py"
            "::test_strips_are_equivariant_and_have_the_divergence_of_small_moves",
        ),
    ),
    Mutant(
        "looks along ladders",
        "vector_fields/gauge_ladder_terms.py",
        "self.near += [look.value - ladders.ahead(look.value) for look in teeth]",
        "self.near += [look.value + ladders.ahead(look.value) for look in teeth]",
        "the divergence of ladders counts the rung ahead of a plaquette with the wrong sign",
        (
            "vector_fields/test_gauge_sun.py::test_large_ladders_are_equivariant_and_have_the_divergence_of_small_moves",
        ),
    ),
    Mutant(
        "staples of links against a loop",
        "theories/gauge/loops.py",
        "gradient[mu] = gradient[mu] + here if sign > 0 else gradient[mu] - here",
        "gradient[mu] = gradient[mu] + here",
        "half of the staples in the force have the wrong sign",
        ("theories/gauge/test_wilson.py::test_the_force_is_the_derivative_along_moves",),
    ),
    Mutant(
        "plaquettes once each",
        "theories/gauge/wilson.py",
        "planes = list(itertools.combinations(range(self.lattice.dim), 2))",
        "planes = list(itertools.permutations(range(self.lattice.dim), 2))",
        "every loop of the Wilson action is counted twice, once in each orientation",
        ("theories/gauge/test_wilson.py::test_the_number_of_plaquettes_counts_every_plane",),
    ),
    Mutant(
        "moves of links",
        "theories/gauge/links.py",
        "return lie.elements(lie.product(lie.exp(velocity.movedim(2, 0)), lie.planes(phi)))",
        "return lie.nearest(phi + lie.matrix(velocity.movedim(2, 0)).movedim((0, 1), (-2, -1)) @ phi)",
        "links are moved by a straight step and projected back, which no step back undoes",
        ("samplers/test_hmc_on_groups.py::test_trajectories_are_reversed_to_rounding[leapfrog-SU(3)]",),
    ),
    Mutant(
        "Haar measure of U(1)",
        "theories/gauge/u1.py",
        "return math.pi * torch.erf(noise / math.sqrt(2))",
        "return math.pi * torch.erf(noise)",
        "angles of the Haar measure are not uniform, but their density is still said to be one",
        ("theories/gauge/test_groups.py::test_random_elements_have_the_moments_of_the_haar_measure[U(1)]",),
    ),
    Mutant(
        "Haar measure of SU(2)",
        "theories/gauge/groups.py",
        "return self.elements((noise / noise.square().sum(-1, keepdim=True).sqrt()).movedim(-1, 0))",
        "noise = noise + 0.2 * torch.eye(4).to(noise)[0]\n        "
        "return self.elements((noise / noise.square().sum(-1, keepdim=True).sqrt()).movedim(-1, 0))",
        "links of the Haar measure of SU(2) are nearer to one than to minus one",
        ("theories/gauge/test_groups.py::test_random_elements_have_the_moments_of_the_haar_measure[SU(2)]",),
    ),
    Mutant(
        "brackets of charts",
        "ode/lie.py",
        "rate = velocity - nested / 2",
        "rate = velocity + nested / 2",
        "flows on groups are integrated in the chart of the opposite multiplication, at first order",
        ("ode/test_lie.py::test_halving_the_step_shows_the_order[SU(2)-rk4-4]",),
    ),
    Mutant(
        "frozen charges",
        "analysis/standard.py",
        "changing = float((series[1:] != series[:-1]).double().mean())",
        "changing = float((series[:, 1:] != series[:, :-1]).double().mean())",
        "chains that stay in different sectors seem to change their charge",
        ("theories/gauge/test_observables.py::test_a_frozen_charge_is_noted_on_every_result",),
    ),
    Mutant(
        "centre of mass of a trapped Gaussian",
        "theories/particles/prior.py",
        "(noise - centre) + centre / math.sqrt(self.beta)",
        "(noise - centre) + centre / self.beta",
        "the centre of mass is sampled with another variance than its log-density says",
        ("theories/particles/test_trapped_gaussian.py::test_prior_is_the_dense_normal_with_its_score",),
    ),
    Mutant(
        "gates of a particle field",
        "nn/particles.py",
        "return velocity, own + ((1 - hidden.square()) * along.sum(-1)).sum(-1)",
        "return velocity, own",
        "the divergence forgets that the gates of a particle depend on where it is",
        ("vector_fields/test_particle_field.py::test_field_obeys_every_law",),
    ),
    Mutant(
        "net momentum of a particle field",
        "vector_fields/particles.py",
        "return velocity - velocity.mean(1, keepdim=True), trace.sum(1)",
        "return velocity, trace.sum(1)",
        "the particles push their own centre of mass, and its variance is no longer exact",
        (
            "theories/particles/test_particle_flows.py::test_the_centre_of_mass_of_samples_is_that_of_the_prior",
        ),
    ),
    Mutant(
        "recursion of Hermite functions",
        "theories/fermions/orbitals.py",
        "math.sqrt(n / (n + 1)) if n",
        "math.sqrt(n / (n + 2)) if n",
        "the orbitals of a trap are no longer orthonormal",
        ("theories/fermions/test_slater.py::test_densities_are_normalised",),
    ),
    Mutant(
        "thinned proposals of orbitals",
        "theories/fermions/orbitals.py",
        "self.thinning[degree] * density",
        "density",
        "orbitals with a loose envelope are drawn too rarely",
        ("theories/fermions/test_slater.py::test_every_degree_is_proposed_equally_often",),
    ),
    Mutant(
        "exclusion among sampled fermions",
        "theories/fermions/slater.py",
        "share = left.square().sum(1) / phi.square().sum(1)",
        "share = torch.ones_like(phi[:, 0])",
        "fermions are placed as if they did not exclude each other",
        ("theories/fermions/test_slater.py::test_samples_have_the_density_of_their_determinant",),
    ),
    Mutant(
        "curvature of a determinant",
        "theories/fermions/slater.py",
        'hessian = -torch.einsum("zaik,zbki->ziakb", moved, moved)',
        'hessian = torch.einsum("zaik,zbki->ziakb", moved, moved)',
        "the Hessian of a Slater determinant has a wrong sign off the diagonal",
        ("theories/fermions/test_slater.py::test_derivatives_are_those_of_autograd",),
    ),
    Mutant(
        "kinetic energy of a state",
        "theories/fermions/electrons.py",
        "0.125 * score.square()",
        "0.25 * score.square()",
        "the local energy is that of q in place of its root",
        ("theories/fermions/test_slater.py::test_determinants_are_eigenstates_of_the_trap",),
    ),
    Mutant(
        "Hessian along a flow",
        "vector_fields/curvature.py",
        "return -turned - turned.mT - self.bending",
        "return -turned - turned.mT + self.bending",
        "local energies miss the curvature of the flow",
        ("flows/test_thermal.py::test_local_energies_are_those_of_finite_differences",),
    ),
    Mutant(
        "second derivatives of a backflow",
        "vector_fields/backflow.py",
        "bent = (self.apart.shape[-1] + 2)",
        "bent = (self.apart.shape[-1] + 1)",
        "the closed form of a backflow's curvature is another field's",
        ("vector_fields/test_backflow.py::test_curvature_in_closed_form_is_that_of_nested_autograd",),
    ),
    Mutant(
        "gradient at fixed positions",
        "flows/thermal.py",
        "trained = divergence + (velocity * score).sum((1, 2))",
        "trained = divergence",
        "the gradient of log q forgets that positions come from other origins",
        ("flows/test_thermal.py::test_gradients_of_log_densities_are_those_at_fixed_positions",),
    ),
    Mutant(
        "entropy in the free energy",
        "training/thermal.py",
        " + sample.log_probability.detach() / rho.beta",
        "",
        "the probabilities are trained on the energy alone",
        ("training/test_thermal.py::test_the_gradient_of_the_probabilities_is_that_of_the_free_energy",),
    ),
    Mutant(
        "signs of permutations",
        "oracles/fermions.py",
        "sign = (-1) ** (k + 1)",
        "sign = 1",
        "the recursion gives bosons",
        ("oracles/test_fermions.py::test_recursion_is_the_sum_over_determinants",),
    ),
    Mutant(
        "odd relative motion",
        "oracles/fermions.py",
        "range(1, 2 if dim == 1 else 10_000, 2)",
        "range(1, 2 if dim == 1 else 10_000)",
        "two fermions may have an even angular momentum",
        ("oracles/test_fermions.py::test_without_repulsion_two_fermions_are_ideal",),
    ),
    Mutant(
        "signs of a probe",
        "vector_fields/estimated.py",
        "field._probes = (2 * signs - 1).to(phi.dtype)",
        "field._probes = signs.to(phi.dtype)",
        "probes are not white, so the estimated divergence is biased",
        ("vector_fields/test_estimated.py::test_divergence_and_score_rate_of_a_field_are_unbiased",),
    ),
    Mutant(
        "complement of the range",
        "nn/traces.py",
        "outside = outside - Q @ (Q.mT @ outside)",
        "outside = outside - Q @ (Q.mT @ outside) / 2",
        "part of the trace on the range of Q is counted twice",
        ("nn/test_traces.py::test_estimates_are_unbiased_and_a_bias_is_seen",),
    ),
    Mutant(
        "refusal of estimates",
        "vector_fields/base.py",
        "if not self.trace_is_exact:",
        "if not self.trace_is_exact and torch.is_grad_enabled():",
        "an estimated log q passes for an exact one where results are drawn",
        ("vector_fields/test_estimated.py::test_results_refuse_an_estimate_and_take_the_dense_trace",),
    ),
    Mutant(
        "covariance of keys and values",
        "vector_fields/attention.py",
        "(slope.query * (mean_product - mean_key * mean_value))",
        "(slope.query * mean_product)",
        "the divergence takes attention's normalisation for a constant",
        (
            "vector_fields/test_attention.py::test_a_wrong_divergence_is_seen",
            "vector_fields/test_attention.py::test_every_law_holds",
        ),
    ),
    Mutant(
        "direction of a stencil",
        "nn/kernels/stencil.py",
        "around = _Gather.apply(rows, self._behind, self._ahead)",
        "around = _Gather.apply(rows, self._ahead, self._behind)",
        "kernels act reflected where more channels go out than come in",
        ("nn/kernels/test_stencil.py::test_a_stencil_convolves_as_it_is_written",),
    ),
    Mutant(
        "intervals of far sites",
        "nn/traces.py",
        "n = max(1, side // (far + 1))",
        "n = max(1, side // max(1, far))",
        "sites of one product reach each other, so that the exact trace is not",
        ("nn/test_traces.py::test_sets_of_sites_are_far_apart_and_few",),
    ),
    Mutant(
        "reach of a deep network",
        "vector_fields/deep_steerable.py",
        "convolutions = [self.lift, *self.layers, self.descend]",
        "convolutions = [self.lift, *self.layers]",
        "the last layer couples sites that are said to be far apart",
        (
            "vector_fields/test_deep_steerable.py::test_the_exact_trace_takes_as_many_products_as_the_layers_reach",
        ),
    ),
    Mutant(
        "what a site hears in a Jacobian",
        "nn/attention.py",
        "w = here.value[:, head].mT[:, :, None, None, :] - heard[:, head].mT[:, :, :, None, None]",
        "w = here.value[:, head].mT[:, :, None, None, :] + 0 * heard[:, head].mT[:, :, :, None, None]",
        "the Jacobian of attention takes its normalisation for a constant",
        ("vector_fields/test_attention.py::test_jacobians_of_layers_make_the_trace_that_products_make",),
    ),
    Mutant(
        "frequency without a graph",
        "vector_fields/shallow.py",
        "return velocity, self._divergence(slopes * omega, kernel)",
        "return velocity, self._divergence(slopes, kernel)",
        "the divergence of sampling forgets that the kernels were divided by omega",
        ("vector_fields/test_laws.py::test_values_do_not_depend_on_whether_a_graph_is_kept",),
    ),
    Mutant(
        "step of equal steps",
        "ode/equal_steps.py",
        "k4 = rates(end, y",
        "k4 = rates(t, y",
        "the last stage of rk4 is at the end of the step",
        ("ode/test_integrate.py::test_equal_steps_are_those_of_torchdiffeq",),
    ),
    Mutant(
        "kernel inner product of two convolutions",
        "vector_fields/two_convolutions.py",
        "kernels.outer.flatten(1) @ kernels.inner.flatten(1).mT",
        "kernels.inner.flatten(1) @ kernels.outer.flatten(1).mT",
        "the divergence pairs the channels of a Jacobian the wrong way round",
        ("vector_fields/test_o3.py", "vector_fields/test_steerable.py"),
    ),
    Mutant(
        "linear kernel of a potential",
        "vector_fields/potential.py",
        "linear / 2 + now.drift",
        "linear + now.drift",
        "the potential is not the one whose gradient is the velocity",
        ("vector_fields/test_potential.py::test_the_velocity_is_the_gradient_of_the_potential",),
    ),
    Mutant(
        "overlap of different channels",
        "nn/pointwise/ridges.py",
        "((self.direction @ overlap) * self.direction)",
        "(self.direction.square() * overlap.diagonal())",
        "the Laplacian of a potential is the trace of its Hessian along all pairs of kernels",
        ("vector_fields/test_potential.py::test_every_law_holds",),
    ),
    Mutant(
        "orbit of a steerable kernel",
        "nn/irreps/escnn_kernels.py",
        "average = (kernels.flatten(1)[:, position] * sign).mean(1)",
        "average = kernels.flatten(1)[:, position].mean(1)",
        "kernels are averaged as if their channels were scalars",
        ("vector_fields/test_steerable.py",),
    ),
    Mutant(
        "image of half the side",
        "nn/irreps/e3nn_kernels.py",
        "flips = itertools.product((False, True), repeat=lattice.dim)",
        "flips = itertools.product((False,), repeat=lattice.dim)",
        "an odd harmonic does not vanish at the offset L/2 = -L/2",
        ("vector_fields/test_o3.py",),
    ),
    # --- conventions, weights and files of others -------------------------------------------------
    Mutant(
        "Jacobian of another convention",
        "theories/scalar/phi4.py",
        "Convention(action, scale, action.lattice.volume * math.log(scale)",
        "Convention(action, scale, -action.lattice.volume * math.log(scale)",
        "log Z_there = log Z_here + V log(field_scale)",
        ("theories/scalar/test_phi4_conventions.py::test_the_constant_is_that_of_log_z",),
    ),
    Mutant(
        "linear feature of jaxlft",
        "interop/jaxlft.py",
        "features.roll(1, 1) / features.shape[1]",
        "features / features.shape[1]",
        "the last feature of arXiv:2207.00283 is phi itself",
        ("interop/test_jaxlft.py::test_it_is_the_flow_of_the_original",),
    ),
    Mutant(
        "frequency of a factorised field",
        "vector_fields/factorised.py",
        "return KernelValues(operand, mixing @ bonds.at_origin), drift",
        "return KernelValues(operand, self.feature_mixing.mT @ bonds.at_origin), drift",
        "the slope of sin(omega phi) is omega cos(omega phi)",
        ("vector_fields/test_laws.py::test_values_do_not_depend_on_whether_a_graph_is_kept",),
    ),
    Mutant(
        "classical Runge-Kutta",
        "ode/tableaus.py",
        'rows=("1/2", "0 1/2", "0 0 1")',
        'rows=("1/2", "1/2 0", "0 0 1")',
        "the third stage starts from the second",
        ("interop/test_jaxlft.py::test_it_is_the_flow_of_the_original",),
    ),
    Mutant(
        "log Z shift backwards",
        "flows/certificate.py",
        "log_z_shift=0.0 if empty else float(finer.logsumexp(0) - current.logsumexp(0)),",
        "log_z_shift=0.0 if empty else float(current.logsumexp(0) - finer.logsumexp(0)),",
        "a certificate says finer minus current",
        ("interop/test_samples.py::test_parts_of_an_ensemble_are_joined_in_order",),
    ),
    # --- lattice ----------------------------------------------------------------------------------
    Mutant(
        "momenta of the continuum",
        "theories/base/lattice.py",
        "(4 * torch.sin(momentum / 2) ** 2)",
        "(momentum**2)",
        "-Laplacian = sum 4 sin^2(p / 2)",
        ("theories/base/test_lattice.py",),
    ),
    Mutant(
        "last momentum counted twice",
        "theories/base/lattice.py",
        "count[..., last // 2] = 1.0",
        "count[..., last // 2] = 2.0",
        "on even sides the last mode is its own conjugate",
        ("theories/base/test_lattice.py",),
    ),
    # --- symmetry ---------------------------------------------------------------------------------
    Mutant(
        "orbit off by one",
        "theories/base/symmetry.py",
        "torch.arange(-((n - 1) // 2), n // 2 + 1) % side",
        "torch.arange(-((n - 1) // 2), n // 2) % side",
        "kernels lose their last offset",
        SYMMETRY,
    ),
    Mutant(
        "even kernel not closed",
        "theories/base/symmetry.py",
        "inside = torch.stack([element(inside) for element in self.point_elements]).any(0)",
        "inside = inside.clone()",
        "an even kernel smaller than the lattice breaks D4",
        SYMMETRY,
    ),
    Mutant(
        "flip without roll",
        "theories/base/point_groups.py",
        "phi.flip(flipped).roll([1] * len(flipped), flipped)",
        "phi.flip(flipped)",
        "reflections do not fix site 0",
        SYMMETRY,
    ),
    Mutant(
        "momenta not tied to -k",
        "theories/base/symmetry.py",
        "tied = torch.minimum(orbits, self._inversion(orbits))",
        "tied = orbits",
        "a real field has k and -k in one orbit",
        SYMMETRY,
    ),
    Mutant(
        "product in the other order",
        "theories/base/point_groups.py",
        "tuple(other.permutation[axis] for axis in self.permutation)",
        "tuple(self.permutation[axis] for axis in other.permutation)",
        "g @ h applies h first",
        SYMMETRY,
    ),
    # --- vector field -----------------------------------------------------------------------------
    Mutant(
        "divergence sign",
        "vector_fields/shallow.py",
        "return slopes @ kernel.at_origin[1:] + self.lattice.volume * kernel.at_origin[0]",
        "return -(slopes @ kernel.at_origin[1:] + self.lattice.volume * kernel.at_origin[0])",
        "d log q / dt = - div v",
        ("vector_fields/test_laws.py::test_divergence_is_the_dense_trace",),
    ),
    Mutant(
        "divergence without linear kernel",
        "vector_fields/shallow.py",
        " + self.lattice.volume * kernel.at_origin[0]",
        "",
        "div v contains V K_0(0)",
        ("vector_fields/test_laws.py::test_divergence_is_the_dense_trace",),
    ),
    Mutant(
        "even features under Z2",
        "vector_fields/orbit_conv.py",
        "odd=group.z2)",
        "odd=False)",
        "v(-phi) = -v(phi)",
        ("vector_fields/test_laws.py::test_velocity_is_equivariant_and_divergence_invariant",),
    ),
    Mutant(
        "kernel not tied",
        "nn/kernels/orbits.py",
        "index = group.lattice.half(orbits.index).contiguous()",
        "index = group.lattice.half(orbits.index.flatten().roll(1).reshape(orbits.index.shape)).contiguous()",
        "kernels are constant on orbits",
        ("vector_fields/test_laws.py::test_velocity_is_equivariant_and_divergence_invariant",),
    ),
    Mutant(
        "kernel's value at the wrong site",
        "nn/kernels/orbits.py",
        "at_origin = on_orbits[:, 0]",
        "at_origin = on_orbits[:, -1]",
        "the divergence needs K(0)",
        ("vector_fields/test_laws.py::test_divergence_is_the_dense_trace",),
    ),
    Mutant(
        "neighbours ahead instead of behind",
        "nn/kernels/convolution.py",
        "self._window(wrapped[:, orbit], [-x for x in offset])",
        "self._window(wrapped[:, orbit], offset)",
        "(K * h)(x) = sum_o K(o) h(x - o)",
        ("nn/kernels/test_convolution.py::test_all_convolutions_agree",),
    ),
    Mutant(
        "path rates without grad div",
        "vector_fields/shallow.py",
        "            rate += self.features.weighted_second(features.value, kernel.at_origin[1:])\n",
        "",
        "d score/dt = -(dv/dphi)^T score - grad div",
        ("vector_fields/test_laws.py::test_path_rates_agree_with_automatic_differentiation",),
    ),
    Mutant(
        "score rate sign",
        "vector_fields/shallow.py",
        "return PathRates(velocity, divergence, -rate)",
        "return PathRates(velocity, divergence, rate)",
        "d score/dt = -(dv/dphi)^T score - grad div",
        ("vector_fields/test_laws.py::test_path_rates_agree_with_automatic_differentiation",),
    ),
    Mutant(
        "conj dropped in transpose",
        "nn/kernels/convolution.py",
        "encoded.transpose(0, 1) * operand.conj().unsqueeze(1)",
        "encoded.transpose(0, 1) * operand.unsqueeze(1)",
        "K^T(x) = K(-x) without inversion symmetry",
        ("nn/kernels/test_convolution.py::test_all_convolutions_agree",),
    ),
    Mutant(
        "dense kernel not transposed",
        "nn/kernels/convolution.py",
        "encoded[:, 0] @ operand.flatten(0, 1).mT",
        "encoded[:, 0] @ operand.mT.flatten(0, 1).mT",
        "K^T(x) = K(-x) without inversion symmetry",
        ("nn/kernels/test_convolution.py::test_all_convolutions_agree",),
    ),
    Mutant(
        "Laplacian left out of the rate of a score",
        "nn/kernels/ridge_convolution.py",
        "convolution.encode(score.unsqueeze(1)), score.new_ones(len(score))",
        "convolution.encode(score.unsqueeze(1)), score.new_zeros(len(score))",
        "d score/dt = -(dv/dphi)^T score - grad div",
        ("nn/kernels/test_ridge_convolution.py::test_the_rate_of_a_score_is_a_gradient",),
    ),
    Mutant(
        "gradient of kernels without their first use",
        "nn/kernels/ridge_convolution.py",
        "convolution.overlap(sent, at, kernels) + convolution.overlap(of_u, encoded, kernels)",
        "convolution.overlap(sent, at, kernels)",
        "the kernels make the channels and send the slopes back",
        ("nn/kernels/test_ridge_convolution.py::test_values_and_gradients_are_those_of_the_formula",),
    ),
    Mutant(
        "freed memory goes back to the system",
        "__init__.py",
        "\n_keep_freed_memory()\n",
        "\n",
        "samplers without a flow do not fault their temporaries in again",
        ("runtime/test_memory.py::test_every_part_of_the_package_teaches_it",),
    ),
    Mutant(
        "momenta counted once in backward",
        "nn/kernels/convolution.py",
        "lattice.half_multiplicity() / lattice.volume",
        "torch.ones_like(lattice.half_multiplicity()) / lattice.volume",
        "half the momenta of a real FFT stand for two",
        ("vector_fields/test_laws.py::test_gradients_agree_with_finite_differences",),
    ),
    Mutant(
        "frequency gradient",
        "nn/kernels/feature_convolution.py",
        "of_frequencies = (along_phi - along_value) / frequencies",
        "of_frequencies = along_phi / frequencies",
        "dh/domega = (phi h' - h) / omega",
        ("vector_fields/test_laws.py::test_gradients_agree_with_finite_differences",),
    ),
    # --- natural gradient -------------------------------------------------------------------------
    Mutant(
        "tangents of the wrong sign",
        "flows/tangents.py",
        "of_field -= weight * field.parameter_rates",
        "of_field += weight * field.parameter_rates",
        "d/dt (d log q / d theta) = -div(dv/dtheta) - dv/dtheta . score",
        ("training/test_natural_gradient.py::test_tangents_are_the_gradients_of_log_prob",),
    ),
    Mutant(
        "momenta counted once in the tangents",
        "nn/kernels/orbits.py",
        "measure = (lattice.half_multiplicity() / lattice.volume).to(score)",
        "measure = (lattice.half_multiplicity() * 0 + 1 / lattice.volume).to(score)",
        "half the momenta of a real FFT stand for two",
        ("training/test_natural_gradient.py::test_parameter_rates_of_spanning_kernels_count_each_momentum",),
    ),
    Mutant(
        "spectrum's normalisation lost in the tangents",
        "theories/scalar/priors.py",
        "(-2 * self.log_sigma).exp() - self.space.values_per_site * self._multiplicity",
        "(-2 * self.log_sigma).exp()",
        "d(-log sigma) / d log sigma",
        (
            "training/test_natural_gradient.py::test_the_parameter_score_of_a_prior_agrees_with_automatic_differentiation",
        ),
    ),
    Mutant(
        "steps never cut",
        "training/natural_gradient.py",
        "return min(1.0, length) * direction / scale",
        "return direction / scale",
        "a step stays within the radius",
        ("training/test_natural_gradient.py::test_a_long_step_is_cut_to_the_radius_and_raises_the_damping",),
    ),
    # --- prior ------------------------------------------------------------------------------------
    Mutant(
        "momenta counted once in prior",
        "theories/scalar/priors.py",
        "self.space.values_per_site * (self._multiplicity * self.log_sigma).sum()",
        "self.space.values_per_site * self.log_sigma[self._orbit].sum()",
        "each momentum orbit counts with its multiplicity",
        PRIORS,
    ),
    Mutant(
        "prior without log 2 pi",
        "theories/scalar/priors.py",
        " - 0.5 * self.space.size * LOG_2PI",
        "",
        "log q is absolute",
        PRIORS,
    ),
    Mutant(
        "prior score sign",
        "theories/scalar/priors.py",
        "return -z\n",
        "return z\n",
        "score = grad log q",
        PRIORS,
    ),
    Mutant(
        "prior's factor 2",
        "theories/scalar/priors.py",
        "return -0.5 * (2 * (self.lattice.squared_momenta()",
        "return -0.5 * (1 * (self.lattice.squared_momenta()",
        "sigma_k^2 = 1 / (2 (k^2 + m2)), no 1/2 in S",
        PRIORS,
    ),
    # --- another lattice --------------------------------------------------------------------------
    Mutant(
        "last offset counted twice",
        "theories/base/resizing.py",
        "share[old // 2] = 0.5",
        "share[old // 2] = 1.0",
        "L/2 and -L/2 share one value of an even side",
        (
            "vector_fields/test_resized_fields.py::test_velocity_of_a_field_that_fits_both_lattices_is_the_same",
        ),
    ),
    Mutant(
        "last offset not split",
        "theories/base/resizing.py",
        "carried.select(axis, -(old // 2) % new)",
        "carried.select(axis, (old // 2) % new)",
        "L/2 of an even side stands for -L/2 too",
        ("theories/base/test_resizing.py::test_changing_the_lattice_commutes_with_reflections",),
    ),
    Mutant(
        "offsets without sign",
        "theories/base/resizing.py",
        "return torch.where(index <= side // 2, index, index - side)",
        "return index",
        "the left neighbour stays the left neighbour",
        ("vector_fields/test_resized_fields.py::test_a_localised_field_moves_the_same_on_a_larger_lattice",),
    ),
    Mutant(
        "spectrum by index",
        "theories/base/resizing.py",
        "below = scaled // new",
        "below = torch.arange(new, device=values.device) % old",
        "spectra are functions of k / L",
        (
            "theories/scalar/test_resized_priors.py::test_spectra_agree_at_every_momentum_that_both_lattices_have",
        ),
    ),
    Mutant(
        "spectrum in steps",
        "theories/base/resizing.py",
        "values = lower + weight * (upper - lower)",
        "values = lower",
        "between two momenta a spectrum is interpolated",
        ("theories/base/test_resizing.py::test_offsets_and_momenta_are_those_of_plain_loops",),
    ),
    Mutant(
        "free spectrum interpolated",
        "theories/scalar/priors.py",
        """momenta_on(own - self._free_log_sigma(), self.lattice, prior.lattice)
        log_sigma = spatial_part(prior.group).momentum_orbits().mean(ratio + prior._free_log_sigma())""",
        """momenta_on(own, self.lattice, prior.lattice)
        log_sigma = spatial_part(prior.group).momentum_orbits().mean(ratio)""",
        "a free field is one on every lattice",
        (
            "theories/scalar/test_resized_priors.py::"
            "test_a_free_field_that_has_learned_nothing_is_the_free_field_of_its_new_lattice",
        ),
    ),
    # --- action -----------------------------------------------------------------------------------
    Mutant(
        "force 2 lam",
        "theories/scalar/phi4.py",
        "4 * self.lam * square",
        "2 * self.lam * square",
        "dS/dphi contains 4 lam phi^3",
        ACTIONS,
    ),
    Mutant(
        "force misses a neighbour",
        "theories/scalar/phi4.py",
        """self.space.check(phi)
        neighbours = sum(phi.roll(1, mu) + phi.roll(-1, mu) for mu""",
        """self.space.check(phi)
        neighbours = sum(phi.roll(1, mu) for mu""",
        "dS/dphi has both neighbours",
        ACTIONS,
    ),
    Mutant(
        "kinetic term halved",
        "theories/scalar/phi4.py",
        "return (kinetic + potential).sum",
        "return (0.5 * kinetic + potential).sum",
        "S has no factor 1/2",
        ACTIONS,
    ),
    Mutant(
        "Jacobian of a rescaling per site",
        "theories/scalar/phi4.py",
        "Convention(action, scale, action.lattice.volume * math.log(scale)",
        "Convention(action, scale, math.log(scale)",
        "a rescaling adds V log scale to log Z",
        ("theories/scalar/test_phi4_conventions.py::test_conventions_shift_log_z_as_they_say",),
    ),
    Mutant(
        "susceptibility without volume",
        "theories/scalar/observables.py",
        "return math.prod(phi.shape[1:]) * magnetisation(phi).square()",
        "return magnetisation(phi).square()",
        "chi = V <M^2>",
        OBSERVABLES,
    ),
    Mutant(
        "shape of S unchecked",
        "theories/base/action_values.py",
        "if tuple(value.shape) != (len(phi),):",
        "if len(value.shape) > 9:",
        "S is one number for each configuration",
        ("theories/base/test_action_values.py",),
    ),
    Mutant(
        "S of -inf accepted",
        "theories/base/action_values.py",
        '("-inf", value == -math.inf, "Is S bounded below?"),',
        "",
        "S = -inf is an infinite density",
        ("theories/base/test_action_values.py",),
    ),
    Mutant(
        "overflow of S refused",
        "theories/base/action_values.py",
        "value.isnan() & is_moderate",
        "value.isnan()",
        "a diverged trajectory is rejected and does not end the chains",
        ("theories/base/test_action_values.py",),
    ),
    Mutant(
        "S of a batch not compared with S alone",
        "theories/base/action_values.py",
        "differ = [n for n in range(len(alone)) if not _agree(alone[n], together[n], phi)]",
        "differ = [n for n in range(0) if not _agree(alone[n], together[n], phi)]",
        "S of a configuration is the same in every batch and every call",
        ("theories/base/test_action_values.py::test_no_use_accepts_an_action_that_couples_the_batch",),
    ),
    Mutant(
        "flat directions by one plane wave only",
        "testing/large_fields.py",
        "return torch.cat([noise, single, real, torch.stack(planes), torch.ones_like(noise[:1])])",
        "return torch.cat([noise, single, torch.ones_like(noise[:1])])",
        "exp(-S) has an integral along every plane wave",
        ("testing/test_check_action.py",),
    ),
    Mutant(
        "rise of S without the distance",
        "testing/large_fields.py",
        "rise = (final - second) / (distance[last] - distance[1]).clamp(min=1e-300)",
        "rise = final - second",
        "S rises faster than the logarithm of the field",
        ("testing/test_check_action.py::test_the_lack_of_rise_is_the_one_of_the_power_of_the_density",),
    ),
    Mutant(
        "gradient norm after clipping",
        "training/run.py",
        "self._record(value, objective, norm, rate)",
        "self._record(value, objective, norm.clamp(max=self.options.clip_norm), rate)",
        "the history holds the norm before clipping",
        ("training/test_history.py",),
    ),
    Mutant(
        "kinetic energy halved",
        "flows/path.py",
        "return velocity.square().sum(tuple(range(1, velocity.dim())))",
        "return 0.5 * velocity.square().sum(tuple(range(1, velocity.dim())))",
        "the kinetic energy is the integral of sum_x v^2",
        ("flows/test_linear_flow.py", "training/test_history.py"),
    ),
    Mutant(
        "round trip of the average site",
        "flows/certificate.py",
        "round_trip_error=_largest(round_trip),",
        "round_trip_error=float(round_trip.abs().mean()),",
        "the largest error of the round trip over samples and sites",
        ("flows/test_linear_flow.py",),
    ),
    Mutant(
        "asymmetry in units of the value",
        "theories/base/action.py",
        "(self(element(phi)) - value).abs().max() / spread)",
        "(self(element(phi)) - value).abs().max() / value.abs().max())",
        "the change of S under a symmetry in units of its standard deviation",
        ("testing/test_sizes.py::test_the_asymmetry_of_an_action_is_its_change_in_units_of_its_spread",),
    ),
    Mutant(
        "violation of a divergence per site",
        "testing/laws_of_fields.py",
        "scale = trace.abs().sum(1).max()",
        "scale = phi[0].numel() * trace.abs().sum(1).max()",
        "a wrong divergence is measured relative to the trace",
        ("testing/test_sizes.py::test_the_error_of_a_divergence_is_relative_to_the_trace",),
    ),
    Mutant(
        "invariance of log q by the first sample",
        "testing/laws_of_flows.py",
        "(log_q[1:] - log_q[0]).abs().amax(1)",
        "(log_q[1:] - log_q[0]).abs()[:, 0]",
        "the largest change of log q under a symmetry",
        ("testing/test_sizes.py::test_the_error_of_invariance_is_the_change_of_log_q",),
    ),
    Mutant(
        "extended actions start in weak noise",
        "flows/phase_space.py",
        "phi = self.action.initial(n, generator, device=device, dtype=dtype)",
        "phi = super().initial(n, generator, device=device, dtype=dtype)[:, 0]",
        "chains of field and momentum start where those of the action do",
        ("flows/test_phase_space.py",),
    ),
    Mutant(
        "derivative in an external field",
        "theories/scalar/external_field.py",
        "sums = -phi.sum(self.lattice.axes)",
        "sums = phi.sum(self.lattice.axes)",
        "dS_h/dh = -sum_x phi",
        ("theories/scalar/test_external_field.py",),
    ),
    Mutant(
        "particles start on top of each other",
        "theories/particles/space.py",
        "return places[order] + super()",
        "return 0.0 * places[order] + super()",
        "charges have a finite energy where chains start",
        ("theories/base/test_starts.py",),
    ),
    Mutant(
        "step of a check halved in the formula",
        "testing/laws_of_actions.py",
        "return (8 * near - far) / (12 * step)",
        "return (8 * near - far) / (6 * step)",
        "a difference of fourth order is (8 near - far) / 12 h",
        ("testing/test_check_action.py",),
    ),
    # --- flow -------------------------------------------------------------------------------------
    Mutant(
        "log_det sign in log_prob",
        "flows/base.py",
        "return self.prior.log_prob(z) + log_det",
        "return self.prior.log_prob(z) - log_det",
        "log q(phi) = log prior(z) + log |det dz/dphi|",
        ("flows/test_cnf.py::test_log_prob_is_prior_minus_the_dense_log_determinant",),
    ),
    Mutant(
        "lost Jacobian in sampling",
        "flows/base.py",
        "return self.space.nearest(phi), self.prior.log_prob(z) - log_det",
        "return self.space.nearest(phi), self.prior.log_prob(z)",
        "log q(phi) = log prior(z) - log |det dphi/dz|",
        ("flows/test_cnf.py::test_sampled_log_prob_is_log_prob_of_the_sample",),
    ),
    Mutant(
        "log_det sign in path sample",
        "flows/path.py",
        "PathSample(phi, log_q - log_det.detach()",
        "PathSample(phi, log_q + log_det.detach()",
        "a path sample knows its log q",
        ("flows/test_cnf.py::test_path_samples_are_the_flow_s_samples",),
    ),
    Mutant(
        "certificate against itself",
        "flows/cnf.py",
        "solver or self.solver.refined()",
        "solver or self.solver",
        "a certificate compares with a finer solve",
        ("flows/test_cnf.py::test_certificate_shrinks_with_a_finer_solver_and_fires_for_a_coarse_one",),
    ),
    Mutant(
        "certificate sees one sign only",
        "flows/certificate.py",
        "return float(change.abs().max())",
        "return float(change.max())",
        "the largest error of a log weight has no sign",
        (
            "flows/test_cnf.py::test_certificate_predicts_the_true_error_of_the_log_weights",
            "flows/test_cnf.py::test_certificate_without_action_sees_the_error_of_the_sampled_log_prob",
            "flows/test_cnf.py::test_certificate_shrinks_with_a_finer_solver_and_fires_for_a_coarse_one",
        ),
    ),
    Mutant(
        "systematic without its factor",
        "flows/certificate.py",
        "2**order / (2**order - 1)",
        "1.0",
        "a change under twice the steps is not the whole error",
        (
            "flows/test_certificate.py::test_the_solver_error_is_the_distance_from_an_exact_solve_of_the_same_"
            "samples",
        ),
    ),
    Mutant(
        "unconverged solve with a small error",
        "flows/certificate.py",
        "if not self.converged:",
        "if False:",
        "an unconverged solve bounds no result",
        ("flows/test_certificate.py::test_a_solve_that_has_not_converged_bounds_no_result_and_says_so",),
    ),
    Mutant(
        "solver error not passed on",
        "samplers/samples.py",
        "systematic=certificate.error_of(functional)",
        "systematic=0.0",
        "every estimate carries its solver error",
        CERTIFICATES,
    ),
    Mutant(
        "solver tuned against itself",
        "flows/tuning.py",
        "by(solver)._log_weight(z, reference, action)",
        "by(solver)._log_weight(z, in_double(by(solver)), action)",
        "a solver is judged by a finer one",
        TUNING,
    ),
    Mutant(
        "stage at the wrong time",
        "ode/equal_steps.py",
        "rates(t + node * h, y",
        "rates(t, y",
        "rk5 is of fifth order for v(phi, t)",
        RK5,
    ),
    Mutant(
        "coupling forgets its stretch",
        "nn/couplings/phase_space.py",
        " + self.log_stretch.total()",
        "",
        "log det = sum s + sum_k log C_k",
        ("flows/test_extended.py::test_log_det_is_that_of_the_dense_jacobian",),
    ),
    Mutant(
        "one coupling overwrites another",
        "flows/conditional.py",
        "copied = copy.copy(part)",
        "copied = part",
        "a flow at one coupling leaves the template, and flows at other couplings, as they are",
        (
            "flows/test_conditional.py::test_flows_at_several_couplings_do_not_disturb_each_other",
            "flows/test_conditional.py::test_a_flow_at_one_coupling_leaves_the_template_as_it_was",
        ),
    ),
    Mutant(
        "layers inverted in order",
        "flows/extended.py",
        "for layer in reversed(self.layers):",
        "for layer in self.layers:",
        "the inverse undoes the last step first",
        ("flows/test_extended.py::test_the_inverse_is_exact_to_rounding",),
    ),
    Mutant(
        "inverse shear",
        "nn/couplings/phase_space.py",
        "return moved - self.gradient(driver)",
        "return moved + self.gradient(driver)",
        "the inverse of a shear takes back its kick",
        ("flows/test_extended.py::test_the_inverse_is_exact_to_rounding",),
    ),
    Mutant(
        "momentum energy without its half",
        "flows/phase_space.py",
        "self.action(phi) + 0.5 * momentum.square()",
        "self.action(phi) + momentum.square()",
        "H = S + p^2 / 2",
        ("flows/test_phase_space.py::test_the_extended_action_and_its_gradient",),
    ),
    Mutant(
        "adjoint forgets the weights",
        "ode/integrate.py",
        "adjoint_params=tuple(p for p in parameters if p.requires_grad)",
        "adjoint_params=tuple(p for p in parameters if p.requires_grad)[:1]",
        "adjoint = backpropagation for every parameter",
        ("flows/test_cnf.py::test_gradient_reaches_every_parameter",),
    ),
    Mutant(
        "adjoint with the wrong sign",
        "ode/adjoint.py",
        "rate, (leaf, *parameters), -slope,",
        "rate, (leaf, *parameters), slope,",
        "da/dt = -(d rates / dy)^T a",
        ("ode/test_adjoint.py",),
    ),
    # --- training ---------------------------------------------------------------------------------
    Mutant(
        "path gradient without score",
        "training/objectives/reverse.py",
        "force = path.score + action.grad(phi)",
        "force = action.grad(phi)",
        "the gradient of the KL needs grad log q",
        (
            "training/test_trainer.py::test_training_finds_the_spectrum_of_a_free_field",
            "training/test_trainer.py::test_training_lowers_the_loss_and_raises_the_ess",
        ),
    ),
    Mutant(
        "inverse path without score",
        "training/objectives/reverse.py",
        "force = score + action.grad(phi.detach())",
        "force = action.grad(phi.detach())",
        "the gradient of the KL needs grad log q",
        ("flows/test_extended.py::test_the_path_gradient_is_the_gradient_of_the_reverse_kl",),
    ),
    Mutant(
        "kinetic penalty sign",
        "training/objectives/reverse.py",
        "surrogate + self.kinetic_penalty * path",
        "surrogate - self.kinetic_penalty * path",
        "the penalty slows trajectories",
        ("training/objectives/test_reverse.py::test_kinetic_penalty_slows_the_trajectories",),
    ),
    Mutant(
        "rung from nothing",
        "training/ladder.py",
        "flow = flow.resized(action.lattice)",
        "flow = EquivariantCNF(action.lattice)",
        "each rung starts from what the one before has learned",
        ("training/test_ladder.py::test_a_ladder_is_fit_and_resized_in_turn",),
    ),
    Mutant(
        "rungs share a checkpoint",
        "training/ladder.py",
        'f"{path.stem}-{s}{n}{path.suffix}"',
        'f"{path.stem}{path.suffix}"',
        "each rung has a checkpoint of its own",
        ("training/test_ladder.py::test_each_rung_writes_a_checkpoint_of_its_shape",),
    ),
    Mutant(
        "optimiser starts anew",
        "training/run.py",
        'self.optimiser.load_state_dict(with_all_options(state["optimiser"], self.optimiser))',
        "pass",
        "a resumed run is the uninterrupted one",
        (
            "training/test_checkpoints.py::test_any_optimiser_goes_on_from_its_checkpoint_as_if_nothing_had_happened",
        ),
    ),
    Mutant(
        "a constant error of the solver counts",
        "training/objectives/adaptive.py",
        "error = float((finer - now).std())",
        "error = float((finer - now).abs().max())",
        "a constant shift of log weights cancels and needs no finer solver",
        (
            "training/objectives/test_adaptive.py::test_the_error_is_the_scatter_of_log_weights_in_twice_the_steps",
        ),
    ),
    Mutant(
        "set back with a spoiled memory",
        "training/refuge.py",
        'self.optimiser.load_state_dict(copy.deepcopy(self.trusted["optimiser"]))',
        "pass",
        "the moments of a run that ran away are set back too",
        (
            "training/objectives/test_adaptive.py::test_what_is_set_back_are_the_weights_and_the_memory_of_the_optimiser",
        ),
    ),
    Mutant(
        "solver steps forgotten",
        "training/run.py",
        'self.adaptation.restore(adapted["objective"])',
        "pass",
        "a resumed run is the uninterrupted one",
        (
            "training/objectives/test_adaptive.py::test_a_run_that_was_set_back_goes_on_as_if_it_had_not_been_interrupted",
        ),
    ),
    Mutant(
        "old runs by the new recipe",
        "training/recipe.py",
        'if saved is not None and "version" not in saved:',
        'if saved is not None and "settings" not in saved:',
        "a run that version 0.1 began goes on as it was",
        ("training/test_recipe.py::test_a_checkpoint_says_which_recipe_it_follows",),
    ),
    # --- samplers ---------------------------------------------------------------------------------
    Mutant(
        "HMC forgets kinetic energy",
        "samplers/hmc.py",
        "change = self.energy(proposal, final) - self.energy(phi, momentum)",
        "change = self.action(proposal) - self.action(phi)",
        "acceptance is by the change of H",
        ("samplers/test_hmc.py::test_one_site_phi4_has_the_moments_of_quadrature",),
    ),
    Mutant(
        "HMC accepts everything",
        "samplers/acceptance.py",
        "moved = uniform < probability",
        "moved = uniform < 2.0",
        "HMC is exact at any step size",
        ("samplers/test_hmc.py::test_one_site_phi4_has_the_moments_of_quadrature",),
    ),
    Mutant(
        "HMC last half step",
        "samplers/integrators.py",
        "return [first, *([*kicks, last + first] * (n_steps - 1)), *kicks, last]",
        "return [first, *([*kicks, last + first] * (n_steps - 1)), *kicks, last + first]",
        "leapfrog is reversible, error O(step^2)",
        ("samplers/test_hmc.py::test_leapfrog_is_reversible",),
    ),
    Mutant(
        "HMC fixed length",
        "samplers/hmc.py",
        "stretch = 0.5 + float(",
        "stretch = 1.0 + 0.0 * float(",
        "no mode's period traps a trajectory",
        ("samplers/test_hmc.py::test_trajectories_of_a_mode_s_half_period_do_not_trap_it",),
    ),
    Mutant(
        "kicks of Omelyan's integrator",
        "samplers/integrators.py",
        "(_LAMBDA, 1 - 2 * _LAMBDA, _LAMBDA)",
        "(2 * _LAMBDA, 1 - 2 * _LAMBDA, 0.0)",
        "the splitting reads the same backwards",
        ("samplers/test_integrators.py::test_omelyan_is_reversible",),
    ),
    Mutant(
        "latent target without Jacobian",
        "samplers/latent.py",
        "log_q = self.flow.prior.log_prob(z).double() - log_det.double()",
        "log_q = self.flow.prior.log_prob(z).double()",
        "noise has the density exp(-S(f(z))) |det df/dz|",
        ("samplers/test_latent.py::test_the_target_in_noise_is_its_density_pulled_back",),
    ),
    Mutant(
        "bonds of half the strength",
        "samplers/cluster.py",
        "-torch.expm1(-4 * products.clamp(min=0))",
        "-torch.expm1(-2 * products.clamp(min=0))",
        "equal neighbours are bound with 1 - exp(-4 phi phi')",
        ("samplers/test_cluster.py::test_signs_at_fixed_moduli_have_their_ising_weights",),
    ),
    Mutant(
        "rings of odd length in two colours",
        "samplers/local.py",
        "return total % (3 if odd else 2)",
        "return total % 2",
        "sites updated at once are no neighbours",
        ("samplers/test_local.py::test_no_neighbours_share_a_colour",),
    ),
    Mutant(
        "sign of annealing's work",
        "samplers/annealing.py",
        "return state, (self.after.beta - self.before.beta) * state[2]",
        "return state, (self.before.beta - self.after.beta) * state[2]",
        "log w = sum of (beta' - beta) (-S - log q)",
        ("samplers/test_annealing.py::test_one_interval_is_importance_sampling",),
    ),
    Mutant(
        "work without the log-determinant",
        "flows/legs.py",
        "change = before - after + log_det.double()",
        "change = before - after",
        "the work of a layer is S_{k-1} - S_k + log det",
        ("flows/test_stochastic.py::test_a_geometric_path_has_them_too",),
    ),
    Mutant(
        "work at the field before the update",
        "flows/legs.py",
        "return phi, energy(self.action, phi)",
        "return phi, state[1]",
        "the next work starts at the field that the updates have reached",
        ("flows/test_stochastic.py::test_a_geometric_path_has_them_too",),
    ),
    Mutant(
        "work of the way back",
        "flows/stochastic.py",
        "log_weight += before - after - log_det.double()",
        "log_weight += before - after + log_det.double()",
        "the inverse of a layer has minus its log-determinant",
        ("flows/test_stochastic.py::test_the_way_back_has_log_z_of_quadrature",),
    ),
    Mutant(
        "weights kept in resampling",
        "flows/journeys.py",
        "rows, log_weight = resampled(log_weight, generator)",
        "rows = resampled(log_weight, generator)[0]; log_weight = log_weight[rows]",
        "samples drawn in proportion to their weights have equal weights",
        ("samplers/test_families.py::test_z_is_unbiased",),
    ),
    Mutant(
        "log Z lost in resampling",
        "flows/journeys.py",
        "log_mean = log_weight.logsumexp(0) - math.log(n)",
        "log_mean = log_weight.max()",
        "all weights become their mean",
        ("samplers/test_families.py::test_z_is_unbiased",),
    ),
    Mutant(
        "resampled samples as independent ones",
        "samplers/importance.py",
        "if self.family is None else weights_of_families(self.family, self.log_weight)",
        "",
        "samples of one family depend on each other",
        ("samplers/test_families.py::test_all_estimates_count_families",),
    ),
    Mutant(
        "noise of resampling counted twice",
        "samplers/families.py",
        "(weight - surplus - 1)",
        "(weight + surplus - 1)",
        "what one family gains in resampling others lose",
        ("samplers/test_families.py::test_errors_of_families_alone_are_larger",),
    ),
    Mutant(
        "solver error of a layer",
        "flows/legs_twice.py",
        "+ log_det - change",
        "- log_det - change",
        "finer work is S_{k-1} - S_k + log det",
        ("flows/test_stochastic.py::test_the_solver_error_of_the_layers_is_certified",),
    ),
    Mutant(
        "layers trained toward the action before",
        "training/reservoir.py",
        "return -self.action(z)",
        "return self.action(z)",
        "samples of an action have the density exp(-S)",
        ("training/test_segments.py::test_a_reservoir_draws_its_samples_by_their_weights",),
    ),
    Mutant(
        "force between prior and target",
        "theories/base/bridge.py",
        "force = -(1 - self.beta) * self.prior.score(phi)",
        "force = (1 - self.beta) * self.prior.score(phi)",
        "dS_beta = -(1 - beta) d log r + beta dS",
        ("theories/base/test_bridge.py::test_a_bridge_is_the_geometric_mean_of_its_ends",),
    ),
    Mutant(
        "independence step without the present weight",
        "samplers/metropolis.py",
        "metropolis(proposed - log_weight, proposal, phi, generator)",
        "metropolis(proposed, proposal, phi, generator)",
        "acceptance min(1, w'/w)",
        ("samplers/test_invariance.py::test_updates_balance_in_detail",),
    ),
    Mutant(
        "Metropolis ratio inverted",
        "samplers/metropolis.py",
        "log_weight[step] - current",
        "current - log_weight[step]",
        "acceptance min(1, w'/w)",
        METROPOLIS,
    ),
    Mutant(
        "log weight sign of log q",
        "samplers/importance.py",
        "drawn.append((phi, log_q, -action(phi) - log_q))",
        "drawn.append((phi, log_q, -action(phi) + log_q))",
        "log w = -S - log q",
        IMPORTANCE,
    ),
    Mutant(
        "mean without weights",
        "statistics/reweighting.py",
        "weight * values, weight)",
        "values, torch.ones_like(weight))",
        "<O> = sum w O / sum w",
        IMPORTANCE,
    ),
    Mutant(
        "forward log Z sign",
        "analysis/diagnosis.py",
        "log_mean_exp(-target_log_weight, n_blocks",
        "log_mean_exp(target_log_weight, n_blocks",
        "log Z = -log mean_p(1 / w)",
        DIAGNOSIS,
    ),
    Mutant(
        "shares on the samples that were fitted to",
        "analysis/weight_shares.py",
        "_predicted_deviation(operators[fitted], values[fitted], operators[other])",
        "_predicted_deviation(operators[other], values[other], operators[other])",
        "many operators earn nothing by their number",
        ("analysis/test_weight_shares.py::test_many_operators_earn_nothing_by_their_number",),
    ),
    Mutant(
        "ridge that forgets the leverage",
        "analysis/weight_shares.py",
        "rotated @ coefficients) / (1 - leverage)",
        "rotated @ coefficients)",
        "the ridge is chosen by predictions of samples that were left out",
        ("analysis/test_weight_shares.py::test_noise_that_grows_with_the_fields_is_explained_by_nothing",),
    ),
    Mutant(
        "predictions beyond all values",
        "analysis/weight_shares.py",
        "return predicted.clamp(lowest, highest)",
        "return predicted",
        "a polynomial of one rare field does not make the variance of all",
        ("analysis/test_weight_shares.py::test_a_rare_field_does_not_hide_what_explains_all_others",),
    ),
    Mutant(
        "susceptibility with the wrong volume",
        "analysis/lattice_fields.py",
        "moments, lambda m: volume * m[2])",
        "moments, lambda m: volume / side * m[2])",
        "chi2 = V <M^2>, in every dimension",
        ("analysis/test_measurements.py::test_exact_averages_give_exact_observables",),
    ),
    Mutant(
        "mass fit without correlations",
        "analysis/correlators.py",
        "np.linalg.cholesky(inside)",
        "np.linalg.cholesky(np.diag(np.diag(inside)))",
        "chi2 and error of a fit need the whole covariance",
        ("analysis/test_correlators.py::test_chi2_and_error_of_the_mass_need_the_correlations",),
    ),
    Mutant(
        "chain taken for independent samples",
        "statistics/gamma_method.py",
        "error = (summed / max(total - 1, 1)).sqrt()",
        "error = (variance / max(total - 1, 1)).sqrt()",
        "error^2 = 2 tau_int var / N",
        ("statistics/test_coverage.py::test_mean_of_a_chain_by_the_gamma_method",),
    ),
    Mutant(
        "thermodynamic integration sign",
        "analysis/free_energy.py",
        "terms = [-rate * action",
        "terms = [rate * action",
        "d log Z / dc = -<dS/dc>",
        ("analysis/test_free_energy.py::test_the_error_of_an_integral_is_that_of_its_points",),
    ),
    Mutant(
        "forgotten mean of the weights",
        "samplers/importance.py",
        "return means, (weight * (values - means))[None]",
        "return means, (weight * values - means)[None]",
        "deviations of a reweighted average are w / mean w (O - <O>)",
        ("statistics/test_coverage.py::test_measurements_of_a_reweighted_ensemble",),
    ),
    Mutant(
        "derived quantities without signs",
        "analysis/averages.py",
        "self.fluctuations @ slopes.T",
        "self.fluctuations @ slopes.abs().T",
        "fluctuations of f(<a>) are sum_i df/da_i (a_i - <a_i>)",
        (
            "analysis/test_averages.py::test_the_error_of_a_derived_quantity_on_an_ensemble_is_that_of_the_jackknife",
        ),
    ),
    Mutant(
        "observables without solver error",
        "analysis/averages.py",
        "self._quantities(observables, self.means + self.shift)",
        "self._quantities(observables, self.means)",
        "every estimate carries its solver error",
        (
            "analysis/test_averages.py::test_the_solver_error_of_an_observable_is_its_change_under_a_finer_solve",
        ),
    ),
    # --- numbers that are printed, compared with others computed independently ----------------------
    Mutant(
        "NaN trajectories accepted",
        "samplers/acceptance.py",
        "log_ratio.double(), nan=-torch.inf",
        "log_ratio.double(), nan=0.0",
        "a proposal without a density is rejected",
        ("samplers/test_acceptance.py::test_proposals_are_accepted_with_their_probability",),
    ),
    Mutant(
        "plain weights in the shift of a result",
        "flows/certificate.py",
        "functional(twice.refined_phi, twice.refined_log_weight)",
        "functional(twice.refined_phi, twice.log_weight)",
        "a result moves with the weights of the finer solve",
        ("samplers/test_solver_errors.py",),
    ),
    Mutant(
        "transposed acceptance",
        "samplers/acceptance.py",
        "(log_weight[None, :] - present[:, None])",
        "(present[:, None] - log_weight[None, :])",
        "the solver error of an acceptance is of min(1, w'/w) with w from the target",
        ("samplers/test_solver_errors.py",),
    ),
    Mutant(
        "vortices of one plane",
        "theories/angles/observables.py",
        "itertools.combinations(range(theta.dim() - 1), 2)",
        "[(0, 1)]",
        "vortices are counted in every plane",
        ("theories/angles/test_angle_observables.py::test_vortices_are_counted_in_every_plane",),
    ),
    Mutant(
        "solver error of the ESS",
        "samplers/importance.py",
        "torch.softmax(log_weight.double(), 0).square().sum())",
        "torch.softmax(log_weight.double(), 0).square().sum().sqrt())",
        "the solver error of the ESS is the change of (sum w)^2 / (N sum w^2)",
        ("samplers/test_solver_errors.py",),
    ),
    Mutant(
        "solver error of log Z",
        "samplers/importance.py",
        "lambda _, log_w: log_w.double().logsumexp(0)",
        "lambda _, log_w: log_w.double().mean(0)",
        "the solver error of log Z is the change of log mean w",
        ("samplers/test_solver_errors.py",),
    ),
    # --- two levels ---------------------------------------------------------------------------------
    Mutant(
        "correction with the wrong sign",
        "statistics/two_levels.py",
        "full.append(of_all[0] + of_pairs[0])",
        "full.append(of_all[0] - of_pairs[0])",
        "log Z is that of the fine solver",
        ("samplers/test_levels.py::test_one_coarse_level_is_many_sigmas_off_and_two_are_not",),
    ),
    Mutant(
        "error of log Z without its correction",
        "statistics/two_levels.py",
        "left_out.append(of_all[1] + change)",
        "left_out.append(of_all[1] + of_pairs[0])",
        "the error of two levels contains that of the pairs",
        ("samplers/test_levels.py::test_results_are_unbiased_and_covered_where_one_coarse_level_is_far_off",),
    ),
    Mutant(
        "means without their correction",
        "statistics/two_levels.py",
        "return means + fine - coarse, deviations",
        "return means, deviations",
        "means are those of the fine solver",
        (
            "statistics/test_two_levels.py::test_fluctuations_have_mean_zero_and_the_variance_of_the_two_parts",
        ),
    ),
    Mutant(
        "fluctuations of pairs counted once",
        "statistics/two_levels.py",
        "share = len(values) / (len(rows) - 1)",
        "share = 1.0",
        "one of m pairs moves the mean n / m times as far as one of n samples",
        ("samplers/test_levels.py::test_measurements_are_covered_too",),
    ),
    Mutant(
        "linear share of pairs",
        "samplers/levels.py",
        "math.sqrt(change * nfe / (rest * fine_nfe))",
        "change * nfe / (rest * fine_nfe)",
        "cost times squared error is least at the chosen share",
        ("samplers/test_levels.py::test_the_choice_has_the_least_cost_and_predicts_the_error",),
    ),
    Mutant(
        "certificate of the coarse solver",
        "samplers/importance.py",
        "with_solver(flow, found.fine or flow.solver)",
        "with_solver(flow, found.coarse)",
        "the certificate of two levels measures the error that is left",
        ("samplers/test_levels.py::test_the_certificate_is_of_the_fine_solver_and_says_what_it_corrects",),
    ),
    Mutant(
        "chains of coarse weights",
        "samplers/metropolis.py",
        "        check_one_level(proposals)\n",
        "",
        "Metropolis accepts with the weights of the flow's own solver",
        ("samplers/test_levels.py::test_chains_and_comparisons_with_the_target_refuse_coarse_weights",),
    ),
    Mutant(
        "pairs of another file",
        "interop/joining.py",
        "correction.rows + start for",
        "correction.rows for",
        "joined files keep each pair together",
        ("interop/test_levels_in_files.py::test_joined_files_keep_each_pair_together",),
    ),
    Mutant(
        "waiting for a weight",
        "samplers/metropolis.py",
        "latest = latest.maximum(_first_with_weight(log_weight))[0",
        "latest = latest[0",
        "a chain never shows a field of zero density",
        ("samplers/test_zero_weights.py::test_a_chain_waits_at_its_first_proposal_with_a_weight",),
    ),
    Mutant(
        "log q of a zero weight",
        "samplers/annealing.py",
        "torch.where(log_weight.isneginf(), torch.inf, -action(doubled(phi)) - log_weight)",
        "-action(doubled(phi)) - log_weight",
        "an annealed sample of zero weight has log q = inf, not NaN",
        ("samplers/test_zero_weights.py::test_weighted_samples_of_half_a_field",),
    ),
    Mutant(
        "zero weights in an average",
        "samplers/samples.py",
        "given = ~log_weight.isneginf()",
        "given = log_weight == log_weight",
        "samples without a weight count as 0 whatever their values are",
        ("samplers/test_zero_weights.py",),
    ),
    Mutant(
        "weight of a rejected proposal",
        "samplers/metropolis.py",
        "log_weight = torch.where(outcome.accepted.bool(), proposed, log_weight)",
        "log_weight = proposed",
        "several proposals in a row compete with the weight of the present field",
        ("samplers/test_invariance.py",),
    ),
    Mutant(
        "error of a balance",
        "oracles/balance.py",
        "error = 0.5 * float((of_families / of_families.sum()).square().sum().sqrt())",
        "error = float((of_families / of_families.sum()).square().sum().sqrt())",
        "the error of P(M > 0) is 1/2 sqrt(sum w^2) / sum w",
        ("samplers/test_balance_and_oracles.py::test_the_error_of_the_balance_is_honest",),
    ),
    Mutant(
        "balance without autocorrelation",
        "oracles/balance.py",
        "sign.numel() / (2 * tau)",
        "sign.numel()",
        "a chain that never tunnels is one observation",
        ("samplers/test_balance_and_oracles.py::test_one_frozen_chain_is_one_observation",),
    ),
    Mutant(
        "frequency of a stiff action",
        "samplers/collapse.py",
        "return math.sqrt(max(",
        "return float(max(",
        "the frequency is the root of the largest eigenvalue of the Hessian",
        ("samplers/test_collapse.py::test_the_largest_frequency_of_a_free_field_is_that_of_its_modes",),
    ),
    Mutant(
        "stuck chains with a chance",
        "samplers/moves.py",
        "(total.accepted < FEWEST_MOVES) & (total.probability < FEWEST_MOVES)",
        "(total.accepted < FEWEST_MOVES)",
        "a chain without luck is not stuck",
        ("samplers/test_moves.py::test_a_chain_without_luck_is_not_stuck",),
    ),
    Mutant(
        "coefficient of Omelyan",
        "samplers/integrators.py",
        "_LAMBDA = 0.1931833275037836",
        "_LAMBDA = 0.2931833275037836",
        "Omelyan's coefficient has the least error",
        ("samplers/test_integrators.py",),
    ),
    Mutant(
        "length of an oracle",
        "oracles/exact.py",
        "/ (2 * math.sin(phase / 2))",
        "/ (2 * math.sin(phase))",
        "4 sin^2(pi/L) xi^2 = chi2 / F - 1",
        ("oracles/test_free.py",),
    ),
    Mutant(
        "neighbour of an oracle",
        "oracles/free.py",
        "float(two_point.roll(-1, axis)[origin])",
        "float(two_point.roll(-2, axis)[origin])",
        "the nearest neighbour is one site away",
        ("oracles/test_free.py",),
    ),
    # --- statistics -------------------------------------------------------------------------------
    Mutant(
        "ESS without square",
        "statistics/weights.py",
        "(2 * log_m1 - log_m2).exp()",
        "(log_m1 - log_m2).exp()",
        "ESS = (sum w)^2 / (N sum w^2)",
        STATISTICS,
    ),
    Mutant(
        "ESS widened by the number of samples",
        "statistics/weights.py",
        "tail_factor(fluctuations, count)), _least_error",
        "tail_factor(fluctuations)), _least_error",
        "the largest weights are rare: the effective samples count, not all",
        ("statistics/test_weights.py::test_the_error_of_the_reverse_ess_is_its_formula",),
    ),
    Mutant(
        "ESS of few values with the error of their scatter",
        "statistics/weights.py",
        "LEAST_ERROR * ess * (1 - ess) / max(count - 1, 1e-12)",
        "0.0 * ess * (1 - ess) / max(count - 1, 1e-12)",
        "two uneven weights leave the ESS unknown",
        ("statistics/test_weights.py::test_two_samples_know_their_ess_only_if_their_weights_are_equal",),
    ),
    Mutant(
        "forward ESS blind for autocorrelations of its tails",
        "statistics/weights.py",
        "math.sqrt(n * count) / twice_tau))",
        "math.sqrt(n * count)))",
        "a chain has N / (2 tau) independent samples",
        ("statistics/test_weights.py::test_the_error_of_the_forward_ess_is_its_formula",),
    ),
    Mutant(
        "log Z with the scatter alone",
        "statistics/weights.py",
        "error=estimate.error * factor, note",
        "error=estimate.error, note",
        "the largest weights are rare: log Z has a wider error than they scatter",
        ("statistics/test_weights.py::test_the_error_of_log_z_is_its_formula",),
    ),
    Mutant(
        "coarse weights whatever they are",
        "statistics/two_levels.py",
        ">= MIN_SLOPE * float(x.square().sum()):",
        ">= -1e9 * float(x.square().sum()):",
        "coarse weights that scatter at random make log Z worse",
        (
            "statistics/test_two_levels.py::test_coarse_weights_count_up_to_twice_the_fluctuations_of_the_fine_ones",
        ),
    ),
    Mutant(
        "levels related in one direction",
        "statistics/two_levels.py",
        "min(effective_number(change), effective_number(-change))",
        "max(effective_number(change), effective_number(-change))",
        "samples that a coarse solver misses show in one direction of the ratio only",
        (
            "statistics/test_two_levels.py::test_levels_are_unrelated_if_ratios_of_weights_leave_less_than_half_of_the_samples",
        ),
    ),
    Mutant(
        "ESS of two levels widened by the coarse part alone",
        "statistics/two_levels.py",
        "ess_fluctuations(coarse).index_add(0, rows, share * change)",
        "ess_fluctuations(coarse)",
        "the few pairs have the heavier tails",
        ("statistics/test_two_levels.py::test_the_error_of_an_ess_of_two_levels_is_its_formula",),
    ),
    Mutant(
        "unadjusted averages without a word",
        "samplers/samples.py",
        'return "" if self.kernel is None else self.kernel.note',
        'return ""',
        "averages without adjustment have a bias, and say so",
        ("samplers/test_mclmc.py::test_unadjusted_averages_say_so_once_in_every_print",),
    ),
    Mutant(
        "log mean exp without maximum",
        "statistics/jackknife.py",
        "column.logsumexp(0) - math.log(n_samples) for",
        "column.exp().mean().log() for",
        "no weight is too large for log Z",
        STATISTICS,
    ),
    Mutant(
        "log mean exp without N",
        "statistics/jackknife.py",
        "column.logsumexp(0) - math.log(n_samples) for",
        "column.logsumexp(0) for",
        "log Z is the log of a mean, not of a sum",
        STATISTICS,
    ),
    Mutant(
        "jackknife of logs variance",
        "statistics/jackknife.py",
        "variance = (values - values.mean()).square().sum() * (n_blocks - 1) / n_blocks",
        "variance = (values - values.mean()).square().sum() / n_blocks",
        "jackknife inflates by (n - 1) / n, not 1 / n",
        STATISTICS,
    ),
    Mutant(
        "jackknife variance",
        "statistics/jackknife.py",
        "return full, (spread * (n_blocks - 1) / n_blocks).sqrt()",
        "return full, (spread / n_blocks).sqrt()",
        "jackknife inflates by (n - 1) / n, not 1 / n",
        STATISTICS,
    ),
    Mutant(
        "antithetic series with the plain window",
        "statistics/gamma_method.py",
        "if n > MIN_CHAIN_LENGTH and bool(antithetic.any()):",
        "if False:",
        "errors of alternating series cover the truth",
        ("statistics/test_coverage.py::test_mean_of_a_chain_of_any_correlation_of_neighbours",),
    ),
    Mutant(
        "very short chains by the Gamma method",
        "statistics/gamma_method.py",
        "MIN_WINDOWED_LENGTH = 8",
        "MIN_WINDOWED_LENGTH = 0",
        "chains without room for a window are compared with each other",
        ("statistics/test_coverage.py::test_chains_too_short_for_a_window_are_compared_with_each_other",),
    ),
    Mutant(
        "heavy tails forgotten",
        "statistics/jackknife.py",
        "factor = float(tail_factor(values - values.mean())) if widen else 1.0",
        "factor = 1.0",
        "errors of the forward ESS cover the truth",
        ("statistics/test_coverage.py::test_forward_effective_sample_size_of_a_few_hundred_samples",),
    ),
    Mutant(
        "weak slow part behind the window",
        "statistics/gamma_method.py",
        "if bool(missed.any()):",
        "if False:",
        "errors count a slow part below a fast one, and stop at no oscillation",
        (
            "statistics/test_coverage.py::test_mean_of_a_series_that_oscillates",
            "statistics/test_coverage.py::test_mean_of_a_chain_with_a_weak_slow_part",
        ),
    ),
    Mutant(
        "frequencies without the imaginary part",
        "statistics/bands.py",
        "2 * ordinates[1:].cumsum(0), [], [], []",
        "ordinates[1:].cumsum(0), [], [], []",
        "each frequency has two degrees of freedom in every chain",
        ("statistics/test_bands.py",),
    ),
    Mutant(
        "bands in units of the whole series",
        "statistics/gamma_method.py",
        "new = 2 * tau * gamma[0] * step,",
        "new = 2 * tau * gamma[0],",
        "a band that changes every b steps holds b lags in one",
        ("statistics/test_coverage.py::test_mean_of_a_series_that_oscillates",),
    ),
    Mutant(
        "few stretches go unsaid",
        "statistics/gamma_method.py",
        "slow[missed] = 0.25 * total * relative.square()",
        "slow[missed] = tau[missed]",
        "an error from few stretches of a slow part says so",
        ("statistics/test_coverage.py::test_a_weak_slow_part_that_shows_a_few_times_only_is_noted",),
    ),
    Mutant(
        "components read as a direction of the lattice",
        "samplers/kernel.py",
        "kernel=kernel, space=self.action.space)",
        "kernel=kernel)",
        "samples know their space",
        ("analysis/test_spaces.py",),
    ),
    Mutant(
        "files forget the space",
        "interop/samples.py",
        "samples = dataclasses.replace(samples, space=_space_of(header))",
        "_space_of(header)",
        "loaded samples know their space",
        ("analysis/test_spaces.py",),
    ),
    Mutant(
        "sign of the sum of all components",
        "analysis/diagnosis.py",
        "first = phi[:, 0] if space is not None and space.component_axes else phi",
        "first = phi",
        "P(M > 0) is that of the first component",
        ("analysis/test_spaces.py",),
    ),
    Mutant(
        "one heavy sample with a known error",
        "statistics/reweighting.py",
        "error = torch.where(spread > 0, math.inf, error)",
        "pass",
        "one sample says nothing of its own error",
        ("statistics/test_reweighting.py::test_one_heavy_sample_has_no_known_error",),
    ),
    Mutant(
        "no distance from the average without weights",
        "statistics/reweighting.py",
        "error = torch.maximum(square.sqrt(), deviation.mean(0).abs())",
        "error = square.sqrt()",
        "errors reach a truth beyond the heaviest samples",
        ("statistics/test_reweighting.py::test_errors_reach_a_truth_beyond_the_heaviest_samples",),
    ),
    Mutant(
        "uneven weights with the error of even ones",
        "statistics/reweighting.py",
        "return tail_factor(fluctuations, count)",
        "return torch.ones_like(fluctuations[0])",
        "errors of a few hundred effective samples cover the truth",
        ("statistics/test_reweighting.py::test_errors_of_a_few_hundred_effective_samples_cover_the_truth",),
    ),
    Mutant(
        "heaviest sample without an error",
        "statistics/reweighting.py",
        "square = torch.maximum(jackknife, fraction.square().sum() * spread)",
        "square = weighted.square().sum(0)",
        "a sample that carries most of the weight has the error of few samples",
        ("statistics/test_reweighting.py",),
    ),
    Mutant(
        "length clamped at zero",
        "analysis/correlators.py",
        "excess.sqrt()",
        "excess.clamp(min=0).sqrt()",
        "a length that cannot be seen is not a number",
        ("analysis/test_correlators.py::test_a_length_too_small_to_be_seen_is_not_a_number",),
    ),
    Mutant(
        "tau_int without its half",
        "statistics/gamma_method.py",
        "running = 0.5 + (gamma",
        "running = (gamma",
        "tau_int = 1/2 + sum rho",
        STATISTICS,
    ),
    Mutant(
        "bridge without sample sizes",
        "statistics/weights.py",
        "c = log_z + offset",
        "c = log_z",
        "Bennett's C = log Z + log(n_model / n_target)",
        DIAGNOSIS,
    ),
    Mutant(
        "gradients not summed",
        "runtime/distributed.py",
        "dist.all_reduce(flat.mul_(weight))",
        "flat.mul_(weight)",
        "the gradient of a batch is that of all processes",
        DISTRIBUTED,
    ),
    Mutant(
        "processes weigh alike",
        "training/data_parallel.py",
        "share.n_samples / total",
        "1 / len(shares)",
        "a mean over a batch that is split unevenly",
        DISTRIBUTED,
    ),
    Mutant(
        "probes of every process alike",
        "vector_fields/estimated.py",
        "(n, batch_size_of(len(phi), generator), *phi.shape[1:])",
        "(n, len(phi) * 2, *phi.shape[1:])",
        "what training draws does not depend on the number of processes",
        DISTRIBUTED,
    ),
    Mutant(
        "one stream for all shards",
        "interop/shards.py",
        'f"one of {n_shards} shards", shard,',
        'f"one of {n_shards} shards", 0,',
        "shards are independent samples",
        ("runtime/test_distributed.py::test_shards_are_one_ensemble_of_independent_samples",),
    ),
    Mutant(
        "fused HMC without momenta",
        "fused/stencil_kernels.py",
        "sums[i] += np.float64(half * p * p)",
        "sums[i] += np.float64(0 * p)",
        "a fused update accepts by the change of H",
        ("fused/test_trajectories.py::test_a_fused_update_is_the_eager_one",),
    ),
    Mutant(
        "fused force across",
        "fused/stencil_kernels.py",
        "total = near + (source[ahead + i] + source[behind + i])",
        "total = near + (source[ahead + i] + source[ahead + i])",
        "a fused force has the neighbours on both sides",
        ("fused/test_trajectories.py::test_a_fused_update_is_the_eager_one",),
    ),
    Mutant(
        "fused force of a wide field",
        "fused/stencil_kernels.py",
        "total[i] += field[start + i] * field[start + i]",
        "total[i] += field[at + i] * field[start + i]",
        "the potential of several components is of their square",
        ("fused/test_trajectories.py::test_a_fused_update_is_the_eager_one",),
    ),
    Mutant(
        "fused border",
        "fused/stencil_kernels.py",
        "field[at + n + lane] = field[at + lane]",
        "field[at + n + lane] = field[at + n - lanes + lane]",
        "a row is periodic",
        ("fused/test_trajectories.py::test_a_fused_update_is_the_eager_one",),
    ),
    Mutant(
        "fused sign of half turns",
        "fused/sine.py",
        "            return signed(sine, n), signed(cosine, n)\n\n        return sine_and_cosine_32",
        "            return sine, signed(cosine, n)\n\n        return sine_and_cosine_32",
        "sin(pi t) changes its sign from one half turn to the next",
        ("fused/test_sine.py::test_both_functions_are_right_to_rounding",),
    ),
    Mutant(
        "fused score without its curvature",
        "fused/ridges.py",
        "z = z * cosine - curvature * (omega * sine)",
        "z = z * cosine",
        "the score feels the gradient of the divergence",
        ("fused/test_ridge_fields.py::test_rates_of_the_score_agree",),
    ),
    Mutant(
        "fused gradient in inner kernels",
        "fused/ridge_fields.py",
        "_add_products(modes, u, together, of_inner)",
        "_add_products(w, u, together, of_inner)",
        "kernels that smear phi have a gradient of their own",
        ("fused/test_ridge_fields.py::test_gradients_of_solves_agree",),
    ),
    Mutant(
        "fused gradient of later stages",
        "fused/solves.py",
        "add(h * matrix[later, i], pulled[later], w)",
        "add(h * matrix[later, i], pulled[i], w)",
        "a stage changes all later ones",
        ("fused/test_ridge_fields.py::test_gradients_of_solves_agree",),
    ),
    Mutant(
        "fused gradient of the kinetic energy",
        "fused/stages.py",
        "factor = factor + factor",
        "factor = factor + zero(values)",
        "the energy is quadratic in the velocity",
        ("fused/test_ridge_fields.py::test_paths_and_their_gradients_agree",),
    ),
    Mutant(
        "fused angle of another ridge",
        "fused/ridges.py",
        "_angle_of_three(memory, j + 24, u_0, u_1, u_2)",
        "_angle_of_three(memory, j + 16, u_0, u_1, u_2)",
        "each ridge has an angle of its own",
        ("fused/test_ridge_fields.py::test_rates_agree",),
    ),
    Mutant(
        "fused product of one row twice",
        "fused/products.py",
        "h += spread_group(fields, eighth + k, size) * x",
        "h += spread_group(fields, seventh + k, size) * x",
        "rows are transformed one by one",
        ("fused/test_transforms.py",),
    ),
    Mutant(
        "fused kernels of another site",
        "fused/groups.py",
        "return _shuffled(builder, loaded, [i // n for i in range(vector.lanes)])",
        "return _shuffled(builder, loaded, [i % (vector.lanes // n) for i in range(vector.lanes)])",
        "a number of a site is repeated for all configurations of a group",
        ("fused/test_groups.py",),
    ),
    Mutant(
        "fused code of another field",
        "fused/just_in_time.py",
        'if function.__closure__ and "<locals>" in function.__qualname__:',
        "if False:",
        "functions made by the same lines are told apart",
        ("fused/test_just_in_time.py::test_kernels_made_by_the_same_lines_have_names_of_their_own",),
    ),
    Mutant(
        "half of the modes in the density of the prior",
        "theories/scalar/priors.py",
        "weight = self._half_multiplicity * (-2",
        "weight = (-2",
        "modes of a real FFT stand for two, but for the first and last column",
        PRIORS,
    ),
    Mutant(
        "fused code older than its sources",
        "fused/just_in_time.py",
        "return signature, codegen.magic_tuple(), _sources()",
        "return signature, codegen.magic_tuple()",
        "machine code is made again when a file of the kernels changes",
        ("fused/test_just_in_time.py::test_machine_code_belongs_to_all_sources",),
    ),
    Mutant(
        "fused divergence of harmonics",
        "fused/angle_fields.py",
        "minus_n -= powers.dtype.type(1)",
        "minus_n -= powers.dtype.type(0)",
        "the divergence of harmonic n has a factor n",
        ("fused/test_angle_field.py::test_rates_agree",),
    ),
    Mutant(
        "fused overlap of channels",
        "fused/angle_fields.py",
        "overlap = half * kernels[kernel + 1, 0, 0]",
        "overlap = half * kernels[kernel, 0, 0]",
        "sin^2 is half of 1 - cos",
        ("fused/test_angle_field.py::test_rates_agree",),
    ),
    Mutant(
        "fused pairs of channels",
        "vector_fields/angle_kernels.py",
        "(1 + (c != d)).to(kernels)",
        "(1 + (c == d)).to(kernels)",
        "a pair of two channels counts twice",
        ("fused/test_angle_field.py::test_rates_agree",),
    ),
    Mutant(
        "fused cotangents of harmonics",
        "fused/angle_cotangents.py",
        "degree * degree * weight[k]",
        "degree * weight[k]",
        "the divergence of harmonic n has a derivative with a factor n^2",
        ("fused/test_angle_field.py::test_gradients_of_solves_agree",),
    ),
    Mutant(
        "fused gradient of overlaps",
        "fused/angle_pulls.py",
        "of_kernels[first_pair + pair, 0, 0] += half * total",
        "of_kernels[first_pair + pair, 0, 0] += 0 * total",
        "the sum of squares of a kernel has a gradient",
        ("fused/test_angle_field.py::test_gradients_of_solves_agree",),
    ),
    Mutant(
        "pairs of normal numbers",
        "fused/stencil_noise.py",
        "out[end + at + i] = radius * s",
        "out[end + at + i] = radius * c",
        "the numbers of a pair are independent",
        ("fused/test_stencil_noise.py",),
    ),
    Mutant(
        "streams of chains",
        "fused/stencil_noise.py",
        "return hashed(seed + chain * stride)",
        "return hashed(seed)",
        "every chain has its own random numbers",
        ("fused/test_stencil_noise.py",),
    ),
    Mutant(
        "fused bonds",
        "fused/stencil_clusters.py",
        "phi.dtype.type(0), phi.dtype.type(1), phi.dtype.type(4)",
        "phi.dtype.type(0), phi.dtype.type(1), phi.dtype.type(2)",
        "fused bonds have the probability 1 - exp(-4 phi phi)",
        ("fused/test_stencil_updates.py::test_fused_clusters_are_those_of_the_same_bonds",),
    ),
    Mutant(
        "fused rings of one site",
        "fused/stencil_metropolis.py",
        "if side > _ONE else 0",
        "if side > U(0) else 0",
        "a link of a site to itself costs nothing",
        ("fused/test_stencil_updates.py::test_a_fused_sweep_is_the_eager_one",),
    ),
    Mutant(
        "fused kick between noise",
        "fused/stencil_velocities.py",
        "a, b, c = more * scale * a, more * scale * b + shift, more * scale * weight",
        "a, b, c = more * scale * a, more * scale * b, more * scale * weight",
        "the kick after the noise turns the velocity",
        ("fused/test_trajectories.py::test_a_fused_microcanonical_update_is_the_eager_one",),
    ),
    Mutant(
        "volume of a kick",
        "samplers/microcanonical.py",
        "change = (d - 1) * (delta + (0.5 * below).log())",
        "change = d * (delta + (0.5 * below).log())",
        "the kinetic energy counts the volume change of directions",
        ("samplers/test_microcanonical.py::test_the_energy_of_a_kick_is_minus_its_log_volume_change",),
    ),
    Mutant(
        "force on a direction",
        "samplers/microcanonical.py",
        "delta = amount * root * size / (d - 1)",
        "delta = amount * root * size / d",
        "exp(-S) is invariant under microcanonical motion",
        ("samplers/test_microcanonical.py::test_a_kick_solves_the_equation_of_motion",),
    ),
    Mutant(
        "weight of noise",
        "samplers/microcanonical.py",
        "math.expm1(2 * every * step_size / length)",
        "math.expm1(every * step_size / length)",
        "directions decay over the decoherence length",
        ("samplers/test_microcanonical.py::test_noise_turns_directions_over_the_decoherence_length",),
    ),
    Mutant(
        "bias by halving",
        "samplers/mclmc.py",
        "step = math.exp(kernel._log_step) / 2",
        "step = math.exp(kernel._log_step) / 1",
        "a bias is found by halving the step",
        ("samplers/test_mclmc.py::test_the_bias_is_measured_by_halving_the_step",),
    ),
    Mutant(
        "adjusted without potential",
        "samplers/mclmc.py",
        "change = change + (self.action(end.double()) - self.action(phi.double())).double()",
        "change = change + 0.0 * self.action(end.double()).double()",
        "adjusted trajectories are accepted by all of their energy",
        ("samplers/test_invariance.py::test_updates_leave_the_target_invariant",),
    ),
    Mutant(
        "momenta of a linear point transformation",
        "nn/couplings/canonical.py",
        "torch.linalg.matrix_exp(-symmetric) @ turn",
        "torch.linalg.matrix_exp(symmetric) @ turn",
        "momenta move like positions, so that brackets are not kept and frequencies mean nothing",
        ("flows/test_canonical.py::test_every_layer_keeps_the_symplectic_form",),
    ),
    Mutant(
        "momenta of a coupling",
        "nn/couplings/canonical.py",
        "p_b = p_b - pull(p_a * q_a, new_p)",
        "p_b = p_b - pull(p_a * q_a, p_a)",
        "the momenta of the sites that stay are pulled by momenta before the scaling",
        ("flows/test_canonical.py::test_every_layer_keeps_the_symplectic_form",),
    ),
    Mutant(
        "patterns of modes",
        "flows/slow_modes.py",
        "torch.autograd.grad(p[:, k]",
        "torch.autograd.grad(q[:, k]",
        "a pattern is dQ/dp, which is zero for point transformations, instead of dq/dQ = dP/dp",
        ("flows/test_slow_modes.py::test_patterns_are_how_positions_move_with_a_mode",),
    ),
    Mutant(
        "temperature of latent oscillators",
        "flows/oscillators.py",
        "math.log(self.beta / (2 * math.pi))",
        "math.log(1 / (2 * math.pi))",
        "log q is off by V log beta",
        ("flows/test_oscillators.py::test_the_density_is_normalised",),
    ),
    Mutant(
        "springs of a closed chain",
        "theories/scalar/mechanics.py",
        '[:, 0 if self.ends == "fixed" else 1 :]',
        "[:, 0:]",
        "the spring that closes a chain counts twice in the energy",
        ("theories/scalar/test_mechanics.py::test_the_gradient_is_that_of_the_energy",),
    ),
    Mutant(
        "stiffness of phonons",
        "oracles/phonons.py",
        "12 * lam * (mean2",
        "6 * lam * (mean2",
        "fluctuations stiffen a phi^4 chain half as much as they do",
        ("oracles/test_phonons.py::test_phonons_minimise_the_free_energy",),
    ),
)


def copy_to(target: Path, source: Path = ROOT) -> Path:
    """Copy what the tests need; compiled files stay behind, they could outlive a replaced text."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".hypothesis")
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=ignore)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
    return target


def run_tests(root: Path, tests: Iterable[str], *options: str, timeout: float) -> Verdict:
    """Run tests of the copy in `root` on the package of that copy, checked in the same process."""
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    # The project's own options may spread tests over processes, whose imports would not be checked.
    pytest_options = ["-q", "--tb=no", "-rfE", "-m", "not slow", "-o", "addopts=", "-p", "no:cacheprovider"]
    command = [sys.executable, "-c", RUN_TESTS, f"{root / 'equiflow'}{os.sep}", *pytest_options, *options]
    command += [f"tests/{test}" for test in tests]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return Verdict((), time.perf_counter() - start, f"no end after {timeout:.0f} s")
    found = re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
    failed = tuple(dict.fromkeys(found))
    # 0: all passed, 1: some failed. Otherwise a test was not found or could not even be collected.
    problem = "" if done.returncode in (0, 1) and bool(failed) == bool(done.returncode) else "pytest: "
    if problem:
        problem += " ".join((done.stdout + done.stderr).split()[-40:])
    return Verdict(failed, time.perf_counter() - start, problem)


def try_mutant(mutant: Mutant, snapshot: Path, folder: Path, *, timeout: float) -> Verdict:
    """Plant a mutant in a copy of the snapshot and run the tests that ought to kill it."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = copy_to(Path(name), snapshot)
        mutant.plant(root)
        return run_tests(root, mutant.tests, "-x", timeout=timeout)


def check_mutants(mutants: Iterable[Mutant], root: Path = ROOT) -> None:
    """Raise unless every mutant's text is found exactly once and its wrong version is still Python."""
    for mutant in mutants:
        with tempfile.TemporaryDirectory() as name:
            target = Path(name) / "equiflow" / mutant.file
            target.parent.mkdir(parents=True)
            if (source := root / "equiflow" / mutant.file).is_file():
                shutil.copy2(source, target)
            mutant.plant(Path(name))
            compile(target.read_text(), mutant.file, "exec")


def fitting(tests: Iterable[str]) -> list[str]:
    """Tests without repetition, and without those in a file that is run anyhow."""
    unique = list(dict.fromkeys(tests))
    return [test for test in unique if test == test.split("::")[0] or test.split("::")[0] not in unique]


def try_all(mutants: Sequence[Mutant], *, jobs: int, timeout: float) -> dict[str, Verdict]:
    """First the unmutated copy, then the mutants; raises if the copy as it is does not pass."""
    with tempfile.TemporaryDirectory(prefix="equiflow-mutations-") as name:
        folder = Path(name).resolve()
        # Others may be editing the working tree: everything is measured on one snapshot.
        snapshot = copy_to(folder / "snapshot")
        check_mutants(mutants, snapshot)
        tests = fitting(test for mutant in mutants for test in mutant.tests)
        with (
            ThreadPoolExecutor(jobs) as pool,
            tqdm(total=len(tests) + len(mutants), desc="tests without mutant", unit="run") as bar,
        ):
            sound = []
            for verdict in pool.map(lambda test: run_tests(snapshot, [test], timeout=timeout), tests):
                sound.append(verdict)
                bar.update()
            if culprits := [text for v in sound for text in (*v.failed, v.problem) if text]:
                raise RuntimeError(
                    "The package as it is does not pass, so no mutant can be judged:\n  "
                    + "\n  ".join(culprits)
                )
            bar.write(f"without a mutant {len(tests)} test files or tests pass", file=sys.stdout)
            bar.set_description("mutants")
            verdicts = {}
            waiting = {pool.submit(try_mutant, m, snapshot, folder, timeout=timeout): m for m in mutants}
            for done in as_completed(waiting):
                verdicts[waiting[done].name] = done.result()
                bar.set_postfix_str(waiting[done].name)
                bar.update()
    return {mutant.name: verdicts[mutant.name] for mutant in mutants}


def summary(verdict: Verdict) -> str:
    if verdict.problem:
        return f"UNDECIDED, {verdict.problem}"
    return verdict.failed[0].replace("::", " ", 1) if verdict.failed else "SURVIVED"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="one mutant; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried at the same time (default 1)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds per mutant (default 300)")
    args = parser.parse_args(arguments)
    if args.jobs < 1 or not args.timeout > 0:
        parser.error(f"expected --jobs >= 1 and --timeout > 0, got {args.jobs} and {args.timeout}")
    if unknown := sorted(set(args.only or ()) - {mutant.name for mutant in MUTANTS}):
        parser.error(f"no mutant is called {', '.join(unknown)}; --list shows the names")
    return args


def main() -> int:
    args = parse_arguments()
    mutants = [mutant for mutant in MUTANTS if args.only is None or mutant.name in args.only]
    if args.list:
        rows = [(m.name, f"equiflow/{m.file}", m.breaks, " ".join(m.tests)) for m in mutants]
        print_table(f"{len(rows)} mutants", ("mutant", "file", "breaks", "tests"), rows)
        return 0
    try:
        verdicts = try_all(mutants, jobs=args.jobs, timeout=args.timeout)
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    rows = [(m.name, m.breaks, summary(verdicts[m.name]), f"{verdicts[m.name].seconds:.0f}") for m in mutants]
    survived = sum(not v.failed and not v.problem for v in verdicts.values())
    undecided = sum(bool(v.problem) for v in verdicts.values())
    killed = len(rows) - survived - undecided
    title = f"{killed} of {len(rows)} mutants killed, {survived} survived, {undecided} undecided"
    print_table(title, ("mutant", "breaks", "killed by", "s"), rows)
    return 1 if survived else 2 if undecided else 0


if __name__ == "__main__":
    sys.exit(main())
