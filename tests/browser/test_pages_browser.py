"""A page of `make run`, opened from disk in a browser: drawn, readable, and nothing asked of the network."""

import nbformat.v4 as v4
import plotly.graph_objects as go
import pytest

from mi_workshop import pages

pytestmark = pytest.mark.browser

TEXT = r"""# Look at a page

Inline $x_\ell = \sum_h W_O^h z^h$ and displayed:

\begin{align} h &= \mathrm{ReLU}(W x) \\ \hat{x} &= W^\top h \end{align}
"""


def _figure(**layout):
    fig = go.Figure(go.Heatmap(z=[[1, 2], [3, 4]]), layout=layout)
    return v4.new_output("display_data", data={pages.PLOTLY: fig.to_plotly_json(), "image/png": "AAAA"})


@pytest.fixture(scope="module")
def notebook():
    hostile = "</script><script>document.title = 'taken'</script>"
    outputs = [_figure(title="Heads & layers", height=300), _figure(title=hostile)]
    table = v4.new_output("display_data", data={"text/html": "<table><tr><td>Paris</td></tr></table>"})
    cells = [v4.new_markdown_cell(TEXT), v4.new_code_cell("fig", outputs=outputs)]
    cells.append(v4.new_code_cell("HTML(...)", outputs=[table]))
    return v4.new_notebook(cells=cells)


@pytest.fixture(params=["light", "dark"])
def opened(request, chromium, notebook, tmp_path):
    path = tmp_path / "00_look.html"
    path.write_text(pages.page(notebook, tmp_path / "00_look.ipynb", out=tmp_path), encoding="utf-8")
    page = chromium.new_page(color_scheme=request.param, viewport={"width": 1000, "height": 800})
    page.requested, page.said = [], []
    page.on("request", lambda asked: page.requested.append(asked.url))
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("#figure-2 .main-svg", state="attached")
    yield page
    page.close()


def test_a_page_asks_only_for_its_own_file_and_says_nothing_on_the_console(opened):
    opened.wait_for_timeout(300)
    assert [address for address in opened.requested if not address.startswith(("data:", "blob:"))] == [
        opened.url
    ]
    assert opened.said == []


def test_figures_are_drawn_once_and_live(opened):
    assert opened.locator(".js-plotly-plot .heatmaplayer image").count() == 2
    assert opened.locator("img").count() == 0, "the PNG beside a figure is shown as well"
    assert opened.locator("#figure-1").bounding_box()["height"] == pytest.approx(300, abs=2)
    opened.mouse.move(*_centre(opened.locator("#figure-1 .nsewdrag")))
    opened.wait_for_selector("#figure-1 .hoverlayer .hovertext", state="attached")


def test_text_of_a_figure_runs_no_script(opened):
    assert opened.title() == "Look at a page"


def test_formulas_are_drawn_as_formulas(opened):
    assert opened.locator("math").count() == 2
    inline, block = (opened.locator("math").nth(i).bounding_box() for i in range(2))
    assert inline["width"] > 60 and block["height"] > 1.5 * inline["height"]
    assert "\\" not in opened.locator("main").inner_text()


def test_text_is_readable_in_both_colour_schemes(opened):
    for selector in ("main h1", "main p", "main .highlight pre", "main .html td"):
        ink, ground = opened.evaluate(COLOURS, selector)
        assert _contrast(ink, ground) > 4.5, f"{selector}: {ink} on {ground}"


def test_the_page_is_no_wider_than_the_window(opened):
    opened.set_viewport_size({"width": 480, "height": 800})
    opened.wait_for_timeout(200)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 480


def test_the_policy_refuses_a_script_that_asks_the_network(chromium, tmp_path):
    sneaky = "<script>fetch('http://127.0.0.1:9/x').catch(() => { window.refused = true; })</script>"
    output = v4.new_output("display_data", data={"text/html": sneaky})
    nb = v4.new_notebook(cells=[v4.new_markdown_cell("# Ask"), v4.new_code_cell("x", outputs=[output])])
    path = tmp_path / "00_ask.html"
    path.write_text(pages.page(nb, tmp_path / "00_ask.ipynb", out=tmp_path), encoding="utf-8")
    page, requested = chromium.new_page(), []
    page.on("request", lambda asked: requested.append(asked.url))
    page.goto(path.as_uri())
    page.wait_for_function("window.refused === true")
    assert requested == [page.url]


COLOURS = """selector => {
  const element = document.querySelector(selector);
  let ground = element;
  const clear = place => getComputedStyle(place).backgroundColor === "rgba(0, 0, 0, 0)";
  while (ground && clear(ground)) ground = ground.parentElement;
  const numbers = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
  return [numbers(getComputedStyle(element).color), numbers(getComputedStyle(ground).backgroundColor)];
}"""


def _centre(locator):
    box = locator.bounding_box()
    return box["x"] + box["width"] / 4, box["y"] + box["height"] / 4


def _contrast(one, other):
    """Contrast of two colours as WCAG 2 defines it."""

    def luminance(colour):
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
