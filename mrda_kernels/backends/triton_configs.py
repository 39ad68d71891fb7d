# SPDX-License-Identifier: Apache-2.0
"""Tiles for the Triton kernels: a shipped choice for every problem, and choices measured on a GPU.

The shipped choice needs no measurement, so that a first call waits only for the compiler. It is the largest tile that
compiles without register spills for NVIDIA GPUs of compute capability 8.0, 9.0 and 10.0. Measured choices are kept in a
file, under the GPU's name, the version of Triton and a hash of the kernels' source; after a change of any of these they
are measured again.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

NO_MASK, FUSED_MASK, GIVEN_LOGITS = 0, 1, 2
"""A kernel's part of the mask: none, all of it, or all but the 1x1 convolution, whose mask_logits it reads."""

_MAX_ROWS = 32
_MIN_ROWS = 8
_PROGRAMS = 1024  # a few for each multiprocessor of a large GPU


class Problem(NamedTuple):
    """The properties of a call that the choice depends on."""

    direction: str  # "forward" or "backward"
    channels: int
    kernel_size: int
    mask: int
    channels_last: bool
    dtype: str  # "float32", ...


class Config(NamedTuple):
    """A program's tile, and the threads that share it."""

    columns: int
    channels: int
    warps: int
    rows: int = _MAX_ROWS
    registers: int | None = None  # at most, for each thread, if that lets more programs run at a time


def mask_mode(direction: str, channels: int, kernel_size: int, masks: int, dtype: str) -> int:
    """Choose FUSED_MASK for one mask, if all channels fit a tile and their sums the registers."""
    if masks == 0:
        return NO_MASK
    most = {1: 256, 3: 256, 5: 128, 7: 64}[kernel_size] // (2 if dtype == "float64" else 1)
    fits = channels <= most if direction == "forward" else channels <= 128 and kernel_size <= 3
    return FUSED_MASK if masks == 1 and fits else GIVEN_LOGITS


def shipped(problem: Problem) -> Config:
    """Return the choice without measurement."""
    backward = problem.direction == "backward"
    channels = _power_of_two(problem.channels)
    if problem.mask != FUSED_MASK:
        channels = min(channels, 64 if problem.channels_last and not (backward and problem.kernel_size > 3) else 8)
    # A thread keeps the taps of its channels in registers, and in the backward as many sums.
    elements = {1: 8, 3: 8, 5: 4, 7: 2}[problem.kernel_size]
    if backward:
        elements = {1: 8, 3: 4, 5: 1, 7: 1}[problem.kernel_size]
    if problem.dtype == "float64":
        elements = max(elements // 2, 1)
        if problem.mask != FUSED_MASK:
            channels = min(channels, 32)
    warps = 4 if channels <= 64 and elements >= 4 and problem.channels_last else 8
    if not problem.channels_last and problem.mask != FUSED_MASK:
        elements = min(elements, 4)
    columns = min(max(warps * 32 * elements // channels, 8), 128)
    # at 168 registers, three programs of 4 warps share a multiprocessor instead of two
    capped = (
        backward and problem.kernel_size == 3 and problem.channels_last and problem.dtype in {"bfloat16", "float16"}
    )
    # in the backward each program has its own sums and scratch memory: the fewer programs, the better
    rows = 128 if backward else _MAX_ROWS
    return Config(columns, channels, warps, rows, registers=168 if capped and warps == 4 else None)


def for_interpreter(problem: Problem, batch: int) -> Config:
    """Choose for the interpreter, whose time depends on the number of operations and not on their size."""
    channels = _power_of_two(problem.channels)
    if problem.mask != FUSED_MASK:
        channels = min(channels, 64)
    return Config(64, channels, 4, rows=16) if batch <= 16 else Config(128, channels, 4, rows=32)


def candidates(problem: Problem) -> list[Config]:
    """List the choices that are worth measuring, the shipped one first."""
    first = shipped(problem)
    found = [first]
    for factor, warps in [(2, 2 * first.warps), (2, first.warps), (1, 2 * first.warps), (4, 2 * first.warps)]:
        if warps <= 16 and factor * first.columns <= 256:
            found.append(Config(factor * first.columns, first.channels, warps, first.rows))
    return found + [found[0]._replace(rows=rows) for rows in (16, 64)]


def rows_for(config: Config, height: int, programs_per_band: int) -> int:
    """Return the rows of a tile: fewer on a small image, so that there is work for the whole GPU."""
    rows = config.rows
    while rows > _MIN_ROWS and -(-height // rows) * programs_per_band < _PROGRAMS:
        rows //= 2
    return rows


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


# ---- measured choices ----------------------------------------------------------------------------------------------


def cache_path() -> Path:
    """Return $XDG_CACHE_HOME/mrda_kernels/triton_configs.json, by default under ~/.cache."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # left as it is if there is no home
    return Path(folder) / "mrda_kernels" / "triton_configs.json"


class Measured:
    """Choices measured on one kind of GPU, in a file that all kinds share.

    Args:
        path: the file; a broken one causes a warning and counts as empty.
        device: the GPU, the version of Triton and the kernels that the measurements are valid for.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.path, self.device = path, device
        self._configs = self._read().get(device, {})

    def get(self, problem: Problem) -> Config | None:
        """Return the choice for a problem, or None if there is none."""
        values = self._configs.get(_key(problem))
        return None if values is None else Config(*values)  # type: ignore[arg-type]

    def measure(self, problem: Problem, benchmark: Callable[[Config], float]) -> Config:
        """Time all candidates, keep and return the fastest; ``benchmark`` returns seconds, or infinity."""
        best = min(candidates(problem), key=benchmark)
        self._configs[_key(problem)] = list(best)
        self._write()
        return best

    def _read(self) -> dict[str, dict[str, list[int | None]]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            for configs in content.values():
                for values in configs.values():
                    _check(values)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            warnings.warn(f"{self.path} is ignored, because it can't be read: {error!r}", RuntimeWarning, stacklevel=4)
            return {}
        return content

    def _write(self) -> None:
        """Add the choices to the file, atomically, keeping what others have written meanwhile."""
        content = self._read()
        content[self.device] = {**content.get(self.device, {}), **self._configs}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False, encoding="utf-8") as file:
                try:
                    json.dump(content, file, indent=1, sort_keys=True)
                    file.flush()
                    os.replace(file.name, self.path)
                except OSError:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            warnings.warn(f"{self.path} can't be written: {error!r}", RuntimeWarning, stacklevel=3)


def _key(problem: Problem) -> str:
    return " ".join(map(str, problem))


def _check(values: list[int | None]) -> None:
    """Raise ValueError if a file's values do not make a Config."""
    *sizes, registers = Config(*values)  # type: ignore[arg-type]
    if not all(type(n) is int and n > 0 and n & (n - 1) == 0 for n in sizes):
        raise ValueError(f"{values} must be powers of two")
    if registers is not None and not (type(registers) is int and 0 < registers < 256):
        raise ValueError(f"registers are {registers}, but must be from 1 to 255")
