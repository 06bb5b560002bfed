"""An executed notebook as one HTML file that loads nothing, from the network or from beside it.

nbconvert's templates take MathJax, require.js, mermaid and ipywidgets from the network; here formulas are
MathML, plotly.js is inlined, a widget is a note, and the page's own policy has the browser refuse all else.
"""

import html
import json
import os
import re
from collections.abc import Collection, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from mi_workshop import alt_text, sources
from mi_workshop.execute import PLOTLY, WIDGET
from mi_workshop.formulas import formula, mathml
from mi_workshop.kernels import plain
from mi_workshop.page_style import style_sheet

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; media-src data:; worker-src blob:; frame-src data: blob:"
)
"""The page's Content-Security-Policy. WebGL figures compile their shaders' code, hence 'unsafe-eval'."""

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
    home = '<a href="index.html">All notebooks</a>' if crumb else "<span>All notebooks</span>"
    code = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(name)}</title>
<link rel="icon" href="data:,">
<style>
{style_sheet()}
</style>
</head>
<body>
<a class="skip" href="#main">To the text</a>
<header><nav aria-label="Pages">{home}<span>{html.escape(crumb)}</span></nav></header>
<main id="main">
{body}
</main>
{code}
</body>
</html>
"""


def _markdown_cell(cell: NotebookNode, source: Path, out: Path, built: Collection[str]) -> str:
    renderer = _Text(source, out, built, cell.get("attachments", {}))
    text = MarkdownWithMath(renderer=renderer)(cell.source)
    return f'<div class="{_classes("text", cell)}">{text}</div>'


def _code_cell(cell: NotebookNode, figures: "_Figures") -> str:
    label = next((text for tag, text in _LABELS.items() if tag in sources.tags(cell)), "")
    head = f'<div class="label">{label}</div>' if label else ""
    source = sources.solved(cell.source) if "solution" in sources.tags(cell) else cell.source
    code = highlight(source, PythonLexer(), HtmlFormatter())
    outputs = "\n".join(_output(output, figures) for output in cell.outputs)
    return f'<div class="{_classes("cell", cell)}">{head}{code}{outputs}</div>'


def _classes(kind: str, cell: NotebookNode) -> str:
    return html.escape(" ".join([kind, *sorted(sources.tags(cell) & {"exercise", "extension"})]))


def _output(output: NotebookNode, figures: "_Figures") -> str:
    if output.output_type == "stream":
        return _text(output.text, output.name)
    if output.output_type == "error":
        return _text("\n".join(output.traceback), "error")
    return _bundle(output.data, output.get("metadata", {}), figures)


def _text(text: str, kind: str = "") -> str:
    return f'<div class="{html.escape(f"output {kind}".strip())}"><pre>{html.escape(plain(text))}</pre></div>'


def _bundle(data: dict[str, Any], metadata: dict[str, Any], figures: "_Figures") -> str:
    """The richest form of an output that a page can show."""
    text = str(data.get("text/plain", ""))
    if PLOTLY in data:
        return figures.add(data[PLOTLY], _alt(metadata, "image/png") or alt_text.of(data[PLOTLY]))
    if "text/html" in data:
        note = _note(text) if WIDGET in data else ""
        return f'<div class="output html">{data["text/html"]}</div>{note}'
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
            return f'<div class="output text">{shown}</div>'
    return _text(text)


def _alt(metadata: dict[str, Any], kind: str) -> str:
    """The alternative text that is stored with a picture, or nothing."""
    return str(metadata.get(kind, {}).get("alt", ""))


def _note(text: str) -> str:
    shown = text if len(text) <= 200 else text[:200] + "…"
    return f'<div class="output note">Interactive in JupyterLab: <code>{html.escape(shown)}</code></div>'


def _image(address: str, alt: str) -> str:
    alt = html.escape(alt or "output")
    return f'<div class="output"><img src="{html.escape(address)}" alt="{alt}"></div>'


class _Figures:
    """The plotly figures of a page: place and data of each, and one plotly.js for all at the page's end."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, bundle: dict[str, Any], alt: str) -> str:
        self._count += 1
        layout = bundle.get("layout", {})
        name = f"figure-{self._count}"
        label = html.escape(alt)
        # "<" is written as an escape, so that no text in a figure can end the script element.
        data = json.dumps({"layout": {}, **bundle}).replace("<", "\\u003c")
        return (
            f'<div class="output"><div class="figure" id="{name}" role="group" aria-label="{label}" '
            f'style="min-height:{int(layout.get("height") or 450)}px"></div>'
            f'<script type="application/json" id="{name}-data">{data}</script>'
            f"<noscript>{label}: the figure needs JavaScript.</noscript></div>"
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
        return f"<pre><code>{html.escape(code)}</code></pre>"


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


_LOADING = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
_CSS_LOAD = re.compile(r"""url\(\s*["']?(?!data:|#)([^"')\s]+)|@import\s+["']?([^"';\s]+)""", re.IGNORECASE)
_MODULE_LOAD = re.compile(r"""\bimport\b[^;'"]*["']([^"']+)["']""")


def external_loads(text: str) -> list[str]:
    """What a page would load from elsewhere as it is opened: addresses in its elements and style sheets.

    Links that a reader may follow are none; nor is what a script may ask for, which the page's policy has the
    browser refuse.
    """
    parser = _Loads()
    parser.feed(text)
    parser.close()
    return parser.found


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        for name in _LOADING.get(tag, ()):
            address = given.get(name, "")
            if address and not address.startswith(("data:", "blob:", "#")):
                self.found.append(f"{tag} {name}={address[:200]}")
        if tag == "meta" and given.get("http-equiv", "").lower() == "refresh":
            self.found.append("meta refresh")
        self._css(given.get("style", ""))
        self.found += external_loads(given.get("srcdoc", ""))
        self._inside = "module" if tag == "script" and given.get("type") == "module" else tag

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self._css(data)
        elif self._inside == "module":
            self.found += [f"import {name}" for name in _MODULE_LOAD.findall(data)]

    def _css(self, text: str) -> None:
        self.found += [f"CSS {address or imported}" for address, imported in _CSS_LOAD.findall(text)]
