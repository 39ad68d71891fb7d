"""The operators inside torch.compile, torch.export, autocast and torch.func."""

import pytest
import torch
from calls import Call

from mrda_kernels import dynamic_depthwise_conv2d, rda_conv2d, reference


def leaves(call):
    return [None if t is None else t.requires_grad_() for t in call.tensors()]


def device_type():
    return torch.get_default_device().type


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_compile_keeps_the_whole_graph(dynamic, layout):
    torch.compiler.reset()

    def function(*tensors):
        return rda_conv2d(
            dynamic_depthwise_conv2d(*tensors[:2], negative_slope=0.2), *tensors[1:], output_negative_slope=0.1
        )

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for shape in ((2, 3, 4, 5), (3, 3, 6, 7)) if dynamic else ((2, 3, 4, 5),):
        call = Call(shape, layout=layout)
        eager, traced = leaves(call), leaves(call)
        expected, output = function(*eager), compiled(*traced)
        assert torch.equal(output, expected)
        assert output.stride() == expected.stride()
        expected.sum().backward()
        output.sum().backward()
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(eager, traced, strict=True))


@pytest.mark.slow
def test_compiled_by_inductor_the_operator_and_what_surrounds_it_agree_with_eager():
    torch.compiler.reset()

    def function(input, *small):
        return rda_conv2d(input.relu() + 1, *small, output_negative_slope=0.1).square().mean()

    eager, traced = (leaves(Call((2, 8, 6, 7), layout="channels_last", dyadic=False)) for _ in range(2))
    expected = function(*eager)
    loss = torch.compile(function, fullgraph=True)(*traced)
    expected.backward()
    loss.backward()
    # a sum of 672 squares, and its gradients: a few hundred float32 roundings, whichever way it is ordered
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for a, b in zip(eager, traced, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5 * float(a.grad.abs().max()))


def test_export_keeps_the_operators_and_dynamic_sizes():
    class Both(torch.nn.Module):
        def forward(self, input, weight, mask_weight, mask_bias):
            return rda_conv2d(dynamic_depthwise_conv2d(input, weight), weight, mask_weight, mask_bias)

    height, width = torch.export.Dim("height"), torch.export.Dim("width")
    exported = torch.export.export(
        Both(),
        Call((2, 3, 8, 9)).tensors(),
        dynamic_shapes=({2: height, 3: width}, None, None, None),
    )
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert {"mrda_kernels.rda_conv2d.default", "mrda_kernels.dynamic_depthwise_conv2d.default"} <= called
    tensors = Call((2, 3, 5, 12)).tensors()
    assert torch.equal(exported.module()(*tensors), Both()(*tensors))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_inputs_and_returns_gradients_of_the_leaves_dtype(backend, dtype):
    tensors = leaves(Call((2, 3, 4, 5), dyadic=False))
    with torch.autocast(device_type(), dtype):
        output = rda_conv2d(*tensors, backend=backend)
        bare = dynamic_depthwise_conv2d(*tensors[:2], backend=backend)
    low = [t.detach().to(dtype) for t in tensors]
    assert torch.equal(output, rda_conv2d(*low, backend=backend))
    assert torch.equal(bare, dynamic_depthwise_conv2d(*low[:2], backend=backend))
    output.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


def test_autocast_leaves_float64_alone(backend):
    tensors = Call((2, 3, 4, 5), dtype=torch.float64).tensors()
    with torch.autocast(device_type(), torch.bfloat16):
        assert rda_conv2d(*tensors, backend=backend).dtype == torch.float64


def test_autocast_mixes_dtypes_that_it_casts(backend):
    input, *small = Call((2, 3, 4, 5)).tensors()
    with torch.autocast(device_type(), torch.bfloat16):
        assert rda_conv2d(input.bfloat16(), *small, backend=backend).dtype == torch.bfloat16


def test_func_grad_equals_autograd(backend):
    call = Call((2, 3, 4, 5), dtype=torch.float64)
    tensors = leaves(call)

    def loss(*tensors):
        return rda_conv2d(*tensors, backend=backend).square().sum()

    grads = torch.func.grad(loss, argnums=(0, 1, 2, 3))(*(t.detach() for t in tensors))
    expected = torch.autograd.grad(
        reference.rda_conv2d(*tensors).square().sum(), tensors
    )  # the same composition, hence the same bits
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))


def test_vmap_equals_a_loop(backend):
    inputs = torch.stack([Call((2, 3, 4, 5), dtype=torch.float64, seed=seed).tensors()[0] for seed in range(3)])
    _, *small = Call((2, 3, 4, 5), dtype=torch.float64).tensors()

    def function(input):
        return rda_conv2d(input, *small, backend=backend)

    mapped = torch.func.vmap(function)(inputs)
    # sums of at most 9 or 4 exact products; sigmoid and the slope round a few times, of values below 16
    torch.testing.assert_close(mapped, torch.stack([function(x) for x in inputs]), rtol=0, atol=16 * 2**-50)

    kernels = torch.stack([small[0], small[0] + 1, small[0] - 1])
    mapped = torch.func.vmap(lambda k: dynamic_depthwise_conv2d(inputs[0], k, backend=backend))(kernels)
    looped = torch.stack([dynamic_depthwise_conv2d(inputs[0], k, backend=backend) for k in kernels])
    assert torch.equal(mapped, looped)  # exact
