"""Tables of plain values, and their serialisation to CSV, JSON and parquet."""

from __future__ import annotations

import csv
import io
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Value = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Relation:
    """A named table.

    Attributes:
        schema: pyarrow schema: names and types of the columns, in order; every column may have nulls.
        columns: values by name, all of equal length; None where there is no value, never NaN or infinity.
    """

    name: str
    schema: pa.Schema
    columns: Mapping[str, Sequence[Value]]

    def to_csv(self) -> bytes:
        """Return CSV: a header and one line per row; empty where there is no value."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.schema.names)
        writer.writerows(self._rows())
        return out.getvalue().encode()

    def to_json(self) -> bytes:
        """Return a JSON list of objects, one per line; null where there is no value.

        Raises:
            ValueError: a value is not finite.
        """
        names = self.schema.names
        encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode
        lines = ",\n ".join(encode(dict(zip(names, row, strict=True))) for row in self._rows())
        return f"[{lines}]\n".encode()

    def to_parquet(self) -> bytes:
        """Return the table as one parquet file."""
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(dict(self.columns), schema=self.schema), sink)
        return bytes(sink.getvalue().to_pybytes())

    def _rows(self) -> zip[tuple[Value, ...]]:
        return zip(*(self.columns[name] for name in self.schema.names), strict=True)


def of_rows(name: str, kind: type[DataclassInstance], rows: Sequence[DataclassInstance]) -> Relation:
    """Convert dataclass rows to a table: one column per field, typed by its annotation even without rows."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    schema = pa.schema([(field, _arrow(hints[field])) for field in names])
    return Relation(name, schema, {field: [getattr(row, field) for row in rows] for field in names})


def _arrow(hint: object) -> pa.DataType:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (one for one in get_args(hint) if one is not type(None))
    return {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[hint]  # type: ignore[index]
