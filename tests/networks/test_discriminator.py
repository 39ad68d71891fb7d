import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm as classic
from torch.nn.utils.parametrizations import spectral_norm as parametrized

from mrda.networks import MLN, UNetDiscriminator, load_discriminator, load_network, read_metadata, save_network
from mrda.networks.discriminator import SpectralConv2d

EPS = torch.finfo(torch.float64).eps
SPECTRAL = [f"conv{number}" for number in range(1, 9)]


def plain(state, x):
    """The forward pass in evaluation mode, from a published state dict; sides divisible by 8."""

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight_orig"]
        u, v = state[f"{name}.weight_u"], state[f"{name}.weight_v"]
        return F.leaky_relu(F.conv2d(x, weight / (u @ weight.flatten(1) @ v), stride=stride, padding=1), 0.2)

    def double(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    x0 = F.leaky_relu(F.conv2d(x, state["conv0.weight"], state["conv0.bias"], padding=1), 0.2)
    x1 = conv("conv1", x0, 2)
    x2 = conv("conv2", x1, 2)
    x3 = conv("conv3", x2, 2)
    x4 = conv("conv4", double(x3)) + x2
    x5 = conv("conv5", double(x4)) + x1
    x6 = conv("conv6", double(x5)) + x0
    return F.conv2d(conv("conv8", conv("conv7", x6)), state["conv9.weight"], state["conv9.bias"], padding=1)


def small(**options):
    torch.manual_seed(0)
    return UNetDiscriminator(num_feat=4, **options)


def test_the_published_size():
    with torch.device("meta"):
        discriminator = UNetDiscriminator()
    shapes = {key: tuple(tensor.shape) for key, tensor in discriminator.state_dict().items()}
    c = 64
    convs = {
        1: (2, 1, 4),
        2: (4, 2, 4),
        3: (8, 4, 4),
        4: (4, 8, 3),
        5: (2, 4, 3),
        6: (1, 2, 3),
        7: (1, 1, 3),
        8: (1, 1, 3),
    }
    expected = {"conv0.weight": (c, 3, 3, 3), "conv0.bias": (c,), "conv9.weight": (1, c, 3, 3), "conv9.bias": (1,)}
    for number, (out, into, k) in convs.items():
        expected[f"conv{number}.weight_orig"] = (out * c, into * c, k, k)
        expected[f"conv{number}.weight_u"] = (out * c,)
        expected[f"conv{number}.weight_v"] = (into * c * k * k,)
    assert shapes == expected
    assert sum(p.numel() for p in discriminator.parameters()) == 4_376_897


def test_logits_are_those_of_the_published_network():
    discriminator = small().double().eval()
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    # The same operations on the same numbers: what differs is the order of some sums.
    torch.testing.assert_close(discriminator(x), plain(discriminator.state_dict(), x), rtol=0, atol=1000 * EPS)


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (13, 31), (17, 10)])
def test_any_size_from_8_up(size):
    assert small()(torch.rand(2, 3, *size)).shape == (2, 1, *size)


def test_small_and_other_images_are_refused():
    with pytest.raises(ValueError, match="must be at least 8 pixels high and wide"):
        small()(torch.rand(1, 3, 7, 8))
    with pytest.raises(ValueError, match=r"must be \(B, 3, H, W\)"):
        small()(torch.rand(1, 1, 8, 8))
    with pytest.raises(TypeError, match="float64"):
        small()(torch.rand(1, 3, 8, 8).double())
    with pytest.raises(ValueError, match="num_feat is 0"):
        UNetDiscriminator(num_feat=0)


def torchs(norm, conv):
    """A convolution of torch with its own spectral norm, in the state of ours."""
    out, into, side, _ = conv.weight_orig.shape
    module = norm(nn.Conv2d(into, out, side, stride=conv.stride, padding=1, bias=False).double())
    if norm is classic:
        module.load_state_dict(conv.state_dict())
        return module
    names = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}
    module.load_state_dict({f"parametrizations.weight.{names[key]}": t for key, t in conv.state_dict().items()})
    return module


