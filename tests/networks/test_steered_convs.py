import pytest
import torch
import torch.nn.functional as F

from mrda.networks import DASRConv, RDAConv, StaticConv

# The same float64 arithmetic in another order, terms of order 1: a few dozen roundings at most.
BUDGET = {"rtol": 0, "atol": 64 * torch.finfo(torch.float64).eps}


def predicted(layer, x, idr):
    """Each channel of each sample, convolved with its kernel from the predictor, by torch."""
    batch, channels, height, width = x.shape
    side = layer.kernel_size
    kernels = F.leaky_relu(idr @ layer.kernel[0].weight.T, 0.1) @ layer.kernel[2].weight.T
    kernels = kernels.reshape(batch * channels, 1, side, side)
    convolved = F.conv2d(x.reshape(1, -1, height, width), kernels, padding=side // 2, groups=batch * channels)
    return convolved.reshape(x.shape)


def activated(x, negative_slope):
    return x if negative_slope is None else F.leaky_relu(x, negative_slope)


def inputs(channels):
    torch.manual_seed(0)
    return torch.randn(2, channels, 4, 5).double(), torch.randn(2, channels).double()


@pytest.mark.parametrize("mask_input", ["F", "F1"])
@pytest.mark.parametrize("dyn_act", ["lrelu", "none"])
@pytest.mark.parametrize("output_negative_slope", [None, 0.1])
def test_rda_conv_options_follow_their_definition(mask_input, dyn_act, output_negative_slope):
    x, idr = inputs(3)
    layer = RDAConv(3, mask_channels=3, mask_input=mask_input, dyn_act=dyn_act).double()
    f1 = predicted(layer, x, idr)
    f1 = F.leaky_relu(f1, 0.1) if dyn_act == "lrelu" else f1
    expected_mask = torch.sigmoid(F.conv2d(x if mask_input == "F" else f1, layer.mask.weight, layer.mask.bias))
    expected = activated(f1 * expected_mask + x, output_negative_slope)
    masks = []
    got = layer(x, idr, output_negative_slope=output_negative_slope)
    with_masks = layer(x, idr, output_negative_slope=output_negative_slope, masks=masks)
    torch.testing.assert_close(got, expected, **BUDGET)
    torch.testing.assert_close(with_masks, expected, **BUDGET)
    torch.testing.assert_close(masks[0], expected_mask, **BUDGET)


def attention_conv(layer, x, idr, convolved, dyn_act, output_negative_slope):
    """Table V, row S4, with any convolution."""
    convolved = F.leaky_relu(convolved, 0.1) if dyn_act == "lrelu" else convolved
    w1, w2 = layer.attention[0].weight, layer.attention[2].weight
    attention = torch.sigmoid(F.leaky_relu(idr @ w1.T, 0.1) @ w2.T)
    out = F.conv2d(convolved, layer.project.weight, layer.project.bias) + x * attention[:, :, None, None]
    return activated(out, output_negative_slope)


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("dyn_act", ["lrelu", "none"])
@pytest.mark.parametrize("output_negative_slope", [None, 0.1])
def test_dasrs_convolution_follows_its_definition(kernel_size, dyn_act, output_negative_slope):
    x, idr = inputs(16)
    layer = DASRConv(16, kernel_size=kernel_size, dyn_act=dyn_act).double()
    expected = attention_conv(layer, x, idr, predicted(layer, x, idr), dyn_act, output_negative_slope)
    got = layer(x, idr, output_negative_slope=output_negative_slope)
    torch.testing.assert_close(got, expected, **BUDGET)


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("static_groups", ["C", "dense"])
@pytest.mark.parametrize("dyn_act", ["lrelu", "none"])
def test_the_static_convolution_follows_its_definition(kernel_size, static_groups, dyn_act):
    x, idr = inputs(16)
    layer = StaticConv(16, kernel_size=kernel_size, dyn_act=dyn_act, static_groups=static_groups).double()
    groups = 16 if static_groups == "C" else 1
    convolved = F.conv2d(x, layer.conv.weight, padding=kernel_size // 2, groups=groups)
    expected = attention_conv(layer, x, idr, convolved, dyn_act, 0.1)
    torch.testing.assert_close(layer(x, idr, output_negative_slope=0.1), expected, **BUDGET)


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (
            DASRConv(64),
            {
                "kernel.0.weight": (64, 64),
                "kernel.2.weight": (576, 64),
                "attention.0.weight": (8, 64),
                "attention.2.weight": (64, 8),
                "project.weight": (64, 64, 1, 1),
                "project.bias": (64,),
            },
        ),
        (
            StaticConv(64),
            {
                "conv.weight": (64, 1, 3, 3),
                "attention.0.weight": (8, 64),
                "attention.2.weight": (64, 8),
                "project.weight": (64, 64, 1, 1),
                "project.bias": (64,),
            },
        ),
    ],
    ids=["dasr_da", "static"],
)
def test_the_parameters_of_the_ablations(layer, shapes):
    assert {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()} == shapes


def test_few_channels_keep_one_for_the_attention():
    assert DASRConv(4).attention[0].out_features == 1


@pytest.mark.parametrize("conv", [RDAConv, DASRConv, StaticConv])
@pytest.mark.parametrize("shape", [(2, 4), (1, 5), (4,)])
def test_an_idr_of_another_shape_is_named(shape, conv):
    with pytest.raises(ValueError, match=r"idr has shape .*, but must be \(B, C\) = \(1, 4\)"):
        conv(4)(torch.rand(1, 4, 5, 5), torch.rand(shape))
