# SPDX-License-Identifier: Apache-2.0
"""Records: the results of the benchmarks, and the settings that they were measured on.

A result file is a list of records, one for each provider in each setting and way to launch it. A provider that could
not be measured has a record with the reason under "absent" in place of a time.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Record = dict[str, Any]

MODES = ("forward", "forward_backward")
TENSORS_MOVED = {"forward": 2, "forward_backward": 5}
MEMORY_FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
BLOCK_FLOORS = dict.fromkeys(("rda_conv3x3", "upscaler", "rdab", "trunk"), "convolutions")
FAMILY = ("dasr_conv", "kdsr_conv", "dasr", "kdsr")
FLOORS = {"rda_conv2d": "copy", **BLOCK_FLOORS, "model": "static_convs", **dict.fromkeys(FAMILY, "none")}  # by op
OURS = "mrda_kernels"


@dataclass(frozen=True)
class Setting:
    """The input of one comparison."""

    device: str
    dtype: torch.dtype
    layout: str
    shape: tuple[int, int, int, int]
    mode: str
    op: str = "rda_conv2d"

    @property
    def bytes_moved(self) -> int:
        """The bytes that any provider has to read or write, if it computes everything in one pass."""
        return TENSORS_MOVED[self.mode] * math.prod(self.shape) * self.dtype.itemsize

    @property
    def identity(self) -> Record:
        """The keys of a record that tell its setting."""
        return {"op": self.op} | vars(self) | {"dtype": dtype_name(self.dtype), "shape": list(self.shape)}

    def __str__(self) -> str:
        return f"{self.op} {self.shape} {dtype_name(self.dtype)} {self.layout} {self.mode}"


def dtype_name(dtype: torch.dtype) -> str:
    """Its name without "torch."."""
    return str(dtype).removeprefix("torch.")


def is_measured(record: Record) -> bool:
    """True if a record holds a time, and not the reason why there is none."""
    return "absent" not in record


def launch(record: Record) -> str:
    """The way calls were launched: "eager", one by one (also in old records without the key), or "graph", by replay."""
    return record.get("launch", "eager")


def load(path: Path) -> list[Record]:
    """Read the records of a result file.

    Raises:
        ValueError: the file is no list of records of these benchmarks.
    """
    records = json.loads(path.read_text(encoding="utf-8"))
    ops = [isinstance(r, dict) and r.get("op") in FLOORS for r in records] if isinstance(records, list) else []
    if not (ops and all(ops)):
        raise ValueError(f"{path} is not a list of records of benchmarks/rda_conv.py, rda_block.py or model.py")
    return records
