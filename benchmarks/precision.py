"""What half precision costs in PSNR-Y: of the features at inference, and of the weights in their file.

    python benchmarks/precision.py --weights WEIGHTS --data Set5 --update docs/performance.md

Gaussian8 as in `mrda evaluate`. Each way upscales the same LR; those of dtypes keep the weights in float32.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.precision` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks import commands
from benchmarks.table import Page
from benchmarks.tables import Table
from mrda.core.files import write_text
from mrda.core.memory import keep_freed_memory
from mrda.evaluation.methods import blind_method
from mrda.evaluation.protocols import conditions, evaluate
from mrda.evaluation.samples import Method
from mrda.networks import MRDAStudent
from mrda.photo.images import find_images
from mrda.upscale.upscaler import Upscaler, load_weights

SECTION = "precision"
PROTOCOL = "gaussian8"
EXACT = "nothing"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every way on every folder."""
    command = commands.parser(__doc__)
    command.add_argument("--weights", type=Path, required=True, metavar="FILE", help="a student's weights, in float32")
    command.add_argument("--data", nargs="+", type=Path, required=True, metavar="DIR", help="folders of HR photos")
    command.add_argument("--update", type=Path, metavar="FILE", help="put the table into this file, at its markers")
    options = command.parse_args(arguments)
    commands.check_json(command, options.json)
    keep_freed_memory()
    try:
        page = None if options.update is None else Page(options.update, SECTION)
        student = load_weights(options.weights)
        if not isinstance(student, MRDAStudent):
            raise ValueError(f"--weights is {options.weights}, but must hold an MRDAStudent")
        results = {folder.name: measure(student, folder) for folder in options.data}
    except (OSError, ValueError) as error:
        command.error(str(error))
    if options.json is not None:
        write_text(options.json, json.dumps(results, indent=1) + "\n")
    print(document(results))
    if page is not None:
        page.update(document(results))


def document(results: Mapping[str, Any]) -> str:
    """The scores and what is lost, as Markdown that ends in a newline."""
    rows = [
        (name, way, f"{psnr:.4f}", "" if way == EXACT else f"{result['loss'][way]:+.4f}")
        for name, result in results.items()
        for way, psnr in result["psnr_y"].items()
    ]
    return Table(("Data set", "in half precision", "PSNR-Y (dB)", "lost (dB)"), rows, texts=2).markdown()


def ways(student: MRDAStudent) -> dict[str, Method]:
    """Upscalers by what is in half precision."""
    stored = MRDAStudent(**student.hyperparameters)
    stored.load_state_dict({key: value.half().float() for key, value in student.state_dict().items()})
    found = {
        EXACT: Upscaler(student, dtype=torch.float32),
        "bfloat16 features": Upscaler(student, dtype=torch.bfloat16),
        "float16 features": Upscaler(student, dtype=torch.float16),
        "float16 file": Upscaler(stored, dtype=torch.float32),
    }
    return {name: blind_method(upscaler) for name, upscaler in found.items()}


def measure(student: MRDAStudent, folder: Path) -> dict[str, Any]:
    """Mean PSNR-Y of each way over photos and degradations, and what it loses against float32."""
    found = ways(student)
    scores: dict[str, list[float]] = {name: [] for name in found}
    for record in evaluate(found, find_images([folder]), conditions(PROTOCOL, student.scale), student.scale):
        if record.method in scores:
            scores[record.method].append(record.psnr_y)
    means = {name: fmean(values) for name, values in scores.items()}
    return {
        "protocol": PROTOCOL,
        "psnr_y": means,
        "loss": {name: means[EXACT] - mean for name, mean in means.items() if name != EXACT},
    }


if __name__ == "__main__":
    main()
