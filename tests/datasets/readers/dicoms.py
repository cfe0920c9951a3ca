"""Writing the header of a DICOM slide file, without pixels."""

from __future__ import annotations

import struct

_LONG = (b"SQ", b"UN", b"OB")


def write_dicom(path, series, kind, side, *, explicit=True, nested="none"):
    """A header of (side, side + 1) pixels; ``nested`` puts a sequence before the series, of known length or not."""
    syntax = "1.2.840.10008.1.2.4.50" if explicit else "1.2.840.10008.1.2"
    body = _element(0x0008, 0x0008, b"CS", f"DERIVED\\PRIMARY\\{kind}\\NONE", explicit)
    inner = _element(0x0008, 0x0100, b"SH", "1234", explicit)
    if nested == "defined":
        body += _head(0x0008, 0x1115, b"SQ", 8 + len(inner), explicit) + _item(len(inner)) + inner
    elif nested == "undefined":
        ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        body += _head(0x0008, 0x1115, b"SQ", 0xFFFFFFFF, explicit) + _item(0xFFFFFFFF) + inner + ends
    body += _element(0x0020, 0x000E, b"UI", series, explicit)
    for tag, value in ((6, side + 1), (7, side)):
        body += _head(0x0048, tag, b"UL", 4, explicit) + struct.pack("<I", value)
    body += _head(0x7FE0, 0x0010, b"OB", 4, explicit) + b"gone"
    path.write_bytes(bytes(128) + b"DICM" + _element(2, 0x0010, b"UI", syntax, True) + body)
    return path


def _element(group, element, kind, text, explicit):
    value = text.encode()
    value += b"\0" * (len(value) % 2)
    return _head(group, element, kind, len(value), explicit) + value


def _head(group, element, kind, length, explicit):
    tag = struct.pack("<HH", group, element)
    if not explicit:
        return tag + struct.pack("<I", length)
    return tag + kind + (struct.pack("<HI", 0, length) if kind in _LONG else struct.pack("<H", length))


def _item(length):
    return struct.pack("<HHI", 0xFFFE, 0xE000, length)
