# SPDX-License-Identifier: Apache-2.0
"""One call of an operator: its arguments, what they must look like, and what follows from them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

ARGUMENTS = (
    "Tensor input, Tensor weight, Tensor mask_weight, Tensor? mask_bias, float negative_slope,"
    " float? output_negative_slope"
)
"""The fields of :class:`RdaCall` as torch.library's schemas write them."""

BARE_ARGUMENTS = "Tensor input, Tensor weight, float negative_slope"
"""Those of the bare dynamic convolution."""

DTYPE_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
"""The dtypes that the operators take, and their names."""

DTYPES = tuple(DTYPE_NAMES)
MAX_KERNEL_SIZE = 7


class RdaCall(NamedTuple):
    """The arguments of one call, in the order of the operators' schemas.

    Attributes:
        input: (B, C, H, W), any strides.
        weight: (B, C, K, K), K odd and at most 7.
        mask_weight: (M, C, 1, 1), M = 1 or C; None for the bare dynamic convolution, which has
            ``negative_slope`` alone of what follows.
        mask_bias: (M,), or None for zero.
        negative_slope: slope of the LeakyReLU after the convolution.
        output_negative_slope: slope of the LeakyReLU on the result; None for none.
    """

    input: Tensor
    weight: Tensor
    mask_weight: Tensor | None = None
    mask_bias: Tensor | None = None
    negative_slope: float = 0.1
    output_negative_slope: float | None = None

    @classmethod
    def bare(cls, input: Tensor, weight: Tensor, negative_slope: float = 1.0) -> RdaCall:
        """Make a call of the bare dynamic convolution."""
        return cls(input, weight, negative_slope=negative_slope)

    @classmethod
    def of(cls, arguments: Sequence[Any]) -> RdaCall:
        """Make a call from the arguments of either operator, without the backend."""
        return cls(*arguments) if len(arguments) == len(cls._fields) else cls.bare(*arguments)

    def arguments(self) -> tuple[Any, ...]:
        """Return the arguments of the operator, without the backend."""
        return (self.input, self.weight, self.negative_slope) if self.mask_weight is None else tuple(self)

    # ---- checks ----------------------------------------------------------------------------------------------------

    def check_types(self) -> None:
        """Raise TypeError unless tensors are dense tensors and slopes are numbers."""
        for name, value in zip(("input", "weight", "mask_weight", "mask_bias"), self[:4], strict=True):
            if value is None and name.startswith("mask"):
                continue
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} is {type(value).__name__}, but must be a torch.Tensor")
            if value.layout != torch.strided:
                raise TypeError(f"{name} has layout {value.layout}, but must be torch.strided")
        for name, slope in zip(("negative_slope", "output_negative_slope"), self[4:], strict=True):
            if slope is None and name == "output_negative_slope":
                continue
            if not isinstance(slope, Real | torch.SymFloat | torch.SymInt):  # a tensor would get no gradient
                raise TypeError(f"{name} is {type(slope).__name__}, but must be a number")

    def check(self) -> None:
        """Raise TypeError or ValueError, with one sentence, unless shapes, dtypes, devices and slopes fit together.

        Real and fake tensors are checked alike, so a wrong call fails the same way in eager mode, in
        ``torch.compile`` and through ``torch.ops``.
        """
        input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope = self
        self.check_input()
        shape, kernels = input.shape, weight.shape
        if len(kernels) != 4 or kernels[2] != kernels[3]:
            raise ValueError(f"weight has shape {tuple(kernels)}, but must be (B, C, K, K)")
        if not (holds(kernels[0] == shape[0]) and holds(kernels[1] == shape[1])):
            raise ValueError(
                f"weight has shape {tuple(kernels)}, but its first two sizes must be input's (B, C) = "
                f"({shape[0]}, {shape[1]})"
            )
        if kernels[3] % 2 == 0 or kernels[3] > MAX_KERNEL_SIZE:
            raise ValueError(f"weight has a kernel size K of {kernels[3]}, but K must be 1, 3, 5 or 7")
        self.check_like_input("weight", weight)
        if mask_weight is not None:
            self._check_mask(mask_weight, mask_bias)
        check_slope("negative_slope", negative_slope)
        if output_negative_slope is not None:
            check_slope("output_negative_slope", output_negative_slope)

    def check_input(self) -> None:
        """Raise TypeError or ValueError unless the input has four dimensions and a dtype that the operators take."""
        shape = self.input.shape
        if len(shape) != 4:
            raise ValueError(f"input has shape {tuple(shape)}, but must be (B, C, H, W)")
        check_dtype("input", self.input)

    def check_grad_output(self, grad_output: Tensor) -> None:
        """Raise TypeError or ValueError unless ``grad_output`` is like the result."""
        grad_shape = grad_output.shape
        if len(grad_shape) != 4 or not all(holds(a == b) for a, b in zip(grad_shape, self.input.shape, strict=True)):
            raise ValueError(
                f"grad_output has shape {tuple(grad_output.shape)}, but must have input's, {tuple(self.input.shape)}"
            )
        self.check_like_input("grad_output", grad_output)

    def _check_mask(self, mask_weight: Tensor, mask_bias: Tensor | None) -> None:
        channels, shape = self.input.shape[1], mask_weight.shape
        if len(shape) != 4 or not holds(shape[1] == channels) or shape[2] != 1 or shape[3] != 1:
            raise ValueError(
                f"mask_weight has shape {tuple(shape)}, but must be (M, C, 1, 1) with input's C = {channels}"
            )
        masks = shape[0]
        if masks != 1 and masks != channels:
            raise ValueError(f"mask_weight makes M = {masks} masks, but M must be 1 or input's C = {channels}")
        self.check_like_input("mask_weight", mask_weight)
        if mask_bias is not None:
            if mask_bias.ndim != 1 or not holds(mask_bias.shape[0] == masks):
                raise ValueError(f"mask_bias has shape {tuple(mask_bias.shape)}, but must be (M,) = ({masks},)")
            self.check_like_input("mask_bias", mask_bias)

    def check_like_input(self, name: str, tensor: Tensor) -> None:
        """Raise TypeError or ValueError unless a tensor has the input's dtype and device."""
        if tensor.dtype != self.input.dtype:
            raise TypeError(f"{name} has dtype {tensor.dtype}, but must have input's, {self.input.dtype}")
        if tensor.device != self.input.device:
            raise ValueError(f"{name} is on {tensor.device}, but must be on input's device, {self.input.device}")

    def has_float_slopes(self) -> bool:
        """Return True if the slopes are Python's floats, so that nothing is wrong with their types."""
        return type(self.negative_slope) is float and (
            self.output_negative_slope is None or type(self.output_negative_slope) is float
        )

    # ---- what follows from the arguments ---------------------------------------------------------------------------

    @property
    def masks(self) -> int:
        """M, the number of masks; 0 for the bare dynamic convolution."""
        return 0 if self.mask_weight is None else self.mask_weight.shape[0]

    @property
    def dtype_name(self) -> str:
        """The name of the input's dtype, such as "float32"."""
        return DTYPE_NAMES[self.input.dtype]

    @property
    def channels_last(self) -> bool:
        """True if the result is channels_last: the input is channels_last-contiguous and not NCHW-contiguous."""
        input = self.input
        try:
            return not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)
        except RuntimeError:
            # A traced program, which only finds out when it runs if the input is empty: taken not to be.
            from torch._prims_common import is_channels_last_contiguous_or_false, is_contiguous_or_false

            return not is_contiguous_or_false(input) and is_channels_last_contiguous_or_false(input)

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of the result, by the one rule that real and fake kernels share."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def accumulation_dtype(self) -> torch.dtype:
        """The dtype that sums are kept in."""
        return accumulation_dtype(self.input.dtype)

    def requires_grad(self) -> bool:
        """Return True if one of the tensors requires a gradient."""
        input, weight, mask_weight, mask_bias, *_ = self
        return (
            input.requires_grad
            or weight.requires_grad
            or (mask_weight is not None and mask_weight.requires_grad)
            or (mask_bias is not None and mask_bias.requires_grad)
        )

    def empty_result(self) -> Tensor:
        """Make an uninitialised tensor for the result, or for the gradient of the input."""
        return torch.empty_like(self.input, memory_format=self.memory_format)

    def autocast(self) -> RdaCall:
        """Cast the tensors as a surrounding autocast region does for ``conv2d``: all but float64 ones."""
        cast = autocast_cast(self.input.device.type)
        return self if cast is None else self._changed(cast(self.input), cast)

    def dense(self) -> RdaCall:
        """Make all tensors but the input contiguous, as the kernels in C++ take them."""
        _, weight, mask_weight, mask_bias, *_ = self
        if (
            weight.is_contiguous()
            and (mask_weight is None or mask_weight.is_contiguous())
            and (mask_bias is None or mask_bias.is_contiguous())
        ):
            return self
        return self._changed(self.input, Tensor.contiguous)

    def _changed(self, input: Tensor, change: Callable[[Tensor], Tensor]) -> RdaCall:
        """Return the call with another input, and all other tensors changed."""
        _, weight, mask_weight, mask_bias, negative_slope, output_negative_slope = self
        return RdaCall(
            input,
            change(weight),
            None if mask_weight is None else change(mask_weight),
            None if mask_bias is None else change(mask_bias),
            negative_slope,
            output_negative_slope,
        )


