"""The modulation map's 1x1 convolution as a matrix product, for the GPU backends: where M = C, and where the channels
are too many for a kernel to sum them as it goes. torch's matrix product does the work; the kernels take its result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrda_kernels.memory_format import result_memory_format
from mrda_kernels.reference import accumulation_dtype


def logits(input: Tensor, mask_weight: Tensor, mask_bias: Tensor | None) -> Tensor:
    """``conv2d(input, mask_weight, mask_bias)``, (B, M, H, W) in the accumulation dtype and the result's layout.

    The product is in float32 (float64 for float64) at the precision that torch.set_float32_matmul_precision allows.
    """
    dtype = accumulation_dtype(input.dtype)
    out = torch.matmul(_pixels(input, dtype), mask_weight.flatten(1).to(dtype).t())
    if mask_bias is not None:
        out += mask_bias.to(dtype)
    return out.permute(0, 3, 1, 2).contiguous(memory_format=result_memory_format(input))


def logits_backward(grad_logits: Tensor, input: Tensor, mask_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`logits` with respect to input, mask_weight and mask_bias, in the accumulation dtype.

    Args:
        grad_logits: (B, M, H, W) in the accumulation dtype.
        input: (B, C, H, W).
        mask_weight: (M, C, 1, 1).
    """
    dtype = grad_logits.dtype
    grad, x = _pixels(grad_logits, dtype), _pixels(input, dtype)
    grad_input = torch.matmul(grad, mask_weight.flatten(1).to(dtype)).permute(0, 3, 1, 2)
    grad_mask_weight = torch.matmul(grad.flatten(0, 2).t(), x.flatten(0, 2))
    return grad_input, grad_mask_weight[..., None, None], grad.sum(dim=(0, 1, 2))


def _pixels(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, H, W, channels), a view where ``tensor`` is of that dtype."""
    return tensor.permute(0, 2, 3, 1).to(dtype)
