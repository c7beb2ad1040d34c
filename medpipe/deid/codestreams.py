"""Compressed frames: comments, application segments and bytes behind the end are blanked without touching the image.

Text inside a codestream is in no element and in no picture, so neither the table nor the search for burned-in text meets
it. A frame whose structure cannot be followed to its end is not blanked but decoded (`pixels`).
"""

from __future__ import annotations

import re

from pydicom.uid import HTJ2K, UID, HTJ2KLossless, HTJ2KLosslessRPCL, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, RLELossless

WRITERS = re.compile(
    rb"\x00\x01(?:Created by |Creator: )?(?:GDCM/)?(?:OpenJPEG|Kakadu|JasPer|Grok)[ v-]{1,8}(?:[Vv]ersion )?[0-9.]{1,10}\x00?\Z"
)
"""Comments by which a JPEG 2000 library names itself: they stay, so that such frames keep their bytes."""
_KEPT = re.compile(rb"JFIF\x00..[\x00-\x02]....\x00\x00|Adobe\x00.{4,6}|mrfx.|SPIFF\x00.{24}|\x00\x00\x00\x01(?:\xff\xd8)?", re.DOTALL)
"""Application segments that say how to read the samples and have no room for text: JFIF without thumbnail, Adobe's and
HP's colour transforms, and SPIFF's header and its end."""
_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
"""A marker in entropy-coded data: what stuffing (JPEG: 00; JPEG-LS: less than 80) and restart markers cannot look like."""
_STANDALONE = frozenset({0xD8, 0x01})
_J2K_SEGMENTS = frozenset({0x50, 0x51, 0x52, 0x53, 0x55, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63, 0x64})
_SOT, _SOD, _EOC, _COM = 0x90, 0x93, 0xD9, 0x64
_JPEG2000 = frozenset({*JPEG2000TransferSyntaxes, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL})
_BOXES = {b"jP  ": 12, b"ftyp": 32, b"jp2h": 60}
"""Boxes that stay, and how many bytes they have where no profile, resolution text or name is in them."""
RLE_HEADER = 64


def blanked(frame: bytes, syntax: UID, size: int = 0) -> bytes | None:
    """Return a frame without room for text, the same bytes where it has none; None where its structure cannot be followed.

    `size` is the number of bytes in one plane of the decoded frame, which is one segment of RLE (PS3.5 G.3).
    """
    try:
        if syntax == RLELossless:
            return _rle(frame, size)
        if syntax in _JPEG2000:
            return _jpeg2000(frame)
        return _jpeg(frame, lossless_ls=syntax in JPEGLSTransferSyntaxes)
    except (IndexError, ValueError):
        return None


def _ended(frame: bytes, out: bytearray, end: int) -> bytes:
    """Cut what stands behind the end, but for one byte of padding (PS3.5 A.4)."""
    rest = frame[end:]
    return bytes(out[:end]) + (rest if rest in (b"\0", b"\xff") else b"\0" * (end % 2))


def _jpeg(frame: bytes, *, lossless_ls: bool) -> bytes | None:
    """Follow the segments of JPEG and JPEG-LS (ITU-T T.81, B.1.1) from SOI to EOI."""
    out, at = bytearray(frame), 0
    if frame[:2] != b"\xff\xd8":
        return None
    while True:
        if frame[at] != 0xFF:
            return None
        while frame[at + 1] == 0xFF:  # fill bytes may stand before a marker
            at += 1
        marker = frame[at + 1]
        at += 2
        if marker == 0xD9:
            return _ended(frame, out, at)
        if marker in _STANDALONE:
            continue
        length = int.from_bytes(frame[at : at + 2], "big")
        end = at + length
        if length < 2 or end > len(frame):
            return None
        if marker == 0xFE or (0xE0 <= marker <= 0xEF and not _KEPT.fullmatch(frame[at + 2 : end])):
            out[at + 2 : end] = bytes(length - 2)
        at = end
        if marker == 0xDA:
            found = _MARKER.search(frame, at)
            if found is None:
                return None
            at = found.start()


def _jpeg2000(frame: bytes) -> bytes | None:
    """Follow the marker segments of a JPEG 2000 codestream (ITU-T T.800, annex A) through every tile-part."""
    if frame[4:8] == b"jP  ":
        return _boxes(frame)
    out, at = bytearray(frame), 2
    if frame[:4] != b"\xff\x4f\xff\x51":
        return None
    tile_end = 0
    while True:
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == _EOC:
            return _ended(frame, out, at + 2)
        if marker == _SOD:
            if not at < tile_end <= len(frame):
                return None
            at = tile_end
            continue
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        end = at + 2 + length
        if length < 2 or end > len(frame):
            return None
        if marker == _SOT:
            whole = int.from_bytes(frame[at + 6 : at + 10], "big")
            tile_end = at + whole if whole else frame.rindex(b"\xff\xd9")  # the last tile-part may leave its length open
        elif marker not in _J2K_SEGMENTS:
            return None
        elif marker == _COM and not WRITERS.match(frame[at + 4 : end]):
            out[at + 6 : end] = b" " * (end - at - 6)
        at = end


def _boxes(frame: bytes) -> bytes | None:
    """Follow the boxes of a JP2 file (ITU-T T.800, annex I), which some writers put where a codestream belongs; blank all but four."""
    out, at = bytearray(frame), 0
    while at < len(frame):
        length, kind = int.from_bytes(frame[at : at + 4], "big"), frame[at + 4 : at + 8]
        if kind == b"jp2c":
            inner = _jpeg2000(frame[at + 8 :]) if frame[at + 8 : at + 10] == b"\xff\x4f" else None
            return None if inner is None else bytes(out[: at + 8]) + inner
        if length < 8 or at + length > len(frame) or (kind in _BOXES and length > _BOXES[kind]):
            return None
        if kind not in _BOXES:
            out[at + 8 : at + length] = bytes(length - 8)
        at += length
    return None


def _rle(frame: bytes, size: int) -> bytes | None:
    """Clear unused offsets in the header (PS3.5 G.5), and what the runs of a segment leave unread."""
    count = int.from_bytes(frame[:4], "little")
    if not 1 <= count <= 15:
        return None
    starts = [int.from_bytes(frame[4 * number : 4 * number + 4], "little") for number in range(1, count + 1)]
    if starts[0] != RLE_HEADER or starts != sorted(starts) or starts[-1] > len(frame):
        return None
    out = bytearray(frame)
    out[4 + 4 * count : RLE_HEADER] = bytes(RLE_HEADER - 4 - 4 * count)
    for start, end in zip(starts, [*starts[1:], len(frame)], strict=True):
        at, made = start, 0
        while made < size:
            control = frame[at]
            made += control + 1 if control < 128 else 257 - control if control > 128 else 0
            at += control + 2 if control < 128 else 2 if control > 128 else 1
        if made != size or at > end:
            return None
        if frame[at:end] not in (b"", b"\0"):
            out[at:end] = b"\x80" * (end - at)  # the run of length nothing (PS3.5 G.3.1): a zero would be decoded
    return bytes(out)
