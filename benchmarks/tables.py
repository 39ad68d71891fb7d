# SPDX-License-Identifier: Apache-2.0
"""Markdown tables of the records, and the pages that show them.

    python -m benchmarks.tables

writes every section of README.md and docs/performance.md that is made from records in benchmarks/results, between its
markers <!-- NAME:begin --> and <!-- NAME:end -->.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.records import FAMILY, FLOORS, OURS, Record, is_measured, launch, load
from mrda.core.durations import in_words
from mrda.core.markdown import Page, markers, table
from mrda.options.networks import TrunkOptions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/performance.md", "docs/scaling.md")
MISSING = "-"
HALF_BLOCKS = 2 * TrunkOptions().num_blocks  # of the published network
KEYS = ("Op", "Shape", "dtype", "mode", "launch")
COMPILED = ("released_compiled", "released_tuned_compiled", "shift_add_compiled")
ENGINES = ("openvino", "onnxruntime", "ncnn")
OUR_WAYS = (OURS, "mrda")
TITLES = {"rda_conv2d": "The operator", "model": "The whole network"}
HEADLINES = {"rda_conv2d": ((16, 64, 360, 640), (1, 64, 180, 320)), "model": ((1, 3, 180, 320),)}  # of GPUs
MEANINGS = {
    "rda_conv2d": "The copy moves the bytes that the operator has to read and write: in tensors of the input's size, 2 "
    "forward, 5 with the backward.",
    "rda_conv3x3": "The composition is our RDA conv and torch's convolution. The parts by themselves: rda_conv2d is "
    "our RDA conv, conv3x3 our 3x3 convolution by Winograd's algorithm, convolutions the same one by oneDNN.",
    "upscaler": "The upscaler is the collapsed one; the composition is torch's convolutions and pixel shuffle, the "
    "convolution alone that of all pixels, in the features' dtype.",
    "rdab": "Op rdab is one RDA block, trunk is 27 of them; a compiled peer of the trunk is one compiled block, called "
    "27 times. The convolutions alone are the blocks' 3x3 ones.",
    "model": "static_convs is the network's 3x3 convolutions and pixel shuffles only, dasr_shaped another network.",
    **dict.fromkeys(FAMILY, "dasr_conv and kdsr_conv are the layers, dasr and kdsr the networks from LR to SR."),
}
ON_A_GPU = "Calls find a cold L2 cache. Float32 is without TF32. A graph is the replay of a CUDA graph with the call."

Best = dict[str, Record]  # by provider's name


def main(arguments: Sequence[str] | None = None) -> None:
    """Write all tables of the pages from the records in benchmarks/results."""
    argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False).parse_args(arguments)
    for path, section in shown():
        Page(path, section).update(SECTIONS[section]())
        print(f"{path.relative_to(ROOT)}: {section}")


def shown() -> list[tuple[Path, str]]:
    """The sections of `SECTIONS` that the pages have."""
    texts = {ROOT / page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    return [(path, section) for path, text in texts.items() for section in SECTIONS if markers(section)[0] in text]


def document(records: Sequence[Record]) -> str:
    """The comparison and its meaning, as Markdown that ends in a newline."""
    layouts = "Each provider in the better of its two layouts (NCHW, channels_last)."
    if len({r["layout"] for r in records}) == 1:
        layouts = f"All in one layout, {'NCHW' if records[0]['layout'] == 'nchw' else 'channels_last'}."
    return "\n".join([comparison(records), layouts, *notes(records)]) + "\n"


def comparison(records: Sequence[Record]) -> str:
    """A row for each setting: each provider's milliseconds, and ours beside the released way, the peers and the floor.

    Columns without any value are left out, and those that say which setting it is if they say the same in each row.
    """
    found = best_layouts(records)
    names = [name for name in dict.fromkeys(r["provider"] for r in records) if not name.startswith(f"{OURS}_")]
    names.sort(key=lambda name: name in OUR_WAYS)
    floor = FLOORS[records[0]["op"]]
    columns = {head: [word(key[number]) for key in found] for number, head in enumerate(KEYS)}
    columns |= {f"{name} (ms)": [milliseconds(ms(best, name)) for best in found.values()] for name in names}
    columns |= {
        "faster than released": [ratio(ms(best, "released"), ms(best, *OUR_WAYS)) for best in found.values()],
        "than the compiled peer": [ratio(ms(best, *COMPILED), ms(best, *OUR_WAYS)) for best in found.values()],
        "than the best engine": [ratio(ms(best, *ENGINES), ms(best, *OUR_WAYS)) for best in found.values()],
        f"times the {floor}": [ratio(ms(best, *OUR_WAYS), ms(best, floor)) for best in found.values()],
        "peak memory (MiB)": [mebibytes(best.get(OURS) or best.get("mrda")) for best in found.values()],
        "released's (MiB)": [mebibytes(best.get("released")) for best in found.values()],
    }
    said = {head for head in KEYS if head in ("Shape", "dtype") or len(set(columns[head])) > 1}
    columns = {head: c for head, c in columns.items() if head in said or (head not in KEYS and set(c) != {MISSING})}
    return table(list(columns), zip(*columns.values(), strict=True), left=len(said))


def best_layouts(records: Iterable[Record]) -> dict[tuple[Any, ...], Best]:
    """For each op, shape, dtype, mode and launch, each provider's record in the better layout."""
    found: dict[tuple[Any, ...], Best] = {}
    for r in records:
        best = found.setdefault((r["op"], tuple(r["shape"]), r["dtype"], r["mode"], launch(r)), {})
        name = r["provider"]
        if is_measured(r) and (name not in best or r["ms"] < best[name]["ms"]):
            best[name] = r
    return found


