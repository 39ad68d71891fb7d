"""Records and settings made up for tests, and records of a quick run."""

import pytest
import torch

from benchmarks.records import Setting, load

SHAPE = (2, 3, 5, 7)


def setting(mode="forward", layout="nchw", dtype=torch.float32, shape=SHAPE, op="rda_conv2d", device="cpu"):
    return Setting(device, dtype, layout, shape, mode, op)


def record(provider, ms, *, layout="nchw", mode="forward", shape=(1, 64, 180, 320), **extra):
    identity = {"op": "rda_conv2d", "provider": provider, "device": "cpu", "dtype": "float32"}
    measured = {"ms": ms, "gbps": 1.0, "floor_ratio": ms / 2.0}
    machine = {"torch": "2.13.0", "threads": 2, "processor": "a processor", "instructions": "x86_64_v9"}
    return {**identity, "layout": layout, "shape": list(shape), "mode": mode, **measured, **machine, **extra}


def gpu_record(provider, ms, **extra):
    return record(provider, ms, **{"device": "cuda", "launch": "eager", "processor": "NVIDIA X1", **extra})


def absent(record, reason="it broke"):
    return {key: value for key, value in record.items() if key not in {"ms", "gbps", "floor_ratio"}} | {
        "absent": reason
    }


def quick_run(bench, folder):
    """The records of a benchmark run with --quick, which must succeed."""
    path = folder / "speed.json"
    with pytest.raises(SystemExit) as end:
        bench.main(["--quick", "--json", str(path)])
    assert end.value.code == 0
    return load(path)
