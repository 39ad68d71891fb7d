# SPDX-License-Identifier: Apache-2.0
"""The files of released weights: the one that the package ships, its learning curve, and tables of its scores.

    python -m mrda.paper.studies.release pack runs/clean --name mrda-x4 --license CC-BY-4.0 --description 'For ...'
    python -m mrda.paper.studies.release card mrda-x4 --scores gaussian8=scores.json mrda9=noisy.json
    python -m mrda.paper.studies.release photographers ATTRIBUTION.tsv
    python -m mrda.paper.studies.release curve '1, teacher:64:log.jsonl' '1, student:64:log.jsonl' --name mrda-x4
    python -m mrda.paper.studies.release table docs/weights/mrda-x4.json --update docs/weights/mrda-x4.md
    python -m mrda.paper.studies.release table mrda9.json --protocol mrda9 --section weights-mrda9 --update card.md
    python -m mrda.paper.studies.release compare T1=t1.json T2=t2.json --update page.md

`pack` writes mrda/weights_data/NAME.safetensors in float16, its entry in registry.json and the folder's LICENSE; `card`
writes docs/weights/NAME.md, or its sections, the scores, and NAME.model.json for OpenModelDB; `photographers` writes
docs/weights/photographers.md, which names the authors of the training photos; `curve` writes docs/weights/NAME.jsonl,
the legs' logs one after the other, and the picture NAME.png; `table` and `compare` read the files of
`mrda evaluate --json`.
"""

import argparse
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mrda.core.files import atomic_write, write_text
from mrda.core.markdown import Page, table
from mrda.evaluation.tables_markdown import by_noise, markdown
from mrda.paper.figures.canvas import new_figure
from mrda.paper.studies import photographers, shipping
from mrda.paper.studies.shipping import DOCS, document, printed

SECTION = "weights"
SAID = ("license", "description", "attribution", "author", "date", "tags", "data", "training", "ancestor", "url")
"""Options of `pack` that go into the metadata."""
WINDOW = 9  # records that the curve is smoothed over


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the files of released weights."""
    command = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    parts = command.add_subparsers(dest="part", required=True)
    packing = parts.add_parser("pack", help="the file that the package ships, and its entry in the registry")
    packing.add_argument("weights", type=Path, help="a finished run's folder, or a file of a student's weights")
    said = packing.add_argument_group("metadata of the file")
    said.add_argument("--license", required=True, choices=shipping.LICENCES, help="licence of the weights")
    said.add_argument("--description", required=True, help="one sentence: the photos that they are for")
    said.add_argument("--attribution", default=shipping.ATTRIBUTION, help="the name to give (default: %(default)s)")
    said.add_argument("--author", default=shipping.AUTHOR, help="(default: %(default)s)")
    said.add_argument("--date", default=datetime.date.today().isoformat(), help="(default: today)")
    said.add_argument("--tags", default="photo", help="OpenModelDB's tags, divided by ', ' (default: %(default)s)")
    said.add_argument("--data", help="the training photos (default: as the run says)")
    said.add_argument("--training", help="how long, on which machine, in a few words")
    said.add_argument("--ancestor", help="the weights that training began with (default: as the run says)")
    said.add_argument("--url", help="address of the file")
    packing.add_argument("--partner-of", metavar="NAME", help="weights of the package that these are the strength 1 of")
    packing.add_argument("--replaces", metavar="NAME", help="weights of the package whose name leads to these")
    carding = parts.add_parser("card", help="the page on shipped weights, their scores, and OpenModelDB's record")
    carding.add_argument("name", help="name of the weights")
    carding.add_argument(
        "--scores", nargs="+", default=[], metavar="PROTOCOL=FILE", help="each written by `mrda evaluate --json`"
    )
    naming = parts.add_parser("photographers", help="the page that names the authors of the training photos")
    naming.add_argument("list", type=Path, help="ATTRIBUTION.tsv of the photos")
    curving = parts.add_parser("curve", help="the log and its picture")
    curving.add_argument("legs", nargs="+", metavar="LEG:BATCH:LOG", help="log.jsonl files in order")
    for part in (packing, curving):
        part.add_argument("--name", required=True, help="name of the weights")
    scoring = parts.add_parser("table", help="scores beside the paper's")
    scoring.add_argument("scores", type=Path, help="written by `mrda evaluate --json`")
    scoring.add_argument("--protocol", default="gaussian8", choices=["gaussian8", "mrda9", "dasr9"])
    scoring.add_argument("--short", action="store_true", help="with mrda9 or dasr9: leave out the table of each kernel")
    comparing = parts.add_parser("compare", help="scores of several runs side by side")
    comparing.add_argument("runs", nargs="+", metavar="NAME=FILE", help="each written by `mrda evaluate --json`")
    for part, section in ((scoring, SECTION), (comparing, "compare")):
        part.add_argument("--section", default=section, help=f"name in the markers (default: {section})")
        part.add_argument("--update", nargs="+", type=Path, default=[], metavar="FILE", help="pages to put it into")
    options = command.parse_args(arguments)
    try:
        if options.part == "pack":
            shipping.pack(
                options.weights,
                options.name,
                {key: value for key, value in vars(options).items() if key in SAID and value is not None},
                partner_of=options.partner_of,
                replaces=options.replaces,
            )
        elif options.part == "card":
            shipping.write_card(options.name, {p: Path(file) for p, file in _assigned(options.scores)})
        elif options.part == "photographers":
            write_text(DOCS / "photographers.md", photographers.page(options.list, shipping.PHOTOGRAPHED))
        elif options.part == "curve":
            curve([leg.split(":", maxsplit=2) for leg in options.legs], options.name)
        else:
            pages = [Page(path, options.section) for path in options.update]
            content = _content(options)
            print(content, end="")
            for page in pages:
                page.update(content)
    except (OSError, ValueError) as error:
        command.error(str(error))


def _content(options: argparse.Namespace) -> str:
    if options.part == "compare":
        return comparison({name: Path(path) for name, path in _assigned(options.runs)})
    scores = datasets(options.scores)
    if options.protocol == "gaussian8":
        return document(scores)
    return (by_noise if options.short else markdown)(scores, options.protocol)


def _assigned(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield names and values of words such as NAME=VALUE; raises ValueError for others."""
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word} must be NAME=FILE")
        yield name, value


