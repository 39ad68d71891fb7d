# SPDX-License-Identifier: Apache-2.0
"""Upscaling a photograph with a trained student: an image in, an image of the same kind out."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image

from mrda.core.checks import check_int
from mrda.core.environment import has_bfloat16
from mrda.core.memory import free_memory
from mrda.core.tiling import Tile, tiles
from mrda.degradations.resample import bicubic
from mrda.networks import BlindNetwork, Network, load_any
from mrda.networks.checkpoints import further_metadata
from mrda.networks.layers import to_channels_last
from mrda.networks.prepared import PreparedStudent
from mrda.photo.decoding import lost_bits, pixels_of
from mrda.photo.images import to_array, to_eight_bits, to_tensor
from mrda.photo.lanczos import resample
from mrda.photo.transparency import fill_transparent
from mrda.upscale.runner import GraphRunner, pays_a_graph
from mrda.upscale.strength import load_between
from mrda.upscale.weights import find_weights, save_pretrained

_log = logging.getLogger(__name__)

_ROUNDING = 1e-3  # a quarter of a level of 8 bits
Part = TypeVar("Part")
ImageT = TypeVar("ImageT", Image.Image, np.ndarray, torch.Tensor)


def load_weights(path: str | Path) -> Network:
    """Load a network of the method, whichever it is.

    Args:
        path: our safetensors, those of `PyTorchModelHubMixin`, or a state dict of the authors: a file, or anything
            else that `mrda.upscale.weights.find_weights` finds.

    Raises:
        ValueError: there are no such weights, or the file does not hold a network; the message says what it holds.
    """
    return load_any(find_weights(path))


def load_student(path: str | Path) -> BlindNetwork:
    """Load a network that upscales: a student of MRDA, DASR, or KDSR's student.

    Args:
        path: as for `load_weights`.

    Raises:
        ValueError: as there, or the weights are those of another network.
    """
    network = load_weights(path)
    if not isinstance(network, BlindNetwork):
        raise ValueError(
            f"{path} holds the network {type(network).__name__}, which requires the HR image, but upscaling needs an "
            "MRDAStudent, a DASR or a KDSRStudent"
        )
    return network


def default_device() -> str:
    """Return "cuda" if there is such a device, or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that memory ran out, on any device."""
    # torch has an exception class for CUDA; its CPU allocator raises a bare RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


SMALLEST_TILE = 16
"""Side in LR pixels below which a tile, or a strip that the degradation is read from, is not halved."""
ALPHA_REACH = 4
"""Bound of the receptive field's radius of the enlarged alpha, in LR pixels."""
ENOUGH_MEMORY = 2**29
"""Bytes for a tile above which a larger tile is faster only through its smaller overlap."""
STRIP_PIXELS = 2**20
"""LR pixels whose degradation is read at a time."""
_OTHER_COLOURS = ("CMYK", "LAB", "HSV")  # Pillow's modes whose colour profiles do not describe RGB


