"""mi_utils.lens.view: the figure and the browser of a lens show what was read, escaped, whatever is asked of
them."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from html_tables import Tables
from ipywidgets import Output
from sentences import assert_one_sentence
from tiny_models import PROMPTS
from traitlets import TraitError

from mi_utils import lens, plots, prompts
from mi_utils.plots.style import SEQUENTIAL, colour_at, luminance
from mi_workshop.skeleton import skeleton

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
VALUES = ("probability", "entropy", "kl")


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def tuned(model):
    """Another lens than the logit lens, far enough from it to predict other tokens."""
    plain = lens.logit_lens(model)
    noise = torch.randn(plain.biases.shape, generator=torch.Generator().manual_seed(0))
    return replace(plain, biases=plain.biases + 3 * noise)


@pytest.fixture
def browser(model, tuned):
    return lens.LensBrowser(model, {"logit": lens.logit_lens(model), "tuned": tuned}, PROMPTS[0])


@pytest.fixture
def hostile(monkeypatch):
    """Every token reads as an attack."""
    monkeypatch.setattr(prompts.tokens, "token_strings", lambda _, tokens: [HOSTILE] * len(tokens))


def numbers(reading, value):
    """What the colours of a reading stand for, and where they end, by the definitions."""
    p = reading.log_probs.exp()
    even = math.log(p.shape[-1])
    if value == "probability":
        return p.amax(-1), 1
    if value == "entropy":
        return (p * -reading.log_probs).sum(-1), even
    return (p[-1] * (reading.log_probs[-1] - reading.log_probs)).sum(-1).clamp_min(0), even


def top_labels(model, reading):
    return [plots.token_labels(prompts.token_strings(model, row)) for row in reading.log_probs.argmax(-1)]


class Page(Tables):
    """The table of a page, row by row from the top."""

    @property
    def rows(self):
        return [row for table in self.tables for row in table]

    def heads(self):
        return [row[0]["text"] for row in self.rows[1:]]

    def cells(self):
        """Texts from layer 0 up, as a reading has them."""
        return [[cell["text"] for cell in row[1:]] for row in reversed(self.rows[1:])]

    def tips(self):
        return [
            [float(cell["title"].rpartition(": ")[2]) for cell in row[1:]] for row in reversed(self.rows[1:])
        ]

    def paint(self):
        """Ground and ink of all cells, from layer 0 up."""
        styles = [cell["style"] for row in reversed(self.rows[1:]) for cell in row[1:]]
        return [
            re.search("background:#([0-9a-f]{6});color:#([0-9a-f]{6})", style).groups() for style in styles
        ]


def rgb(colour):
    return tuple(bytes.fromhex(colour))


# -- the figure ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES)
def test_a_figure_shows_what_was_read(model, value):
    reading = lens.read(model, PROMPTS[0])
    fig = lens.lens_figure(model, reading, value=value)
    wanted, highest = numbers(reading, value)
    np.testing.assert_allclose(fig.data[0].z, wanted, atol=1e-5)
    assert list(fig.layout.yaxis.ticktext) == ["0", "1", "model"]
    read = plots.token_labels(prompts.token_strings(model, reading.tokens))
    assert list(fig.layout.xaxis.ticktext) == [plots.escape(label) for label in read]
    labels = [[plots.escape(label) for label in row] for row in top_labels(model, reading)]
    assert [list(row) for row in fig.data[0].customdata] == labels
    assert list(fig.data[1].text) == sum(labels, [])
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, pytest.approx(highest))
    assert fig.layout.coloraxis.colorscale[0][1] == SEQUENTIAL[0]
    assert "top token %{customdata}" in fig.data[0].hovertemplate and "%{z" in fig.data[0].hovertemplate


def test_a_figure_says_in_words_what_is_what(model):
    reading = lens.read(model, PROMPTS[0])
    meanings = {
        v: lens.lens_figure(model, reading, value=v).layout.coloraxis.colorbar.title.text for v in VALUES
    }
    assert "probability" in meanings["probability"]
    assert "entropy" in meanings["entropy"] and "nats" in meanings["entropy"]
    assert (
        "KL" in meanings["kl"]
        and "nats" in meanings["kl"]
        and f"{math.log(model.cfg.d_vocab):.3g}" in meanings["kl"]
    )
    assert "token" in lens.lens_figure(model, reading).layout.title.text
    assert lens.lens_figure(model, reading, title="").layout.title.text is None
    assert "mine" in lens.lens_figure(model, reading, title="mine").layout.title.text


def test_a_figure_of_some_layers_names_those(model):
    fig = lens.lens_figure(model, lens.read(model, PROMPTS[0], layers=[1]))
    assert list(fig.layout.yaxis.ticktext) == ["1", "model"] and fig.data[0].z.shape[0] == 2


def random_reading(seed, *, layers=31, positions=6, vocabulary=300):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(layers, positions, vocabulary, generator=generator)
    return lens.Reading(torch.arange(positions), tuple(range(layers)), logits.log_softmax(-1))


@pytest.mark.parametrize("value", VALUES)
def test_the_structure_of_a_figure_does_not_depend_on_values(llama_model, value):
    one, other = (lens.lens_figure(llama_model, random_reading(seed), value=value) for seed in (0, 1))
    assert skeleton(json.loads(one.to_json())) == skeleton(json.loads(other.to_json()))
    assert not np.array_equal(one.data[0].z, other.data[0].z)


@pytest.mark.parametrize("layers", [2, 23, 31, 60])
def test_rows_are_high_enough_to_read(llama_model, layers):
    fig = lens.lens_figure(llama_model, random_reading(0, layers=layers))
    room = fig.layout.height - fig.layout.margin.t - fig.layout.margin.b
    assert 22 <= room / layers <= 60


def test_rounding_below_zero_does_not_change_the_colours(llama_model):
    reading = random_reading(0)
    log_probs = reading.log_probs.clone()
    log_probs[3] = log_probs[-1] + 1e-4  # a KL of -1e-4
    fig = lens.lens_figure(llama_model, replace(reading, log_probs=log_probs), value="kl")
    assert fig.data[0].z.min() == 0 and fig.layout.coloraxis.colorscale[0][1] == SEQUENTIAL[0]


def test_tokens_are_escaped_in_a_figure(model, hostile):
    fig = lens.lens_figure(model, lens.read(model, PROMPTS[0]), title=HOSTILE)
    assert (
        not re.search("<(script|img)", fig.to_json())
        and "&lt;script" in json.loads(fig.to_json())["data"][1]["text"][0]
    )


def test_a_value_that_is_none_is_refused(model, unchecked):
    with pytest.raises(ValueError) as error:
        lens.lens_figure(model, lens.read(model, PROMPTS[0]), value="rank")
    assert_one_sentence(error.value, "value", "'rank'", *VALUES)


# -- the browser -----------------------------------------------------------------------------------

AFTER_START = slice(1, None)


def assert_shows(browser, model, reading):
    page, (wanted, highest) = Page(browser), numbers(reading, browser.colour.value)
    assert page.heads() == ["model", *map(str, reversed(reading.layers[:-1]))]
    assert [cell["text"] for cell in page.rows[0]] == [
        "layer",
        *plots.token_labels(prompts.token_strings(model, reading.tokens)),
    ]
    assert page.cells() == top_labels(model, reading)
    np.testing.assert_allclose(page.tips(), wanted, rtol=6e-3, atol=1e-6)
    for (ground, _), number in zip(page.paint(), wanted.flatten().tolist(), strict=True):
        expected = colour_at(number / highest, SEQUENTIAL)
        assert max(abs(a - b) for a, b in zip(rgb(ground), expected, strict=True)) <= 1
    return page


def test_the_browser_shows_what_was_read_and_the_next_tokens(browser, model):
    reading = lens.read(model, PROMPTS[0], positions=AFTER_START)
    page = assert_shows(browser, model, reading)
    best = reading.log_probs[-1, -1].exp().sort(descending=True)
    labels = plots.token_labels(prompts.token_strings(model, best.indices[:5]))
    told = " ".join(
        f"{label} {share:.1%}" for label, share in zip(labels, best.values.tolist(), strict=False)
    )
    assert f"next token: {told}" in page.text.replace("\u2002", " ")
    assert "probability" in page.text and "only the first" not in page.text


def test_another_prompt_is_read(browser, model):
    browser.prompt.value = PROMPTS[2]
    assert_shows(browser, model, lens.read(model, PROMPTS[2], positions=AFTER_START))


@pytest.mark.parametrize(("low", "high", "rows"), [(0, 1, [0, 1]), (1, 2, [1]), (1, 1, [1]), (2, 2, [2])])
def test_layers_are_those_of_the_range_and_the_model(browser, model, low, high, rows):
    browser.layers.value = (low, high)
    page = assert_shows(browser, model, lens.read(model, PROMPTS[0], layers=rows, positions=AFTER_START))
    assert page.heads()[0] == "model"


def test_a_range_upside_down_changes_nothing(browser):
    before = browser.page.value
    with pytest.raises(TraitError):
        browser.layers.value = (2, 0)
    assert browser.page.value == before and repr(browser).count("layers 0 to 2") == 1


def test_another_lens_is_looked_through(browser, model, tuned):
    before = Page(browser).cells()
    browser.lens.value = "tuned"
    assert_shows(browser, model, lens.read(model, PROMPTS[0], tuned, positions=AFTER_START))
    assert Page(browser).cells() != before


@pytest.mark.parametrize("value", VALUES[1:])
def test_another_colour_leaves_the_tokens(browser, model, value):
    before = Page(browser)
    browser.colour.value = value
    page = assert_shows(browser, model, lens.read(model, PROMPTS[0], positions=AFTER_START))
    assert page.cells() == before.cells() and page.paint() != before.paint()
    assert {"entropy": "entropy", "kl": "KL"}[value] in page.text


@pytest.mark.parametrize("value", VALUES)
def test_ink_is_legible_on_every_ground(browser, value):
    browser.colour.value = value
    for ground, ink in Page(browser).paint():
        low, high = sorted(luminance(rgb(colour)) for colour in (ground, ink))
        assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.parametrize(("prompt", "said"), [("", "empty"), ("a " * 200, "at most 128")])
def test_what_cannot_be_read_is_said_in_one_sentence(browser, model, prompt, said):
    browser.prompt.value = prompt
    page = Page(browser)
    assert_one_sentence(ValueError(page.text.strip()), said)
    assert not page.rows and page.elements == {"div"}
    browser.prompt.value = PROMPTS[1]
    assert_shows(browser, model, lens.read(model, PROMPTS[1], positions=AFTER_START))


def test_a_browser_may_begin_with_an_empty_prompt(model):
    assert "empty" in lens.LensBrowser(model, {"logit": lens.logit_lens(model)}, "").page.value


def test_of_a_long_prompt_the_beginning_is_read_and_that_is_said(browser, model):
    text = PROMPTS[1] * 3
    tokens = prompts.encode(model, text)[0]
    assert len(tokens) > 25
    browser.prompt.value = text
    page = assert_shows(browser, model, lens.read(model, tokens[:25], positions=AFTER_START))
    assert f"Of the {len(tokens) - 1} tokens, only the first 24 are read and shown." in page.text


def test_a_prompt_of_just_24_tokens_is_whole(browser, model):
    text = "a" * 24
    assert prompts.encode(model, text).shape[1] == 25
    browser.prompt.value = text
    assert "only the first" not in browser.page.value and len(Page(browser).rows[0]) == 25


def test_tokens_are_escaped_in_the_browser(hostile, browser):
    page = Page(browser)
    assert page.elements <= {"div", "table", "caption", "tr", "th", "td", "span", "b"}
    assert page.rows[1][1]["title"].startswith(HOSTILE), "whole in the tooltip"
    assert page.rows[1][1]["text"] == HOSTILE[:13] + "…", "cut in the cell"


@pytest.mark.parametrize("token", ["<b>", '"</script>', "&amp;", "{{ 7 * 7 }}"])
def test_tokens_are_text_wherever_they_are_shown(model, monkeypatch, token):
    monkeypatch.setattr(prompts.tokens, "token_strings", lambda _, tokens: [token] * len(tokens))
    page = Page(lens.LensBrowser(model, {"logit": lens.logit_lens(model)}, PROMPTS[0]))
    cells = [cell for row in page.rows[1:] for cell in row[1:]]
    assert cells and {cell["text"] for cell in [*cells, *page.rows[0][1:]]} == {token}
    assert all(cell["title"].startswith(f"{token}: ") for cell in cells)
    assert page.text.count(token) >= len(cells) + 5, "and the five likeliest next tokens"


def test_errors_are_escaped(browser, monkeypatch):
    def refuse(*_):
        raise ValueError(f"text is {HOSTILE}\nand more")

    monkeypatch.setattr(prompts.tokens, "encode", refuse)
    browser.prompt.value = "x"
    assert Page(browser).elements == {"div"} and Page(browser).text == f"text is {HOSTILE} and more"


def test_the_repr_says_what_is_shown_and_never_drifts(browser, model):
    assert repr(browser) == f"LensBrowser({PROMPTS[0]!r}, layers 0 to 2, lens 'logit')"
    assert browser._repr_mimebundle_()["text/plain"] == repr(browser)
    browser.prompt.value, browser.layers.value, browser.lens.value = "a", (1, 2), "tuned"
    assert repr(browser) == "LensBrowser('a', layers 1 to 2, lens 'tuned')"


def test_nothing_is_printed_or_captured(browser, capsys):
    browser.prompt.value = "a"
    browser.prompt.value = ""
    assert capsys.readouterr() == ("", "")
    widgets = [browser]
    for widget in widgets:
        assert not isinstance(widget, Output)
        widgets += getattr(widget, "children", ())
    assert {browser.prompt, browser.layers, browser.lens, browser.colour, browser.page} <= set(widgets)


def test_the_model_runs_only_when_a_change_is_done(browser):
    assert browser.prompt.continuous_update is False and browser.layers.continuous_update is False


def test_a_browser_needs_lenses_of_its_model(model):
    with pytest.raises(ValueError) as error:
        lens.LensBrowser(model, {})
    assert_one_sentence(error.value, "lenses")
    other = replace(lens.logit_lens(model), model="another")
    with pytest.raises(ValueError) as error:
        lens.LensBrowser(model, {"logit": lens.logit_lens(model), "other": other})
    assert_one_sentence(error.value, "another", model.cfg.model_name)
