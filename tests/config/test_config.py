import ast
import inspect
import math
import re
import textwrap
import typing
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from mrda.config import STAGES, Section, StudentConfig, TrainConfig
from mrda.config.base import option_paths
from mrda.config.load import PRESETS, configs, load_config, parse_config
from mrda.degradations.kernels import KERNEL_SIZE
from mrda.training.plan import learning_rate

SETTINGS = [f"classic-{kind}-x{scale}" for kind in ("iso", "aniso-noise") for scale in (2, 3, 4)]
RELEASE = [
    "release/mrda-x4",
    "release/mrda-x4-start",
    "release/mrda-x4-noise",
    "release/mrda-x4-real",
    "release/mrda-x2",
    "release/evidence-x4",
]
ROWS = ["t1", "t2", "t3", "s1", "s2", "s3", "s4", "s5", "s6", "fixed_upscaler", "free_upscaler"]


def test_the_packaged_configurations_are_these() -> None:
    rows = {f"ablation/{row}" for row in ROWS}
    assert set(configs()) == {"demo", "toy", *SETTINGS, *rows, *RELEASE, "real-x4", "real-toy"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", configs())
def test_a_configuration_survives_the_way_through_yaml(name: str, preset: str, tmp_path: Path) -> None:
    config = load_config(name, ["train.steps=40"], preset=preset)
    path = tmp_path / "resolved.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config


def test_the_recommended_preset_is_the_defaults() -> None:
    assert load_config("classic-iso-x4", ["degradation.sigma_range=null"]) == TrainConfig()


def test_the_official_preset_has_the_quirks_of_the_released_code() -> None:
    config = load_config("classic-aniso-noise-x4", preset="official")
    assert config.adaptation.reset_mln is False
    assert config.freeze_upscaler == "student_only"
    assert config.degradation.theta_range == pytest.approx((0, math.pi / 180))
    assert config.degradation.noise_range == (0, 25)
    assert (config.meta.maml_order, config.student.kl_temperature, config.student.lambda_abs) == (1, 0.15, 0.1)
    # Its epochs are counted from 1: in stage 1a of 971 steps each, epoch 125 is the first of half the rate.
    assert learning_rate(config.bicubic, 124 * 971 - 1) == 1e-4
    assert learning_rate(config.bicubic, 124 * 971) == 5e-5
    assert learning_rate(config.bicubic, 249 * 971) == 2.5e-5
    assert [learning_rate(config.student, step) for step in (59 * 647 - 1, 59 * 647, 100 * 647)] == pytest.approx(
        [1e-4, 1e-5, 1e-4], rel=1e-15
    )
    assert learning_rate(config.student, 224 * 647) == 5e-5


def test_the_paper_preset_has_what_the_paper_prints() -> None:
    config = load_config("classic-iso-x2", preset="paper")
    assert config.degradation.sigma_range == (0.2, 2.0)
    assert (config.networks.dyn_act, config.networks.mask_channels, config.meta.maml_order) == ("none", 1, 2)
    assert {config.stage(name).lr for name in STAGES} == {2e-4}
    assert {config.stage(name).batch for name in STAGES} == {64}
    student = config.student
    assert (student.encoder_steps, student.lambda_kl, student.lambda_abs) == (0, 1, 0.01)
    assert (student.kl_temperature, student.kl_reduction) == (1, "mean_elements")
    assert student.distil_share is None
    assert load_config("classic-iso-x4", preset="official").student.distil_share is None
    assert config.adaptation.inner_lr == config.meta.inner_lr == [0.01]


def test_a_configuration_goes_before_its_preset_and_an_override_before_both() -> None:
    assert load_config("toy", preset="paper").meta.batch == 4
    assert load_config("toy", preset="paper").meta.maml_order == 2
    assert load_config("toy", ["meta.maml_order=1"], preset="paper").meta.maml_order == 1


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="preset is 'papr', but must be one of recommended, paper, official"):
        load_config("toy", preset="papr")


def test_a_file_changes_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: [toy, {tmp_path / 'base.yaml'}]\nmeta: {{tasks: 3}}\n")
    (tmp_path / "base.yaml").write_text("meta: {tasks: 7, batch: 8}\n")
    config = load_config(tmp_path / "mine.yaml")
    assert (config.scale, config.meta.tasks, config.meta.batch, config.meta.steps) == (2, 3, 8, 4)


