"""Calls of the CUDA kernels: which of them make up an operator, and how tensors are handed over.

Where a modulation map is shared by all channels and these are few enough, one kernel does everything (and one more adds
up the backward's sums). Else the map's logits are a matrix product of torch's, :mod:`full_mask`, and the kernels take
its result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrda_kernels.backends import full_mask
from mrda_kernels.backends.native import NativeCall
from mrda_kernels.memory_format import empty_result
from mrda_kernels.reference import accumulation_dtype

NO_STRIDES = (0, 0, 0, 0)


class CudaCalls:
    """The operators by the functions of ``native``: the extension, or its emulation.

    Args:
        native: a module with the functions of csrc/cuda/bindings.h.
        queue: gives the index of a tensor's device, and the address of the stream to work on.
    """

    def __init__(self, native: Any, queue: Callable[[Tensor], tuple[int, int]]) -> None:
        self._native = native
        self._queue = queue

    def forward(
        self,
        input: Tensor,
        weight: Tensor,
        mask_weight: Tensor | None,
        mask_bias: Tensor | None,
        negative_slope: float,
        output_negative_slope: float | None,
    ) -> Tensor:
        """The result, in the operator's memory format."""
        slopes = (negative_slope, output_negative_slope)
        call = NativeCall(self._native, input, weight, mask_weight, mask_bias, *slopes)
        logits = None
        if mask_weight is not None and not self._native.rda_conv_fuses_cuda(call.params, backward=False):
            logits = full_mask.logits(input, mask_weight, mask_bias).expand(input.shape)
            call = NativeCall(self._native, input, weight, None, None, *slopes)
        output = empty_result(input)
        device, stream = self._queue(input)
        self._native.rda_conv_forward_cuda(
            call.params,
            output=output.data_ptr(),
            output_strides=output.stride(),
            logits=0 if logits is None else logits.data_ptr(),
            logits_strides=NO_STRIDES if logits is None else logits.stride(),
            device=device,
            stream=stream,
        )
        return output

    def backward(
        self,
        grad_output: Tensor,
        input: Tensor,
        weight: Tensor,
        mask_weight: Tensor | None,
        mask_bias: Tensor | None,
        negative_slope: float,
        output_negative_slope: float | None,
    ) -> tuple[Tensor, ...]:
        """Gradients of input and weight; where there is a mask, of its weight and bias too."""
        slopes = (negative_slope, output_negative_slope)
        call = NativeCall(self._native, input, weight, mask_weight, mask_bias, *slopes)
        if mask_weight is None or self._native.rda_conv_fuses_cuda(call.params, backward=True):
            return self._fused_backward(call, grad_output, None)
        return self._backward_by_product(grad_output, input, weight, mask_weight, mask_bias, *slopes)

    def _fused_backward(self, call: NativeCall, grad_output: Tensor, residual: Tensor | None) -> tuple[Tensor, ...]:
        """One pass. ``residual`` is added to the gradient of the input, where there is no mask."""
        grad_input = empty_result(call.input)
        grads = [torch.empty_like(t) for t in (call.weight, call.mask_weight) if t is not None]
        if call.mask_weight is not None:
            grads.append(call.mask_weight.new_empty(call.mask_weight.shape[0]))
        size = self._native.rda_conv_backward_workspace_cuda(call.params)
        workspace = torch.empty(size, dtype=torch.uint8, device=call.input.device)
        device, stream = self._queue(call.input)
        self._native.rda_conv_backward_cuda(
            call.params,
            grad_output=grad_output.data_ptr(),
            grad_output_strides=grad_output.stride(),
            residual=0 if residual is None else residual.data_ptr(),
            residual_strides=NO_STRIDES if residual is None else residual.stride(),
            grad_input=grad_input.data_ptr(),
            grad_input_strides=grad_input.stride(),
            grad_weight=grads[0].data_ptr(),
            grad_mask_weight=grads[1].data_ptr() if len(grads) > 1 else 0,
            grad_mask_bias=grads[2].data_ptr() if len(grads) > 1 else 0,
            workspace=workspace.data_ptr(),
            device=device,
            stream=stream,
        )
        return grad_input, *grads

    def _backward_by_product(
        self,
        grad_output: Tensor,
        input: Tensor,
        weight: Tensor,
        mask_weight: Tensor,
        mask_bias: Tensor | None,
        negative_slope: float,
        output_negative_slope: float | None,
    ) -> tuple[Tensor, ...]:
        """Two passes around a matrix product, all in the accumulation dtype."""
        dtype = accumulation_dtype(input.dtype)
        logits = full_mask.logits(input, mask_weight, mask_bias).expand(input.shape)
        x, kernels, grad = (t.to(dtype) for t in (input, weight, grad_output))
        call = NativeCall(self._native, x, kernels, None, None, negative_slope, output_negative_slope)
        grad_z, grad_residual, grad_logits = (empty_result(x) for _ in range(3))
        device, stream = self._queue(input)
        self._native.rda_conv_modulation_backward_cuda(
            call.params,
            logits=logits.data_ptr(),
            logits_strides=logits.stride(),
            grad_output=grad.data_ptr(),
            grad_output_strides=grad.stride(),
            grad_strides=grad_z.stride(),
            grad_z=grad_z.data_ptr(),
            grad_residual=grad_residual.data_ptr(),
            grad_logits=grad_logits.data_ptr(),
            device=device,
            stream=stream,
        )
        if mask_weight.shape[0] == 1:
            grad_logits = grad_logits.sum(dim=1, keepdim=True)
        through_mask, *grad_mask = full_mask.logits_backward(grad_logits, x, mask_weight)
        grad_input, grad_weight = self._fused_backward(call, grad_z, grad_residual.add_(through_mask))
        grads = (grad_weight, *grad_mask)
        return empty_result(input).copy_(grad_input), *(g.to(input.dtype) for g in grads)
