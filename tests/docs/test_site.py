"""The site is built without a warning, and asks nobody for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

from tests.browser import chromium
from tests.docs.pages import ROOT
from tissuebench.cli.main import cli

_FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
_LINKS_THAT_FETCH = {
    "stylesheet",
    "icon",
    "preload",
    "preconnect",
    "dns-prefetch",
    "modulepreload",
    "manifest",
    "prefetch",
}
_AFAR = re.compile(r"^(https?:)?//", re.IGNORECASE)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    built = subprocess.run(
        (sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)),
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


class Requests(HTMLParser):
    """What a browser fetches by itself when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if given.get("id"):
            self.ids.add(given["id"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in _FETCHED and given.get(_FETCHED[tag]):
            self.found.append(given[_FETCHED[tag]])
        if tag == "link" and _LINKS_THAT_FETCH & set((given.get("rel") or "").split()):
            self.found.append(given.get("href") or "")
        if given.get("srcset"):
            self.found += [part.split()[0] for part in given["srcset"].split(",")]
        if "style" in given:
            self.found += re.findall(r"url\(([^)]+)\)", given["style"] or "")


def requests_of(page: Path) -> Requests:
    parser = Requests()
    parser.feed(page.read_text())
    return parser


def test_no_page_asks_anybody_for_anything(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        found = requests_of(page).found
        assert found
        afar = [address for address in found if _AFAR.match(address.strip("'\""))]
        assert not afar, f"{page.name}: {afar}"
        for address in found:
            if not address.startswith(("data:", "/")):  # 404.html speaks from the root
                assert (page.parent / address.partition("?")[0].partition("#")[0]).exists(), f"{page.name}: {address}"


def test_no_stylesheet_or_drawing_loads_from_afar(site):
    for path in (*site.rglob("*.css"), *site.rglob("*.svg")):
        text = path.read_text()
        assert not re.findall(r"(?:url\(|@import\s+)['\"]?(?:https?:)?//", text), path.name
        assert not re.findall(r"<(?:image|use|script)[^>]+href=['\"]https?:", text), path.name


def test_formulas_are_mathml(site):
    statistics = (site / "statistics.html").read_text()
    assert statistics.count("<math ") > 10
    for page in site.rglob("*.html"):
        assert 'class="arithmatex"' not in page.read_text(), page.name


def test_the_command_line_is_all_there(site):
    text = (site / "reference" / "command_line.html").read_text()

    def names(command: click.Command, path: str) -> list[str]:
        below = command.commands.items() if isinstance(command, click.Group) else ()
        return [path, *(each for name, sub in below for each in names(sub, f"{path} {name}"))]

    for name in names(cli, "tissuebench"):
        assert f"<code>{name}</code>" in text, name
    assert "--retry-failed" in text


def test_the_reference_has_docstrings(site):
    losses = (site / "reference" / "losses.html").read_text()
    assert "Set-wise exclusion" in losses
    assert 'id="tissuebench.methods.losses.complementary.conditional_set_wise"' in losses


def test_the_notebook_is_a_page_with_its_outputs(site):
    text = (site / "notebook.html").read_text()
    assert (site / "notebook.ipynb").is_file()
    assert text.count('<img src="data:image/') >= 4 and 'class="dataframe"' in text
    assert re.search(r'class="output"><pre style[^>]*>\s*synthetic', text)  # the leaderboard
    assert "ingesting synthetic 46/46" in text


def test_searching_and_reading_from_the_disk(site):
    """A real browser, from file://: the search finds a page, nothing is asked of anybody, nothing goes wrong."""
    asked: list[str] = []
    wrong: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((site / "index.html").as_uri())
        page.wait_for_load_state("load")
        page.get_by_placeholder("Search").first.click()
        page.get_by_placeholder("Search").first.press_sequentially("Nemenyi", delay=30)
        result = page.locator(".md-search-result__link").first
        result.wait_for(timeout=30_000)
        assert "statistics.html" in (result.get_attribute("href") or "")
        page.goto((site / "statistics.html").as_uri())
        box = page.locator("math[display=block]").first.bounding_box()
    assert box is not None
    assert box["height"] > 20  # a fraction is drawn as one, not as a line of text
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
    assert wrong == []
