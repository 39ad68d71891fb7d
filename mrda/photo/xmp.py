# SPDX-License-Identifier: Apache-2.0
"""XMP packets, without what an enlarged photo makes false; everything else is kept to the byte."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from functools import partial

_TIFF = b"http://ns.adobe.com/tiff/1.0/"
_EXIF = b"http://ns.adobe.com/exif/1.0/"
_PANORAMA = b"http://ns.google.com/photos/1.0/panorama/"
_CAMERA = b"http://ns.google.com/photos/1.0/camera/"
_CONTAINER = b"http://ns.google.com/photos/1.0/container/"
# Names of properties by namespace, and the name of what they speak of if the result has it no longer.
_FALSE: tuple[tuple[bytes, bytes, str | None], ...] = (
    (_TIFF, rb"Orientation", None),
    (b"http://ns.adobe.com/xap/1.0/", rb"Thumbnails", None),
    (b"http://ns.adobe.com/xmp/note/", rb"HasExtendedXMP", "extended XMP"),
    (_CAMERA, rb"(?:MotionPhoto|MicroVideo)\w*", "the video of a motion photo"),
    (
        b"http://ns.oplus.com/photos/1.0/camera/",
        rb"(?:MotionPhoto|OLivePhoto|VideoLength)\w*",
        "the video of a motion photo",
    ),
    (b"http://ns.adobe.com/hdr-gain-map/1.0/", rb"\w+", "the HDR gain map"),
    (b"http://ns.apple.com/HDRGainMap/1.0/", rb"\w+", "the HDR gain map"),
    (b"http://ns.google.com/photos/1.0/depthmap/", rb"\w+", "the depth map"),
    (b"http://ns.google.com/photos/1.0/image/", rb"\w+", None),
    (b"http://ns.google.com/photos/1.0/audio/", rb"\w+", "the sound"),
    (b"http://ns.google.com/photos/dd/1.0/device/", rb"Container", "the depth map"),
    (_CONTAINER, rb"Directory", None),
)
# Prefixes of the namespaces where a packet, which is then invalid, declares none.
_USUAL = {_TIFF: b"tiff", _EXIF: b"exif", _PANORAMA: b"GPano", _CAMERA: b"GCamera"}
_TAG = re.compile(rb"<(?![!?])(?:[^<>\"']|\"[^\"]*+\"|'[^']*+')*+>")
_ENCODINGS = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_MARKUP = re.compile(rb"<!--.*?-->|<!\[CDATA\[|\]\]>|<[^>]*>", re.DOTALL)
_LONGEST = 1024  # bytes of an orientation that are looked at
_LOCAL = {_TIFF: (b"ImageWidth", b"ImageLength"), _EXIF: (b"PixelXDimension", b"PixelYDimension")}


def orientation(xmp: bytes) -> int | None:
    """Look up the orientation in a packet, in any syntax; None if there is none, or no number from 1 to 8."""
    found: list[bytes] = []

    def note(_: bytes, value: bytes) -> bytes:
        found.append(value)
        return value

    _changed(_as_utf8(xmp)[0], _TIFF, rb"Orientation", note)
    text = html.unescape(_MARKUP.sub(b"", found[0][:_LONGEST]).decode("latin-1")).strip() if found else ""
    return int(text) if re.fullmatch(r"[1-8]", text) else None


def without_falsehoods(xmp: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Remove the orientation, and claims on data that the result does not have, such as a motion photo's video.

    Returns:
        The packet, and the names of those data.
    """
    packet, encoding = _as_utf8(xmp)
    lost: dict[str, None] = {}
    for uri, names, subject in _FALSE:
        changed = _changed(packet, uri, names, lambda name, value: None)
        if changed != packet and subject is not None:
            lost[subject] = None
        packet = changed
    return _in(packet, encoding), tuple(lost)


def sized(xmp: bytes, width: int, height: int, scale: tuple[float, float]) -> bytes:
    """Set the photo's size in pixels where the packet has it, and scale the sizes of a panorama's parts.

    Args:
        xmp: the packet.
        width: width of the result in pixels.
        height: its height.
        scale: enlargement of width and height.
    """
    packet, encoding = _as_utf8(xmp)
    for uri, names in _LOCAL.items():
        for name, value in zip(names, (width, height), strict=True):
            packet = _changed(packet, uri, name, partial(_constant, b"%d" % value))

    def scaled(name: bytes, value: bytes) -> bytes:
        factor = scale[0] if b"Width" in name or b"Left" in name else scale[1]
        return b"%d" % round(factor * int(value)) if re.fullmatch(rb"\s*\d{1,9}\s*", value) else value

    return _in(_changed(packet, _PANORAMA, rb"(?:Cropped|Full)\w+Pixels", scaled), encoding)


def _as_utf8(xmp: bytes) -> tuple[bytes, str | None]:
    """Convert a packet in UTF-16 or UTF-32 to UTF-8, and name its encoding, None for UTF-8."""
    if b"\0" in xmp[:64]:
        for encoding in _ENCODINGS:
            if xmp[:16].decode(encoding, "replace").lstrip("\ufeff \t\r\n").startswith("<"):
                try:
                    return xmp.decode(encoding).encode(), encoding
                except UnicodeDecodeError:
                    break
    return xmp, None


def _in(packet: bytes, encoding: str | None) -> bytes:
    return packet if encoding is None else packet.decode().encode(encoding)


def _constant(value: bytes, name: bytes, old: bytes) -> bytes:
    return value


def _changed(xmp: bytes, uri: bytes, names: bytes, change: Callable[[bytes, bytes], bytes | None]) -> bytes:
    """Change the values of properties, which are attributes or elements.

    Args:
        xmp: the packet.
        uri: the namespace.
        names: a pattern of the properties' names in it.
        change: takes name and old value, and returns the new value, or None to remove the property.
    """
    prefixes = set(re.findall(rb"xmlns:([\w.-]+)\s*=\s*[\"']" + re.escape(uri) + rb"[\"']", xmp))
    if not prefixes and uri in _USUAL:
        prefixes = {_USUAL[uri]}
    if not prefixes or not re.search(rb":" + names, xmp):
        return xmp
    name = rb"(?:" + rb"|".join(map(re.escape, sorted(prefixes))) + rb"):(" + names + rb")"
    attribute = re.compile(rb"(?<!\s)(\s++" + name + rb"\s*=\s*)(\"[^\"]*\"|'[^']*')")
    opening = re.compile(rb"<(" + name + rb")(?=[\s/>])")

    def replaced(match: re.Match[bytes]) -> bytes:
        old = match[3]
        new = change(match[2], old[1:-1])
        return b"" if new is None else match[1] + old[:1] + new + old[-1:]

    parts: list[bytes] = []
    place = 0
    while (tag := _TAG.search(xmp, place)) is not None:
        parts.append(xmp[place : tag.start()])
        place = tag.end()
        element = opening.match(tag[0])
        if element is None:
            parts.append(attribute.sub(replaced, tag[0]) if b":" in tag[0] else tag[0])
            continue
        if tag[0].endswith(b"/>"):
            parts.append(b"" if change(element[2], b"") is None else tag[0])
            continue
        end = re.compile(rb"</" + re.escape(element[1]) + rb"\s*>").search(xmp, place)
        if end is None:  # not well-formed
            parts.append(tag[0])
            break
        new = change(element[2], xmp[place : end.start()])
        parts.append(b"" if new is None else tag[0] + new + end[0])
        place = end.end()
    return b"".join(parts) + xmp[place:]