class Upscaler:
    """Blind super-resolution of photographs by MRDA_S, DASR or KDSR_S, without HR, kernel or adaptation.

    Large images go through the network in tiles, with the same result as the whole: the degradation is read from all of
    the image, and each tile is padded by the network's receptive field. If memory runs out the tiles are halved. It may
    be called from several threads at once.

    The network is prepared when the object is made, see `MRDAStudent.prepare`: make a new one after changing the
    network's weights, dtype or device.

    Args:
        network: the network; it is set to evaluation mode and, where `device` is given, moved there.
        device: device to compute on; None leaves the network where it is.
        tile: the largest side of a tile in LR pixels; None takes images whole, "auto" as much as fits into memory.
        tile_pad: padding of tiles in LR pixels; None is the network's reach (`network.rdan.reach`), and less only
            approximates the whole.
        dtype: dtype of the features: float32, bfloat16 or float16; the degradation's vector, what is predicted from it,
            and the sums and the result of the last convolution are always float32. None is bfloat16 if the processor
            has instructions for it (GPUs; CPUs with AVX512-BF16 or AMX), and float32 otherwise. Parts that are not
            finite in half precision are computed again in float32. On a GPU the convolutions of float32 round their
            factors to TF32 unless `torch.backends.cudnn.allow_tf32` is False, as all of torch's do.
        notify: called with a sentence, once per subject: that tiles are approximate, that memory ran out, or that half
            precision gave values that are not finite. None logs them as warnings of the logger "mrda".

    Attributes:
        network: the network.
        dtype: dtype of the features.

    Raises:
        TypeError: `network` is no BlindNetwork (the teacher and the MLN need the HR image), or a size is no int.
        ValueError: a size or the dtype is not as described.

    Example:
        >>> upscaler = Upscaler.from_pretrained("runs/demo/student/weights.safetensors")
        >>> upscaler(Image.open("photo.png")).save("photo_x4.png")
    """

    def __init__(
        self,
        network: BlindNetwork,
        *,
        device: torch.device | str | None = None,
        tile: int | Literal["auto"] | None = "auto",
        tile_pad: int | None = None,
        dtype: torch.dtype | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        if not isinstance(network, BlindNetwork):
            raise TypeError(f"network is {type(network).__name__}, but must be an MRDAStudent, a DASR or a KDSRStudent")
        if tile is not None and tile != "auto":
            check_int("tile", tile)
        if tile_pad is not None:
            check_int("tile_pad", tile_pad, minimum=0)
        if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"dtype is {dtype}, but must be float32, bfloat16 or float16")
        self.network = to_channels_last(network.eval().to(device))
        self.tile = tile
        self.tile_pad = network.rdan.reach if tile_pad is None else tile_pad
        self.dtype = _best_dtype(self.device) if dtype is None else dtype
        converted = self.dtype if network.rdan.head.weight.dtype == torch.float32 else None
        self._prepared = self.network.prepare(converted)
        self._run = GraphRunner(self._prepared)
        self.notify = notify or _log.warning
        self._told: set[str] = set()
        self._metadata: dict[str, str] = {}

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: torch.device | str | None = None,
        strength: float | None = None,
        **options: Any,
    ) -> "Upscaler":
        """Load a student.

        Args:
            path: a file, a folder of `save_pretrained`, the name of weights that come with the package, or
                "user/repository" on the Hugging Face Hub.
            device: device to compute on; None chooses CUDA if there is such a device.
            strength: place between weights of the package and their partner, from 0, for clean photos, to 1, for
                degraded ones; see `mrda.upscale.strength`. None is the weights themselves.
            **options: the other arguments of `Upscaler`.

        Raises:
            ValueError: there are no such weights, they are those of another network, the strength is not from 0 to 1,
                or it is given for weights without a partner.
        """
        network: BlindNetwork
        if strength is None:
            file = find_weights(path)
            network, metadata = load_student(file), further_metadata(file)
        else:
            network, metadata = load_between(path, strength)
        upscaler = cls(network, device=device or default_device(), **options)
        upscaler._metadata = metadata
        return upscaler

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder for `from_pretrained`, which can be uploaded to the Hugging Face Hub; made if missing.

        Further metadata of the file that the weights came from, such as their licence, is kept.
        """
        save_pretrained(self.network, folder, **self._metadata)

    @property
    def scale(self) -> int:
        """Enlargement of height and width."""
        return self.network.scale

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    def __call__(
        self,
        image: ImageT,
        *,
        degradation: torch.Tensor | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> ImageT:
        """Upscale an image.

        Gray images go through the network as three equal channels, whose results are averaged. Alpha is enlarged by
        bicubic interpolation, and fully transparent pixels take the colour of their surroundings: their own colour
        would otherwise bleed into opaque pixels.

        Args:
            image: a Pillow image in any mode but 32-bit ones; a numpy array (H, W) or (H, W, C), uint8,
                uint16 or floating point in [0, 1]; or a floating-point tensor (C, H, W) or (B, C, H, W) in
                [0, 1].
                C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
            degradation: the degradation (B, 4C) to upscale by, such as a mean of those that `read_degradation` gives
                for the frames of a video; None reads it from the image.
            progress: called several times during each tile, and after it, with the share of the image that is done,
                up to 1. An exception that it raises ends the work.

        Returns:
            The image, `scale` times as high and wide, of the same kind, dtype and channels (a tensor on the same
            device); values clipped to the range. Pillow's palette, CMYK and similar modes come back as RGB, and its
            images upright according to their EXIF orientation, with colour profile and resolution in `info`; profiles
            of CMYK and LAB do not describe RGB and are left out.

        Raises:
            TypeError: another kind of image or dtype.
            ValueError: another shape, of ``degradation`` too, floating-point values outside [0, 1] or NaN, or a Pillow
                image whose value range is unknown.
        """
        if isinstance(image, Image.Image):
            if bits := lost_bits(image):
                self._tell(
                    "bits",
                    f"Pillow has reduced {bits}-bit colours to 8 bits: "
                    "pass mrda.photo.files.read_photo(path).pixels, which keeps them",
                )
            (array,) = self._upscale_arrays([pixels_of(image)], progress, degradation)
            enlarged = Image.fromarray(array if array.ndim == 2 else to_eight_bits(array))
            enlarged.info |= {key: value for key, value in image.info.items() if key in ("icc_profile", "dpi")}
            if image.mode in _OTHER_COLOURS and enlarged.info.pop("icc_profile", None) is not None:
                self._tell(
                    f"profile of {image.mode}",
                    f"the colour profile is left out, as it is one of {image.mode} and the result is RGB",
                )
            return enlarged
        _check_range(image)
        if isinstance(image, np.ndarray):
            return self._upscale_arrays([image], progress, degradation)[0]
        if not isinstance(image, torch.Tensor):
            raise TypeError(f"image is {type(image).__name__}, but must be a Pillow image, array or tensor")
        if not image.is_floating_point():
            raise TypeError(f"image has dtype {image.dtype}, but must be a floating point tensor")
        if image.ndim not in (3, 4):
            raise ValueError(f"image has shape {tuple(image.shape)}, but must be (C, H, W) or (B, C, H, W)")
        batch = image if image.ndim == 4 else image[None]
        height, width = (self.scale * side for side in batch.shape[2:])
        sr = torch.empty(*batch.shape[:2], height, width, dtype=image.dtype, device=image.device)
        for rows, parts in self._bands(batch, progress, lambda part: part.to(sr), degradation):
            sr[:, :, rows] = torch.cat(parts, dim=3)
        return sr if image.ndim == 4 else sr[0]

    def read_degradation(self, image: np.ndarray) -> torch.Tensor:
        """Read the degradation of an image, by which `__call__` would upscale it.

        Args:
            image: an array as `__call__` takes it.

        Returns:
            The raw degradation (1, 4C) float32, on the network's device.

        Raises:
            TypeError: another dtype.
            ValueError: another shape, or floating-point values outside [0, 1] or NaN.
        """
        _check_range(image)
        return self._degradation(_colour_and_alpha(to_tensor(image))[0])

    def bands(self, image: np.ndarray, progress: Callable[[float], None] | None = None) -> Iterator[np.ndarray]:
        """Upscale an image from top to bottom, so that rows can be written as they are finished.

        Args:
            image: an array as `__call__` takes it.
            progress: as there.

        Yields:
            Bands of some rows and all columns, in the dtype of ``image``, which together are the result.

        Raises:
            TypeError: another dtype.
            ValueError: another shape, or floating-point values outside [0, 1] or NaN.
        """
        _check_range(image)
        for _, parts in self._bands(to_tensor(image), progress, lambda part: to_array(part, image.dtype)):
            band = np.concatenate(parts, axis=1)
            yield band if image.ndim == 3 else band[..., 0]

    def bands_of_size(
        self, image: np.ndarray, height: int, width: int, progress: Callable[[float], None] | None = None
    ) -> Iterator[np.ndarray]:
        """Upscale an image from top to bottom to any size, which is resampled from the weights' own scale.

        Args:
            image: an array (H, W) or (H, W, C), uint8 or uint16.
            height: rows of the result.
            width: columns of the result.
            progress: as in `__call__`.

        Returns:
            Bands as those of `bands`.
        """
        bands, own = self.bands(image, progress), (self.scale * image.shape[0], self.scale * image.shape[1])
        return bands if own == (height, width) else resample(bands, own, (height, width))

    def together(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Upscale images of one size, as many in one forward pass as a tile has memory for.

        Args:
            images: arrays (H, W) or (H, W, C), all of one shape, uint8 or uint16; at least one.

        Returns:
            The results in the same order, each as `__call__` returns it, but for the rounding of sums.

        Raises:
            ValueError: the shapes differ, or have another number of channels.
        """
        if len({image.shape for image in images}) > 1:
            raise ValueError("images have several shapes, but those of one forward pass must have one")
        height, width = images[0].shape[:2]
        most = len(images)
        if self.tile == "auto":
            most = max(1, self._memory() // (height * width * self._bytes_per_pixel()))
        results: list[np.ndarray] = []
        for start in range(0, len(images), most):
            results += self._upscale_arrays(images[start : start + most], None, None)
        return results

    def _upscale_arrays(
        self,
        arrays: Sequence[np.ndarray],
        progress: Callable[[float], None] | None,
        degradation: torch.Tensor | None,
    ) -> list[np.ndarray]:
        dtypes = [array.dtype for array in arrays]
        lr = torch.cat(list(map(to_tensor, arrays)))
        _, channels, height, width = lr.shape
        results = [np.empty((self.scale * height, self.scale * width, channels), dtype) for dtype in dtypes]
        for rows, parts in self._bands(lr, progress, lambda part: list(map(to_array, part, dtypes)), degradation):
            for number, sr in enumerate(results):
                np.concatenate([part[number] for part in parts], axis=1, out=sr[rows])
        return results if arrays[0].ndim == 3 else [sr[..., 0] for sr in results]

    def _bands(
        self,
        image: torch.Tensor,
        progress: Callable[[float], None] | None,
        convert: Callable[[torch.Tensor], Part],
        degradation: torch.Tensor | None = None,
    ) -> Iterator[tuple[slice, list[Part]]]:
        """Yield the rows of SR (B, C, scale H, scale W) in [0, 1] by bands, each in converted parts, left to right."""
        height, width = image.shape[2:]
        colour, alpha = _colour_and_alpha(image)
        side, start = self._side(len(image), height, width), 0
        # A single tile is read and upscaled by one graph.
        at_once = side >= max(height, width) and pays_a_graph(image.shape, self.device)
        if degradation is not None:
            degradation = degradation.to(self.device)
        elif not at_once:
            degradation = self._degradation(colour)
        while start < height:
            rows = slice(start, min(height, start + side))
            try:
                parts: list[Part] = []
                for tile in tiles(rows, height, width, side, self.tile_pad):
                    before, after = (
                        (start * width + (rows.stop - start) * column) / (height * width)
                        for column in (tile.columns.start, tile.columns.stop)
                    )
                    within = None if progress is None else _between(progress, before, after)
                    parts.append(convert(self._tile(colour, alpha, degradation, tile, within)))
                    if progress is not None:
                        progress(after)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or side <= SMALLEST_TILE:
                    raise
            else:
                yield slice(self.scale * start, self.scale * rows.stop), parts
                start = rows.stop
                continue
            # Outside of the handler, because the traceback would keep the tensors of the failed attempt.
            side = self._less(min(side, max(height, width)))
            self._tell("memory", f"memory ran out: continuing with tiles of {side} px")
            if degradation is None:
                degradation = self._degradation(colour)

    @torch.no_grad()  # not inference_mode, whose tensors the caller could not use in training
    def _degradation(self, colour: torch.Tensor) -> torch.Tensor:
        """Return the raw IDR of the whole image, which all its tiles share."""
        height = colour.shape[2]
        pixels = STRIP_PIXELS // self.network.den.wide
        rows = min(height, max(1, pixels // (len(colour) * colour.shape[3])))
        colour = colour.expand(-1, 3, -1, -1)
        while True:
            try:
                degradation = self._read(self._prepared, colour, rows)
                if degradation.isfinite().all():
                    return degradation
                self._tell_not_finite()
                return self._read(self._unconverted, colour, rows)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or rows <= SMALLEST_TILE:
                    raise
            rows = self._less(rows)
            self._tell("strips", f"memory ran out: reading the degradation in strips of {rows} px")

    def _read(self, network: PreparedStudent, colour: torch.Tensor, rows: int) -> torch.Tensor:
        """Return the raw IDR of an image, which is read in strips of so many rows if it has more."""
        if rows < colour.shape[2]:
            return network.den.in_strips(colour, rows)
        return network.den(colour.to(self._like))

    @torch.no_grad()
    def _tile(
        self,
        colour: torch.Tensor,
        alpha: torch.Tensor,
        degradation: torch.Tensor | None,
        tile: Tile,
        progress: Callable[[float], None] | None,
    ) -> torch.Tensor:
        seen = colour[:, :, tile.seen_rows, tile.seen_columns]
        lr = seen.to(self._like).expand(-1, 3, -1, -1)
        sr = self._network(*((lr,) if degradation is None else (lr, degradation)), progress=progress)
        sr = sr[
            :, :, _inside(tile.rows, tile.seen_rows, self.scale), _inside(tile.columns, tile.seen_columns, self.scale)
        ]
        if colour.shape[1] == 1:
            sr = sr.mean(dim=1, keepdim=True)
        if alpha.shape[1]:
            around = [
                slice(max(0, cut.start - ALPHA_REACH), min(length, cut.stop + ALPHA_REACH))
                for cut, length in zip((tile.rows, tile.columns), alpha.shape[2:], strict=True)
            ]
            enlarged = bicubic(alpha[:, :, around[0], around[1]].to(lr), self.scale)
            rows, columns = _inside(tile.rows, around[0], self.scale), _inside(tile.columns, around[1], self.scale)
            sr = torch.cat([sr, enlarged[:, :, rows, columns]], dim=1)
        return sr.clamp(0, 1)

    def _network(self, *inputs: torch.Tensor, progress: Callable[[float], None] | None) -> torch.Tensor:
        sr = self._run(*inputs, progress=progress)
        if self.dtype == torch.float32 or sr.dtype != torch.float32 or sr.isfinite().all():
            return sr
        self._tell_not_finite()
        return self._unconverted(*inputs)

    @cached_property
    def _unconverted(self) -> PreparedStudent:
        """The network in its own dtype, for parts that are not finite in half precision."""
        return self.network.prepare()

    @property
    def _like(self) -> torch.Tensor:
        """A tensor of the dtype and on the device that LR has to have."""
        return next(self.network.parameters())

    def _side(self, batch: int, height: int, width: int) -> int:
        """Return the largest side of a tile, in LR pixels."""
        longest = max(height, width)
        if self.tile is None:
            return longest
        if self.tile == "auto":
            pixels = self._memory() // (batch * self._bytes_per_pixel())
            if height * width <= pixels:
                return longest
            side = max(SMALLEST_TILE, math.isqrt(pixels) - 2 * self.tile_pad)
        else:
            side = self.tile
        if side < longest and self.tile_pad < self.network.rdan.reach:
            self._tell(
                "pad",
                f"tiles that see {self.tile_pad} px around themselves only approximate the whole image: "
                f"the network sees {self.network.rdan.reach} px",
            )
        return side

    def _less(self, side: int) -> int:
        """Return half a side, for another attempt after memory ran out, and free what the failed one left on a GPU."""
        if self.device.type == "cuda":
            self._run.free()
            torch.cuda.empty_cache()
        return max(SMALLEST_TILE, side // 2)

    def _memory(self) -> int:
        """Return the bytes that a tile may take: half of the free memory, and on a CPU no more than saves much time."""
        half = free_memory(self.device) // 2
        if self.device.type == "cuda":
            return half
        return min(half, max(ENOUGH_MEMORY, (8 * self.tile_pad) ** 2 * self._bytes_per_pixel()))

    def _bytes_per_pixel(self) -> int:
        """Return the bytes of working memory per LR pixel of a tile: ten maps of the trunk, the last map and SR."""
        size = torch.finfo(self.dtype).bits // 8
        trunk = 10 * size * self.network.rdan.hyperparameters["num_feat"]
        return trunk + 4 * 4 * 3 * self.scale**2

    def _tell_not_finite(self) -> None:
        self._tell("finite", f"{self.dtype} gave values that are not finite: computing these parts in float32")

    def _tell(self, subject: str, message: str) -> None:
        if subject not in self._told:
            self._told.add(subject)
            self.notify(message)


def _colour_and_alpha(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide an image (B, C, H, W) into colour, and alpha, which has no channels if there is none.

    Fully transparent pixels take the colour of their surroundings.

    Raises:
        ValueError: it has another number of channels than 1 to 4, or no pixels.
    """
    channels = image.shape[1]
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"image has {channels} channels, but must have 1, 2, 3 or 4")
    if 0 in image.shape:
        raise ValueError(f"image has shape {tuple(image.shape)}, but none of its sides may be 0")
    colour, alpha = image.detach().tensor_split([1 if channels < 3 else 3], dim=1)
    if alpha.shape[1]:
        colour = fill_transparent(colour.float(), alpha.float())
    return colour, alpha


def _best_dtype(device: torch.device) -> torch.dtype:
    """Return the fastest dtype on the processor among those that lose nothing visible."""
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def _check_range(image: Any) -> None:
    """Raise ValueError if an array or tensor has floating-point values outside [0, 1], but for rounding, or NaN."""
    if isinstance(image, torch.Tensor):
        if not image.is_floating_point() or not image.numel():
            return
        least, most = (float(value) for value in image.detach().aminmax())
    elif isinstance(image, np.ndarray) and np.issubdtype(image.dtype, np.floating) and image.size:
        least, most = float(image.min()), float(image.max())
    else:
        return
    if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):
        found = "NaN" if math.isnan(least) or math.isnan(most) else f"values from {least:.4g} to {most:.4g}"
        raise ValueError(
            f"image has {found}, but floating-point values must be from 0 to 1: divide levels by their white, such as "
            "255, or clip them"
        )


def _between(progress: Callable[[float], None], start: float, stop: float) -> Callable[[float], None]:
    """Turn the share of a part, from 0 to 1, into that of the whole, from ``start`` to ``stop``."""
    return lambda share: progress(start + share * (stop - start))


def _inside(cut: slice, seen: slice, scale: int) -> slice:
    """Return the slice of the SR of ``seen`` that is the SR of ``cut``."""
    return slice(scale * (cut.start - seen.start), scale * (cut.stop - seen.start))