# The later one of torch iterates in the other order, u before v; published discriminators have the classic one.
@pytest.mark.parametrize(("norm", "training"), [(classic, False), (classic, True), (parametrized, False)])
def test_spectral_norm_is_torchs(norm, training):
    torch.manual_seed(0)
    ours = SpectralConv2d(3, 5, 4).double()
    with torch.no_grad():
        ours.weight_orig.add_(torch.randn_like(ours.weight_orig))  # u and v are no longer those of the weight
    theirs = torchs(norm, ours).train(training)
    ours.train(training)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    for _ in range(2):
        results = []
        for conv in (ours, theirs):
            y = conv(x)
            weight = next(conv.parameters())
            (gradient,) = torch.autograd.grad(y.square().sum(), weight)
            results.append((y, gradient))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=1000 * EPS)
    twin = torchs(norm, ours).eval()
    torch.testing.assert_close(twin(x), theirs.eval()(x), rtol=0, atol=1000 * EPS)


def test_iterations_find_the_largest_singular_value():
    discriminator = small().double().eval()
    for _ in range(200):
        discriminator.iterate_spectral_norms()
    for name in SPECTRAL:
        weight = discriminator.get_submodule(name).weight().flatten(1)
        # Power iteration errs by (sigma_2 / sigma_1)^400 of what it began with, on random matrices far below this.
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=1e-6)


def test_evaluation_mode_moves_nothing_and_training_mode_iterates():
    discriminator = small().eval()
    x = torch.rand(1, 3, 8, 8)
    before = copy.deepcopy(discriminator.state_dict())
    discriminator(x)
    assert all(torch.equal(before[key], tensor) for key, tensor in discriminator.state_dict().items())
    discriminator.train()(x)
    twin = small().eval()
    twin.iterate_spectral_norms()
    assert not torch.equal(before["conv1.weight_u"], twin.conv1.weight_u)
    for key, tensor in twin.state_dict().items():
        assert torch.equal(discriminator.state_dict()[key], tensor)


def test_two_passes_before_one_backward():
    discriminator = small()
    x = torch.rand(1, 3, 8, 8)
    (discriminator(x).mean() - discriminator(1 - x).mean()).backward()
    assert all(p.grad is not None for p in discriminator.parameters())
    copy.deepcopy(discriminator)


def test_the_division_is_in_float32_under_autocast():
    discriminator = small().eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert discriminator.conv1.weight().dtype == torch.float32
        assert torch.equal(discriminator.conv1.weight(), small().conv1.weight())
        assert discriminator(torch.rand(1, 3, 8, 8)).dtype == torch.bfloat16
        twin = small()
        twin.iterate_spectral_norms()
    discriminator.iterate_spectral_norms()
    assert torch.equal(twin.conv1.weight_u, discriminator.conv1.weight_u)


def test_it_is_saved_and_loaded_as_the_other_networks(tmp_path):
    path = tmp_path / "d.safetensors"
    discriminator = small(in_channels=1)
    save_network(discriminator, path, stage="teacher")
    assert read_metadata(path)["architecture"] == "UNetDiscriminator"
    for loaded in (load_network(path, expect=UNetDiscriminator), load_discriminator(path)):
        assert loaded.hyperparameters == {"num_feat": 4, "in_channels": 1}
        assert loaded.state_dict().keys() == discriminator.state_dict().keys()
        assert all(torch.equal(loaded.state_dict()[key], t) for key, t in discriminator.state_dict().items())
    # It makes no SR, so that it is none of the networks that a person may upscale with.
    with pytest.raises(ValueError, match="hold 'UNetDiscriminator', but must hold one of MLN"):
        load_network(path)
    with pytest.raises(ValueError, match="hold UNetDiscriminator, but must hold MLN"):
        load_network(path, expect=MLN)
    save_network(MLN(scale=2, num_feat=4, num_body=1), path)
    with pytest.raises(ValueError, match="hold MLN, but must hold UNetDiscriminator"):
        load_discriminator(path)


def test_a_published_file_loads(tmp_path):
    path = tmp_path / "netD.pth"
    discriminator = small()
    torch.save({"params": discriminator.state_dict()}, path)
    before = torch.random.get_rng_state()
    loaded = load_discriminator(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(loaded.state_dict()[key], t) for key, t in discriminator.state_dict().items())
    state = discriminator.state_dict()
    for wrong, words in (
        ({"head.0.weight": torch.zeros(1)}, "conv0.weight"),
        ({key: t for key, t in state.items() if key != "conv3.weight_u"}, "missing: conv3.weight_u"),
        ({**state, "conv0.weight": torch.zeros(0, 3, 3, 3)}, "impossible discriminator: num_feat is 0"),
        ({**state, "conv0.weight": torch.zeros(8, 3, 3, 3)}, "of another shape: "),
    ):
        torch.save({"params": wrong}, path)
        with pytest.raises(ValueError, match=words):
            load_discriminator(path)
