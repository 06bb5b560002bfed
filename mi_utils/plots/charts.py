"""The house look of the workshop's figures, in plotly: heat maps, lines, bars, attention, coloured tokens.

Every function takes tensors (any float type, on any device) or numpy arrays, and labels as plain text, which
it escapes. A figure carries its own template: an opaque white card that reads in light and dark themes alike,
fixed size, colours that survive colour blindness and grey print (see :mod:`mi_utils.plots.style`). Sizes,
numbers of traces and dtypes depend on the shapes of what is shown, never on the values.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, SupportsFloat

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Real

from mi_utils.plots.attention import attention_browser, attention_pattern
from mi_utils.plots.scatters import scatter
from mi_utils.plots.style import (
    COLOURS,
    DASHES,
    DIVERGING,
    INK,
    MARKERS,
    MONO,
    TEMPLATE,
    Array,
    Number,
    Scale,
    colour_at,
    colour_bar,
    escape,
    finite,
    ink_on,
    label_height,
    layout,
    limits,
    log_axis,
    matched,
    shorten,
    tick_angle,
    token_labels,
    token_ticks,
)
from mi_utils.plots.text import ColouredTokens, coloured_tokens

__all__ = [
    "COLOURS",
    "TEMPLATE",
    "ColouredTokens",
    "attention_browser",
    "attention_pattern",
    "bar",
    "coloured_tokens",
    "escape",
    "heatmap",
    "line",
    "scatter",
    "token_labels",
]

Series = Real[Array, "n"] | Sequence[SupportsFloat]
EVERY_POINT = 60  # points of a curve up to which each has its marker


def heatmap(
    values: Real[Array, "row col"],
    *,
    x: Sequence[object] | None = None,
    y: Sequence[object] | None = None,
    title: str | None = None,
    x_title: str | None = None,
    y_title: str | None = None,
    colour_title: str | None = None,
    diverging: bool | None = None,
    text: Sequence[Sequence[str]] | None = None,
    zmin: Number | None = None,
    zmax: Number | None = None,
    origin: Literal["lower", "upper"] = "lower",
) -> go.Figure:
    """Cells coloured by value: layer by position, layer by head, a matrix of cosines.

    Row 0 is at the bottom (``origin="lower"``), as layer 0 is in papers on the logit lens; ``"upper"`` puts
    it at the top, as a matrix is printed. On the diverging scale, cells that are clearly negative (beyond a
    fifth of the range) carry a minus sign, so that grey print tells the signs apart.

    Args:
        x, y: tokens or other labels of columns and rows; by default 0, 1, ...
        colour_title: what the values are, with their unit.
        diverging: centre the colours on 0; by default where both signs occur.
        text: strings shown in the cells, such as top tokens; cut to fit there, whole on hovering.
        zmin, zmax: ends of the colour scale; the larger of the two sizes counts where it is diverging.

    Raises:
        ValueError: empty or not finite values, or labels or text of another size than the values.
    """
    z = finite(values, "values", "row", "col")
    rows, cols = z.shape
    x_labels = matched(range(cols) if x is None else x, cols, "x", "column")
    y_labels = matched(range(rows) if y is None else y, rows, "y", "row")
    low, high, scale = limits(z, diverging, zmin, zmax)
    cell_w = min(max(840 / cols, 36), 90) if text is not None else min(640 / cols, 56)
    cell_h = min(max(480 / rows, 18 if text is not None else 0), 34)
    trace = go.Heatmap(z=z, coloraxis="coloraxis", xgap=int(cell_w > 12), ygap=int(cell_h > 12))
    lines = [f"{_field(y_title, 'row')} %{{y}}", f"{_field(x_title, 'column')} %{{x}}"]
    lines += [f"{_field(colour_title, 'value')} %{{z:.4g}}"]
    fig = go.Figure(trace)
    if text is not None:
        full = _cell_text(text, z.shape)
        cut = [[shorten(label, int((cell_w - 3) / 6.1)) for label in row] for row in full]
        fig.add_trace(_written(cut, z, (low, high, scale)))
        fig.data[0].customdata = [[escape(label) for label in row] for row in full]
        lines.insert(2, "text %{customdata}")
    elif min(cell_w, cell_h) > 10:  # by shape alone, so that the figure's structure never drifts
        minus_below = 0.2 * low if scale is DIVERGING else -np.inf
        signs = [["−" if v < minus_below else "" for v in row] for row in z]
        fig.add_trace(_written(signs, z, (low, high, scale), size=14))
    fig.data[0].hovertemplate = "<br>".join(lines) + "<extra></extra>"
    bar = colour_bar(colour_title)
    beside = max(90, 24 + 7 * max(map(len, bar["title"]["text"].split("<br>"))))
    width = 90 + 7 * max(map(len, y_labels)) + cols * cell_w + beside
    x_axis = token_ticks(x_labels, cols * cell_w) | dict(title_text=escape(x_title or ""))
    x_axis["tickangle"] = tick_angle(x_labels, cell_w)
    y_axis = token_ticks(y_labels, rows * cell_h) | dict(title_text=escape(y_title or ""))
    x_axis["range"] = [-0.5, cols - 0.5]
    y_axis["range"] = [rows - 0.5, -0.5] if origin == "upper" else [-0.5, rows - 0.5]
    colours = dict(cmin=low, cmax=high, colorscale=list(scale), colorbar=bar)
    plain = dict(showgrid=False, showline=False)
    height = rows * cell_h + 20 + label_height(x_labels, x_axis["tickangle"])
    fig.update_layout(coloraxis=colours, xaxis=x_axis | plain, yaxis=y_axis | plain)
    return layout(fig, title, width, height)


def _written(
    shown: Sequence[Sequence[str]], z: np.ndarray, colours: tuple[float, float, Scale], size: int = 10
) -> go.Scatter:
    """Text in the cells, black or white: plotly's own choice falls short of a contrast of 4.5."""
    low, high, scale = colours
    y, x = np.indices(z.shape, dtype=np.float32)
    inks = [ink_on(colour_at((float(v) - low) / (high - low), scale)) for v in z.flat]
    return go.Scatter(
        x=x.ravel(),
        y=y.ravel(),
        text=[escape(label) for row in shown for label in row],
        mode="text",
        textfont=dict(family=MONO, size=size, color=inks),
        hoverinfo="skip",
        showlegend=False,
    )