def holds(condition: Any) -> bool:
    """Return True if a condition on sizes holds, or if a traced program will check it, once it knows the sizes."""
    if condition is True or condition is False:
        return condition
    from torch.fx.experimental.symbolic_shapes import guard_or_true

    if not guard_or_true(condition):
        return False
    torch._check(condition, lambda: "the sizes of a call's arguments do not fit together")
    return True


def autocast_cast(device_type: str) -> Callable[[Tensor], Tensor] | None:
    """Return the function that casts a tensor as an autocast region does for ``conv2d``; None outside of such regions.

    It leaves float64 tensors, and those of integers, as they are.
    """
    if device_type not in _AUTOCASTING or not torch.is_autocast_enabled(device_type):
        return None
    dtype = torch.get_autocast_dtype(device_type)

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor

    return cast


def is_known(condition: Any) -> bool:
    """Return True if a condition on sizes holds; False also if only the run of a traced program will tell."""
    if condition is True or condition is False:
        return condition
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


def without_autocast() -> AbstractContextManager[object]:
    """Context in which no operation casts its arguments, on no device: for the insides of an operator."""
    if torch._C._is_any_autocast_enabled():
        return torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS)
    return _UNCHANGED


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that sums are kept in: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# Computed once, because torch.compile of torch 2.11 cannot trace the question; PrivateUse1 devices are not among them.
_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu", "xla", "mtia", "maia", "ipu")
_AUTOCASTING = frozenset(filter(torch.amp.is_autocast_available, _DEVICES))


