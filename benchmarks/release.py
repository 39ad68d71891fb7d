"""Make the files of released weights: what the package ships, their learning curve, and the table of their scores.

    python -m benchmarks.release pack runs/iso/student/weights.safetensors --name mrda-x4-iso
    python -m benchmarks.release curve '1, teacher:64:log.jsonl' '1, student:64:log.jsonl' --name mrda-x4-iso
    python -m benchmarks.release table docs/weights/mrda-x4-iso.json --update README.md docs/weights/mrda-x4-iso.md
    python -m benchmarks.release table mrda9.json --protocol mrda9 --section weights-mrda9 --update card.md
    python -m benchmarks.release compare T1=t1.json T2=t2.json --update page.md

`pack` writes mrda/weights_data/NAME.safetensors in float16 and prints its SHA-256 for
`mrda.upscale.weights.BUNDLED`; `curve` writes docs/weights/NAME.jsonl, the legs' logs one after the other, and the
picture NAME.png; `table` and `compare` take what `mrda evaluate --json` writes.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.table import Page
from mrda.core.files import atomic_write, write_text
from mrda.evaluation.paper import paper_rows
from mrda.evaluation.tables_markdown import by_noise, markdown, table
from mrda.networks import load_network, read_metadata, save_network
from mrda.paper.figures.canvas import new_figure
from mrda.upscale.weights import BUNDLED_FOLDER

DOCS = Path(__file__).resolve().parent.parent / "docs" / "weights"
SECTION = "weights"
LICENSE = "CC-BY-NC-4.0"
KEPT = ("stage", "step", "data", "recipe", "config_hash", "torch_version")
"""Metadata of a run's weights that go with them."""
PAPER = ("MRDA_S", "DASR", "RCAN")
WINDOW = 9  # records that the curve is smoothed over


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the files of released weights."""
    command = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    parts = command.add_subparsers(dest="part", required=True)
    packing = parts.add_parser("pack", help="the file that the package ships")
    packing.add_argument("weights", type=Path, help="a trained student")
    curving = parts.add_parser("curve", help="the log and its picture")
    curving.add_argument("legs", nargs="+", metavar="LEG:BATCH:LOG", help="log.jsonl files in order")
    for part in (packing, curving):
        part.add_argument("--name", required=True, help="of the weights")
    scoring = parts.add_parser("table", help="scores beside the paper's")
    scoring.add_argument("scores", type=Path, help="written by `mrda evaluate --json`")
    scoring.add_argument("--protocol", default="gaussian8", choices=["gaussian8", "mrda9", "dasr9"])
    scoring.add_argument("--short", action="store_true", help="of the noisy protocols no table of each kernel")
    comparing = parts.add_parser("compare", help="scores of several runs side by side")
    comparing.add_argument("runs", nargs="+", metavar="NAME=FILE", help="each written by `mrda evaluate --json`")
    for part, section in ((scoring, SECTION), (comparing, "compare")):
        part.add_argument("--section", default=section, help=f"the markers' name (default: {section})")
        part.add_argument("--update", nargs="+", type=Path, default=[], metavar="FILE", help="pages to put it into")
    options = command.parse_args(arguments)
    try:
        if options.part == "pack":
            pack(options.weights, options.name)
        elif options.part == "curve":
            curve([leg.split(":", maxsplit=2) for leg in options.legs], options.name)
        else:
            if options.part == "compare":
                content = comparison({name: Path(path) for name, path in (run.split("=", 1) for run in options.runs)})
            else:
                datasets = _datasets(options.scores)
                if options.protocol == "gaussian8":
                    content = document(datasets)
                else:
                    content = (by_noise if options.short else markdown)(datasets, options.protocol)
            print(content, end="")
            for page in [Page(path, options.section) for path in options.update]:
                page.update(content)
    except (OSError, ValueError) as error:
        command.error(str(error))


def pack(weights: Path, name: str) -> None:
    """Write the weights in float16 with what their file says of them, but for paths of the machine they come from."""
    target = BUNDLED_FOLDER / f"{name}.safetensors"
    target.parent.mkdir(exist_ok=True)
    said = {key: value for key, value in read_metadata(weights).items() if key in KEPT}
    recipe = json.loads(said["recipe"])
    recipe["data.sources"] = [Path(source).name for source in recipe["data.sources"]]
    said["recipe"] = json.dumps(recipe)
    save_network(load_network(weights).half(), target, license=LICENSE, **said)
    print(f'"{name}": "{hashlib.sha256(target.read_bytes()).hexdigest()}",')


def curve(legs: Sequence[Sequence[str]], name: str) -> None:
    """Write the legs' logs one after the other, and draw the loss over the images seen.

    Args:
        legs: of each its name, the batch and the log.
        name: of the weights.
    """
    records: list[dict[str, Any]] = []
    images = 0
    for leg, batch, path in legs:
        lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        records += [{"leg": leg, "images": images + int(batch) * line["step"], **line} for line in lines]
        images += int(batch) * max(line["step"] for line in lines)
    write_text(DOCS / f"{name}.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))
    figure = new_figure(7, 3.5)
    axes = figure.subplots()
    for leg, batch, _ in legs:
        points = [(r["images"], r["l1"]) for r in records if r["leg"] == leg and "l1" in r]
        losses = _smoothed([y for _, y in points])
        axes.plot([x / 1000 for x, _ in points], losses, label=f"{leg} (batch {batch})")
    axes.set_xlabel("thousand patches")
    axes.set_ylabel("L1")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, title="leg", title_fontsize=8)
    figure.tight_layout()
    with atomic_write(DOCS / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120, facecolor="white", metadata={"Software": None})


def document(datasets: dict[str, Any]) -> str:
    """Scores of each set, ours and bicubic's measured, the paper's printed; Markdown that ends in a newline."""
    rows = []
    for name, methods in datasets.items():
        printed = [row for row in paper_rows(name, "gaussian8", 4) if row.method in PAPER]
        rows += [[name, method, f"{s['psnr_y']:.2f}", f"{s['ssim_y']:.4f}"] for method, s in methods.items()]
        rows += [[name, f"{row.method} (paper)", f"{row.psnr_y:.2f}", f"{row.ssim_y:.4f}"] for row in printed]
    return table(["Data set", "Method", "PSNR-Y (dB)", "SSIM-Y"], rows, left=2)


def comparison(runs: Mapping[str, Path]) -> str:
    """PSNR-Y and SSIM-Y of each run on each data set, and bicubic's; Markdown that ends in a newline."""
    merged: dict[str, dict[str, Any]] = {}
    for name, path in runs.items():
        for dataset, methods in _datasets(path).items():
            of_each = merged.setdefault(dataset, {"bicubic": methods["bicubic"]})
            (of_each[name],) = (found for method, found in methods.items() if method != "bicubic")
    return markdown(merged)


def _datasets(path: Path) -> dict[str, Any]:
    datasets: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["datasets"]
    return datasets


def _smoothed(values: Sequence[float]) -> list[float]:
    """Medians over the records around each, which a single step that went wrong does not move."""
    return [median(values[max(0, i - WINDOW // 2) : i + WINDOW // 2 + 1]) for i in range(len(values))]


if __name__ == "__main__":
    main()
