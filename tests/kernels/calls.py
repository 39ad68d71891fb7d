"""Calls of the operators to test with: their sizes, values and memory layouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mrda_kernels.call import DTYPES

KERNEL_SIZES = (1, 3, 5, 7)
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Call:
    """A description of an operator's arguments; it makes the same tensors each time."""

    shape: Shape
    kernel_size: int = 3
    dtype: torch.dtype = torch.float32
    full_mask: bool = False
    bias: bool = True
    negative_slope: float = 0.1
    output_negative_slope: float | None = None
    layout: str = "nchw"
    grad_layout: str = "nchw"
    dyadic: bool = True
    mask_gain: float = 1.0
    seed: int = 0

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """input, weight, mask_weight and mask_bias."""
        channels = self.shape[1]
        masks = channels if self.full_mask else 1
        scale = self.mask_gain / math.sqrt(max(channels, 1))
        weight = self._values((*self.shape[:2], self.kernel_size, self.kernel_size), 1, 1 / self.kernel_size)
        mask_weight = self._values((masks, channels, 1, 1), 2, scale)
        mask_bias = self._values((masks,), 3, self.mask_gain) if self.bias else None
        return LAYOUTS[self.layout](self._values(self.shape, 0, 1.0)), weight, mask_weight, mask_bias

    def grad_output(self) -> Tensor:
        return LAYOUTS[self.grad_layout](self._values(self.shape, 4, 1.0))

    @property
    def options(self) -> tuple[float, float | None]:
        return self.negative_slope, self.output_negative_slope

    def _values(self, shape: tuple[int, ...], stream: int, scale: float) -> Tensor:
        """Drawn on the CPU, the same for every device."""
        generator = torch.Generator().manual_seed(8 * self.seed + stream)
        if self.dyadic:
            # multiples of 1/8 up to 1: products and sums of a few are exact in every dtype, zeros are common
            values = torch.randint(-8, 9, shape, generator=generator, device="cpu").to(self.dtype) / 8
        else:
            values = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu") * scale
        return values.to(torch.get_default_device(), self.dtype)


# ---- memory layouts: the same values elsewhere, NaN in between ---------------------------------------------


def _inside(storage_shape: tuple[int, ...], values: Tensor, window: Callable[[Tensor], Tensor]) -> Tensor:
    view = window(torch.full(storage_shape, math.nan, dtype=values.dtype))
    return view.copy_(values)


def step2(values: Tensor) -> Tensor:
    b, c, h, w = values.shape
    return _inside((b, c, 2 * h, 2 * w), values, lambda t: t[..., ::2, ::2])


def transposed(values: Tensor) -> Tensor:
    return values.transpose(2, 3).contiguous().transpose(2, 3)


def expanded(values: Tensor) -> Tensor:
    """The first sample and column for all of them, with strides of 0."""
    return values[:1, :, :, :1].expand(values.shape)


def channel_slice(values: Tensor) -> Tensor:
    """Some of the channels of a channels_last tensor."""
    b, c, h, w = values.shape
    return _inside((b, h, w, c + 3), values, lambda t: t.permute(0, 3, 1, 2)[:, 1 : c + 1])


def offset(values: Tensor) -> Tensor:
    """One element beyond an aligned address."""
    return _inside((values.numel() + 1,), values, lambda t: t[1:].view(values.shape))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nchw": lambda values: values,
    "channels_last": lambda values: values.contiguous(memory_format=torch.channels_last),
    "step2": step2,
    "transposed": transposed,
    "expanded": expanded,
    "channel_slice": channel_slice,
    "offset": offset,
    "channels_last_offset": lambda values: offset(values.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
}

# ---- sizes -------------------------------------------------------------------------------------------------

# Tiles of the native kernels are 16 rows by 64 pixels (forward in NCHW: 320), and fewer rows where channels
# are many.
AWKWARD_SHAPES = [
    (1, 3, 17, 65),
    (2, 19, 33, 67),
    (1, 2, 5, 641),
    (1, 1, 35, 1),
    (1, 33, 1, 130),
    (130, 1, 17, 66),  # more samples than tasks: one task goes through several tiles
    (1, 130, 18, 20),  # so many channels that a tile has few rows
]

_small_shapes = st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 9), st.integers(1, 21))
_wide_shapes = st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(14, 35), st.integers(60, 70))
_empty_shapes = st.tuples(*[st.integers(0, 2)] * 4)

