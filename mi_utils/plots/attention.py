"""Attention patterns: one head, or all heads of a model behind a slider; a part of
:mod:`mi_utils.plots.charts`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from mi_utils.plots.style import (
    SEQUENTIAL,
    Array,
    Number,
    colour_bar,
    escape,
    finite,
    label_height,
    layout,
    matched,
    tick_angle,
    token_ticks,
)

MAX_CELLS = 1_000_000  # of a browser: 1.4 MB in the notebook, which may hold 2


def attention_pattern(
    pattern: Float[Array, "query key"], tokens: Sequence[str], *, title: str | None = None
) -> go.Figure:
    """One head's attention: queries downwards, keys to the right, the future (key after query) blank.

    Raises:
        ValueError: not square, not finite, not between 0 and 1, attending to the future, or another number
            of tokens than positions.
    """
    weights = _causal(finite(pattern, "pattern", "query", "key"), "pattern")
    labels = matched(tokens, weights.shape[-1], "tokens", "position")
    weights[_future(len(labels))] = np.nan
    side = min(max(24 * len(labels), 300), 640)
    trace = go.Heatmap(
        z=weights,
        coloraxis="coloraxis",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        hovertemplate="query %{y}<br>key %{x}<br>weight %{z:.3f}<extra></extra>",
    )
    fig = go.Figure(trace)
    _attention_axes(fig, labels, side)
    fig.update_layout(xaxis_title_text="key", yaxis_title_text="query", coloraxis=_weights(1, "weight"))
    below = label_height(labels, tick_angle(labels, side / len(labels)))
    return layout(fig, title, side + 150 + 7 * max(map(len, labels)), side + 30 + below)


def attention_browser(
    patterns: Float[Array, "layer head query key"],
    tokens: Sequence[str],
    *,
    title: str | None = None,
    layers: Sequence[object] | None = None,
    heads: Sequence[object] | None = None,
    start: int = 0,
) -> go.Figure:
    """All heads of one layer side by side and a slider over the layers; needs no kernel, so works in a page.

    Weights are stored as whole per cent, one byte each, to keep a notebook small
    (:func:`attention_pattern` shows one head exactly). The future (key after query) is blank.

    Args:
        layers, heads: numbers or names shown for them; by default 0, 1, ...
        start: index of the layer shown first.

    Raises:
        ValueError: as :func:`attention_pattern`; also labels of another number than layers or heads, a start
            out of range, or more cells than a notebook can hold.
    """
    weights = finite(patterns, "patterns", "layer", "head", "query", "key")
    weights = _causal(weights, "patterns")
    n_layers, n_heads, length, _ = weights.shape
    labels = matched(tokens, length, "tokens", "position")
    layers = matched(range(n_layers) if layers is None else layers, n_layers, "layers", "layer of patterns")
    heads = matched(range(n_heads) if heads is None else heads, n_heads, "heads", "head of patterns")
    if not 0 <= start < n_layers:
        raise ValueError(f"start is {start}; it should be a layer index from 0 to {n_layers - 1}")
    if weights.size > MAX_CELLS:
        raise ValueError(f"patterns has {weights.size} cells; it should have at most {MAX_CELLS}")
    fig, side = _panels(heads), _side(n_heads)
    fig.update_annotations(font_size=12)  # the panels' titles
    percent = np.round(100 * weights).astype(np.uint8)
    for layer, head in np.ndindex(n_layers, n_heads):
        axis = str(head + 1) if head else ""
        fig.add_heatmap(
            z=percent[layer, head],
            coloraxis="coloraxis",
            xaxis=f"x{axis}",
            yaxis=f"y{axis}",
            visible=layer == start,
            name=f"layer {escape(layers[layer])} head {escape(heads[head])}",
            hovertemplate="query %{y}<br>key %{x}<br>weight %{z} %",
        )
    # Covers the future, which bytes cannot leave out; drawn last, it also catches the hover there.
    cover = np.where(_future(length), np.float32(0), np.float32(np.nan))
    for head in range(n_heads):
        axis = str(head + 1) if head else ""
        fig.add_heatmap(
            z=cover,
            colorscale=[[0, "#ffffff"], [1, "#ffffff"]],
            showscale=False,
            hoverongaps=False,
            xaxis=f"x{axis}",
            yaxis=f"y{axis}",
            hovertemplate="the future: masked<extra></extra>",
        )
    _attention_axes(fig, labels, side, size=9)
    fig.update_xaxes(tickangle=-90)  # leaning labels would reach into the next panel
    rows, cols = _grid(n_heads)
    fig.update_layout(coloraxis=_weights(100, "weight (%)"))
    fig.update_layout(sliders=[_slider(layers, n_heads, start, rows * side)])
    left, below = 6 * max(map(len, labels)), label_height(labels, -90, size=9)
    return layout(fig, title, cols * side + 170 + left, rows * side + below, above=108)


def _causal(weights: np.ndarray, name: str) -> np.ndarray:
    """A copy of ``weights`` after checking that they are causal attention weights over equal lengths."""
    *_, queries, keys = weights.shape
    if queries != keys:
        raise ValueError(f"{name} has {queries} queries and {keys} keys; it should have as many of either")
    low, high = float(weights.min()), float(weights.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(f"{name} goes from {low:.3g} to {high:.3g}; weights should lie between 0 and 1")
    if float(weights[..., _future(keys)].max(initial=0)) > 1e-3:
        raise ValueError(f"{name} attends to later positions; the weights should be those of a causal model")
    return weights.clip(0, 1)


def _future(length: int) -> np.ndarray:
    """True where the key comes after the query."""
    return np.triu(np.ones((length, length), dtype=bool), k=1)


def _weights(top: int, title: str) -> dict[str, Any]:
    return dict(cmin=0, cmax=top, colorscale=list(SEQUENTIAL), colorbar=colour_bar(title))


def _grid(panels: int) -> tuple[int, int]:
    cols = math.ceil(math.sqrt(panels))
    return math.ceil(panels / cols), cols


def _side(panels: int) -> int:
    """Pixels along one panel, gap included."""
    return round(min(max(690 / _grid(panels)[1], 150), 400))


def _panels(heads: Sequence[str]) -> go.Figure:
    rows, cols = _grid(len(heads))
    gap = 24 / _side(len(heads))  # of a panel: room for its title
    return make_subplots(
        rows,
        cols,
        subplot_titles=[f"head {escape(head)}" for head in heads],
        horizontal_spacing=gap / 2 / cols,
        vertical_spacing=gap / rows,
        specs=[[{} if row * cols + col < len(heads) else None for col in range(cols)] for row in range(rows)],
    )


def _attention_axes(fig: go.Figure, labels: Sequence[str], side: Number, size: int = 11) -> None:
    """Query 0 on top; panels zoom together; only the outermost panels carry tick labels."""
    axes = list(fig.select_xaxes())
    cols = _grid(len(axes))[1]
    length = len(labels)
    common = token_ticks(labels, side, size=size) | dict(showgrid=False, ticks="")
    common |= dict(mirror=True, linecolor="#cccccc")  # a frame, since half of a panel is blank
    fig.update_xaxes(range=[-0.5, length - 0.5], tickangle=tick_angle(labels, side / length, size), **common)
    fig.update_yaxes(range=[length - 0.5, -0.5], **common)
    if len(axes) > 1:
        fig.update_xaxes(matches="x")
        fig.update_yaxes(matches="y")
        for i, (x, y) in enumerate(zip(axes, fig.select_yaxes(), strict=True)):
            x.showticklabels = i + cols >= len(axes)
            y.showticklabels = i % cols == 0


def _slider(layers: Sequence[str], heads: int, start: int, height: Number) -> dict[str, Any]:
    """A slider above the panels; each step shows one layer's traces, and the covers, which come last."""
    steps = []
    for shown, layer in enumerate(layers):
        visible = np.repeat(np.arange(len(layers)) == shown, heads).tolist() + [True] * heads
        steps.append(dict(method="restyle", label=escape(layer), args=[{"visible": visible}]))
    return dict(
        active=start,
        steps=steps,
        x=0,
        len=1,
        y=1 + 34 / height,
        yanchor="bottom",
        pad=dict(t=0, b=0),
        currentvalue=dict(prefix="layer ", font=dict(size=13)),
        ticklen=4,
    )
