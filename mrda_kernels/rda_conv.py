# SPDX-License-Identifier: Apache-2.0
"""The operators: the RDA convolution (Eqs. 8-10 of the paper, IEEE TIP 2023) and its bare dynamic convolution (Eq. 8).

Each is an operator of torch.library, with a backward operator beside it. The forward saves nothing but its inputs: the
backward recomputes what it needs. The backward operators are differentiable too, through the reference's formulas, so
gradients of any order exist. An ordinary eager call takes a shorter way, past the dispatcher, to the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from mrda_kernels import derivatives, dispatch, reference
from mrda_kernels.call import ARGUMENTS, BARE_ARGUMENTS, RdaCall, functorch_is_active, is_plain, without_autocast

__all__ = ["dynamic_depthwise_conv2d", "rda_conv2d"]


def rda_conv2d(
    input: Tensor,
    weight: Tensor,
    mask_weight: Tensor,
    mask_bias: Tensor | None = None,
    *,
    negative_slope: float = 0.1,
    output_negative_slope: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Filter each channel of each sample with its own kernel, multiply by a learned mask, add the input.

    Equivalent to::

        z = depthwise_conv2d(input[b], weight[b])       # Eq. 8: correlation, zero padding K // 2
        mask = sigmoid(conv2d(input, mask_weight, mask_bias))               # Eq. 9
        y = leaky_relu(z, negative_slope) * mask + input                    # Eq. 10
        y = leaky_relu(y, output_negative_slope)        # only if given

    Args:
        input: (B, C, H, W); float32, float64, bfloat16 or float16; any strides. Sizes may be 0 or 1.
        weight: (B, C, K, K), K one of 1, 3, 5, 7: the kernels, one per sample and channel.
        mask_weight: (M, C, 1, 1), M = 1 (one mask for all channels, the published network) or M = C.
        mask_bias: (M,), or None for zero.
        negative_slope: slope of the LeakyReLU after the convolution; 1 leaves that out.
        output_negative_slope: slope of the LeakyReLU on the result; None leaves that out.
        backend: "cuda", "triton", "cpu" or "reference"; None takes the environment variable MRDA_KERNELS_BACKEND if it
            is set, otherwise the first of these that can serve the call.

    Returns:
        (B, C, H, W) in input's dtype, each element computed in float32 (float64 for float64) and rounded once;
        channels_last if ``input`` is channels_last-contiguous and not NCHW-contiguous, otherwise NCHW-contiguous.

    Differentiable any number of times; the forward keeps nothing but its inputs. All backends' results and gradients
    are deterministic, those of "cpu" the same to the bit for any number of threads, and those of "cuda" on any GPU of
    the same model. In float16 and bfloat16, "cuda" may add products up on tensor cores, which cut terms and
    sums off after 24 bits (u = 2^-23) where float32 rounds them (u = 2^-24). With M = C, "cuda" and "triton" leave the
    mask's 1x1 convolution to torch's matrix product, whose precision torch.set_float32_matmul_precision sets.
    Under autocast, tensors are cast as for ``conv2d``, and nothing else. In forward-mode AD and inside ``torch.func``
    transforms, also under ``torch.compile``, the eager reference is used, whatever ``backend`` says. A CUDA graph can
    capture calls once the same call has been made outside of it.

    Raises:
        TypeError: an argument that is not a tensor, an unsupported dtype, or dtypes that differ.
        ValueError: shapes or devices that do not fit together, an unknown backend, a slope that is not finite.
        RuntimeError: ``backend`` can't serve the call; the message says why.
    """
    if mask_weight is None:
        raise TypeError("mask_weight is NoneType, but must be a torch.Tensor")
    return run(RdaCall(input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope), backend)


def dynamic_depthwise_conv2d(
    input: Tensor, weight: Tensor, *, negative_slope: float = 1.0, backend: str | None = None
) -> Tensor:
    """Filter each channel of each sample with its own kernel; correlation, zero padding K // 2 (Eq. 8).

    This is the bare dynamic convolution of MRDA, DASR, KDSR and the channel branch of DDF, equivalent to
    ``leaky_relu(conv2d(input.view(1, B * C, H, W), weight.view(B * C, 1, K, K), padding=K // 2, groups=B * C),
    negative_slope)``, viewed as (B, C, H, W).

    Args:
        input: (B, C, H, W); float32, float64, bfloat16 or float16; any strides.
        weight: (B, C, K, K), K one of 1, 3, 5, 7.
        negative_slope: slope of the LeakyReLU on the result, 0.1 in DASR and KDSR; 1 leaves that out. Its gradient
            takes one more convolution and pass, the convolution's own does not.
        backend: as for :func:`mrda_kernels.rda_conv2d`.

    Returns:
        (B, C, H, W), with the dtype, rounding, memory format and gradients of :func:`mrda_kernels.rda_conv2d`.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`mrda_kernels.rda_conv2d`.
    """
    return run(RdaCall.bare(input, weight, negative_slope), backend)


