"""The notebook of the pages, executed in a kernel of its own; ``python -m tests.docs.notebook`` stores its outputs."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
_SECONDS = 900


def read() -> nbformat.NotebookNode:
    """The notebook as it is stored."""
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(folder: Path) -> nbformat.NotebookNode:
    """Execute all cells with ``folder`` as the current one; raises ``CellExecutionError`` where one fails."""
    book = read()
    mine = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TISSUEBENCH_HOME": "."}
    client = NotebookClient(
        book,
        timeout=_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, **mine})
    return book


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        executed = execute(Path(folder))
    NOTEBOOK.write_text(nbformat.writes(executed) + "\n", encoding="utf-8")
    print(f"{NOTEBOOK}: {len(executed.cells)} cells", file=sys.stderr)
