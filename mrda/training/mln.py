"""Stage 1, the meta-learning network: bicubic pretraining (1a) and meta-learning (1b)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrda.config import StageName, TrainConfig
from mrda.core.randomness import seeded_weights
from mrda.degradations import Degraded
from mrda.degradations.classic import degrade
from mrda.evaluation.methods import mln_method, mln_steps
from mrda.evaluation.protocols import conditions
from mrda.evaluation.samples import Condition, Method, Sample
from mrda.networks import MLN, Network, adaptation
from mrda.training.losses import reconstruction
from mrda.training.stage import (
    Degradation,
    Stage,
    build_degradation,
    degradation_keys,
    load_mln,
    mln_options,
    upscaler_is_frozen,
)


class BicubicStage(Stage):
    """Stage 1a: L1 training of the MLN on bicubic pairs, or (`bicubic.blur`) on the training degradations."""

    name = "bicubic"

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        with seeded_weights(config.seed, self.name, "weights"):
            self.network: MLN = self.build(config)
        self.config = config
        self.degradation = build_degradation(config) if config.bicubic.blur else None

    @classmethod
    def build(cls, config: TrainConfig) -> MLN:
        """An MLN, drawn as `networks.mln_init` says."""
        mln = MLN(**mln_options(config))
        return mln.initialize_he() if config.networks.mln_init == "he" else mln

    @classmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """See `Stage`."""
        plain = ("degradation.border", "degradation.lr_up_from")
        degradation = degradation_keys(config) if config.bicubic.blur else plain
        return (*degradation, "networks.mln_feat", "networks.mln_body", "networks.mln_init")

    @classmethod
    def hr_size(cls, config: TrainConfig) -> int:
        """The patches themselves, where nothing is cut out of a degraded crop."""
        return config.hr_size if config.bicubic.blur else config.scale * config.data.patch_size

    def degrade(self, hr: Tensor, generator: torch.Generator) -> Degraded:
        """With plain bicubic downsampling nothing random is drawn."""
        if self.degradation is not None:
            return super().degrade(hr, generator)
        options = self.config.degradation
        return degrade(hr, None, self.config.scale, border=options.border, lr_up_from=options.lr_up_from)

    def loss(self, step: int, pair: Degraded) -> dict[str, Tensor]:
        """L1 between SR and HR."""
        return {"loss": reconstruction(self.network(pair.lr, pair.lr_up), pair.hr)}

    def method(self, network: Network) -> Method:
        """The MLN as it is."""
        assert isinstance(network, MLN)
        return mln_method(network, steps=0)

    def conditions(self, wanted: Sequence[Condition]) -> Sequence[Condition]:
        """Bicubic downsampling alone, which is what it learns."""
        return wanted if self.config.bicubic.blur else conditions("bicubic", self.config.scale)

    def compile(self) -> None:
        """Compile the MLN as a whole."""
        self.network.compile()


class MetaStage(Stage):
    """Stage 1b: meta-learning over degradations (Algorithm 1), with first or second order gradients.

    A step sees m tasks. Each draws a degradation, adapts the MLN on one half of the batch and judges the adapted MLN
    on the other half; the gradient there, averaged over the tasks, moves the MLN itself.
    """

    name = "meta"
    degradation: Degradation

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        self.network: MLN = load_mln(config, inputs["mln"])
        self.section = config.meta
        self.tasks = config.meta.tasks
        self.hr_per_task = not config.meta.same_hr_across_tasks
        self.loss_share = 1.0 if config.meta.outer_aggregate == "sum" else 1 / config.meta.tasks
        self.degradation = build_degradation(config)
        self.freeze_upscaler = upscaler_is_frozen(config, self.name)
        self.network.requires_grad_(False)
        for parameter in self.network.adaptable_parameters(self.freeze_upscaler).values():
            parameter.requires_grad_()

    @classmethod
    def build(cls, config: TrainConfig) -> MLN:
        """An MLN."""
        return MLN(**mln_options(config))

    @classmethod
    def inputs(cls, config: TrainConfig) -> Mapping[str, StageName]:
        """The pretrained MLN."""
        return {"mln": "bicubic"}

    @classmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """See `Stage`."""
        return *degradation_keys(config), "freeze_upscaler", "networks.mln_feat", "networks.mln_body"

    def loss(self, step: int, pair: Degraded) -> dict[str, Tensor]:
        """L1 of the MLN, adapted on the first half of the batch, on the second half: one task."""
        lr, lr_test = pair.lr.chunk(2)
        lr_up, lr_up_test = pair.lr_up.chunk(2)
        hr, hr_test = pair.hr.chunk(2)
        second_order = self.section.maml_order == 2
        weights = adaptation.adapt(
            self.network,
            lr,
            lr_up,
            hr,
            inner_lr=self.section.inner_lr,
            steps=self.section.inner_steps,
            freeze_upscaler=self.freeze_upscaler,
            second_order=second_order,
            sync=self.inner_mean,
        )
        if not second_order:
            # First order: the fast weights count as theta + constant. Adding theta - theta.detach() = 0 keeps
            # their values to the bit and hands their gradient on to theta.
            theta = self.network.adaptable_parameters(self.freeze_upscaler)
            weights = {name: value + (theta[name] - theta[name].detach()) for name, value in weights.items()}
        return {"loss": reconstruction(adaptation.restore(self.network, weights, lr_test, lr_up_test), hr_test)}

    def method(self, network: Network) -> Method:
        """The MLN, adapted to the photo by all inner steps."""
        assert isinstance(network, MLN)
        return mln_method(network, steps=self.section.inner_steps, **self._adaptation())

    def curve(self, network: Network, steps: int) -> Callable[[Sample], list[Tensor]]:
        """The MLN while it is adapted to the photo."""
        assert isinstance(network, MLN)
        return mln_steps(network, steps=steps, **self._adaptation())

    def compile(self) -> None:
        """Nothing: the MLN runs with other weights than its own, which torch.compile would recompile for."""

    def _adaptation(self) -> dict[str, Any]:
        return {"inner_lr": self.section.inner_lr, "freeze_upscaler": self.freeze_upscaler}
