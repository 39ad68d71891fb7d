import pytest
import torch
from safetensors.torch import save_file
from vgg_weights import LISTS, plain_features, publish, random_state, write

from mrda.networks import VGG, load_vgg
from mrda.networks.published import digest
from mrda.networks.vgg import VGG_WEIGHTS

# The number of a convolution in torchvision's `features`, as papers quote it.
CONVS = {
    "vgg16": {"conv1_2": 2, "conv2_2": 7, "conv3_3": 14, "conv4_3": 21, "conv5_3": 28},
    "vgg19": {"conv1_2": 2, "conv2_2": 7, "conv3_4": 16, "conv4_4": 25, "conv5_4": 34},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights of both depths, with the path and the checksum of their files."""
    folder = tmp_path_factory.mktemp("vgg")
    return {depth: (state := random_state(depth), *write(folder, depth, state)) for depth in LISTS}


@pytest.mark.parametrize("depth", ["vgg16", "vgg19"])
def test_features_are_those_of_torchvisions_layers(files, monkeypatch, depth):
    state, path, checksum = files[depth]
    publish(monkeypatch, depth, checksum)
    convs = CONVS[depth]
    relus = {name.replace("conv", "relu"): index + 1 for name, index in convs.items()}
    x = torch.randn(2, 3, 34, 37, generator=torch.Generator().manual_seed(1))
    for layers in (convs, relus, {**convs, **relus}):
        vgg = load_vgg(depth, layers, path)
        before = x.clone()
        found = vgg(x)
        assert torch.equal(x, before)
        assert set(found) == set(layers)
        for (name, index), expected in zip(
            layers.items(), plain_features(depth, state, x.double(), layers.values()), strict=True
        ):
            block = int(name[4])
            assert found[name].shape == (2, (64, 128, 256, 512, 512)[block - 1], 34 >> block - 1, 37 >> block - 1)
            # A sum of n products errs by at most n eps relative to the sum of their sizes, about 10 eps in practice;
            # `index` counts the layers that pass it on.
            scale = expected.abs().max()
            assert (found[name] - expected).abs().max() <= 10 * (index + 1) * torch.finfo(torch.float32).eps * scale


def test_only_what_is_asked_for_is_built():
    with torch.device("meta"):
        assert len(VGG("vgg19", ["conv2_2"]).features) == 8
        whole = VGG("vgg19", ["conv5_4"])
    assert len(whole.features) == 35
    assert sum(p.numel() for p in whole.parameters()) == 20_024_384


def test_it_is_frozen_and_draws_no_random_numbers(files, monkeypatch):
    _, path, checksum = files["vgg16"]
    publish(monkeypatch, "vgg16", checksum)
    before = torch.random.get_rng_state()
    vgg = load_vgg("vgg16", ["relu2_2"], path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not vgg.training
    assert not any(p.requires_grad or p.is_meta for p in vgg.parameters())
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    vgg(x)["relu2_2"].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_the_hub_cache_is_looked_into(files, monkeypatch, tmp_path):
    state, path, checksum = files["vgg16"]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    publish(monkeypatch, "vgg16", checksum)
    with pytest.raises(
        ValueError, match=r"VGG16 features require the file vgg16-397923af\.pth, which is not in "
    ) as error:
        load_vgg("vgg16", ["conv1_1"], otherwise="or do without")
    folder = tmp_path / "hub" / "checkpoints"
    assert str(error.value).endswith(
        f"{folder}: download https://download.pytorch.org/models/vgg16-397923af.pth into that folder, or do without"
    )
    folder.mkdir(parents=True)
    (folder / path.name).symlink_to(path)
    assert torch.equal(load_vgg("vgg16", ["conv1_1"]).features[0].weight, state["features.0.weight"])


def test_other_files_are_refused(files, tmp_path, monkeypatch):
    path = files["vgg19"][1]
    with pytest.raises(ValueError, match=r".*gone\.pth does not exist"):
        load_vgg("vgg19", ["conv1_1"], tmp_path / "gone.pth")
    with pytest.raises(ValueError, match=r"is damaged or another file .* but must begin with dcbb9e9d$"):
        load_vgg("vgg19", ["conv1_1"], path)
    # Under another name it is the checksum that tells.
    other = tmp_path / "mine.pth"
    for state, words in (
        ({"features.0.weight": torch.zeros(1)}, "missing: features.0.bias, "),
        ({**random_state("vgg16"), "features.0.bias": torch.zeros(3)}, r"\(3,\) instead of \(64,\)"),
        ({**random_state("vgg16"), "features.1.bias": torch.zeros(3)}, "unexpected: features.1.bias"),
    ):
        written, checksum = write(tmp_path, "vgg16", state)
        written.rename(other)
        publish(monkeypatch, "vgg16", checksum)
        with pytest.raises(ValueError, match=words):
            load_vgg("vgg16", ["conv1_1"], other)


@pytest.mark.parametrize("layers", [["conv3_4"], ["pool1"], ["conv6_1"], ["features.0"], []])
def test_unknown_layers_are_refused(layers):
    with pytest.raises(ValueError, match="layer"):
        VGG("vgg16", layers)


def test_unknown_depths_and_small_images_are_refused():
    with pytest.raises(ValueError, match="depth is 'vgg11'"):
        VGG("vgg11", ["conv1_1"])
    vgg = VGG("vgg16", ["conv2_1"])
    assert vgg(torch.rand(1, 3, 2, 3))["conv2_1"].shape == (1, 128, 1, 1)
    with pytest.raises(ValueError, match="must be at least 2 pixels high and wide"):
        vgg(torch.rand(1, 3, 1, 3))
    with pytest.raises(ValueError, match="x has shape"):
        vgg(torch.rand(1, 1, 4, 4))


def test_the_tensors_of_its_convolutions_do_in_any_file(files, tmp_path, monkeypatch):
    state = files["vgg16"][0]
    features = {key: tensor for key, tensor in state.items() if key.startswith("features.")}
    save_file(features, tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match="another file"):
        load_vgg("vgg16", ["conv2_1"], tmp_path / "mine.safetensors")
    monkeypatch.setitem(VGG_WEIGHTS, "vgg16", VGG_WEIGHTS["vgg16"]._replace(tensors=digest(features)[:16]))
    loaded = load_vgg("vgg16", ["conv2_1"], tmp_path / "mine.safetensors").state_dict()
    assert all(torch.equal(tensor, features[key]) for key, tensor in loaded.items())
    load_vgg("vgg16", ["conv2_1"], files["vgg16"][1])  # with a classifier besides
    for changed in ({"features.0.bias": features["features.0.bias"] + 1e-3}, {"features.40.bias": torch.zeros(3)}):
        save_file(features | changed, tmp_path / "mine.safetensors")
        with pytest.raises(ValueError, match="another file"):
            load_vgg("vgg16", ["conv2_1"], tmp_path / "mine.safetensors")


def test_the_checksums_are_those_in_the_published_names():
    for depth, file in VGG_WEIGHTS.items():
        assert file.name == f"{depth}-{file.sha256}.pth"