calls = st.builds(
    Call,
    shape=st.one_of(_small_shapes, _wide_shapes, _empty_shapes),
    kernel_size=st.sampled_from(KERNEL_SIZES),
    dtype=st.sampled_from(DTYPES),
    full_mask=st.booleans(),
    bias=st.booleans(),
    negative_slope=st.sampled_from([0.1, 0.0, 1.0]),
    output_negative_slope=st.sampled_from([None, 0.1, 0.0, 1.0]),
    layout=st.sampled_from(list(LAYOUTS)),
    grad_layout=st.sampled_from(list(LAYOUTS)),
    dyadic=st.booleans(),
    mask_gain=st.sampled_from([1.0, 8.0]),
    seed=st.integers(0, 2**16),
)

EXAMPLES = {"triton": 15, "cuda-emulated": 60}
"""Examples of a property, for backends that take long over one; 200 for the others."""


def interpreted(backend: str) -> bool:
    """Return True for Triton's interpreter, which takes up to a second for a small image."""
    return backend == "triton" and torch.get_default_device().type == "cpu"


def skip_if_interpreted(backend: str, others_run: bool) -> None:
    """Leave out what takes Triton's interpreter long, if it runs other combinations of the same values."""
    if interpreted(backend) and others_run:
        pytest.skip("takes Triton's interpreter too long, which runs other combinations")


def for_any_call(
    check: Callable[[Call], None], backend: str, *always: Call, strategy: st.SearchStrategy[Call] = calls
) -> None:
    """Run ``check`` on the calls of ``always``, and on many drawn ones."""

    def property_(call: Call) -> None:
        check(call)

    for call in always:
        property_ = example(call)(property_)
    if interpreted(backend):
        strategy = strategy.filter(lambda call: call.shape[0] * call.shape[2] <= 20)  # it takes its time for every row
    # on a GPU, Triton compiles a kernel for nearly every one
    settings(max_examples=EXAMPLES.get(backend, 200))(given(strategy)(property_))()


def awkward_sizes(test: Callable[..., None]) -> Callable[..., None]:
    """Parametrize a test by AWKWARD_SHAPES, layouts, and one mask or as many as channels."""
    test = pytest.mark.parametrize("full_mask", [False, True], ids=["M=1", "M=C"])(test)
    test = pytest.mark.parametrize("layout", ["nchw", "channels_last"])(test)
    return pytest.mark.slow_interpreted(pytest.mark.parametrize("shape", AWKWARD_SHAPES)(test))


def many_kernel_sizes_and_dtypes(test: Callable[..., None]) -> Callable[..., None]:
    """Parametrize a test by kernel sizes, dtypes, layouts, and shapes larger than a tile, one of them aligned."""
    test = pytest.mark.parametrize("shape", [(1, 18, 19, 71), (1, 24, 11, 72)], ids=["odd", "aligned"])(test)
    test = pytest.mark.parametrize("layout", ["nchw", "channels_last"])(test)
    test = pytest.mark.parametrize("dtype", DTYPES, ids=str)(test)
    return pytest.mark.slow_interpreted(pytest.mark.parametrize("kernel_size", KERNEL_SIZES)(test))


def a_shape_for(backend: str, part: int, kernel_size: int, dtype: torch.dtype, layout: str, shape: Shape) -> Shape:
    """Skip most of `many_kernel_sizes_and_dtypes` under Triton's interpreter, and give it fewer rows.

    Together, the parts 0 and 1 have every pair of two of their values. Runs of 16 bytes along a row, as in the aligned
    shape, are the CUDA kernels' own.
    """
    number = DTYPES.index(dtype)
    runs = (KERNEL_SIZES.index(kernel_size) + number) % 2 == part and (layout == "nchw") == (number // 2 == part)
    skip_if_interpreted(backend, not runs or shape[-1] == 72)
    return (1, 18, 5, 71) if interpreted(backend) else shape


def skip_most_sizes(backend: str, part: int, shape: Shape, layout: str, full_mask: bool) -> None:
    """Skip most of `awkward_sizes` under Triton's interpreter: part 0 and 1 have other layouts and masks."""
    runs = shape in {(1, 3, 17, 65), (1, 1, 35, 1), (1, 33, 1, 130)} and (layout == "nchw") == (full_mask == bool(part))
    skip_if_interpreted(backend, not runs)
