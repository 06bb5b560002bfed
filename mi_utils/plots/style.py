"""The house look that :mod:`mi_utils.plots.charts` and its parts share: checks, labels, colours, template,
layout.

Colours: categories are Okabe and Ito's palette without its yellow (too faint on white); the two scales are
ColorBrewer's YlGnBu and RdBu, whose luminance falls steadily from the light end, so they survive grey print.
As in most figures of the field, blue is positive and red is negative.
"""

import html
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.colors
import plotly.graph_objects as go
import torch

Array = torch.Tensor | np.ndarray
Number = float | int  # beartype takes no int for a float
Scale = tuple[str, ...]  # evenly spaced hexadecimal colours


def _hexadecimal(colours: Sequence[str]) -> Scale:
    """Plotly's ``rgb(r, g, b)`` as HTML and plotly both read it."""
    return tuple("#" + bytes(map(int, plotly.colors.unlabel_rgb(colour))).hex() for colour in colours)


SEQUENTIAL: Scale = _hexadecimal(plotly.colors.sequential.YlGnBu)
DIVERGING: Scale = _hexadecimal(plotly.colors.diverging.RdBu)
INK = "#1a1a1a"
SANS = "Open Sans, Segoe UI, Helvetica Neue, Arial, DejaVu Sans, sans-serif"
MONO = "DejaVu Sans Mono, Menlo, Consolas, Liberation Mono, monospace"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES = ("solid", "8px,3px", "2px,3px", "9px,3px,2px,3px", "15px,4px", "15px,3px,2px,3px,2px,3px")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")

_AXIS = dict(
    showline=True,
    linecolor="#555555",
    ticks="outside",
    tickcolor="#555555",
    ticklen=4,
    gridcolor="#e4e4e4",
    zeroline=False,
    automargin=True,
    title=dict(standoff=10),
)
TEMPLATE = go.layout.Template(
    layout=dict(
        font=dict(family=SANS, size=12, color=INK),
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
        colorway=COLOURS,
        title=dict(x=0, xref="container", xanchor="left", y=1, yanchor="top", pad=dict(l=14, t=14)),
        title_font=dict(size=15),
        xaxis=_AXIS,
        yaxis=_AXIS,
        hoverlabel=dict(
            bgcolor="#ffffff",
            bordercolor="#555555",
            align="left",
            namelength=-1,
            font=dict(family=MONO, size=12, color=INK),
        ),
        legend=dict(bgcolor="rgba(255,255,255,0.85)", itemsizing="trace", tracegroupgap=2),
    )
)

_MARKS = {"\n": "↵", "\t": "⇥", "\r": "␍"}
_SPECIAL = {"<|endoftext|>": "<|eot|>", "<|begin_of_text|>": "<|bot|>", "<|end_of_text|>": "<|eot|>"}


def escape(text: object) -> str:
    """``text`` so that plotly shows it as it stands.

    Plotly reads tags, entities, ``$formulas$`` and, in hover templates, ``%{fields}``; all become entities.
    Every function of :mod:`mi_utils.plots.charts` already does this: use it only in figures made by hand.
    """
    return html.escape(str(text), quote=False).replace("$", "&#36;").replace("%{", "%&#123;")


def shorten(text: str, longest: int) -> str:
    """``text``, cut to ``longest`` characters with a final ellipsis."""
    return text if len(text) <= longest else text[: max(longest - 1, 1)] + "…"


def token_labels(tokens: Sequence[object], *, longest: int = 24) -> list[str]:
    """Readable one-line labels for decoded tokens; not escaped, because the figures escape what they show.

    Leading and trailing spaces become ``·``, line feeds ``↵``, tabs ``⇥``, an empty token ``∅``, other
    unprintable characters their code point; ``<|endoftext|>`` becomes ``<|eot|>``. A label of its own labels
    is itself, so ordinary labels may be passed as well.

    Args:
        tokens: strings as the tokenizer decodes them one by one (other objects go through ``str``).
        longest: characters after which a label is cut with an ellipsis.

    Raises:
        ValueError: one string instead of a sequence of strings.
    """
    _not_one_string(tokens, "tokens")
    return [shorten(_visible(str(token)), longest) for token in tokens]


def _not_one_string(labels: Sequence[object], name: str) -> None:
    if isinstance(labels, str):
        raise ValueError(f"{name} is the single string {labels!r}; it should be a sequence of strings")


def _visible(token: str) -> str:
    token = _SPECIAL.get(token, token)
    token = re.sub(r"^ +| +$", lambda spaces: "·" * len(spaces.group()), token)
    marked = (_MARKS.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in token)
    return "".join(marked) or "∅"


