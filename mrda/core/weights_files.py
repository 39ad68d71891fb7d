# SPDX-License-Identifier: Apache-2.0
"""Kinds of files that are given as weights, told by their content."""

from __future__ import annotations

import json
import os
import string
import zipfile
from typing import BinaryIO, Literal

from mrda.core.faults import reason

_HEAD = 512  # bytes
_LARGEST_HEADER = 100_000_000  # bytes, as safetensors has it
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_ELSE = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"GIF8": "a GIF image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"BM": "a BMP image",
    b"%PDF": "a PDF document",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes",
    b"GGUF": "a GGUF file of a language model",
    b"\x93NUMPY": "an array of numpy",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
}
"""First bytes of files that are often taken for weights."""


def kind_of_weights(path: str | os.PathLike[str]) -> Literal["safetensors", "pickle"]:
    """Tell the format of a weights file by its content, and by its suffix if that does not show it.

    Raises:
        ValueError: the file can't be read, is cut short, or is something else; the message says what it is.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            size = file.seek(0, os.SEEK_END)
            fault = _fault(file, head, size)
    except OSError as error:
        fault = reason(error)
    if fault is not None:
        raise ValueError(f"weights {os.fspath(path)} cannot be read: {fault}")
    if head.startswith((b"PK\x03\x04", *_PICKLES)):
        return "pickle"
    if head[8:9] == b"{" or os.fspath(path).endswith(".safetensors"):
        return "safetensors"
    return "pickle"


def safetensors_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata of a safetensors file that is in order."""
    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(header)).get("__metadata__", {})


def _fault(file: BinaryIO, head: bytes, size: int) -> str | None:
    """Say what a file is, if it holds no weights."""
    if not head.strip(b"\0"):
        return "it is empty" if not head else "it begins with zeros, as an interrupted download does: download it again"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "it is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository, or download it again"
        )
    text = head.decode("utf-8-sig", "ignore").lstrip().lower()
    if text.startswith(("<!doctype", "<html", "<head", "<?xml", "<!--")):
        return (
            "it is a web page, not the file itself: open its address in a browser, and download the file that it names"
        )
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "it is a WebP image"
    if (found := next((what for start, what in _ELSE.items() if head.startswith(start)), None)) is not None:
        return f"it is {found}"
    if head.startswith(b"PK"):
        return _zip_fault(file)
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return _safetensors_fault(file, int.from_bytes(head[:8], "little"), size)
    if all(chr(byte) in string.printable for byte in head):
        return "it is a text file"
    return None


def _zip_fault(file: BinaryIO) -> str | None:
    try:
        names = zipfile.ZipFile(file).namelist()
    except (zipfile.BadZipFile, ValueError, EOFError):
        return "it is cut short or damaged: download or copy it again"
    if any(name.rsplit("/", 1)[-1] == "data.pkl" for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "it is an archive of numpy arrays"
    return "it is a zip archive without weights of torch: if it holds a weights file, unpack it first"


def _safetensors_fault(file: BinaryIO, header: int, size: int) -> str | None:
    """Compare the length of a safetensors file with its header."""
    again = "download or copy it again"
    if size < 8 + header:
        return f"it is cut short, in its header: {again}"
    file.seek(8)
    try:
        tensors = {name: entry for name, entry in json.loads(file.read(header)).items() if name != "__metadata__"}
        expected = 8 + header + max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None  # safetensors says what is wrong
    if size < expected:
        return f"it is cut short: it has {size:,} of {expected:,} bytes: {again}"
    return None
