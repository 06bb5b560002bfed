"""HTML of this project: templates that escape what they are given, a frame, a page that loads nothing.

Text of a model, a learner or a file is put into a jinja2 template, which escapes it. What a template made is
:class:`markupsafe.Markup`, and goes into another template as it is::

    rows = html.render("<li>{{ token }}</li>", token=token)
    shown = html.frame(html.render("<b>{{ name }}</b><ul>{{ rows }}</ul>", name=name, rows=rows))

Where one function renders a template many times, ``html.template`` compiles it once.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from mi_utils.plots.style import INK, SANS

_ENVIRONMENT = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda value: "" if value is None else value,
)

_FRAME = (
    f"background:#ffffff;color:{INK};border:1px solid #cccccc;border-radius:4px;padding:10px 12px;"
    f"font:13px/1.4 {SANS};overflow-x:auto"
)

# The data are JSON whose "<" are written as escapes, so that no tag in them ends the element. Scripts and
# styles are taken as they are, hence the checks in `page`.
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
{{ body }}
{% for name, content in data.items() %}
<script type="application/json" id="{{ name }}">{{ content }}</script>
{% endfor %}
{% if script %}
<script>{{ script }}</script>
{% endif %}
</body>
</html>
"""


@cache
def template(source: str) -> jinja2.Template:
    """The template, compiled: text is escaped, a name that is not given is an error, None is nothing."""
    return _ENVIRONMENT.from_string(source)


def render(source: str, **values: Any) -> Markup:
    """The template ``source`` with these values: text is escaped, :class:`Markup` is taken as it is."""
    return Markup(template(source).render(values))


def sentence(text: object) -> Markup:
    """A line of text, escaped."""
    return render('<div style="margin:4px 0">{{ text }}</div>', text=text)


def frame(body: str, *, style: str = "") -> Markup:
    """The frame around what a notebook shows.

    It is opaque and white, so that it reads in light and dark themes alike, and scrolls where it is wider
    than the page.

    Args:
        body: what :func:`render` made; other text is escaped.
        style: declarations of CSS beside those of the frame.
    """
    return render(
        '<div style="{{ frame }}{{ style }}">{{ body }}</div>', frame=_FRAME, style=f";{style}", body=body
    )


def document(
    title: str, body: str, *, script: str = "", style: str = "", data: Mapping[str, Any] | None = None
) -> str:
    """A whole HTML file. Its policy lets it load nothing, and run no script but ``script``.

    Args:
        title: of the page, escaped.
        body: what :func:`render` made, all of it; other text is escaped.
        script: JavaScript, run once the body is there; a script that no one else can change, so a file of
            the package and never a text with values put into it.
        style: a style sheet.
        data: what the script reads: id of the element -> anything that JSON can hold, to be read by
            ``JSON.parse(document.getElementById(id).textContent)``.

    Raises:
        ValueError: a script or style that would end its own element, or data that JSON can't hold (NaN too).
    """
    _one_element("script", script, ("</script", "<script", "<!--"))
    _one_element("style", style, ("</style",))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return template(_PAGE).render(
        title=title,
        body=body,
        style=Markup(style),
        script=Markup(script),
        data={name: _json(content) for name, content in (data or {}).items()},
        # A hash needs no escaping, and the quotes that a policy is written with must stay what they are.
        policy=Markup(f"{own}; script-src 'sha256-{allowed}'"),
    )


def _one_element(name: str, text: str, endings: tuple[str, ...]) -> None:
    for ending in endings:
        if ending in text.lower():
            raise ValueError(f"{name} has {ending!r} in it; it should hold nothing that ends its element")


def _json(content: Any) -> Markup:
    return Markup(json.dumps(content, allow_nan=False).replace("<", "\\u003c"))
