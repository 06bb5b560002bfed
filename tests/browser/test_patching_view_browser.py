"""The map of a patching browser in a browser: every cell there, nothing cut off, and no token is taken for
code."""

import pytest

from mi_utils import patching, prompts

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="window.taken=1">'
CLEAN, CORRUPTED = "When Mary and John went to", "When John and John went to"


@pytest.fixture
def opened(show, llama_model, monkeypatch):
    monkeypatch.setattr(
        prompts.tokens, "token_strings", lambda _, tokens: [HOSTILE, *["·Paris"] * (len(tokens) - 1)]
    )
    shown = patching.PatchingBrowser(llama_model, CLEAN, CORRUPTED, " Mary", " John")
    return show(shown.page.value)


def test_cells_are_all_there_and_nothing_of_them_runs(opened, llama_model):
    cells = opened.locator("table").first.locator("td")
    assert cells.count() == 2 * prompts.encode(llama_model, CLEAN).shape[1]
    assert opened.locator("img, script").count() == 0 and opened.evaluate("window.taken") is None
    assert HOSTILE[:23] in cells.first.get_attribute("title")


def test_rows_are_of_equal_height_and_no_label_is_cut_off(opened):
    heights = opened.evaluate(
        "[...document.querySelectorAll('tr')].map(row => row.getBoundingClientRect().height)"
    )
    assert len(heights) > 6 and all(height == pytest.approx(18, abs=1.5) for height in heights)
    over = opened.evaluate(
        "[...document.querySelectorAll('td, th')].filter(cell => cell.scrollWidth > cell.clientWidth + "
        "1).length"
    )
    assert over == 0


def test_map_and_list_stand_side_by_side(opened):
    first, second = opened.evaluate(
        "[...document.querySelectorAll('table')].map(one => { const b = one.getBoundingClientRect(); "
        "return [b.left, b.right, b.top, b.bottom]; })"
    )
    assert first[1] <= second[0] and second[1] <= 1200
