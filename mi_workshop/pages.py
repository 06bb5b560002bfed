"""An executed notebook as one HTML file that loads nothing, from the network or from beside it.

nbconvert's templates take MathJax, require.js, mermaid and ipywidgets from the network; here formulas are
MathML, plotly.js is inlined, a widget is a note, and the page's own policy has the browser refuse all else.
"""

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from mi_utils.plots import html
from mi_utils.plots.html import Markup
from mi_workshop import alt_text, sources
from mi_workshop.execute import PLOTLY, WIDGET
from mi_workshop.formulas import formula, mathml
from mi_workshop.kernels import plain
from mi_workshop.page_loads import external_loads
from mi_workshop.page_style import style_sheet

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; media-src data:; worker-src blob:; frame-src data: blob:"
)
"""The page's Content-Security-Policy. WebGL figures compile their shaders' code, hence 'unsafe-eval'."""

# What is put in as it is: style sheet and scripts, which are the project's or plotly's, and what is Markup.
_DOCUMENT = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}</title>
<link rel="icon" href="data:,">
<style>
{{ style }}
</style>
</head>
<body>
<a class="skip" href="#main">To the text</a>
<header><nav aria-label="Pages">
{%- if crumb %}<a href="index.html">All notebooks</a>{% else %}<span>All notebooks</span>{% endif -%}
<span>{{ crumb }}</span></nav></header>
<main id="main">
{{ body }}
</main>
{% for script in scripts %}
<script>{{ script }}</script>
{% endfor %}
</body>
</html>
"""
_CELL = """\
<div class="{{ classes }}">
{%- if label %}<div class="label">{{ label }}</div>{% endif -%}
{{ code }}{{ outputs }}</div>"""
_FIGURE = """\
<div class="output"><div class="figure" id="{{ name }}" role="group" aria-label="{{ label }}"
 style="min-height:{{ height }}px"></div>
<script type="application/json" id="{{ name }}-data">{{ data }}</script>
<noscript>{{ label }}: the figure needs JavaScript.</noscript></div>"""
_LABELS = {"solution": "Worked solution", "check": "Check", "parameters": "Parameters"}
_DRAW = """
for (const place of document.querySelectorAll(".figure")) {
  const {data, layout, frames, config} = JSON.parse(document.getElementById(place.id + "-data").textContent);
  if (!layout.width) layout.autosize = true;
  Plotly.newPlot(place, {data, layout, frames, config: {...config, responsive: true, displaylogo: false}});
}
"""


def page(
    nb: NotebookNode, source: Path, *, out: Path, built: Collection[str] = (), error: str | None = None
) -> str:
    """The page of an executed notebook.

    Args:
        nb: the executed notebook.
        source: where the notebook lies; its links and pictures are relative to that folder.
        out: the folder in which the page will lie.
        built: names (without suffix) of the notebooks that have a page in ``out``: links to them go there.
        error: what failed, shown at the top.

    Raises:
        ValueError: an output would load something from elsewhere; the message lists what.
    """
    body = [_text(error, "error")] if error else []
    figures = _Figures()
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            body.append(_markdown_cell(cell, source, out, built))
        elif cell.cell_type == "code" and cell.source.strip():
            body.append(_code_cell(cell, figures))
    done = document(title(nb) or source.stem, "\n".join(body), crumb=source.stem, scripts=figures.scripts())
    if loads := external_loads(done):
        raise ValueError(f"{source.name}: its page would load {', '.join(loads[:5])}")
    return done


def title(nb: NotebookNode) -> str:
    """The first heading of the first cell, or nothing."""
    lines = nb.cells[0].source.splitlines() if nb.cells else []
    found = next((line for line in lines if line.startswith("# ")), "")
    return found.removeprefix("# ").strip()


def unconverted(nb: NotebookNode) -> list[str]:
    """The formulas of a notebook's text that its page shows as TeX, in order."""
    renderer = _Formulas(escape=False)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            MarkdownWithMath(renderer=renderer)(cell.source)
    return renderer.failed


def document(name: str, body: str, *, crumb: str = "", scripts: Iterable[str] = ()) -> str:
    """A whole page around ``body`` (HTML); ``name`` and ``crumb`` are text."""
    return str(
        html.render(
            _DOCUMENT,
            policy=Markup(POLICY),
            name=name,
            style=Markup(style_sheet()),
            crumb=crumb,
            body=Markup(body),
            scripts=[Markup(script) for script in scripts],
        )
    )


def _markdown_cell(cell: NotebookNode, source: Path, out: Path, built: Collection[str]) -> str:
    renderer = _Text(source, out, built, cell.get("attachments", {}))
    text = MarkdownWithMath(renderer=renderer)(cell.source)
    return html.render(
        '<div class="{{ classes }}">{{ text }}</div>', classes=_classes("text", cell), text=Markup(text)
    )


def _code_cell(cell: NotebookNode, figures: "_Figures") -> str:
    label = next((text for tag, text in _LABELS.items() if tag in sources.tags(cell)), "")
    source = sources.solved(cell.source) if "solution" in sources.tags(cell) else cell.source
    code = highlight(source, PythonLexer(), HtmlFormatter())
    outputs = "\n".join(_output(output, figures) for output in cell.outputs)
    return html.render(
        _CELL, classes=_classes("cell", cell), label=label, code=Markup(code), outputs=Markup(outputs)
    )


