"""mi_utils.patching.view: figure and browser of a patching map show what was swept, escaped, whatever is
asked."""

import json
import re

import numpy as np
import pytest
import torch
from html_tables import Tables
from ipywidgets import Output
from sentences import assert_one_sentence

from mi_utils import patching, plots, prompts
from mi_utils.patching.browser import PatchingBrowser
from mi_utils.patching.view import (
    DIRECTIONS,
    LONGEST,
    METRICS,
    SITES,
    patching_figure,
    patching_map,
)
from mi_utils.plots.style import DIVERGING, colour_at, luminance
from mi_workshop.skeleton import skeleton

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
CLEAN, CORRUPTED, ANSWER, WRONG = "When Mary and John went to", "When John and John went to", " Mary", " John"


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def browser(model):
    return PatchingBrowser(model, CLEAN, CORRUPTED, ANSWER, WRONG)


@pytest.fixture
def hostile(monkeypatch):
    """Every token reads as an attack."""
    monkeypatch.setattr(prompts.tokens, "token_strings", lambda _, tokens: [HOSTILE] * len(tokens))


def swept(model, site, metric, direction):
    """The map by its definition: shares, metric, cells that can change, and the metric of the two runs."""
    tokens = [torch.tensor([prompts.single_token(model, text)]) for text in (ANSWER, WRONG)]
    measure = {
        "logit difference": patching.logit_difference(*tokens),
        "log-probability": patching.log_probability(tokens[0]),
        "probability": patching.probability(tokens[0]),
    }[metric]
    clean, corrupted = (
        patching.record(model, prompts.encode(model, text), [site]) for text in (CLEAN, CORRUPTED)
    )
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    edited, other = float(measure(base.logits)), float(measure(source.logits))
    patched = edited + patching.sweep(model, base, source, site, measure, by=SITES[site][0])[..., 0]
    changes = patching.can_change(base, source, site, by=SITES[site][0])
    return (patched - edited) / (other - edited), patched, changes, edited, other


class Page(Tables):
    """The tables of a page, the map first."""

    def cells(self):
        """Of the map, from layer 0 up."""
        rows = [row for row in self.tables[0] if row[0]["text"].startswith("layer")]
        return [row[1:] for row in reversed(rows)]


def number(text):
    return float(text.replace("−", "-"))


def rgb(colour):
    return tuple(bytes.fromhex(colour))


# -- the map ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_map_is_a_sweep_as_a_share_of_the_way(model, site, direction):
    found = patching_map(model, CLEAN, CORRUPTED, ANSWER, WRONG, site=site, direction=direction)
    share, patched, changes, edited, other = swept(model, site, "logit difference", direction)
    torch.testing.assert_close(found.share, share)
    torch.testing.assert_close(found.patched, patched)
    assert torch.equal(found.changes, changes) and (found.edited, found.other) == pytest.approx(
        (edited, other)
    )
    length = prompts.encode(model, CLEAN).shape[1]
    assert (
        len(found.parts)
        == found.share.shape[1]
        == (length if SITES[site][0] == "position" else len(found.parts))
    )
    if site == "resid_pre":
        whole = found.share[0, changes[0]]
        torch.testing.assert_close(whole, torch.ones(1), atol=1e-4, rtol=0)  # the one token that differs


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_measured(model, metric):
    found = patching_map(model, CLEAN, CORRUPTED, ANSWER, WRONG, site="z", metric=metric)
    share, patched, *_ = swept(model, "z", metric, "denoising")
    torch.testing.assert_close(found.share, share)
    torch.testing.assert_close(found.patched, patched)


