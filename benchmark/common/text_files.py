"""Text files that people and spreadsheets wrote: their encoding, and their names as Unicode writes them in one way."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from tissuebench.errors import DataError

_MARKS = (  # UTF-32 begins with the bytes of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_EIGHT_BIT = "it looks like Windows-1252 or another 8-bit encoding"
_NO_MARK = "it may be UTF-16 without a byte order mark, or no text"
_WORKBOOK = "it is a workbook of Excel or another office file"
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u2060"))


def read_text(path: Path, remedy: str) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: the file.
        remedy: end of the message if it is neither: how to save it.

    Raises:
        FileNotFoundError: no such file.
        DataError: unreadable, or in another encoding, which is named as far as the bytes tell.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return decoded(path, content, remedy)


def decoded(path: Path, content: bytes | bytearray, remedy: str) -> str:
    """Return the text of a file's bytes; see ``read_text``.

    Raises:
        DataError: the bytes are not UTF-8, nor UTF-16 or UTF-32 with a byte order mark.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        kind = _NO_MARK if b"\0" in content[:4096] else _EIGHT_BIT
        kind = _WORKBOOK if content.startswith(_WORKBOOKS) else kind
        kind = kind if encoding == "utf-8" else f"it is damaged {encoding.removesuffix('-sig').upper()}"
        found = f"byte 0x{content[error.start]:02x} in line {line}; {kind}"
        raise DataError(f"{path}: cannot be read as UTF-8 text ({found}); {remedy}") from None
    if "\0" in text:
        raise DataError(f"{path}: cannot be read as UTF-8 text (it holds zero bytes; {_NO_MARK}); {remedy}")
    return text


def tidy(text: str) -> str:
    """Return a name without what nobody sees: blanks around it, invisible characters, composed and decomposed umlauts.

    Source: Unicode Standard Annex 15, normalisation form C.

    Examples:
        >>> tidy("Dru\u0308se\u00a0") == "Dr\u00fcse"
        True
    """
    return unicodedata.normalize("NFC", text.translate(_INVISIBLE)).strip()


def known_as(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is meant: the same one, or the only one that differs by capitals alone; else None.

    Names are compared as ``tidy`` returns them.

    Examples:
        >>> known_as("Tumour ", ("stroma", "tumour"))
        'tumour'
    """
    wanted = tidy(name)
    options = {option: tidy(option) for option in known}
    same = [option for option, plain in options.items() if plain == wanted]
    alike = same or [option for option, plain in options.items() if plain.casefold() == wanted.casefold()]
    return alike[0] if len(alike) == 1 else None
