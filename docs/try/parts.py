# SPDX-License-Identifier: Apache-2.0
"""Make the parts of the page "Try it here" that are not in the repository: python docs/try/parts.py build/try

They are the library that runs networks in browsers, from its npm package, and the package's weights as graphs. Parts
that are there already and up to date are kept. Without npm, its registry or the extra `export` there are no parts; the
reason is said in one line, and the site is built without them.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LIBRARY = "onnxruntime-web@1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Digest of the package, as npm writes it."""
LIBRARY_FILES = tuple(
    f"{module}.{suffix}"
    for module, suffixes in (
        ("ort.wasm.min", ("mjs",)),
        ("ort-wasm-simd-threaded", ("mjs", "wasm")),
        ("ort.webgpu.min", ("mjs",)),
        ("ort-wasm-simd-threaded.asyncify", ("mjs", "wasm")),
    )
    for suffix in suffixes
)
"""The library without and with WebGPU."""
FACTS = "facts.json"
"""The file that tells the page of the parts; it is written last, so that parts without it are unfinished."""
TILE = 192
"""Height and width of a tile, in LR pixels."""
PAD = 24
"""LR pixels that a tile sees around its result. The network sees more, but what is beyond changes nothing visible."""


class MissingError(RuntimeError):
    """The parts can't be made here; the message says why."""


def make(folder: Path) -> None:
    """Make all parts in a folder.

    Raises:
        MissingError: the library or a package is missing.
    """
    from mrda.export import require_packages
    from mrda.upscale.choice import PURPOSES

    try:
        require_packages("onnx")
    except ModuleNotFoundError as error:
        raise MissingError(str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)
    state = {"library": INTEGRITY, "sources": _digest()}
    facts = folder / FACTS
    if facts.exists() and json.loads(facts.read_text(encoding="utf-8"))["made_of"] == state:
        return
    facts.unlink(missing_ok=True)
    copy_library(folder / "ort")
    weights = {name: export(name, folder, title=purpose.title) for name, purpose in PURPOSES.items()}
    write_facts(folder, weights, made_of=state)


def copy_library(folder: Path) -> None:
    """Put the library's files into a folder; its package comes through npm, and is compared with its digest.

    Raises:
        MissingError: npm is missing, can't be reached, or gives another package.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise MissingError("npm is not found (Debian: apt-get install npm)")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", LIBRARY, "--silent", "--fetch-retries=1", "--pack-destination", temporary]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        packages = list(Path(temporary).glob("*.tgz"))
        if done.returncode or not packages:
            raise MissingError(f"npm can't download {LIBRARY}")
        content = packages[0].read_bytes()
        if f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}" != INTEGRITY:
            raise MissingError(f"the package {LIBRARY} that npm gives is not the one that this page was tested with")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(packages[0]) as package:
            for name in LIBRARY_FILES:
                member = package.extractfile(f"package/dist/{name}")
                assert member is not None
                (folder / name).write_bytes(member.read())


def export(weights: str, folder: Path, *, title: str, tile: int = TILE, pad: int = PAD) -> dict[str, Any]:
    """Export weights to a subfolder of their name; return what the page has to know of them."""
    from mrda.export import export_student, files
    from mrda.networks.checkpoints import further_metadata
    from mrda.upscale.upscaler import load_student
    from mrda.upscale.weights import find_weights

    network = load_student(weights)
    metadata = further_metadata(find_weights(weights))
    name = Path(weights).stem
    target = folder / name
    target.mkdir(exist_ok=True)
    export_student(network, target, size=(tile, tile), split_den=True, metadata=metadata)
    return {
        "title": title,
        "name": name,
        "scale": network.scale,
        "tile": tile,
        "pad": pad,
        "denReach": network.den.reach,
        "denStride": network.den.stride,
        "bytes": sum(file.stat().st_size for file in files(target, "onnx", split_den=True)),
        "license": metadata.get("license", ""),
    }


def write_facts(folder: Path, weights: Mapping[str, Any], **others: Any) -> None:
    """Write what the page has to know."""
    text = json.dumps({"weights": list(weights.values()), **others}, indent=1)
    (folder / FACTS).write_text(text, encoding="utf-8")


def _digest() -> str:
    """Return a digest of all that the graphs are made of."""
    import torch

    import mrda

    package = Path(mrda.__file__).parent
    digest = hashlib.sha256(torch.__version__.encode())
    for file in _sources(package):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(package: Path) -> Iterable[Path]:
    yield Path(__file__)
    for pattern in ("weights_data/*.safetensors", "export/*.py", "networks/*.py"):
        yield from sorted(package.glob(pattern))


def main() -> None:
    """Make the parts, or say in a line why there are none."""
    folder = Path(sys.argv[1])
    print(f"docs: making the parts of the page 'Try it here' in {folder} (a minute, once)", flush=True)
    try:
        make(folder)
    except MissingError as error:
        print(f"docs: the page 'Try it here' is left without its network: {error}")


if __name__ == "__main__":
    main()