def run(call: RdaCall, backend: str | None) -> Tensor:
    """Run a call eagerly if nothing else takes part in it, otherwise by the reference or through the dispatcher."""
    dispatch.check_name(backend)
    if not torch.compiler.is_compiling() and is_plain(call[:4]) and call.has_float_slopes():
        return _run_eagerly(call.autocast(), backend)
    others = [t for t in call[:4] if t is not None and not isinstance(t, Tensor) and hasattr(t, "__torch_function__")]
    if others:
        return _handed_over(others, call, backend)
    call.check_types()
    call = call.autocast()
    if functorch_is_active():
        call.check()
        return reference.forward(call)
    return getattr(torch.ops.mrda_kernels, _name(call))(*call.arguments(), backend)


def _name(call: RdaCall) -> str:
    """Return the name of the operator of a call."""
    return "dynamic_depthwise_conv2d" if call.mask_weight is None else "rda_conv2d"


def _handed_over(others: list[Any], call: RdaCall, backend: str | None) -> Any:
    """Let arguments that stand for tensors take the call, by torch's protocol: the proxies of torch.fx record it."""
    function: Callable[..., Any] = dynamic_depthwise_conv2d if call.mask_weight is None else rda_conv2d
    arguments: tuple[Any, ...] = call[:2] if call.mask_weight is None else call[:4]
    options: dict[str, Any] = {"negative_slope": call.negative_slope, "backend": backend}
    if call.mask_weight is not None:
        options["output_negative_slope"] = call.output_negative_slope
    return handle_torch_function(function, others, *arguments, **options)


# ---- the work ------------------------------------------------------------------------------------------------------


def _forward(call: RdaCall, chosen: dispatch.Backend) -> Tensor:
    if call.input.numel() == 0:
        return call.empty_result()
    with without_autocast():
        return chosen.forward(call)


def backend_gradients(grad_output: Tensor, call: RdaCall, chosen: dispatch.Backend) -> tuple[Tensor, ...]:
    """Return the gradients of a checked call by a backend; with a mask, one of its bias even if there is none."""
    if call.input.numel() == 0:
        return _zero_gradients(call)
    with without_autocast():
        if call.mask_weight is None and call.negative_slope != 1:
            return _backward_through_activation(grad_output, call, chosen)
        return chosen.backward(grad_output, call)


def _backward_through_activation(grad_output: Tensor, call: RdaCall, chosen: dispatch.Backend) -> tuple[Tensor, ...]:
    """Differentiate a bare convolution with its LeakyReLU: backends do so for the convolution alone."""
    own, dtype = call.input.dtype, call.accumulation_dtype
    alone = RdaCall.bare(call.input.to(dtype), call.weight.to(dtype))
    grad = reference.leaky_relu_backward(grad_output.to(dtype), chosen.forward(alone), call.negative_slope)
    grad_input, grad_weight = chosen.backward(grad, alone)
    return (grad_input if dtype == own else call.empty_result().copy_(grad_input)), grad_weight.to(own)


def _zero_gradients(call: RdaCall) -> tuple[Tensor, ...]:
    """Make the gradients of a call on an empty input."""
    grads = (call.empty_result(), call.weight.new_zeros(call.weight.shape))
    if call.mask_weight is None:
        return grads
    return *grads, call.mask_weight.new_zeros(call.mask_weight.shape), call.mask_weight.new_zeros(call.masks)


# ---- eager calls ---------------------------------------------------------------------------------------------------


def _run_eagerly(call: RdaCall, backend: str | None) -> Tensor:
    """Run past torch's dispatcher, whose way through Python costs several times the work of a small call."""
    call.check()
    chosen = dispatch.select(backend, call.input.device)
    if torch.is_grad_enabled() and call.requires_grad():
        return _apply(chosen, backend, *call)
    return _forward(call, chosen)


class _Eager(torch.autograd.Function):
    """The forward of a checked call, and its gradient."""

    @staticmethod
    def forward(ctx: Any, chosen: dispatch.Backend, backend: str | None, *arguments: Any) -> Tensor:
        ctx.save_for_backward(*arguments[:4])
        ctx.options = chosen, backend, arguments[4:]
        return _forward(RdaCall(*arguments), chosen)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        chosen, backend, slopes = ctx.options
        call = RdaCall(*ctx.saved_tensors, *slopes)
        if torch.is_grad_enabled() or not is_plain((grad_output,)):
            grads = _backward_operator(grad_output, call, backend)
        else:
            grads = backend_gradients(grad_output, call, chosen)
        return None, None, *_for_inputs(grads, call, len(call))


# Function.apply without its care for torch.func transforms, which are not active here.
_apply = super(torch.autograd.Function, _Eager).apply


