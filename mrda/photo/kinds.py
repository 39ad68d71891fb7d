# SPDX-License-Identifier: Apache-2.0
"""Kinds of files that are not read as photos, by their first bytes, and what to do with each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from mrda.photo.depth import EXTRA
from mrda.photo.source import HEIC_SUFFIXES, SUFFIXES
from mrda.photo.tiff import RAW

HEAD = 512
"""Number of first bytes by which a kind is recognised."""
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIC = f"it is a HEIC photo, which needs an extra: {EXTRA}"
_SAVE = "open it in a picture editor and save it as PNG or TIFF"
_MEDIA = "it is a video: `mrda frames` upscales one, between two ffmpeg"
_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "it is a JPEG XL, which is not read: `djxl photo.jxl photo.png` converts it"),
    (0, b"\xff\x0a", "it is a JPEG XL, which is not read: `djxl photo.jxl photo.png` converts it"),
    (0, b"v/1\x01", f"it is an OpenEXR, whose numbers have no white: {_SAVE}"),
    (0, b"#?RADIANCE", f"it is a Radiance HDR, whose numbers have no white: {_SAVE}"),
    (0, b"#?RGBE", f"it is a Radiance HDR, whose numbers have no white: {_SAVE}"),
    (0, b"PF\n", f"it is a PFM, whose numbers have no white: {_SAVE}"),
    (0, b"Pf\n", f"it is a PFM, whose numbers have no white: {_SAVE}"),
    (0, b"II\xbc\x01", f"it is a JPEG XR, which is not read: {_SAVE}"),
    (0, b"8BPS", f"it is a Photoshop document: {_SAVE}"),
    (0, b"gimp xcf", f"it is a GIMP document: {_SAVE}"),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIRS", RAW),
    (0, b"MMOR", RAW),
    (0, b"IIU\0", RAW),
    (0, b"FOVb", RAW),
    (0, b"\0MRM", RAW),
    (6, b"HEAPCCDR", RAW),
    (0, b"%PDF", "it is a PDF: extract its pictures, for instance with `pdfimages -all`"),
    (0, b"%!PS", "it is PostScript, a program that draws, and no photo"),
    (0, b"\xc5\xd0\xd3\xc6", "it is PostScript, a program that draws, and no photo"),
    (0, b"\0\0\1\0", f"it is an icon: {_SAVE}"),
    (0, b"icns", f"it is an icon: {_SAVE}"),
    (0, b"DDS ", f"it is a texture (DDS): {_SAVE}"),
    (0, b"SDPX", f"it is a DPX, which is not read: {_SAVE}"),
    (0, b"XPDS", f"it is a DPX, which is not read: {_SAVE}"),
    (0, b"AT&TFORM", f"it is a DjVu document: {_SAVE}"),
    (0, b"SIMPLE  =", "it is a FITS file of measurements: save it as a TIFF of 16 bits"),
    (128, b"DICM", "it is a DICOM file: export it as a PNG or TIFF of 16 bits"),
    (0, b"\x89HDF", "it is an HDF5 file, and no photo"),
    (0, b"\x1aE\xdf\xa3", _MEDIA),
    (8, b"AVI ", _MEDIA),
    (0, b"\0\0\1\xba", _MEDIA),
    (0, b"\0\0\1\xb3", _MEDIA),
    (0, b"FLV", _MEDIA),
    (4, b"moov", _MEDIA),
    (4, b"mdat", _MEDIA),
    (0, b"PK\3\4", "it is a ZIP archive or an office document: unpack it"),
    (0, b"\x1f\x8b", "it is compressed by gzip: unpack it"),
    (0, b"Rar!", "it is a RAR archive: unpack it"),
    (0, b"7z\xbc\xaf", "it is a 7z archive: unpack it"),
    (0, b"version https://git-lfs", "it is a pointer of Git LFS in place of the photo: `git lfs pull` fetches it"),
    (0, b"\0\5\x16\7", "it holds a Mac's attributes of another file, and no photo"),
)
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of a JPEG's frame
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF, 0xF7}
UNREAD = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".dpx", ".erf", ".exr", ".gpr", ".hdp", ".hdr", ".iiq",
     ".jxl", ".jxr", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".pfm",
     ".psb", ".psd", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".wdp", ".x3f", ".xcf", *HEIC_SUFFIXES}
)  # fmt: skip
"""Suffixes of further photos, which folders may hold and which are not looked for; HEIC is, if its extra is there."""


def describe(head: bytes) -> str | None:
    """Say what a file is that is not read as a photo, and what to do.

    Args:
        head: its first `HEAD` bytes.

    Returns:
        The sentence; None if the kind is unknown.
    """
    if head[4:8] == b"ftyp":
        return _container(head)
    for offset, magic, text in _KINDS:
        if head.startswith(magic, offset):
            return text
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:256].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "it is a web page in place of the photo: download the photo itself"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in head.lower()):
        return "it is an SVG, a drawing that has no pixels: export it at the size that you need"
    return None


def describe_jpeg(file: BinaryIO) -> str | None:
    """Say why a JPEG is not read; None if the file is no JPEG, or an ordinary one.

    Args:
        file: the file, which is read from its beginning.
    """
    file.seek(0)
    if file.read(2) != b"\xff\xd8":
        return None
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        if head[1] in _FRAMES:
            bits = file.read(1)
            if head[1] in _LOSSLESS:
                return f"it is a lossless JPEG, which is not read: {_SAVE}"
            return None if bits in (b"", b"\x08") else f"it is a JPEG of {bits[0]} bits, which is not read: {_SAVE}"
        file.seek(int.from_bytes(head[2:], "big") - 2, 1)
    return None


def is_heic(head: bytes) -> bool:
    """Check whether a file is HEIC or another HEIF that is no AVIF."""
    brands = _brands(head)
    return bool(brands & _HEIC_BRANDS) and not brands & _AVIF_BRANDS and b"crx " not in brands


def left_out(files: Iterable[Path]) -> str | None:
    """Count the photos of kinds that are not read.

    Args:
        files: files that a folder holds; those with other suffixes than `UNREAD` do not count.

    Returns:
        A sentence for a message; None if there are no such files.
    """
    unread = UNREAD - SUFFIXES
    suffixes = (path.suffix.lower() for path in files if not path.name.startswith("."))
    counts = Counter(suffix for suffix in suffixes if suffix in unread)
    if not counts:
        return None
    number = sum(counts.values())
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    photos = "photo of a kind that is" if number == 1 else "photos of kinds that are"
    heic = f"; {EXTRA} reads HEIC" if counts.keys() & HEIC_SUFFIXES else ""
    return f"left out {number} {photos} not read ({kinds}){heic}"


def no_image(folder: str | Path, files: Iterable[Path]) -> str:
    """Say that a folder holds no photo that is read, and which others it holds, see `left_out`."""
    others = left_out(files)
    return f"the folder {folder} holds no image ({', '.join(sorted(SUFFIXES))})" + (f"; {others}" if others else "")


def _brands(head: bytes) -> set[bytes]:
    """Return the major and compatible brands of a file of boxes."""
    if head[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12]} | {head[place : place + 4] for place in range(16, size - 3, 4)}


def _container(head: bytes) -> str:
    brands = _brands(head)
    if b"crx " in brands:
        return RAW
    if brands & _AVIF_BRANDS:
        return "it is a damaged AVIF, or this Pillow was built without AVIF: `pip install --upgrade pillow`"
    if brands & _HEIC_BRANDS:
        return HEIC
    return _MEDIA