def test_a_row_of_the_ablation_can_extend_another_configuration() -> None:
    row = load_config("ablation/s6", ["train.steps=2"], instead={"classic-iso-x4": "toy"})
    changes = ["teacher.den_input=lr", "train.stages=[teacher]", "train.steps=2"]
    assert row == load_config("toy", changes)


def test_what_stands_instead_may_extend_the_name_that_it_stands_for(tmp_path: Path) -> None:
    mine = "extends: classic-iso-x4\nseed: 7\nstudent: {lambda_kl: 0.5, lambda_abs: 0.2}\n"
    (tmp_path / "mine.yaml").write_text(mine)
    row = load_config("ablation/s1", instead={"classic-iso-x4": tmp_path / "mine.yaml"})
    assert (row.seed, row.student.lambda_kl, row.student.lambda_abs) == (7, 0.0, 0.2)
    assert load_config("ablation/s4", instead={"classic-iso-x4": "ablation/s4"}) == load_config("ablation/s4")


def test_overrides_of_what_stands_instead_are_below_what_extends_it() -> None:
    below = ["student.lambda_kl=0.5", "student.lambda_abs=0.2", "meta.tasks=3"]
    row = load_config("ablation/s1", ["meta.tasks=4"], instead={"classic-iso-x4": "toy"}, instead_overrides=below)
    assert (row.student.lambda_kl, row.student.lambda_abs, row.meta.tasks) == (0.0, 0.2, 4)
    with pytest.raises(ValueError, match=r"did you mean 'student\.lambda_kl'"):
        load_config("ablation/s1", instead={"classic-iso-x4": "toy"}, instead_overrides=["student.lambda_k=0"])


@pytest.mark.parametrize("text", ["5", "null", "[null]", "[{a: b}]", "{a: b}"])
def test_what_can_t_be_extended_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: {text}\n")
    with pytest.raises(ValueError, match=r"mine\.yaml' must extend a name, a path or a list of them, it was "):
        load_config(tmp_path / "mine.yaml")


