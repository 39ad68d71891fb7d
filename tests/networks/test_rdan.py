import json

import pytest
import torch
import torch.nn.functional as F

import mrda.networks.rda_conv as rda_conv_module
from mrda.networks import RDAB, RDAN, RDAConv

TINY = {"scale": 2, "num_feat": 4, "num_blocks": 2, "idr_dim": 8}


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_published_parameter_counts():
    rdan = RDAN()
    assert parameters(RDAConv(64)) == 41_025
    assert parameters(RDAB(64)) == 155_906
    assert parameters(rdan.head) == 1_792
    assert parameters(rdan.compress) == 16_384
    assert parameters(rdan.blocks) == 4_209_462
    assert parameters(rdan.body_tail) == 36_928
    assert parameters(rdan.upscaler.expand) == 295_424
    assert parameters(rdan.upscaler.last) == 1_731
    # The published total counts the two mean shifts, 12 fixed values each.
    assert parameters(rdan) == 4_561_745 - 24


def test_published_count_with_one_mask_per_channel():
    student_with_mask_per_channel = 6_059_867
    den = 1_276_992
    assert parameters(RDAN(mask_channels=64)) == student_with_mask_per_channel - den - 24


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("mask_channels", [1, 4])
def test_shapes(scale, mask_channels):
    rdan = RDAN(**{**TINY, "scale": scale}, mask_channels=mask_channels, kernel_size=5)
    lr, idr = torch.rand(2, 3, 5, 3), torch.randn(2, 8)
    assert rdan(lr, idr).shape == (2, 3, 5 * scale, 3 * scale)
    modulation = rdan.modulation_map(lr, idr)
    assert modulation.shape == (2, 1, 5, 3)
    assert modulation.min() > 0
    assert modulation.max() < 1
    assert not modulation.requires_grad


@pytest.mark.parametrize("conv_type", ["dasr_da", "static"])
def test_without_masks_there_is_no_modulation_map(conv_type):
    rdan = RDAN(**TINY, conv_type=conv_type)
    lr, idr = torch.rand(1, 3, 5, 3), torch.randn(1, 8)
    assert rdan(lr, idr).shape == (1, 3, 10, 6)
    with pytest.raises(ValueError, match=f"the network has conv_type '{conv_type}', but only 'rda' has masks"):
        rdan.modulation_map(lr, idr)


def test_modulation_map_is_the_mean_over_all_rda_convs():
    rdan = RDAN(**TINY)
    with torch.no_grad():
        for i, block in enumerate(rdan.blocks):
            for j, layer in enumerate((block.rda_conv1, block.rda_conv2)):
                layer.mask.weight.zero_()
                layer.mask.bias.fill_(float(2 * i + j))
    expected = torch.sigmoid(torch.arange(4.0)).mean()
    modulation = rdan.modulation_map(torch.rand(1, 3, 4, 4), torch.randn(1, 8))
    # A mean of four numbers below 1 in float32.
    torch.testing.assert_close(modulation, expected.expand(1, 1, 4, 4), rtol=0, atol=4 * 2**-23)


def test_every_rda_conv_is_one_operator_call_on_the_chosen_backend(monkeypatch):
    calls = []
    operator = rda_conv_module.rda_conv2d

    def spy(*args, backend, **options):
        calls.append((backend, options))
        return operator(*args, backend=None, **options)

    monkeypatch.setattr(rda_conv_module, "rda_conv2d", spy)
    rdan = RDAN(**TINY, backend="reference")
    lr, idr = torch.rand(1, 3, 4, 4), torch.randn(1, 8)
    rdan(lr, idr)
    rdan.set_backend("cpu")
    rdan(lr, idr)
    rdan.set_backend(None)
    rdan(lr, idr)
    assert [backend for backend, _ in calls] == ["reference"] * 4 + ["cpu"] * 4 + [None] * 4
    assert all(options == {"negative_slope": 0.1, "output_negative_slope": 0.1} for _, options in calls)


CONVS = [{}, {"conv_type": "dasr_da"}, {"conv_type": "static"}, {"conv_type": "static", "static_groups": "dense"}]


@pytest.mark.parametrize("conv", CONVS)
def test_all_parameters_receive_gradients(conv):
    rdan = RDAN(**TINY, **conv)
    idr = torch.randn(2, 8, requires_grad=True)
    rdan(torch.rand(2, 3, 6, 6), idr).square().mean().backward()
    gradients = [parameter.grad for parameter in rdan.parameters()] + [idr.grad]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("conv", CONVS)
