"""Results that follow from their seeds alone: fits, samples, measurements. Run it to print their digests.

`python -m tests.support.seeded_results SEED NAME ...` seeds the global generator and computes these results.
Digests of two runs are equal only if all numbers are, bit for bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import equiflow as eq
from equiflow.oracles import quadrature, transfer_matrix
from equiflow.testing import check_action, check_flow, randomise

SQUARE = eq.Lattice((4, 4))
ACTION = eq.Phi4(SQUARE, m2=-1.0, lam=2.0)
SHORT: dict[str, Any] = {"steps": 4, "batch_size": 16, "warmup": 1, "seed": 5, "progress": False}
CHAINS: dict[str, Any] = {"n_chains": 8, "n_thermalisation": 20, "certify": 8}


def rng(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flow(field: Callable[..., eq.VectorField] = eq.PotentialField, **options: Any) -> eq.EquivariantCNF:
    """Return a flow with weights that differ from zero."""
    made = eq.EquivariantCNF(SQUARE, vector_field=field(SQUARE, **options), solver=eq.Solver("rk4", steps=3))
    randomise(made, scale=0.05)
    return made


def fitted(made: nn.Module, action: Any = ACTION, **options: Any) -> list[Any]:
    """Return the weights after a short training, and its history without the times."""
    history = eq.fit(made, action, **SHORT | options).to_dict()  # type: ignore[arg-type]
    history.pop("seconds")
    return [list(made.state_dict().values()), history]


def target() -> Tensor:
    return torch.randn(64, 4, 4, generator=rng(2), dtype=torch.float64).to(torch.get_default_dtype())


def chain(kernel: eq.Kernel, n: int = 16) -> list[Any]:
    found = kernel.sample(n, generator=rng(), **CHAINS)
    return [found.samples, found.acceptance_rate, found.mean(lambda phi: phi.flatten(1).square().mean(1))]


def ensemble() -> eq.Ensemble:
    return eq.importance_sample(flow(), ACTION, 256, certify=16, generator=rng())


def natural() -> list[Any]:
    made = flow(eq.OrbitConvField, n_frequencies=2)
    return fitted(made, optimiser=eq.NaturalGradient.of(made, rows=8), learning_rate=1.0)


def ladder() -> list[Any]:
    large = eq.Phi4(eq.Lattice((6, 6)), m2=-1.0, lam=2.0)
    options = {name: value for name, value in SHORT.items() if name != "steps"}
    rungs = eq.fit_ladder([ACTION, large], flow=flow(), steps=[2, 2], **options)
    return [list(rung.flow.state_dict().values()) for rung in rungs]


def conditional() -> list[Any]:
    family = eq.ActionFamily(eq.Phi4, SQUARE, m2=-1.0, lam=(2.0, 3.0))
    return fitted(eq.ConditionalFlow(flow(), {"lam": (2.0, 3.0)}, degree=1), family)


def coupling() -> list[Any]:
    torch.manual_seed(7)  # its networks start from global randomness
    return fitted(eq.CouplingFlow(SQUARE, n_layers=2, hidden_channels=(4,)), objective=eq.ReverseKL())


#: what is computed, by name; every entry seeds itself
RESULTS: dict[str, Callable[[], Any]] = {
    "fit, default": lambda: fitted(eq.EquivariantCNF(SQUARE)),
    "fit, path gradient": lambda: fitted(flow(eq.OrbitConvField), objective=eq.PathGradient()),
    "fit, reverse": lambda: fitted(flow(eq.FactorisedConvField), objective=eq.ReverseKL()),
    "fit, forward": lambda: fitted(flow(), objective=eq.ForwardKL(target())),
    "fit, matching": lambda: fitted(flow(), objective=eq.FlowMatching(target())),
    "fit, mixture": lambda: fitted(
        flow(), objective=eq.Mixture((eq.ReverseKL(), 0.5), (eq.ForwardKL(target()), 0.5))
    ),
    "fit, attention": lambda: fitted(flow(eq.AttentionField, n_heads=1)),
    "fit, estimated": lambda: fitted(
        flow(eq.DeepAttentionField, n_layers=2, n_channels=1, trace="hutchinson"), steps=2
    ),
    "fit, extended": lambda: fitted(
        eq.SymplecticFlow(SQUARE, n_steps=1), eq.ExtendedAction(ACTION), objective=eq.ReverseKL()
    ),
    "fit, angles": lambda: fitted(
        eq.EquivariantCNF(eq.Angles(SQUARE)), eq.XYModel(eq.Angles(SQUARE), beta=0.5)
    ),
    "fit, particles": lambda: fitted(
        eq.EquivariantCNF(eq.Particles(3, 2)), eq.CoulombGas(eq.Particles(3, 2), beta=1.0)
    ),
    "fit, multiplet": lambda: fitted(
        eq.EquivariantCNF(eq.Multiplet(SQUARE, 2)), eq.ONModel(eq.Multiplet(SQUARE, 2), m2=1.0, lam=1.0)
    ),
    "fit, natural": natural,
    "fit, ladder": ladder,
    "fit, conditional": conditional,
    "fit, coupling": coupling,
    "ensemble": lambda: [ensemble().phi, ensemble().log_z(), ensemble().effective_sample_size()],
    "annealed": lambda: (
        eq.annealed_importance_sample(flow(), ACTION, 64, betas=3, generator=rng()).log_weight
    ),
    "certificate": lambda: flow().certificate(32, action=ACTION, generator=rng()),
    "tuned solver": lambda: flow().tune_solver(1e-2, n_samples=16, generator=rng()),
    "HMC": lambda: chain(eq.HMC(ACTION)),
    "HMC, in a field": lambda: chain(eq.HMC(eq.ExternalField(ACTION, h=0.3))),
    "HMC, angles": lambda: chain(eq.HMC(eq.XYModel(eq.Angles(SQUARE), beta=0.5))),
    "latent HMC": lambda: chain(eq.LatentHMC(flow(), ACTION), 4),
    "independence": lambda: [
        eq.IndependenceMetropolis(flow(), ACTION).sample(16, n_chains=4, generator=rng()).samples
    ],
    "alternation": lambda: chain(
        eq.Alternate(eq.LocalMetropolis(ACTION), eq.IndependenceStep(flow(), ACTION))
    ),
    "Wolff": lambda: chain(eq.Alternate(eq.Wolff(ACTION), eq.LocalMetropolis(ACTION))),
    "Swendsen and Wang": lambda: chain(eq.Alternate(eq.SwendsenWang(ACTION), eq.LocalMetropolis(ACTION))),
    "measured": lambda: eq.measure(ensemble(), action=ACTION),
    "diagnosed": lambda: eq.diagnose(
        flow(), ACTION, ensemble(), eq.HMC(ACTION).sample(8, generator=rng(), **CHAINS)
    ),
    "bridge": lambda: eq.log_z_bridge(
        flow(), ACTION, ensemble(), eq.HMC(ACTION).sample(8, generator=rng(), **CHAINS)
    ),
    "oracles": lambda: [
        quadrature(eq.Phi4(eq.Lattice((2,)), m2=1.0, lam=1.0)),
        transfer_matrix(eq.Phi4(eq.Lattice((4,)), m2=1.0, lam=1.0)),
    ],
    "checks": lambda: [check_action(ACTION), check_flow(flow())],
}


def digest(value: Any) -> str:
    """Return a hash of every number in a result, bit for bit."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """Yield the numbers and names in a result, as bytes."""
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().numpy().tobytes()
    elif isinstance(value, Mapping):
        yield from _parts([*value.keys(), *value.values()])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for one in value:
            yield from _parts(one)
    elif dataclasses.is_dataclass(value):
        # A kernel is an object without numbers of its own; its repr shows an address.
        names = [one.name for one in dataclasses.fields(value) if one.name != "kernel"]
        yield from _parts([getattr(value, name) for name in names])
    else:
        yield (value.hex() if isinstance(value, float) else str(value)).encode()


def digests(names: Sequence[str]) -> dict[str, str]:
    """Return the digest of each result, computed in this order, in float32 on one thread."""
    default, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    try:
        return {name: digest(RESULTS[name]()) for name in names}
    finally:
        torch.set_default_dtype(default)
        torch.set_num_threads(threads)


if __name__ == "__main__":
    torch.manual_seed(int(sys.argv[1]))
    sys.stdout.write(json.dumps(digests(sys.argv[2:])))