def ms(best: Best, *providers: str) -> float | None:
    """The least of the providers' milliseconds; None if none of them was measured."""
    return min((best[name]["ms"] for name in providers if name in best), default=None)


def notes(records: Sequence[Record]) -> list[str]:
    """The machine of the measurement and the meaning of the numbers, in sentences."""
    meanings = dict.fromkeys(MEANINGS["rdab" if r["op"] == "trunk" else r["op"]] for r in records)
    found = [measured_on(records[0]), *meanings, *([ON_A_GPU] if records[0]["device"] == "cuda" else [])]
    counted = [r for r in records if "saved_bytes" in r]
    if counted:
        first = {key: counted[0][key] for key in ("shape", "dtype", "layout")}
        kept = {r["provider"]: f"{r['saved_bytes'] / 2**20:.1f} MiB" for r in counted if first.items() <= r.items()}
        found.append(
            f"Kept alive for the backward at {word(first['shape'])} {first['dtype']} {first['layout']}: "
            f"{kept.get(OURS, MISSING)}, which is the inputs; by the released way {kept.get('released', MISSING)}."
        )
    for r in (r for r in records if "parts" in r):
        where = f"{r['provider']} in {r['dtype']} at {word(r['shape'])}"
        found.append(f"Of the time of {where}, launched one by one and each waited for: {parts(r)}.")
    engines = [r for r in records if "max_error" in r]
    if engines:
        errors = ", ".join(f"{r['provider']} {r['max_error']:.1e} in {r['dtype']}" for r in engines)
        made_of = f"The engines run our ONNX export of this size ({engines[0]['form']})."
        found.append(f"{made_of} Their SR differs by at most: {errors}.")
    found += slower(records)
    absent = Counter((r["provider"], r["absent"]) for r in records if not is_measured(r))
    return found + [f"Not measured: {name}, {count}x ({reason})." for (name, reason), count in absent.items()]


def slower(records: Iterable[Record]) -> list[str]:
    """A sentence on the settings in which the compiled peer is faster than ours, if there are any."""
    behind = []
    for (_, shape, dtype, mode, way), best in best_layouts(records).items():
        peer, ours = ms(best, *COMPILED), ms(best, *OUR_WAYS)
        if peer is not None and ours is not None and peer < ours:
            behind.append(f"{word(shape)} {dtype} {word(mode)} {way} ({ratio(peer, ours)} as fast)")
    return [f"Slower than the compiled peer is ours at {'; '.join(behind)}."] if behind else []


