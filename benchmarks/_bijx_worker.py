"""The other side of `compare_bijx.py`: bijx behind a pipe, one JSON request and one JSON answer a line.

Runs in bijx's own environment and imports nothing of equiflow. It follows bijx's documentation: a vector
field of `ConvVF.build`, a `Transformed` distribution, `nnx.split` once, and one jitted function for a whole
optimiser step (sample, reverse Kullback-Leibler loss, gradient, Adam).
"""

import json
import os
import platform
import sys
import time
from functools import partial
from importlib.metadata import version

import bijx
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from bijx.nn.conv import ConvSym
from bijx.nn.embeddings import Embedding
from bijx.nn.features import FourierFeatures, PolynomialFeatures
from flax import nnx


def convolve_by_fft(self, inputs, kernel_params=None):
    """Return what `ConvSym` does if kernels span the periodic lattice, in O(V log V) instead of O(V^2)."""
    kernel = (self.kernel_params if kernel_params is None else kernel_params)[self.orbits]
    size = self.kernel_size
    # Index (k - 1) // 2 of a kernel is the site itself, and kernels are not mirrored.
    kernel = jnp.roll(kernel, [-((k - 1) // 2) for k in size], (0, 1))
    kernel = jnp.conj(jnp.fft.rfft2(kernel, axes=(0, 1)))
    features = jnp.fft.rfft2(inputs, axes=(-3, -2))
    return jnp.fft.irfft2(jnp.einsum("...xyi,xyio->...xyo", features, kernel), s=size, axes=(-3, -2))


CONVOLUTIONS = {"direct": ConvSym.__call__, "fft": convolve_by_fft}


class CosineTime(Embedding):
    """`cos(pi j t)`, the time basis of equiflow; bijx's own `KernelFourier` is periodic in t."""

    def __call__(self, t):
        return jnp.cos(jnp.pi * jnp.arange(self.feature_count) * t)


class FreeFieldScaling(bijx.SpectrumScaling):
    """A learnable spectrum, one number per orbit of momenta: the prior of equiflow.

    bijx's documentation suggests a trainable spectrum; untied it would give a wrong log-density, since a
    real FFT stores both of k and -k on two of its columns.
    """

    def __init__(self, shape, m2=1.0):
        squared = jnp.sum(bijx.fourier.fft_momenta(shape, lattice=True) ** 2, axis=-1)
        units = bijx.fourier.fft_momenta(shape, unit=True)
        folded = np.sort(np.minimum(units, np.array(shape) - units), axis=-1)
        _, first, orbit = np.unique(
            folded.reshape(-1, len(shape)), axis=0, return_index=True, return_inverse=True
        )
        super().__init__(jnp.ones(squared.shape))
        self.orbit = nnx.data(jnp.asarray(orbit.reshape(squared.shape)))
        self.log_sigma = nnx.Param(-0.5 * jnp.log(2 * (squared.reshape(-1)[first] + m2)))

    @property
    def scaling(self):
        return jnp.exp(self.log_sigma[...])[self.orbit]


def vector_field(side, model, seed):
    if model["defaults"]:
        return bijx.ConvVF.build((side, side), (), rngs=nnx.Rngs(seed))
    field = bijx.ConvVF.build(
        (side, side),
        (),
        time_kernel=CosineTime(model["n_time_modes"]),
        time_kernel_reduced=None,
        features=(
            partial(
                FourierFeatures,
                model["n_frequencies"],
                freq_init=lambda key, shape: (
                    model["max_frequency"] * jnp.arange(1, shape[-1] + 1).reshape(shape) / shape[-1]
                ),
            ),
            partial(PolynomialFeatures, (1,)),
        ),
        # `features_reduced=None` fails in bijx 1.3.2; a square superposition spans the same functions.
        features_reduced=model["n_frequencies"] + 1,
        rngs=nnx.Rngs(seed),
    )
    # The paper's code starts from the identity map (arXiv:2207.00283); so does equiflow.
    field.conv.kernel_params[...] = jnp.zeros_like(field.conv.kernel_params[...])
    return field


def bijection(field, solver, steps):
    if solver == "rk4":
        return bijx.ContFlowRK4(field, steps=steps) if steps else bijx.ContFlowRK4(field)
    if solver == "default":
        return bijx.ContFlowDiffrax(field)
    method = {"dopri5": diffrax.Dopri5, "tsit5": diffrax.Tsit5}[solver]()
    return bijx.ContFlowDiffrax(field, config=bijx.DiffraxConfig(solver=method, dt=1 / steps))


def evaluations(solver, steps):
    """Return the evaluations of one solve with equal steps; a first-same-as-last method adds one."""
    if solver == "rk4":
        return 4 * (steps or 20)
    return 1 + 6 * (20 if solver == "default" else steps)


class Worker:
    """Keeps the models that it was asked to build, by name."""

    def __init__(self):
        self.models = {}

    def versions(self):
        names = ("bijx", "jax", "jaxlib", "flax", "optax", "diffrax", "numpy")
        return {"python": platform.python_version(), **{name: version(name) for name in names}}

    def convolve(self, method):
        """Convolve by `method` in all models that are compiled from now on.

        "direct" is bijx as it comes. "fft" replaces its `ConvSym.__call__` from outside of the package.
        """
        before = CONVOLUTIONS["direct"]
        ConvSym.__call__ = CONVOLUTIONS[method]
        size = (6, 6)
        conv = ConvSym(3, 2, size, use_bias=False, rngs=nnx.Rngs(0))
        inputs = jax.random.normal(jax.random.key(1), (4, *size, 3))
        difference = jnp.abs(conv(inputs) - before(conv, inputs)).max() / jnp.abs(conv(inputs)).max()
        return {"difference": float(difference)}

    def action(self, phi, m2, lam):
        """Return bijx's own action of the given configurations, summed over sites as in its tutorial."""
        density = jax.vmap(lambda x: bijx.lattice.scalar.phi4_term(x, m2, lam))(jnp.array(phi, float))
        return {"values": density.sum((1, 2)).tolist()}

    def build(self, name, side, lam, model, seed):
        field = vector_field(side, model, seed)
        prior = bijx.IndependentNormal((side, side))
        if not model["defaults"]:
            prior = bijx.Transformed(prior, FreeFieldScaling((side, side)))
        entry = Model(field, prior, lam, seed)
        self.models[name] = entry
        return {"parameters": int(sum(p.size for p in jax.tree.leaves(entry.params)))}

    def prepare(self, name, solver, steps, batch_size, learning_rate, decay_steps):
        """Compile one training step, and start the optimiser."""
        return self.models[name].prepare(solver, steps, batch_size, learning_rate, decay_steps)

    def train(self, name, repeats, limit, clock):
        return self.models[name].train(repeats, limit, clock)

    def sample(self, name, solver, steps, n_samples, batch_size, repeats):
        return self.models[name].time_samples(solver, steps, n_samples, batch_size, repeats)

    def log_weights(self, name, solver, steps, n_samples, batch_size, seed):
        return self.models[name].log_weights(solver, steps, n_samples, batch_size, seed)


class Model:
    """A vector field and a prior, with the compiled functions that were asked for."""

    def __init__(self, field, prior, lam, seed):
        self.graph, self.params, self.rest = nnx.split((field, prior), nnx.Param, ...)
        self.lam = lam
        self.key = jax.random.key(seed)
        self.compiled = {}

    def log_prob(self, phi):
        return -jax.vmap(lambda x: bijx.lattice.scalar.phi4_term(x, -4.0, self.lam))(phi).sum((1, 2))

    def sampler(self, params, solver, steps):
        field, prior = nnx.merge(self.graph, params, self.rest)
        return bijx.Transformed(prior, bijection(field, solver, steps))

    def prepare(self, solver, steps, batch_size, learning_rate, decay_steps):
        rate = optax.exponential_decay(learning_rate, decay_steps, 0.1, end_value=0.1 * learning_rate)
        optimiser = optax.adam(rate)

        @jax.jit
        def update(params, state, key):
            key, draw = jax.random.split(key)

            def loss(params):
                phi, log_q = self.sampler(params, solver, steps).sample((batch_size,), rng=draw)
                return jnp.mean(log_q - self.log_prob(phi))

            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimiser.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, key, value

        self.state = optimiser.init(self.params)
        start = time.perf_counter()
        self.update = update.lower(self.params, self.state, self.key).compile()
        return {"compile_seconds": time.perf_counter() - start, "nfe": evaluations(solver, steps)}

    def train(self, repeats, limit, clock):
        """Take `repeats` optimiser steps, or fewer if the time is up; return the seconds of each."""
        seconds, loss = {"wall": [], "cpu": []}, float("nan")
        while len(seconds[clock]) < repeats and sum(seconds[clock]) < limit:
            start, cpu = time.perf_counter(), time.process_time()
            self.params, self.state, self.key, value = self.update(self.params, self.state, self.key)
            loss = float(value)  # waits for the device
            seconds["wall"].append(time.perf_counter() - start)
            seconds["cpu"].append(time.process_time() - cpu)
        return {**seconds, "loss": loss}

    def _sampling(self, solver, steps, batch_size):
        """Return the compiled function that samples log q and log weights, and the seconds of compiling."""
        if (solver, steps, batch_size) not in self.compiled:

            @jax.jit
            def draw(params, key):
                phi, log_q = self.sampler(params, solver, steps).sample((batch_size,), rng=key)
                return phi, log_q, self.log_prob(phi) - log_q

            start = time.perf_counter()
            function = draw.lower(self.params, self.key).compile()
            self.compiled[solver, steps, batch_size] = function, time.perf_counter() - start
        return self.compiled[solver, steps, batch_size]

    def time_samples(self, solver, steps, n_samples, batch_size, repeats):
        draw, compile_seconds = self._sampling(solver, steps, batch_size)
        wall, busy = [], []
        for repeat in range(repeats):
            start, cpu = time.perf_counter(), time.process_time()
            for key in jax.random.split(jax.random.key(repeat), -(-n_samples // batch_size)):
                jax.block_until_ready(draw(self.params, key))
            wall.append(time.perf_counter() - start)
            busy.append(time.process_time() - cpu)
        nfe = evaluations(solver, steps)
        return {"wall": wall, "cpu": busy, "compile_seconds": compile_seconds, "nfe": nfe}

    def log_weights(self, solver, steps, n_samples, batch_size, seed):
        draw, _ = self._sampling(solver, steps, batch_size)
        keys = jax.random.split(jax.random.key(seed), -(-n_samples // batch_size))
        values = np.concatenate([np.asarray(draw(self.params, key)[2]) for key in keys])
        return {"log_weight": values[:n_samples].tolist(), "nfe": evaluations(solver, steps)}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints goes beside the answers
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("command"))(**request)
        except Exception as error:
            import traceback

            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
