"""Time a training step of each stage with the fused operator, against the same step on the eager reference.

    python benchmarks/training.py --json benchmarks/results/training_cpu.json

Both take the same step of the same stage in turn: patches, degradation, adaptation of the MLN, forward, backward and
Adam, with random weights of the configuration's sizes. A step of the student is one of its joint phase.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.training` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks import commands
from benchmarks.records import environment
from benchmarks.timing import host_clock, interleaved
from mrda.config import STAGES, StageName, TrainConfig
from mrda.configs import load_config
from mrda.files import write_text
from mrda.memory import keep_freed_memory
from mrda.networks import MLN, save_network
from mrda.training import STAGES as STAGE_CLASSES
from mrda.training.loop import train_step
from mrda.training.processes import Processes
from mrda.training.stage import Stage, mln_options
from mrda.training.state import TrainingState
from mrda.training.teacher import TeacherStage

BACKENDS = (None, "reference")
SECONDS = 40.0
MIN_ROUNDS = 3
SIZES = ("data.patch_size=32", *(f"{name}.batch=8" for name in STAGES), "meta.tasks=1")


def main(arguments: Sequence[str] | None = None) -> None:
    """Time training steps on the CPU, or on a GPU where there is one."""
    command = commands.parser(__doc__)
    command.add_argument("--config", default="classic-iso-x4", help="configuration (default: classic-iso-x4)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change an option")
    command.add_argument("--stage", action="append", choices=STAGES, help="stages to time (default: all)")
    options = command.parse_args(arguments)
    commands.check_json(command, options.json)
    try:
        config = load_config(options.config, [*SIZES, *options.set])
    except ValueError as error:
        command.error(str(error))

    keep_freed_memory()
    names = options.stage or list(STAGES)
    progress = commands.Progress(len(names))
    results = []
    for index, name in enumerate(names):
        progress.show(index, name)
        results.append(measure(config, name))
    progress.end()
    if options.json is not None:
        write_text(options.json, json.dumps(results, indent=1) + "\n")
    for r in results:
        print(
            f"{r['stage']}: {r['fused_images_per_second']:.2f} images/s, on the reference "
            f"{r['reference_images_per_second']:.2f}: {r['speedup']:.2f} times as fast ({r['rounds']} rounds, batch "
            f"{r['batch']}, LR {r['patch_size']}x{r['patch_size']})"
        )


def measure(
    config: TrainConfig, name: StageName, seconds: float = SECONDS, min_rounds: int = MIN_ROUNDS
) -> dict[str, Any]:
    """Images per second of a stage's step on the backend that dispatch picks, and on the reference."""
    processes = Processes(Accelerator(mixed_precision="no"), None)
    with tempfile.TemporaryDirectory() as folder:
        inputs = random_weights(config, Path(folder))
        runs = {str(backend): step_of(config, name, inputs, backend, processes) for backend in BACKENDS}
    timings = interleaved(runs, host_clock, seconds=seconds, min_rounds=min_rounds)
    batch = config.stage(name).batch
    fused, reference = (1000 * batch / timings[str(backend)].ms for backend in BACKENDS)
    return {
        "stage": name,
        "batch": batch,
        "patch_size": config.data.patch_size,
        "scale": config.scale,
        "fused_images_per_second": fused,
        "reference_images_per_second": reference,
        "speedup": fused / reference,
        "rounds": timings["None"].rounds,
    } | environment(processes.device.type)


def random_weights(config: TrainConfig, folder: Path) -> dict[str, Path]:
    """What stages start from, by the names they know it under."""
    networks = {"mln": MLN(**mln_options(config)), "teacher": TeacherStage.build(config)}
    paths = {key: folder / f"{key}.safetensors" for key in networks}
    for key, network in networks.items():
        save_network(network, paths[key])
    return paths


def step_of(
    config: TrainConfig, name: StageName, inputs: dict[str, Path], backend: str | None, processes: Processes
) -> Callable[[], float]:
    """A function that takes one step more of a stage of its own."""
    stage: Stage = STAGE_CLASSES[name](config, inputs)
    for network in (stage.network, *stage.frozen):
        if hasattr(network, "rdan"):
            network.rdan.set_backend(backend)
    stage.to(processes.device)
    state = TrainingState(stage, config.stage(name).lr, config.train)
    first = config.student.encoder_steps if name == "student" else 0
    steps, patches = count(first), random_patches(config, name)
    take = partial(train_step, config=config, state=state, batches=patches, processes=processes)
    # The loss comes from the device, so the step has been done when it is there.
    return lambda: take(stage, next(steps)).scalars["loss"]


def random_patches(config: TrainConfig, name: StageName) -> Iterator[Tensor]:
    """Noise in the place of photographs: what is in them costs no time."""
    size = config.scale * config.data.patch_size
    draws = torch.Generator().manual_seed(0)
    while True:
        yield torch.randint(256, (config.stage(name).batch, 3, size, size), generator=draws, dtype=torch.uint8)


if __name__ == "__main__":
    main()