def measured_on(record: Mapping[str, Any]) -> str:
    """The machine of a record: processor and instruction set, or GPU and driver."""
    what = "driver" if "cuda" in (record.get("device"), *record) else "instructions"
    detail = f"{what} {record[what]}" if record.get(what) else f"{what} not recorded"
    threads = f"{record['threads']} thread{'' if record['threads'] == 1 else 's'}"
    where = f"{record['processor']} ({detail}) with {threads}, torch {record['torch']}"
    return f"Measured on {where}: medians of interleaved rounds."


def three_rows(records: Sequence[Record], kept: Sequence[Record]) -> str:
    """The operator's forward at (1, 64, 180, 320), with a sentence on a process that keeps freed memory."""
    key = ("rda_conv2d", (1, 64, 180, 320), "float32", "forward", "eager")
    best, other = best_layouts(records)[key], best_layouts(kept)[key]
    ways = {"the released way, eager": ("released",), "`torch.compile`": COMPILED, "`mrda_kernels`": (OURS,)}
    lines = [(way, milliseconds(ms(best, *n)), ratio(ms(best, "released"), ms(best, *n))) for way, n in ways.items()]
    compiled, ours = (ratio(ms(other, "released"), ms(other, *names)) for names in (COMPILED, OUR_WAYS))
    return (
        f"{table(('(1, 64, 180, 320), float32, forward', 'ms', 'faster'), lines, left=1)}\n{measured_on(records[0])} "
        f"If the C library keeps freed memory, the released way gains most: then {compiled} and {ours}.\n"
    )


def blocks(*ops: str) -> str:
    """The comparison of these ops of benchmarks/rda_block.py on a CPU."""
    records = [r for r in load(RESULTS / "rda_block_cpu.json") if r["op"] in ops]
    return document(records) if records else "Not yet measured.\n"


def gpus(folder: Path = RESULTS) -> str:
    """The headlines of all results on GPUs in a folder, each after its processor's name."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(ValueError):  # results of another kind
            headlines = [r for r in load(path) if tuple(r["shape"]) in HEADLINES.get(r["op"], ())]
            found += [titled(headlines)] if headlines and headlines[0]["device"] == "cuda" else []
    return "\n".join(found) or "On a GPU: not yet measured.\n"


def titled(records: Sequence[Record]) -> str:
    """A document after a line on its op and its processor."""
    return f"{TITLES.get(records[0]['op'], 'RDA blocks')} on {records[0]['processor']}:\n\n{document(records)}"


def training(records: Sequence[Mapping[str, Any]]) -> str:
    """The steps of benchmarks/training.py and their machine, as Markdown that ends in a newline."""
    times = {(r["stage"], r["way"]): r["ms"] for r in records}
    peer = next((r["way"] for r in records if r["way"] != "mrda"), "mrda")
    header = ("Stage", "way", "ms", "images/s", "peak memory (MiB)", f"times as fast as {peer}", "of ours, by part")
    rows = []
    for r in records:
        factor = ratio(times.get((r["stage"], peer)), r["ms"], 2)
        speed = f"{r['images_per_second']:.1f}"
        rows.append((r["stage"], r["way"], milliseconds(r["ms"]), speed, mebibytes(r), factor, parts(r)))
    first = records[0]
    sizes = ", ".join(dict.fromkeys(f"{r['stage']} {r['batch']}" for r in records))
    return (
        f"{table(header, rows, left=2)}\n"
        f"One optimizer step at LR {first['patch_size']}x{first['patch_size']}, x{first['scale']}, mixed precision "
        f"{first['mixed_precision']}; images a step: {sizes}. {measured_on(first)} Parts are waited for one by one.\n"
    )


def calls(records: Sequence[Mapping[str, Any]]) -> str:
    """The times of benchmarks/calls.py and their machine, as Markdown that ends in a newline."""
    us = {(r["provider"], r["mode"]): r["us"] for r in records}
    modes = dict.fromkeys(r["mode"] for r in records)
    header = [
        "Call",
        *(cell for mode in modes for cell in (f"{word(mode)} (microseconds)", "times the grouped_conv2d")),
    ]
    rows = []
    for name in dict.fromkeys(r["provider"] for r in records):
        times = [(us[name, mode], us["grouped_conv2d", mode]) for mode in modes]
        rows.append((name, *(cell for own, floor in times for cell in (f"{own:.0f}", ratio(own, floor, 2)))))
    return f"{table(header, rows, left=1)}\n{word(records[0]['shape'])}, float32. {measured_on(records[0])}\n"


def gpu_model(records: Sequence[Mapping[str, Any]]) -> str:
    """The kernels' code and predicted times, by benchmarks/gpu_model.py, as Markdown that ends in a newline."""
    header = ("Kernel", "dtype", "GPU", "instructions per element", "registers", "shared memory (KiB)")
    rows = [
        (
            *(r["kernel"], r["dtype"], r["arch"], f"{r['instructions_per_element']:.1f}", str(r["registers"])),
            f"{r['shared_bytes'] / 1024:.1f}",
            milliseconds(r["copy_ms"]),
            milliseconds(r["predicted_ms"]),
            milliseconds(r["measured_ms"]),
        )
        for r in records
    ]
    times = ("a copy (ms)", "predicted (ms)", "measured (ms)")
    shares = [share for dtype in ("bfloat16", "float16", "float32") if (share := of_the_copy(records, dtype))]
    sentence = f"\nForward + backward, as a share of a copy's speed: {'; '.join(shares)}.\n" if shares else ""
    return table([*header, *times], rows, left=3) + sentence + of_the_network(records)


