"""What a run is going to do, said before it starts: stages, steps, parameters, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mrda.config import StageName, TrainConfig
from mrda.networks import DEN, MLN, MRDAOracle, MRDAStudent, MRDATeacher
from mrda.networks.discriminator import UNetDiscriminator
from mrda.networks.vgg import VGG
from mrda.training.stage import mln_options, upscaler_is_frozen
from mrda.training.student import StudentStage
from mrda.training.teacher import TeacherStage

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class StagePlan:
    """One stage of a run.

    Args:
        name: the stage.
        steps: optimizer steps in all.
        done: how many of them are there already.
        batch: images per step, over all processes.
        trained: parameters that the optimizer moves.
        frozen: parameters of networks that are only asked.
        memory: bytes that a process needs for weights, optimizer and activations: an estimate from the sizes of what
            is kept for the backward pass and of the gradients there, without the library's own buffers.
    """

    name: StageName
    steps: int
    done: int
    batch: int
    trained: int
    frozen: int
    memory: int


def plan_stage(config: TrainConfig, name: StageName, *, done: int, micro_batches: int) -> StagePlan:
    """Work a stage's numbers out on the meta device, in no time and without memory."""
    section = config.stage(name)
    lr = torch.empty(section.batch, 3, config.data.patch_size, config.data.patch_size, device="meta")
    with torch.device("meta"):
        mln = MLN(**mln_options(config))
        frozen_upscaler = upscaler_is_frozen(config, name)
        adapted = sum(parameter.numel() for parameter in mln.adaptable_parameters(frozen_upscaler).values())
        if name in ("bicubic", "meta"):
            return _plan_mln(config, name, mln, lr, adapted, done, micro_batches)
        den_input = config.teacher.den_input if name == "teacher" else "features"
        network: MRDATeacher | MRDAStudent | MRDAOracle = TeacherStage.build(config)
        frozen = 0
        if name == "student":
            frozen = _count(network)
            network = StudentStage.build(config)
    judge, judged = _visual(config, name, lr)
    trained = _count(network) + judge
    degradation = torch.empty(section.batch, 4 * config.networks.den_width, device="meta")
    activations = _kept(lambda: network.rdan(lr, degradation))
    den = network.den
    if isinstance(den, DEN):
        seen = lr if den.in_channels == 3 else lr.new_empty(len(lr), den.in_channels, *lr.shape[2:])
        activations += _kept(lambda: den(seen))
    fast = 0
    if den_input == "features":
        frozen += _count(mln)
        copies = section.batch if config.adaptation.per == "image" else 1
        fast = 3 * copies * adapted * _FLOAT  # the weights before and after a step, and the gradient
        activations = max(activations, _kept(lambda: mln(lr, _enlarged(lr, config.scale))))
    activations += judged
    memory = _weights(config, trained, frozen) + fast + _precision(config, activations)
    return StagePlan(name, section.steps, done, section.batch * micro_batches, trained, frozen, memory)


def _plan_mln(
    config: TrainConfig, name: StageName, mln: MLN, lr: Tensor, adapted: int, done: int, micro_batches: int
) -> StagePlan:
    section = config.stage(name)
    if name == "meta":
        half = lr[: max(1, len(lr) // 2)]
        graphs = config.meta.inner_steps + 1 if config.meta.maml_order == 2 else 1
        activations = graphs * _kept(lambda: mln(half, _enlarged(half, config.scale)))
        trained, fast = adapted, (2 + graphs) * adapted * _FLOAT
    else:
        activations = _kept(lambda: mln(lr, _enlarged(lr, config.scale)))
        trained, fast = _count(mln), 0
    memory = _weights(config, trained, _count(mln) - trained) + fast + _precision(config, activations)
    return StagePlan(name, section.steps, done, section.batch * micro_batches, trained, 0, memory)


def _visual(config: TrainConfig, name: StageName, lr: Tensor) -> tuple[int, int]:
    """Parameters of a stage's discriminator, and what the visual loss keeps for the backward pass."""
    if config.visual_step(name) is None:
        return 0, 0
    sr, parameters, kept = _enlarged(lr, config.scale).requires_grad_(), 0, 0
    if config.visual.gan_weight:
        with torch.device("meta"):
            discriminator = UNetDiscriminator(num_feat=config.visual.num_feat)
        parameters, kept = _count(discriminator), 3 * _kept(lambda: discriminator(sr))  # SR, HR and SR detached
    if config.visual.perceptual_weight:
        with torch.device("meta"):
            vgg = VGG("vgg19", list(config.visual.perceptual_layers)).requires_grad_(False)
        kept += _kept(lambda: vgg(sr))
    return parameters, kept


def _weights(config: TrainConfig, trained: int, frozen: int) -> int:
    # The parameter, its gradient, Adam's two moments, and the average where there is one.
    return _FLOAT * (trained * (4 + (config.train.ema_decay is not None)) + frozen)


def _precision(config: TrainConfig, activations: int) -> int:
    return activations if config.train.mixed_precision == "no" else activations // 2


def _enlarged(lr: Tensor, scale: int) -> Tensor:
    return lr.new_empty(*lr.shape[:2], scale * lr.shape[2], scale * lr.shape[3])


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _kept(run: Callable[[], Any]) -> int:
    """Bytes that autograd keeps of a forward pass on the meta device, and twice the largest piece of it.

    The backward pass holds two gradients of that size at its widest. Parameters are left out.
    """
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter):
            alive.append(tensor)  # or its storage's number might be given to another
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(kept.values()) + 2 * max(kept.values())
