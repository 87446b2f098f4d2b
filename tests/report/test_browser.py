"""The page in a real browser (Chromium through Playwright): `make browser` installs both."""

import time

import pytest

from posttrain.report.page import write_page
from tests.browser import chromium
from tests.report.made_up import HOSTILE, SHARED, made_up_run

playwright = pytest.importorskip("playwright.sync_api", reason="`make browser` installs Playwright")
pytestmark = pytest.mark.long

OPENS_WITHIN = 2.0  # seconds, for 100,000 instances


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        found = chromium(running)
        yield found
        found.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_page(made_up_run(tmp_path_factory.mktemp("runs"))).as_uri()


@pytest.fixture(params=[(1440, "light"), (360, "dark")], ids=["1440-light", "360-dark"])
def page(browser, path, request):
    """The open page; at the end nothing may have gone to the console or off the machine."""
    width, scheme = request.param
    shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    shown.set_default_timeout(120_000)  # the machine may be busy
    faults, asked = [], []
    shown.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    shown.on("pageerror", lambda error: faults.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(path)
    shown.wait_for_selector("#list button")
    yield shown
    assert faults == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    shown.close()


def test_model_text_is_text_at_every_width(page):
    page.locator("#list button").first.click()
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert HOSTILE in page.locator("#one").inner_text()
    assert page.evaluate("window.pwned") is None
    assert page.locator("img").count() == 0


def test_the_page_never_scrolls_sideways(page, tmp_path):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.locator("#list button").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    picture = page.screenshot(path=tmp_path / "page.png", full_page=True)  # PNG: the width stands in bytes 16 to 19
    assert int.from_bytes(picture[16:20]) == page.viewport_size["width"]


def test_names_break_between_their_words_alone(page):
    """A name is never broken inside of a word, as narrow as the column may be: each part fits its cell."""
    assert (
        page.evaluate(
            "[...document.querySelectorAll('tbody th')].filter(cell => cell.scrollWidth > cell.clientWidth + 1).length"
        )
        == 0
    )
    wide = page.locator(".scores tbody th").first.bounding_box()["width"]
    assert wide >= 6 * 16 - 20


def test_table_curves_matches_and_lineage_are_shown(page):
    assert page.locator(".scores tbody tr").count() == 1
    assert "50.0 [35.2, 64.8]" in " ".join(page.locator(".scores tbody td").nth(1).inner_text().split())
    assert page.locator(".curve svg").count() == 3
    page.locator("#contamination summary").click()
    assert page.locator("#contamination mark").all_inner_texts() == [SHARED, SHARED]
    assert page.locator(".graph rect").count() == 7


def test_a_curve_tells_the_value_under_the_pointer(page):
    curve = page.locator(".curve svg").first
    curve.scroll_into_view_if_needed()
    box = curve.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 10)
    assert page.locator(".curve output").first.inner_text() == "step 50: 0.06"


def test_two_stages_are_compared_and_filtered(page):
    found = page.locator("#found")
    page.select_option("[name=show]", "gained")
    playwright.expect(found).to_have_text("10 of 40 instances")
    page.locator("#list button").first.click()
    assert page.locator("#one del").first.inner_text() == "SFT"
    assert page.locator("#one ins").first.inner_text() == "DPO"
    page.select_option("[name=show]", "lost")
    playwright.expect(found).to_have_text("0 of 40 instances")
    page.select_option("[name=show]", "all")
    page.fill("[name=text]", "says 17 ")
    playwright.expect(found).to_have_text("1 of 40 instances")


def test_the_browser_of_answers_works_by_keyboard(page):
    page.locator("#list button").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#one h3").inner_text() == "1"
    page.locator(".pages button").last.focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".pages")).to_contain_text("page 2 of 2")


def test_axe_finds_no_serious_fault(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="`make browser` installs it")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.locator("#list button").first.click()
    found = axe.Axe().run(page).response["violations"]
    assert [
        (fault["id"], fault["nodes"][0]["html"]) for fault in found if fault["impact"] in ("serious", "critical")
    ] == []


def test_it_prints(browser, path):
    page = browser.new_page()
    page.goto(path)
    page.emulate_media(media="print")
    assert page.locator("#ask").is_hidden()
    assert page.locator(".scores").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")
    page.close()


def test_a_page_of_100_000_instances_opens_within_two_seconds(browser, tmp_path):
    """Until its list of answers stands; the least of three, as the machine may be busy. Every answer can be found."""
    path = write_page(made_up_run(tmp_path, 100_000, words=80)).as_uri()
    taken = []
    for _ in range(3):
        page = browser.new_page()
        page.set_default_timeout(120_000)
        began = time.monotonic()
        page.goto(path, wait_until="commit")
        page.wait_for_selector("#list button")
        taken.append(time.monotonic() - began)
        assert page.locator("#found").inner_text() == "100,000 of 100,000 instances"
    page.fill("[name=text]", "SFT says 99999 ")
    playwright.expect(page.locator("#found")).to_have_text("1 of 100,000 instances", timeout=120_000)
    print(f"opened in {', '.join(f'{seconds:.2f}' for seconds in taken)} s")
    assert min(taken) <= OPENS_WITHIN, taken