def of_the_copy(records: Sequence[Mapping[str, Any]], dtype: str) -> str | None:
    """The time of copies beside that of forward and backward together, predicted and measured; None without both."""
    both = [r for r in records if r["kernel"] in ("forward", "backward") and r["dtype"] == dtype and r["predicted_ms"]]
    if len(both) != 2:
        return None
    copy = sum(r["copy_ms"] for r in both)
    said = f"{dtype} {copy / sum(r['predicted_ms'] for r in both):.0%} predicted"
    if all(r["measured_ms"] for r in both):
        said += f", {copy / sum(r['measured_ms'] for r in both):.0%} measured"
    return said


def of_the_network(records: Sequence[Mapping[str, Any]]) -> str:
    """The predicted time of the kernels that make up most of the published network; nothing without both kernels."""
    ms = {r["kernel"]: r["predicted_ms"] for r in records if r["dtype"] == "bfloat16" and r["predicted_ms"]}
    if not {"rda_conv3x3", "upscaler"} <= set(ms):
        return ""
    whole = HALF_BLOCKS * ms["rda_conv3x3"] + ms["upscaler"]
    return (
        f"\nThe {HALF_BLOCKS} half blocks and the upscaler of the published network in bfloat16: "
        f"{milliseconds(whole)} ms predicted, without the DEN, the first and the last 3x3 convolution and the time "
        "between launches.\n"
    )


def parts(record: Mapping[str, Any]) -> str:
    """The shares of the time by part."""
    return ", ".join(f"{part} {100 * share:.0f} %" for part, share in record.get("parts", {}).items())


def word(value: str | Sequence[int]) -> str:
    """A value of a setting for people."""
    return value.replace("forward_b", "forward + b") if isinstance(value, str) else f"({', '.join(map(str, value))})"


def milliseconds(value: float | None) -> str:
    """A time with some four digits."""
    return MISSING if value is None else f"{value:.{3 if value < 10 else 2 if value < 100 else 0}f}"


def ratio(numerator: float | None, denominator: float | None, digits: int = 1) -> str:
    """A quotient of two times."""
    return MISSING if numerator is None or denominator is None else f"{numerator / denominator:.{digits}f}x"


def mebibytes(record: Mapping[str, Any] | None) -> str:
    """The peak memory of a record."""
    return MISSING if record is None or "peak_bytes" not in record else f"{record['peak_bytes'] / 2**20:.0f}"