def _backward_operator(grad_output: Tensor, call: RdaCall, backend: str | None) -> tuple[Tensor, ...]:
    """Call the operator that computes the gradients, and can be differentiated."""
    return getattr(torch.ops.mrda_kernels, f"{_name(call)}_backward")(grad_output, *call.arguments(), backend)


def _for_inputs(grads: tuple[Tensor, ...], call: RdaCall, count: int) -> tuple[Tensor | None, ...]:
    """Make the gradients ``count``, one for each input of a function: None for inputs that are no tensors."""
    if call.mask_bias is None:
        grads = grads[:3]
    return *grads, *[None] * (count - len(grads))


# ---- gradients of the operators ------------------------------------------------------------------------------------


class _Recorded(torch.autograd.Function):
    """A call of a forward operator, and its gradient."""

    @staticmethod
    def forward(ctx: Any, keys: torch._C.DispatchKeySet, operator: Any, *inputs: Any) -> Any:
        *arguments, ctx.backend = inputs
        call = RdaCall.of(arguments)
        ctx.save_for_backward(*call[:4])
        ctx.slopes, ctx.count = call[4:], len(inputs)
        return derivatives.below_autograd(keys, operator, inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        # Saved tensors are read once: checkpointing recomputes them here, and refuses a second time.
        call = RdaCall(*ctx.saved_tensors, *ctx.slopes)
        return None, None, *_for_inputs(_backward_operator(grad_output, call, ctx.backend), call, ctx.count)


class _RecordedBackward(torch.autograd.Function):
    """A call of a backward operator, and its gradient by the reference, which is differentiable in its turn."""

    @staticmethod
    def forward(ctx: Any, keys: torch._C.DispatchKeySet, operator: Any, *inputs: Any) -> Any:
        grad_output, *arguments, _ = inputs
        call = RdaCall.of(arguments)
        ctx.save_for_backward(grad_output, *call[:4])
        ctx.slopes, ctx.count = call[4:], len(inputs)
        return derivatives.below_autograd(keys, operator, inputs)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor) -> tuple[Any, ...]:
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # Views: the graph that leads from grad_output to the inputs, if there is one, is not this function's.
            tensors: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
            grad_output, *arguments = tensors
            outputs = reference.backward(grad_output, RdaCall(*arguments, *ctx.slopes))
        wanted = [t for t in tensors if t is not None and t.requires_grad]
        pairs = [(o, g) for o, g in zip(outputs, grad_grads, strict=True) if g is not None and o.requires_grad]
        with without_autocast():
            found = torch.autograd.grad(
                [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=create_graph, allow_unused=True
            )
        grads = iter(found)
        for_inputs = [next(grads) if t is not None and t.requires_grad else None for t in tensors]
        return None, None, *(for_inputs + [None] * ctx.count)[: ctx.count]


def _composed(*inputs: Any) -> Tensor:
    """Compute a forward operator by torch's own, which have derivatives of every kind."""
    call = RdaCall.of(inputs[:-1])
    call.check()
    return reference.forward(call)


def _composed_backward(grad_output: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    """Compute a backward operator by torch's own."""
    call = RdaCall.of(inputs[:-1])
    call.check()
    call.check_grad_output(grad_output)
    return reference.backward(grad_output, call)


# ---- registration --------------------------------------------------------------------------------------------------


def _define(operator: str, arguments: str, gradients: str) -> None:
    """Define an operator and its backward, for devices of every type: backends decide what they serve."""
    name = f"mrda_kernels::{operator}"
    torch.library.define(name, f"({arguments}, str? backend) -> Tensor")

    @torch.library.impl(name, "default")
    def forward(*inputs: Any) -> Tensor:
        *arguments, backend = inputs
        call = RdaCall.of(arguments)
        call.check()
        return _forward(call, dispatch.select(backend, call.input.device))

    @torch.library.register_fake(name)
    def fake_forward(*inputs: Any) -> Tensor:
        call = RdaCall.of(inputs[:-1])
        call.check()
        return call.empty_result()

    derivatives.register(operator, _composed, _Recorded)

    name = f"{name}_backward"
    torch.library.define(name, f"(Tensor grad_output, {arguments}, str? backend) -> ({gradients})")

    @torch.library.impl(name, "default")
    def backward(grad_output: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        *arguments, backend = inputs
        call = RdaCall.of(arguments)
        call.check()
        call.check_grad_output(grad_output)
        return backend_gradients(grad_output, call, dispatch.select(backend, call.input.device))

    @torch.library.register_fake(name)
    def fake_backward(grad_output: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        call = RdaCall.of(inputs[:-1])
        call.check()
        call.check_grad_output(grad_output)
        return _zero_gradients(call)

    derivatives.register(f"{operator}_backward", _composed_backward, _RecordedBackward)


_define("rda_conv2d", ARGUMENTS, "Tensor, Tensor, Tensor, Tensor")
_define("dynamic_depthwise_conv2d", BARE_ARGUMENTS, "Tensor, Tensor")