def test_the_top_are_the_largest_of_those_that_can_change(model):
    found = patching_map(model, CLEAN, CORRUPTED, ANSWER, WRONG, site="attn_out")
    sizes = {
        (layer, part): abs(float(found.share[layer, part]))
        for layer, part in np.ndindex(*found.share.shape)
        if found.changes[layer, part]
    }
    wanted = sorted(sizes, key=lambda cell: -sizes[cell])
    assert found.top(5) == wanted[:5] and found.top(10**6) == wanted and len(wanted) < found.share.numel()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"clean": CLEAN + " the"}, ("different token lengths", repr(CLEAN + " the"), repr(CORRUPTED))),
        ({"clean": ""}, ("empty",)),
        ({"clean": CORRUPTED}, ("both", repr(CORRUPTED))),
        ({"answer": " Mary John"}, ("answer is ' Mary John'", "2 tokens")),
        ({"wrong": " Mary John"}, ("wrong is ' Mary John'", "2 tokens")),
        ({"answer": ""}, ("answer is ''", "0 tokens")),
        ({"wrong": ANSWER}, ("answer and wrong", "differ")),
        ({"clean": "a" * 40, "corrupted": "b" * 40}, ("41 tokens", f"at most {LONGEST}")),
        ({"site": "result"}, ("site is 'result'", "resid_pre", "pattern")),
        ({"metric": "loss"}, ("metric is 'loss'", "probability")),
        ({"direction": "both"}, ("direction is 'both'", "noising")),
    ],
)
def test_what_cannot_be_mapped_is_refused(model, changes, names):
    given = {"clean": CLEAN, "corrupted": CORRUPTED, "answer": ANSWER, "wrong": WRONG} | changes
    with pytest.raises(ValueError) as error:
        patching_map(model, **given)
    assert_one_sentence(error.value, *names)


def test_runs_that_agree_are_refused(model, monkeypatch):
    monkeypatch.setattr(
        patching.sweeps, "probability", lambda token: lambda logits: torch.full(logits.shape[:-1], 0.25)
    )
    with pytest.raises(ValueError) as error:
        patching_map(model, CLEAN, CORRUPTED, ANSWER, WRONG, metric="probability")
    assert_one_sentence(error.value, "same probability", "0.25")


# -- the figure ------------------------------------------------------------------------------------


def test_a_figure_shows_the_values_and_the_tokens(model):
    found = patching_map(model, CLEAN, CORRUPTED, ANSWER, WRONG)
    clean, corrupted = (prompts.encode(model, text)[0] for text in (CLEAN, CORRUPTED))
    labels = patching.position_labels(model, clean, corrupted)
    fig = patching_figure(found.share, labels, title="mine <b>")
    np.testing.assert_allclose(fig.data[0].z, found.share, atol=1e-6)
    assert list(fig.layout.yaxis.ticktext) == ["0", "1"]
    assert list(fig.layout.xaxis.ticktext) == [plots.escape(label) for label in labels]
    colours = fig.layout.coloraxis
    assert colours.cmin == -colours.cmax and colours.colorscale[0][1] == DIVERGING[0], "centred on zero"
    assert colours.colorbar.title.text == "recovery" and fig.layout.xaxis.title.text == "position"
    assert fig.layout.title.text == "mine &lt;b&gt;"


def test_positions_that_differ_name_both_tokens(model):
    clean, corrupted = (prompts.encode(model, text)[0] for text in (CLEAN, CORRUPTED))
    labels = patching.position_labels(model, clean, corrupted)
    plain = plots.token_labels(prompts.token_strings(model, clean))
    assert patching.position_labels(model, clean) == plain
    assert [label for label in labels if label not in plain] == ["·Mary→·John"] and len(labels) == len(plain)


def test_labels_of_other_lengths_are_refused(model, unchecked):
    with pytest.raises(ValueError) as error:
        patching.position_labels(model, torch.tensor([1, 2, 3]), torch.tensor([1, 2]))
    assert_one_sentence(error.value, "clean has 3", "corrupted 2")


def test_the_structure_of_a_figure_does_not_depend_on_values():
    figures = [
        patching_figure(torch.randn(12, 9, generator=torch.Generator().manual_seed(seed)), part_title="head")
        for seed in (0, 1)
    ]
    one, other = (skeleton(json.loads(fig.to_json())) for fig in figures)
    assert one == other and figures[0].layout.xaxis.title.text == "head"
    positive = patching_figure(torch.rand(3, 4))
    assert positive.layout.coloraxis.cmin == -positive.layout.coloraxis.cmax


