"""Stochastic flows: layers of flows and Monte Carlo updates in turn, along a path of actions.

`StochasticFlow` holds the path. `stochastic_importance_sample` draws weighted samples of its end, and
`fit_segments` trains its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from equiflow.flows.base import Flow
from equiflow.flows.certificate import Certificate
from equiflow.flows.checkpoints import SavedModule, UnknownOptionError, load_weights
from equiflow.flows.descriptions import describe, describe_space
from equiflow.flows.journeys import Arrival, State, check_resample, resampled, travel
from equiflow.flows.legs import Update, energy, make_legs, tune_leg
from equiflow.flows.legs_twice import certificate_of_legs
from equiflow.flows.parts import dtype_name, dtype_named, rebuild, space_of
from equiflow.runtime.checks import check_count, check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.prior import Prior, known_priors
from equiflow.theories.base.space import Space

#: effective sample size per sample below which a pool of samples for training is drawn anew
RESAMPLE_POOL = 0.5


@dataclass(frozen=True)
class Pool:
    """Weighted samples of the density before a leg, on which its layer can be trained.

    Attributes:
        index: number of the leg, from 0.
        action: whose density the samples have; None for the prior.
        phi: `(n_samples, *lattice)`.
        log_weight: `(n_samples,)`.
    """

    index: int
    action: Action | None
    phi: Tensor
    log_weight: Tensor


class StochasticFlow(SavedModule):
    r"""A path of densities with deterministic layers and Monte Carlo updates in turn (arXiv:2002.06707).

    From samples x_0 of the prior r, leg k carries samples by its layer, `y_k = f_k(x_{k-1})`, and then moves
    them to x_k by updates that leave `exp(-S_k)` invariant. With `S_0 = -log r`, a sample collects

        log w = sum_k [S_{k-1}(x_{k-1}) - S_k(y_k) + log |det df_k/dx|],

    and `mean w` is an unbiased estimate of Z of the last action, whatever the layers and updates are
    (Jarzynski 1997, cond-mat/9610209; arXiv:2201.08862). Without layers this is annealed importance sampling.
    Layers that are trained by `fit_segments` do most of the work, as in CRAFT (arXiv:2201.13117).

    Only the maps of the layers count: any `Flow` will do, and its own prior is not used. To go on from a
    trained flow, give its prior and make the flow the first layer.

    Args:
        prior: where the path starts.
        actions: S_1 to S_K, such as `geometric_path(prior, action, 8)`, or actions of other couplings. The
            last one is the target.
        layers: one flow or None for each action; by default there are none.
        kernel: makes the updates of an action: `lambda action: HMC(action)`. Kernels that are not tuned are
            tuned by `fit_segments`, or by `tune`. By default nothing is updated.
        n_updates: updates at each action, one number for all or one each. One number leaves out the last
            action, whose updates change no weight.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if parts live on different spaces or compute in different precisions, the numbers of parts
            differ, or a kernel belongs to another action or does not leave it invariant.

    >>> from equiflow import HMC, EquivariantCNF, FreeField, Lattice, Phi4, geometric_path
    >>> lattice = Lattice((4, 4))
    >>> prior = FreeField(lattice)
    >>> path = geometric_path(prior, Phi4(lattice, m2=-4.0, lam=8.0), 2)
    >>> layers = [EquivariantCNF(lattice) for _ in path]
    >>> flow = StochasticFlow(prior, path, layers=layers, kernel=lambda action: HMC(action, step_size=0.2))
    >>> print(flow)
    2 legs, 2 of them with a layer, updates 1, 0: HMC
    """

    file_kind = "stochastic flow"
    #: ends the message of an error where something else is given, see `check_type`
    how_to_give = "Give an instance, such as StochasticFlow(prior, geometric_path(prior, action, 8))."

    def __init__(
        self,
        prior: Prior,
        actions: Sequence[Action],
        *,
        layers: Sequence[Flow | None] | None = None,
        kernel: Callable[[Action], Update] | None = None,
        n_updates: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        check_type(prior, Prior, "prior", "Give an instance, such as FreeField(lattice).")
        self.prior = prior
        #: the path: action, layer, kernel and number of updates of each leg
        self.legs = make_legs(prior, actions, layers=layers, kernel=kernel, n_updates=n_updates)
        # So that `to` moves them. The same actions and layers are in the legs.
        self.actions = nn.ModuleList([leg.action for leg in self.legs])
        self.layers = nn.ModuleList([leg.layer for leg in self.legs if leg.layer is not None])

    @property
    def space(self) -> Space:
        """The space of the configurations."""
        return self.prior.space

    @property
    def target(self) -> Action:
        """The action at the end of the path."""
        return self.legs[-1].action

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the samples."""
        return self.prior.dtype

    @property
    def device(self) -> torch.device:
        """Device of the samples."""
        return self.prior.device

    @torch.no_grad()
    def travel(
        self, n_samples: int, *, resample: float | None = None, generator: torch.Generator | None = None
    ) -> Arrival:
        """Drive fresh samples of the prior along the path, all of them together.

        Args:
            n_samples: number of samples, >= 0.
            resample: effective sample size per sample below which samples are drawn anew, see
                `journeys.travel`; None for never.
            generator: source of randomness, on the flow's device.

        Returns:
            The samples at the end with their log weights and their families.

        Raises:
            ValueError: if a kernel is not tuned, or `resample` is not between 0 and 1.
        """
        check_resample(resample)
        self._check_tuned()
        return travel(self.legs, self._start(n_samples, generator), resample=resample, generator=generator)

    @torch.no_grad()
    def log_weights_back(self, phi: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Drive samples of the target back to the prior and return their log weights.

        Each leg is undone: updates first, then the inverse of the layer. Then `mean 1/w = 1/Z`, and
        `forward_effective_sample_size` of these weights sees modes that the path never reaches. That one
        number is exact for updates in detailed balance, of which the reverse is as likely.

        Args:
            phi: samples of the target, `(n_samples, *lattice)`.
            generator: source of randomness, on the flow's device.

        Returns:
            `(n_samples,)` in float64.

        Raises:
            TypeError: if `phi` is no tensor of the flow's precision.
            ValueError: if it has another shape, or a kernel is not tuned.
        """
        self._check_tuned()
        state: State = phi, energy(self.target, self.space.check_finite(phi))
        log_weight = torch.zeros(len(phi), dtype=torch.float64, device=phi.device)
        for k in reversed(range(len(self.legs))):
            leg = self.legs[k]
            phi, after = leg.move(state, generator)
            log_det = torch.zeros_like(after)
            if leg.layer is not None:
                phi, log_det = leg.layer.inverse_and_log_det(phi)
                phi = self.space.nearest(phi)
            before = energy(self.legs[k - 1].action, phi) if k else -self.prior.log_prob(phi).double()
            log_weight += before - after - log_det.double()
            state = phi, before
        return log_weight

    @torch.no_grad()
    def tune(
        self,
        n_samples: int = 1024,
        *,
        n_tuning: int = 40,
        train: Callable[[Pool], None] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Tune the kernels that are not, on samples that are driven along the path once.

        Samples that are drawn afterwards have an unbiased Z, since the kernels no longer change.

        Args:
            n_samples: number of samples.
            n_tuning: updates at each action that has a kernel to tune.
            train: called with the samples before each leg, to train its layer.
            generator: source of randomness, on the flow's device.

        Raises:
            TypeError: if a count is no integer.
            ValueError: if a count is not positive.
            RuntimeError: if the step size of a kernel collapses.
        """
        n_samples, n_tuning = check_count(n_samples, "n_samples"), check_count(n_tuning, "n_tuning")
        state: State = self._start(n_samples, generator)
        log_weight = torch.zeros_like(state[1])
        for index, leg in enumerate(self.legs):
            if train is not None:
                before = self.legs[index - 1].action if index else None
                with torch.enable_grad():
                    train(Pool(index, before, state[0], log_weight))
            state, change = leg.work(state)
            log_weight = torch.where(log_weight.isneginf(), -torch.inf, log_weight + change)
            weight = torch.softmax(log_weight, 0)
            if 1 / (n_samples * weight.square().sum()) < RESAMPLE_POOL:
                rows, log_weight = resampled(log_weight, generator)
                state = state[0][rows], state[1][rows]
            if leg.kernel is not None and leg.n_updates and not leg.kernel.is_tuned:
                state = tune_leg(leg, state[0], n_tuning, generator)
            state = leg.move(state, generator)

    @torch.no_grad()
    def certificate(
        self, n_samples: int = 256, *, generator: torch.Generator | None = None
    ) -> Certificate | None:
        """Measure the errors of the layers that no effective sample size can see, see `Flow.certificate`.

        At each leg the same samples are carried by the layer and by a copy in float64 with a finer solver,
        and the changes of their log weights add up. That is the change of log Z to first order.

        Args:
            n_samples: number of samples to compare, >= 0.
            generator: source of randomness, on the flow's device.

        Returns:
            The changes under the finer solve; None without layers.

        Raises:
            ValueError: if a layer only estimates its log-determinants.
        """
        self._check_tuned()
        return certificate_of_legs(self.legs, self._start(n_samples, generator), generator)

    def _start(self, n_samples: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return samples of the prior and their `-log r`."""
        phi = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        return phi, -self.prior.log_prob(phi).double()

    def _check_tuned(self) -> None:
        """Raise a ValueError if a kernel is not tuned."""
        rough = [leg for leg in self.legs if leg.kernel and leg.n_updates and not leg.kernel.is_tuned]
        if rough:
            raise ValueError(
                f"{type(rough[0].kernel).__name__} of {len(rough)} legs is not tuned, and samples that it is "
                "tuned on would be biased. Call flow.tune() or fit_segments(flow), or give a step_size."
            )

    def to_dict(self) -> dict[str, Any]:
        """See `SavedModule.to_dict`; of the path a file knows the text only, and nothing of kernels."""
        return {
            "flow": type(self).__name__,
            **describe_space(self.space),
            "prior": describe(self.prior, known_priors(), self.space),
            "prior_state": self.prior.state_dict(),
            "dtype": dtype_name(self.dtype),
            "path": [repr(leg.action) for leg in self.legs],
            "n_updates": [leg.n_updates for leg in self.legs],
            "layers": [None if leg.layer is None else leg.layer.to_dict() for leg in self.legs],
            "about": dict(self.about),
        }

    @classmethod
    def from_dict(
        cls,
        content: dict[str, Any],
        *,
        device: torch.device | str = "cpu",
        actions: Sequence[Action] = (),
        kernel: Callable[[Action], Update] | None = None,
        prior: Prior | None = None,
        **options: Any,
    ) -> StochasticFlow:
        """See `SavedModule.from_dict`; `actions` and `kernel` are those of the constructor.

        Args:
            content: what `to_dict` returned.
            device: where the flow goes.
            actions: the path, which must have the same text as the saved one.
            kernel: makes the updates of an action.
            prior: an instance that gets the saved weights. Give the one that the actions are made of.
            options: of the layers.

        Returns:
            The flow with its weights.

        Raises:
            TypeError: without actions.
            ValueError: if the actions are not those of the file.
        """
        if not actions:
            raise UnknownOptionError(
                "A file holds no actions. Give the path, StochasticFlow.load(path, actions=[...], "
                "kernel=...), and prior=... if it is made of one."
            )
        if content["path"] != [repr(action) for action in actions]:
            raise ValueError(f"the flow was made for the path {content['path']}, got {list(actions)}")
        dtype = dtype_named(content["dtype"])
        prior = rebuild(content["prior"], known_priors(), space_of(content), given=prior, option="prior").to(
            device, dtype
        )
        load_weights(prior, content["prior_state"])
        layers = [
            None if layer is None else Flow.from_dict(layer, device=device, **options)
            for layer in content["layers"]
        ]
        actions = [action.to(device) for action in actions]
        flow = cls(prior, actions, layers=layers, kernel=kernel, n_updates=content["n_updates"])
        flow.about = dict(content["about"])
        return flow

    def __str__(self) -> str:
        names = dict.fromkeys(type(leg.kernel).__name__ for leg in self.legs if leg.kernel is not None)
        updates = ", ".join(str(leg.n_updates) for leg in self.legs) if names else "none"
        return (
            f"{len(self.legs)} legs, {len(self.layers)} of them with a layer, updates {updates}"
            f"{': ' if names else ''}{', '.join(names)}"
        )