def test_a_circle_of_files_is_refused(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {tmp_path / other}.yaml")
    with pytest.raises(ValueError, match=r"a\.yaml' extends itself, by way of .*a\.yaml and .*b\.yaml"):
        load_config(tmp_path / "a.yaml")


def test_the_rows_of_the_ablation_differ_as_the_table_says() -> None:
    rows = {row: load_config(f"ablation/{row}") for row in ROWS}
    assert {row for row in rows if rows[row].train.stages == ["teacher"]} == {"t1", "t3", "s6"}
    assert [rows[row].teacher.den_input for row in ("t1", "t2", "t3", "s6")] == ["lr", "features", "kernel", "lr"]
    weights = {row: (rows[row].student.lambda_kl, rows[row].student.lambda_abs) for row in ("s1", "s2", "s3")}
    assert weights == {"s1": (0, 0.1), "s2": (1, 0), "s3": (1, 0.1)}
    assert [rows[row].networks.conv_type for row in ("s3", "s4", "s5")] == ["rda", "dasr_da", "static"]
    assert [rows[row].freeze_upscaler for row in ("fixed_upscaler", "free_upscaler")] == ["all", "none"]
    assert rows["s3"] == load_config("classic-iso-x4", ["student.distil_share=null"])
    assert {rows[row].student.distil_share for row in ("s1", "s2", "s3", "s4", "s5")} == {None}


def test_one_number_of_steps_shrinks_every_schedule_with_it() -> None:
    config = load_config("classic-iso-x4", ["train.steps=1000"], preset="official")
    assert {config.stage(name).steps for name in STAGES} == {1000}
    assert (config.bicubic.halve_every, config.bicubic.halve_first) == (208, 207)
    assert (config.student.encoder_steps, config.student.encoder_decay_every) == (200, 120)
    assert config.resized() == config
    assert config.train.steps is None
    assert load_config("toy", ["train.steps=1", "student.encoder_steps=0"]).student == StudentConfig(
        **{**load_config("toy").student.model_dump(), "steps": 1, "encoder_steps": 0, "halve_every": 13479}
        | {"encoder_decay_every": 6470}
    )


def test_what_is_set_wins_over_one_number_of_steps_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("extends: toy\ntrain: {steps: 2}\n")
    config = load_config(path, ["student.steps=60", "student.encoder_steps=20", "teacher.halve_every=7"])
    assert (config.student.steps, config.student.encoder_steps, config.teacher.halve_every) == (60, 20, 7)
    assert (config.meta.steps, config.teacher.steps) == (2, 2)
    (tmp_path / "resolved.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.steps=5", "student.steps=6"], "train.steps replaces student.steps: set one of them"),
        (["train.steps=5", "student={steps: 6}"], "train.steps replaces student.steps"),
        (["real.jpeg_range=[30, 60]"], "real.first.jpeg_range has no effect unless degradation.type=real"),
        (["degradation.theta_range=[0, 1]"], "theta_range has no effect unless degradation.kernel=anisotropic"),
        (["degradation.type=real", "degradation.kernel=none"], "kernel has no effect unless degradation.type=classic"),
        (["degradation.kernel=none", "degradation.sigma_range=[1, 2]"], "sigma_range has no effect unless"),
        (["validation.every=5"], "validation.every has no effect unless validation.sources or validation.pairs names"),
        (["visual.gan_weight=0.2"], "visual.gan_weight has no effect unless teacher.visual_from or"),
        (["teacher.visual_from=0", "visual.vgg16=f"], "visual.vgg16 has no effect unless visual.backbone=vgg16"),
        (
            ["teacher.visual_from=0", "visual.backbone=vgg16", "visual.vgg19=f"],
            "visual.vgg19 has no effect unless visual.backbone=vgg19",
        ),
        (
            ["teacher.visual_from=0", "visual.perceptual_weight=0", "visual.backbone=vgg16"],
            "visual.backbone has no effect unless visual.perceptual_weight is above 0",
        ),
        (["train.stages=[bicubic]", "train.luma=0.5"], "train.luma has no effect unless train.stages has teacher or"),
        (["meta.lr_law=cosine", "meta.halve_every=9"], "meta.halve_every has no effect unless meta.lr_law=halving"),
        (["meta.lr_min=1e-5"], "meta.lr_min has no effect unless meta.lr_law=cosine"),
        (["student.encoder_steps=0", "student.encoder_lr=1e-3"], "student.encoder_lr has no effect unless"),
        (["student.encoder_steps=5", "train.steps=4"], "encoder_steps must be at most steps, it was 5 of 4"),
    ],
)
def test_what_is_set_without_effect_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        load_config("toy", overrides)


def test_the_demo_never_trains_on_what_it_is_judged_by() -> None:
    assert not {"skimage:chelsea", "skimage:rocket"} & set(load_config("demo").data.sources)


def test_overrides_reach_their_fields_as_yaml_values() -> None:
    config = load_config("toy", ["teacher.steps=7", "meta.inner_lr=[0.5, 1e-3]", "train.gradient_clip=1"])
    assert (config.teacher.steps, config.meta.inner_lr, config.train.gradient_clip) == (7, [0.5, 1e-3], 1.0)
    assert load_config("toy", ["train.gradient_clip=1", "train.gradient_clip=null"]).train.gradient_clip is None


def described(section: type) -> set[str]:
    """Names of fields that a docstring follows, in the section or in a class that it is derived from."""
    names: set[str] = set()
    for parent in section.__mro__[:-1]:
        if not parent.__module__.startswith("mrda."):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(parent))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                names.add(field.target.id)
    return names


def undescribed(section: type) -> list[str]:
    missing = []
    for name in option_paths(section):
        if "." not in name:
            kind = typing.get_type_hints(section)[name]
            if isinstance(kind, type) and (issubclass(kind, Section) or is_dataclass(kind)):
                missing += [f"{name}.{inner}" for inner in undescribed(kind)]
            elif name not in described(section):
                missing.append(name)
    return missing


