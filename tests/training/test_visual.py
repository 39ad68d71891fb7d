"""The image loss: each network learns from its own terms only."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vgg_weights import publish, random_state, write

from mrda.config import TrainConfig
from mrda.config.load import load_config
from mrda.degradations import Degraded
from mrda.training.losses import ImageLoss, PerceptualLoss, check_image_loss, reconstruction
from mrda.training.plan import discriminator_share, learning_rate

Changed = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def real(photo: Path) -> TrainConfig:
    return load_config("real-toy", [f"data.sources=['{photo}']"])


@pytest.fixture
def pair() -> Degraded:
    hr = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    return Degraded(hr[..., ::2, ::2], hr, None, None, hr, (hr * 1.5).clamp(0, 1))


@pytest.fixture
def sr() -> Tensor:
    return torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()


def test_before_its_step_it_is_l1(real: TrainConfig, pair: Degraded, sr: Tensor) -> None:
    terms = ImageLoss(real, "teacher")(1, sr, pair)
    assert set(terms) == {"loss", "l1"}
    assert terms["loss"] == F.l1_loss(sr, pair.hr)
    never = ImageLoss(load_config("toy", ["data.sources=[x]"]), "teacher")
    assert never.discriminator is None
    assert never.networks() == []
    assert set(never(10**6, sr, pair)) == {"loss", "l1"}


def test_luma_has_its_share_of_l1(real: TrainConfig, pair: Degraded, sr: Tensor, changed: Changed) -> None:
    terms = ImageLoss(changed(real, train={"luma": 0.75}), "teacher")(1, sr, pair)
    assert terms["loss"] == reconstruction(sr, pair.hr, luma=0.75)
    assert terms["loss"] != F.l1_loss(sr, pair.hr)


def test_network_and_discriminator_learn_each_from_its_own_loss(
    real: TrainConfig, pair: Degraded, sr: Tensor, changed: Changed
) -> None:
    config = changed(real, visual={"l1_weight": 0.5, "gan_weight": 0.3})
    loss = ImageLoss(config, "teacher")
    discriminator = loss.discriminator
    assert discriminator is not None
    terms = loss(2, sr, pair)
    terms["loss"].backward()
    assert sr.grad is not None
    got_sr, got = sr.grad, [parameter.grad for parameter in discriminator.parameters()]

    sr.grad = None
    discriminator.zero_grad()
    adversarial = F.binary_cross_entropy_with_logits(discriminator(sr), torch.ones(2, 1, 24, 24))
    (0.5 * F.l1_loss(sr, pair.hr) + 0.3 * adversarial).backward()
    torch.testing.assert_close(got_sr, sr.grad)

    discriminator.zero_grad()
    real_loss = F.binary_cross_entropy_with_logits(discriminator(pair.hr), torch.ones(2, 1, 24, 24))
    fake_loss = F.binary_cross_entropy_with_logits(discriminator(sr.detach()), torch.zeros(2, 1, 24, 24))
    (real_loss + fake_loss).backward()
    torch.testing.assert_close(got, [parameter.grad for parameter in discriminator.parameters()])
    torch.testing.assert_close(terms["adversarial"], adversarial)
    torch.testing.assert_close(terms["discriminator"], real_loss + fake_loss)


def test_passes_leave_the_spectral_norms_alone_and_a_step_moves_them(
    real: TrainConfig, pair: Degraded, sr: Tensor
) -> None:
    loss = ImageLoss(real, "teacher")
    assert loss.discriminator is not None
    before = {name: value.clone() for name, value in loss.discriminator.state_dict().items()}
    loss(2, sr, pair)
    torch.testing.assert_close(dict(loss.discriminator.state_dict()), before, rtol=0, atol=0)
    loss.after_step()
    moved = {name for name, value in loss.discriminator.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.endswith(("_u", "_v"))}


def test_the_discriminator_starts_from_the_seed(real: TrainConfig, changed: Changed) -> None:
    def weights(config: TrainConfig, stage: str = "teacher") -> Tensor:
        discriminator = ImageLoss(config, stage).discriminator  # type: ignore[arg-type]
        assert discriminator is not None
        return discriminator.conv0.weight

    assert torch.equal(weights(real), weights(real))
    assert not torch.equal(weights(real), weights(changed(real, seed=2)))
    assert not torch.equal(weights(real), weights(real, "student"))


@pytest.mark.parametrize("which", ["l1_gt_usm", "gan_gt_usm"])
def test_sharpened_targets(real: TrainConfig, pair: Degraded, sr: Tensor, changed: Changed, which: str) -> None:
    config = changed(real, real={"usm": True}, visual={which: True})
    terms, plain = ImageLoss(config, "teacher")(2, sr, pair), ImageLoss(real, "teacher")(2, sr, pair)
    name = {"l1_gt_usm": "l1", "gan_gt_usm": "discriminator"}[which]
    assert {key for key in terms if terms[key] != plain[key]} == {name, "loss"}
    if which == "l1_gt_usm":
        assert terms["l1"] == F.l1_loss(sr, pair.hr_sharp)
        assert ImageLoss(config, "teacher")(0, sr, pair)["l1"] == terms["l1"]


def test_without_vgg19_the_message_says_where_to_put_it(
    real: TrainConfig, changed: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = changed(real, visual={"perceptual_weight": 1.0})
    with pytest.raises(ValueError, match=r"vgg19-dcbb9e9d\.pth.*perceptual_weight: 0"):
        ImageLoss(config, "teacher")
    ImageLoss(changed(config, teacher={"visual_from": None}), "teacher")  # needs no VGG19


def test_vgg16_may_take_the_place_of_vgg19(
    real: TrainConfig,
    pair: Degraded,
    sr: Tensor,
    changed: Changed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, checksum = write(tmp_path, "vgg16", random_state("vgg16"))
    publish(monkeypatch, "vgg16", checksum)
    visual: dict[str, object] = {"perceptual_weight": 1.0, "gan_weight": 0.0, "backbone": "vgg16", "vgg16": path}
    with pytest.raises(ValueError, match="'conv3_4' is none of vgg16's"):
        ImageLoss(changed(real, visual=visual), "teacher")
    visual["perceptual_layers"] = {"conv1_2": 0.5, "relu2_2": 1.0, "conv3_4": 0.0}
    config = changed(real, visual=visual)
    check_image_loss(config, ["teacher"])
    terms = ImageLoss(config, "teacher")(2, sr, pair)
    expected = PerceptualLoss(path, {"conv1_2": 0.5, "relu2_2": 1.0}, "vgg16")(sr, pair.hr)
    torch.testing.assert_close(terms["perceptual"], expected, rtol=0, atol=0)
    assert terms["loss"] > terms["l1"]


def test_the_discriminator_begins_at_its_own_learning_rate(real: TrainConfig, changed: Changed) -> None:
    halved = changed(real, teacher={"steps": 8, "visual_from": 4, "halve_every": 4, "lr": 1e-3})
    assert learning_rate(halved.teacher, 4) == 5e-4
    assert discriminator_share(halved, "teacher") == pytest.approx(1e-4 / 5e-4)
    # in the student stage it starts after the encoder-only phase
    late = changed(real, student={"visual_from": 0, "encoder_steps": 2, "lr": 2e-3})
    assert discriminator_share(late, "student") == pytest.approx(1e-4 / 2e-3)
