# SPDX-License-Identifier: Apache-2.0
"""Finds weights: a file, a folder that holds one, weights of the package, or a repository on the Hugging Face Hub.

torch is imported where it is used, so that a mistyped name is told at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrda.core.faults import reason
from mrda.core.files import write_text

if TYPE_CHECKING:
    from mrda.networks import Network

WEIGHTS_FILE = "model.safetensors"
"""File in folders and Hub repositories, named as by `huggingface_hub.PyTorchModelHubMixin`."""
_CONNECTING = 2.0  # seconds

BUNDLED: dict[str, str] = {
    "mrda-x4-iso": "b96a994c7b2a8175b423fdacef004b4bdb2701516d9f5de47afbf172c7ace948",
    "mrda-x4-aniso-noise": "9ebdd3fbc439d433c91c40e8c34264c1de8cdbc7afad5d780875846367f09f7c",
}
"""Weights that come with the package, the default first: name to SHA-256 of `weights_data/NAME.safetensors`."""
BUNDLED_FOLDER = Path(__file__).parents[1] / "weights_data"

_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".onnx")


def default_weights() -> str:
    """Return the name of the weights to use if none are given."""
    return next(iter(BUNDLED))


def find_weights(name: str | os.PathLike[str]) -> Path:
    """Find the file of some weights.

    Args:
        name: The first of these that exists: a file; a folder with `model.safetensors`, as `save_pretrained` writes
            it; a name of `BUNDLED`; "user/repository" on the Hugging Face Hub, whose `model.safetensors` is downloaded
            once and kept in the Hub's cache.

    Raises:
        ValueError: There are no such weights, they can't be downloaded, or weights of the package are damaged.
    """
    path = Path(name)
    if os.path.isfile(path):
        return path
    if os.path.isfile(path / WEIGHTS_FILE):
        return path / WEIGHTS_FILE
    if str(name) in BUNDLED:
        return _bundled(str(name))
    if _may_be_repository(path):
        return _downloaded(path.as_posix())
    if os.path.isdir(path):
        raise ValueError(f"the folder {path} holds no {WEIGHTS_FILE}: name the weights file itself")
    raise ValueError(f"there is no weights file {path}; the package's own weights are {', '.join(BUNDLED)}")


def further_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a weights file besides the network's own, such as a licence; the authors' files have none.

    Raises:
        ValueError: The file can't be read.
    """
    from mrda.networks.checkpoints import OWN_KEYS
    from mrda.networks.kinds import kind_of_weights
    from mrda.networks.reading import read_metadata

    if kind_of_weights(path) == "pickle":
        return {}
    return {key: value for key, value in read_metadata(path).items() if key not in OWN_KEYS}


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
