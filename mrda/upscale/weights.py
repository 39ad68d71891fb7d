# SPDX-License-Identifier: Apache-2.0
"""Finds weights: a file, a folder that holds one, weights of the package, or a repository on the Hugging Face Hub.

torch is imported where it is used, so that a mistyped name is told at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrda.core.faults import reason
from mrda.core.files import write_text
from mrda.core.weights_files import safetensors_metadata
from mrda.upscale.choice import AUTO

if TYPE_CHECKING:
    from mrda.networks import Network

WEIGHTS_FILE = "model.safetensors"
"""File in folders and Hub repositories, named as by `huggingface_hub.PyTorchModelHubMixin`."""
_CONNECTING = 2.0  # seconds

_log = logging.getLogger(__name__)

BUNDLED_FOLDER = Path(__file__).parents[1] / "weights_data"
REGISTRY = "registry.json"
"""File of `BUNDLED_FOLDER` with all that is said of the weights besides their own metadata; `read_registry` has it."""


def read_registry(folder: Path = BUNDLED_FOLDER) -> dict[str, dict[str, Any]]:
    """Read the registry of the package's weights.

    Returns:
        `weights`: name -> `sha256` of `NAME.safetensors`, and `scores` (protocol -> data set -> PSNR-Y in dB, SSIM-Y),
        the default first; `superseded`: a former name -> the name of the weights that took its place; `partners`: the
        weights at strength 0 -> those at strength 1, see `mrda.upscale.strength`.
    """
    registry: dict[str, dict[str, Any]] = json.loads((folder / REGISTRY).read_text(encoding="utf-8"))
    return registry


_registry = read_registry()
BUNDLED: dict[str, str] = {name: entry["sha256"] for name, entry in _registry["weights"].items()}
"""Weights that come with the package, the default first: name to SHA-256 of `weights_data/NAME.safetensors`."""
SUPERSEDED: dict[str, str] = _registry["superseded"]
"""Former names of weights of the package, by which those that took their place are still found."""
PARTNERS: dict[str, str] = _registry["partners"]
"""Pairs of the package's weights that others lie between: those at strength 0 to those at strength 1."""
SCORES: dict[str, dict[str, dict[str, list[float]]]] = {
    name: entry.get("scores", {}) for name, entry in _registry["weights"].items()
}
"""Measured scores of the package's weights: protocol -> data set -> PSNR-Y in dB, SSIM-Y."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".onnx")


def default_weights() -> str:
    """Return the name of the weights to use if none are given."""
    return next(iter(BUNDLED))


def current_name(name: str) -> str:
    """Return the name of the weights that a name stands for, which differs from it if they were superseded."""
    return name if name in BUNDLED else SUPERSEDED.get(name, name)


def find_weights(name: str | os.PathLike[str]) -> Path:
    """Find the file of some weights.

    Args:
        name: The first of these that exists: a file; a folder with `model.safetensors`, as `save_pretrained` writes
            it; a name of `BUNDLED` or `SUPERSEDED`; "user/repository" on the Hugging Face Hub, whose
            `model.safetensors` is downloaded once and kept in the Hub's cache.

    Raises:
        ValueError: There are no such weights, they can't be downloaded, or weights of the package are damaged.
    """
    path = Path(name)
    if os.path.isfile(path):
        return path
    if os.path.isfile(path / WEIGHTS_FILE):
        return path / WEIGHTS_FILE
    if (current := current_name(str(name))) in BUNDLED:
        if current != str(name):
            _tell_superseded(str(name), current)
        return _bundled(current)
    if _may_be_repository(path):
        return _downloaded(path.as_posix())
    if str(name) == AUTO:
        raise ValueError(
            f"{AUTO} is a choice by the photo, for mrda upscale and mrda app: name weights here, such as "
            f"{default_weights()}"
        )
    if os.path.isdir(path):
        raise ValueError(f"the folder {path} holds no {WEIGHTS_FILE}: name the weights file itself")
    raise ValueError(f"there is no weights file {path}; the package's own weights are {', '.join(BUNDLED)}")


def bundled_scale(name: str | os.PathLike[str]) -> int | None:
    """Return the scale of weights of the package, without importing torch; None for all others.

    Raises:
        ValueError: as for `find_weights`.
    """
    path = find_weights(name)
    return int(safetensors_metadata(path)["scale"]) if path.parent == BUNDLED_FOLDER else None


def save_pretrained(network: Network, folder: str | os.PathLike[str], **metadata: str) -> None:
    """Write a folder that `find_weights` accepts and that can be uploaded to the Hugging Face Hub as it is.

    It holds `model.safetensors`, and `config.json` with the network's arguments, which a class that inherits from the
    network's class and `huggingface_hub.PyTorchModelHubMixin` is loaded from.

    Args:
        network: The network.
        folder: The folder to write; created if missing. Files of these names are replaced.
        **metadata: As for `mrda.networks.save_network`.

    Raises:
        TypeError: `network` is not a network of the method, or a metadata value is not a string.
        ValueError: A metadata key is reserved.
    """
    from mrda.networks import save_network
    from mrda.networks.unlabelled import CONFIG_FILE

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_network(network, folder / WEIGHTS_FILE, **metadata)
    write_text(folder / CONFIG_FILE, json.dumps(network.hyperparameters, indent=2) + "\n")


@cache  # a command looks for its weights several times
def _tell_superseded(name: str, current: str) -> None:
    _log.warning("the weights %s are superseded by %s, which are used instead: name those from now on", name, current)


def _bundled(name: str) -> Path:
    path = BUNDLED_FOLDER / f"{name}.safetensors"
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(
            f"the weights {name} of this package can't be read ({path}: {error.strerror}): reinstall the package"
        ) from error
    if digest != BUNDLED[name]:
        raise ValueError(f"the weights {name} of this package are damaged ({path}): reinstall the package")
    return path


def _may_be_repository(path: Path) -> bool:
    """Check that it looks like "user/repository", and not like a mistyped path to a file or in an existing folder."""
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", path.as_posix()) is not None
    return is_id and path.suffix not in _SUFFIXES and not os.path.exists(path.parent)


def _downloaded(repository: str) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    cause: Exception
    offline: dict[str, Any] = {} if _hub_answers() else {"local_files_only": True}
    try:
        with _quiet_hub():
            path = Path(huggingface_hub.hf_hub_download(repository, WEIGHTS_FILE, **offline))
            if not _names_architecture(path):
                with suppress(errors.EntryNotFoundError):  # which a student can do without
                    huggingface_hub.hf_hub_download(repository, "config.json", **offline)
            return path
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        why, cause = "there is no such repository, or you have no access to it", error
    except errors.LocalEntryNotFoundError as error:
        why, cause = "the Hub can't be reached, and they are not in its cache", error
    except errors.EntryNotFoundError as error:
        why, cause = f"that repository holds no {WEIGHTS_FILE}", error
    except OSError as error:
        why, cause = reason(error), error
    raise ValueError(
        f"there are no weights {repository}, here or at https://huggingface.co/{repository}: {why}"
    ) from cause


def _names_architecture(path: Path) -> bool:
    from mrda.networks.reading import read_metadata

    return "architecture" in read_metadata(path)


def _hub_answers() -> bool:
    """Ask the Hub for an answer of any kind, for two seconds: downloads by its client try for minutes.

    The environment variable HF_HUB_ETAG_TIMEOUT, which the client reads too, sets another number of seconds.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    seconds = float(constants.HF_HUB_ETAG_TIMEOUT) if "HF_HUB_ETAG_TIMEOUT" in os.environ else _CONNECTING
    answered = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # the client has those of requests or of httpx, by its version
            get_session().head(constants.ENDPOINT, timeout=seconds)
            answered.set()

    # In a thread, because looking up the name has no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Silence the log of the Hub's client, because its errors are told in our sentence."""
    from huggingface_hub.utils import logging  # which sets its level when it is first imported

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
