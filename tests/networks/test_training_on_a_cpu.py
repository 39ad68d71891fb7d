"""Networks whose 3x3 convolutions run, and train, on the kernels of a CPU are the networks of torch's convolutions."""

import copy

import pytest
import torch
from test_weights_of_others import replica
from torch import nn

from mrda.networks import RDAN, layers, rda_conv, upscaler
from mrda.networks.layers import to_channels_last
from mrda.networks.upscaler import PixelShuffleUpscaler
from mrda_kernels.backends import cpu

SIDE = 46  # so many pixels that everything pays
built = pytest.mark.skipif(cpu.why_not("cpu") is not None, reason="the CPU extension is not built")


def use_kernels(monkeypatch, does):
    """Let all networks run on the kernels of a CPU, float64 too, or none."""
    for module in (layers, rda_conv, upscaler):
        monkeypatch.setattr(module, "is_for_cpu_kernels", lambda features: does)


@pytest.fixture(autouse=True)
def _as_with_many_channels(monkeypatch):
    monkeypatch.setattr(upscaler, "_FEWEST_CHANNELS", 1)


@pytest.fixture
def convolved(monkeypatch):
    """The number of channels of every convolution by the kernel for training, and of every upscaler that collapses."""
    calls, run, collapse = [], cpu.conv3x3_with_features, upscaler._collapse
    monkeypatch.setattr(cpu, "conv3x3_with_features", lambda call: calls.append(call.conv_weight.shape[0]) or run(call))
    monkeypatch.setattr(upscaler, "_collapse", lambda *a: calls.append("collapsed") or collapse(*a))
    return calls


def make_rdan(scale=2, dtype=torch.float32, **options):
    torch.manual_seed(scale)
    return to_channels_last(RDAN(scale=scale, num_feat=16, num_blocks=1, idr_dim=8, **options).to(dtype))


def inputs(height=SIDE, width=SIDE, dtype=torch.float32):
    generator = torch.Generator().manual_seed(height)
    lr = torch.rand(1, 3, height, width, generator=generator, dtype=dtype)
    return lr.contiguous(memory_format=torch.channels_last), torch.randn(1, 8, generator=generator, dtype=dtype)


