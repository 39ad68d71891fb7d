# SPDX-License-Identifier: Apache-2.0
"""JPEG compression and decompression of a batch, with one quality per image, by libjpeg or Real-ESRGAN's approximation.

libjpeg has two implementations here. On the CPU nothing is faster than the library itself, through Pillow. Other
devices compute its arithmetic on tensors: baseline JPEG without the entropy coding, which is lossless, in libjpeg's own
integers (accurate integer DCT, 4:2:0, triangle filter for chroma). Both give the same bits on devices with float64.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mrda.core.checks import check_choice, check_image
from mrda.options.real import CODECS

_SUBSAMPLING = 2  # Pillow's number for 4:2:0

# ITU-T T.81, tables K.1 and K.2: a row for each vertical frequency.
_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)

# sqrt(2) cos(...) of the DCT in units of 2^-13. libjpeg computes each as a sum of rounded terms, so that some that are
# equal in theory differ by one.
_EVEN = (
    (8192, 8192, 8192, 8192),
    (10703, 4433, -4433, -10703),
    (8192, -8192, -8192, 8192),
    (4433, -10704, 10704, -4433),
)
_ODD = (
    (11363, 9633, 6437, 2260),
    (9633, -2259, -11362, -6436),
    (6437, -11362, 2261, 9633),
    (2260, -6436, 9633, -11363),
)


@torch.no_grad()
def jpeg(images: Tensor, quality: Tensor, *, codec: str = "libjpeg") -> Tensor:
    """Return images after compression to JPEG, with 4:2:0 chroma and the standard tables, and decompression.

    Computed in float32 or better, whatever the dtype of ``images``, under autocast too. No gradient is computed: that
    of rounding is zero.

    Args:
        images: (B, 3, H, W), RGB in [0, 1], of any size; "libjpeg" clips them and rounds them to 8 bits.
        quality: (B,), or (1,) for all images, integer or floating point, 1 to 100, on the device of ``images``.
            "libjpeg" rounds it to an integer, as a file stores it. Values outside are refused on the CPU, where
            reading them is free, and clamped on other devices.
        codec: "libjpeg": the output of libjpeg and compatible libraries, 8-bit values k/255. "simulated": the
            approximation that Real-ESRGAN trains with, without libjpeg's rounding of colours, tables and output, with
            black beyond the right and lower borders, and chroma pixels repeated.

    Returns:
        (B, 3, H, W) in [0, 1], in the dtype and on the device of ``images``.

    Raises:
        TypeError: ``images`` is not a floating point tensor, or ``quality`` not a tensor of real numbers.
        ValueError: ``images`` is not (B, 3, H, W), ``quality`` has another shape or device or, on the CPU, a value
            outside 1 to 100, or ``codec`` is unknown.
    """
    check_image("images", images)
    check_choice("codec", codec, CODECS)
    qualities = _check_quality(quality, images)
    with torch.autocast(images.device.type, enabled=False):
        return _codec_for(codec, images.device)(images.float(), qualities).to(images.dtype)


def _codec_for(codec: str, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The faster of two codecs with the same output on that device (docs/jpeg.md)."""
    if codec == "simulated":
        return _simulated
    return _encoded if device.type == "cpu" else _tensor_codec


def _check_quality(quality: Tensor, images: Tensor) -> Tensor:
    """Return ``quality`` as float32, within 1 to 100."""
    if not isinstance(quality, Tensor):
        raise TypeError(f"quality is {type(quality).__name__}, but must be a torch.Tensor")
    if quality.dtype == torch.bool or quality.is_complex():
        raise TypeError(f"quality has dtype {quality.dtype}, but must have an integer or a floating point one")
    if quality.shape not in ((1,), (len(images),)):
        raise ValueError(f"quality has shape {tuple(quality.shape)}, but must be (1,) or ({len(images)},)")
    if quality.device != images.device:
        raise ValueError(f"quality is on {quality.device}, but must be on {images.device} as images is")
    if quality.device.type == "cpu" and not ((quality >= 1) & (quality <= 100)).all():
        raise ValueError(f"quality is {quality.tolist()}, but must be within 1 and 100")
    return quality.float().clamp(1, 100)


