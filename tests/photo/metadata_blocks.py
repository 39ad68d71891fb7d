"""EXIF, XMP and IPTC as cameras and editors write them, and ExifTool as an independent reader."""

import json
import shutil
import struct
import subprocess

import pytest

SCHEMA = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "OpCamera": "http://ns.oplus.com/photos/1.0/camera/",
    "GPano": "http://ns.google.com/photos/1.0/panorama/",
}
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
needs_exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="ExifTool is not installed")


def exiftool(path, *options):
    """All tags of a file, by group and name, as ExifTool reads them."""
    command = ["exiftool", "-j", "-a", "-G1", "-n", *options, str(path)]
    (tags,) = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return tags


class Block:
    """A TIFF structure in the making."""

    def __init__(self, order):
        self.order = order
        self.data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))

    def put(self, content):
        self.data += bytes(len(self.data) % 2)
        self.data += content
        return len(self.data) - len(content)

    def directory(self, *entries, following=0):
        """Append a directory of (tag, type, value), whose longer values come before it."""
        listed = b""
        for tag, kind, value in sorted(entries):
            if isinstance(value, str):
                value = value.encode() + b"\0"
            elif isinstance(value, int):
                value = struct.pack(self.order + ("H" if kind == 3 else "I"), value)
            count = len(value) // SIZES[kind]
            if len(value) > 4:
                value = struct.pack(self.order + "I", self.put(value))
            listed += struct.pack(self.order + "HHI", tag, kind, count) + value.ljust(4, b"\0")
        return self.put(struct.pack(self.order + "H", len(entries)) + listed + struct.pack(self.order + "I", following))


def camera_exif(order="<", orientation=6, width=24, height=16):
    """The block of a camera: text in UTF-8, a thumbnail, and a maker note that points into itself.

    The note is Canon's: its owner can be read only if the note stays where it is in the block.
    """
    block = Block(order)
    jpeg = block.put(b"\xff\xd8\xff\xd9")
    thumbnail = block.directory((0x0103, 3, 6), (0x0201, 4, jpeg), (0x0202, 4, 4))
    owner, model = b"the owner of this camera\0\0", b"Canon EOS 80D\0"
    note = block.put(b"")
    note += note % 2
    content = struct.pack(order + "H", 2)
    content += struct.pack(order + "HHII", 6, 2, len(model), note + 30)
    content += struct.pack(order + "HHII", 9, 2, len(owner), note + 30 + len(model)) + bytes(4) + model + owner
    assert block.put(content) == note
    interop = block.directory((1, 2, "R98"), (0x1001, 3, width), (0x1002, 3, height))
    comment = b"UNICODE\0" + "ein Kätzchen".encode("utf-16-le" if order == "<" else "utf-16-be")
    exif = block.directory(
        (0x829A, 5, struct.pack(order + "II", 1, 125)),
        (0x9003, 2, "2024:05:06 07:08:09"),
        (0x9286, 7, comment),
        (0x927C, 7, b"note" * (len(content) // 4) + b"x" * (len(content) % 4)),
        (0xA002, 3, width),
        (0xA003, 3, height),
        (0xA005, 4, interop),
        (0xA434, 2, "EF50mm f/1.8"),
    )
    place = block.data.rindex(struct.pack(order + "HHI", 0x927C, 7, len(content)))
    struct.pack_into(order + "I", block.data, place + 8, note)
    gps = block.directory((1, 2, "N"), (2, 5, struct.pack(order + "6I", 48, 1, 8, 1, 15, 1)), (0, 1, b"\2\3\0\0"))
    first = block.directory(
        (0x010E, 2, "a cat"),
        (0x010F, 2, "Canon"),
        (0x0110, 2, "Canon EOS 80D"),
        (0x0112, 3, orientation),
        (0x0132, 2, "2024:05:06 07:08:09"),
        (0x013B, 2, "Jörg"),
        (0x8769, 4, exif),
        (0x8825, 4, gps),
        (0x9C9B, 1, "Kätzchen".encode("utf-16-le") + b"\0\0"),
        following=thumbnail,
    )
    struct.pack_into(order + "I", block.data, 4, first)
    return bytes(block.data)


def xmp_packet(attributes="", elements=""):
    """An XMP packet with further attributes and elements."""
    names = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in SCHEMA.items() if prefix != "rdf")
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{SCHEMA["rdf"]}"><rdf:Description rdf:about="" {names} xmp:Rating="3" {attributes}>'
        f'<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Kätzchen</rdf:li></rdf:Alt></dc:title>{elements}'
        "</rdf:Description></rdf:RDF></x:xmpmeta>\n   \n<?xpacket end='w'?>"
    ).encode()


def iptc():
    """IPTC data: title, keyword and city in UTF-8."""
    fields = ((1, 90, b"\x1b%G"), (2, 5, "Kätzchen".encode()), (2, 25, b"cat"), (2, 90, "Köln".encode()))
    return b"".join(struct.pack(">BBBH", 0x1C, record, number, len(text)) + text for record, number, text in fields)


def resource(number, content):
    """One of Photoshop's image resources."""
    return b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + content + b"\0" * (len(content) % 2)


def segment(marker, content):
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def with_segments(path, *segments):
    """Insert segments behind the start of a JPEG."""
    whole = path.read_bytes()
    path.write_bytes(whole[:2] + b"".join(segments) + whole[2:])
