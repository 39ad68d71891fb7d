import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState
from adaptation_by_hand import sgd_by_hand
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from mrda.config import StageName, TrainConfig
from mrda.core.randomness import derive_seed, generator
from mrda.data.patches import PatchSampler, load_patches
from mrda.degradations import Degraded, degrade
from mrda.networks import MLN, MRDAOracle, MRDAStudent, adaptation, load_network, lr_with_hr
from mrda.training import STAGES, train
from mrda.training.components import Adapter, build_degradation
from mrda.training.losses import kl_divergence, reconstruction
from mrda.training.processes import Processes
from mrda.training.stages import BicubicStage, MetaStage, Stage, StudentStage, TeacherStage
from mrda.training.trainer import Trainer, build_optimizer

Changed = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def weights(toy: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[StageName, Path]:
    """Final weights of a finished toy run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        return train(toy, tmp_path_factory.mktemp("run"), progress=False)


def build(name: StageName, config: TrainConfig, weights: dict[StageName, Path]) -> Stage:
    stage = STAGES[name]
    return stage(config, {key: weights[maker] for key, maker in stage.inputs(config).items()})


def patches(toy: TrainConfig, batch: int = 4) -> Tensor:
    sampler: PatchSampler = load_patches(toy.data, toy.scale)
    return sampler.sample(batch, generator(0, "test")).float() / 255


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def moved(before: dict[str, Tensor], network: nn.Module) -> set[str]:
    return {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}


# Adaptation


def test_adapted_features_are_those_of_the_adapted_copy(toy: TrainConfig) -> None:
    mln = MLN(scale=2, num_feat=4, num_body=2)
    hr = patches(toy)
    pair = build_degradation(toy)(hr, generator(1))
    adapter = Adapter(mln, toy.adaptation, freeze_upscaler=True)
    vars(adapter)["mln_to_adapt"] = mln  # with the upscaler as one convolution the order of its sums would differ
    features = adapter.features(pair)
    adapted = copy.deepcopy(mln)
    adapted.load_state_dict(
        sgd_by_hand(mln, pair.lr, pair.lr_up, hr, toy.adaptation.inner_lr[:2], freeze_upscaler=True)
    )
    torch.testing.assert_close(features, adapted.features(pair.lr).detach(), rtol=0, atol=0)
    assert not features.requires_grad


def test_the_mln_may_adapt_to_some_images_of_the_batch(toy: TrainConfig) -> None:
    mln, hr = MLN(scale=2, num_feat=4, num_body=2), patches(toy)
    pair = build_degradation(toy)(hr, generator(1))
    options = toy.adaptation.model_copy(update={"images": 2})
    adapter = Adapter(mln, options, freeze_upscaler=True)
    vars(adapter)["mln_to_adapt"] = mln  # with the upscaler as one convolution the order of its sums would differ
    features = adapter.features(pair)
    adapted = copy.deepcopy(mln)
    two = (pair.lr[:2], pair.lr_up[:2], hr[:2])
    adapted.load_state_dict(sgd_by_hand(mln, *two, options.inner_lr[:2], freeze_upscaler=True))
    assert len(features) == len(hr) > 2
    torch.testing.assert_close(features, adapted.features(pair.lr).detach(), rtol=0, atol=0)


def test_the_mln_may_adapt_to_another_image_of_the_same_degradation(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    config = changed(toy, adaptation={"on": None, "per": "image"}, degradation={"per": "image", "noise_range": [0, 0]})
    stage, hr = build("teacher", config, weights), patches(toy)
    batch, alone = stage.degrade(hr, generator(1)), build("teacher", toy, weights).degrade(hr, generator(1))
    assert alone.other_hr is None
    assert batch.kernel is not None
    again = degrade(hr.roll(1, 0), batch.kernel, config.scale, **config.degradation.resampling)
    assert batch.other_lr is not None
    assert batch.other_lr_up is not None
    assert batch.other_hr is not None
    torch.testing.assert_close(batch.other_lr, again.lr)
    torch.testing.assert_close(batch.other_lr_up, again.lr_up)
    assert torch.equal(batch.other_hr, hr.roll(1, 0))
    seen = stage.seen_by_teacher(batch)
    assert stage.adapter is not None
    fast = adaptation.adapt(
        stage.adapter.mln_to_adapt,
        batch.other_lr,
        batch.other_lr_up,
        batch.other_hr,
        inner_lr=config.adaptation.inner_lr,
        steps=config.adaptation.inner_steps,
        per_image=True,
    )
    torch.testing.assert_close(seen, adaptation.features(stage.adapter.mln, fast, batch.lr, per_image=True).detach())
    assert not torch.equal(seen, stage.seen_by_teacher(batch._replace(other_lr=None)))


# Stage 1b


@pytest.mark.parametrize("freeze_upscaler", ["all", "none"])
def test_the_meta_gradient_is_the_gradient_at_the_adapted_weights(
    toy: TrainConfig, weights: dict[StageName, Path], freeze_upscaler: str, changed: Changed
) -> None:
    config = changed(toy, freeze_upscaler=freeze_upscaler, meta={"inner_lr": [0.5], "inner_steps": 3})
    stage = build("meta", config, weights)
    assert isinstance(stage, MetaStage)
    vars(stage)["mln_to_adapt"] = (
        stage.network
    )  # with the upscaler as one convolution the order of its sums would differ
    hr = patches(config)
    stage.loss(0, stage.degrade(hr, generator(3)))["loss"].backward()

    pair = build_degradation(config)(hr, generator(3))
    frozen = freeze_upscaler == "all"
    theta = parameters(stage.network)
    theta |= sgd_by_hand(stage.network, pair.lr[:2], pair.lr_up[:2], hr[:2], [0.5] * 3, frozen)
    adapted = copy.deepcopy(stage.network)
    adapted.load_state_dict(theta)
    adapted.zero_grad()
    reconstruction(adapted(pair.lr[2:], pair.lr_up[2:]), hr[2:]).backward()
    for (name, own), other in zip(stage.network.named_parameters(), adapted.parameters(), strict=True):
        assert (own.grad is None) == (frozen and name.startswith("upscaler."))
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=0, atol=0)


def test_the_tasks_of_a_step_share_hr_and_draw_their_own_degradation(
    toy: TrainConfig, weights: dict[StageName, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = build("meta", toy, weights)
    assert isinstance(stage, MetaStage)
    seen: list[tuple[Tensor, Tensor]] = []
    degrade = stage.degradation.__call__

    def spy(hr: Tensor, draws: torch.Generator) -> object:
        pair = degrade(hr, draws)
        assert pair.kernel is not None
        seen.append((hr, pair.kernel))
        return pair

    monkeypatch.setattr(stage, "degradation", spy)
    step(stage, toy)
    assert len(seen) == toy.meta.tasks == 2
    assert torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("adapt_sync", [True, False])
def test_micro_batches_that_adapt_together_share_the_degradation(
    adapt_sync: bool,
    toy: TrainConfig,
    weights: dict[StageName, Path],
    changed: Changed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = changed(toy, train={"micro_batches": 2, "adapt_sync": adapt_sync})
    stage = build("teacher", config, weights)
    assert isinstance(stage, TeacherStage)
    kernels: list[Tensor] = []
    degrade = stage.degradation.__call__

    def spy(hr: Tensor, draws: torch.Generator) -> object:
        pair = degrade(hr, draws)
        assert pair.kernel is not None
        kernels.append(pair.kernel)
        return pair

    monkeypatch.setattr(stage, "degradation", spy)
    step(stage, config)
    assert torch.equal(*kernels) == adapt_sync


# Stages 2 and 3


def step(stage: Stage, config: TrainConfig, number: int = 0) -> dict[str, float]:
    sampler = load_patches(config.data, config.scale)
    processes = Processes(Accelerator(mixed_precision="no"), config.train.micro_batches)
    trainer = Trainer(stage, config, processes)
    batches = (trainer.sample(sampler, key) for key in trainer.patch_keys([number]))
    trainer.step = number
    result = trainer.train_step(batches)
    assert result.fault is None
    assert next(batches, None) is None
    return result.scalars


def test_a_teacher_step_moves_the_whole_teacher_and_no_mln(toy: TrainConfig, weights: dict[StageName, Path]) -> None:
    stage = build("teacher", toy, weights)
    assert isinstance(stage, TeacherStage)
    assert stage.adapter is not None
    teacher, mln = parameters(stage.network), parameters(stage.adapter.mln)
    step(stage, toy)
    assert moved(teacher, stage.network) == set(teacher)
    assert moved(mln, stage.adapter.mln) == set()


def test_the_student_starts_with_the_teachers_rdan_and_a_fresh_den(
    toy: TrainConfig, weights: dict[StageName, Path]
) -> None:
    stage = build("student", toy, weights)
    assert isinstance(stage, StudentStage)
    torch.testing.assert_close(parameters(stage.network.rdan), parameters(stage.teacher.rdan), rtol=0, atol=0)
    own, teachers = stage.network.den.state_dict(), stage.teacher.den.state_dict()
    same_shape = [name for name in own if own[name].shape == teachers[name].shape]
    assert same_shape
    assert not any(torch.equal(own[name], teachers[name]) for name in same_shape)


@pytest.mark.parametrize(("number", "parts"), [(1, ("den.",)), (2, ("den.", "rdan."))])
def test_the_student_moves_its_den_first_and_then_everything(
    toy: TrainConfig, weights: dict[StageName, Path], number: int, parts: tuple[str, ...]
) -> None:
    assert toy.student.encoder_steps == 2
    stage = build("student", toy, weights)
    assert isinstance(stage, StudentStage)
    assert stage.adapter is not None
    student, teacher, mln = (parameters(part) for part in (stage.network, stage.teacher, stage.adapter.mln))
    scalars = step(stage, toy, number)
    assert moved(student, stage.network) == {name for name in student if name.startswith(parts)}
    assert moved(teacher, stage.teacher) == moved(mln, stage.adapter.mln) == set()
    total = toy.student.lambda_kl * scalars["kl"] + toy.student.lambda_abs * scalars["abs"]
    # One float32 sum of at most three terms of the total's size.
    assert scalars["loss"] == pytest.approx(total + scalars.get("l1", 0.0), rel=4 * torch.finfo().eps)
    assert ("l1" in scalars) == ("rdan." in parts)


@pytest.mark.parametrize(("share", "factors"), [(0.5, (1, 1, 1, 0.5, 0, 0)), (1, None), (None, (1,) * 6)])
def test_the_distillation_fades_after_the_encoder_only_phase(
    share: float | None,
    factors: tuple[float, ...] | None,
    toy: TrainConfig,
    weights: dict[StageName, Path],
    changed: Changed,
) -> None:
    config = changed(toy, student={"distil_share": share})
    assert (config.student.steps, config.student.encoder_steps) == (6, 2)
    stage = build("student", config, weights)
    assert isinstance(stage, StudentStage)
    found = [stage.distillation_weight(number) for number in range(6)]
    faded = [1, 1, *((1 + math.cos(math.pi * done / 4)) / 2 for done in range(4))]
    assert found == pytest.approx(factors or faded, abs=1 / 64)
    batch = stage.degrade(patches(config), generator(1))
    for number in range(2, 6):
        terms = stage.loss(number, batch)
        distillation = config.student.lambda_kl * terms.get("kl", 0) + config.student.lambda_abs * terms.get("abs", 0)
        torch.testing.assert_close(terms["loss"], terms["l1"] + found[number] * distillation)


def test_one_graph_serves_many_steps_of_a_long_fade(toy: TrainConfig, changed: Changed) -> None:
    config = changed(toy, student={"steps": 10_000, "encoder_steps": 100, "distil_share": 0.5})
    stage = StudentStage.__new__(StudentStage)
    stage.config = config
    found = [stage.distillation_weight(number) for number in range(10_000)]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 65
    assert [number for number in range(1, 10_000) if (found[number] == 0) != (found[number - 1] == 0)] == [5050]


def test_without_weights_there_is_no_distillation_after_the_encoder_only_phase(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    config = changed(toy, student={"lambda_kl": 0, "lambda_abs": 0, "distil_share": None})
    stage = build("student", config, weights)
    assert isinstance(stage, StudentStage)
    assert [stage.distillation_weight(number) for number in range(6)] == [1, 1, 0, 0, 0, 0]
    assert "abs" not in step(stage, config, 2)


def test_the_teacher_is_not_run_where_the_distillation_has_gone(
    toy: TrainConfig, weights: dict[StageName, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = build("student", toy, weights)
    assert isinstance(stage, StudentStage)
    monkeypatch.delattr(stage, "teacher")
    monkeypatch.delattr(stage, "adapter")
    step(stage, toy, toy.student.distilled_steps)
    with pytest.raises(AttributeError, match="teacher"):
        step(stage, toy, toy.student.distilled_steps - 1)
    keys = [stage.graph_key(number) for number in range(toy.student.steps)]
    assert [keys.index(key) for key in keys] == [0, 0, 2, 3, 4, 4]


def test_a_teacher_of_lr_and_hr_distils_without_mln(toy: TrainConfig, tmp_path: Path, changed: Changed) -> None:
    config = changed(toy, teacher={"den_input": "lr_hr"}, train={"stages": ["teacher", "student"]})
    made = train(config, tmp_path, progress=False)
    student = build("student", config, made)
    assert isinstance(student, StudentStage)
    assert student.adapter is None
    batch = student.degrade(patches(config), generator(1))
    terms = student.loss(0, batch)
    target = student.teacher.degradation(lr_with_hr(batch.lr, batch.hr))
    assert terms["abs"] == (student.network.degradation(batch.lr) - target).abs().mean()


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("per", ["image", "batch"])
def test_a_teacher_that_is_told_the_blur_distils_its_idr(
    per: str, norm: str, toy: TrainConfig, tmp_path: Path, changed: Changed
) -> None:
    config = changed(
        toy,
        degradation={"per": per},
        networks={"den_norm": norm},
        teacher={"den_input": "kernel"},
        train={"stages": ["teacher", "student"]},
    )
    student = build("student", config, train(config, tmp_path, progress=False))
    assert isinstance(student, StudentStage)
    assert isinstance(student.teacher, MRDAOracle)
    assert student.adapter is None
    batch = student.degrade(patches(config), generator(1))
    assert batch.kernel is not None
    assert len(batch.kernel) == (len(batch.lr) if per == "image" else 1)
    target = student.teacher.degradation(batch.kernel).expand(len(batch.lr), -1)
    terms = student.loss(0, batch)
    assert terms["abs"] == (student.network.degradation(batch.lr) - target).abs().mean()
    assert terms["kl"] == kl_divergence(
        student.network.degradation(batch.lr), target, temperature=0.15, reduction="batchmean"
    )


@pytest.mark.parametrize(("den_input", "network"), [("lr", MRDAStudent), ("kernel", MRDAOracle)])
def test_a_teacher_without_mln_needs_none(
    den_input: str, network: type[nn.Module], toy: TrainConfig, changed: Changed
) -> None:
    config = changed(toy, teacher={"den_input": den_input})
    assert TeacherStage.inputs(config) == {}
    stage = TeacherStage(config, {})
    assert isinstance(stage.network, network)
    before = parameters(stage.network)
    step(stage, config)
    assert moved(before, stage.network) == set(before)


@pytest.mark.parametrize("conv_type", ["dasr_da", "static"])
@pytest.mark.parametrize("name", ["teacher", "student"])
def test_other_convs_are_trained_in_both_networks(
    name: StageName, conv_type: str, toy: TrainConfig, tmp_path: Path, changed: Changed
) -> None:
    config = changed(toy, networks={"conv_type": conv_type}, train={"steps": 2}).resized()
    path = train(config, tmp_path, progress=False)[name]
    assert load_network(path).hyperparameters["conv_type"] == conv_type


@pytest.mark.parametrize("name", ["teacher", "student"])
@pytest.mark.parametrize("reset", [True, False])
def test_the_mln_drifts_where_it_is_not_reset(
    name: StageName,
    reset: bool,
    toy: TrainConfig,
    weights: dict[StageName, Path],
    changed: Changed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = changed(toy, adaptation={"reset_mln": reset, "inner_lr": [0.5]}, train={"micro_batches": 2})
    stage = build(name, config, weights)
    assert stage.adapter is not None
    before = parameters(stage.adapter.mln)
    ended: list[dict[str, Tensor]] = []
    adapt = adaptation.adapt

    def spy(*arguments: Any, **options: Any) -> dict[str, Tensor]:
        ended.append(adapt(*arguments, **options))
        return ended[-1]

    monkeypatch.setattr("mrda.networks.adaptation.adapt", spy)
    step(stage, config)
    first, second = ended
    after = parameters(stage.adapter.mln)
    for key in before:
        # The mean of the micro-batches' adapted weights; the upscaler is frozen.
        drifts = key in first and not reset
        torch.testing.assert_close(
            after[key], (first[key] + second[key]) / 2 if drifts else before[key], rtol=0, atol=0
        )


def test_tasks_of_other_hr_images_draw_them(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(toy, meta={"same_hr_across_tasks": False})
    stage = build("meta", config, weights)
    seen: list[Tensor] = []
    loss = MetaStage.loss

    def spy(self: MetaStage, number: int, batch: Degraded) -> dict[str, Tensor]:
        seen.append(batch.hr)
        return loss(self, number, batch)

    monkeypatch.setattr(MetaStage, "loss", spy)
    step(stage, config)
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_summed_tasks_have_the_gradient_of_averaged_ones_times_their_number(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    norms = [
        step(build("meta", config, weights), config)["gradient_norm"]
        for config in (changed(toy, meta={"outer_aggregate": kind}) for kind in ("mean", "sum"))
    ]
    # Two tasks: a power of two, exact in floating point except for the rounding of the norm.
    assert norms[1] == pytest.approx(2 * norms[0], rel=4 * torch.finfo().eps)


@pytest.mark.parametrize("maml_order", [1, 2])
def test_second_order_changes_the_gradient_and_not_the_loss(
    maml_order: int, toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    first, scalars = (
        step(build("meta", config, weights), config)
        for config in (changed(toy, meta={"inner_lr": [1.0], "maml_order": order}) for order in (1, maml_order))
    )
    # The same computations, in another order at most.
    assert scalars["loss"] == pytest.approx(first["loss"], rel=16 * torch.finfo().eps)
    assert (scalars["gradient_norm"] == first["gradient_norm"]) == (maml_order == 1)


def test_stage_1a_blurs_only_where_asked(toy: TrainConfig, changed: Changed) -> None:
    losses = [
        step(BicubicStage(config, {}), config)["loss"]
        for config in (toy, changed(toy, bicubic={"blur": True}), changed(toy, degradation={"kernel": "anisotropic"}))
    ]
    assert losses[0] != losses[1]
    assert losses[0] == losses[2]


@pytest.mark.parametrize(
    ("freeze_upscaler", "frozen_in"),
    [("all", {"meta", "teacher", "student"}), ("student_only", {"student"}), ("none", set())],
)
def test_the_upscaler_is_frozen_where_the_option_says(
    toy: TrainConfig,
    weights: dict[StageName, Path],
    freeze_upscaler: str,
    frozen_in: set[str],
    changed: Changed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = changed(toy, freeze_upscaler=freeze_upscaler)
    asked: list[bool] = []
    parameters_of = MLN.adaptable_parameters

    def spy(mln: MLN, freeze_upscaler: bool) -> dict[str, nn.Parameter]:
        asked.append(freeze_upscaler)
        return parameters_of(mln, freeze_upscaler)

    monkeypatch.setattr(MLN, "adaptable_parameters", spy)
    for name in ("meta", "teacher", "student"):
        asked.clear()
        step(build(name, config, weights), config)
        assert set(asked) == {name in frozen_in}


@pytest.mark.parametrize("name", ["meta", "teacher", "student"])
def test_float16_adapts_the_mln_as_float32_does(
    name: StageName,
    toy: TrainConfig,
    weights: dict[StageName, Path],
    changed: Changed,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The mean over so many pixels gives each a gradient of 2^-20, far below the resolution of float16.
    Image.open(photo).resize((160, 160)).save(tmp_path / "large.png")
    data = {"patch_size": 64, "sources": [str(tmp_path / "large.png")]}
    config = changed(toy, data=data, **{name: {"batch": 16}})
    hr = patches(config, 16)
    moves: list[Tensor] = []
    adapt = adaptation.adapt

    def spy(mln: MLN, *arguments: Any, **options: Any) -> dict[str, Tensor]:
        fast = adapt(mln, *arguments, **options)
        own = dict(mln.named_parameters())
        moves.append(torch.cat([(fast[key] - own[key]).detach().flatten() for key in fast]))
        return fast

    monkeypatch.setattr("mrda.networks.adaptation.adapt", spy)
    for half in (False, True):
        probe = build(name, config, weights)
        with torch.autocast("cpu", torch.float16, enabled=half):
            probe.loss(0, probe.degrade(hr, generator(1)))
    expected, found = moves
    # A dozen layers round to 11 bits, which also moves some inputs of LeakyReLU and L1 across zero; these errors add
    # up with random signs.
    assert (found - expected).norm() <= (12 * 2**-11 + (2 * 2**-11) ** 0.5) * expected.norm()


# The training step


def test_micro_batches_are_averaged_and_differ(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    config = changed(toy, train={"micro_batches": 2})
    stage = build("bicubic", config, weights)
    assert isinstance(stage, BicubicStage)
    before = copy.deepcopy(stage.network)
    step(stage, config, 5)
    sampler = load_patches(config.data, config.scale)
    batches = [
        sampler.sample(config.bicubic.batch, generator(config.seed, "bicubic", 5, micro_batch, "patches"))
        for micro_batch in range(2)
    ]
    assert not torch.equal(*batches)
    stage.network.load_state_dict(before.state_dict())
    for parameter, gradient in zip(stage.network.parameters(), before.parameters(), strict=True):
        gradient.grad, parameter.grad = parameter.grad, None
    for hr in batches:
        (0.5 * stage.loss(5, stage.degrade(hr.float() / 255, generator(0)))["loss"]).backward()
    for parameter, stepped in zip(stage.network.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, stepped.grad, rtol=0, atol=0)


def test_the_launchers_gradient_accumulation_divides_nothing(
    toy: TrainConfig, weights: dict[StageName, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = step(build("bicubic", toy, weights), toy)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setattr(GradientState, "_shared_state", {})  # as in a new process with this environment
    assert Accelerator(mixed_precision="no").gradient_accumulation_steps == 4
    assert step(build("bicubic", toy, weights), toy) == plain


def test_the_gradient_is_clipped_where_asked(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    for clip in (None, 1e-3):
        stage = build("bicubic", toy, weights)
        scalars = step(stage, changed(toy, train={"gradient_clip": clip}))
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in stage.trainable() if p.grad is not None]))
        assert scalars["gradient_norm"] > 1e-3
        # The norm of the scaled gradients has the rounding error of a sum of a few thousand squares.
        assert norm == pytest.approx(clip or scalars["gradient_norm"], rel=1e-4)


def test_a_step_has_the_learning_rate_of_its_number(toy: TrainConfig, changed: Changed) -> None:
    config = changed(toy, bicubic={"halve_every": 2, "lr": 1e-3})
    trainer = Trainer(BicubicStage(config, {}), config, Processes(Accelerator(mixed_precision="no"), 1))
    rates = []
    for _ in range(4):
        before = parameters(trainer.stage.network)
        trainer.train_step(iter([torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8)]))
        rates += [group["lr"] for group in trainer.optimizer.param_groups]
        # Adam moves no weight by much more than the rate.
        after = trainer.stage.network.state_dict()
        assert max(float((after[name] - value).abs().max()) for name, value in before.items()) <= 1.1 * rates[-1]
    assert rates == [1e-3, 1e-3, 5e-4, 5e-4]


@pytest.mark.parametrize("name", STAGES)
def test_bfloat16_changes_little_and_keeps_float32_parameters(
    name: StageName, toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    plain, half = (
        step(build(name, toy, weights), changed(toy, train={"mixed_precision": precision}))
        for precision in ("no", "bf16")
    )
    stage = build(name, toy, weights)
    half = step(stage, changed(toy, train={"mixed_precision": "bf16"}))
    assert half != plain  # the loss alone may be equal by chance
    # bfloat16 has 8 bits; the loss is an average over networks of a dozen layers.
    assert half["loss"] == pytest.approx(plain["loss"], rel=12 * 2**-8)
    assert {parameter.dtype for parameter in stage.network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "change"),
    [("meta", {"meta": {"maml_order": 2}}), ("teacher", {"adaptation": {"per": "image"}})],
)
def test_bfloat16_goes_with_second_order_and_with_weights_of_each_image(
    name: StageName, change: dict[str, Any], toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    config = changed(toy, **change)
    plain, half = (
        step(build(name, config, weights), changed(config, train={"mixed_precision": precision}))
        for precision in ("no", "bf16")
    )
    assert half["loss"] == pytest.approx(plain["loss"], rel=12 * 2**-8)
    assert half["gradient_norm"] == pytest.approx(plain["gradient_norm"], rel=24 * 2**-8)


def test_float16_scales_the_loss_and_skips_what_overflows(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    config = changed(toy, train={"mixed_precision": "fp16"})
    stage = build("teacher", config, weights)
    plain = step(build("teacher", toy, weights), toy)
    half = step(stage, config)
    # float16 has 11 bits, and the gradient passes the dozen layers twice; it is unscaled before its norm is taken.
    assert half["loss"] == pytest.approx(plain["loss"], rel=12 * 2**-11)
    assert half["gradient_norm"] == pytest.approx(plain["gradient_norm"], rel=24 * 2**-11)

    trainer = Trainer(stage, config, Processes(Accelerator(mixed_precision="no"), 1))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = parameters(stage.network)
    result = trainer.train_step(iter([torch.zeros(2, 3, 24, 24, dtype=torch.uint8)]))
    assert result.fault is not None
    assert moved(before, stage.network) == set()
    assert trainer.scaler.get_scale() == 2.0**126
    assert (trainer.step, trainer.skipped, trainer.skipped_in_row) == (1, 1, 1)


def test_the_average_of_the_weights_is_what_is_published(
    toy: TrainConfig, weights: dict[StageName, Path], tmp_path: Path, changed: Changed
) -> None:
    config = changed(toy, train={"ema_decay": 0.75, "keep_checkpoints": 9, "checkpoint_every": 1})
    path = train(config, tmp_path, stages=["bicubic"], progress=False)["bicubic"]
    saved = [load_file(folder / "network.safetensors") for folder in sorted((path.parent / "checkpoints").iterdir())]
    expected = saved[0]  # the average starts from the weights after the first step
    for after in saved[1:]:
        expected = {name: 0.75 * value + 0.25 * after[name] for name, value in expected.items()}
    # Three interpolations, each of two roundings.
    torch.testing.assert_close(load_file(path), expected, rtol=6 * torch.finfo().eps, atol=torch.finfo().eps)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bicubic", "teacher", "student"])
def test_compiled_networks_compute_the_same(
    name: StageName, toy: TrainConfig, tmp_path: Path, changed: Changed
) -> None:
    # The compiler's time grows with the network's depth.
    shallow = changed(toy, networks={"num_blocks": 1, "mln_body": 1})
    config = changed(shallow, train={"compile": True})
    weights = train(shallow, tmp_path, progress=False)
    plain, stage = build(name, shallow, weights), build(name, config, weights)
    first, second = step(plain, shallow, 3), step(stage, config, 3)
    # Fused arithmetic rounds otherwise; the loss is an average over networks of a dozen layers.
    assert second["loss"] == pytest.approx(first["loss"], rel=12 * 8 * torch.finfo().eps)
    assert list(stage.network.state_dict()) == list(plain.network.state_dict())


def test_seeds_depend_on_every_label() -> None:
    places = [(1, "meta", 2, 3), (1, "meta", 3, 2), (1, "meta", 23), (2, "meta", 2, 3), (1, "teacher", 2, 3)]
    seeds = [derive_seed(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_losses_of_all_stages_fall_on_one_patch(toy: TrainConfig, tmp_path: Path, changed: Changed) -> None:
    """Overfitting: one patch-sized photo under one blur; only flips and transpositions vary."""
    long = {"steps": 60, "lr": 2e-3, "lr_law": "constant"}
    config = changed(
        toy,
        train={"log_every": 1, "checkpoint_every": 1000},
        data={"patch_size": 16, "sources": [crop(toy, tmp_path)]},
        degradation={"sigma_range": [1.0, 1.0]},
        bicubic=long,
        meta=long,
        teacher=long,
        student={**long, "encoder_steps": 30, "encoder_lr": 2e-3},
    )
    paths = train(config, tmp_path / "run", progress=False)
    for name, path in paths.items():
        records = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == list(range(1, 61))
        phases = [records[:30], records[30:]] if name == "student" else [records]
        for phase in phases:
            first, last = (sum(record["loss"] for record in part) / 5 for part in (phase[:5], phase[-5:]))
            assert last < 0.9 * first
        assert load_network(path).scale == toy.scale


def crop(toy: TrainConfig, folder: Path) -> str:
    path = folder / "patch.png"
    Image.open(toy.data.sources[0]).crop((0, 0, 32, 32)).save(path)
    return str(path)


@pytest.mark.parametrize("stage", [TeacherStage, StudentStage])
def test_dens_start_as_the_configuration_says(stage: type[Stage], toy: TrainConfig, changed: Changed) -> None:
    def weight(config: TrainConfig) -> Tensor:
        torch.manual_seed(0)
        return stage.build(config).den.convs[0].weight

    he = changed(toy, networks={"den_init": "he"})
    fan_in = 27  # 3 channels, 3 x 3
    if stage is TeacherStage:
        fan_in = 9 * toy.networks.mln_feat
    assert float(weight(toy).detach().abs().max()) <= fan_in**-0.5
    assert float(weight(he).detach().abs().max()) > 1.5 * fan_in**-0.5
    # An image's first filters see no even colour; the MLN's features are read as they are.
    sums = weight(changed(toy, networks={"den_init": "edges"})).detach().sum(dim=(2, 3)).abs().max()
    assert (float(sums) < 1e-6) == (stage is StudentStage)


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_the_saved_den_normalizes_as_the_training_did(
    name: StageName, toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    config = changed(toy, networks={"den_norm": "batch"})
    stage = build(name, config, weights)
    before = float(stage.idr_norm.running_mean.abs().max())
    for number in range(3):
        batch = stage.degrade(patches(config), generator(number))
        stage.loss(99, batch)
    seen = batch.lr if name == "student" else stage.seen_by_teacher(batch)
    idr = stage.network.degradation(seen).detach()
    in_training = stage.normalized(idr)
    torch.testing.assert_close(in_training.mean(dim=0), torch.zeros(len(idr[0])), rtol=0, atol=1e-5)
    assert float(stage.idr_norm.running_mean.abs().max()) > before == 0

    finished = stage.finished(stage.network, stage.idr_norm)
    expected = (idr - stage.idr_norm.running_mean) / (stage.idr_norm.running_var + stage.idr_norm.eps).sqrt()
    torch.testing.assert_close(finished.degradation(seen).detach(), expected, rtol=1e-4, atol=1e-5)
    assert finished.state_dict().keys() == stage.network.state_dict().keys()
    assert torch.equal(stage.network.degradation(seen), idr)


def test_processes_share_the_statistics_of_the_idrs(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    stage = build("teacher", changed(toy, networks={"den_norm": "batch"}), weights)
    stage.after_step(lambda tensors: [tensor + 2 for tensor in tensors])
    assert stage.idr_norm.running_mean.eq(2).all()
    assert stage.idr_norm.running_var.eq(3).all()


def test_the_average_of_the_weights_has_the_average_of_the_statistics(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    config = changed(toy, networks={"den_norm": "batch"}, train={"ema_decay": 0.75})
    stage = build("teacher", config, weights)
    trainer = Trainer(stage, config, Processes(Accelerator(mixed_precision="no"), 1))
    means = []
    for number in range(2):
        hr = (255 * patches(config)).to(torch.uint8)
        trainer.train_step(iter([hr.roll(number, dims=3)]))
        means.append(stage.idr_norm.running_mean.clone())
    _, norm = trainer.average.module
    torch.testing.assert_close(norm.running_mean, 0.75 * means[0] + 0.25 * means[1])
    other = Trainer(build("teacher", config, weights), config, trainer.processes)
    other.load_state_dict(trainer.state_dict())
    assert torch.equal(other.stage.idr_norm.running_mean, means[1])


def test_the_mln_starts_as_the_configuration_says(toy: TrainConfig, changed: Changed) -> None:
    torch.manual_seed(0)
    lr, lr_up = torch.rand(1, 3, 9, 8), torch.rand(1, 3, 9 * toy.scale, 8 * toy.scale)
    published = BicubicStage.build(toy)
    he = BicubicStage.build(changed(toy, networks={"mln_init": "he"}))
    # With torch's rule each convolution leaves a third of the variance, and LeakyReLU half of that.
    before, after = (float(mln.features(lr).detach().square().mean()) for mln in (published, he))
    assert before < 0.3 * after
    assert torch.equal(he(lr, lr_up), lr_up)
    assert not torch.equal(published(lr, lr_up), lr_up)


def test_what_is_kept_of_weights_sees_a_fused_optimizer(toy: TrainConfig) -> None:
    stage = BicubicStage(toy, {})
    optimizer = build_optimizer(stage, toy, fused=True)  # as on a GPU
    upscaler, features = stage.network.upscaler, torch.ones(1, toy.networks.mln_feat, 4, 4)
    with torch.no_grad():
        before = upscaler(features)
    upscaler(features).sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = upscaler(features)
        assert torch.equal(after, copy.deepcopy(upscaler)(features))
    assert not torch.equal(after, before)


def test_gradients_and_moments_have_the_layout_of_their_parameters(
    toy: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fused optimizer reads raw memory: with another layout it would move the wrong weights.
    saved = None
    for channels_last in (False, True):
        stage = BicubicStage(toy, {})
        processes = Processes(Accelerator(mixed_precision="no"), 2)
        engine = toy.train.model_copy(update={"channels_last": channels_last})
        trainer = Trainer(stage, toy.model_copy(update={"train": engine}), processes)
        if saved is not None:
            trainer.load_state_dict(saved)
        pair = stage.degrade(patches(toy), generator(0))
        stage.loss(0, pair)["loss"].backward()
        monkeypatch.setattr(processes, "count", 2)
        monkeypatch.setattr(processes.accelerator, "reduce", lambda flat, reduction: 2 * flat)
        before = [parameter.grad.clone() for parameter in stage.trainable()]
        for parameter, gradient, total in zip(
            stage.trainable(), before, processes.sum_gradients(stage.trainable()), strict=True
        ):
            assert total is parameter.grad
            assert torch.equal(total, 2 * gradient)
            assert total.stride() == parameter.stride()
        trainer.optimizer.step()
        for parameter, moments in trainer.optimizer.state.items():
            assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == parameter.stride()
        saved = trainer.state_dict()
    assert stage.trainable()[0].stride() != BicubicStage(toy, {}).trainable()[0].stride()
