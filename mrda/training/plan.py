# SPDX-License-Identifier: Apache-2.0
"""Numbers of a stage that follow from the configuration alone: learning rates, cost, parameters, memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mrda.config import StageConfig, StageName, StudentConfig, TrainConfig
from mrda.networks import DEN, MLN, MRDAOracle, MRDAStudent, MRDATeacher
from mrda.networks.discriminator import UNetDiscriminator
from mrda.networks.vgg import VGG
from mrda.training.components import build_student, build_teacher, mln_options, upscaler_is_frozen
from mrda.training.stages import STAGES

_FLOAT = 4  # bytes


# Learning rates: functions of the step, so that a resumed run needs no scheduler state


def learning_rate(stage: StageConfig, step: int) -> float:
    """Adam's learning rate in step ``step`` = 0, 1, ... of a stage.

    The encoder-only phase of the student has its own law: a tenth every `encoder_decay_every` steps. Its joint phase
    follows `lr_law`, as every other stage does, counted from the first step of the phase. In the first `warmup_steps`
    of a stage the rate is multiplied by a factor that rises linearly to one.
    """
    return min(1.0, (step + 1) / (stage.warmup_steps + 1)) * _after_warmup(stage, step)


def discriminator_share(config: TrainConfig, stage: StageName) -> float:
    """Learning rate of the discriminator divided by that of the network; 1 for a stage without a visual loss."""
    first = config.visual_step(stage)
    if first is None:
        return 1.0
    section = config.stage(stage)
    return config.visual.discriminator_lr / (learning_rate(section, first) or section.lr)


def _after_warmup(stage: StageConfig, step: int) -> float:
    first = stage.encoder_steps if isinstance(stage, StudentConfig) else 0
    if isinstance(stage, StudentConfig) and step < first:
        return stage.encoder_lr * 0.1 ** _decays(step, stage.encoder_decay_first, stage.encoder_decay_every)
    if stage.lr_law == "halving":
        return stage.lr * 0.5 ** _decays(step - first, stage.halve_first, stage.halve_every)
    if stage.lr_law == "cosine":
        progress = (step - first) / (stage.steps - first)
        return stage.lr_min + 0.5 * (stage.lr - stage.lr_min) * (1 + math.cos(math.pi * progress))
    return stage.lr


def _decays(step: int, first: int | None, every: int) -> int:
    """Number of decays up to ``step``: one at ``first`` (or ``every``), then one every ``every`` steps."""
    return max(0, (step - (first or every)) // every + 1)


# Cost, for the time that remains


def cost(config: TrainConfig, stage: StageName, steps: int) -> float:
    """Relative cost of a stage's first ``steps`` steps.

    It is the number of images in a micro-batch times the 3x3 convolutions' channel products per LR pixel.
    """
    networks = config.networks
    # A pixel-shuffle upsampler works on up to scale^2 times the pixels; 20 is x4's 4 + 16.
    mln = networks.mln_feat**2 * (networks.mln_body + 20)
    rdan, den = _rdan_cost(config), _den_cost(config)
    adapted, all_images = config.adaptation.images, config.stage(stage).batch
    adaptation = config.adaptation.inner_steps * mln * min(1.0, (adapted or all_images) / all_images)
    per_image = {
        "bicubic": mln,
        "meta": config.meta.maml_order * config.meta.tasks * (config.meta.inner_steps + 1) * mln / 2,
        "teacher": _adapts(config, "teacher") * adaptation + den + rdan,
        "student": den + rdan,
    }
    encoder_steps = min(steps, config.student.encoder_steps) if stage == "student" else 0
    distilled_steps = min(steps, config.student.distilled_steps) if stage == "student" else 0
    distillation = distilled_steps * (_adapts(config, "student") * adaptation + den)
    first = config.visual_step(stage)
    visual_steps = 0 if first is None else max(0, steps - first)
    visual = visual_steps * _visual_cost(config) if visual_steps else 0
    return config.stage(stage).batch * (steps * per_image[stage] + distillation - encoder_steps * rdan + visual)


def network_cost(config: TrainConfig) -> float:
    """Relative cost per image of a step of the student alone."""
    return _rdan_cost(config) + _den_cost(config)


def _rdan_cost(config: TrainConfig) -> float:
    return config.networks.num_feat**2 * (2 * config.networks.num_blocks + 21)


def _den_cost(config: TrainConfig) -> float:
    return 4 * config.networks.den_width**2  # its later layers are wider, on fewer pixels


def _adapts(config: TrainConfig, stage: StageName) -> bool:
    """True if the stage of a teacher or student adapts an MLN."""
    return "mln" in STAGES[stage].inputs(config)


def _visual_cost(config: TrainConfig) -> float:
    """Cost per image of the visual loss: VGG on SR and HR, the discriminator on SR twice and on HR."""
    vgg = 2 * _vgg_cost(config.visual.backbone, tuple(config.visual.layers)) if config.visual.perceptual_weight else 0
    discriminator = 3 * 11 * config.visual.num_feat**2 * (config.visual.gan_weight > 0)
    return config.scale**2 * (vgg + discriminator)


@cache  # progress is told in these units at every step
def _vgg_cost(backbone: str, layers: tuple[str, ...]) -> float:
    with torch.device("meta"):
        vgg = VGG(backbone, layers)
    cost, area = 0.0, 1.0
    for layer in vgg.features:
        if isinstance(layer, nn.MaxPool2d):
            area /= 4
        elif isinstance(layer, nn.Conv2d):
            cost += area * layer.in_channels * layer.out_channels
    return cost


# Parameters and memory


@dataclass(frozen=True)
class StagePlan:
    """One stage of a run.

    Args:
        name: the stage.
        steps: optimizer steps in all.
        done: steps that are finished already.
        batch: images per step, over all processes.
        trained: parameters that the optimizer moves.
        frozen: parameters of frozen networks.
        memory: bytes that a process needs for weights, optimizer and activations: an estimate from the sizes of the
            tensors that are saved for the backward pass and of the gradients, without buffers of the libraries.
    """

    name: StageName
    steps: int
    done: int
    batch: int
    trained: int
    frozen: int
    memory: int


def plan_stage(config: TrainConfig, name: StageName, *, done: int, micro_batches: int) -> StagePlan:
    """Compute the plan of a stage on the meta device, without memory for tensors.

    Args:
        config: the run's configuration.
        name: the stage.
        done: steps that are finished already.
        micro_batches: micro-batches per step, over all processes.

    Raises:
        ValueError: the networks can't be built with these options.
    """
    section = config.stage(name)
    lr = torch.empty(section.batch, 3, config.data.patch_size, config.data.patch_size, device="meta")
    with torch.device("meta"):
        mln = MLN(mln_options(config))
        frozen_upscaler = upscaler_is_frozen(config, name)
        adapted = sum(parameter.numel() for parameter in mln.adaptable_parameters(frozen_upscaler).values())
        if name in ("bicubic", "meta"):
            return _plan_mln(config, name, mln, lr, adapted, done, micro_batches)
        network: MRDATeacher | MRDAStudent | MRDAOracle = build_teacher(config)
        frozen = 0
        if name == "student":
            frozen = _count(network)
            network = build_student(config)
    discriminator, visual_activations = _plan_visual_loss(config, name, lr)
    trained = _count(network) + discriminator
    degradation = torch.empty(section.batch, 4 * config.networks.den_width, device="meta")
    activations = _activations(lambda: network.rdan(lr, degradation))
    den = network.den
    if isinstance(den, DEN):
        den_images = lr if den.in_channels == 3 else lr.new_empty(len(lr), den.in_channels, *lr.shape[2:])
        activations += _activations(lambda: den(den_images))
    adapted_weights = 0
    if _adapts(config, name):
        frozen += _count(mln)
        copies = section.batch if config.adaptation.per == "image" else 1
        adapted_weights = 3 * copies * adapted * _FLOAT  # the weights before and after a step, and the gradient
        activations = max(activations, _activations(lambda: mln(lr, _enlarged(lr, config.scale))))
    activations += visual_activations
    memory = _weights(config, trained, frozen) + adapted_weights + _in_precision(config, activations)
    return StagePlan(name, section.steps, done, section.batch * micro_batches, trained, frozen, memory)


def _plan_mln(
    config: TrainConfig, name: StageName, mln: MLN, lr: Tensor, adapted: int, done: int, micro_batches: int
) -> StagePlan:
    section = config.stage(name)
    if name == "meta":
        half = lr[: max(1, len(lr) // 2)]
        graphs = config.meta.inner_steps + 1 if config.meta.maml_order == 2 else 1
        activations = graphs * _activations(lambda: mln(half, _enlarged(half, config.scale)))
        trained, adapted_weights = adapted, (2 + graphs) * adapted * _FLOAT
    else:
        activations = _activations(lambda: mln(lr, _enlarged(lr, config.scale)))
        trained, adapted_weights = _count(mln), 0
    memory = _weights(config, trained, _count(mln) - trained) + adapted_weights + _in_precision(config, activations)
    return StagePlan(name, section.steps, done, section.batch * micro_batches, trained, 0, memory)


def _plan_visual_loss(config: TrainConfig, name: StageName, lr: Tensor) -> tuple[int, int]:
    """Parameters of a stage's discriminator, and bytes of the visual loss's activations."""
    if config.visual_step(name) is None:
        return 0, 0
    sr, parameters, activations = _enlarged(lr, config.scale).requires_grad_(), 0, 0
    if config.visual.gan_weight:
        with torch.device("meta"):
            discriminator = UNetDiscriminator(num_feat=config.visual.num_feat)
        # It runs on SR, on HR and on SR detached.
        parameters, activations = _count(discriminator), 3 * _activations(lambda: discriminator(sr))
    if config.visual.perceptual_weight:
        with torch.device("meta"):
            vgg = VGG(config.visual.backbone, config.visual.layers).requires_grad_(False)
        activations += _activations(lambda: vgg(sr))
    return parameters, activations


def _weights(config: TrainConfig, trained: int, frozen: int) -> int:
    # The parameter, its gradient, Adam's two moments, and the average with `ema_decay`.
    return _FLOAT * (trained * (4 + (config.train.ema_decay is not None)) + frozen)


def _in_precision(config: TrainConfig, activations: int) -> int:
    return activations if config.train.mixed_precision == "no" else activations // 2


def _enlarged(lr: Tensor, scale: int) -> Tensor:
    return lr.new_empty(*lr.shape[:2], scale * lr.shape[2], scale * lr.shape[3])


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _activations(run: Callable[[], Any]) -> int:
    """Bytes that autograd saves of a forward pass on the meta device, and twice the largest tensor of it.

    The backward pass holds two gradients of that size at its widest. Parameters are left out.
    """
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter):
            alive.append(tensor)  # so that no other storage gets the same address
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(sizes.values()) + 2 * max(sizes.values())
