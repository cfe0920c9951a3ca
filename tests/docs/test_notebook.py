"""The notebook of the pages: what it shows is what its cells give."""

from __future__ import annotations

import ast
import re

import nbformat
import pytest

from tests.docs import notebook


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def shape(output):
    """The kind of an output; of a table also its header, of a text its number of lines, of a stream only its name."""
    if output.output_type == "stream":
        return "stream", output.name
    data = output.data
    headers = re.findall(r"<th[^>]*>([^<]*)</th>", data.get("text/html", ""))
    lines = len(data["text/plain"].splitlines()) if set(data) == {"text/plain"} else None
    return output.output_type, tuple(sorted(data)), tuple(headers), lines


def test_it_is_stored_as_executed_once_from_top_to_bottom():
    book = notebook.read()
    nbformat.validate(book)
    cells = code_cells(book)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert sum(bool(cell.outputs) for cell in cells) > len(cells) / 2
    text = notebook.NOTEBOOK.read_text()
    assert not [word for word in ("/tmp/", "site-packages", "Warning") if word in text]
    assert len(text) < 500_000


def test_it_uses_all_that_the_package_offers():
    source = "\n".join(cell.source for cell in code_cells(notebook.read()))
    used = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert {"run", "open_dataset", "load_method", "results", "predict", "tiles", "slides"} <= used


@pytest.mark.slow
def test_its_cells_give_what_it_shows(tmp_path):
    stored, executed = code_cells(notebook.read()), code_cells(notebook.execute(tmp_path))
    for was, now in zip(stored, executed, strict=True):
        assert [shape(output) for output in now.outputs] == [shape(output) for output in was.outputs], now.source
    assert (tmp_path / "runs" / "results").is_dir()
