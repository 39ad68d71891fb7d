"""Time a training step of each stage, against the same step built the released code's way.

    python benchmarks/training.py --json benchmarks/results/training_cpu.json --update docs/performance.md

All ways take the same step of the same stage in turn: patches, degradation, adaptation of the MLN, forward, backward
and Adam, with random weights of the configuration's sizes. A step of the student is one of its joint phase.

    released           the RDA convs as in benchmarks/peers.py, kernels predicted block by block, one convolution after
                       the other in the upscalers; eager
    released_compiled  the same, with the trained network under torch.compile
    mrda               as `mrda train` takes it

A record holds a step's time, images per second, the most memory that a step holds on top of networks and optimizer
(`benchmarks.memory.peak_bytes` says how it is measured), and of ours the share of its time by part. Ours on a GPU has
neither of them: a CUDA graph is most of the step. Without --set the sizes are small ones, for CPUs; --official takes
batches and patches as published.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.training` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else torch's profiler writes to the terminal; read by torch's import

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from benchmarks import commands
from benchmarks.memory import peak_bytes
from benchmarks.peers import released
from benchmarks.records import environment
from benchmarks.table import Page
from benchmarks.tables import MISSING, Table
from benchmarks.timing import clock_for, interleaved
from mrda.config import STAGES, StageName, TrainConfig
from mrda.config.load import load_config
from mrda.core.files import write_text
from mrda.core.memory import keep_freed_memory
from mrda.networks import MLN, save_network
from mrda.networks.layers import is_autocast
from mrda.networks.rda_conv import RDAConv
from mrda.training import STAGES as STAGE_CLASSES
from mrda.training.components import build_teacher, mln_options
from mrda.training.processes import Processes
from mrda.training.stages import MetaStage, Stage
from mrda.training.trainer import Trainer, build_optimizer

OURS = "mrda"
SECTION = "training"
WAYS = ("released", "released_compiled", OURS)
SECONDS = 40.0
MIN_ROUNDS = 3
PARTS_STEPS = 3
SIZES = ("data.patch_size=32", *(f"{name}.batch=8" for name in STAGES), "meta.tasks=1")


def main(arguments: Sequence[str] | None = None) -> None:
    """Time training steps on the CPU, or on a GPU where there is one."""
    command = commands.parser(__doc__)
    command.add_argument("--config", default="classic-iso-x4", help="configuration (default: classic-iso-x4)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change an option")
    command.add_argument("--official", action="store_true", help="batches and patches of the configuration itself")
    command.add_argument("--stage", action="append", choices=STAGES, help="stages to time (default: all)")
    command.add_argument("--way", action="append", choices=WAYS, help="ways to time (default: all)")
    command.add_argument("--seconds", type=float, default=SECONDS, help=f"for each stage (default: {SECONDS:.0f})")
    command.add_argument("--results", type=Path, metavar="FILE", help="take records from here, and measure nothing")
    command.add_argument("--update", type=Path, metavar="FILE", help="put the table into this file, at its markers")
    command.add_argument("--section", default=SECTION, help=f"the markers' name (default: {SECTION})")
    options = command.parse_args(arguments)
    commands.check_json(command, options.json)
    try:
        page = None if options.update is None else Page(options.update, options.section)
        if options.results is not None:
            results = json.loads(options.results.read_text(encoding="utf-8"))
            print(document(results))
            if page is not None:
                page.update(document(results))
            return
        config = load_config(options.config, [*(() if options.official else SIZES), *options.set])
    except (OSError, ValueError) as error:
        command.error(str(error))

    keep_freed_memory()
    names = options.stage or list(STAGES)
    progress = commands.Progress(len(names))
    results = []
    for index, name in enumerate(names):
        progress.show(index, name)
        results += measure(config, name, options.way or WAYS, seconds=options.seconds)
        if options.json is not None:
            write_text(options.json, json.dumps(results, indent=1) + "\n")
    progress.end()
    print(document(results))
    if page is not None:
        page.update(document(results))


def measure(
    config: TrainConfig,
    name: StageName,
    ways: Sequence[str] = WAYS,
    seconds: float = SECONDS,
    min_rounds: int = MIN_ROUNDS,
) -> list[dict[str, Any]]:
    """A record for each way to take a step of a stage."""
    processes = Processes(Accelerator(mixed_precision="no"), None)
    device = processes.device.type
    with tempfile.TemporaryDirectory() as folder:
        inputs = random_weights(config, Path(folder))
        steps = {way: step_of(config, name, inputs, way, processes) for way in ways}
    runs = {way: take for way, (take, _) in steps.items()}
    timings = interleaved(runs, clock_for(device), seconds=seconds, min_rounds=min_rounds)
    records = []
    for way, (take, stage) in steps.items():
        record = {
            "stage": name,
            "way": way,
            "batch": config.stage(name).batch,
            "patch_size": config.data.patch_size,
            "scale": config.scale,
            "mixed_precision": config.train.mixed_precision,
            "ms": timings[way].ms,
            "images_per_second": 1000 * config.stage(name).batch / timings[way].ms,
            "rounds": timings[way].rounds,
        }
        if way != OURS or device == "cpu":  # a graph holds its memory between the steps, and has no parts
            record["peak_bytes"] = peak_bytes(take, device)
            if way == OURS:
                record["parts"] = shares(take, stage)
        records.append(record | environment(device))
    return records


def document(records: Sequence[dict[str, Any]]) -> str:
    """A table of the steps and where they were measured, as Markdown that ends in a newline."""
    times = {(r["stage"], r["way"]): r["ms"] for r in records}
    peer = next((r["way"] for r in records if r["way"] != OURS), OURS)
    headings = ("Stage", "way", "ms", "images/s", "peak memory (MiB)", f"times as fast as {peer}", "of ours, by part")
    rows = []
    for r in records:
        slow = times.get((r["stage"], peer))
        ratio = MISSING if slow is None else f"{slow / r['ms']:.2f}x"
        parts = ", ".join(f"{part} {100 * share:.0f} %" for part, share in r.get("parts", {}).items())
        peak = f"{r['peak_bytes'] / 2**20:.0f}" if "peak_bytes" in r else MISSING
        rows.append((r["stage"], r["way"], f"{r['ms']:.0f}", f"{r['images_per_second']:.1f}", peak, ratio, parts))
    first = records[0]
    sizes = ", ".join(dict.fromkeys(f"{r['stage']} {r['batch']}" for r in records))
    return (
        f"{Table(headings, rows, texts=2).markdown()}\n"
        f"One optimizer step at LR {first['patch_size']}x{first['patch_size']}, x{first['scale']}, mixed precision "
        f"{first['mixed_precision']}; images a step: {sizes}. Measured on {first['processor']} with {first['threads']} "
        f"threads, torch {first['torch']}: medians of interleaved rounds. Parts are waited for one by one.\n"
    )


def shares(take: Callable[[], object], stage: Stage) -> dict[str, float]:
    """Shares of a step's time by part, each waited for."""
    spent: dict[str, float] = {}
    network = stage._adapted if isinstance(stage, MetaStage) else stage.network
    parts: list[tuple[Any, str, str]] = [(network, "forward", "forward"), (Tensor, "backward", "backward")]
    parts += [(torch.optim.Optimizer, "zero_grad", "optimizer"), (torch.optim.Adam, "step", "optimizer")]
    if stage.degradation is not None:
        parts.append((stage, "degradation", "degradation"))
    if stage.adapter is not None:
        parts.append((stage.adapter, "features", "adaptation"))
    originals = [(owner, name, vars(owner).get(name), getattr(owner, name)) for owner, name, _ in parts]
    for (owner, name, part), (*_, function) in zip(parts, originals, strict=True):
        setattr(owner, name, _timed(function, part, spent))
    try:
        for turn in range(PARTS_STEPS + 1):
            if turn == 1:
                spent.clear()  # what the first one sets up does not count
            start = _now()
            take()
            spent["all"] = spent.get("all", 0.0) + _now() - start
    finally:
        for owner, name, own, _ in originals:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
    total = spent.pop("all")
    spent["the rest"] = total - sum(spent.values())
    return {part: seconds / total for part, seconds in spent.items()}


