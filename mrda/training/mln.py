"""Stage 1, the meta-learning network: its adaptation, bicubic pretraining (1a) and meta-learning (1b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mrda.config import StageName, TrainConfig
from mrda.degradations.classic import degrade
from mrda.networks import MLN
from mrda.randomness import seeded_weights
from mrda.training.losses import reconstruction
from mrda.training.stage import Stage, build_degradation, load_mln, mln_options, upscaler_is_frozen


def adapt(
    mln: MLN,
    lr: Tensor,
    lr_up: Tensor,
    hr: Tensor,
    *,
    inner_lr: Sequence[float],
    steps: int,
    freeze_upscaler: bool,
) -> dict[str, Tensor]:
    """Adapt the MLN to one batch by a few steps of plain SGD on its L1 loss (Algorithms 1 and 2).

    The module's own parameters are never touched, whatever the gradient mode around the call.

    Args:
        mln: the network to start from.
        lr: (B, 3, H, W) LR batch in [0, 1].
        lr_up: (B, 3, sH, sW) LR batch enlarged by bicubic.
        hr: (B, 3, sH, sW) HR batch in [0, 1].
        inner_lr: learning rate of each step; the last one serves all further steps.
        steps: number of steps; 0 returns copies.
        freeze_upscaler: leave the upscaler out.

    Returns:
        The adapted ("fast") weights by parameter name, detached: what `torch.func.functional_call` takes.
    """
    fast = {name: value.detach().clone() for name, value in mln.adaptable_parameters(freeze_upscaler).items()}
    for step in range(steps):
        with torch.enable_grad():
            leaves = {name: value.requires_grad_() for name, value in fast.items()}
            loss = reconstruction(functional_call(mln, leaves, (lr, lr_up)), hr)
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        rate = inner_lr[min(step, len(inner_lr) - 1)]
        fast = {
            name: value.detach() - rate * gradient
            for (name, value), gradient in zip(leaves.items(), gradients, strict=True)
        }
    return fast


class _Tap(nn.Module):
    """Lets `functional_call`, which only calls ``forward``, reach `MLN.features`."""

    def __init__(self, mln: MLN) -> None:
        super().__init__()
        self.mln = mln

    def forward(self, lr: Tensor) -> Tensor:
        return self.mln.features(lr)


def adapted_features(
    mln: MLN, lr: Tensor, lr_up: Tensor, hr: Tensor, *, config: TrainConfig, stage: StageName
) -> Tensor:
    """D'_T: the features of the MLN adapted to this very batch, detached (Algorithm 2).

    The forward pass after the last step stops at the tap.

    Returns:
        (B, C', H, W) float32.
    """
    fast = adapt(
        mln,
        lr,
        lr_up,
        hr,
        inner_lr=config.adaptation.inner_lr,
        steps=config.adaptation.inner_steps,
        freeze_upscaler=upscaler_is_frozen(config, stage),
    )
    with torch.no_grad():
        features: Tensor = functional_call(_Tap(mln), {f"mln.{name}": value for name, value in fast.items()}, (lr,))
    return features.float()


class BicubicStage(Stage):
    """Stage 1a: L1 training of the MLN on bicubic pairs."""

    name = "bicubic"
    depends_on: ClassVar = ("degradation.border", "networks.mln_feat", "networks.mln_body")

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        with seeded_weights(config.seed, self.name, "weights"):
            self.network: MLN = MLN(**mln_options(config))
        self.scale = config.scale
        self.border = config.degradation.border

    def loss(self, step: int, hr: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """L1 between SR and HR; nothing random is drawn."""
        pair = degrade(hr, None, self.scale, border=self.border)
        return {"loss": reconstruction(self.network(pair.lr, pair.lr_up), hr)}


class MetaStage(Stage):
    """Stage 1b: meta-learning over degradations (Algorithm 1) with first-order gradients.

    A step sees m tasks on the same HR images. Each draws a degradation, adapts the MLN on one half of the
    batch and judges the adapted MLN on the other half; the gradient there, averaged over the tasks, moves
    the MLN itself.
    """

    name = "meta"
    inputs: ClassVar = {"mln": "bicubic"}
    depends_on: ClassVar = ("degradation", "freeze_upscaler", "networks.mln_feat", "networks.mln_body")

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        self.network: MLN = load_mln(config, inputs["mln"])
        self.section = config.meta
        self.tasks = config.meta.tasks
        self.degradation = build_degradation(config)
        self.freeze_upscaler = upscaler_is_frozen(config, self.name)
        self.network.requires_grad_(False)
        for parameter in self.network.adaptable_parameters(self.freeze_upscaler).values():
            parameter.requires_grad_()

    def loss(self, step: int, hr: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """L1 of the MLN, adapted on the first half of the batch, on the second half: one task."""
        pair = self.degradation(hr, generator)
        lr, lr_test = pair.lr.chunk(2)
        lr_up, lr_up_test = pair.lr_up.chunk(2)
        hr, hr_test = hr.chunk(2)
        fast = adapt(
            self.network,
            lr,
            lr_up,
            hr,
            inner_lr=self.section.inner_lr,
            steps=self.section.inner_steps,
            freeze_upscaler=self.freeze_upscaler,
        )
        # First order: the fast weights count as theta + constant. Adding theta - theta.detach() = 0 keeps
        # their values to the bit and hands their gradient on to theta.
        theta = self.network.adaptable_parameters(self.freeze_upscaler)
        weights = {name: value + (theta[name] - theta[name].detach()) for name, value in fast.items()}
        return {"loss": reconstruction(functional_call(self.network, weights, (lr_test, lr_up_test)), hr_test)}
