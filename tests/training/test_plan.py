from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mrda.config import STAGES, TrainConfig
from mrda.config.load import load_config
from mrda.networks import UNetDiscriminator
from mrda.training import Run, StagePlan
from mrda.training.plan import _visual_cost, plan_stage

Changed = Callable[..., TrainConfig]


def test_parameters_of_the_published_networks() -> None:
    config = load_config("classic-iso-x4")
    plans = {name: plan_stage(config, name, done=0, micro_batches=2) for name in STAGES}
    upscaler = 1_184_131
    assert {name: plan.trained for name, plan in plans.items()} == {
        "bicubic": 2_073_219,
        "meta": 2_073_219 - upscaler,
        "teacher": 5_910_713,
        "student": 5_838_713,
    }
    assert plans["teacher"].frozen == 2_073_219
    assert plans["student"].frozen == 2_073_219 + 5_910_713
    assert [plan.batch for plan in plans.values()] == [128, 64, 32, 32]
    # A convolution saves its input for the backward pass, and so does LeakyReLU. 16 images of 64x64 and 64 channels
    # are 16 MiB, and each of 27 blocks saves six such tensors at least.
    assert plans["student"].memory > 27 * 6 * 16 * 2**20


def test_memory_grows_with_what_is_kept(toy: TrainConfig, changed: Changed) -> None:
    def memory(name: str, config: TrainConfig) -> int:
        return plan_stage(config, name, done=0, micro_batches=1).memory  # type: ignore[arg-type]

    assert memory("meta", changed(toy, meta={"maml_order": 2})) > 2 * memory("meta", toy)
    assert memory("teacher", changed(toy, adaptation={"per": "image"})) > memory("teacher", toy)
    assert memory("teacher", changed(toy, train={"mixed_precision": "bf16"})) < memory("teacher", toy)
    assert memory("bicubic", changed(toy, train={"ema_decay": 0.9})) > memory("bicubic", toy)
    for den_input in ("lr", "kernel"):
        assert memory("teacher", changed(toy, teacher={"den_input": den_input})) < memory("teacher", toy)


def test_a_run_plans_the_steps_that_are_left(toy: TrainConfig, tmp_path: Path) -> None:
    told: list[list[StagePlan]] = []
    for stages in (["bicubic"], None):
        run = Run(toy, tmp_path, stages=stages, progress=False)  # type: ignore[arg-type]
        told.append(run.plan())
        run.train()
    assert [[(plan.name, plan.done) for plan in plans] for plans in told] == [
        [("bicubic", 0)],
        [("bicubic", 4), ("meta", 0), ("teacher", 0), ("student", 0)],
    ]


@pytest.mark.parametrize("name", STAGES)
def test_networks_that_no_machine_holds_are_planned_all_the_same(name: str, toy: TrainConfig, changed: Changed) -> None:
    huge = changed(toy, networks={"num_feat": 20_000, "mln_feat": 20_000, "den_width": 20_000})
    assert plan_stage(huge, name, done=0, micro_batches=1).memory > 2**36  # type: ignore[arg-type]


def test_the_visual_loss_is_planned_with_its_networks(toy: TrainConfig, changed: Changed) -> None:
    def plan(**visual: object) -> StagePlan:
        config = changed(toy, teacher={"visual_from": 3}, visual={"num_feat": 4, **visual})
        return plan_stage(config, "teacher", done=0, micro_batches=1)

    plain = plan_stage(toy, "teacher", done=0, micro_batches=1)
    neither = plan(perceptual_weight=0.0, gan_weight=0.0)
    assert (neither.trained, neither.memory) == (plain.trained, plain.memory)
    discriminator = plan(perceptual_weight=0.0)
    with torch.device("meta"):
        assert discriminator.trained - plain.trained == sum(
            p.numel() for p in UNetDiscriminator(num_feat=4).parameters()
        )
    assert plan().memory > discriminator.memory > plain.memory
    shallow = {"backbone": "vgg16", "perceptual_layers": {"conv1_2": 1.0, "conv5_4": 0.0}}
    assert plan().memory > plan(**shallow).memory > discriminator.memory
    costs = [
        _visual_cost(changed(toy, visual=visual | {"gan_weight": 0.0}))
        for visual in ({}, shallow, {"perceptual_weight": 0.0})
    ]
    # Products per HR pixel: 3x64 and 64x64 channels of the first block at full size, the others at a quarter each.
    assert costs == [2 * 43_200 * toy.scale**2, 2 * (3 + 64) * 64 * toy.scale**2, 0]