def _classes(kind: str, cell: NotebookNode) -> str:
    return " ".join([kind, *sorted(sources.tags(cell) & {"exercise", "extension"})])


def _output(output: NotebookNode, figures: "_Figures") -> str:
    if output.output_type == "stream":
        return _text(output.text, output.name)
    if output.output_type == "error":
        return _text("\n".join(output.traceback), "error")
    return _bundle(output.data, output.get("metadata", {}), figures)


def _text(text: str, kind: str = "") -> str:
    return html.render(
        '<div class="{{ classes }}"><pre>{{ text }}</pre></div>',
        classes=f"output {kind}".strip(),
        text=plain(text),
    )


def _bundle(data: dict[str, Any], metadata: dict[str, Any], figures: "_Figures") -> str:
    """The richest form of an output that a page can show."""
    text = str(data.get("text/plain", ""))
    if PLOTLY in data:
        return figures.add(data[PLOTLY], _alt(metadata, "image/png") or alt_text.of(data[PLOTLY]))
    if "text/html" in data:
        note = _note(text) if WIDGET in data else ""
        shown = Markup(data["text/html"])
        return html.render('<div class="output html">{{ shown }}</div>{{ note }}', shown=shown, note=note)
    if WIDGET in data:
        return _note(text)
    if "image/svg+xml" in data:
        return _image(f"data:image/svg+xml,{quote(data['image/svg+xml'])}", text)
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return _image(f"data:{kind};base64,{data[kind]}", _alt(metadata, kind) or text)
    for kind in ("text/markdown", "text/latex"):
        if kind in data:
            shown = MarkdownWithMath(renderer=_Formulas(escape=True))(data[kind])
            return html.render('<div class="output text">{{ shown }}</div>', shown=Markup(shown))
    return _text(text)


def _alt(metadata: dict[str, Any], kind: str) -> str:
    """The alternative text that is stored with a picture, or nothing."""
    return str(metadata.get(kind, {}).get("alt", ""))


def _note(text: str) -> str:
    shown = text if len(text) <= 200 else text[:200] + "…"
    note = '<div class="output note">Interactive in JupyterLab: <code>{{ shown }}</code></div>'
    return html.render(note, shown=shown)


def _image(address: str, alt: str) -> str:
    image = '<div class="output"><img src="{{ address }}" alt="{{ alt }}"></div>'
    return html.render(image, address=address, alt=alt or "output")


class _Figures:
    """The plotly figures of a page: place and data of each, and one plotly.js for all at the page's end."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, bundle: dict[str, Any], alt: str) -> str:
        self._count += 1
        layout = bundle.get("layout", {})
        # "<" is written as an escape, so that no text in a figure can end the script element.
        data = json.dumps({"layout": {}, **bundle}).replace("<", "\\u003c")
        return html.render(
            _FIGURE,
            name=f"figure-{self._count}",
            label=alt,
            height=int(layout.get("height") or 450),
            data=Markup(data),
        )

    def scripts(self) -> list[str]:
        return [get_plotlyjs(), _DRAW] if self._count else []


class _Formulas(IPythonRenderer):
    """Markdown with formulas as MathML; what cannot be converted is shown as TeX and kept in ``failed``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_harmful_protocols=False, anchor_link_text="#", **options)
        self.failed: list[str] = []

    def _formula(self, tex: str, display: bool) -> str:
        try:
            return mathml(tex, display=display)
        except ValueError:
            self.failed.append(tex.strip())
            return formula(tex, display=display)

    def inline_math(self, body: str) -> str:
        return self._formula(body, display=False)

    def block_math(self, body: str) -> str:
        return self._formula(body, display=True)

    def latex_environment(self, name: str, body: str) -> str:
        return self._formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)

    def block_mermaidjs(self, code: str) -> str:
        return str(html.render("<pre><code>{{ code }}</code></pre>", code=code))


class _Text(_Formulas):
    """The text of a notebook: links go to pages where there are some, pictures are put inside."""

    def __init__(self, source: Path, out: Path, built: Collection[str], attachments: dict[str, Any]) -> None:
        super().__init__(escape=False, embed_images=True, path=str(source.parent), attachments=attachments)
        self._source, self._out, self._built = source, out, built

    def link(self, text: str, url: str, title: str | None = None) -> str:
        address = _address(url, self._source, self._out, self._built)
        return super().link(text, address, title) if address else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        if not self._embed_image_or_attachment(url).startswith("data:"):
            return super().link(text or "picture", url)  # it lies elsewhere: a link instead
        return super().image(text, url, title)


def _address(url: str, source: Path, out: Path, built: Collection[str]) -> str | None:
    """Where a link of a notebook goes from its page; None if there is nothing."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc or not parts.path:
        return url
    target = (source.parent / unquote(parts.path)).resolve()
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    if target.suffix == ".ipynb" and target.parent == source.parent.resolve() and target.stem in built:
        return f"{quote(target.stem)}.html{fragment}"
    if target.exists():
        return quote(Path(os.path.relpath(target, out.resolve())).as_posix()) + fragment
    return None
