"""Tokens on coloured grounds, as HTML: the part of :mod:`mi_utils.plots.charts` that is no plotly figure."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Real

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
    paragraphs = []
    for heading, row in zip(headings, table, strict=True):
        if heading:
            style = f"font:600 12px {SANS};margin-top:8px"
            paragraphs.append(f'<div style="{style}">{html.escape(heading)}</div>')
        numbered = set(np.argsort(-np.abs(row), kind="stable")[:strongest].tolist())
        cells = [
            _cell(label, float(value), (low, high, scale), i in numbered)
            + ("<br>" if str(token).endswith("\n") else "")
            for i, (token, label, value) in enumerate(zip(tokens, labels, row, strict=True))
        ]
        paragraphs.append(f'<div style="margin-top:4px">{"".join(cells)}</div>')
    head = f'<div style="font:600 14px {SANS}">{html.escape(title)}</div>' if title else ""
    card = (
        f'<div style="background:#ffffff;color:{INK};border:1px solid #cccccc;border-radius:4px;'
        f'padding:10px 12px;max-width:900px;font:13px/1.4 {MONO}">'
    )
    body = head + "".join(paragraphs) + _legend(low, high, scale, colour_title)
    return ColouredTokens(f"{card}{body}</div>", *table.shape)


def _number(value: float, colours: tuple[float, float, Scale]) -> str:
    signed = "+" if value and colours[2] is DIVERGING else ""
    return f"{value:{signed}.3g}".replace("-", "−")


def _paint(value: float, colours: tuple[float, float, Scale]) -> str:
    low, high, scale = colours
    ground = colour_at((value - low) / (high - low), scale)
    return f"background:#{bytes(ground).hex()};color:{ink_on(ground)}"


def _cell(label: str, value: float, colours: tuple[float, float, Scale], numbered: bool) -> str:
    low, high, _ = colours
    weight = round(4 * abs(value) / max(abs(low), abs(high)))
    rule = f"{weight}px {'dotted' if value < 0 else 'solid'} {INK}"
    under = f'<br><span style="font-size:10px">{_number(value, colours)}</span>' if numbered else ""
    style = f"display:inline-block;white-space:pre;padding:1px 2px;border-bottom:{rule};"
    style += _paint(value, colours)
    shown = html.escape(label)
    return (
        '<span style="display:inline-block;vertical-align:top;text-align:center;margin:1px 0 3px">'
        f'<span title="{shown}: {_number(value, colours)}" style="{style}">{shown}</span>{under}</span>'
    )


def _legend(low: float, high: float, scale: Scale, colour_title: str) -> str:
    swatches = "".join(
        f'<span style="display:inline-block;padding:1px 6px;{_paint(value, (low, high, scale))}">'
        f"{_number(value, (low, high, scale))}</span>"
        for value in np.linspace(low, high, 5).tolist()
    )
    return f'<div style="font:11px {SANS};margin-top:8px">{html.escape(colour_title)}&ensp;{swatches}</div>'