def test_every_field_is_described() -> None:
    assert undescribed(TrainConfig) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.step=1", "unknown config key 'teacher.step'; did you mean 'teacher.steps'?"),
        ("techer.steps=1", "unknown config key 'techer'; did you mean 'teacher'?"),
        ("adaptation={reset_mln: false, per: image}", "'adaptation': reset_mln=false requires per=batch"),
        ("train.stages=[]", "'train.stages': list should have at least 1 item"),
        (
            "networks={conv_type: static, mask_channels: C}",
            "'networks': mask_channels is 'C', but must be 1 where conv_type is 'static'",
        ),
        ("adaptation={images: 2, per: image}", "'adaptation': images requires per=batch"),
        ("real.resize_prob2=[0, 0, 0]", "'real.second': resize_prob is [0.0, 0.0, 0.0], but must hold 3 numbers"),
        ("real.first.kernel_prob=[1]", "'real.first': kernel_prob is [1.0], but must hold 6 numbers of at least 0"),
        ("real.jpeg_range=[30, 101]", "'real.first': jpeg_range is (30.0, 101.0), but must be within 1 and 100"),
        ("real.blur_kernel_size=8", "'real.first': blur_kernel_size is 8, but must be odd"),
        ("real.second.blur_kernel_size=5", "'real.second': blur_kernel_size is 5, but must be at least 7"),
        ("real.second.blur_kernel_size=true", "'real.second.blur_kernel_size': must be an integer, it was True"),
        ("degradation.kernel_size=true", "'degradation.kernel_size': must be an integer, it was True"),
        ("real.second.sinc_prob=2", "'real.second': sinc_prob is 2.0, but must be within 0 and 1"),
        ("real.queue_size=-1", "'real.queue_size': input should be greater than or equal to 0, it was -1"),
        ("real.first.sinc_prb=1", "unknown config key 'real.first.sinc_prb'; did you mean 'real.first.sinc_prob'?"),
        ("real.jpeg_rang2=1", "unknown config key 'real.jpeg_rang2'; did you mean 'real.jpeg_range2'?"),
        ("real.usm2=1", "unknown config key 'real.usm2'; did you mean 'real.usm'?"),
        ("data.crop_size=30", "config: data.crop_size requires degradation.type=real"),
        ("visual.l1_gt_usm=true", "config: visual.l1_gt_usm, percep_gt_usm and gan_gt_usm require real.usm=true"),
        ("train.ema_decay=1", "'train.ema_decay': input should be less than 1"),
        ("meta.maml_order=3", "'meta.maml_order': input should be 1 or 2, it was 3"),
        ("patch_size=1", "unknown config key 'patch_size'; did you mean 'data.patch_size'?"),
        ("degradation.sigma_rang=[1, 2]", "did you mean 'degradation.sigma_range'?"),
        ("teacher.steps=0", "'teacher.steps': input should be greater than 0, it was 0"),
        ("teacher.lr=.nan", "'teacher.lr': input should be a finite number, it was nan"),
        ("teacher.lr=fast", "'teacher.lr': input should be a valid number"),
        ("scale=5", "'scale': input should be 2, 3 or 4, it was 5"),
        ("degradation.kernel=box", "'isotropic', 'anisotropic' or 'none', it was 'box'"),
        ("meta.batch=3", "'meta': batch must be even, it was 3"),
        ("meta.inner_lr=[]", "'meta.inner_lr': list should have at least 1 item"),
        ("student.encoder_steps=7", "'student': encoder_steps must be at most steps, it was 7 of 6"),
        ("degradation.kernel_size=4", "'degradation': kernel_size is 4, but must be odd"),
        (
            "degradation.sigma_range=[3, 1]",
            "'degradation': sigma_range is (3.0, 1.0), but must be (low, high) in this order",
        ),
        ("data.patch_size=5", "config: scale * data.patch_size must be at least 11 px"),
        ("degradation.theta_range=[0, .inf]", "'degradation': theta_range[1] is inf, but must be finite"),
        ("seed=2001-02-30", "the value of override 'seed=2001-02-30' is not valid YAML: day is out of range"),
        ("seed.x=1", "'seed': input should be a valid integer"),
        ("teacher.steps=true", "'teacher.steps': must be an integer, it was True"),
        ("seed=false", "'seed': must be an integer, it was False"),
        ("student.encoder_steps=false", "'student.encoder_steps': must be an integer, it was False"),
        ("networks.mask_channels=true", "'networks.mask_channels': must be an integer, it was True"),
        ("networks.kernel_size=true", "'networks.kernel_size': must be an integer, it was True"),
        ("teacher.steps", "override 'teacher.steps' must look like 'section.key=value'"),
        ("=3", "override '=3' must look like 'section.key=value'"),
        ("teacher.steps=[", "the value of override 'teacher.steps=[' is not valid YAML"),
    ],
)
def test_a_bad_override_is_one_sentence(override: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_config("toy", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_teacher_of_lr_alone_is_for_runs_without_student_or_with_another_s_teacher() -> None:
    config = load_config("toy", ["teacher.den_input=lr"])
    config.check_stages(["meta", "teacher"])
    with pytest.raises(ValueError, match=r"give student\.init_teacher.*it was lr"):
        config.check_stages(["teacher", "student"])
    config = load_config("toy", ["teacher.den_input=lr", "student.init_teacher=teacher.safetensors"])
    config.check_stages(["teacher", "student"])
    load_config("ablation/t3").check_stages(["teacher", "student"])


def test_an_oracle_of_other_kernels_than_the_validation_s_is_refused() -> None:
    options = ["teacher.den_input=kernel", "train.stages=[teacher]", "validation.sources=[photos]"]
    for size in (19, 23):
        other = [*options, f"degradation.kernel_size={size}"]
        with pytest.raises(ValueError, match=rf"degradation\.kernel_size {KERNEL_SIZE}, .* it was {size}"):
            load_config("toy", other)
        assert load_config("toy", [*other, "validation.protocol=bicubic"])
        assert load_config("toy", [*other, "validation.sources=[]"])
    assert load_config("toy", [*options, f"degradation.kernel_size={KERNEL_SIZE}"])


def test_the_unknown_key_is_reported_before_other_faults() -> None:
    with pytest.raises(ValueError, match="unknown config key 'stag'"):
        parse_config({"scale": 7, "stag": 1})


def test_an_unknown_configuration_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"config 'dmo' is neither a file nor .*did you mean 'demo'\? `mrda train --list` shows them"
    ):
        load_config("dmo")


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="must be a YAML mapping of options"):
        load_config(path)


