"""The operators in torch's tools: sizes known only when a program runs, symbolic traces, counters."""

import importlib.util
import sys

import pytest
import torch
from calls import Call
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from mrda_kernels import (
    PackedConv3x3,
    conv3x3,
    dynamic_depthwise_conv2d,
    flops,
    pack_conv3x3,
    rda_conv2d,
    rda_conv3x3,
    reference,
)

OPS = torch.ops.mrda_kernels

# ---- sizes of a traced program -------------------------------------------------------------------------------------


def chosen(tensor, mask):
    """Some of the samples: how many, only the run tells."""
    return tensor[mask.nonzero().flatten()]


def masked(input, weight, mask_weight, mask_bias):
    return rda_conv2d(input, weight, mask_weight, mask_bias, output_negative_slope=0.1)


def half(input, weight, mask_weight, mask_bias):
    channels = input.shape[1]
    conv = torch.linspace(-1, 1, 9 * 4 * channels).reshape(4, channels, 3, 3)
    return rda_conv3x3(input, weight, mask_weight, mask_bias, conv, torch.ones(4), output_negative_slope=0.1)


def bare(input, weight, *_):
    return dynamic_depthwise_conv2d(input, weight)


@pytest.mark.parametrize(("operator", "layout"), [(masked, "channels_last"), (bare, "nchw"), (half, "channels_last")])
def test_batch_sizes_that_only_the_run_tells(operator, layout, monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "capture_dynamic_output_shape_ops", True)
    torch.compiler.reset()

    def function(of_input, of_weight, input, weight, *mask):
        input = chosen(input, of_input)
        if layout == "channels_last":
            input = input.contiguous(memory_format=torch.channels_last)
        return operator(input, chosen(weight, of_weight), *mask)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    masks = torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1])
    input, *others = Call((3, 2, 4, 5)).tensors()
    results = []
    for f in (function, compiled):
        leaf = input.clone().requires_grad_()
        output = f(*masks, leaf, *others)
        results.append((output, *torch.autograd.grad(output.sum(), leaf)))
    assert all(map(torch.equal, *results))
    with pytest.raises(RuntimeError, match=r"Runtime assertion failed for expression Eq\(u., u.\)"):
        compiled(torch.tensor([1, 1, 1]), masks[1], input, *others)
    with pytest.raises(ValueError, match="its first two sizes must be input's"):
        function(torch.tensor([1, 1, 1]), masks[1], input, *others)


def test_exported_sizes_that_only_the_run_tells():
    class Program(torch.nn.Module):
        def forward(self, sizes, mask_weight):
            height, width = sizes.tolist()
            return rda_conv2d(torch.ones(2, 3, height, width), torch.ones(2, 3, 3, 3), mask_weight)

    mask_weight = torch.randn(1, 3, 1, 1)
    exported = torch.export.export(Program(), (torch.tensor([4, 5]), mask_weight))
    sizes = torch.tensor([6, 7])
    assert torch.equal(exported.module()(sizes, mask_weight), Program()(sizes, mask_weight))


# ---- symbolic traces -----------------------------------------------------------------------------------------------


