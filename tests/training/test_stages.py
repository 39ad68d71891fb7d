import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from mrda.config import StageName, TrainConfig
from mrda.data import PatchSampler, load_patches
from mrda.networks import MLN, load_network
from mrda.randomness import derive_seed, generator
from mrda.training import STAGES, train
from mrda.training.loop import train_step
from mrda.training.losses import reconstruction
from mrda.training.mln import BicubicStage, MetaStage, adapt, adapted_features
from mrda.training.stage import Stage, build_degradation
from mrda.training.student import StudentStage
from mrda.training.teacher import TeacherStage

Changed = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def weights(toy: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[StageName, Path]:
    """Final weights of a finished toy run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        return train(toy, tmp_path_factory.mktemp("run"), progress=False)


def build(name: StageName, config: TrainConfig, weights: dict[StageName, Path]) -> Stage:
    stage = STAGES[name]
    return stage(config, {key: weights[maker] for key, maker in stage.inputs.items()})


def patches(toy: TrainConfig, batch: int = 4) -> Tensor:
    sampler: PatchSampler = load_patches(toy.data, toy.scale)
    return sampler.sample(batch, generator(0, "test")).float() / 255


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def moved(before: dict[str, Tensor], network: nn.Module) -> set[str]:
    return {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}


# Adaptation


def sgd_by_hand(
    mln: MLN, lr: Tensor, lr_up: Tensor, hr: Tensor, rates: list[float], freeze_upscaler: bool
) -> dict[str, Tensor]:
    mln = copy.deepcopy(mln).requires_grad_()
    for rate in rates:
        mln.zero_grad()
        (mln(lr, lr_up) - hr).abs().mean().backward()
        with torch.no_grad():
            for name, parameter in mln.named_parameters():
                if not (freeze_upscaler and name.startswith("upscaler.")):
                    parameter -= rate * parameter.grad
    return dict(mln.named_parameters())


@pytest.mark.parametrize("freeze_upscaler", [True, False])
@pytest.mark.parametrize("gradients_are_on", [True, False])
def test_adaptation_is_sgd_on_a_copy(toy: TrainConfig, freeze_upscaler: bool, gradients_are_on: bool) -> None:
    mln = MLN(scale=2, num_feat=4, num_body=2)
    before = parameters(mln)
    hr = patches(toy)
    pair = build_degradation(toy)(hr, generator(1))
    with torch.set_grad_enabled(gradients_are_on):
        fast = adapt(mln, pair.lr, pair.lr_up, hr, inner_lr=[0.5, 0.1], steps=4, freeze_upscaler=freeze_upscaler)
    expected = sgd_by_hand(mln, pair.lr, pair.lr_up, hr, [0.5, 0.1, 0.1, 0.1], freeze_upscaler)

    assert any(name.startswith("upscaler.") for name in fast) != freeze_upscaler
    for name, value in fast.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
        assert not value.requires_grad
        assert not torch.equal(value, before[name])
    assert moved(before, mln) == set()
    assert all(parameter.grad is None for parameter in mln.parameters())


def test_no_steps_give_the_networks_own_weights(toy: TrainConfig) -> None:
    mln = MLN(scale=2, num_feat=4, num_body=2)
    hr = patches(toy)
    pair = build_degradation(toy)(hr, generator(1))
    fast = adapt(mln, pair.lr, pair.lr_up, hr, inner_lr=[0.5], steps=0, freeze_upscaler=False)
    torch.testing.assert_close(fast, parameters(mln), rtol=0, atol=0)


def test_adapted_features_are_those_of_the_adapted_copy(toy: TrainConfig) -> None:
    mln = MLN(scale=2, num_feat=4, num_body=2)
    hr = patches(toy)
    pair = build_degradation(toy)(hr, generator(1))
    features = adapted_features(mln, pair.lr, pair.lr_up, hr, config=toy, stage="teacher")
    adapted = copy.deepcopy(mln)
    adapted.load_state_dict(
        sgd_by_hand(mln, pair.lr, pair.lr_up, hr, toy.adaptation.inner_lr[:2], freeze_upscaler=True)
    )
    torch.testing.assert_close(features, adapted.features(pair.lr).detach(), rtol=0, atol=0)
    assert not features.requires_grad


# Stage 1b


@pytest.mark.parametrize("freeze_upscaler", ["all", "none"])
def test_the_meta_gradient_is_the_gradient_at_the_adapted_weights(
    toy: TrainConfig, weights: dict[StageName, Path], freeze_upscaler: str, changed: Changed
) -> None:
    config = changed(toy, freeze_upscaler=freeze_upscaler, meta={"inner_lr": [0.5], "inner_steps": 3})
    stage = build("meta", config, weights)
    assert isinstance(stage, MetaStage)
    hr = patches(config)
    stage.loss(0, hr, generator(3))["loss"].backward()

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


# Stages 2 and 3


def step(stage: Stage, config: TrainConfig, number: int = 0) -> dict[str, float]:
    optimizer = torch.optim.Adam(stage.trainable(), lr=1e-3)
    sampler = load_patches(config.data, config.scale)
    return train_step(stage, number, config, sampler, optimizer, Accelerator(mixed_precision="no"))


def test_a_teacher_step_moves_the_whole_teacher_and_no_mln(toy: TrainConfig, weights: dict[StageName, Path]) -> None:
    stage = build("teacher", toy, weights)
    assert isinstance(stage, TeacherStage)
    teacher, mln = parameters(stage.network), parameters(stage.mln)
    step(stage, toy)
    assert moved(teacher, stage.network) == set(teacher)
    assert moved(mln, stage.mln) == set()


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
    student, teacher, mln = parameters(stage.network), parameters(stage.teacher), parameters(stage.mln)
    scalars = step(stage, toy, number)
    assert moved(student, stage.network) == {name for name in student if name.startswith(parts)}
    assert moved(teacher, stage.teacher) == moved(mln, stage.mln) == set()
    total = toy.student.lambda_kl * scalars["kl"] + toy.student.lambda_abs * scalars["abs"]
    # One float32 sum of at most three terms of the total's size.
    assert scalars["loss"] == pytest.approx(total + scalars.get("l1", 0.0), rel=4 * torch.finfo().eps)
    assert ("l1" in scalars) == ("rdan." in parts)


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


# The loop


def test_micro_batches_are_averaged_and_differ(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    config = changed(toy, micro_batches=2)
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
        (0.5 * stage.loss(5, hr.float() / 255, generator(0))["loss"]).backward()
    for parameter, stepped in zip(stage.network.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, stepped.grad, rtol=0, atol=0)


def test_the_gradient_is_clipped_where_asked(
    toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    for clip in (None, 1e-3):
        stage = build("bicubic", toy, weights)
        scalars = step(stage, changed(toy, gradient_clip=clip))
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in stage.trainable() if p.grad is not None]))
        assert scalars["gradient_norm"] > 1e-3
        # The norm of the scaled gradients carries the rounding of a sum of a few thousand squares.
        assert norm == pytest.approx(clip or scalars["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("name", STAGES)
def test_bfloat16_changes_little_and_keeps_float32_parameters(
    name: StageName, toy: TrainConfig, weights: dict[StageName, Path], changed: Changed
) -> None:
    plain, half = (
        step(build(name, toy, weights), changed(toy, mixed_precision=precision)) for precision in ("no", "bf16")
    )
    stage = build(name, toy, weights)
    half = step(stage, changed(toy, mixed_precision="bf16"))
    assert half["loss"] != plain["loss"]
    # bfloat16 has 8 bits; the loss is an average over networks of a dozen layers.
    assert half["loss"] == pytest.approx(plain["loss"], rel=12 * 2**-8)
    assert {parameter.dtype for parameter in stage.network.parameters()} == {torch.float32}


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
        log_every=1,
        checkpoint_every=1000,
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