def test_blocks_differ_in_their_steered_convolutions_only(conv):
    torch.manual_seed(0)
    block = RDAB(8, **conv).double()
    x, idr = torch.randn(2, 8, 4, 5).double(), torch.randn(2, 8).double()
    a = F.leaky_relu(block.rda_conv1(x, idr), 0.1)
    a = F.leaky_relu(block.conv1(a), 0.1)
    a = F.leaky_relu(block.rda_conv2(a, idr), 0.1)
    expected = block.conv2(a) + x
    # The same float64 arithmetic, fused or not: a few dozen roundings of numbers of order 1.
    torch.testing.assert_close(block(x, idr), expected, rtol=0, atol=64 * torch.finfo(torch.float64).eps)


def test_the_backend_reaches_dasrs_convolutions(monkeypatch):
    calls = []
    operator = rda_conv_module.dynamic_depthwise_conv2d

    def spy(*args, backend, **options):
        calls.append(backend)
        return operator(*args, backend=None, **options)

    monkeypatch.setattr(rda_conv_module, "dynamic_depthwise_conv2d", spy)
    rdan = RDAN(**TINY, conv_type="dasr_da", backend="reference")
    rdan(torch.rand(1, 3, 4, 4), torch.randn(1, 8))
    rdan.set_backend("cpu")
    rdan(torch.rand(1, 3, 4, 4), torch.randn(1, 8))
    assert calls == ["reference"] * 4 + ["cpu"] * 4


def test_the_mean_is_fixed_and_scaled_by_the_range():
    rdan = RDAN(**TINY, rgb_mean=(0.1, 0.2, 0.3), rgb_range=255.0)
    torch.testing.assert_close(rdan.mean.flatten(), torch.tensor([25.5, 51.0, 76.5]), rtol=2**-23, atol=0)
    assert not rdan.mean.requires_grad
    assert "mean" not in rdan.state_dict()