class Both(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mask = torch.nn.Conv2d(3, 1, 1)

    def forward(self, input, weight):
        return rda_conv2d(
            dynamic_depthwise_conv2d(input, weight, negative_slope=0.2), weight, self.mask.weight, negative_slope=0.3
        )


def test_a_symbolic_trace_records_the_functions():
    module = Both()
    traced = torch.fx.symbolic_trace(module)
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert targets == [dynamic_depthwise_conv2d, rda_conv2d]
    tensors = Call((2, 3, 4, 5)).tensors()[:2]
    assert torch.equal(traced(*tensors), module(*tensors))


@pytest.mark.parametrize("packs", [False, True])
def test_a_symbolic_trace_records_half_blocks(packs):
    input, weight, mask_weight, mask_bias = Call((2, 3, 4, 5)).tensors()
    conv = torch.randn(3, 3, 3, 3)
    conv = pack_conv3x3(conv) if packs else conv

    class Halves(torch.nn.Module):
        def forward(self, input, weight):
            features = rda_conv3x3(input, weight, mask_weight, mask_bias, conv, skip=input, inner_negative_slope=None)
            return conv3x3(features, conv, output_negative_slope=0.3)

    traced = torch.fx.symbolic_trace(Halves())
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert [target for target in targets if target is not PackedConv3x3] == [rda_conv3x3, conv3x3]
    assert torch.equal(traced(input, weight), Halves()(input, weight))


def test_what_only_resembles_a_tensor_is_refused():
    with pytest.raises(TypeError, match=r"input is list, but must be a torch\.Tensor"):
        dynamic_depthwise_conv2d([1.0], torch.ones(1, 1, 1, 1))


# ---- counts of operations ------------------------------------------------------------------------------------------


def counted(function, *tensors):
    with FlopCounterMode(display=False) as counter:
        output = function(*tensors)
        forward = counter.get_total_flops()
        if output.requires_grad:
            output.sum().backward()
    return forward, counter.get_total_flops() - forward


@pytest.mark.parametrize("full_mask", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 5])
def test_operations_are_counted_as_those_of_torchs_operators(kernel_size, full_mask):
    call = Call((2, 3, 4, 5), kernel_size, full_mask=full_mask)
    masks = 3 if full_mask else 1
    expected = 2 * 2 * 3 * 4 * 5 * (kernel_size**2 + masks)
    assert counted(rda_conv2d, *call.tensors())[0] == expected
    assert counted(reference.rda_conv2d, *call.tensors())[0] == expected
    assert counted(dynamic_depthwise_conv2d, *call.tensors()[:2])[0] == 2 * 2 * 3 * 4 * 5 * kernel_size**2
    # two products for each of the forward's
    assert counted(rda_conv2d, *(t.requires_grad_() for t in call.tensors())) == (expected, 2 * expected)
    assert counted(lambda *tensors: OPS.rda_conv2d(*tensors, 0.1, None, None), *call.tensors())[0] == expected


@pytest.mark.parametrize("wants_gradient", [False, True])
def test_operations_of_half_blocks_are_counted_as_those_of_torchs_operators(wants_gradient):
    tensors = Call((2, 3, 4, 5)).tensors()
    conv, bias = torch.randn(6, 3, 3, 3, requires_grad=wants_gradient), torch.randn(6)
    conv_flops = counted(lambda x: torch.nn.functional.conv2d(x, conv, bias, padding=1), tensors[0])
    assert conv_flops[0] == 2 * 2 * 3 * 6 * 9 * 4 * 5
    assert counted(lambda x: conv3x3(x, conv, bias), tensors[0]) == conv_flops
    steered = counted(rda_conv2d, *tensors)[0]
    assert counted(lambda *t: rda_conv3x3(*t, conv, bias), *tensors)[0] == steered + conv_flops[0]
    assert counted(lambda *t: rda_conv3x3(*t, pack_conv3x3(conv)), *tensors)[0] == steered + conv_flops[0]


def test_the_counter_knows_the_operators_whichever_is_imported_first(monkeypatch):
    assert OPS.rda_conv2d in flop_counter.flop_registry
    monkeypatch.setattr(torch.utils, "flop_counter", flop_counter)  # put back at the end, as is sys.modules
    monkeypatch.delitem(sys.modules, flop_counter.__name__)
    finders = list(sys.meta_path)
    flops.register()
    assert importlib.util.find_spec(flop_counter.__name__) is not None  # a question, not yet an import
    again = importlib.import_module(flop_counter.__name__)
    assert again is not flop_counter
    assert {OPS.rda_conv2d, OPS.dynamic_depthwise_conv2d_backward, OPS.conv3x3} <= set(again.flop_registry)
    assert sys.meta_path == finders
