from pathlib import Path

import pytest
from pydantic import BaseModel

from mrda.config import TrainConfig, load_config, parse_config, presets


def test_the_packaged_presets_are_these() -> None:
    assert set(presets()) >= {"demo", "toy", "classic-iso-x4"}


@pytest.mark.parametrize("name", presets())
def test_a_preset_survives_the_way_through_yaml(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    path = tmp_path / "resolved.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config


def test_the_recommended_preset_is_the_defaults() -> None:
    assert load_config("classic-iso-x4", ["degradation.sigma_range=null"]) == TrainConfig()


def test_the_demo_never_trains_on_what_it_is_judged_by() -> None:
    assert not {"skimage:chelsea", "skimage:rocket"} & set(load_config("demo").data.sources)


def test_overrides_reach_their_fields_as_yaml_values() -> None:
    config = load_config("toy", ["teacher.steps=7", "meta.inner_lr=[0.5, 1e-3]", "gradient_clip=1"])
    assert (config.teacher.steps, config.meta.inner_lr, config.gradient_clip) == (7, [0.5, 1e-3], 1.0)
    assert load_config("toy", ["gradient_clip=1", "gradient_clip=null"]).gradient_clip is None


def every_field(model: type[BaseModel]) -> list[tuple[str, str | None]]:
    fields = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            fields += [(f"{name}.{inner}", text) for inner, text in every_field(field.annotation)]
        else:
            fields.append((name, field.description))
    return fields


def test_every_field_is_described() -> None:
    assert [name for name, description in every_field(TrainConfig) if not description] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.step=1", "unknown config key 'teacher.step'; did you mean 'teacher.steps'?"),
        ("techer.steps=1", "unknown config key 'techer'; did you mean 'teacher'?"),
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
        ("degradation.kernel_size=4", "'degradation.kernel_size': must be odd, it was 4"),
        (
            "degradation.sigma_range=[3, 1]",
            "'degradation.sigma_range': must be [lowest, highest], it was [3.0, 1.0]",
        ),
        ("data.patch_size=5", "config: scale * data.patch_size must be at least 11 px"),
        ("degradation.theta_range=[0, .inf]", "'degradation.theta_range.1': input should be a finite number"),
        ("seed.x=1", "'seed': input should be a valid integer"),
        ("teacher.steps=true", "'teacher.steps': must be an integer, it was True"),
        ("seed=no", "'seed': must be an integer, it was False"),
        ("student.encoder_steps=false", "'student.encoder_steps': must be an integer, it was False"),
        ("networks.mask_channels=true", "'networks.mask_channels': must be an integer, it was True"),
        ("networks.kernel_size=yes", "'networks.kernel_size': must be an integer, it was True"),
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


def test_the_unknown_key_is_reported_before_other_faults() -> None:
    with pytest.raises(ValueError, match="unknown config key 'stag'"):
        parse_config({"scale": 7, "stag": 1})


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"config 'dmo' must be a file or one of the presets .*demo.*toy"):
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
    with pytest.raises(ValueError, match="must be a file or one of the presets"):
        load_config("x" * 300)