def _key_set(*names: str) -> torch._C.DispatchKeySet:
    """Return the set of torch's dispatch keys of those names."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, names[0]))
    for name in names[1:]:
        keys = keys | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return keys


_AUTOCAST_KEYS = _key_set(*(name for name in dir(torch._C.DispatchKey) if re.match(r"Autocast[A-Z]", name)))
_UNCHANGED = nullcontext()


def check_dtype(name: str, tensor: Tensor) -> None:
    """Raise TypeError unless a tensor has a dtype that the operators take."""
    if tensor.dtype not in DTYPE_NAMES:
        raise TypeError(f"{name} has dtype {tensor.dtype}, but must be float32, float64, bfloat16 or float16")


def check_slope(name: str, value: float) -> None:
    """Raise ValueError unless a slope is finite."""
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, but must be a finite number")


# ---- calls that nobody else takes part in --------------------------------------------------------------------------

_TENSOR_TYPES = frozenset({Tensor, torch.nn.Parameter})


# The keys that a thread in no mode adds to a call, and those of an ordinary tensor; with autograd or in inference mode.
_PLAIN_MODES = frozenset(_key_set("BackendSelect", *recording).raw_repr() for recording in (("ADInplaceOrView",), ()))
_PLAIN_TENSORS = frozenset(
    _key_set(device, f"Autocast{device}", *autograd).raw_repr()
    for device in ("CPU", "CUDA")
    for autograd in ((f"Autograd{device}", "ADInplaceOrView"), ())
)


def functorch_is_active() -> bool:
    """Return True inside torch.func.grad, vmap and their like; False while torch.compile traces."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None


def has_tangent(tensors: Iterable[Tensor | None]) -> bool:
    """Return True if forward-mode AD is to differentiate with respect to one of ``tensors``."""
    return forward_ad._current_level >= 0 and any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    )


def is_plain(tensors: Iterable[Tensor | None]) -> bool:
    """Return True if an eager call on ``tensors`` need not go through torch's dispatcher, because nobody listens there.

    That is so outside of torch.func, forward-mode AD, tracing, profiling, and modes that see functions or operators;
    for tensors of no subclass, with memory of their own, and without a lazy negation.
    """
    included = torch._C._dispatch_tls_local_include_set().raw_repr()
    if (
        included not in _PLAIN_MODES
        or forward_ad._current_level >= 0
        or torch._C._len_torch_function_stack()
        or torch.autograd._profiler_enabled()
    ):
        return False
    return all(tensor is None or is_plain_tensor(tensor) for tensor in tensors)


def is_plain_tensor(tensor: Tensor) -> bool:
    """Return True for a tensor of no subclass, with memory of its own, and without a lazy negation."""
    return type(tensor) in _TENSOR_TYPES and torch._C._dispatch_keys(tensor).raw_repr() in _PLAIN_TENSORS
