"""Pages of `make run`: nothing loaded from elsewhere, formulas as MathML, all text escaped."""

import json
import re
from html.parser import HTMLParser

import nbformat.v4 as v4
import pytest

from mi_workshop import page_loads, pages
from mi_workshop.formulas import formula, mathml

PNG = "iVBORw0KGgo="
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'text'"


def shown(out, *cells, folder=None, **options):
    """The page of a notebook with these cells."""
    return pages.page(
        v4.new_notebook(cells=list(cells)), (folder or out) / "00_here.ipynb", out=out, **options
    )


def said(out, text, **options):
    """The main part of the page of one Markdown cell."""
    return main(shown(out, v4.new_markdown_cell(text), **options))


def displayed(out, **data):
    """The main part of the page of one cell with one output; keys are MIME types, "_" for "/"."""
    bundle = {name.replace("_", "/", 1): value for name, value in data.items()}
    return main(shown(out, v4.new_code_cell("x", outputs=[v4.new_output("display_data", data=bundle)])))


def main(page):
    return re.search(r"<main id=\"main\">(.*)</main>", page, re.DOTALL)[1]


def figure(**layout):
    return v4.new_output(
        "display_data",
        data={
            pages.PLOTLY: {"data": [{"type": "bar", "y": [1, 2]}], "layout": layout},
            "image/png": PNG,
        },
    )


