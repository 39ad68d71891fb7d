"""Every way of torch to take derivatives: right values, not zeros, and no silence."""

import pytest
import torch
import torch.nn.functional as F
from calls import Call
from torch import autograd, func
from torch.autograd import forward_ad, functional
from torch.utils._pytree import tree_leaves

from mrda_kernels import conv3x3, dynamic_depthwise_conv2d, rda_conv2d, rda_conv3x3, reference
from mrda_kernels.call import RdaCall

OPS = torch.ops.mrda_kernels
SLOPES = {"negative_slope": 0.3, "output_negative_slope": 0.2}


class Case:
    """An operator, the same made of torch's own, arguments of both, and vectors of their shapes."""

    def __init__(self, operator, composed, count, further=(), **options):
        self.operator, self.composed = operator, composed
        self.arguments, self.vectors = (self.tensors(seed, count, further, **options) for seed in (1, 2))
        self.indices = tuple(range(count + len(further)))

    def tensors(self, seed, count, further, **options):
        call = Call((1, 2, 3, 2), dtype=torch.float64, dyadic=False, seed=seed, **options)
        generator = torch.Generator().manual_seed(seed)
        return (
            *call.tensors()[:count],
            *(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in further),
        )


CONV = ((2, 2, 3, 3), (2,), (1, 2, 3, 2))
"""Shapes of the weight, bias and skip of a half block."""


def half(*tensors):
    return rda_conv3x3(*tensors[:6], skip=tensors[6], output_negative_slope=0.2)


def composed_half(*tensors):
    features = reference.rda_conv2d(*tensors[:4], output_negative_slope=0.1)
    return composed_conv(features, *tensors[4:])


def composed_conv(input, weight, bias, skip):
    return F.leaky_relu(F.conv2d(input, weight, bias, padding=1) + skip, 0.2)


def composed_bare(input, weight):
    return reference.forward(RdaCall.bare(input, weight, 0.1))


CASES = {
    "rda": Case(lambda *a: rda_conv2d(*a, **SLOPES), lambda *a: reference.rda_conv2d(*a, **SLOPES), 4),
    "rda, M = C": Case(
        lambda *a: rda_conv2d(*a, **SLOPES), lambda *a: reference.rda_conv2d(*a, **SLOPES), 4, full_mask=True
    ),
    "bare": Case(lambda *a: dynamic_depthwise_conv2d(*a, negative_slope=0.1), composed_bare, 2),
    "torch.ops": Case(lambda *a: OPS.rda_conv2d(*a, 0.1, None, None), reference.rda_conv2d, 4),
    "half block": Case(half, composed_half, 4, CONV),
    "half block, torch.ops": Case(
        lambda *a: OPS.rda_conv3x3(*a[:4], 0.1, 0.1, a[4], None, *a[5:], 0.2, None), composed_half, 4, CONV
    ),
    "conv3x3": Case(lambda *a: conv3x3(*a[:3], skip=a[3], output_negative_slope=0.2), composed_conv, 1, CONV),
    "torch.ops, bare": Case(lambda *a: OPS.dynamic_depthwise_conv2d(*a, 0.1, None), composed_bare, 2),
}


def loss(function):
    return lambda *tensors: function(*tensors).square().sum()


def leaves(case):
    return [t.clone().requires_grad_() for t in case.arguments]


# ---- the table -----------------------------------------------------------------------------------------------------


def dual(function, case):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(*map(forward_ad.make_dual, case.arguments, case.vectors))).tangent


def dual_of_leaves(function, case):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(*map(forward_ad.make_dual, leaves(case), case.vectors))).tangent


def dual_then_backward(function, case):
    tensors = leaves(case)
    with forward_ad.dual_level():
        value = loss(function)(*map(forward_ad.make_dual, tensors, case.vectors))
        grads = autograd.grad(value, tensors)
        return [forward_ad.unpack_dual(grad).tangent for grad in grads]


def dual_gradient(function, case):
    tensors = leaves(case)
    output = function(*tensors)
    with forward_ad.dual_level():
        grad_output = forward_ad.make_dual(torch.ones_like(output), case.vectors[0])
        return [forward_ad.unpack_dual(g).tangent for g in autograd.grad(output, tensors, grad_output)]


def double_backward(function, case):
    tensors = leaves(case)
    grads = autograd.grad(loss(function)(*tensors), tensors, create_graph=True)
    return autograd.grad(sum(g.square().sum() for g in grads), tensors)


def batched_gradients(function, case):
    tensors = leaves(case)
    output = function(*tensors)
    several = torch.stack([case.vectors[0], case.arguments[0], torch.ones_like(output)])
    return autograd.grad(output, tensors, several, is_grads_batched=True)


