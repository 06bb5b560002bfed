"""A headless Chromium for the tests of pages and widgets."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def _missing(reason: str) -> None:
    if os.environ.get("MI_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _executable(own: str) -> str | None:
    """MI_CHROMIUM, else one on the PATH, else playwright's own."""
    named = os.environ.get("MI_CHROMIUM")
    if named:
        return shutil.which(named)
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or (own if Path(own).exists() else None)


# Per module: while playwright runs, this thread has a running event loop, which other tests may not expect.
@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """A playwright ``Browser``; the test is skipped where there is none, and fails if
    MI_REQUIRE_BROWSER=1."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed (the extra 'test')")
    with sync_playwright() as playwright:
        executable = _executable(playwright.chromium.executable_path)
        if executable is None:
            _missing("no Chromium: install one, or name it in MI_CHROMIUM")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(chromium) -> Iterator[Callable]:
    """Opens what an HTML widget shows as a page of its own: HTML -> a playwright ``Page``."""
    page = chromium.new_page(viewport={"width": 1200, "height": 400})

    def put(text: str):
        page.set_content("<body></body>")
        # As the widget's view does it.
        page.evaluate("text => { document.body.innerHTML = text; }", text)
        page.wait_for_timeout(100)
        return page

    yield put
    page.close()