class Tags(HTMLParser):
    """Elements of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.all = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))

    def of(self, name):
        return [attrs for tag, attrs in self.all if tag == name]


def test_a_page_with_everything_loads_nothing(tmp_path):
    (tmp_path / "map.png").write_bytes(b"x")
    cells = [
        v4.new_markdown_cell(
            "# A\n\n![a map](map.png) $x^2$ [paper](https://paper.example)\n\n```mermaid\na-->b\n```"
        ),
        v4.new_code_cell("1", outputs=[figure(title="t"), figure()]),
        v4.new_code_cell(
            "2", outputs=[v4.new_output("display_data", data={pages.WIDGET: {"model_id": "1"}})]
        ),
        v4.new_code_cell("3", outputs=[v4.new_output("display_data", data={"image/png": PNG})]),
    ]
    page = shown(tmp_path, *cells)
    assert page_loads.external_loads(page) == []
    assert "default-src 'none'" in Tags(page).of("meta")[1]["content"]
    without_plotly = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"https?://[^\s\"<]+", without_plotly) == [
        "http://www.w3.org/1998/Math/MathML",
        "https://paper.example",
    ]


@pytest.mark.parametrize(
    "loading",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<script src=//cdn.example/x.js></script>",
        '<link rel="stylesheet" href="https://cdn.example/x.css">',
        '<img src="beside.png">',
        '<IMG SRC="https://cdn.example/x.png"/>',
        '<img srcset="https://cdn.example/x.png 2x">',
        '<iframe src="https://cdn.example"></iframe>',
        '<iframe srcdoc="&lt;img src=https://cdn.example/x.png&gt;"></iframe>',
        '<div style="background: url(https://cdn.example/x.png)"></div>',
        "<style>@import 'https://cdn.example/x.css';</style>",
        "<style>p { background: URL( 'https://cdn.example/x.png' ) }</style>",
        '<svg><image href="https://cdn.example/x.png"/></svg>',
        '<script type="module">import x from "https://cdn.example/x.js"</script>',
        '<meta http-equiv="refresh" content="0; url=https://cdn.example">',
        '<video poster="https://cdn.example/x.png"></video>',
        '<object data="https://cdn.example/x.swf"></object>',
    ],
)
def test_an_output_that_loads_something_is_refused(tmp_path, loading):
    with pytest.raises(ValueError, match="00_here.ipynb: its page would load"):
        displayed(tmp_path, text_html=f"<p>{loading}</p>")


@pytest.mark.parametrize(
    "harmless",
    [
        f'<img src="data:image/png;base64,{PNG}" alt="x">',
        '<a href="https://paper.example">paper</a>',
        '<svg><use href="#mark"/></svg><div style="fill: url(#gradient)"></div>',
        "<script>const address = 'https://cdn.example';</script>",
        '<script>importantly("https://cdn.example")</script>',
    ],
)
def test_an_output_that_loads_nothing_is_kept_as_it_is(tmp_path, harmless):
    assert harmless in displayed(tmp_path, text_html=harmless)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a $x_i^2$ b", "<msubsup>"),
        (r"$$\frac{a}{b}$$", 'display="block"'),
        (r"\begin{align} a &= b \\ c &= d \end{align}", "<mtable"),
        (r"\begin{equation} x \end{equation}", "<mi>x</mi>"),
        (r"$$\begin{aligned} a &= b \end{aligned}$$", "<mtable"),
        (r"$f = \begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}$", "<mtext>else</mtext>"),
    ],
)
def test_formulas_become_mathml(tmp_path, text, expected):
    done = said(tmp_path, text)
    assert "<math" in done and expected in done
    assert "$" not in done and "\\" not in done


@pytest.mark.parametrize(
    "text", ["`$x$` and `$y$`", "```\n$x$ and $$y$$\n```", "    $x$", r"\$5 and \$6", "$5 alone"]
)
def test_what_only_looks_like_a_formula_stays(tmp_path, text):
    done = said(tmp_path, text)
    assert "<math" not in done and "$" in done


@pytest.mark.parametrize(
    "tex",
    [
        r"\foo{x}",
        r"\frac{a",
        "}",
        r"\left( x",
        "a & b",
        r"\begin{gather} a \end{gather}",
        r"\begin{wrong} x \end{wrong}",
    ],
)
def test_a_formula_that_is_not_understood_is_shown_as_tex(tmp_path, tex):
    with pytest.raises(ValueError, match="formula"):
        mathml(tex)
    assert re.fullmatch(r'<code class="tex"[^>]*>[^<]*</code>', formula(tex))
    nb = v4.new_notebook(cells=[v4.new_markdown_cell(f"$x$ and $${tex}$$")])
    assert pages.unconverted(nb) == [tex]
    assert 'class="tex"' in main(pages.page(nb, tmp_path / "00_here.ipynb", out=tmp_path))


def test_formulas_are_escaped_and_carry_no_links():
    assert "<script>" not in mathml(r"\text{<script>}") and "&lt;script&gt;" in mathml(r"\text{<script>}")
    assert "javascript" not in mathml(r"\href{javascript:x}{y}")
    assert "<script>" not in formula(r"\foo <script>")


def test_names_of_functions_are_identifiers():
    assert "<mi>ReLU</mi>" in mathml(r"\operatorname{ReLU}(x)")
    assert "<mi>argmax</mi>" in mathml(r"\operatorname*{argmax}_x")
    assert "\N{MATHEMATICAL DOUBLE-STRUCK DIGIT ONE}" in mathml(r"\mathbb{1}")
    assert "(1)" not in mathml(r"\begin{align} a \end{align}"), "Jupyter numbers no equations"


@pytest.mark.parametrize(
    "output",
    [
        v4.new_output("stream", name="stdout", text=HOSTILE),
        v4.new_output("stream", name="stderr", text=HOSTILE),
        v4.new_output("display_data", data={"text/plain": HOSTILE}),
        v4.new_output("display_data", data={pages.WIDGET: {}, "text/plain": HOSTILE}),
        v4.new_output("error", ename="E", evalue="", traceback=[HOSTILE]),
        v4.new_output("display_data", data={"text/markdown": HOSTILE}),
        v4.new_output("display_data", data={"image/png": PNG, "text/plain": HOSTILE}),
        v4.new_output(
            "display_data", data={pages.PLOTLY: {"data": [], "layout": {"title": {"text": HOSTILE}}}}
        ),
    ],
)
def test_text_of_outputs_is_escaped(tmp_path, output):
    page = shown(tmp_path, v4.new_code_cell("x", outputs=[output]))
    assert "<script>alert" not in page
    assert "alert(1)" in page


def test_titles_errors_and_code_are_escaped(tmp_path):
    cells = [
        v4.new_markdown_cell("# <script>alert(1)</script> a < b"),
        v4.new_code_cell("'<script>alert(2)</script>'"),
    ]
    page = shown(tmp_path, *cells, error="<script>alert(3)</script>")
    assert Tags(page.split("<main")[0]).of("script") == []
    assert "<script>alert(2)" not in page and "<script>alert(3)" not in page


def test_terminal_colours_are_dropped(tmp_path):
    done = main(
        shown(
            tmp_path,
            v4.new_code_cell(
                "x",
                outputs=[
                    v4.new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m"),
                    v4.new_output("error", ename="E", evalue="", traceback=["\x1b[0;31mE\x1b[0m: bad"]),
                ],
            ),
        )
    )
    assert "<pre>red</pre>" in done and "<pre>E: bad</pre>" in done


def test_plotly_comes_once_however_many_figures_and_shows_no_png(tmp_path):
    page = shown(
        tmp_path, v4.new_code_cell("x", outputs=[figure(title={"text": "Loss <b>curve</b>"}), figure()])
    )
    assert page.count("plotly.js v") == 1
    assert 'aria-label="Loss curve. Bars."' in re.sub(r"\s+", " ", page)
    assert PNG not in page
    data = re.findall(r'<script type="application/json" id="figure-\d-data">(.*?)</script>', page)
    assert [json.loads(text)["data"][0]["y"] for text in data] == [[1, 2], [1, 2]]


def test_a_figure_is_named_by_the_text_that_is_stored_with_it(tmp_path):
    stored = figure(title="Loss")
    stored.metadata["image/png"] = {"alt": 'The loss falls & "stays" low.'}
    (place,) = [tag for tag in Tags(shown(tmp_path, v4.new_code_cell("x", outputs=[stored]))).of("div")
                if tag.get("class") == "figure"]  # fmt: skip
    assert place["aria-label"] == 'The loss falls & "stays" low.'


def test_a_picture_has_the_text_that_is_stored_with_it(tmp_path):
    picture = v4.new_output("display_data", data={"image/png": PNG, "text/plain": "<Image>"})
    (plain,) = Tags(shown(tmp_path, v4.new_code_cell("x", outputs=[picture]))).of("img")
    assert plain["alt"] == "<Image>"
    picture.metadata["image/png"] = {"alt": "A map of heads."}
    (told,) = Tags(shown(tmp_path, v4.new_code_cell("x", outputs=[picture]))).of("img")
    assert told["alt"] == "A map of heads."


def test_a_page_without_figures_is_small(tmp_path):
    assert len(shown(tmp_path, v4.new_markdown_cell("# A"))) < 50_000


def test_a_widget_is_a_note_beside_what_else_there_is(tmp_path):
    note = displayed(tmp_path, **{pages.WIDGET.replace("/", "_", 1): {}, "text_plain": "IntSlider(value=3)"})
    assert "Interactive in JupyterLab: <code>IntSlider(value=3)</code>" in note
    both = displayed(tmp_path, **{pages.WIDGET.replace("/", "_", 1): {}, "text_html": "<b>table</b>"})
    assert "<b>table</b>" in both and "Interactive in JupyterLab" in both


def test_links_go_to_pages_that_are_built_and_else_to_the_file(tmp_path):
    folder, out = tmp_path / "notebooks", tmp_path / "build"
    folder.mkdir()
    out.mkdir()
    (folder / "01_next.ipynb").touch()
    (folder / "02_later.ipynb").touch()
    text = "[a](01_next.ipynb#part) [b](02_later.ipynb) [c](03_none.ipynb) [d](#here) "
    text += "[e](../notebooks/01_next.ipynb)"
    links = Tags(said(out, text, folder=folder, built={"01_next"})).of("a")
    assert [link["href"] for link in links] == [
        "01_next.html#part",
        "../notebooks/02_later.ipynb",
        "#here",
        "01_next.html",
    ]
    assert ">c</a>" not in said(out, text, folder=folder) and "c" in said(out, text, folder=folder)


def test_harmful_links_are_dropped(tmp_path):
    assert "javascript:" not in said(tmp_path, "[a](javascript:alert(1))")


def test_pictures_are_put_inside_with_their_text_or_become_links(tmp_path):
    (tmp_path / "map.png").write_bytes(b"x")
    (picture,) = Tags(said(tmp_path, "![a map](map.png)")).of("img")
    assert picture["src"].startswith("data:image/png;base64,") and picture["alt"] == "a map"
    far = said(tmp_path, "![a map](https://paper.example/map.png)")
    assert Tags(far).of("img") == [] and Tags(far).of("a")[0]["href"] == "https://paper.example/map.png"


def test_a_page_names_its_language_its_title_and_the_way_home(tmp_path):
    tags = Tags(shown(tmp_path, v4.new_markdown_cell("# Find the heads\n\n## Part")))
    assert tags.of("html") == [{"lang": "en"}]
    assert "index.html" in [link["href"] for link in tags.of("a")]
    assert "<title>Find the heads</title>" in shown(tmp_path, v4.new_markdown_cell("# Find the heads"))
    assert all("alt" in picture for picture in Tags(displayed(tmp_path, image_png=PNG)).of("img"))


def test_a_worked_solution_is_shown_without_its_markers(tmp_path):
    cell = v4.new_code_cell(
        "def f():\n    # solution\n    return 1\n    # end", metadata={"tags": ["solution"]}
    )
    done = main(shown(tmp_path, cell))
    assert "Worked solution" in done and "# end" not in done and "return" in done