def scaling(record: Mapping[str, Any], ms: float) -> str:
    """Photos a second of workers on CPUs as measured, and what GPUs of so many milliseconds a photo would take."""
    rows = [
        (
            str(run["workers"]),
            f"{run['photos_per_second']:.2f}",
            f"{run['first_result_after']:.0f}",
            f"{run['load']:.0f}",
        )
        for run in record["workers"]
    ]
    height, width = record["size"]
    planning = record["planning"]["seconds"] / record["planning"]["photos"] * 1e6
    lines = [
        table(
            ("Workers of one core", "Photos a second", "First result after (s)", "Load of the machine"), rows, left=1
        ),
        f"{record['photos']} photos of {height}x{width}, {record['weights']}, torch {record['torch']}, "
        f"{record['processor']}, {record['cores']} cores. The plan of a million photos takes {planning:.0f} s of one "
        "core.\n",
        table(
            ("", "Bytes in", "Bytes out", "Decode (ms of a core)", "Encode (ms of a core)", "Cores to feed a GPU"),
            [
                (
                    name,
                    f"{codec['bytes_in'] / 1e3:.0f} kB",
                    f"{codec['bytes_out'] / 1e3:.0f} kB",
                    f"{1e3 * codec['read']:.1f}",
                    f"{1e3 * codec['write']:.1f}",
                    f"{(codec['read'] + codec['write']) * 1e3 / ms:.0f}",
                )
                for name, codec in record["codecs"].items()
            ],
            left=1,
        ),
        table(
            (
                "GPUs",
                "Photos a second",
                "A million takes",
                *(f"{what}, {name} (GB/s)" for name in ("jpg", "png") for what in ("Read", "Written")),
                "Cores, jpg",
                "Cores, png",
            ),
            [_gpus_row(gpus, ms, record["codecs"]) for gpus in (1, 8, 64, 1000)],
            left=1,
        ),
    ]
    return "\n".join(lines)


def _gpus_row(gpus: int, ms: float, codecs: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    rate = gpus * 1e3 / ms
    flows = [
        f"{float(f'{rate * codecs[name][key] / 1e9:.2g}'):g}"
        for name in ("jpg", "png")
        for key in ("bytes_in", "bytes_out")
    ]
    cores = [f"{rate * (codecs[name]['read'] + codecs[name]['write']):,.0f}" for name in ("jpg", "png")]
    return f"{gpus:,}", f"{rate:,.0f}", in_words(1e6 / rate), *flows, *cores


def _photo_ms() -> float:
    """Milliseconds of a photo of 180x320 on a GPU, by the record that docs/performance.md shows."""
    (found,) = (
        record["ms"]
        for record in load(RESULTS / "nvidia-h200_model.json")
        if (record["provider"], record["launch"], record["dtype"]) == ("mrda", "graph", "bfloat16")
        and record["shape"] == [1, 3, 180, 320]
        and is_measured(record)
    )
    return float(found)


def _weights() -> str:
    from mrda.paper.studies import release  # needs more than torch

    return release.overview(release.datasets(ROOT / "docs" / "weights" / "mrda-x4.json"))


SECTIONS: Mapping[str, Callable[[], str]] = {
    "speed": lambda: three_rows(load(RESULTS / "rda_conv_cpu.json"), load(RESULTS / "rda_conv_cpu_kept_memory.json")),
    "weights": _weights,
    "speed-operator": lambda: document(load(RESULTS / "rda_conv_cpu.json")),
    "calls": lambda: calls(json.loads((RESULTS / "calls_cpu.json").read_text())),
    "speed-kept-memory": lambda: document(load(RESULTS / "rda_conv_cpu_kept_memory.json")),
    "speed-half-block": lambda: blocks("rda_conv3x3"),
    "speed-blocks": lambda: blocks("rdab", "trunk"),
    "speed-model": lambda: document(load(RESULTS / "model_cpu.json")),
    "speed-model-avx512": lambda: document(load(RESULTS / "model_cpu_avx512.json")),
    "speed-model-avx2": lambda: document(load(RESULTS / "model_cpu_avx2.json")),
    "speed-changes": lambda: document(load(RESULTS / "changes_cpu.json")),
    "speed-family": lambda: document([r for name in ("dasr", "kdsr") for r in load(RESULTS / f"{name}_cpu.json")]),
    "speed-gpu": gpus,
    "scaling": lambda: scaling(json.loads((RESULTS / "scaling.json").read_text()), _photo_ms()),
    "gpu-model": lambda: gpu_model(json.loads((RESULTS / "gpu_model.json").read_text())),
    "training": lambda: training(json.loads((RESULTS / "training_cpu.json").read_text())),
    "training-gpu": lambda: training(json.loads((RESULTS / "training_nvidia-h200.json").read_text())),
}

if __name__ == "__main__":
    main()