def _encoded(images: Tensor, quality: Tensor) -> Tensor:
    """Write each image to a JPEG file in memory and read it back.

    Threads would not help: at the size of patches, too little of the encoder's time is spent without Python's lock.
    """
    # Imported here, because other degradations require torch alone.
    from PIL import Image

    from mrda.photo.opening import open_image

    pixels = _levels(images).byte().permute(0, 2, 3, 1).contiguous().numpy()
    decoded = np.empty_like(pixels)
    for index, level in enumerate(quality.round().int().expand(len(pixels)).tolist()):
        file = io.BytesIO()
        Image.fromarray(pixels[index]).save(file, "JPEG", quality=level, subsampling=_SUBSAMPLING)
        with open_image(file, ("JPEG",)) as image:
            decoded[index] = image
    planes = torch.from_numpy(decoded).permute(0, 3, 1, 2)
    return planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _tensor_codec(images: Tensor, quality: Tensor) -> Tensor:
    """Compute libjpeg's encoder and decoder on all images at once, without waiting for the device."""
    height, width = images.shape[2:]
    luma, chroma = _to_ycc(_repeat_edges(_levels(images), down=height % 2, right=-width % 16))
    luma = _repeat_edges(luma, down=-luma.shape[2] % 16)
    chroma = _shrink(chroma)
    rows = chroma.shape[2]  # the rows that the decoder gets; below them it repeats the last one
    chroma = _repeat_edges(chroma, down=-rows % 8)

    tables = _integer_tables(quality.round())
    luma, chroma = (_quantized_dct(planes, table) for planes, table in zip((luma, chroma), tables, strict=True))

    luma = luma[..., :height, :width]
    chroma = chroma[..., :rows, : (width + 1) // 2]
    # libjpeg does not blend chroma of one or two columns.
    chroma = _blend_up(chroma) if chroma.shape[3] > 2 else _repeat_up(chroma)
    return _to_rgb(luma, chroma[..., :height, :width]) / 255


def _simulated(images: Tensor, quality: Tensor) -> Tensor:
    """Compress as Real-ESRGAN's DiffJPEG does."""
    height, width = images.shape[2:]
    r, g, b = F.pad(255 * images, (0, -width % 16, 0, -height % 16)).unbind(1)
    luma = (0.299 * r + 0.587 * g + 0.114 * b)[:, None]
    chroma = torch.stack((-0.168736 * r - 0.331264 * g + 0.5 * b, 0.5 * r - 0.418688 * g - 0.081312 * b), 1)

    factor = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    # At quality 100 the step would be 0; a tiny one leaves the values unchanged.
    luma_table, chroma_table = (factor.clamp(min=1e-3)[:, None, None] * table for table in _tables(images.device))
    luma = _real_dct(luma - 128, luma_table) + 128
    cb, cr = _repeat_up(_real_dct(F.avg_pool2d(chroma, 2), chroma_table)).split(1, 1)

    rgb = torch.cat((luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb), 1)
    return (rgb[..., :height, :width] / 255).clamp(0, 1)


def _levels(images: Tensor) -> Tensor:
    """Round to the integers 0..255 of an 8-bit file."""
    return (255 * images).clamp_(0, 255).round_()


def _repeat_edges(planes: Tensor, *, down: int = 0, right: int = 0) -> Tensor:
    """Append copies of the last row, and of the last column."""
    return F.pad(planes, (0, right, 0, down), mode="replicate") if down or right else planes


def _to_ycc(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Convert integers 0..255 to luma (B, 1, H, W) and chroma (B, 2, H, W), in libjpeg's fixed point.

    All sums stay below 2^24, so that float32 holds them exactly.
    """
    r, g, b = rgb.split(1, 1)
    luma = 19595 * r + 38470 * g + 7471 * b + 32768
    middle = 128 * 65536 + 32767  # libjpeg adds half a level less the smallest step
    chroma = torch.cat((32768 * b - 11059 * r - 21709 * g, 32768 * r - 27439 * g - 5329 * b), 1) + middle
    return (luma / 65536).floor_(), (chroma / 65536).floor_()


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Convert back to integers 0..255 of RGB, (B, 3, H, W), exact in float32 as well."""
    cb, cr = (chroma - 128).split(1, 1)
    offsets = torch.cat((91881 * cr, -22554 * cb - 46802 * cr, 116130 * cb), 1)
    return (luma + ((offsets + 32768) / 65536).floor_()).clamp_(0, 255)


def _shrink(chroma: Tensor) -> Tensor:
    """Average 2x2 pixels; halves are rounded down in even columns and up in odd ones, so that there is no bias."""
    bias = torch.arange(chroma.shape[3] // 2, device=chroma.device) % 2 * 0.25 + 0.25
    return F.avg_pool2d(chroma, 2).add_(bias).floor_()


def _blend_up(chroma: Tensor) -> Tensor:
    """Double height and width by libjpeg's triangle filter: per axis, 3/4 the nearer and 1/4 the further pixel."""
    batch, channels, height, width = chroma.shape
    padded = F.pad(chroma, (1, 1, 1, 1), mode="replicate")
    near = 3 * padded[..., 1:-1, :]
    rows = torch.stack((near + padded[..., :-2, :], near + padded[..., 2:, :]), 3)
    rows = rows.view(batch, channels, 2 * height, width + 2)
    near = 3 * rows[..., 1:-1]
    blended = torch.stack((near + rows[..., :-2] + 8, near + rows[..., 2:] + 7), 4)
    return (blended.view(batch, channels, 2 * height, 2 * width) / 16).floor_()


def _repeat_up(chroma: Tensor) -> Tensor:
    """Double height and width by repeating each pixel."""
    return F.interpolate(chroma, scale_factor=2.0, mode="nearest")


def _integer_tables(quality: Tensor) -> tuple[Tensor, Tensor]:
    """Return libjpeg's quantisation tables (B, 8, 8) for luma and chroma at integer qualities (B,)."""
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)[:, None, None]
    luma, chroma = (((percent * table + 50) / 100).floor().clamp(1, 255) for table in _tables(quality.device))
    return luma, chroma


def _quantized_dct(planes: Tensor, tables: Tensor) -> Tensor:
    """Apply DCT, quantisation by (B, 8, 8) and inverse DCT to integers 0..255 (B, C, H, W), in libjpeg's integers.

    Each of the four passes over rows or columns rounds: two fractional bits are kept after the first pass, three after
    the second; likewise on the way back.
    """
    transform = _integer_dct(planes.device)
    blocks = _strips(planes, transform.dtype) - 128
    blocks = _round_bits(_transform_rows(blocks, transform), 11)
    blocks = _round_bits(transform @ blocks, 15)
    # To the nearest multiple of a step, halves away from zero.
    steps = _across(8 * tables.to(transform.dtype), planes.shape[3])
    multiples = ((blocks.abs() + steps / 2) / steps).floor_()
    blocks = (multiples * (steps / 8)).copysign_(blocks)
    blocks = _round_bits(transform.T @ blocks, 11)
    blocks = _round_bits(_transform_rows(blocks, transform.T), 18)
    return (blocks + 128).clamp_(0, 255).view(planes.shape).float()


def _real_dct(planes: Tensor, tables: Tensor) -> Tensor:
    """Apply an orthonormal DCT, quantisation by (B, 8, 8) and the inverse DCT to (B, C, H, W); nothing else rounds."""
    transform = _orthonormal_dct(planes.device)
    blocks = transform @ _transform_rows(_strips(planes, transform.dtype), transform)
    steps = _across(tables.to(transform.dtype), planes.shape[3])
    blocks = (blocks / steps).round_().mul_(steps)
    blocks = _transform_rows(transform.T @ blocks, transform.T)
    return blocks.view(planes.shape).float()


def _strips(planes: Tensor, dtype: torch.dtype) -> Tensor:
    """Reshape (B, C, H, W) to rows of blocks, (B, C, H/8, 8, W)."""
    batch, channels, height, width = planes.shape
    return planes.to(dtype).reshape(batch, channels, height // 8, 8, width)


def _across(tables: Tensor, width: int) -> Tensor:
    """Repeat tables (B, 8, 8) for a row of blocks: (B, 1, 1, 8, width)."""
    return tables.repeat(1, 1, width // 8)[:, None, None]


def _transform_rows(strips: Tensor, transform: Tensor) -> Tensor:
    """Multiply the rows of each block by an 8x8 matrix; ``transform @ strips`` multiplies the columns."""
    return (strips.view(-1, 8) @ transform.T).view(strips.shape)


def _round_bits(values: Tensor, bits: int) -> Tensor:
    """Divide by 2^bits and round halves up, in place, as libjpeg's shifts do."""
    return values.mul_(0.5**bits).add_(0.5).floor_()


def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    return _constants(device)[:2]


def _integer_dct(device: torch.device) -> Tensor:
    return _constants(device)[2]


def _orthonormal_dct(device: torch.device) -> Tensor:
    return _constants(device)[3]


@lru_cache(maxsize=16)
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the luma and chroma tables, and libjpeg's DCT and the orthonormal DCT as matrices (frequency, pixel).

    They are cached, because every copy to a GPU waits for it. The matrices are float64, in which libjpeg's sums of 30
    bits are exact, and which no setting lets torch replace by TF32 or bfloat16.
    """
    products = torch.float32 if device.type == "mps" else torch.float64
    with torch.inference_mode(False):  # cached tensors must work in training too
        even, odd = torch.tensor(_EVEN), torch.tensor(_ODD)
        integer = torch.empty(8, 8, dtype=torch.float64)
        integer[0::2] = torch.cat((even, even.flip(1)), 1)
        integer[1::2] = torch.cat((odd, -odd.flip(1)), 1)
        angles = torch.arange(8, dtype=torch.float64)[:, None] * (2 * torch.arange(8) + 1) * (torch.pi / 16)
        orthonormal = torch.cos(angles) / 2
        orthonormal[0] /= 2**0.5
        luma, chroma = (torch.tensor(table, dtype=torch.float32) for table in (_LUMA_TABLE, _CHROMA_TABLE))
        return (
            luma.to(device),
            chroma.to(device),
            integer.to(device, products),
            orthonormal.to(device, products),
        )