def finite(values: object, name: str, *dims: str) -> np.ndarray:
    """``values`` as a float32 array with the dimensions ``dims``, none of them empty.

    Raises:
        ValueError: another number of dimensions, nothing in it, or entries that are NaN or infinite.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    with np.errstate(over="ignore"):  # what float32 cannot hold is counted below
        array = np.asarray(values).astype(np.float32)
    wanted = " x ".join(dims)
    if array.ndim != len(dims):
        raise ValueError(f"{name} has shape {array.shape}; it should have {len(dims)} dimension(s): {wanted}")
    if not array.size:
        raise ValueError(f"{name} is empty, with shape {array.shape}; it should hold {wanted} numbers")
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{name} has {bad} NaN or infinite of {array.size} entries; all should be finite")
    return array


def matched(labels: Sequence[object], count: int, name: str, axis: str, *, longest: int = 24) -> list[str]:
    """``labels`` as token labels, one for each of ``count`` places on ``axis``; ValueError otherwise."""
    _not_one_string(labels, name)
    shown = token_labels(labels, longest=longest)
    if len(shown) != count:
        raise ValueError(f"{name} has {len(shown)} entries; it should have {count}, one for each {axis}")
    return shown


def limits(
    values: np.ndarray, diverging: bool | None, low: Number | None = None, high: Number | None = None
) -> tuple[float, float, Scale]:
    """Ends of the scale, and the scale: symmetric about 0 if ``diverging`` (None: if both signs occur)."""
    low = float(values.min()) if low is None else float(low)
    high = float(values.max()) if high is None else float(high)
    if not (np.isfinite([low, high]).all() and low <= high):
        raise ValueError(f"zmin, zmax are {low:g}, {high:g}; they should be finite and in increasing order")
    if diverging or (diverging is None and low < 0 < high):
        bound = max(abs(low), abs(high)) or 1.0
        return -bound, bound, DIVERGING
    return low, high if high > low else low + 1.0, SEQUENTIAL


def colour_at(fraction: Number, scale: Scale) -> tuple[int, int, int]:
    """Red, green, blue (0-255) at ``fraction`` (0-1) of ``scale``, as plotly interpolates it."""
    (colour,) = plotly.colors.sample_colorscale(list(scale), [min(max(float(fraction), 0.0), 1.0)])
    red, green, blue = (round(part) for part in plotly.colors.unlabel_rgb(colour))
    return red, green, blue


def luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance, 0 (black) to 1 (white), of an sRGB colour (WCAG 2, "relative luminance")."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_on(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever has the higher WCAG contrast on ``colour``; it is never below 4.5."""
    shade = luminance(colour)
    return "#000000" if (shade + 0.05) / 0.05 >= 1.05 / (shade + 0.05) else "#ffffff"


def layout(fig: go.Figure, title: str | None, width: Number, height: Number, **more: Any) -> go.Figure:
    """Fix the size (``height`` is that of the drawing), wrap the title and leave it the room it needs."""
    lines = textwrap.wrap(title or "", max(20, int((width - 40) / 8)))
    top = 20 + 20 * len(lines) + more.pop("above", 0)
    margin = dict(l=50, r=20, t=top, b=40)
    fig.layout.template = TEMPLATE
    fig.update_layout(width=round(width), height=round(height) + top + 40, margin=margin, **more)
    if lines:
        fig.update_layout(title_text="<br>".join(escape(line) for line in lines))
    return fig


def token_ticks(labels: Sequence[str], room: Number, *, size: int = 11) -> dict[str, Any]:
    """Ticks at 0, 1, ... with text, so that equal tokens keep apart; every k-th where room is short."""
    crowd = len(labels) * (size + 1) / room
    step = next(s for e in range(9) for s in (10**e, 2 * 10**e, 5 * 10**e) if s >= crowd)
    places = list(range(0, len(labels), step))
    text = [escape(labels[i]) for i in places]
    return dict(tickmode="array", tickvals=places, ticktext=text, tickfont=dict(family=MONO, size=size))


def tick_angle(labels: Sequence[str], cell: Number, size: int = 11) -> int:
    """Tick labels lie flat where they fit into ``cell`` pixels, else lean, else stand."""
    if max(map(len, labels)) * 0.62 * size + 4 <= cell:
        return 0
    return -45 if cell >= 1.6 * size else -90


def label_height(labels: Sequence[str], angle: int, size: int = 11) -> float:
    """Pixels that tick labels turned by ``angle`` take below the axis, beyond one line."""
    return -math.sin(math.radians(angle)) * 0.62 * size * max(map(len, labels))


def log_axis(values: np.ndarray) -> dict[str, Any]:
    """A logarithmic axis for these numbers, all above 0, on which every tick is written as a number.

    Plotly's own choice writes ``2`` and ``5`` between powers of ten, and may write nothing at all where the
    numbers lie within one decade.
    """
    places = log_ticks(float(values.min()), float(values.max()))
    return dict(type="log", tickmode="array", tickvals=places, ticktext=[_power(place) for place in places])


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from a little below ``low`` to a little above ``high``, about four to eight of them."""
    reach = 1.02 * (high / low) ** 0.05
    low, high = low / reach, high * reach
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in (range(1, 10), (1, 2, 5), (1, 3), (1,)):
        places = [digit * 10.0**exponent for exponent in exponents for digit in digits]
        found = [place for place in places if low <= place <= high]
        if len(found) < 4:  # the first has most of them
            break
        if len(found) <= 8:
            return found
    if len(found) > 8:  # powers of ten
        return found[:: math.ceil(len(found) / 8)]
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= max(factor for factor in (1, 2, 5) if factor * step <= (high - low) / 3)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _power(value: float) -> str:
    """``0.001``, ``20,000``, ``3·10⁻⁶`` as plotly writes it."""
    if 1e-4 <= value < 1e5:
        return f"{value:,.10g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    power = f"10<sup>{int(exponent)}</sup>".replace("-", "−")
    return power if float(mantissa) == 1 else f"{float(mantissa):g}·{power}"


def colour_bar(title: str | None) -> dict[str, Any]:
    """A thin colour bar at the right of the drawing, its title above it in short lines."""
    lines = textwrap.wrap(title or "", 16, break_long_words=False)
    heading = dict(text="<br>".join(escape(line) for line in lines), side="top")
    return dict(title=heading, thickness=14, outlinewidth=0.5, ticks="outside", x=1.01)
