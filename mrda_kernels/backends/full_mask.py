# SPDX-License-Identifier: Apache-2.0
"""The mask's 1x1 convolution as a matrix product of torch's, for the GPU backends.

They use it if M = C, and if the channels are too many for a kernel to sum them as it goes; the kernels read its result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrda_kernels.call import RdaCall


def mask_logits(call: RdaCall) -> Tensor:
    """Return the mask before its sigmoid for every channel: (B, C, H, W) in the accumulation dtype.

    It has the result's layout, and a channel stride of 0 if all channels share a mask. The product is in float32
    (float64 for float64) at the precision that torch.set_float32_matmul_precision allows.
    """
    assert call.mask_weight is not None
    dtype = call.accumulation_dtype
    mask_logits = torch.matmul(_pixels(call.input, dtype), call.mask_weight.flatten(1).to(dtype).t())
    if call.mask_bias is not None:
        mask_logits += call.mask_bias.to(dtype)
    return mask_logits.permute(0, 3, 1, 2).contiguous(memory_format=call.memory_format).expand(call.input.shape)


def mask_logits_backward(grad_mask_logits: Tensor, call: RdaCall) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of :func:`mask_logits` with respect to input, mask_weight and mask_bias.

    Args:
        grad_mask_logits: (B, C, H, W) in the accumulation dtype, as the results are.
        call: the call that the mask_logits were made for.
    """
    assert call.mask_weight is not None
    dtype = call.accumulation_dtype
    if call.masks == 1:
        grad_mask_logits = grad_mask_logits.sum(dim=1, keepdim=True)
    grad, x = _pixels(grad_mask_logits, dtype), _pixels(call.input, dtype)
    grad_input = torch.matmul(grad, call.mask_weight.flatten(1).to(dtype)).permute(0, 3, 1, 2)
    grad_mask_weight = torch.matmul(grad.flatten(0, 2).t(), x.flatten(0, 2))
    return grad_input, grad_mask_weight[..., None, None], grad.sum(dim=(0, 1, 2))


def _pixels(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, H, W, channels), a view if ``tensor`` is of that dtype."""
    return tensor.permute(0, 2, 3, 1).to(dtype)
