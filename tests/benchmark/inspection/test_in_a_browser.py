"""The page of a data set as a browser shows it: pictures open enlarged, and it speaks to nobody."""

from __future__ import annotations

import pytest

from tests.benchmark.inspection.test_page import store_of
from tests.browser import chromium
from tissuebench.datasets.splits import Split
from tissuebench.datasets.types import ClassMap
from tissuebench.inspection.page import write_inspection

CLASSES = ClassMap(("stroma", "gland", "tumour"), ((200, 200, 0), (0, 200, 0), (0, 0, 200)))


@pytest.mark.slow
def test_pictures_open_enlarged_and_nothing_is_fetched(tmp_path):
    slides = [("S1", "P1", (), 96, 128), ("S2", "P2", (), 64, 64)]
    store = store_of(tmp_path, slides, CLASSES)
    path = write_inspection(tmp_path, tmp_path, store, Split("s", {"train": ("P1",), "test": ("P2",)}), (), "t", "l")
    said: list[str] = []
    asked: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        tile = page.locator(".tiles .zoom").first
        tile.click()
        page.wait_for_function(
            "document.querySelector('dialog img').style.width === '128px'"
        )  # a tile of 32 px, 4 fold
        page.locator("#larger").click()
        assert page.locator("dialog img").bounding_box()["width"] == 256
        page.locator("#close").click()
        assert page.locator("dialog").is_hidden()
        page.locator(".cards .zoom").first.click()
        page.wait_for_function("document.querySelector('dialog img').src.includes('thumbnails/S')")
    assert said == []
    assert all(url.startswith("file:") for url in asked)