def test_hyperparameters_rebuild():
    options = {
        "scale": 3,
        "num_feat": 4,
        "num_blocks": 1,
        "kernel_size": 5,
        "idr_dim": 8,
        "mask_channels": 4,
        "mask_input": "F1",
        "dyn_act": "none",
        "conv_type": "rda",
        "static_groups": "C",
        "rgb_mean": [0.1, 0.2, 0.3],
        "rgb_range": 2.0,
    }
    hyperparameters = RDAN(**options, backend="reference").hyperparameters
    assert hyperparameters == options
    assert json.loads(json.dumps(hyperparameters)) == options
    hyperparameters["scale"] = 4
    assert RDAN(**options).hyperparameters["scale"] == 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scale": 1}, "scale is 1, but must be one of 2, 3, 4"),
        ({"num_feat": 0}, "num_feat is 0, but must be at least 1"),
        ({"num_blocks": 0}, "num_blocks is 0, but must be at least 1"),
        ({"idr_dim": -1}, "idr_dim is -1, but must be at least 1"),
        ({"kernel_size": 4}, "kernel_size is 4, but must be one of 1, 3, 5, 7"),
        ({"kernel_size": 9}, "kernel_size is 9, but must be one of 1, 3, 5, 7"),
        ({"backend": "gpu"}, "backend is 'gpu', but must be None or one of"),
        ({"mask_channels": 2}, "mask_channels is 2, but must be one of 1, 64"),
        ({"mask_input": "f"}, "mask_input is 'f', but must be one of 'F', 'F1'"),
        ({"dyn_act": "relu"}, "dyn_act is 'relu', but must be one of 'lrelu', 'none'"),
        ({"conv_type": "da"}, "conv_type is 'da', but must be one of 'rda', 'dasr_da', 'static'"),
        ({"conv_type": "static", "static_groups": "c"}, "static_groups is 'c', but must be one of 'C', 'dense'"),
        ({"conv_type": "static", "kernel_size": 4}, "kernel_size is 4, but must be one of 1, 3, 5, 7"),
        ({"conv_type": "static", "backend": "gpu"}, "backend is 'gpu', but must be None or one of"),
        ({"static_groups": "dense"}, "static_groups is 'dense', but must be 'C' where conv_type is 'rda'"),
        (
            {"conv_type": "dasr_da", "static_groups": "dense"},
            "static_groups is 'dense', but must be 'C' where conv_type is 'dasr_da'",
        ),
        (
            {"conv_type": "dasr_da", "mask_channels": 64},
            "mask_channels is 64, but must be 1 where conv_type is 'dasr_da'",
        ),
        (
            {"conv_type": "static", "mask_input": "F1"},
            "mask_input is 'F1', but must be 'F' where conv_type is 'static'",
        ),
        ({"conv_type": "dasr_da", "dyn_act": "relu"}, "dyn_act is 'relu', but must be one of 'lrelu', 'none'"),
        ({"rgb_mean": (0.4, 0.4)}, r"rgb_mean is \(0\.4, 0\.4\), but must be three numbers"),
        ({"rgb_mean": 5}, "rgb_mean is 5, but must be three numbers"),
        ({"rgb_mean": (0.4, 0.4, float("nan"))}, r"rgb_mean\[2\] is nan, but must be finite"),
        ({"rgb_range": 0.0}, r"rgb_range is 0\.0, but must be positive"),
        ({"rgb_range": float("inf")}, "rgb_range is inf, but must be finite"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        RDAN(**options)


def test_options_of_another_type():
    with pytest.raises(TypeError, match="rgb_range is 'x', but must be a number"):
        RDAN(rgb_range="x")
    with pytest.raises(TypeError, match=r"rgb_mean\[0\] is 'r', but must be a number"):
        RDAN(rgb_mean="rgb")
    with pytest.raises(TypeError, match=r"kernel_size is 3\.0, but must be an int"):
        RDAN(kernel_size=3.0)


def test_an_unknown_backend_is_refused_when_it_is_set():
    with pytest.raises(ValueError, match="backend is 'gpu', but must be None or one of"):
        RDAN(**TINY).set_backend("gpu")


@pytest.mark.parametrize(
    ("lr", "idr", "error", "match"),
    [
        (torch.rand(3, 4, 4), torch.rand(1, 8), ValueError, "lr has shape"),
        (
            torch.rand(2, 3, 4, 4),
            torch.rand(1, 8),
            ValueError,
            r"degradation has shape \(1, 8\), but must be \(2, 8\)",
        ),
        (torch.rand(1, 3, 4, 4), torch.rand(1, 9), ValueError, "degradation has shape"),
        (torch.rand(1, 3, 4, 4), torch.rand(1, 8).double(), TypeError, "degradation has dtype torch.float64"),
        (
            torch.rand(1, 3, 4, 4).long(),
            torch.rand(1, 8),
            TypeError,
            "lr has dtype torch.int64, but must be a floating point tensor",
        ),
        (torch.rand(1, 3, 4, 4), None, TypeError, "degradation is NoneType, but must be a torch.Tensor"),
    ],
)
def test_bad_input(lr, idr, error, match):
    with pytest.raises(error, match=match):
        RDAN(**TINY)(lr, idr)


@pytest.mark.parametrize("grad", [False, True])
def test_halves_in_one_call_are_the_same_block(monkeypatch, grad):
    """Stand-in for a GPU in half precision: the operators that such a call is composed of."""
    torch.manual_seed(0)
    block = RDAB(4).double().requires_grad_(grad)
    features, idr = torch.randn(2, 4, 5, 6, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    calls = []

    def outputs():
        output = block(features, idr)
        return [output, *(torch.autograd.grad(output.square().sum(), block.parameters()) if grad else ())]

    expected = outputs()
    with_conv = RDAConv.with_conv
    monkeypatch.setattr(RDAConv, "joins", lambda *_: True)
    monkeypatch.setattr(RDAConv, "with_conv", lambda *a, **o: calls.append(o) or with_conv(*a, **o))
    for actual, wanted in zip(outputs(), expected, strict=True):
        torch.testing.assert_close(actual, wanted)
    assert [sorted(options) for options in calls] == [["output_negative_slope"], ["skip"]]


class _OnAGpu(torch.Tensor):
    is_cuda = True


def test_which_halves_are_one_call():
    block, features = RDAB(4), torch.randn(1, 4, 5, 6).bfloat16().contiguous(memory_format=torch.channels_last)
    on_gpu = features.as_subclass(_OnAGpu)
    assert block.rda_conv1.joins(block.conv1, on_gpu)
    for others in (features, on_gpu.float(), on_gpu.contiguous(memory_format=torch.contiguous_format)):
        assert not block.rda_conv1.joins(block.conv1, others)
    block.conv1.register_forward_hook(lambda *_: None)
    assert not block.rda_conv1.joins(block.conv1, on_gpu)
    assert not RDAConv(4, mask_input="F1").joins(block.conv2, on_gpu)