def _field(title: str | None, default: str) -> str:
    return escape(title or default)


def _cell_text(text: Sequence[Sequence[str]], shape: tuple[int, ...]) -> list[list[str]]:
    rows = [matched(row, shape[1], f"text[{i}]", "column", longest=200) for i, row in enumerate(text)]
    if len(rows) != shape[0]:
        raise ValueError(f"text has {len(rows)} rows; it should have {shape[0]}, one for each row of values")
    return rows


def line(
    ys: Mapping[str, Series],
    *,
    x: Series | Sequence[str] | None = None,
    title: str | None = None,
    x_title: str | None = None,
    y_title: str | None = None,
    bands: Mapping[str, tuple[Series, Series]] | None = None,
    hline: Mapping[str, SupportsFloat] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> go.Figure:
    """Curves on a common x, told apart by colour, dash and marker together.

    Each point has its marker; a curve of more than 60 points has fifteen.

    Args:
        ys: name in the legend -> its values, all of one length.
        x: numbers, or labels such as tokens; by default 0, 1, ...
        bands: name of a curve -> (low, high), drawn as a shade around it (an interval, a spread over seeds).
        hline: name -> height of a horizontal reference line.

    Raises:
        ValueError: no or not finite values, different lengths, a band that belongs to no curve or is upside
            down, or numbers that are not positive on a logarithmic axis.
    """
    if not ys:
        raise ValueError("ys is empty; it should hold at least one curve, as a mapping from name to values")
    curves = {str(name): finite(values, f"ys[{name!r}]", "n") for name, values in ys.items()}
    count = len(next(iter(curves.values())))
    places, axis = _places(x, count)
    shown = 0 if count <= EVERY_POINT else 15  # 0: all; the markers of a long curve would hide its dashes
    fig = go.Figure()
    for i, (name, y) in enumerate(curves.items()):
        _same_length(y, count, f"ys[{name!r}]")
        style = dict(color=COLOURS[i % len(COLOURS)], dash=DASHES[i % len(DASHES)], width=2)
        if bands and name in bands:
            fig.add_trace(_band(name, bands[name], places, style["color"], group=str(i)))
        fig.add_scatter(
            x=places,
            y=y,
            name=escape(name),
            legendgroup=str(i),
            mode="lines+markers",
            line=style,
            marker=dict(symbol=MARKERS[i % len(MARKERS)], size=7, maxdisplayed=shown),
            hovertemplate="%{x}: %{y:.4g}",
        )
    if stray := sorted(set(bands or ()) - set(curves)):
        raise ValueError(f"bands names {stray[0]!r}, which is not among the curves {list(curves)}")
    for i, (name, height) in enumerate((hline or {}).items()):
        level = float(finite([float(height)], f"hline[{name!r}]", "n")[0])
        fig.add_hline(
            level,
            line=dict(color="#555555", width=1.2, dash="dot"),
            annotation_text=escape(name),
            annotation_position=("top right", "top left")[i % 2],
            annotation_bgcolor="rgba(255,255,255,0.65)",
            annotation_font=dict(size=11, color="#333333"),
        )
    _check_logarithmic(fig, log_x, log_y)
    legend = 60 + 7 * max(map(len, curves)) if len(curves) > 1 else 0
    heights = np.concatenate([np.asarray(trace.y) for trace in fig.data])
    fig.update_xaxes(title_text=escape(x_title or ""), **(log_axis(places) if log_x else axis))
    fig.update_yaxes(title_text=escape(y_title or ""), **(log_axis(heights) if log_y else {}))
    below = label_height(axis["ticktext"], axis["tickangle"]) if "ticktext" in axis else 0
    return layout(fig, title, 640 + legend, 340 + below, showlegend=len(curves) > 1)


def _places(x: Any, count: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Where the points of :func:`line` are, and what the axis must know: ticks with text, or a step of 1."""
    places = np.arange(count, dtype=np.float32)
    if x is not None and len(x) and isinstance(x[0], str):
        labels = matched(x, count, "x", "value of a curve")
        return places, token_ticks(labels, 520) | dict(tickangle=tick_angle(labels, 520 / count))
    if x is not None:
        places = finite(x, "x", "n")
        _same_length(places, count, "x")
    few_integers = np.ptp(places) <= 12 and bool((places == np.round(places)).all())
    return places, dict(dtick=1) if few_integers else {}


def _same_length(values: np.ndarray, count: int, name: str) -> None:
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries; it should have {count}, as the first curve has")


def _band(name: str, band: tuple[Series, Series], x: np.ndarray, colour: str, *, group: str) -> go.Scatter:
    low, high = (finite(edge, f"bands[{name!r}]", "n") for edge in band)
    for edge in (low, high):
        _same_length(edge, len(x), f"bands[{name!r}]")
    if (low > high).any():
        raise ValueError(f"bands[{name!r}] has a low edge above its high edge; it should be (low, high)")
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([low, high[::-1]]),
        fill="toself",
        mode="lines",
        name=escape(name),
        legendgroup=group,
        showlegend=False,
        hoverinfo="skip",
        line=dict(width=0),
        fillcolor=f"rgba({red},{green},{blue},0.18)",
    )


def _check_logarithmic(fig: go.Figure, log_x: bool, log_y: bool) -> None:
    for axis, wanted in (("x", log_x), ("y", log_y)):
        lowest = min(float(np.min(trace[axis])) for trace in fig.data)
        if wanted and lowest <= 0:
            raise ValueError(f"log_{axis} is set but {axis} goes down to {lowest:g}; it should be positive")


def bar(
    values: Series,
    labels: Sequence[object],
    *,
    error: Series | None = None,
    title: str | None = None,
    x_title: str | None = None,
    y_title: str | None = None,
    horizontal: bool = False,
) -> go.Figure:
    """One bar a label with its value written at the end; negative ones are red and hatched.

    Args:
        error: half-length of an error bar for each value; the values are then not written.
        x_title, y_title: of the axes as drawn.
        horizontal: bars run to the right, the first label at the top (better for long labels).

    Raises:
        ValueError: empty or not finite values, labels or errors of another number, a negative error.
    """
    v = finite(values, "values", "label")
    names = matched(labels, len(v), "labels", "value", longest=48 if horizontal else 24)
    places = np.arange(len(v), dtype=np.float32)
    room = max(min(28 * len(v), 900), 160) if horizontal else min(max(48 * len(v), 420), 860)
    trace = go.Bar(
        orientation="h" if horizontal else "v",
        marker=dict(
            color=[COLOURS[1] if value < 0 else COLOURS[0] for value in v],
            pattern=dict(shape=["/" if value < 0 else "" for value in v], fillmode="replace", size=6),
            line=dict(color="#333333", width=0.8),
        ),
        hovertemplate="%{y}: %{x:.4g}<extra></extra>" if horizontal else "%{x}: %{y:.4g}<extra></extra>",
    )
    along, across = ("x", "y") if horizontal else ("y", "x")
    trace.update({along: v, across: places})
    spread = _errors(np.zeros_like(v) if error is None else error, len(v))
    if error is not None:
        trace.update({f"error_{along}": dict(array=spread, color="#333333", thickness=1.4)})
    elif room / len(v) >= (16 if horizontal else 40):
        trace.update(text=[f"{value:.3g}".replace("-", "−") for value in v], textposition="outside")
        trace.update(textfont=dict(size=10, color=INK), cliponaxis=False, textangle=0)
    fig = go.Figure(trace)
    ticks = token_ticks(names, room)
    if horizontal:
        fig.update_yaxes(range=[len(v) - 0.4, -0.6], showgrid=False, **ticks)
    else:
        lean = tick_angle(names, room / len(v))
        fig.update_xaxes(tickangle=lean, showgrid=False, **ticks)
    fig.update_xaxes(title_text=escape(x_title or ""))
    fig.update_yaxes(title_text=escape(y_title or ""))
    low, high = min(float((v - spread).min()), 0.0), max(float((v + spread).max()), 0.0)
    pad = 0.12 * ((high - low) or 1.0)  # room for the numbers
    span = [low - pad * (low < 0), high + pad * (high > 0 or low == 0)]
    zero = dict(range=span, zeroline=True, zerolinecolor="#333333", zerolinewidth=1)
    fig.update_layout({"bargap": 0.25, f"{along}axis": zero})
    wide = 560 + 7 * max(map(len, names)) if horizontal else room + 100
    return layout(fig, title, wide, room + 20 if horizontal else 320 + label_height(names, lean))


def _errors(error: Series, count: int) -> np.ndarray:
    array = finite(error, "error", "label")
    if len(array) != count or (array < 0).any():
        raise ValueError(f"error should be {count} numbers that are not negative, one for each value")
    return array
