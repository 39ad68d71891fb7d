"""The upscaler as one convolution is the upscaler."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from mrda.networks import MLN, MRDAStudent
from mrda.networks.upscaler import CollapsedUpscaler, PixelShuffleUpscaler

SIDES = (1, 2, 3, 4, 5, 8)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_collapsed_it_gives_the_same_image_borders_included(scale, memory_format):
    torch.manual_seed(scale)
    upscaler = PixelShuffleUpscaler(6, scale).double()
    collapsed = CollapsedUpscaler(upscaler)
    for height, width in itertools.product(SIDES, SIDES):
        features = torch.randn(2, 6, height, width, dtype=torch.float64).to(memory_format=memory_format)
        # Some 3,000 products of numbers of about one at the most, each rounded once or twice.
        torch.testing.assert_close(collapsed(features), upscaler(features).detach(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_published_width_in_float32(scale):
    torch.manual_seed(0)
    upscaler = PixelShuffleUpscaler(64, scale)
    features = torch.randn(1, 64, 9, 7)
    image = CollapsedUpscaler(upscaler)(features)
    assert not torch.equal(image, upscaler(features))  # or nothing was collapsed
    torch.testing.assert_close(image, upscaler(features).detach(), rtol=0, atol=1e-5)


class Wrapped(nn.Module):
    """A layer of another library around one of ours."""

    def __init__(self, layer):
        super().__init__()
        self.inner = layer

    def forward(self, x):
        return self.inner(x) + 1


def changed_stride(upscaler):
    upscaler.expand[0].stride = (2, 2)


def hooked(upscaler):
    upscaler.last.register_forward_hook(lambda layer, args, image: image + 1)


def without_bias(upscaler):
    upscaler.expand[0].bias = None


def wrapped(upscaler):
    upscaler.expand = nn.Sequential(*(Wrapped(layer) for layer in upscaler.expand))
    upscaler.last = Wrapped(upscaler.last)


def replaced(upscaler):
    upscaler.expand = Wrapped(upscaler.expand)


@pytest.mark.parametrize("change", [changed_stride, hooked, without_bias, wrapped, replaced])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layers_that_somebody_has_changed_take_part(change, dtype):
    torch.manual_seed(0)
    upscaler = PixelShuffleUpscaler(32, 4)
    change(upscaler)
    upscaler.to(dtype)
    features = torch.randn(2, 32, 32, 32, dtype=dtype).to(memory_format=torch.channels_last)
    image, wanted = upscaler(features), upscaler.last(upscaler.expand(features))
    assert image.shape == wanted.shape
    assert (image - wanted).float().norm() <= 8 * torch.finfo(dtype).eps * wanted.float().norm()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_in_mixed_precision_image_and_gradients_are_those_of_the_layers(scale, monkeypatch):
    torch.manual_seed(scale)
    upscaler = PixelShuffleUpscaler(8, scale)
    features = torch.randn(2, 8, 5, 6, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    shuffles = []
    monkeypatch.setattr(
        nn.PixelShuffle, "forward", lambda self, x: shuffles.append(x) or F.pixel_shuffle(x, self.upscale_factor)
    )

    def outcome(upscale):
        with torch.autocast("cpu", torch.bfloat16):
            image = upscale(features)
        return image.detach(), *torch.autograd.grad(image.float().square().sum(), [features, *upscaler.parameters()])

    found = outcome(upscaler)
    assert not shuffles
    wanted = outcome(lambda x: upscaler.last(upscaler.expand(x)))
    assert len(shuffles) == (2 if scale == 4 else 1)
    for got, expected in zip(found, wanted, strict=True):
        # Sums are rounded in another order.
        assert (got - expected).float().norm() <= 2**-8 * expected.float().norm()


def test_later_changes_of_the_weights_have_no_effect():
    upscaler, features = PixelShuffleUpscaler(4, 4), torch.randn(1, 4, 5, 5)
    collapsed = CollapsedUpscaler(upscaler)
    images = [collapsed(part) for part in (features, features[..., :1])]
    for weight in upscaler.parameters():
        weight.data.mul_(2)
    for part, image in zip((features, features[..., :1]), images, strict=True):
        assert torch.equal(collapsed(part), image)
        torch.testing.assert_close(CollapsedUpscaler(upscaler)(part), upscaler(part).detach())


def test_what_is_made_in_inference_mode_serves_gradients_later():
    upscaler = PixelShuffleUpscaler(4, 2)
    features = torch.randn(1, 4, 3, 3)
    with torch.inference_mode():
        collapsed = CollapsedUpscaler(upscaler)
        collapsed(features)
    features.requires_grad_()
    (got,) = torch.autograd.grad(collapsed(features).sum(), features)
    (wanted,) = torch.autograd.grad(upscaler(features).sum(), features)
    torch.testing.assert_close(got, wanted)


def test_gradients_reach_the_weights_of_the_kernel():
    upscaler = PixelShuffleUpscaler(4, 2).double()
    features = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)

    def gradients(image):
        return torch.autograd.grad(image.square().sum(), [features, *upscaler.parameters()])

    collapsed = torch.nn.functional.pixel_shuffle(upscaler.collapsed()(features), 2)
    torch.testing.assert_close(gradients(collapsed), gradients(upscaler(features)))


def test_an_mln_with_a_frozen_upscaler_adapts_through_the_collapsed_one():
    torch.manual_seed(0)
    mln = MLN(scale=4, num_feat=4, num_body=1).double().requires_grad_(False)
    lr, lr_up = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 3, 16, 20, dtype=torch.float64)
    fast = {name: value.clone().requires_grad_() for name, value in mln.adaptable_parameters(True).items()}
    twin = mln.with_collapsed_upscaler()
    assert isinstance(twin.upscaler, CollapsedUpscaler)
    assert {**twin.adaptable_parameters(True)} == {**mln.adaptable_parameters(True)}  # the very parameters

    def gradients(network):
        return torch.autograd.grad(functional_call(network, fast, (lr, lr_up)).abs().mean(), list(fast.values()))

    torch.testing.assert_close(gradients(twin), gradients(mln))


def test_no_image_is_upscaled_by_more_than_one_convolution_at_inference(monkeypatch):
    network = MRDAStudent(scale=4, num_feat=4, num_blocks=1, den_width=2).eval()
    upscaler, ran = {*network.rdan.upscaler.modules()}, []
    for kind in (nn.Conv2d, nn.PixelShuffle):

        def counted(layer, x, forward=kind.forward):
            ran.append(layer)
            return forward(layer, x)

        monkeypatch.setattr(kind, "forward", counted)
    network.prepare()(torch.rand(1, 3, 6, 6))
    assert not ran
    network(torch.rand(1, 3, 6, 6))
    assert sum(layer in upscaler for layer in ran) == 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_no_further_from_the_truth_than_the_long_way(dtype):
    torch.manual_seed(0)
    exact = PixelShuffleUpscaler(32, 4).double().requires_grad_(False)
    features = torch.randn(1, 32, 8, 8, dtype=torch.float64)
    half = copy.deepcopy(exact).to(dtype)
    truth = exact(features)
    error = (CollapsedUpscaler(half)(features.to(dtype)).double() - truth).square().mean()
    assert error < (half(features.to(dtype)).double() - truth).square().mean()
