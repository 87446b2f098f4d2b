"""The demo in a real browser: `make browser` installs Chromium, Playwright and gradio."""

import json

import pytest

from posttrain.cli.demo import first_and_furthest, models_of, talker
from posttrain.demo.app import page as demo
from posttrain.demo.app import serve
from tests.browser import chromium
from tests.demo.test_stream import run

__all__ = ["run"]
pytest.importorskip("gradio", reason="the extra `demo`")
playwright = pytest.importorskip("playwright.sync_api", reason="`make browser` installs Playwright")
pytestmark = pytest.mark.long
QUESTION = "<script>window.pwned = 1</script> How many rings does Ben have?"
PATIENCE = 120_000  # ms: the machine may be busy


@pytest.fixture
def address(run):  # noqa: F811
    stages = models_of(run)
    blocks = demo("made-up", list(stages), lambda stage: talker(stages[stage]), first_and_furthest(stages))
    yield serve(blocks, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    blocks.close()


def test_a_round_trip_of_chat_stays_on_this_machine(address, tmp_path):
    with playwright.sync_playwright() as running:
        browser = chromium(running)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        faults, asked = [], []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.get_by_label("Message").fill(QUESTION)
        page.get_by_role("button", name="Send").click()
        bots = page.get_by_role("log")
        for side in range(2):
            answer = bots.nth(side).locator(".bot, .message.bot").first
            answer.wait_for(timeout=PATIENCE)
            assert answer.inner_text().strip()
            assert "<script>" in bots.nth(side).inner_text()
        assert page.evaluate("window.pwned") is None
        with page.expect_download(timeout=PATIENCE) as download:
            page.get_by_role("button", name="Export").click()
        saved = json.loads(download.value.path().read_text())
        assert [side["stage"] for side in saved["sides"]] == ["sft", "dpo"]
        assert all(side["messages"][0]["content"] == QUESTION for side in saved["sides"])
        for width, scheme in ((1440, "light"), (360, "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            picture = page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
            assert int.from_bytes(picture[16:20]) == width
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="`make browser` installs it")
        found = axe.Axe().run(page).response["violations"]
        assert [
            (fault["id"], fault["nodes"][0]["html"]) for fault in found if fault["impact"] in ("serious", "critical")
        ] == []
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert faults == []
