"""The checksums of a PNG file, which PIL does not compare for the pixels themselves."""

from __future__ import annotations

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
AROUND = 12  # bytes of a chunk besides its data: length, type, checksum


def damage(content: bytes) -> str | None:
    """What is wrong with the chunks of a PNG file, in words; None if they are whole, and for other formats.

    Every chunk up to IEND ends with a CRC-32 of its type and data (PNG specification, section 5.3). Bytes after IEND
    are not part of the image, and readers skip them.
    """
    if not content.startswith(SIGNATURE):
        return None
    view, start = memoryview(content), len(SIGNATURE)
    while start + AROUND <= len(content):
        kind, end = content[start + 4 : start + 8], start + AROUND + int.from_bytes(view[start : start + 4], "big")
        if end > len(content):
            return f"the PNG file ends inside its chunk {kind!r} at byte {start}"
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return f"the checksum of the PNG file's chunk {kind!r} at byte {start} is wrong"
        if kind == b"IEND":
            return None
        start = end
    return "the PNG file has no end (chunk IEND)"