def _timed(function: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = _now()
        result = function(*args, **kwargs)
        spent[part] = spent.get(part, 0.0) + _now() - start
        return result

    return timed


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def random_weights(config: TrainConfig, folder: Path) -> dict[str, Path]:
    """Random weights that stages start from, by the names of their inputs."""
    networks = {"mln": MLN(**mln_options(config)), "teacher": build_teacher(config)}
    paths = {key: folder / f"{key}.safetensors" for key in networks}
    for key, network in networks.items():
        save_network(network, paths[key])
    return paths


def step_of(
    config: TrainConfig, name: StageName, inputs: dict[str, Path], way: str, processes: Processes
) -> tuple[Callable[[], float], Stage]:
    """A function that takes one step more of a stage of its own, and the stage."""
    stage: Stage = STAGE_CLASSES[name](config, inputs)
    if way != OURS:
        changes = {"cuda_graphs": False, "compile": way == "released_compiled"}
        config = config.model_copy(update={"train": config.train.model_copy(update=changes)})
        release(stage)
    trainer = Trainer(stage, config, processes)
    if way != OURS:
        trainer.optimizer = build_optimizer(stage, config)
    trainer.step = config.student.encoder_steps if name == "student" else 0
    patches = random_patches(config, name)
    # The loss comes from the device, so the step has been done when it is there.
    return lambda: trainer.train_step(patches).scalars["loss"], stage


def release(stage: Stage) -> None:
    """Let a stage's networks compute as the released code does."""
    for module in (module for network in (stage.network, *stage.frozen) for module in network.modules()):
        if isinstance(module, RDAConv):
            module.forward = partial(_released_conv, module)  # type: ignore[method-assign]
    if isinstance(stage, MetaStage):
        vars(stage)["mln_to_adapt"] = stage.network  # adapted through the upscaler's chain of convolutions
    elif stage.adapter is not None:
        vars(stage.adapter)["mln_to_adapt"] = stage.adapter.mln


def _released_conv(conv: RDAConv, features: Tensor, idr: Tensor, *, output_negative_slope: float) -> Tensor:
    weights = [conv.predict_kernels(idr), conv.mask.weight, conv.mask.bias]
    if is_autocast(features.device):
        weights = [weight.to(features.dtype) for weight in weights]
    out = released(features, *weights, negative_slope=conv.dynamic_slope)
    return F.leaky_relu(out, output_negative_slope)


def random_patches(config: TrainConfig, name: StageName) -> Iterator[Tensor]:
    """Noise in the place of photographs: what is in them costs no time."""
    size = config.scale * config.data.patch_size
    draws = torch.Generator().manual_seed(0)
    shape = (config.stage(name).batch, 3, size, size)
    return cycle([torch.randint(256, shape, generator=draws, dtype=torch.uint8) for _ in range(4)])


if __name__ == "__main__":
    main()
