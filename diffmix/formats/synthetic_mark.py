"""What says of an image file that it is synthetic: EXIF `Software` and IPTC's `DigitalSourceType`
in XMP. The image data stay as they are.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from diffmix.formats.named_mix import suffix

SOFTWARE = "Diff-Mix engine"
_EXIF_SOFTWARE = 0x0131
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
FROM_REAL = f"{_TYPES}compositeWithTrainedAlgorithmicMedia"
"""Of a mix that began as a real image."""
FROM_NOISE = f"{_TYPES}trainedAlgorithmicMedia"
_XMP = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmp:CreatorTool="{software}" Iptc4xmpExt:DigitalSourceType="{type}"/>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
_WEBP_EXIF, _WEBP_XMP, _WEBP_ALPHA = 0x08, 0x04, 0x10


def marked(file: bytes, from_real: bool, what: str = "the image") -> bytes:
    """A JPEG, PNG or WebP file with the marks, pixel for pixel the same. `from_real` is whether it
    began as a real image.

    Raises `UserError` for anything else, which it calls `what`.
    """
    kind = suffix(file, what)
    exif = Image.Exif()
    exif[_EXIF_SOFTWARE] = SOFTWARE
    text = _XMP.format(software=SOFTWARE, type=FROM_REAL if from_real else FROM_NOISE).encode()
    insert = {"jpg": _in_jpeg, "png": _in_png, "webp": _in_webp}[kind]
    return insert(file, exif.tobytes().removeprefix(b"Exif\0\0"), text)


def _in_jpeg(file: bytes, exif: bytes, xmp: bytes) -> bytes:
    """Two segments after the file's first one, which names its format (JFIF)."""
    place = 2
    if file[2:4] == b"\xff\xe0":
        place += 2 + int.from_bytes(file[4:6], "big")
    parts = b""
    for content in (b"Exif\0\0" + exif, _XMP_NAME + xmp):
        parts += b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    return file[:place] + parts + file[place:]


def _in_png(file: bytes, exif: bytes, xmp: bytes) -> bytes:
    """Two chunks after the header, which has 25 bytes after the file's 8."""
    parts = b""
    for name, content in ((b"eXIf", exif), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)):
        check = zlib.crc32(name + content)
        parts += struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
    return file[:33] + parts + file[33:]


def _in_webp(file: bytes, exif: bytes, xmp: bytes) -> bytes:
    """Two chunks at the end, and a header that names them."""
    chunks = [chunk for chunk in _webp_chunks(file) if chunk[0] not in (b"EXIF", b"XMP ")]
    if chunks[0][0] != b"VP8X":
        with Image.open(io.BytesIO(file)) as image:
            flags = _WEBP_ALPHA if image.mode == "RGBA" else 0
            sides = [(side - 1).to_bytes(3, "little") for side in image.size]
        chunks.insert(0, (b"VP8X", bytes([flags, 0, 0, 0]) + b"".join(sides)))
    header = bytearray(chunks[0][1])
    header[0] |= _WEBP_EXIF | _WEBP_XMP
    chunks = [(b"VP8X", bytes(header)), *chunks[1:], (b"EXIF", exif), (b"XMP ", xmp)]
    body = b"WEBP"
    for name, content in chunks:
        body += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place + 8 <= len(file):
        size = int.from_bytes(file[place + 4 : place + 8], "little")
        yield file[place : place + 4], file[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
