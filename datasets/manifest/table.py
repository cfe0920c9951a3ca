"""CSV as spreadsheets and people write it: separators, encodings, headers, and rows that do not fit the header."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tissuebench.common.text_files import read_text, tidy
from tissuebench.errors import DataError, unknown_name

_SEPARATORS = ",;\t|"
_SEPARATOR_LINE = re.compile(r'"?sep=(?P<separator>.)"?', re.IGNORECASE)
_REMEDY = "save it as 'CSV UTF-8'"
_Cells = tuple[int, list[str]]
"""Line number and cells of a row."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table.

    Attributes:
        number: line of the file in which the row begins, from 1.
        cells: cells by column, without blanks around them; a cell that the row lacks is empty.
        problem: reason that the row does not fit the header; empty if it does.
    """

    number: int
    cells: dict[str, str]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Contents of a table: its columns as they are compared, an unnamed one empty, its separator, and its rows."""

    columns: tuple[str, ...]
    separator: str
    lines: tuple[Line, ...]


def read_table(path: Path, required: Sequence[str], optional: Sequence[str], ignore_others: bool = False) -> Table:
    """Read a CSV file; empty rows are skipped.

    The separator (comma, semicolon, tab, bar, or that of Excel's line ``sep=:``) is the one that splits the first line
    into the most known columns. Lines before the header that are empty or begin with ``#`` are skipped. Column names
    are compared without capitals, and with ``_`` for blanks and hyphens. Columns without a name are ignored if they are
    empty.

    Args:
        path: the file, in UTF-8, or in UTF-16 with a byte order mark.
        required: columns that the file must have.
        optional: columns that it may have.
        ignore_others: whether further columns are left unread; otherwise they are refused.

    Raises:
        DataError: not text, not CSV, or a column is missing, unknown, without a name or there twice.
    """
    text = read_text(path, _REMEDY)
    skipped, body, separator = _beginning(text)
    known = (*required, *optional)
    separator = _separator_of(body, known, _SEPARATORS + separator)
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    rows: list[_Cells] = []
    begins = skipped + 1
    try:
        for cells in reader:
            rows.append((begins, [tidy(cell) for cell in cells]))
            begins = skipped + reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: row {begins}: cannot be read as CSV ({error}); is a quotation mark too few or too many?"
        ) from None
    header = _header(path, rows, required, known, ignore_others)
    filled = [row for row in rows[1:] if any(row[1])]
    if not ignore_others:
        _require_empty(path, header, filled)
    return Table(tuple(header), separator, tuple(_line(header, number, cells) for number, cells in filled))


def _beginning(text: str) -> tuple[int, str, str]:
    """Return the number of lines before the header, the text from there on, and the separator if it is declared."""
    separator = ""
    lines = text.splitlines(keepends=True)  # a mark in a quoted cell does not matter: only the beginning is looked at
    for number, line in enumerate(lines):
        bare = tidy(line)
        declared = _SEPARATOR_LINE.fullmatch(line.strip("\r\n \ufeff"))
        if declared and not separator:
            separator = declared["separator"]
        elif bare and not bare.startswith("#"):
            return number, "".join(lines[number:]), separator
    return len(lines), "", separator


def _separator_of(body: str, known: Sequence[str], separators: str) -> str:
    first = (body.splitlines() or [""])[0]

    def columns(separator: str) -> tuple[int, int]:
        names = [_column(cell) for cell in first.split(separator)]
        return sum(name in known for name in names), len(names)

    return max(separators, key=columns)


def _column(cell: str) -> str:
    return re.sub(r"[\s-]+", "_", tidy(tidy(cell).strip("\"'")).casefold())


def _header(
    path: Path, rows: Sequence[_Cells], required: Sequence[str], known: Sequence[str], ignore_others: bool
) -> list[str]:
    header = [_column(cell) for cell in rows[0][1]] if rows else []
    while header and not header[-1]:
        header.pop()
    for name in required:
        if name not in header:
            found = ", ".join(name or "''" for name in header) or "nothing"
            lower = next((number for number, cells in rows[1:] if set(required) <= set(map(_column, cells))), None)
            if lower is not None:
                raise DataError(f"{path}: the names of the columns are in row {lower}; delete the rows above it")
            if len(header) == 1 and name in header[0]:
                raise DataError(f"{path}: columns are separated by comma, semicolon, tab or bar, not as in {found!r}")
            raise DataError(
                f"{path}: column {name!r} is missing; needed: {', '.join(required)}; the first row holds: {found}"
            )
    for position, name in enumerate(header):
        if name and name not in known and not ignore_others:
            raise DataError(f"{path}: {unknown_name('column', name, known)}")
        if name in known and name in header[:position]:
            raise DataError(
                f"{path}: column {name!r} is there twice (columns {header.index(name) + 1} and {position + 1}); "
                "keep one"
            )
    return header


def _require_empty(path: Path, header: Sequence[str], rows: Sequence[_Cells]) -> None:
    unnamed = [position for position, name in enumerate(header) if not name]
    for number, cells in rows:
        for position in unnamed:
            if position < len(cells) and cells[position]:
                raise DataError(
                    f"{path}: column {position + 1} has no name, but row {number} holds {cells[position]!r} in it; "
                    "name it or delete it"
                )


def _line(header: Sequence[str], number: int, cells: Sequence[str]) -> Line:
    surplus = [cell for cell in cells[len(header) :] if cell]
    problem = ""
    if surplus:
        problem = (
            f"has {len(cells)} cells, but the header has {len(header)}; put a cell that contains the separator in "
            f"quotation marks (the last of it: {surplus[-1]!r})"
        )
    elif len(cells) < len(header):
        problem = f"has {len(cells)} cells, but the header has {len(header)}; an empty cell needs its separator, too"
    named = {name: cell for name, cell in zip(header, cells, strict=False) if name}
    return Line(number, {name: named.get(name, "") for name in header if name}, problem)