def test_broken_yaml_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("teacher: {steps: 1\nmeta: [")
    with pytest.raises(ValueError, match="is not valid YAML") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("data: {sources: [Stra\u00dfe]}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"config '.*latin\.yaml' is not UTF-8 text"):
        load_config(path)


def test_a_name_that_no_file_can_have_is_an_unknown_preset() -> None:
    with pytest.raises(ValueError, match="is neither a file nor one of the package's: `mrda train"):
        load_config("x" * 300)


def test_a_configuration_may_have_presets_of_its_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: toy\nseed: 7\npresets: {wild: {seed: 8, scale: 3}, paper: {student: {lambda_abs: 5}}}\n")
    assert load_config(mine).seed == 7
    assert (load_config(mine, preset="wild").seed, load_config(mine, preset="wild").scale) == (8, 3)
    paper = load_config(mine, preset="paper")
    assert paper.student.lambda_abs == 5
    assert paper.networks.dyn_act == "none"  # the preset of all configurations still lies below
    (tmp_path / "child.yaml").write_text(f"extends: {mine}\nscale: 4\n")
    assert load_config(tmp_path / "child.yaml", preset="wild").scale == 4
    assert load_config(tmp_path / "child.yaml", ["seed=9"], preset="wild").seed == 9
    with pytest.raises(ValueError, match="preset is 'wldi', but must be one of recommended, paper, official, wild"):
        load_config(mine, preset="wldi")
    mine.write_text("presets: {wild: 3}")
    with pytest.raises(ValueError, match=r"presets of config '.*' must be mappings of options by name"):
        load_config(mine)


def test_the_real_world_presets_are_what_they_claim() -> None:
    recommended, paper, realesrgan = (load_config("real-x4", preset=p) for p in ("recommended", "paper", "realesrgan"))
    for config in (recommended, paper, realesrgan):
        assert (config.networks.num_feat, config.networks.num_blocks, config.networks.den_width) == (128, 21, 128)
        assert (config.degradation.type, config.data.crop_size, config.scale) == ("real", 400, 4)
        assert config.meta.steps == 100_000
        assert config.teacher.steps == config.student.steps == 600_000
        assert config.meta.inner_lr == config.adaptation.inner_lr == [0.02]
    assert recommended.degradation.per == paper.degradation.per == "batch"
    assert recommended.student.betas == paper.student.betas == (0.9, 0.999)
    assert (paper.teacher.batch, paper.teacher.visual_from, paper.student.encoder_steps) == (64, 0, 0)
    assert (paper.student.lambda_kl, paper.student.lambda_abs, paper.student.kl_temperature) == (1, 0.01, 1)
    assert (realesrgan.degradation.per, realesrgan.real.jpeg, realesrgan.real.usm) == ("image", "simulated", True)
    assert realesrgan.teacher.betas == (0.9, 0.99)
    assert realesrgan.train.ema_decay == 0.999


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("real.blur_kernel_size=61", "data.crop_size must be at least 31 px for a blur of real.first.blur_kernel_size"),
        ("data.crop_size=20", "data.crop_size must be at least scale * data.patch_size, 24, it was 20"),
        ("data.patch_size=3", "scale * data.patch_size must be at least 8 px for the visual loss, it was 6"),
        ("real.queue_size=8", "real.queue_size requires degradation.per=image: otherwise the MLN adapts"),
        (
            "teacher.den_input=kernel",
            "teacher.den_input=kernel requires a single blur kernel, but degradation.type is real",
        ),
    ],
)
def test_what_can_t_be_trained_in_the_real_world_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config("real-toy", [override])


