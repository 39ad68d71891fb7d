# SPDX-License-Identifier: Apache-2.0
"""Reading weights files of any origin: no code in them is run, and every fault is a ValueError."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrda.core.faults import reason
from mrda.core.weights_files import kind_of_weights

# Errors that torch.load's parsers raise for a file that is not a checkpoint, or is truncated.
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    struct.error,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
)

_METADATA = "mrda"
"""Key of our metadata in that of a pickled state dict."""
_OBJECTS = (
    "it holds Python objects besides tensors, which are not read, because reading them could run code: save its state "
    "dict alone"
)


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Return the content of a .pt or .pth file, on the CPU; only tensors and plain containers are read.

    Raises:
        ValueError: The file cannot be read, is damaged, or holds anything else.
    """
    kind_of_weights(path)
    try:
        # An open file, because torch goes by a path's suffix.
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on protocols of pickle
            return torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            why = _OBJECTS
        elif isinstance(error, OSError | RuntimeError):
            why = reason(error)
        else:
            why = "it is not a file of torch's weights, or damaged"
        raise ValueError(f"weights {os.fspath(path)} cannot be read: {why}") from error


def pickle_of(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a .pth file that holds a state dict, and metadata where torch keeps its own.

    That is the state dict's attribute ``_metadata``: `load_state_dict` and other readers see the tensors alone. Without
    metadata it is a plain dictionary, as the published files are.
    """
    whole: dict[str, Tensor] = dict(state)
    if metadata:
        whole = OrderedDict(state)
        whole._metadata = OrderedDict({"": {_METADATA: dict(metadata)}})  # type: ignore[attr-defined]
    buffer = io.BytesIO()  # torch.save would write a file's name into the file
    torch.save(whole, buffer)
    return buffer.getvalue()


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, on the CPU, and the metadata of a safetensors file.

    Raises:
        ValueError: The file cannot be read or is not a safetensors file.
    """
    from safetensors.torch import load_file

    metadata = _safetensors_metadata(path)
    return load_file(path), metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata of a weights file, e.g. of :func:`~mrda.networks.checkpoints.save_network`.

    A .pth or .pt file has some if :func:`~mrda.networks.conversion.convert_weights` wrote it.

    Raises:
        ValueError: The file cannot be read or is not a weights file.
    """
    if kind_of_weights(path) == "safetensors":
        return _safetensors_metadata(path)
    found = getattr(read_pickle(path), "_metadata", None)
    for key in ("", _METADATA):
        found = found.get(key) if isinstance(found, dict) else None
    entries = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in entries if isinstance(key, str) and isinstance(value, str)}


def _safetensors_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    kind_of_weights(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(sorted((file.metadata() or {}).items()))
    except (OSError, SafetensorError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is not a safetensors file, or damaged"
        raise ValueError(f"weights {os.fspath(path)} cannot be read: {why}") from error
