"""Tokens on coloured grounds, as HTML: the part of :mod:`mi_utils.plots.charts` that is no plotly figure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Real

from mi_utils.plots import html
from mi_utils.plots.style import (
    DIVERGING,
    INK,
    MONO,
    SANS,
    Array,
    Scale,
    colour_at,
    finite,
    ink_on,
    limits,
    matched,
)

_PARAGRAPHS = """\
{% if title %}<div style="font:600 14px {{ sans }}">{{ title }}</div>{% endif %}
{% for heading, cells in paragraphs %}
{% if heading %}<div style="font:600 12px {{ sans }};margin-top:8px">{{ heading }}</div>{% endif %}
<div style="margin-top:4px">
{%- for cell, ends_line in cells %}{{ cell }}{% if ends_line %}<br>{% endif %}{% endfor -%}
</div>
{% endfor %}
<div style="font:11px {{ sans }};margin-top:8px">{{ colour_title }}&ensp;
{%- for number, paint in legend -%}
<span style="display:inline-block;padding:1px 6px;{{ paint }}">{{ number }}</span>
{%- endfor -%}
</div>"""
_CELL = (
    '<span style="display:inline-block;vertical-align:top;text-align:center;margin:1px 0 3px">'
    '<span title="{{ label }}: {{ number }}" style="{{ style }}">{{ label }}</span>'
    '{% if numbered %}<br><span style="font-size:10px">{{ number }}</span>{% endif %}</span>'
)


@dataclass(frozen=True, repr=False)
class ColouredTokens:
    """Tokens on coloured grounds, shown by Jupyter; its plain text is only the size, which never drifts."""

    html: str
    rows: int
    tokens: int

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"ColouredTokens({self.rows} x {self.tokens} tokens)"


def coloured_tokens(
    tokens: Sequence[str],
    values: Real[Array, "token"] | Real[Array, "name token"],
    *,
    title: str | None = None,
    names: Sequence[object] | None = None,
    colour_title: str = "value",
    diverging: bool | None = None,
    strongest: int = 5,
) -> ColouredTokens:
    """The text of ``tokens`` with each token's ground coloured by its value, one paragraph for each row.

    Without colour it reads by the line under each token, whose weight is the size of the value (dotted where
    negative), and by the numbers under the ``strongest`` tokens of a row; a tooltip has every value.

    Args:
        values: one number a token, or several rows of them on one common scale.
        names: a heading for each row.
        colour_title: what the values are, with their unit.
        diverging: centre the colours on 0; by default where both signs occur.

    Raises:
        ValueError: empty or not finite values, or a number of tokens or names other than that of the values.
    """
    single = np.ndim(values) == 1
    table = finite(values, "values", *(("token",) if single else ("name", "token")))
    table = table[None] if single else table
    labels = matched(tokens, table.shape[1], "tokens", "value")
    headings = (
        [""] * len(table)
        if names is None
        else matched(names, len(table), "names", "row of values", longest=200)
    )
    low, high, scale = limits(table, diverging)
    colours = (low, high, scale)
    paragraphs = []
    for heading, row in zip(headings, table, strict=True):
        numbered = set(np.argsort(-np.abs(row), kind="stable")[:strongest].tolist())
        cells = [
            (_cell(label, float(value), colours, i in numbered), str(token).endswith("\n"))
            for i, (token, label, value) in enumerate(zip(tokens, labels, row, strict=True))
        ]
        paragraphs.append((heading, cells))
    ends = np.linspace(low, high, 5).tolist()
    body = html.render(
        _PARAGRAPHS,
        title=title,
        paragraphs=paragraphs,
        colour_title=colour_title,
        legend=[(_number(value, colours), _paint(value, colours)) for value in ends],
        sans=SANS,
    )
    card = html.frame(body, style=f"max-width:900px;font:13px/1.4 {MONO}")
    return ColouredTokens(str(card), *table.shape)


def _number(value: float, colours: tuple[float, float, Scale]) -> str:
    signed = "+" if value and colours[2] is DIVERGING else ""
    return f"{value:{signed}.3g}".replace("-", "−")


def _paint(value: float, colours: tuple[float, float, Scale]) -> str:
    low, high, scale = colours
    ground = colour_at((value - low) / (high - low), scale)
    return f"background:#{bytes(ground).hex()};color:{ink_on(ground)}"


def _cell(label: str, value: float, colours: tuple[float, float, Scale], numbered: bool) -> html.Markup:
    low, high, _ = colours
    weight = round(4 * abs(value) / max(abs(low), abs(high)))
    rule = f"{weight}px {'dotted' if value < 0 else 'solid'} {INK}"
    style = f"display:inline-block;white-space:pre;padding:1px 2px;border-bottom:{rule};"
    return html.render(
        _CELL,
        label=label,
        number=_number(value, colours),
        style=style + _paint(value, colours),
        numbered=numbered,
    )
