# SPDX-License-Identifier: Apache-2.0
"""The loss of PSNR-Y by half precision: of the features at inference, and of the weights in their file.

    python -m mrda.paper.studies.precision --weights mrda-x4 mrda-x4-noise --data Set5 \
        --json benchmarks/results/precision.json --update docs/performance.md

Gaussian8 as in `mrda evaluate`. Every variant upscales the same LR; those of dtypes keep the weights in float32.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from mrda.core.markdown import table
from mrda.evaluation.methods import blind_method
from mrda.evaluation.protocols import conditions, evaluate
from mrda.evaluation.samples import Method
from mrda.networks import MRDAStudent
from mrda.paper.studies import command
from mrda.photo.images import find_images
from mrda.upscale.upscaler import Upscaler, load_weights

SECTION = "precision"
PROTOCOL = "gaussian8"
EXACT = "nothing"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every variant on every folder."""
    parser = command.parser(__doc__)
    parser.add_argument("--weights", nargs="+", type=Path, required=True, metavar="FILE", help="students' weights")
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="DIR", help="folders of HR photos")
    options = parser.parse_args(arguments)
    command.run(parser, options, SECTION, lambda: study(options.weights, options.data), document)


def study(weights: Sequence[Path], folders: Sequence[Path]) -> dict[str, Any]:
    """Measure all folders with all weights: results by the names of the weights, then of the folders.

    Raises:
        ValueError: weights are not a student's.
    """
    students = {}
    for path in weights:
        student = load_weights(path)
        if not isinstance(student, MRDAStudent):
            raise ValueError(f"--weights is {path}, but must hold an MRDAStudent")
        students[path.name.removesuffix(".safetensors")] = student
    return {name: {folder.name: measure(s, folder) for folder in folders} for name, s in students.items()}


def document(results: Mapping[str, Any]) -> str:
    """The scores and losses as Markdown, ending in a newline."""
    rows = [
        (weights, name, variant, f"{psnr:.4f}", "" if variant == EXACT else f"{result['loss'][variant]:+.4f}")
        for weights, of_folders in results.items()
        for name, result in of_folders.items()
        for variant, psnr in result["psnr_y"].items()
    ]
    return table(("Weights", "Data set", "in half precision", "PSNR-Y (dB)", "lost (dB)"), rows, left=3)


def variants(student: MRDAStudent) -> dict[str, Method]:
    """Upscalers, by the part that is in half precision."""
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
    """Mean PSNR-Y of each variant over photos and degradations, and its loss against float32."""
    found = variants(student)
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