def mapped(function, case):
    """Map each argument in turn, at another dimension, and all of them."""
    pairs = [torch.stack(pair, dim=-1) for pair in zip(case.arguments, case.vectors, strict=True)]
    found = []
    for index in case.indices:
        tensors = [*case.arguments]
        tensors[index] = pairs[index]
        found.append(func.vmap(function, tuple(-1 if i == index else None for i in case.indices))(*tensors))
    return *found, func.vmap(function, -1, -1)(*pairs)


class Module(torch.nn.Module):
    def __init__(self, function, arguments):
        super().__init__()
        self.function = function
        self.small = torch.nn.ParameterList(map(torch.zeros_like, arguments[1:]))

    def forward(self, input):
        return self.function(input, *self.small)


def functional_call(function, case):
    module = Module(function, case.arguments)
    weights = {f"small.{index}": t for index, t in enumerate(case.arguments[1:])}
    call = func.grad(lambda weights: func.functional_call(module, weights, (case.arguments[0],)).square().sum())
    return tuple(call(weights).values())


def jacobian(**options):
    return lambda f, c: functional.jacobian(f, c.arguments, **options)


def hessian(**options):
    return lambda f, c: functional.hessian(loss(f), c.arguments, **options)


FORWARD = {"strategy": "forward-mode", "vectorize": True}
TABLE = {
    "forward_ad": dual,
    "forward_ad of leaves": dual_of_leaves,
    "forward_ad over reverse": dual_then_backward,
    "forward_ad of the gradient": dual_gradient,
    "double backward": double_backward,
    "is_grads_batched": batched_gradients,
    "func.vjp": lambda f, c: func.vjp(f, *c.arguments)[1](c.vectors[0]),
    "func.jvp": lambda f, c: func.jvp(f, c.arguments, c.vectors),
    "func.linearize": lambda f, c: func.linearize(f, *c.arguments)[1](*c.vectors),
    "func.vmap": mapped,
    "func.grad": lambda f, c: func.grad(loss(f), argnums=c.indices)(*c.arguments),
    "func.grad_and_value": lambda f, c: func.grad_and_value(loss(f))(*c.arguments),
    "func.jacrev": lambda f, c: func.jacrev(f, argnums=c.indices)(*c.arguments),
    "func.jacfwd": lambda f, c: func.jacfwd(f, argnums=c.indices)(*c.arguments),
    "func.hessian": lambda f, c: func.hessian(loss(f), argnums=(0, 1))(*c.arguments),
    "func.jvp of func.grad": lambda f, c: func.jvp(func.grad(loss(f), argnums=c.indices), c.arguments, c.vectors),
    "func.vmap of func.grad": lambda f, c: func.vmap(
        lambda x: func.grad(loss(f), argnums=c.indices)(x, *c.arguments[1:])
    )(torch.stack([c.arguments[0], c.vectors[0]])),
    "func.functional_call": functional_call,
    "functional.vjp": lambda f, c: functional.vjp(f, c.arguments, c.vectors[0]),
    "functional.jvp": lambda f, c: functional.jvp(f, c.arguments, c.vectors),
    "functional.vhp": lambda f, c: functional.vhp(loss(f), c.arguments, c.vectors),
    "functional.hvp": lambda f, c: functional.hvp(loss(f), c.arguments, c.vectors),
    "functional.jacobian": jacobian(),
    "functional.jacobian, vectorized": jacobian(vectorize=True),
    "functional.jacobian, forward-mode": jacobian(**FORWARD),
    "functional.hessian": hessian(),
    "functional.hessian, forward-mode": hessian(outer_jacobian_strategy="forward-mode", vectorize=True),
}


def check(transform, function, case):
    found, expected = ([leaf.detach() for leaf in tree_leaves(transform(f, case))] for f in (function, case.composed))
    assert len(found) == len(expected)
    assert any(t.abs().max() > 0.01 for t in expected)
    for got, right in zip(found, expected, strict=True):
        # some hundred float64 roundings, each relative to the largest term
        torch.testing.assert_close(got, right, rtol=1e-12, atol=1e-12 * max(1.0, float(right.abs().max())))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("transform", TABLE.values(), ids=TABLE)
def test_a_transform_gives_the_derivatives_of_torchs_own_operators(transform, case):
    check(transform, case.operator, case)


def inside(transform):
    """Compile the transform."""
    return lambda f, c: torch.compile(lambda *_: transform(f, c), backend="aot_eager", fullgraph=True)(*c.arguments)


def around(transform):
    """Transform the compiled function, which torch leaves to eager mode for transforms of its own."""
    return lambda f, c: transform(torch.compile(f, backend="aot_eager"), c)


@pytest.mark.parametrize(
    ("compiled", "name", "case"),
    [
        (inside, "func.jvp", "rda, M = C"),
        (inside, "func.grad", "bare"),
        (inside, "func.vmap", "rda"),
        (around, "func.jvp", "bare"),
        (around, "forward_ad", "rda"),
    ],
)
def test_a_transform_and_torch_compile_give_the_same(compiled, name, case):
    torch.compiler.reset()
    check(compiled(TABLE[name]), CASES[case].operator, CASES[case])
