"""The RDA convolution (Eqs. 7-9 of arXiv 2207.13963): a dynamic kernel per sample and channel, modulated per pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from mrda_kernels import checks, dispatch, ops, reference
from mrda_kernels.transforms import autocast, functorch_is_active

__all__ = ["rda_conv2d"]


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
    """Filter each channel of each sample with its own kernel, modulate by a learned map, add the input.

    Equivalent to::

        z = depthwise_conv2d(input[b], weight[b])       # correlation, zero padding K // 2
        m = sigmoid(conv2d(input, mask_weight, mask_bias))
        y = leaky_relu(z, negative_slope) * m + input
        y = leaky_relu(y, output_negative_slope)        # only where given

    Args:
        input: (B, C, H, W); float32, float64, bfloat16 or float16; any strides. Sizes may be 0 or 1.
        weight: (B, C, K, K), K one of 1, 3, 5, 7: the kernels, one per sample and channel.
        mask_weight: (M, C, 1, 1), M = 1 (one map for all channels, the published network) or M = C.
        mask_bias: (M,), or None for zero.
        negative_slope: of the LeakyReLU after the convolution; 1 leaves that out.
        output_negative_slope: of the LeakyReLU on the result; None leaves that out.
        backend: "cuda", "triton", "cpu" or "reference"; None takes the environment variable MRDA_KERNELS_BACKEND,
            else the one that was measured fastest for such a call among those that can serve it.

    Returns:
        (B, C, H, W) in input's dtype, each element computed in float32 (float64 for float64) and rounded once;
        channels_last where ``input`` is channels_last-contiguous and not NCHW-contiguous, else NCHW-contiguous.

    Differentiable any number of times; the forward keeps nothing but its inputs. All backends' results and gradients
    are deterministic, those of "cpu" the same to the bit for any number of threads. With M = C, "cuda" and "triton"
    leave the map's 1x1 convolution to torch's matrix product, which torch.set_float32_matmul_precision rules. Under
    autocast, tensors are cast as for ``conv2d``. Inside ``torch.func`` transforms the eager reference is used, whatever
    ``backend`` says; a transform inside a function under ``torch.compile`` is not supported. A CUDA graph can capture
    calls once the same call has been made outside of it.

    Raises:
        TypeError: an argument that is no tensor, a dtype that isn't supported, or dtypes that differ.
        ValueError: shapes or devices that do not fit together, an unknown backend, a slope that is not finite.
        RuntimeError: ``backend`` can't serve the call; the message says why.
    """
    checks.require_tensors(input=input, weight=weight, mask_weight=mask_weight)
    if mask_bias is not None:
        checks.require_tensors(mask_bias=mask_bias)
    checks.require_numbers(negative_slope=negative_slope)
    if output_negative_slope is not None:
        checks.require_numbers(output_negative_slope=output_negative_slope)
    input, weight, mask_weight, mask_bias = autocast(input, weight, mask_weight, mask_bias)
    if functorch_is_active():
        ops.check_rda(input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope)
        return reference.rda_conv2d(
            input,
            weight,
            mask_weight,
            mask_bias,
            negative_slope=negative_slope,
            output_negative_slope=output_negative_slope,
        )
    return torch.ops.mrda_kernels.rda_conv2d(
        input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope, dispatch.check_name(backend)
    )
