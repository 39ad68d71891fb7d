"""The upscaler as one convolution is the upscaler."""

import copy
import itertools

import pytest
import torch
from torch.func import functional_call

from mrda.networks import MLN, MRDAStudent
from mrda.networks.upscaler import PixelShuffleUpscaler

SIDES = (1, 2, 3, 4, 5, 8)


def chain(upscaler, features):
    """The long way."""
    was, upscaler.collapse = upscaler.collapse, False
    image = upscaler(features)
    upscaler.collapse = was
    return image


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_collapsed_it_gives_the_same_image_borders_included(scale, memory_format):
    torch.manual_seed(scale)
    upscaler = PixelShuffleUpscaler(6, scale).double().requires_grad_(False)
    for height, width in itertools.product(SIDES, SIDES):
        features = torch.randn(2, 6, height, width, dtype=torch.float64).to(memory_format=memory_format)
        # Some 3,000 products of numbers of about one at the most, each rounded once or twice.
        torch.testing.assert_close(upscaler(features), chain(upscaler, features), rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_published_width_in_float32(scale):
    torch.manual_seed(0)
    upscaler = PixelShuffleUpscaler(64, scale).requires_grad_(False)
    features = torch.randn(1, 64, 9, 7)
    torch.testing.assert_close(upscaler(features), chain(upscaler, features), rtol=0, atol=1e-5)
    assert upscaler._kept._kept is not None  # or nothing was collapsed


def test_it_is_collapsed_once_until_a_weight_changes():
    upscaler = PixelShuffleUpscaler(4, 4)
    features = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        upscaler(features)
        kept = upscaler._kept._kept[1]
        upscaler(features)
        assert upscaler._kept._kept[1] is kept

        upscaler.expand[0].weight.mul_(2)
        torch.testing.assert_close(upscaler(features), chain(upscaler, features))
        upscaler.load_state_dict(PixelShuffleUpscaler(4, 4).state_dict())
        torch.testing.assert_close(upscaler(features), chain(upscaler, features))
        upscaler.last.bias.data = torch.ones(3)
        torch.testing.assert_close(upscaler(features), chain(upscaler, features))
        upscaler.double()
        torch.testing.assert_close(upscaler(features.double()), chain(upscaler, features.double()))
        twin = copy.deepcopy(upscaler)
        twin.last.weight.zero_()
        torch.testing.assert_close(twin(features.double()), chain(twin, features.double()))


def test_weights_made_in_inference_mode_are_never_kept():
    with torch.inference_mode():
        upscaler, features = PixelShuffleUpscaler(4, 2), torch.randn(1, 4, 3, 3)
        upscaler(features)
        upscaler.last.weight.zero_()
        torch.testing.assert_close(upscaler(features), chain(upscaler, features))


def test_what_is_kept_in_inference_mode_serves_gradients_later():
    upscaler = PixelShuffleUpscaler(4, 2).requires_grad_(False)
    features = torch.randn(1, 4, 3, 3)
    with torch.inference_mode():
        upscaler(features)
    features.requires_grad_()
    upscaler(features).sum().backward()
    got, features.grad = features.grad, None
    chain(upscaler, features).sum().backward()
    torch.testing.assert_close(got, features.grad)


def test_weights_that_are_trained_go_the_long_way_unless_asked():
    upscaler = PixelShuffleUpscaler(4, 2).double()
    features = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(upscaler(features), chain(upscaler, features))
    assert upscaler._kept._kept is None

    wanted = torch.autograd.grad(upscaler(features).square().sum(), [features, *upscaler.parameters()])
    upscaler.collapse = True
    image = upscaler(features)
    assert not torch.equal(image, chain(upscaler, features))  # or the long way was gone again
    got = torch.autograd.grad(image.square().sum(), [features, *upscaler.parameters()])
    torch.testing.assert_close(got, wanted)


def test_an_mln_with_a_frozen_upscaler_adapts_through_the_collapsed_one():
    torch.manual_seed(0)
    mln = MLN(scale=4, num_feat=4, num_body=1).double().requires_grad_(False)
    lr, lr_up = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 3, 16, 20, dtype=torch.float64)
    fast = {name: value.clone().requires_grad_() for name, value in mln.adaptable_parameters(True).items()}

    def gradients():
        return torch.autograd.grad(functional_call(mln, fast, (lr, lr_up)).abs().mean(), list(fast.values()))

    got = gradients()
    assert mln.upscaler._kept._kept is not None
    mln.upscaler.collapse = False
    torch.testing.assert_close(got, gradients())


def test_no_image_is_upscaled_by_more_than_one_convolution_at_inference():
    network = MRDAStudent(scale=4, num_feat=4, num_blocks=1, den_width=2).eval()
    ran = []
    for layer in (*network.rdan.upscaler.expand, network.rdan.upscaler.last):
        layer.register_forward_hook(lambda *_: ran.append(1))
    with torch.inference_mode():
        network(torch.rand(1, 3, 6, 6))
    assert not ran
    network.train()
    network(torch.rand(1, 3, 6, 6))
    assert len(ran) == 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_no_further_from_the_truth_than_the_long_way(dtype):
    torch.manual_seed(0)
    exact = PixelShuffleUpscaler(32, 4).double().requires_grad_(False)
    features = torch.randn(1, 32, 8, 8, dtype=torch.float64)
    half = copy.deepcopy(exact).to(dtype)
    truth = chain(exact, features)
    error = (half(features.to(dtype)).double() - truth).square().mean()
    assert error < (chain(half, features.to(dtype)).double() - truth).square().mean()
