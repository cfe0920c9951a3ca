"""The page in a real browser: it works offline, sorts, filters, and fits a phone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.results.report.realistic import HOSTILE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, report):
    """Opens the report; in the end there was no error on its console, and it asked for nothing but files."""
    contexts, wrong = [], []

    def start(width=1440, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)

        def style(route):
            if not route.request.url.startswith(("file:", "data:")):
                wrong.append(route.request.url)
            route.continue_()

        context.route("**/*", style)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
        page.goto(Path(report).as_uri())
        return page

    yield start
    for context in contexts:
        context.close()
    assert wrong == []


def column(page, number):
    return page.eval_on_selector_all(
        "#scores tbody tr:not([hidden])", "(rows, i) => rows.map(row => row.cells[i].dataset.v ?? row.cells[i].innerText)", number
    )  # fmt: skip


def test_sorting_changes_the_rows_and_says_so(open_page):
    page = open_page()
    head = page.locator("#scores thead th").nth(4)
    before = column(page, 1)
    head.get_by_role("button").click()
    falling = column(page, 4)
    values = [float(value) for value in falling if value]
    assert values == sorted(values, reverse=True)
    assert column(page, 1) != before
    assert falling[-1] == ""  # the gap stays last
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").press("Enter")
    rising = column(page, 4)
    assert [float(value) for value in rising if value] == sorted(values)
    assert rising[-1] == ""
    assert head.get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="Reset").click()
    playwright = pytest.importorskip("playwright.sync_api")
    playwright.expect(page.locator("#scores.sorted, #scores [aria-sort]")).to_have_count(0)
    assert column(page, 1) == before


def test_filters_leave_the_rows_asked_for(open_page):
    page = open_page()
    everything = len(column(page, 1))
    page.get_by_label("Budget", exact=True).select_option("masks:3p")
    page.get_by_label("Data set", exact=True).select_option("colon")
    assert set(column(page, 0)) == {"colon"}
    assert set(column(page, 3)) == {"24.0"}
    assert page.locator("#shown").inner_text() == f"4 of {everything} rows"
    page.get_by_label("Method", exact=True).select_option("complementary")
    assert column(page, 1) == ["complementary"]


def test_another_metric_shows_its_numbers(open_page):
    page = open_page()
    before = page.locator("#scores .value").all_inner_texts()
    page.get_by_label("Metric").select_option(label="ECE")
    assert page.locator("#metric-name").inner_text().startswith("ECE (lower is better)")
    shown = [float(text.split()[0]) for text in page.locator("#scores .value").all_inner_texts()]
    beside = [float(text) for text in page.eval_on_selector_all(
        "#scores tbody tr:not(.gap)", "rows => rows.map(row => row.cells[8].innerText)")]  # fmt: skip
    assert shown == beside  # the column of the ECE that was there before
    page.locator("#metric-name button").click()
    assert page.locator("#metric-name").get_attribute("aria-sort") == "ascending"  # the best first
    page.get_by_label("Metric").select_option(label="mIoU")
    assert sorted(page.locator("#scores .value").all_inner_texts()) == sorted(before)


def test_scores_of_classes_are_reachable_whatever_their_names(open_page):
    page = open_page()
    group = page.locator("#metric optgroup[label='Dice by class'] option")
    assert group.all_inner_texts()[-1] == HOSTILE
    page.locator("#metric").select_option(group.nth(5).get_attribute("value"))
    assert page.locator("#metric-name").inner_text().startswith(f"Dice/{HOSTILE}")
    assert page.locator("script").count() == 2


def test_tabs_by_keyboard(open_page):
    page = open_page()
    tabs = page.get_by_role("tablist", name="Budget of the classes of glands").get_by_role("tab")
    assert tabs.all_inner_texts() == ["masks:3p", "masks:25%", "masks:50%"]
    tabs.first.focus()
    page.keyboard.press("ArrowRight")
    assert tabs.nth(1).get_attribute("aria-selected") == "true"
    assert page.locator("#d0-classes-1").is_visible()
    assert not page.locator("#d0-classes-0").is_visible()


def test_every_picture_is_there(open_page):
    page = open_page()
    sizes = page.evaluate(
        """async () => {
          const all = [...document.images];
          all.forEach((one) => { one.loading = "eager"; });
          await Promise.all(all.map((one) => one.decode()));
          return all.map((one) => one.naturalWidth);
        }"""
    )
    assert len(sizes) > 50
    assert min(sizes) > 0


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_no_sideways_scrolling(open_page, width):
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_words_in_figures_stay_within_their_panel(open_page):
    page = open_page()
    page.evaluate("document.querySelectorAll('.tab').forEach((tab) => { tab.hidden = false; })")
    out = page.evaluate(
        """() => [...document.querySelectorAll('.panels svg')].flatMap((svg) => {
          const box = svg.getBoundingClientRect();
          return [...svg.querySelectorAll('text')].filter((text) => {
            const own = text.getBoundingClientRect();
            return own.left < box.left - 2 || own.right > box.right + 2 || own.top < box.top - 2 || own.bottom > box.bottom + 2;
          }).map((text) => text.textContent);
        })"""
    )
    assert out == []


def test_without_scripts_it_is_one_long_page(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("#d0-classes-0").is_visible()
    assert page.locator("#d0-classes-2").is_visible()
    assert not page.get_by_label("Metric").is_visible()
    assert page.locator("#scores tbody tr").count() == len(page.locator("#scores tbody tr").all())


def test_print_shows_everything_and_no_controls(open_page):
    page = open_page(720)
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 720  # nothing is cut at the edge of A4
    assert page.locator("#d0-classes-2").is_visible()
    assert not page.get_by_role("button", name="Reset").is_visible()
    assert not page.locator("nav").is_visible()
