r"""Formulas as MathML, made while the site is built: browsers show it themselves, no script or font is loaded.

``pymdownx.arithmatex`` marks ``$...$`` and ``$$...$$``; what it marked is converted here.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, page: Page, **_: object) -> str:
    """The page with MathML in place of LaTeX.

    Raises:
        PluginError: a formula that is no LaTeX.
    """

    def converted(found: re.Match[str]) -> str:
        latex = html.unescape(found[1]).strip()
        try:
            return convert(latex, display="block" if found.re is _BLOCK else "inline")
        except Exception as error:  # the library raises a dozen kinds
            raise PluginError(f"{page.file.src_uri}: {latex!r} is no formula: {error!r}") from error

    return _INLINE.sub(converted, _BLOCK.sub(converted, content))