def test_a_pool_is_a_multiple_of_every_batch_that_fills_it() -> None:
    options = ["degradation.per=image", "real.queue_size=8", "bicubic.batch=3"]
    assert load_config("real-toy", options)
    with pytest.raises(ValueError, match=r"must be a multiple of bicubic\.batch, 3, it was 8"):
        load_config("real-toy", [*options, "bicubic.blur=true"])


def test_the_released_code_s_epochs_are_not_the_real_world_s() -> None:
    tree = load_config("real-x4").model_dump()
    tree["degradation"]["theta_range"] = (0.0, math.pi / 180)  # of the classic degradation
    assert load_config("real-x4", preset="official").model_dump() == tree


@pytest.mark.parametrize(
    ("config", "preset", "assignments", "on"),
    [
        ("classic-iso-x4", "recommended", [], "other"),
        ("classic-aniso-noise-x4", "recommended", [], "other"),
        ("classic-iso-x4", "paper", [], "self"),
        ("classic-iso-x4", "paper", ["adaptation.per=image"], "self"),
        ("classic-iso-x4", "official", ["adaptation.per=image", "adaptation.reset_mln=true"], "self"),
        ("classic-iso-x4", "recommended", ["adaptation.per=batch"], "self"),
        ("classic-iso-x4", "recommended", ["teacher.batch=1"], "self"),
        ("classic-iso-x4", "recommended", ["teacher.batch=1", "teacher.den_input=lr"], "other"),
        ("classic-iso-x4", "official", [], "self"),
        ("real-x4", "recommended", [], "self"),
        ("real-x4", "realesrgan", ["adaptation.per=image"], "self"),
        ("classic-iso-x4", "recommended", ["data.pairs=[{lr: LR, hr: HR}]"], "self"),
        ("classic-iso-x4", "recommended", ["adaptation.on=self"], "self"),
    ],
)
def test_the_mln_adapts_to_another_image_where_its_degradation_can_be_repeated(
    config: str, preset: str, assignments: list[str], on: str
) -> None:
    assert load_config(config, assignments, preset=preset).adapted_on == on


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_a_batch_of_one_image_has_no_other_to_adapt_to(stage: str) -> None:
    with pytest.raises(ValueError, match=rf"adaptation\.on=other requires {stage}\.batch to be at least 2, it was 1"):
        load_config("classic-iso-x4", ["adaptation.on=other", f"{stage}.batch=1"])


def test_words_that_old_yaml_takes_for_booleans_are_words(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("adaptation: {on: self}\ntrain: {mixed_precision: no, cuda_graphs: true}\n")
    config = load_config(tmp_path / "mine.yaml", ["adaptation={on: other}", "data.use_rot=no", "data.use_hflip=False"])
    assert config.adaptation.on == "other"
    assert config.train.mixed_precision == "no"
    assert not config.data.use_rot
    assert not config.data.use_hflip
    assert load_config("classic-iso-x4", ["train.mixed_precision=no"]).train.mixed_precision == "no"
