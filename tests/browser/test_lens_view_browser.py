"""The table of a lens browser in a browser: legible, nothing cut off, and no token is taken for code."""

import pytest

from mi_utils import lens, prompts

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="window.taken=1">'


@pytest.fixture
def opened(show, llama_model, monkeypatch):
    monkeypatch.setattr(
        prompts.tokens, "token_strings", lambda _, tokens: [HOSTILE, *["·Paris"] * (len(tokens) - 1)]
    )
    shown = lens.LensBrowser(llama_model, {"logit": lens.logit_lens(llama_model)}, "The capital of France is")
    return show(shown.page.value)


def test_cells_are_all_there_and_nothing_of_them_runs(opened, llama_model):
    after_start = prompts.encode(llama_model, "The capital of France is").shape[1] - 1
    assert opened.locator("td").count() == 3 * after_start
    assert opened.locator("img, script").count() == 0 and opened.evaluate("window.taken") is None
    assert opened.locator("td").first.get_attribute("title").startswith(HOSTILE)


def test_rows_are_of_equal_height_and_no_label_is_cut_off(opened):
    heights = opened.evaluate(
        "[...document.querySelectorAll('tr')].map(row => row.getBoundingClientRect().height)"
    )
    assert all(height == pytest.approx(22, abs=1.5) for height in heights)
    over = opened.evaluate(
        "[...document.querySelectorAll('td, th')].filter(cell => cell.scrollWidth > cell.clientWidth + "
        "1).length"
    )
    assert over == 0
