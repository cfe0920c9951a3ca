"""Make a page of each notebook, with the outputs that are stored in it; nothing is executed when the site is built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: MkDocsConfig, **_: object) -> Files:
    """Add the pages; the notebooks themselves stay, for readers to download."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        cells = json.loads(Path(str(notebook.abs_src_path)).read_text(encoding="utf-8"))["cells"]
        page = str(PurePosixPath(notebook.src_uri).with_suffix(".md"))
        files.append(File.generated(config, page, content="\n\n".join(part for cell in cells for part in parts(cell))))
    return files


def parts(cell: dict[str, Any]) -> Iterator[str]:
    """Yield the Markdown of a cell and of its outputs.

    Raises:
        PluginError: an output is an error, or of a kind that no page shows.
    """
    if cell["cell_type"] == "markdown":
        yield "".join(cell["source"])
        return
    yield fenced("python", "".join(cell["source"]))
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield fenced("text", "".join(output["text"]))
            continue
        data = {kind: "".join(value) for kind, value in output.get("data", {}).items()}
        picture = next((kind for kind in data if kind.startswith("image/")), None)
        if "text/html" in data:
            yield f'<div class="output">{data["text/html"]}</div>'
        elif picture:
            yield f'<img src="data:{picture};base64,{data[picture].strip()}" alt="output of the cell above">'
        elif "text/plain" in data:
            yield fenced("text", data["text/plain"])
        else:
            raise PluginError(f"{cell['id']}: no page shows an output of {[*data] or output['output_type']}")


def fenced(language: str, text: str) -> str:
    """Return a block of code or text."""
    return f"```{language}\n{_ANSI.sub('', text).rstrip()}\n```"
