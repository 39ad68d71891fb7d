# SPDX-License-Identifier: Apache-2.0
"""The files of weights that the package ships: the network in float16, the registry, the card, and what others read.

All that is said of weights stands once, in the metadata of their file; the registry has what came later: the digest,
the scores, the partner, and which former weights they supersede.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrda.app.probe import trained_on
from mrda.config.base import STAGES
from mrda.core.files import write_text
from mrda.core.markdown import insert, markers, table
from mrda.evaluation.paper import paper_rows
from mrda.evaluation.tables_markdown import markdown
from mrda.networks import BlindNetwork, load_any, load_network, read_metadata, save_network
from mrda.training.checkpoints import provenance
from mrda.upscale.strength import between
from mrda.upscale.weights import BUNDLED_FOLDER, REGISTRY, read_registry

DOCS = Path(__file__).resolve().parents[3] / "docs" / "weights"
KEPT = ("stage", "step", "data", "recipe", "config_hash", "torch_version")
"""Metadata of a run's weights that the shipped file keeps."""
ANCESTOR = "SHA-256 of the weights 'network'"
"""Entry of a recipe with the digest of the weights that training started from."""
AUTHOR = "The MRDA kernels authors"
ATTRIBUTION = "MRDA weights by the MRDA kernels authors"
LICENCES = {
    "CC-BY-4.0": ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
    "CC-BY-SA-4.0": ("CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
    "CC-BY-NC-4.0": ("CC BY-NC 4.0", "https://creativecommons.org/licenses/by-nc/4.0/"),
    "CC0-1.0": ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
}
"""Licences that weights may have: SPDX identifier -> name, and address of the summary."""
PHOTOGRAPHED = "free_photos"
"""Photo set whose authors docs/weights/photographers.md names."""
PAPER = ("MRDA_S", "DASR", "RCAN")
"""Methods whose printed scores tables of gaussian8 have."""
SECTIONS = {"gaussian8": "weights"}
"""Sections of cards with the scores of a protocol, where they are not named weights-PROTOCOL."""


def pack(
    source: Path, name: str, said: Mapping[str, str], *, partner_of: str | None = None, replaces: str | None = None
) -> None:
    """Write the weights in float16 with their metadata, and their entry in the registry.

    Paths of the machine that trained them are left out.

    Args:
        source: the run's folder, a stage's folder, or a weights file, which may be one of a checkpoint.
        name: the name that they get.
        said: metadata besides that of the run, which it replaces: license, description, attribution and the like.
        partner_of: weights of the package at whose line's other end these are.
        replaces: weights of the package whose name finds these from now on.

    Raises:
        ValueError: the source holds no student, does not name its data, or is no pair with `partner_of`; the licence or
            a name is unknown.
    """
    if said["license"] not in LICENCES:
        raise ValueError(f"--license is {said['license']}, but must be one of {', '.join(LICENCES)}")
    file = _weights_file(source)
    metadata = _metadata(file) | dict(said)
    if "data" not in metadata:
        raise ValueError(f"{file} does not name the photos that it was trained on: name them with --data")
    network = load_network(file)
    if not isinstance(network, BlindNetwork):
        raise ValueError(f"{file} holds a {type(network).__name__}, but weights that upscale are a student")
    registry = read_registry(BUNDLED_FOLDER)
    for option, other in (("--partner-of", partner_of), ("--replaces", replaces)):
        if other is not None and other not in registry["weights"]:
            raise ValueError(f"{option} is {other}, but must be one of {', '.join(registry['weights'])}")
    if partner_of is not None:
        _check_pair(partner_of, network, metadata)
        registry["partners"][partner_of] = name
    target = BUNDLED_FOLDER / f"{name}.safetensors"
    save_network(network.half(), target, **metadata)
    entry = {"sha256": hashlib.sha256(target.read_bytes()).hexdigest()}
    if replaces is None:
        registry["weights"][name] = entry
    else:
        _supersede(registry, replaces, name, entry)
    _write(registry)
    write_licence()


def write_card(name: str, scores: Mapping[str, Path]) -> None:
    """Write the card of shipped weights, OpenModelDB's record beside it, and the scores in the registry.

    A card that exists keeps its text: only the sections between markers are written again, as far as it has them.

    Args:
        name: the name of the weights.
        scores: protocol -> file of `mrda evaluate --json`; they are copied to docs/weights.

    Raises:
        ValueError: there are no such weights, a file is no such JSON, or the card lacks the section of a protocol.
    """
    registry = read_registry(BUNDLED_FOLDER)
    if name not in registry["weights"]:
        raise ValueError(f"there are no weights {name} in {BUNDLED_FOLDER}: make them with pack")
    entry, file, card = registry["weights"][name], BUNDLED_FOLDER / f"{name}.safetensors", DOCS / f"{name}.md"
    tables = {}
    for protocol, path in scores.items():
        datasets = json.loads(path.read_text(encoding="utf-8"))["datasets"]
        ours = {data: next(s for m, s in methods.items() if m != "bicubic") for data, methods in datasets.items()}
        entry.setdefault("scores", {})[protocol] = {
            data: [round(summary["psnr_y"], 2), round(summary["ssim_y"], 4)] for data, summary in ours.items()
        }
        scale = int(read_metadata(file)["scale"])
        plain = protocol == "gaussian8" and scale == 4
        tables[_section(protocol)] = document(datasets) if plain else markdown(datasets, protocol, scale)
        kept = DOCS / (f"{name}.json" if protocol == "gaussian8" else f"{name}-{protocol}.json")
        if not (kept.exists() and kept.samefile(path)):
            shutil.copyfile(path, kept)
    text = card.read_text(encoding="utf-8") if card.exists() else _blank_card(name, file, entry.get("scores", {}))
    for section, content in tables.items():
        text = insert(text, content, section)
    for section, content in (("facts", _facts(file)), ("licence", _licence(file))):
        if markers(section)[0] in text:
            text = insert(text, content, section)
    write_text(card, text)
    write_text(DOCS / f"{name}.model.json", json.dumps(record(name), indent=2, ensure_ascii=False) + "\n")
    _write(registry)


def record(name: str) -> dict[str, Any]:
    """Return what OpenModelDB keeps of a model, from the metadata of the shipped file."""
    file = BUNDLED_FOLDER / f"{name}.safetensors"
    said, content = read_metadata(file), file.read_bytes()
    options = json.loads(said["hyperparameters"])
    resource = {
        "platform": "pytorch",
        "type": "safetensors",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "urls": said["url"].split() if "url" in said else [],
    }
    found: dict[str, Any] = {
        "name": name,
        "author": said.get("author", AUTHOR),
        "license": said.get("license"),
        "tags": said.get("tags", "photo").split(", "),
        "description": said.get("description", f"Photos with {trained_on(file)}."),
        "date": said.get("date"),
        "architecture": said["architecture"],
        "size": [f"{options['num_feat']}nf", f"{options['num_blocks']}nb"],
        "scale": int(said["scale"]),
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": [resource],
        "images": [],
        "dataset": said.get("data"),
    }
    if "step" in said:
        found["trainingIterations"] = int(said["step"])
    return found


def document(scores: Mapping[str, Any]) -> str:
    """Scores of each set, ours and bicubic's measured, the paper's printed, as Markdown; a row for each method."""
    rows = []
    for name, methods in scores.items():
        rows += [[name, method, f"{s['psnr_y']:.2f}", f"{s['ssim_y']:.4f}"] for method, s in methods.items()]
        rows += [[name, f"{row.method} (paper)", f"{row.psnr_y:.2f}", f"{row.ssim_y:.4f}"] for row in printed(name)]
    return table(["Data set", "Method", "PSNR-Y (dB)", "SSIM-Y"], rows, left=2)


def printed(name: str) -> list[Any]:
    """The paper's rows for a data set."""
    return [row for row in paper_rows(name, "gaussian8", 4) if row.method in PAPER]


def write_licence() -> None:
    """Write weights_data/LICENSE from the licences that the shipped files name."""
    write_text(BUNDLED_FOLDER / "LICENSE", licence_text())


def licence_text() -> str:
    """Return the licences of the shipped files, each with the files that it is for."""
    files: dict[str, list[tuple[str, str, str]]] = {}
    for name in read_registry(BUNDLED_FOLDER)["weights"]:
        said = read_metadata(BUNDLED_FOLDER / f"{name}.safetensors")
        entry = (name, said.get("attribution", ATTRIBUTION), said["data"])
        files.setdefault(said["license"], []).append(entry)
    parts = [
        "The weights in this folder (*.safetensors) are licensed by file; each file's metadata names its licence.\n"
    ]
    for licence, entries in files.items():
        title, address = LICENCES[licence]
        lines = [f"{title} (SPDX: {licence})", f"    {address}", f"    {address}legalcode", ""]
        for name, attribution, data in entries:
            lines += [f"{name}.safetensors", f"    Attribution: {attribution}", f"    Trained on: {data}"]
        parts.append("\n".join(lines) + "\n")
    parts.append(
        "Attribution is with a link to the repository and to the licence, and a remark if you changed the weights.\n"
        f"Photo sets have their own terms. The authors of the photographs of {PHOTOGRAPHED} are named in\n"
        "docs/weights/photographers.md of the repository. The code around the weights is under Apache-2.0.\n"
    )
    return "\n".join(parts)


def _weights_file(source: Path) -> Path:
    """Find the weights of the last stage in a run's or a stage's folder; a file is itself."""
    if not source.is_dir():
        return source
    tried = [source / "weights.safetensors", *(source / stage / "weights.safetensors" for stage in reversed(STAGES))]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise ValueError(f"{source} holds no finished stage: name a run's folder, or a weights file")
    return found


def _metadata(file: Path) -> dict[str, str]:
    """Return what a run says of its weights; of a checkpoint's file, what the recipe of its stage says."""
    said = {key: value for key, value in read_metadata(file).items() if key in KEPT}
    if "recipe" not in said:
        recipes = (folder / "recipe.json" for folder in file.resolve().parents[:3])
        if (path := next(filter(Path.is_file, recipes), None)) is not None:
            said = provenance(path.parent.name, json.loads(path.read_text(encoding="utf-8")))
            _, _, step = file.resolve().parent.name.partition("step-")
            said |= {"step": str(int(step))} if step.isdecimal() else {}
    if "recipe" not in said:
        return said
    recipe = json.loads(said["recipe"])
    recipe["data.sources"] = [Path(source).name for source in recipe["data.sources"]]
    for pair in recipe.get("data.pairs", []):
        pair.update({side: Path(folder).name for side, folder in pair.items()})
    return said | {"recipe": json.dumps(recipe)} | ({"ancestor": recipe[ANCESTOR]} if ANCESTOR in recipe else {})


def _check_pair(partner: str, network: BlindNetwork, metadata: Mapping[str, str]) -> None:
    """Raise ValueError unless there are weights between a network and shipped ones."""
    file = BUNDLED_FOLDER / f"{partner}.safetensors"
    between(load_any(file), network, 0.5)
    theirs, ours = read_metadata(file).get("ancestor"), metadata.get("ancestor")
    if theirs != ours:
        raise ValueError(
            f"these weights descend from {ours}, and {partner} from {theirs}: if both were trained from the same, say "
            "so with --ancestor"
        )


def _supersede(registry: dict[str, dict[str, Any]], old: str, new: str, entry: dict[str, Any]) -> None:
    """Put weights in the place of others, whose name, and the names that led to them, lead to the new ones."""
    weights = {
        (new if name == old else name): (entry if name == old else had) for name, had in registry["weights"].items()
    }
    former = {name: (new if to == old else to) for name, to in registry["superseded"].items() if name != new}
    registry["superseded"] = former | {old: new}
    registry["weights"] = weights
    for clean, degraded in list(registry["partners"].items()):
        if old in (clean, degraded):
            del registry["partners"][clean]


def _write(registry: Mapping[str, Any]) -> None:
    write_text(BUNDLED_FOLDER / REGISTRY, json.dumps(registry, indent=2) + "\n")


def _section(protocol: str) -> str:
    return SECTIONS.get(protocol, f"weights-{protocol}")


def _blank_card(name: str, file: Path, scores: Sequence[str] | Mapping[str, Any]) -> str:
    """Return a new card, with empty sections."""
    said = read_metadata(file)
    parameters = sum(value.numel() for value in load_any(file).parameters())
    scored = [
        f"### {protocol}\n\n{markers(_section(protocol))[0]}\n{markers(_section(protocol))[1]}" for protocol in scores
    ]
    return (
        "\n\n".join(
            [
                f"# {name}",
                f"{said.get('description', name)} {said['architecture']} of {parameters / 1e6:.2f} M parameters, "
                f"x{said['scale']}; the package includes it in float16 ({file.stat().st_size / 1e6:.1f} MB).",
                f"```sh\nmrda upscale photo.jpg -o enlarged -w {name}\n```",
                "## Scores",
                *(scored or ["Not measured."]),
                "## Training",
                "\n".join(markers("facts")),
                "## Licence",
                "\n".join(markers("licence")),
            ]
        )
        + "\n"
    )


def _facts(file: Path) -> str:
    """Return what the metadata of weights says of their training, as a table."""
    said = read_metadata(file)
    facts = {
        "photos": said.get("data"),
        "degradations": trained_on(file),
        "training": said.get("training"),
        "last stage, steps": ", ".join(filter(None, (said.get("stage"), said.get("step")))),
        "configuration": said.get("config_hash"),
        "descends from": said.get("ancestor"),
        "date": said.get("date"),
    }
    return table(["fact", "of these weights"], [[key, value] for key, value in facts.items() if value], left=2)


def _licence(file: Path) -> str:
    """Return the licence of weights, and where their photos' authors are named, as a paragraph."""
    said = read_metadata(file)
    title, address = LICENCES[said["license"]]
    text = f"The weights are under [{title}]({address}). Attribution: {said.get('attribution', ATTRIBUTION)}."
    if PHOTOGRAPHED in said["data"]:
        text += (
            " The photographs that they were trained on, their authors and licences: [photographers](photographers.md)."
        )
    return f"{text}\n"