def outputs(network, *tensors):
    """The result, and the gradients of all inputs and of the parameters that want one."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    result = network(*leaves)
    leaves += [p for p in network.parameters() if p.requires_grad]
    return [result.detach(), *torch.autograd.grad(result.square().mean(), leaves)]


def assert_same_by_both_ways(monkeypatch, network, *tensors):
    """Compare both ways of a network in float64."""
    use_kernels(monkeypatch, True)
    found = outputs(network, *tensors)
    use_kernels(monkeypatch, False)
    wanted = outputs(network, *tensors)
    for actual, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
    assert [gradient.stride() for gradient in found[1:]] == [gradient.stride() for gradient in wanted[1:]]


@built
@pytest.mark.parametrize(("scale", "convolutions"), [(2, 3), (3, 3), (4, 4)])
def test_a_network_trains_the_same(monkeypatch, convolved, scale, convolutions):
    assert_same_by_both_ways(monkeypatch, make_rdan(scale, torch.float64), *inputs(dtype=torch.float64))
    expected = [16, 16, 16, "collapsed"] if scale < 4 else [16, 16, 16, 64, "collapsed"]
    assert len(expected) == convolutions + 1
    assert convolved == expected


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 2), (3, 4), (9, 7), (2, 1030)], ids=str)
def test_every_size(monkeypatch, scale, size):
    monkeypatch.setattr(upscaler, "_FEWEST_PIXELS", 0)
    monkeypatch.setattr(cpu, "_FEWEST_PIXELS", 0)
    assert_same_by_both_ways(monkeypatch, make_rdan(scale, torch.float64), *inputs(*size, dtype=torch.float64))


@built
def test_in_float32_gradients_are_as_near_to_the_truth_as_those_of_torch(monkeypatch, convolved):
    network, tensors = make_rdan(4), inputs()
    found = outputs(network, *tensors)
    assert convolved == [16, 16, 16, 64, "collapsed"]
    use_kernels(monkeypatch, False)
    plain = outputs(network, *tensors)
    truth = outputs(copy.deepcopy(network).double(), *(tensor.double() for tensor in tensors))
    assert len(convolved) == 5
    for actual, other, exact in zip(found, plain, truth, strict=True):
        if exact.numel() >= 64:  # the error of a few numbers is a matter of chance
            # on random numbers, the error of Winograd's algorithm is about twice that of the direct sum
            assert (actual - exact).norm() < 4 * (other - exact).norm()


@built
@pytest.mark.parametrize("frozen", ["rdan", "body_tail", "blocks.0.conv1", "upscaler.last", "upscaler.expand"])
def test_frozen_weights_get_no_gradient(monkeypatch, frozen):
    network = make_rdan(4, torch.float64)
    network.requires_grad_(frozen != "rdan")
    if frozen != "rdan":
        network.get_submodule(frozen).requires_grad_(False)
    assert_same_by_both_ways(monkeypatch, network, *inputs(dtype=torch.float64))


@built
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(monkeypatch, context):
    network, tensors = make_rdan(3, torch.float64), inputs(dtype=torch.float64)
    with context():
        use_kernels(monkeypatch, True)
        found = network(*tensors)
        use_kernels(monkeypatch, False)
        torch.testing.assert_close(found, network(*tensors), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "name",
    [
        "body_tail",
        "blocks.0.conv1",
        "blocks.0.conv2",
        "blocks.0.rda_conv1",
        "blocks.0.rda_conv2.mask",
        "upscaler",
        "upscaler.expand",
        "upscaler.expand.0",
        "upscaler.expand.1",
        "upscaler.expand.2",
        "upscaler.last",
    ],
)
def test_hooks_are_called(name):
    network, tensors, seen = make_rdan(4), inputs(), []
    expected = network(*tensors)
    layer = network.get_submodule(name)
    layer.register_forward_hook(lambda *_: seen.append("forward"))
    kinds = ["forward"]
    if name != "blocks.0.conv1":  # whose result is changed in place, which torch refuses after a hook of the backward
        layer.register_full_backward_hook(lambda *_: seen.append("backward"))
        kinds.append("backward")
    result = network(*tensors)
    result.sum().backward()
    assert seen == kinds
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("name", ["body_tail", "blocks.0.conv2", "upscaler.expand.0", "upscaler.last"])
def test_changed_settings_are_heeded(monkeypatch, name):
    network, tensors = make_rdan(2, torch.float64), inputs(dtype=torch.float64)
    before = network(*tensors)
    network.get_submodule(name).padding_mode = "circular"
    network.get_submodule(name)._reversed_padding_repeated_twice = [1, 1, 1, 1]
    assert not torch.allclose(network(*tensors), before)
    assert_same_by_both_ways(monkeypatch, network, *tensors)


@pytest.mark.parametrize(
    "name", ["body_tail", "blocks.0.conv1", "upscaler.expand.0", "upscaler.expand.2", "upscaler.last"]
)
def test_convolutions_without_a_bias(monkeypatch, name):
    network = make_rdan(4, torch.float64)
    network.get_submodule(name).bias = None
    assert_same_by_both_ways(monkeypatch, network, *inputs(dtype=torch.float64))


def test_a_replica_of_data_parallel_trains_the_same(monkeypatch):
    network, tensors = make_rdan(4, torch.float64), inputs(dtype=torch.float64)
    use_kernels(monkeypatch, True)
    expected = outputs(network, *tensors)
    result = replica(network)(*tensors)
    assert torch.equal(result, expected[0])
    found = torch.autograd.grad(result.square().mean(), list(network.parameters()))
    for actual, wanted in zip(found, expected[3:], strict=True):
        assert torch.equal(actual, wanted)


# ---- where torch's convolutions are kept ---------------------------------------------------------------------------


def vmapped(network):
    return torch.func.vmap(lambda lr, idr: network(lr[None], idr[None])[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda network: torch.autocast("cpu", torch.bfloat16)(network),
        lambda network: torch.compile(network, backend="aot_eager", fullgraph=True),
        vmapped,
        lambda network: lambda lr, idr: torch.func.jvp(lambda x: network(x, idr), (lr,), (lr,))[1],
        lambda network: torch.func.functionalize(network),
    ],
    ids=["autocast", "compile", "vmap", "jvp", "functionalize"],
)
def test_other_programs_are_those_of_torchs_convolutions(monkeypatch, convolved, change):
    network, tensors = make_rdan(), inputs()
    found = change(network)(*tensors)
    found.sum().backward()
    assert convolved == []
    use_kernels(monkeypatch, False)
    assert torch.equal(found, change(network)(*tensors))


def test_an_upscaler_can_be_differentiated_twice(monkeypatch):
    monkeypatch.setattr(upscaler, "_FEWEST_PIXELS", 0)
    monkeypatch.setattr(cpu, "_FEWEST_PIXELS", 0)
    use_kernels(monkeypatch, True)
    torch.manual_seed(0)
    network = PixelShuffleUpscaler(16, 4).double()
    features = torch.randn(1, 16, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = [p for layer in network.modules() if isinstance(layer, nn.Conv2d) for p in layer.parameters()]
    assert torch.autograd.gradcheck(lambda x, *_: network(x), [features, *weights], fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x, *_: network(x), [features, *weights], fast_mode=True)