# -- the browser -----------------------------------------------------------------------------------


def assert_shows(browser, model):
    site, metric, direction = browser.site.value, browser.metric.value, browser.direction.value
    share, patched, changes, edited, other = swept(model, site, metric, direction)
    bound = float(share.abs().max())
    page = Page(browser)
    assert [len(row) for row in page.cells()] == [share.shape[1]] * len(share)
    for cell, value, whole, differs in zip(
        sum(page.cells(), []), share.flatten(), patched.flatten(), changes.flatten(), strict=True
    ):
        value = float(value)
        if not differs:
            assert "same in both" in cell["title"] and "gradient" in cell["style"] and not cell["text"]
            continue
        told = re.search("share (.*), metric (.*)$", cell["title"]).groups()
        assert number(told[0]) == pytest.approx(value, rel=0.06, abs=1e-6)
        assert number(told[1]) == pytest.approx(float(whole), rel=6e-3, abs=1e-6)
        ground, ink = re.search("background:#([0-9a-f]{6});color:#([0-9a-f]{6})", cell["style"]).groups()
        wanted = colour_at((value / bound + 1) / 2, DIVERGING)
        assert max(abs(a - b) for a, b in zip(rgb(ground), wanted, strict=True)) <= 2
        low, high = sorted(luminance(rgb(colour)) for colour in (ground, ink))
        assert (high + 0.05) / (low + 0.05) >= 4.5
        assert cell["text"] == ("" if abs(value) < 0.2 * bound else told[0]), "its sign survives grey print"
    assert f"{edited:.3g}".replace("-", "−") in page.text and f"{other:.3g}".replace("-", "−") in page.text
    return page


def test_the_browser_shows_what_was_swept(browser, model):
    page = assert_shows(browser, model)
    clean, corrupted = (
        plots.token_labels(prompts.token_strings(model, prompts.encode(model, text)[0]))
        for text in (CLEAN, CORRUPTED)
    )
    heads = [[cell["text"] for cell in row] for row in page.tables[0][:2]]
    cut = [label if len(label) <= 9 else label[:8] + "…" for label in clean]
    assert heads[0] == ["clean", *cut]
    assert heads[1] == ["corrupted", *(b if a != b else "" for a, b in zip(clean, corrupted, strict=True))]
    assert "in the corrupted run" in page.text and "into the corrupted run" in page.text
    assert "' Mary' against ' John'" in page.text and "hatched" in page.text


@pytest.mark.parametrize("site", SITES)
def test_every_site_is_shown(browser, model, site):
    browser.site.value = site
    page = assert_shows(browser, model)
    if SITES[site][0] == "head":
        assert [cell["text"] for cell in page.tables[0][0]] == [
            "head",
            *map(str, range(len(page.cells()[0]))),
        ]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_metric_and_direction_is_shown(browser, model, metric, direction):
    browser.metric.value, browser.direction.value, browser.site.value = metric, direction, "z"
    page = assert_shows(browser, model)
    assert metric in page.text and "hatched" not in page.text
    edited, other = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
    assert f"from the {other} into the {edited} run" in page.text
    assert f"Share of the way from the {edited} run to the {other} run" in page.text


@pytest.mark.parametrize("site", ["attn_out", "v"])
def test_the_top_sites_are_listed(browser, model, site):
    browser.site.value = site
    found = patching_map(model, CLEAN, CORRUPTED, ANSWER, WRONG, site=site)
    heads, *rows = [[cell["text"] for cell in row] for row in Page(browser).tables[1]]
    assert heads == ["layer", "where", "logit difference", "share"]
    assert len(rows) == min(8, int(found.changes.sum()))
    for row, (layer, part) in zip(rows, found.top(8), strict=True):
        assert row[0] == str(layer) and row[1].startswith(f"{SITES[site][0]} {part}")
        assert number(row[2]) == pytest.approx(float(found.patched[layer, part]), rel=6e-3)
        assert number(row[3]) == pytest.approx(float(found.share[layer, part]), rel=0.06)
    if site == "attn_out":
        assert any("·Mary / ·John" in row[1] for row in rows), "both tokens where they differ"


