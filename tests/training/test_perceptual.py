import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vgg_weights import plain_features, publish, random_state, write

from mrda.config.visual import LAYER_WEIGHTS
from mrda.networks.vgg import VGG_WEIGHTS
from mrda.training.losses import PerceptualLoss

INDICES = {"conv1_2": 2, "conv2_2": 7, "conv3_4": 16, "conv4_4": 25, "conv5_4": 34}
EPS = torch.finfo(torch.float32).eps


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory):
    state = random_state("vgg19")
    return state, *write(tmp_path_factory.mktemp("vgg"), "vgg19", state)


@pytest.fixture
def loss(vgg19, monkeypatch):
    _, path, checksum = vgg19
    publish(monkeypatch, "vgg19", checksum)
    return PerceptualLoss(path)


def images(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hr = torch.rand(2, 3, *shape, generator=generator)
    return (hr + 0.1 * torch.randn(hr.shape, generator=generator)).clamp(0, 1), hr


def by_hand(state: dict[str, Tensor], sr: Tensor, hr: Tensor) -> Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    total = torch.zeros((), dtype=torch.float64)
    both = [((x.double().movedim(1, -1) - mean) / std).movedim(-1, 1) for x in (sr, hr)]
    features = [plain_features("vgg19", state, x, INDICES.values()) for x in both]
    for weight, of_sr, of_hr in zip((0.1, 0.1, 1, 1, 1), *features, strict=True):
        total = total + weight * (of_sr - of_hr).abs().mean()
    return total


def test_the_loss_is_that_of_the_definition(loss, vgg19) -> None:
    sr, hr = images(33, 20)
    sr.requires_grad_(True)
    expected = by_hand(vgg19[0], sr, hr)
    found = loss(sr, hr)
    assert found.dtype == torch.float32
    assert found.shape == ()
    # Features keep their size from layer to layer and err by some 10 eps per layer relative to it; their differences
    # are a tenth of them.
    budget = 10 * 10 * 16 * EPS
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=budget)
    (gradient,), (wanted,) = torch.autograd.grad(found, sr), torch.autograd.grad(expected, sr)
    assert float(F.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0)) > 1 - 1e-3
    assert list(LAYER_WEIGHTS.items()) == list(zip(INDICES, (0.1, 0.1, 1.0, 1.0, 1.0), strict=True))


def test_equal_images_cost_nothing(loss) -> None:
    _, hr = images(16, 17)
    assert float(loss(hr.clone(), hr)) == 0


def test_gradients_reach_sr_alone(loss) -> None:
    sr, hr = (image.requires_grad_(True) for image in images(16, 16))
    loss(sr, hr).backward()
    assert sr.grad is not None
    assert hr.grad is None
    assert all(not p.requires_grad for p in loss.parameters())


def test_autocast_and_narrow_images_change_nothing_but_the_images(loss) -> None:
    sr, hr = images(16, 16)
    plain = loss(sr.bfloat16().float(), hr)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(sr.bfloat16(), hr), plain)


def test_layers_can_be_chosen(vgg19, monkeypatch) -> None:
    _, path, checksum = vgg19
    publish(monkeypatch, "vgg19", checksum)
    sr, hr = images(4, 4)
    loss = PerceptualLoss(path, {"conv1_2": 0.5, "conv5_4": 0})
    assert len(loss.vgg.features) == 3  # layers without weight are not computed
    assert float(loss(sr, hr)) == pytest.approx(0.5 * float(PerceptualLoss(path, {"conv1_2": 1})(sr, hr)), rel=2 * EPS)


@pytest.mark.parametrize(
    ("layers", "error", "words"),
    [
        ({"conv1_2": -1.0}, ValueError, r"weight of layer conv1_2 is -1\.0, but must not be negative"),
        ({"conv1_2": "much"}, TypeError, "weight of layer conv1_2 is 'much', but must be a number"),
        ({"conv1_2": float("nan")}, ValueError, "weight of layer conv1_2 is nan, but must be finite"),
        ({"conv1_2": 0.0}, ValueError, "but must have a positive one"),
        ({}, ValueError, "but must have a positive one"),
        ({"conv6_1": 1.0}, ValueError, "layer 'conv6_1' is none of vgg19's conv1_1 to conv5_4"),
    ],
)
def test_bad_layers(layers, error, words) -> None:
    with pytest.raises(error, match=words):
        PerceptualLoss(layer_weights=layers)


def test_bad_images(loss) -> None:
    sr, hr = images(16, 16)
    with pytest.raises(ValueError, match=r"sr has shape \(2, 3, 16, 16\), but must have that of hr"):
        loss(sr, hr[:1])
    with pytest.raises(ValueError, match="must be at least 16 pixels high and wide"):
        loss(sr[..., :15], hr[..., :15])
    with pytest.raises(TypeError, match=r"hr has dtype torch\.uint8"):
        loss(sr, hr.byte())


def test_without_the_weights_the_user_is_told_what_to_do(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(ValueError, match="VGG19") as error:
        PerceptualLoss()
    for words in (VGG_WEIGHTS["vgg19"].url, str(tmp_path / "hub" / "checkpoints"), "perceptual_weight: 0"):
        assert words in str(error.value)
