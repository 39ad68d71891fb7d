# SPDX-License-Identifier: Apache-2.0
"""Time a training step of each stage, against the same step built the released code's way.

    python benchmarks/training.py --json benchmarks/results/training_cpu.json

    released           the RDA convs as in benchmarks/peers.py, one convolution after the other in the upscalers; eager
    released_compiled  the same, with the trained network under torch.compile
    mrda               as `mrda train` takes it

Ours on a GPU has no peak memory and no shares by part, because a CUDA graph is most of the step. Without --set the
sizes are small ones, for CPUs; --official takes batches and patches as published.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.training` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # before torch is imported: its profiler would write to the terminal

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks import commands, tables
from benchmarks.harness import GpuClock, host_clock, interleaved, peak_bytes, shares
from benchmarks.peers import released, use_peer
from mrda.config import STAGES, StageName, TrainConfig
from mrda.config.load import load_config
from mrda.core.environment import timing_environment
from mrda.core.files import write_text
from mrda.core.memory import keep_freed_memory
from mrda.networks import MLN, save_network
from mrda.training import STAGES as STAGE_CLASSES
from mrda.training.components import build_teacher, mln_options
from mrda.training.processes import Processes
from mrda.training.stages import MetaStage, Stage, TeacherStage
from mrda.training.trainer import Trainer, build_optimizer

OURS = "mrda"
WAYS = ("released", "released_compiled", OURS)
SIZES = ("data.patch_size=32", *(f"{name}.batch=8" for name in STAGES), "meta.tasks=1")


def main(arguments: Sequence[str] | None = None) -> None:
    """Time training steps on the CPU, or on a GPU if there is one."""
    command = commands.parser(__doc__)
    command.add_argument("--config", default="classic-iso-x4", help="configuration (default: classic-iso-x4)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change an option")
    command.add_argument("--official", action="store_true", help="batches and patches of the configuration itself")
    command.add_argument("--stage", action="append", choices=STAGES, help="stages to time (default: all)")
    command.add_argument("--way", action="append", choices=WAYS, help="ways to time (default: all)")
    command.add_argument("--seconds", type=float, default=40.0, help="for each stage (default: 40)")
    options = command.parse_args(arguments)
    commands.check_json(command, options.json)
    try:
        config = load_config(options.config, [*(() if options.official else SIZES), *options.set])
    except (OSError, ValueError) as error:
        command.error(str(error))
    keep_freed_memory()
    names, results = options.stage or list(STAGES), []
    for index, name in enumerate(names):
        commands.progress(index, len(names), name)
        results += measure(config, name, options.way or WAYS, seconds=options.seconds)
        if options.json is not None:
            write_text(options.json, json.dumps(results, indent=1) + "\n")
    print(tables.training(results))


def measure(
    config: TrainConfig, name: StageName, ways: Sequence[str], seconds: float, min_rounds: int = 3
) -> list[dict[str, Any]]:
    """A record for each way to take a step of a stage."""
    processes = Processes(Accelerator(mixed_precision="no"), None)
    device = processes.device.type
    with tempfile.TemporaryDirectory() as folder:
        inputs = random_weights(config, Path(folder))
        steps = {way: step_of(config, name, inputs, way, processes) for way in ways}
    runs, clock = {way: take for way, (take, _) in steps.items()}, host_clock if device == "cpu" else GpuClock()
    timings = interleaved(runs, clock, seconds=seconds, min_rounds=min_rounds)
    records = []
    for way, (take, stage) in steps.items():
        record = {
            "stage": name,
            "way": way,
            "batch": config.stage(name).batch,
            "patch_size": config.data.patch_size,
            "scale": config.scale,
            "mixed_precision": config.train.mixed_precision,
            "ms": timings[way][0],
            "images_per_second": 1000 * config.stage(name).batch / timings[way][0],
            "rounds": timings[way][1],
        }
        if way != OURS or device == "cpu":
            record["peak_bytes"] = peak_bytes(take, device)
            if way == OURS:
                record["parts"] = shares(take, parts_of(stage))
        records.append(record | timing_environment(device))
    return records


def parts_of(stage: Stage) -> list[tuple[Any, str, str]]:
    """The parts of a step for `benchmarks.harness.shares`."""
    network = stage.mln_to_adapt if isinstance(stage, MetaStage) else stage.network
    calls = (
        [(network.rdan, "forward"), (network, "degradation")]
        if isinstance(stage, TeacherStage)
        else [(network, "forward")]
    )
    parts: list[tuple[Any, str, str]] = [*((*call, "forward") for call in calls), (Tensor, "backward", "backward")]
    parts += [(torch.optim.Optimizer, "zero_grad", "optimizer"), (torch.optim.Adam, "step", "optimizer")]
    parts += [] if stage.degradation is None else [(stage, "degradation", "degradation")]
    return parts + ([] if stage.adapter is None else [(stage.adapter, "features", "adaptation")])


def random_weights(config: TrainConfig, folder: Path) -> dict[str, Path]:
    """The weights that stages start from, by the names they know them under."""
    for key, network in {"mln": MLN(mln_options(config)), "teacher": build_teacher(config)}.items():
        save_network(network, folder / f"{key}.safetensors")
    return {key: folder / f"{key}.safetensors" for key in ("mln", "teacher")}


def step_of(
    config: TrainConfig, name: StageName, inputs: dict[str, Path], way: str, processes: Processes
) -> tuple[Callable[[], float], Stage]:
    """A function that takes one more step of a stage of its own, and the stage; a student's has a teacher."""
    student = config.student.model_copy(update={"distil_share": None})
    config = config.model_copy(update={"student": student})
    stage: Stage = STAGE_CLASSES[name](config, inputs)
    if way != OURS:
        changes = {"cuda_graphs": False, "compile": way == "released_compiled"}
        config = config.model_copy(update={"train": config.train.model_copy(update=changes)})
        release(stage)
    trainer = Trainer(stage, config, processes)
    if way != OURS:
        trainer.optimizer = build_optimizer(stage, config)
    trainer.step = config.student.encoder_steps if name == "student" else 0
    batches = random_patches(config, name)
    # The loss comes from the device, so that the step is done when it is there.
    return lambda: trainer.train_step(batches).scalars["loss"], stage


def release(stage: Stage) -> None:
    """Let a stage's networks compute as the released code does."""
    for network in (stage.network, *stage.frozen):
        use_peer(network, released)
    if isinstance(stage, MetaStage):
        vars(stage)["mln_to_adapt"] = stage.network  # adapted through the upscaler's chain of convolutions
    elif stage.adapter is not None:
        vars(stage.adapter)["mln_to_adapt"] = stage.adapter.mln


def random_patches(config: TrainConfig, name: StageName) -> Iterator[Tensor]:
    """Noise in the place of photographs: their content costs no time."""
    size = config.scale * config.data.patch_size
    draws = torch.Generator().manual_seed(0)
    shape = (config.stage(name).batch, 3, size, size)
    return cycle([torch.randint(256, shape, generator=draws, dtype=torch.uint8) for _ in range(4)])


if __name__ == "__main__":
    main()