def test_what_cannot_be_patched_is_said_in_one_sentence(browser, model):
    before = browser.page.value
    for part, value, said in (
        (browser.clean, CLEAN + " the", "different token lengths"),
        (browser.clean, "", "empty"),
        (browser.clean, CORRUPTED, "both"),
        (browser.corrupted, "a" * 200, "at most 128"),
        (browser.answer, " Mary John", "answer is ' Mary John'"),
        (browser.wrong, "", "wrong is ''"),
        (browser.wrong, ANSWER, "should differ"),
        (browser.wrong, HOSTILE, "tokens"),
    ):
        was, part.value = part.value, value
        page = Page(browser)
        assert not page.tables and page.elements == {"div"}
        assert_one_sentence(ValueError(page.text.strip().replace("</script>", "")), said)
        part.value = was
        assert browser.page.value == before


def test_a_browser_may_begin_with_prompts_that_do_not_match(model):
    assert "different token lengths" in PatchingBrowser(model, "a b", "a").page.value


def test_what_is_not_offered_is_refused(model):
    for name in ("site", "metric", "direction"):
        with pytest.raises(ValueError) as error:
            PatchingBrowser(model, CLEAN, CORRUPTED, ANSWER, WRONG, **{name: "nothing"})
        assert_one_sentence(error.value, f"{name} is 'nothing'")


def test_tokens_and_answers_are_escaped(hostile, browser):
    page = Page(browser)
    assert page.elements <= {"div", "table", "caption", "tr", "th", "td"}
    assert HOSTILE[:23] + "…:" in page.cells()[1][-1]["title"]
    assert page.tables[0][0][1]["text"] == HOSTILE[:8] + "…"


def test_errors_are_escaped(browser, monkeypatch):
    def refuse(*_):
        raise ValueError(f"text is {HOSTILE}\nand more")

    monkeypatch.setattr(prompts.tokens, "encode", refuse)
    browser.clean.value = "x"
    assert Page(browser).elements == {"div"} and Page(browser).text == f"text is {HOSTILE} and more"


def test_a_map_seen_before_is_not_run_again(browser, monkeypatch):
    first = browser.page.value
    browser.site.value = "z"
    monkeypatch.setattr(patching.view, "patching_map", None)
    browser.site.value = "resid_pre"
    assert browser.page.value == first


def test_the_repr_says_what_is_shown_and_never_drifts(browser):
    assert repr(browser) == f"PatchingBrowser({CLEAN!r}, resid_pre, logit difference, denoising)"
    assert browser._repr_mimebundle_()["text/plain"] == repr(browser)
    browser.clean.value = "a" * 300
    browser.site.value, browser.metric.value, browser.direction.value = (
        "pattern",
        "logit difference",
        "denoising",
    )
    assert browser._repr_mimebundle_()["text/plain"] == repr(browser), "ipywidgets has cut nothing"
    browser.site.value, browser.metric.value, browser.direction.value = "z", "probability", "noising"
    assert repr(browser).endswith(", z, probability, noising)")


def test_nothing_is_printed_or_captured_and_text_waits_until_it_is_done(browser, capsys):
    browser.site.value = "q"
    browser.clean.value = ""
    assert capsys.readouterr() == ("", "")
    widgets = [browser]
    for widget in widgets:
        assert not isinstance(widget, Output)
        widgets += getattr(widget, "children", ())
    texts = {browser.clean, browser.corrupted, browser.answer, browser.wrong}
    assert texts | {browser.site, browser.metric, browser.direction, browser.page} <= set(widgets)
    assert not any(text.continuous_update for text in texts)
