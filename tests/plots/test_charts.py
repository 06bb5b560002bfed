"""mi_utils.plots.charts: what a figure holds, what it escapes, and that it reads without colour."""

import inspect
import json
import os
import re
import shutil

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch

from mi_utils import plots
from mi_utils.plots.style import (
    COLOURS,
    DIVERGING,
    SEQUENTIAL,
    colour_at,
    finite,
    ink_on,
    limits,
    log_axis,
    log_ticks,
    luminance,
)

TOKENS = ["<|endoftext|>", "The", " capital", " of", " France", " is", "\n", " <b>$x$</b>"]
HOSTILE = "<b>A</b> &lt; $x$ %{y}"
SAFE = "&lt;b&gt;A&lt;/b&gt; &amp;lt; &#36;x&#36; %&#123;y}"


def attention(layers: int = 3, heads: int = 2, length: int = len(TOKENS)) -> torch.Tensor:
    scores = torch.randn(layers, heads, length, length, generator=torch.Generator().manual_seed(0))
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def signed(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def every_figure() -> dict[str, go.Figure]:
    n = len(TOKENS)
    return {
        "heatmap": plots.heatmap(
            signed(5, n), x=TOKENS, title=HOSTILE, x_title=HOSTILE, colour_title=HOSTILE
        ),
        "text": plots.heatmap(signed(2, n), x=TOKENS, y=["a", HOSTILE], text=[TOKENS, TOKENS]),
        "large": plots.heatmap(signed(120, 150)),
        "line": plots.line(
            {HOSTILE: signed(n), "b": signed(n)},
            x=TOKENS,
            bands={HOSTILE: (signed(n) - 9, signed(n) + 9)},
            hline={HOSTILE: 0.5},
        ),
        "bar": plots.bar(signed(n), TOKENS, title=HOSTILE, y_title=HOSTILE),
        "bar_h": plots.bar(signed(n), TOKENS, horizontal=True, error=signed(n).abs()),
        "pattern": plots.attention_pattern(attention()[0, 0], TOKENS, title=HOSTILE),
        "browser": plots.attention_browser(
            attention(), TOKENS, layers=["a", "b", HOSTILE], heads=[1, HOSTILE]
        ),
    }


# -- labels and escaping ---------------------------------------------------------------------------


def test_token_labels_make_white_space_and_special_tokens_visible():
    labels = plots.token_labels(
        [" of", "a b", "  ", "\n\n", "\t", "", "<|endoftext|>", "<b>", "x ", "\x00", 7]
    )
    assert labels == ["·of", "a b", "··", "↵↵", "⇥", "∅", "<|eot|>", "<b>", "x·", "\\u0000", "7"]
    assert plots.token_labels(labels) == labels, "labels of labels"
    assert plots.token_labels([" of", " of"]) == ["·of", "·of"], (
        "equal tokens stay apart by place, not by name"
    )


def test_long_labels_are_cut():
    assert plots.token_labels([" internationally"], longest=6) == ["·inte…"]


def test_a_single_string_is_not_a_list_of_tokens():
    with pytest.raises(ValueError, match="single string 'The'"):
        inspect.unwrap(plots.token_labels)("The")


def test_escape_leaves_nothing_for_plotly_to_interpret():
    assert plots.escape(HOSTILE) == SAFE


@pytest.mark.parametrize("name", list(every_figure()))
def test_no_figure_shows_text_as_markup(name):
    """Only the tags that the house look itself writes may stand in a figure."""
    ours = re.compile(r"<br>|<extra></extra>|%\{(x|y|z|customdata)(:[^}]*)?\}")

    def strings(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if key != "bdata":
                    yield from strings(value)
        elif isinstance(node, list | tuple):
            for value in node:
                yield from strings(value)
        elif isinstance(node, str):
            yield node

    found = list(strings(json.loads(every_figure()[name].to_json())))
    left = [s for s in found if re.search(r"[<>$]|%\{|&(?!lt;|gt;|amp;|#36;|#123;)", ours.sub("", s))]
    assert left == []
    if name not in ("large", "bar_h"):
        assert any("&lt;b&gt;" in s for s in found), "the hostile text is not shown at all"


def test_equal_tokens_keep_their_own_column():
    fig = plots.heatmap(signed(2, 3), x=[" of", " of", "."])
    assert list(fig.layout.xaxis.tickvals) == [0, 1, 2]
    assert list(fig.layout.xaxis.ticktext) == ["·of", "·of", "."]


# -- colour ----------------------------------------------------------------------------------------


def lightness(scale) -> np.ndarray:
    return np.array([luminance(colour_at(f, scale)) for f in np.linspace(0, 1, 101)])


def test_scales_are_monotone_in_luminance():
    assert (np.diff(lightness(SEQUENTIAL)) < 0).all()
    halves = lightness(DIVERGING)
    assert (np.diff(halves[:51]) > 0).all() and (np.diff(halves[50:]) < 0).all()


def test_luminance_agrees_with_known_values():
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((0, 0, 0)) == 0
    assert luminance((119, 119, 119)) == pytest.approx(0.1845, abs=1e-3)


def test_ink_has_a_contrast_of_at_least_4_5_everywhere():
    greys = [(g, g, g) for g in range(256)]
    scales = [colour_at(f, scale) for scale in (SEQUENTIAL, DIVERGING) for f in np.linspace(0, 1, 501)]
    for ground in greys + scales:
        ink = luminance((0, 0, 0) if ink_on(ground) == "#000000" else (255, 255, 255))
        light, dark = max(ink, luminance(ground)), min(ink, luminance(ground))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, ground


def test_lines_stand_out_from_white():
    for colour in COLOURS:
        assert luminance(colour_at(0, (colour, colour))) < 0.5, colour


@pytest.mark.parametrize(
    ("values", "diverging", "expected"),
    [
        ([-1.0, 4.0], None, (-4.0, 4.0, DIVERGING)),
        ([1.0, 4.0], None, (1.0, 4.0, SEQUENTIAL)),
        ([-4.0, -1.0], None, (-4.0, -1.0, SEQUENTIAL)),
        ([0.0, 4.0], True, (-4.0, 4.0, DIVERGING)),
        ([-1.0, 4.0], False, (-1.0, 4.0, SEQUENTIAL)),
        ([2.0, 2.0], None, (2.0, 3.0, SEQUENTIAL)),
        ([0.0, 0.0], True, (-1.0, 1.0, DIVERGING)),
    ],
)
def test_scale_follows_the_signs_and_is_centred_on_zero(values, diverging, expected):
    assert limits(np.array(values, dtype=np.float32), diverging) == expected
    axis = plots.heatmap(torch.tensor([values]), diverging=diverging).layout.coloraxis
    assert (axis.cmin, axis.cmax) == expected[:2]


def test_given_limits_stay_centred_when_diverging():
    axis = plots.heatmap(signed(3, 3), zmin=-1, zmax=3).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-3, 3)
    with pytest.raises(ValueError, match="zmin, zmax are 2, 1"):
        plots.heatmap(signed(3, 3), zmin=2, zmax=1)


def test_negative_cells_and_bars_differ_without_colour():
    values = torch.tensor([[-1.0, -0.01, 1.0]])
    assert list(plots.heatmap(values).data[1].text) == ["−", "", ""]
    assert list(plots.heatmap(values.abs()).data[1].text) == ["", "", ""]
    assert list(plots.bar(values[0], list("abc")).data[0].marker.pattern.shape) == ["/", "/", ""]


def test_lines_differ_without_colour():
    fig = plots.line({str(i): signed(4) for i in range(20)})
    assert len({(t.line.dash, t.marker.symbol) for t in fig.data}) == 20


# -- shapes, types, structure ----------------------------------------------------------------------


@pytest.mark.parametrize("name", list(every_figure()))
def test_figures_survive_json_and_are_the_same_twice(name):
    first, second = (every_figure()[name].to_json() for _ in range(2))
    assert first == second
    assert json.loads(pio.from_json(first).to_json()) == json.loads(first)
    assert "uid" not in json.loads(first)["data"][0]


@pytest.mark.parametrize("name", list(every_figure()))
def test_figures_have_a_size_and_an_opaque_ground(name):
    layout = every_figure()[name].layout
    assert layout.template.layout.paper_bgcolor == "#ffffff"
    assert 300 <= layout.width <= 1100 and 100 < layout.height <= 1100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_any_number_type_becomes_float32(dtype):
    values = torch.arange(6).reshape(2, 3).to(dtype)
    for given in (values,) if dtype == torch.bfloat16 else (values, values.numpy()):
        z = plots.heatmap(given).data[0].z
        assert z.dtype == np.float32 and z.shape == (2, 3) and z.tolist() == values.tolist()


def test_tensors_that_carry_gradients_are_shown():
    assert plots.line({"a": torch.ones(3, requires_grad=True)}).data[0].y.dtype == np.float32
    assert plots.bar(torch.ones(2, requires_grad=True), ["a", "b"]).data[0].y.dtype == np.float32


def test_structure_depends_on_shape_alone():
    def skeleton(fig):
        return [(t.type, t.mode if t.type == "scatter" else None, len(t.to_plotly_json())) for t in fig.data]

    for values in (signed(4, 6), signed(4, 6).abs(), torch.zeros(4, 6)):
        assert skeleton(plots.heatmap(values)) == skeleton(plots.heatmap(-signed(4, 6)))
        assert skeleton(plots.bar(values[0], list("abcdef"))) == skeleton(
            plots.bar(signed(6), list("abcdef"))
        )


def test_heatmap_puts_row_0_where_it_says():
    assert plots.heatmap(signed(3, 2)).layout.yaxis.range == (-0.5, 2.5)
    assert plots.heatmap(signed(3, 2), origin="upper").layout.yaxis.range == (2.5, -0.5)


def test_heatmap_text_is_cut_in_the_cell_and_whole_on_hovering():
    fig = plots.heatmap(signed(30, 15), text=[["internationalisation of words"] * 15] * 30)
    assert len(fig.data[1].text[0]) < 12 and fig.data[1].text[0].endswith("…")
    assert fig.data[0].customdata[29][14] == "internationalisation of words"


def test_line_draws_bands_beneath_their_curve_and_reference_lines():
    y = np.array([1.0, 2.0, 4.0])
    fig = plots.line({"a": y, "b": y}, x=[1, 10, 100], bands={"b": (y - 1, y + 1)}, hline={"chance": 0.25})
    assert [t.fill for t in fig.data] == [None, "toself", None]
    assert fig.data[1].y.tolist() == [0, 1, 3, 5, 3, 2] and fig.data[1].x.tolist() == [1, 10, 100, 100, 10, 1]
    assert fig.data[1].legendgroup == fig.data[2].legendgroup == "1"
    assert fig.layout.shapes[0].y0 == 0.25 and fig.layout.annotations[0].text == "chance"


def test_horizontal_bars_run_from_top_to_bottom():
    fig = plots.bar([1.0, -2.0], ["first", "second"], horizontal=True)
    assert fig.layout.yaxis.range[0] > fig.layout.yaxis.range[1]
    assert fig.data[0].x.tolist() == [1, -2] and list(fig.data[0].text) == ["1", "−2"]


# -- attention -------------------------------------------------------------------------------------


def test_pattern_keeps_its_weights_and_blanks_the_future():
    weights = attention()[1, 1]
    z = plots.attention_pattern(weights, TOKENS).data[0].z
    past = np.tril(np.ones_like(z, dtype=bool))
    assert np.isnan(z[~past]).all() and np.array_equal(z[past], weights.numpy()[past])


@pytest.mark.parametrize("heads", [1, 2, 7, 9, 16])
def test_browser_shows_every_head_of_one_layer(heads):
    patterns = attention(4, heads)
    fig = plots.attention_browser(patterns, TOKENS, start=2)
    shown = [t for t in fig.data if t.visible is True]
    assert [t.name for t in shown] == [f"layer 2 head {h}" for h in range(heads)]
    for head, trace in enumerate(shown):
        assert trace.z.dtype == np.uint8
        assert np.abs(trace.z - 100 * patterns[2, head].numpy()).max() <= 0.5001
    assert len({t.xaxis for t in shown}) == heads
    assert {a.text for a in fig.layout.annotations} == {f"head {h}" for h in range(heads)}


def test_each_step_of_the_slider_shows_its_layer_and_the_covers():
    fig = plots.attention_browser(attention(3, 2), TOKENS, layers=[10, 20, 30])
    slider = fig.layout.sliders[0]
    assert [s.label for s in slider.steps] == ["10", "20", "30"] and slider.active == 0
    for step, layer in zip(slider.steps, (10, 20, 30), strict=True):
        visible = step.args[0]["visible"]
        assert len(visible) == len(fig.data)
        names = [t.name for t, on in zip(fig.data, visible, strict=True) if on]
        assert names == [f"layer {layer} head 0", f"layer {layer} head 1", None, None]
    cover = fig.data[-1].z
    assert np.array_equal(np.isnan(cover), np.tril(np.ones_like(cover, dtype=bool)))


def test_browser_of_the_default_model_stays_small():
    words = [f" token{i}" for i in range(15)]
    assert len(plots.attention_browser(attention(30, 9, 15), words).to_json()) < 300_000


def test_browser_refuses_what_a_notebook_cannot_hold(monkeypatch):
    monkeypatch.setattr("mi_utils.plots.attention.MAX_CELLS", 100)
    with pytest.raises(ValueError, match="384 cells; it should have at most 100"):
        plots.attention_browser(attention(), TOKENS)


# -- coloured tokens -------------------------------------------------------------------------------


def test_coloured_tokens_escape_everything():
    shown = plots.coloured_tokens(
        ["<script>", '" onload="x', " a"], signed(3), title="<i>", names=None, colour_title="<u>"
    )._repr_html_()
    assert set(re.findall(r"</?(\w+)", shown)) == {"div", "span", "br"}
    assert 'onload="x' not in shown and "·a" in shown and "&lt;i&gt;" in shown and "&lt;u&gt;" in shown


def test_coloured_tokens_read_without_colour():
    values = torch.tensor([0.1, -4.0, 2.0, 0.0])
    shown = plots.coloured_tokens(["a", "b", "c\n", "d"], values, strongest=1).html
    rules = re.findall(r"border-bottom:(\d)px (\w+)", shown)
    assert rules == [("0", "solid"), ("4", "dotted"), ("2", "solid"), ("0", "solid")]
    assert re.findall(r'10px">([^<]+)<', shown) == ["−4"]
    assert 'title="a: +0.1"' in shown and 'title="c↵: +2"' in shown
    assert shown.index("c↵</span>") < shown.index("<br>", shown.index("c↵</span>")) < shown.index("d</span>")


def test_coloured_tokens_state_their_ink_and_ground():
    shown = plots.coloured_tokens(TOKENS, signed(len(TOKENS))).html
    for ground, ink in re.findall(r"background:(#\w{6});color:(#\w{6})", shown)[1:]:
        assert ink == ink_on(colour_at(0, (ground, ground)))


def test_coloured_tokens_have_a_plain_text_without_numbers():
    rows = plots.coloured_tokens(TOKENS, signed(2, len(TOKENS)), names=["one", "<two>"])
    assert repr(rows) == "ColouredTokens(2 x 8 tokens)"
    assert "one" in rows.html and "&lt;two&gt;" in rows.html
    assert repr(plots.coloured_tokens(["a"], torch.zeros(1))) == "ColouredTokens(1 x 1 tokens)"


# -- bad input -------------------------------------------------------------------------------------
# inspect.unwrap takes jaxtyping's test-time check away: these are the messages a notebook's reader sees.

BROKEN = torch.tensor([[1.0, torch.nan], [torch.inf, 0.0]])
BAD = {
    "heatmap NaN": (lambda: plots.heatmap(BROKEN), "values has 2 NaN or infinite of 4"),
    "heatmap empty": (lambda: plots.heatmap(torch.zeros(0, 3)), r"values is empty, with shape \(0, 3\)"),
    "heatmap dims": (lambda: inspect.unwrap(plots.heatmap)(signed(3)), r"shape \(3,\); it should have 2 dim"),
    "heatmap x": (lambda: plots.heatmap(signed(2, 3), x=["a"]), "x has 1 entries; it should have 3"),
    "heatmap y": (lambda: plots.heatmap(signed(2, 3), y=["a"]), "y has 1 entries; it should have 2"),
    "heatmap text": (lambda: plots.heatmap(signed(2, 1), text=[["a"]]), "text has 1 rows; it should have 2"),
    "heatmap row": (lambda: plots.heatmap(signed(1, 2), text=[["a"]]), r"text\[0\] has 1 entries"),
    "line none": (lambda: plots.line({}), "ys is empty"),
    "line NaN": (lambda: plots.line({"a": BROKEN[0]}), r"ys\['a'\] has 1 NaN"),
    "line lengths": (lambda: plots.line({"a": signed(2), "b": signed(3)}), r"ys\['b'\] has 3 entries"),
    "line x": (lambda: plots.line({"a": signed(2)}, x=[1, 2, 3]), "x has 3 entries; it should have 2"),
    "line words": (lambda: plots.line({"a": signed(2)}, x=["a"]), "x has 1 entries; it should have 2"),
    "line band": (lambda: plots.line({"a": signed(2)}, bands={"b": ([0, 0], [1, 1])}), "bands names 'b'"),
    "line upside": (lambda: plots.line({"a": [0, 1]}, bands={"a": ([1, 1], [0, 2])}), "low edge above"),
    "line short": (lambda: plots.line({"a": [0, 1]}, bands={"a": ([0], [1])}), r"bands\['a'\] has 1 entries"),
    "line hline": (lambda: plots.line({"a": [0, 1]}, hline={"h": float("nan")}), r"hline\['h'\] has 1 NaN"),
    "line log": (lambda: plots.line({"a": [0, 1]}, log_y=True), "log_y is set but y goes down to 0"),
    "bar labels": (lambda: plots.bar([1.0], ["a", "b"]), "labels has 2 entries; it should have 1"),
    "bar string": (lambda: plots.bar([1.0], "a"), "labels is the single string 'a'"),
    "bar empty": (lambda: plots.bar([], []), "values is empty"),
    "bar error": (
        lambda: plots.bar([1.0], ["a"], error=[-1.0]),
        "error should be 1 numbers that are not neg",
    ),
    "pattern": (lambda: plots.attention_pattern(attention()[0, 0], TOKENS[:3]), "tokens has 3 entries"),
    "not square": (lambda: plots.attention_pattern(torch.zeros(2, 3), TOKENS), "2 queries and 3 keys"),
    "not weights": (lambda: plots.attention_pattern(2 * torch.eye(2), ["a", "b"]), "goes from 0 to 2"),
    "not causal": (lambda: plots.attention_pattern(torch.full((2, 2), 0.5), ["a", "b"]), "later positions"),
    "layers": (
        lambda: plots.attention_browser(attention(), TOKENS, layers=[1]),
        "layers has 1 entries; it .* 3",
    ),
    "heads": (
        lambda: plots.attention_browser(attention(), TOKENS, heads=[1]),
        "heads has 1 entries; it .* 2",
    ),
    "start": (
        lambda: plots.attention_browser(attention(), TOKENS, start=3),
        "start is 3; it should .* 0 to 2",
    ),
    "browser dims": (lambda: inspect.unwrap(plots.attention_browser)(attention()[0], TOKENS), "4 dimension"),
    "tokens": (lambda: plots.coloured_tokens(["a"], signed(2)), "tokens has 1 entries; it should have 2"),
    "names": (lambda: plots.coloured_tokens(["a"], signed(2, 1), names=["n"]), "names has 1 entries; .* 2"),
    "tokens NaN": (lambda: plots.coloured_tokens(["a", "b"], BROKEN), "values has 2 NaN"),
    "overflow": (lambda: finite(np.array([1e300]), "values", "n"), "values has 1 NaN or infinite"),
}


@pytest.mark.parametrize("count", [1, 30, 60])
def test_every_point_of_a_curve_has_its_marker(count):
    trace = plots.line({"a": np.arange(count)}).data[0]
    assert trace.mode == "lines+markers" and not trace.marker.maxdisplayed


def test_a_long_curve_has_some_markers():
    assert plots.line({"a": np.arange(61)}).data[0].marker.maxdisplayed == 15


@pytest.mark.parametrize("low", [1e-9, 3.3e-5, 0.11, 1.0, 7.3, 990.0, 4.2e6])
@pytest.mark.parametrize("ratio", [1.0, 1.01, 1.3, 1.7, 3, 9, 11, 99, 101, 1e4, 1e7, 1e12])
def test_a_logarithmic_axis_has_its_ticks_written(low, ratio):
    places = log_ticks(low, low * ratio)
    assert 2 <= len(places) <= 12 and places == sorted(set(places))
    reach = 1.03 * ratio**0.05
    assert all(low / reach <= place <= low * ratio * reach for place in places)
    axis = log_axis(np.array([low, low * ratio]))
    assert axis["type"] == "log" and len(set(axis["ticktext"])) == len(places) and all(axis["ticktext"])


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.1, 1000, ["0.1", "1", "10", "100", "1,000"]),
        (1, 100, ["1", "2", "5", "10", "20", "50", "100"]),
        (1e-7, 1e-3, ["10<sup>−7</sup>", "10<sup>−6</sup>", "10<sup>−5</sup>", "0.0001", "0.001"]),
        (2e-6, 8e-6, [f"{n}·10<sup>−6</sup>" for n in range(2, 9)]),
        (0.11, 0.19, ["0.12", "0.14", "0.16", "0.18"]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_round_numbers(low, high, texts):
    assert log_axis(np.array([high, low]))["ticktext"] == texts


def test_logarithmic_axes_of_curves_show_their_own_numbers():
    fig = plots.line({"a": [1e-3, 1.0], "b": [10.0, 2.0]}, x=[1, 100], log_x=True, log_y=True)
    assert list(fig.layout.xaxis.ticktext) == ["1", "2", "5", "10", "20", "50", "100"]
    assert list(fig.layout.yaxis.ticktext) == ["0.001", "0.01", "0.1", "1", "10"]


def test_the_title_of_a_colour_bar_stands_above_it_in_short_lines():
    title = plots.heatmap(np.eye(2), colour_title="change of the metric from base (nats)").layout.coloraxis
    lines = title.colorbar.title.text.split("<br>")
    assert title.colorbar.title.side == "top" and max(map(len, lines)) <= 16
    assert " ".join(lines) == "change of the metric from base (nats)"


def test_a_wide_title_of_a_colour_bar_takes_no_room_from_the_cells():
    narrow, wide = (plots.heatmap(np.eye(2), colour_title=title).layout.width for title in ("nats", "m" * 16))
    assert wide > narrow


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_clear_sentence(case):
    act, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_nothing_warns():
    every_figure()
    plots.coloured_tokens(TOKENS, torch.zeros(len(TOKENS)))
    plots.line({"a": [1.0]})
    plots.bar([0.0], ["a"])
    plots.heatmap(torch.zeros(1, 1))


# -- in a browser ----------------------------------------------------------------------------------


@pytest.mark.browser
def test_slider_and_hover_work_in_a_page_without_kernel(tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium and os.environ.get("MI_REQUIRE_BROWSER") != "1":
        pytest.skip("needs Chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    page_file = tmp_path / "page.html"
    plots.attention_browser(attention(5, 3), TOKENS).write_html(page_file, include_plotlyjs=True)
    figure = "document.querySelector('.plotly-graph-div')"
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.goto(page_file.as_uri())
        rail = page.locator(".slider-rail-touch-rect").bounding_box()
        names = f"{figure}._fullData.filter(t => t.visible === true).map(t => t.name).slice(0, 3)"
        assert page.evaluate(names) == ["layer 0 head 0", "layer 0 head 1", "layer 0 head 2"]
        page.mouse.click(rail["x"] + 0.97 * rail["width"], rail["y"] + rail["height"] / 2)
        page.wait_for_function(f"{names}[0] === 'layer 4 head 0'")
        box = page.evaluate(
            f"(() => {{const g = {figure}, l = g._fullLayout, r = g.getBoundingClientRect();"
            "return [r.x + l.xaxis._offset, r.y + l.yaxis._offset, l.xaxis._length, l.yaxis._length]})()"
        )
        query, key = 7, 2
        n = len(TOKENS)
        page.mouse.move(box[0] + box[2] * (key + 0.5) / n, box[1] + box[3] * (query + 0.5) / n)
        hover = page.wait_for_selector(".hoverlayer .nums").text_content()
        browser.close()
    weight = round(100 * float(attention(5, 3)[4, 0, query, key]))
    assert hover == f"query ·<b>$x$</b>key ·capitalweight {weight} %"