def curve(legs: Sequence[Sequence[str]], name: str) -> None:
    """Write the legs' logs one after the other, and draw the loss over the images seen.

    Args:
        legs: name, batch and log of each.
        name: name of the weights.
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
    with atomic_write(DOCS / f"{name}.png") as file:
        figure.savefig(file, format="png", dpi=120, facecolor="white", metadata={"Software": None})


def overview(scores: Mapping[str, Any]) -> str:
    """The scores of `document` in a row for each set: PSNR-Y in dB / SSIM-Y."""
    columns: dict[str, dict[str, str]] = {}
    for name, methods in scores.items():
        cells = {method: f"{s['psnr_y']:.2f} / {s['ssim_y']:.4f}" for method, s in methods.items()}
        cells |= {f"{row.method} (paper)": f"{row.psnr_y:.2f} / {row.ssim_y:.4f}" for row in printed(name)}
        columns[name] = cells
    methods = dict.fromkeys(method for cells in columns.values() for method in cells)
    rows = [[name, *(cells.get(method, "-") for method in methods)] for name, cells in columns.items()]
    return table(["PSNR-Y (dB) / SSIM-Y", *methods], rows, left=1)


def comparison(runs: Mapping[str, Path]) -> str:
    """PSNR-Y and SSIM-Y of each run on each data set, and bicubic's; Markdown that ends in a newline."""
    merged: dict[str, dict[str, Any]] = {}
    for name, path in runs.items():
        for dataset, methods in datasets(path).items():
            of_each = merged.setdefault(dataset, {"bicubic": methods["bicubic"]})
            (of_each[name],) = (found for method, found in methods.items() if method != "bicubic")
    return markdown(merged)


def datasets(path: Path) -> dict[str, Any]:
    """The scores in a file of `mrda evaluate --json`: data set -> method -> summary."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["datasets"]
    return found


def _smoothed(values: Sequence[float]) -> list[float]:
    """Medians over the records around each: a single bad step does not move them."""
    return [median(values[max(0, i - WINDOW // 2) : i + WINDOW // 2 + 1]) for i in range(len(values))]


if __name__ == "__main__":
    main()
