import hashlib
from types import SimpleNamespace

import pytest
import torch
from vgg_weights import linear_state, plain_features, publish, random_state, write

from mrda.evaluation import lpips
from mrda.evaluation.lpips import LPIPS

AFTER_RELU = (3, 8, 15, 22, 29)
"""Numbers of relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 in torchvision's `features` of VGG16."""
EPS = torch.finfo(torch.float32).eps


def publish_linear(monkeypatch, path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(lpips, "LINEAR_WEIGHTS", lpips.LINEAR_WEIGHTS._replace(sha256=digest[:8]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    path, checksum = write(folder, "vgg16", random_state("vgg16"))
    torch.save(linear_state(), folder / "vgg.pth")
    return path, checksum, folder / "vgg.pth"


@pytest.fixture
def metric(files, monkeypatch):
    path, checksum, linear = files
    publish(monkeypatch, "vgg16", checksum)
    publish_linear(monkeypatch, linear)
    return LPIPS(path, linear)


def pair(height=40, width=33):
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, height, width, generator=generator)
    return (hr + 0.1 * torch.randn(hr.shape, generator=generator)).clamp(0, 1), hr


def by_hand(sr, hr):
    """The published definition in float64, for one pair (3, H, W)."""
    state = random_state("vgg16")
    shift, scale = (torch.tensor(v, dtype=torch.float64) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    images = [((((2 * x.double() - 1).movedim(0, -1) - shift) / scale).movedim(-1, 0))[None] for x in (sr, hr)]
    features = [plain_features("vgg16", state, x, AFTER_RELU) for x in images]
    total = 0.0
    for of_sr, of_hr, weight in zip(*features, linear_state().values(), strict=True):
        x, y = (f[0] / (f[0].norm(dim=0) + 1e-10) for f in (of_sr, of_hr))
        total += float((weight[0].double() * (x - y) ** 2).sum(dim=0).mean())
    return total


def test_the_distance_is_that_of_the_definition(metric):
    sr, hr = pair()
    found = metric(sr, hr)
    assert found.shape == (2,)
    assert found.dtype == torch.float32
    # Features of unit length err by some 10 eps for each of 13 convolutions; squares of differences that are a tenth of
    # them double that, relative to a tenth.
    assert found.tolist() == pytest.approx(
        [by_hand(s, h) for s, h in zip(sr, hr, strict=True)], rel=2 * 10 * 13 * 10 * EPS
    )


def test_equal_images_are_0_apart_and_the_order_does_not_matter(metric):
    sr, hr = pair()
    assert metric(hr, hr.clone()).tolist() == [0, 0]
    assert torch.equal(metric(sr, hr), metric(hr, sr))
    assert (metric(sr, hr) > 0).all()


def test_features_without_length_are_no_distance_apart(metric):
    for parameter in metric.vgg.parameters():
        parameter.zero_()
    assert metric(*pair(16, 16)).tolist() == [0, 0]


def test_it_is_frozen_and_in_float32_under_autocast(metric):
    sr, hr = pair()
    assert not any(p.requires_grad for p in metric.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(metric(sr, hr), metric(sr.double(), hr.double()))
    assert not metric(sr.requires_grad_(True), hr).requires_grad


def test_the_linear_weights_are_looked_for(files, monkeypatch, tmp_path):
    path, checksum, linear = files
    publish(monkeypatch, "vgg16", checksum)
    publish_linear(monkeypatch, linear)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(lpips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"LPIPS's linear weights require the file LPIPS_v0\.1_vgg-a78928a0\.pth"):
        LPIPS(path)
    package = tmp_path / "lpips" / "weights" / "v0.1"
    package.mkdir(parents=True)
    (package / "vgg.pth").symlink_to(linear)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "lpips")])
    monkeypatch.setattr(lpips.importlib.util, "find_spec", lambda name: {"lpips": spec}[name])
    in_package = LPIPS(path)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / lpips.LINEAR_WEIGHTS.name).write_bytes(b"damaged")  # the cache comes first
    with pytest.raises(ValueError, match="is damaged or another file"):
        LPIPS(path)
    sr, hr = pair(16, 16)
    assert torch.equal(in_package(sr, hr), LPIPS(path, linear)(sr, hr))


def test_other_files_are_refused(files, monkeypatch, tmp_path):
    path, checksum, linear = files
    publish(monkeypatch, "vgg16", checksum)
    with pytest.raises(ValueError, match=r"is damaged or another file .* but must begin with a78928a0"):
        LPIPS(path, linear)
    other = tmp_path / "alex.pth"
    torch.save({**linear_state(), "lin0.model.1.weight": torch.rand(1, 65, 1, 1)}, other)
    publish_linear(monkeypatch, other)
    with pytest.raises(ValueError, match=r"\(1, 65, 1, 1\) instead of \(1, 64, 1, 1\)"):
        LPIPS(path, other)
    publish_linear(monkeypatch, linear)
    with pytest.raises(ValueError, match=r"VGG16 features require .*gone.* does not exist"):
        LPIPS(tmp_path / "gone", linear)


def test_bad_images(metric):
    sr, hr = pair(16, 16)
    with pytest.raises(ValueError, match=r"sr has shape .* but must have that of hr"):
        metric(sr[:1], hr)
    with pytest.raises(ValueError, match="must be 16 pixels high and wide for LPIPS"):
        metric(sr[..., :15, :], hr[..., :15, :])
    with pytest.raises(ValueError, match="hr has shape"):
        metric(sr, hr[:, :1])
