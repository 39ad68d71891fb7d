"""Records: what the benchmarks write down, on which settings, and what the times depend on besides the code.

A result file is a list of records, one for each provider in each setting and way to launch it. A provider that could
not be measured has a record as well, with the reason under "absent" and no time.
"""

import importlib.metadata
import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mrda.core.files import write_text

Record = dict[str, Any]

MODES = ("forward", "forward_backward")
TENSORS_MOVED = {"forward": 2, "forward_backward": 5}
MEMORY_FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
OPS = ("rda_conv2d", "rdab", "trunk", "model")
FLOORS = {"rda_conv2d": "copy", "rdab": "convolutions", "trunk": "convolutions", "model": "static_convs"}
"""For each op, the provider that does only what no way to compute the op can do without."""

OURS = "mrda_kernels"


@dataclass(frozen=True)
class Setting:
    """What one comparison is made on."""

    device: str
    dtype: torch.dtype
    layout: str
    shape: tuple[int, int, int, int]
    mode: str
    op: str = "rda_conv2d"

    @property
    def tensor_bytes(self) -> int:
        """The bytes of one tensor of the input's size."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def bytes_moved(self) -> int:
        """The bytes that any provider has to read or write, if it computes everything in one go."""
        return TENSORS_MOVED[self.mode] * self.tensor_bytes

    @property
    def identity(self) -> Record:
        """The keys of a record that tell its setting."""
        return {
            "op": self.op,
            "device": self.device,
            "dtype": dtype_name(self.dtype),
            "layout": self.layout,
            "shape": list(self.shape),
            "mode": self.mode,
        }

    def __str__(self) -> str:
        return f"{self.op} {self.shape} {dtype_name(self.dtype)} {self.layout} {self.mode}"


def is_measured(record: Record) -> bool:
    """Whether a record holds a time, and not the reason why there is none."""
    return "absent" not in record


def launch(record: Record) -> str:
    """How calls were launched: "eager", one by one (so in older records, which don't say), or "graph", in a replay."""
    return record.get("launch", "eager")


def load(path: Path) -> list[Record]:
    """Read the records of a result file.

    Raises:
        ValueError: a file that isn't a list of these benchmarks' records.
    """
    records = json.loads(path.read_text(encoding="utf-8"))
    if not (isinstance(records, list) and records and all(map(_is_record, records))):
        raise ValueError(f"{path} is not a list of records of benchmarks/rda_conv.py, rda_block.py or model.py")
    return records


def holds_records(path: Path) -> bool:
    """Whether `load` would read the file."""
    try:
        load(path)
    except ValueError:
        return False
    return True


def save(path: Path, records: Sequence[Record]) -> None:
    """Write a result file."""
    write_text(path, json.dumps(records, indent=1) + "\n")


def environment(device: str) -> Record:
    """What the times depend on besides the code."""
    if device == "cpu":
        return {"torch": torch.__version__, "threads": torch.get_num_threads(), "processor": cpu_name()}
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "threads": torch.get_num_threads(),
        "processor": torch.cuda.get_device_name(),
    }


def cpu_name() -> str:
    """The processor's name where the system tells, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names: Iterator[str] = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def dtype_name(dtype: torch.dtype) -> str:
    """Its name without "torch."."""
    return str(dtype).removeprefix("torch.")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_record(value: object) -> bool:
    return isinstance(value, dict) and value.get("op") in OPS
